//! A device and a mailbox as the wire knows them: keys and ids, with the requests that use them well.
//!
//! Owns no connection. What these make is always well formed; the hostile tests bend it afterwards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use bytes::Bytes;
use posthorn_proto::auth::AccountKey;
use posthorn_proto::frame::{
    Ack, Authenticate, Create, Hello, Open, OpenState, Opening, Post, Register, Request, ServerBody,
};
use posthorn_proto::{
    DeviceId, Handle, MailboxId, PostId, PostKey, ReadKey, Reader, ReaderId, Token, Turn, TurnKey,
    TurnRequest,
};
use rand::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::wire::Wire;

/// A post id of now, drawn. (A relay on this machine has the same clock.)
pub fn post_id(rng: &mut impl CryptoRng) -> PostId {
    PostId::drawn_at(unix_seconds(), rng)
}

/// A post id of now with this number, for the few of a mailbox that are told apart by it.
pub fn numbered(number: u8) -> PostId {
    PostId::at(unix_seconds(), [number; 12])
}

/// This machine's clock, unix seconds.
#[allow(clippy::disallowed_methods, reason = "bare connections have no clock of a client")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// A device with an account, without a client library.
#[derive(Clone)]
pub struct BareDevice {
    /// Its name on the relay.
    pub id: DeviceId,
    secret: StaticSecret,
}

impl BareDevice {
    /// A new device.
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self { id: DeviceId::random(rng), secret: StaticSecret::from(secret) }
    }

    /// The request that registers an account on a connection that began so, and the key that checks the
    /// answer.
    pub fn registration(
        &self,
        hello: &Hello,
        handle: &str,
        invite: &str,
    ) -> anyhow::Result<(Request, AccountKey)> {
        let key = AccountKey::of_device(&self.secret, &hello.challenge)?;
        let request = Request::Register(Register {
            invite: invite.to_owned(),
            handle: Handle::parse(handle)?,
            identity_key: [7; 32],
            device: self.id,
            device_key: PublicKey::from(&self.secret).to_bytes(),
            proof: key.device_proof(),
        });
        Ok((request, key))
    }

    /// Registers an account on this connection.
    pub async fn register(&self, wire: &mut Wire, handle: &str, invite: &str) -> anyhow::Result<()> {
        let (request, key) = self.registration(wire.hello(), handle, invite)?;
        match wire.ask(request).await? {
            ServerBody::Registered(proof) => Ok(key.check_relay(&proof)?),
            other => bail!("registering {handle}: {other:?}"),
        }
    }

    /// The request that authenticates this device on that connection.
    pub fn authentication(&self, wire: &Wire) -> anyhow::Result<Request> {
        let key = AccountKey::of_device(&self.secret, &wire.hello().challenge)?;
        Ok(Request::Authenticate(Authenticate { device: self.id, proof: key.device_proof() }))
    }

    /// Draws creation tokens on the connection on which this device registered or authenticated.
    pub async fn draw(
        &self,
        wire: &mut Wire,
        count: usize,
        rng: &mut impl CryptoRng,
    ) -> anyhow::Result<Vec<Token>> {
        let tokens: Vec<Token> = (0..count).map(|_| Token::random(rng)).collect();
        match wire.ask(Request::creation_tokens(tokens.iter().map(Token::hash).collect())).await? {
            ServerBody::TokensDrawn(accepted) if accepted as usize == count => Ok(tokens),
            other => bail!("drawing {count} tokens: {other:?}"),
        }
    }
}

/// A mailbox with all of its keys and one reader.
#[derive(Debug, Clone)]
pub struct BareMailbox {
    /// Its name.
    pub id: MailboxId,
    /// Lets append.
    pub post_key: PostKey,
    /// Lets turn.
    pub turn_key: TurnKey,
    /// Who reads.
    pub reader: ReaderId,
    /// Lets read.
    pub read_key: ReadKey,
}

impl BareMailbox {
    /// Names and keys of a new mailbox, which the relay does not know yet.
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        Self {
            id: MailboxId::random(rng),
            post_key: PostKey::random(rng),
            turn_key: TurnKey::random(rng),
            reader: ReaderId::random(rng),
            read_key: ReadKey::random(rng),
        }
    }

    /// Asks for it to be created. What is in it expires after thirty days: no program runs that long.
    pub fn creation(&self, token: Token, quota: u64) -> Request {
        Request::Create(Create {
            mailbox: self.id,
            token,
            post_key_hash: self.post_key.hash(),
            turn_key_hash: self.turn_key.hash(),
            readers: vec![Reader { id: self.reader, key_hash: self.read_key.hash() }],
            expiry: 30 * 24 * 3600,
            quota,
        })
    }

    /// Creates it.
    pub async fn create(&self, wire: &mut Wire, token: Token) -> anyhow::Result<()> {
        match wire.ask(self.creation(token, 0)).await? {
            ServerBody::Created => Ok(()),
            other => bail!("creating a mailbox: {other:?}"),
        }
    }

    /// An append under the current post key.
    pub fn posting(&self, post_id: PostId, envelope: impl Into<Bytes>) -> Request {
        Request::Post(self.post(post_id, envelope))
    }

    /// The same as a value, to be changed.
    pub fn post(&self, post_id: PostId, envelope: impl Into<Bytes>) -> Post {
        Post {
            mailbox: self.id,
            post_id,
            post_key: self.post_key.clone(),
            envelope: envelope.into(),
            turn: None,
        }
    }

    /// An append that turns the lock to the keys of `next`.
    pub fn turning(&self, next: &Self, post_id: PostId, envelope: impl Into<Bytes>) -> Request {
        let turn = Turn {
            post_key_hash: next.post_key.hash(),
            turn_key_hash: next.turn_key.hash(),
            admit: Vec::new(),
            evict: Vec::new(),
        };
        let turn = Some(TurnRequest { key: self.turn_key.clone(), turn });
        Request::Post(Post { turn, ..self.post(post_id, envelope) })
    }

    /// The same mailbox with the next post and turn keys.
    #[must_use]
    pub fn with_new_keys(&self, rng: &mut impl CryptoRng) -> Self {
        Self { post_key: PostKey::random(rng), turn_key: TurnKey::random(rng), ..self.clone() }
    }

    /// Asks to read it.
    pub fn opening(&self, credit: u32) -> Request {
        let opening = Opening {
            mailbox: self.id,
            reader: self.reader,
            read_key: self.read_key.clone(),
            claim: None,
            credit,
        };
        Request::Open(Open { openings: vec![opening] })
    }

    /// Opens it.
    pub async fn open(&self, wire: &mut Wire, credit: u32) -> anyhow::Result<OpenState> {
        match wire.ask(self.opening(credit)).await? {
            ServerBody::Opened(opened) if opened.len() == 1 => match &opened[0].result {
                Ok(state) => Ok(*state),
                Err(refusal) => bail!("opening: {refusal:?}"),
            },
            other => bail!("opening: {other:?}"),
        }
    }

    /// Acknowledges, and gives as much credit again.
    pub fn acknowledgement(&self, seq: u64, credit: u32) -> Request {
        Request::Ack(Ack { mailbox: self.id, seq, credit })
    }

    /// Posts, and waits until that is durable.
    pub async fn append(
        &self,
        wire: &mut Wire,
        post_id: PostId,
        envelope: impl Into<Bytes>,
    ) -> anyhow::Result<u64> {
        match wire.ask(self.posting(post_id, envelope)).await? {
            ServerBody::Posted { seq } => Ok(seq),
            other => bail!("posting: {other:?}"),
        }
    }
}
