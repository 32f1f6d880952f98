//! A relay without sockets, and clients that speak to it frame by frame.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use posthorn_proto::auth::{AccountKey, Proof};
use posthorn_proto::frame::{
    Ack, ClientFrame, Create, Delivery, Hello, Open, OpenState, Opening, Post, Register, Request, ServerBody,
    ServerFrame,
};
use posthorn_proto::{
    DeviceId, ErrorCode, Handle, KeyHash, Limits, MailboxId, PostId, PostKey, ReadKey, Reader, ReaderId,
    Token, Turn, TurnKey, TurnRequest,
};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::admin::invite;
use crate::command::{Context, ContextParts};
use crate::config::Rates;
use crate::gateway::session::{Session, Work};
use crate::live::Hub;
use crate::secret::RelaySecret;
use crate::store::memory::MemoryStore;
use crate::store::{Clock, Mailboxes, NewInvite, StorePolicy};

/// A clock that stands until told: milliseconds since the start, and by how many seconds the wall clock was
/// set back.
#[derive(Default)]
pub(super) struct TestClock(pub(super) AtomicU64, pub(super) AtomicU64);

impl Clock for TestClock {
    fn unix_seconds(&self) -> u64 {
        1_800_000_000 + self.monotonic_seconds() - self.1.load(Ordering::Relaxed)
    }

    fn monotonic_seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1000
    }
}

/// How a relay is set up.
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) rates: Rates,
    pub(super) outbox_bytes: usize,
    pub(super) memory_bytes: usize,
    pub(super) open_registration: bool,
    pub(super) open_directory: bool,
    /// Puts something between the session and the mailboxes of the memory engine.
    pub(super) wrap: fn(Arc<dyn Mailboxes>) -> Arc<dyn Mailboxes>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            rates: Rates::off(),
            outbox_bytes: 64 * 1024,
            memory_bytes: 64 << 20,
            open_registration: true,
            open_directory: true,
            wrap: |mailboxes| mailboxes,
        }
    }
}

pub(super) struct TestRelay {
    pub(super) context: Arc<Context>,
    pub(super) clock: Arc<TestClock>,
}

impl TestRelay {
    pub(super) fn new(setup: Setup) -> Self {
        let hub = Hub::new();
        let clock = Arc::new(TestClock::default());
        let mut rng = StdRng::from_seed([3; 32]);
        let store = MemoryStore::new(StorePolicy::default(), clock.clone(), hub.clone(), &mut rng);
        let store = Arc::new(store);
        let context = Context::new(ContextParts {
            mailboxes: (setup.wrap)(store.clone()),
            directory: store.clone(),
            blobs: store.clone(),
            store,
            hub,
            limits: setup.limits,
            rates: setup.rates,
            outbox_bytes: setup.outbox_bytes,
            memory_bytes: setup.memory_bytes,
            open_registration: setup.open_registration,
            open_directory: setup.open_directory,
            identity: RelaySecret::from_bytes([5; 32]),
            seed: [6; 32],
            software: "test".to_owned(),
        });
        Self { context, clock }
    }

    pub(super) fn connect(&self) -> Client {
        self.connect_from(None)
    }

    pub(super) fn connect_from(&self, address: Option<IpAddr>) -> Client {
        let now = self.clock.0.load(Ordering::Relaxed);
        let session = Session::new(self.context.clone(), address, now);
        let mut client = Client {
            session,
            clock: self.clock.clone(),
            number: 0,
            works: Vec::new(),
            answers: VecDeque::new(),
            pushed: VecDeque::new(),
        };
        client.pump();
        client
    }

    pub(super) fn pass(&self, millis: u64) {
        self.clock.0.fetch_add(millis, Ordering::Relaxed);
    }

    pub(super) fn mint(&self, code: &str, uses: u32) {
        let new = NewInvite { hash: invite::hash(code), uses, expires: 1_900_000_000 };
        self.context.directory.mint_invite(new).now_or_never().expect("at once").expect("minted");
    }
}

/// One connection's client.
pub(super) struct Client {
    pub(super) session: Session,
    clock: Arc<TestClock>,
    number: u64,
    /// Work that was not ready at once.
    works: Vec<Work>,
    pub(super) answers: VecDeque<(u64, ServerBody)>,
    pub(super) pushed: VecDeque<ServerBody>,
}

impl Client {
    /// Sends without waiting; returns the request's number.
    pub(super) fn send(&mut self, body: Request) -> u64 {
        self.number += 1;
        self.send_as(self.number, body);
        self.number
    }

    pub(super) fn send_as(&mut self, request: u64, body: Request) {
        self.send_bytes(ClientFrame { request, body }.encode());
    }

    pub(super) fn send_bytes(&mut self, bytes: Bytes) {
        let now = self.clock.0.load(Ordering::Relaxed);
        if let Some(mut work) = self.session.on_frame(ClientFrame::decode(bytes), now)
            && work.as_mut().now_or_never().is_none()
        {
            self.works.push(work);
        }
    }

    /// Lets work go on without taking anything from the outbox.
    pub(super) fn work(&mut self) {
        self.works.retain_mut(|work| work.as_mut().now_or_never().is_none());
        while let Some(work) = self.session.catch_up() {
            work.now_or_never().expect("the memory engine answers at once");
        }
    }

    /// Takes one frame, as a slow client would.
    pub(super) fn take_one(&mut self) -> bool {
        let Some(bytes) = self.session.outbox().pop() else { return false };
        let frame = ServerFrame::decode(bytes).expect("the relay speaks well");
        match frame.request {
            0 => self.pushed.push_back(frame.body),
            number => self.answers.push_back((number, frame.body)),
        }
        true
    }

    /// Takes everything that there is.
    pub(super) fn pump(&mut self) {
        self.work();
        while self.take_one() {
            self.work();
        }
    }

    /// Sends and takes the answer.
    pub(super) fn ask(&mut self, body: Request) -> ServerBody {
        let number = self.send(body);
        self.pump();
        let (answered, body) = self.answers.pop_front().expect("an answer");
        assert_eq!(answered, number);
        body
    }

    /// Sends what must be refused.
    pub(super) fn refused(&mut self, body: Request) -> ErrorCode {
        code(self.ask(body))
    }

    pub(super) fn hello(&mut self) -> Hello {
        match self.pushed.pop_front() {
            Some(ServerBody::Hello(hello)) => hello,
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// The seqs delivered so far; other pushes stay.
    pub(super) fn delivered(&mut self) -> Vec<u64> {
        self.pump();
        let mut seqs = Vec::new();
        self.pushed.retain(|body| match body {
            ServerBody::Delivery(Delivery { seq, .. }) => {
                seqs.push(*seq);
                false
            }
            _ => true,
        });
        seqs
    }

    /// The next push must be a `Closed` with this code.
    pub(super) fn closed(&mut self) -> Option<ErrorCode> {
        self.pump();
        self.pushed.retain(|body| !matches!(body, ServerBody::Hello(_)));
        match self.pushed.pop_front()? {
            ServerBody::Closed { reason, .. } => reason.code,
            other => panic!("not a closing: {other:?}"),
        }
    }

    pub(super) fn open(&mut self, credit: u32) -> OpenState {
        self.open_as(READER, READ_KEY, credit)
    }

    pub(super) fn open_as(&mut self, reader: ReaderId, key: [u8; 32], credit: u32) -> OpenState {
        match self.ask(open(reader, key, credit)) {
            ServerBody::Opened(mut results) => results.pop().expect("one").result.expect("opened"),
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(super) fn post(&mut self, id: u8) -> u64 {
        match self.ask(post(id, b"envelope")) {
            ServerBody::Posted { seq } => seq,
            other => panic!("not posted: {other:?}"),
        }
    }

    /// Acks without wanting an answer.
    pub(super) fn ack(&mut self, seq: u64, credit: u32) {
        self.send_as(0, Request::Ack(Ack { mailbox: MAILBOX, seq, credit }));
        self.work();
    }

    /// Registers, with a proof for this connection's `Hello`.
    pub(super) fn register(&mut self, device: u8, handle: &str, invite: &str) -> ServerBody {
        let hello = self.hello();
        self.ask(registration(&hello, device, handle, invite))
    }

    /// Makes [`MAILBOX`] with readers [`READER`] and [`OTHER`].
    pub(super) fn create(&mut self) {
        assert!(matches!(self.register(1, "alice", ""), ServerBody::Registered(_)));
        let token = Token::from_bytes([9; 32]);
        assert_eq!(self.ask(Request::creation_tokens(vec![token.hash()])), ServerBody::TokensDrawn(1));
        assert_eq!(self.ask(creation(token)), ServerBody::Created);
    }
}

pub(super) const MAILBOX: MailboxId = MailboxId([0xaa; 16]);
pub(super) const READER: ReaderId = ReaderId([1; 16]);
pub(super) const OTHER: ReaderId = ReaderId([2; 16]);
pub(super) const READ_KEY: [u8; 32] = [0x11; 32];
pub(super) const POST_KEY: [u8; 32] = [0x22; 32];
pub(super) const TURN_KEY: [u8; 32] = [0x33; 32];

pub(super) fn code(body: ServerBody) -> ErrorCode {
    match body {
        ServerBody::Error(refusal) => refusal.code.expect("a known code"),
        other => panic!("not refused: {other:?}"),
    }
}

pub(super) fn key_hash(key: [u8; 32]) -> KeyHash {
    ReadKey::from_bytes(key).hash()
}

pub(super) fn creation(token: Token) -> Request {
    Request::Create(Create {
        mailbox: MAILBOX,
        token,
        post_key_hash: key_hash(POST_KEY),
        turn_key_hash: key_hash(TURN_KEY),
        readers: [READER, OTHER].map(|id| Reader { id, key_hash: key_hash(READ_KEY) }).to_vec(),
        expiry: 86_400,
        quota: 0,
    })
}

/// A post id of the time at which the tests' clock begins.
pub(super) fn post_id(id: u8) -> PostId {
    PostId::at(1_800_000_000, [id; 12])
}

pub(super) fn post(id: u8, envelope: &[u8]) -> Request {
    Request::Post(Post {
        mailbox: MAILBOX,
        post_id: post_id(id),
        post_key: PostKey::from_bytes(POST_KEY),
        envelope: Bytes::copy_from_slice(envelope),
        turn: None,
    })
}

/// A post that keeps the keys and changes readers.
pub(super) fn turning(id: u8, admit: Vec<Reader>, evict: Vec<ReaderId>) -> Request {
    let turn = Turn { post_key_hash: key_hash(POST_KEY), turn_key_hash: key_hash(TURN_KEY), admit, evict };
    let Request::Post(mut post) = post(id, b"commit") else { unreachable!("it is a post") };
    post.turn = Some(TurnRequest { key: TurnKey::from_bytes(TURN_KEY), turn });
    Request::Post(post)
}

pub(super) fn open(reader: ReaderId, key: [u8; 32], credit: u32) -> Request {
    let read_key = ReadKey::from_bytes(key);
    Request::Open(Open {
        openings: vec![Opening { mailbox: MAILBOX, reader, read_key, claim: None, credit }],
    })
}

pub(super) fn account_key(hello: &Hello, device: u8) -> AccountKey {
    AccountKey::of_device(&StaticSecret::from([device; 32]), &hello.challenge).expect("a good key")
}

pub(super) fn registration(hello: &Hello, device: u8, handle: &str, invite: &str) -> Request {
    Request::Register(Register {
        invite: invite.to_owned(),
        handle: Handle::parse(handle).expect("a handle"),
        identity_key: [device; 32],
        device: DeviceId([device; 16]),
        device_key: PublicKey::from(&StaticSecret::from([device; 32])).to_bytes(),
        proof: account_key(hello, device).device_proof(),
    })
}

pub(super) fn authentication(device: u8, proof: Proof) -> Request {
    Request::Authenticate(posthorn_proto::frame::Authenticate { device: DeviceId([device; 16]), proof })
}
