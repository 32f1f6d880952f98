//! A person with one registered device, whose engine is driven by hand: no relay, no network.

use std::collections::BTreeSet;

use posthorn_proto::auth::Challenge;
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{
    ClientFrame, Delivery, Hello, OpenState, Opened, Request, ServerBody, ServerFrame,
};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{Handle, Incarnation, KeyHash, Limits, MailboxId, PostId, ReadKey, RelayIdentity};
use rand::{CryptoRng, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::content::Invitation;
use crate::conversation::{Body, Cause, Conversation, ConversationId, Message, history};
use crate::identity::{Card, RelayAddress, RelayUrl};
use crate::session::{
    Change, GroupInfo, KeyPackage, KeyPackageKind, OwnLeaf, Provider, ReaderSecret, Session, SessionError,
    UnverifiedKeyPackage,
};
use crate::store::{Database, KdfCost, Location, Passphrase};
use crate::sync::account::{OwnDevice, own_card};
use crate::sync::profile::{self, Profile};
use crate::sync::reading::{Purpose, Reading};
use crate::sync::receive::Arrival;
use crate::sync::{Effect, Engine, EngineError, Event, Input, Link, LinkId, Step};

/// 2026-01-01, in unix milliseconds.
pub(super) const NOW: u64 = 1_767_225_600_000;
pub(super) const INCARNATION: Incarnation = Incarnation([1; 16]);

pub(super) fn relay() -> RelayAddress {
    RelayAddress {
        url: RelayUrl::parse("ws://127.0.0.1:4100").expect("a URL"),
        identity: RelayIdentity([5; 32]),
    }
}

pub(super) fn link(link: Link) -> LinkId {
    LinkId { relay: relay().url, link }
}

pub(super) struct Desk {
    pub(super) engine: Engine,
    pub(super) now: u64,
}

/// A group that somebody made, and the Welcome to it.
pub(super) struct Made {
    pub(super) info: GroupInfo,
    pub(super) welcome: Vec<u8>,
}

impl Desk {
    pub(super) fn new(name: &str) -> Self {
        Self::at(name, &relay())
    }

    /// With an account at that relay.
    pub(super) fn at(name: &str, relay: &RelayAddress) -> Self {
        Self::made(name, relay, |_| {})
    }

    /// With a profile that is bent before it is used.
    pub(super) fn made(name: &str, relay: &RelayAddress, bend: impl FnOnce(&mut Profile)) -> Self {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut database =
            Database::create(Location::Memory, &Passphrase::new("x"), KdfCost::CHEAP, &mut rng)
                .expect("in memory");
        let handle = Handle::parse(name).expect("a handle");
        let mut profile = Profile::generate(&relay.url, &handle, String::new(), &mut rng);
        profile.relay_identity = Some(relay.identity);
        profile.registered = true;
        profile.card_version = 1;
        profile.last_resort_since = NOW / 1000;
        profile.public_inbox.created = true;
        profile.private_inbox.created = true;
        bend(&mut profile);
        let tx = database.transaction(&mut rng).expect("begins");
        profile.save(&tx).expect("saves");
        for (purpose, inbox) in
            [(Purpose::PublicInbox, &profile.public_inbox), (Purpose::PrivateInbox, &profile.private_inbox)]
        {
            let reading = Reading::new(purpose, relay.url.as_str(), inbox.reader, &inbox.read_key());
            reading.save(&tx, &inbox.mailbox).expect("saves");
        }
        tx.commit().expect("commits");
        let engine = Engine::open(database, Box::new(rng), NOW).map_err(|failed| failed.0).expect("opens");
        Self { engine, now: NOW }
    }

    /// Runs `work` in a transaction that lasts, as an input would.
    pub(super) fn step<T>(
        &mut self,
        work: impl FnOnce(&mut Step<'_>) -> Result<T, EngineError>,
    ) -> (T, Vec<Effect>) {
        let Engine { database, rng, live } = &mut self.engine;
        let tx = database.transaction(rng).expect("begins");
        let mut step = Step { tx: &tx, live, rng, now: self.now, effects: Vec::new() };
        let result = work(&mut step).expect("the database is as it should be");
        let effects = step.effects;
        tx.commit().expect("commits");
        (result, effects)
    }

    pub(super) fn handle(&mut self, input: Input) -> Vec<Effect> {
        self.engine.handle(input, self.now).expect("nobody outside can make the database fail")
    }

    pub(super) fn profile(&mut self) -> Profile {
        self.step(|step| Ok(Profile::load(step.tx)?)).0.expect("registered")
    }

    pub(super) fn card(&mut self) -> Card {
        let profile = self.profile();
        own_card(&profile, profile.card_version).expect("complete")
    }

    /// A key package of this device, as the directory gives it out.
    pub(super) fn package(&mut self, kind: KeyPackageKind) -> Vec<u8> {
        self.step(|step| {
            let profile = Profile::load(step.tx)?.expect("registered");
            let own = OwnDevice::of(&profile)?;
            let made = KeyPackage::make(&Provider::new(step.tx), &own.leaf(), kind, step.now)?;
            profile::note_key_package(step.tx, &made)?;
            Ok(made.bytes)
        })
        .0
    }

    /// Makes a group in that place with the owners of these key packages, past everything that the engine
    /// checks.
    pub(super) fn group(
        &mut self,
        id: ConversationId,
        mailbox: MailboxId,
        packages: &[(Vec<u8>, &Card)],
    ) -> Made {
        self.step(|step| {
            let profile = Profile::load(step.tx)?.expect("registered");
            let own = OwnDevice::of(&profile)?;
            let provider = Provider::new(step.tx);
            let reader_secret = ReaderSecret::generate(step.rng);
            let info = GroupInfo { relay: relay(), mailbox, reader_secret, name: String::new() };
            let mut session = Session::create(&provider, &own.leaf(), id, &info)?;
            let verified = |(bytes, card): &(Vec<u8>, &Card)| {
                let package = UnverifiedKeyPackage::parse(bytes).expect("well formed");
                package.verify(&provider, &card.identity(), step.now).expect("good")
            };
            let add = packages.iter().map(verified).collect();
            let staged = session.stage(&own.leaf(), &Change { add, ..Change::default() })?;
            session.merge_pending()?;
            Ok(Made { info, welcome: staged.welcome.expect("somebody is added") })
        })
        .0
    }

    /// Works on the session of a conversation, past everything that the engine checks.
    pub(super) fn session<T>(
        &mut self,
        id: &ConversationId,
        work: impl FnOnce(&mut Session<'_>, &OwnLeaf<'_>, &mut dyn CryptoRng) -> Result<T, SessionError>,
    ) -> T {
        self.step(|step| {
            let profile = Profile::load(step.tx)?.expect("registered");
            let own = OwnDevice::of(&profile)?;
            let provider = Provider::new(step.tx);
            let mut session = Session::load(&provider, id)?;
            Ok(work(&mut session, &own.leaf(), step.rng)?)
        })
        .0
    }

    /// An honest invitation to such a group; whoever means harm changes it before it is sealed.
    pub(super) fn invitation(&mut self, id: ConversationId, made: &Made, to: &Card) -> Invitation {
        let device = &to.devices()[0];
        Invitation {
            recipient: (device.credential.device(), to.identity()),
            inviter: self.card(),
            conversation: id,
            relay: made.info.relay.clone(),
            mailbox: made.info.mailbox,
            reader: made.info.reader_secret.reader_id(&device.signature_key),
            read_key: ReadKey::from_bytes([3; 32]),
            seq: 1,
            chain: Chain([4; 32]),
            welcome: made.welcome.clone(),
        }
    }

    /// Signs and seals an invitation, as it would lie in `to`'s public inbox.
    pub(super) fn sealed(&mut self, invitation: &Invitation, to: &Card, post: PostId) -> Vec<u8> {
        let data = invitation.encode(&self.profile().identity());
        let inbox = &to.devices()[0].public_inbox;
        let mut rng = ChaCha20Rng::from_seed([post.0[0]; 32]);
        inbox.key.seal(&inbox.mailbox, &post, &data, &mut rng).expect("fits")
    }

    /// Takes something that lies in the public inbox, the causes of the alarms that it raises.
    pub(super) fn takes(&mut self, post: PostId, sealed: Vec<u8>) -> Vec<Cause> {
        let mailbox = self.profile().public_inbox.mailbox;
        let delivery = Delivery { mailbox, seq: 1, post_id: post, envelope: sealed.into(), turn: None };
        let arrival = Arrival { mailbox, delivery: &delivery, turn: TurnHash::NONE, chain: Chain::START };
        let ((), effects) = self.step(|step| step.inbox_delivery(Purpose::PublicInbox, &arrival));
        alarms(&effects)
    }

    pub(super) fn conversation(&mut self, id: &ConversationId) -> Option<Conversation> {
        self.step(|step| Ok(Conversation::load(step.tx, id)?)).0
    }

    pub(super) fn reading(&mut self, mailbox: &MailboxId) -> Option<Reading> {
        self.step(|step| Ok(Reading::load(step.tx, mailbox)?)).0
    }

    pub(super) fn history(&mut self, id: &ConversationId) -> Vec<Message> {
        self.step(|step| Ok(history(step.tx, id, None, 1000, &Default::default())?)).0
    }

    pub(super) fn texts(&mut self, id: &ConversationId) -> Vec<String> {
        let text = |message: Message| match message.body {
            Body::Text(text) => Some(text),
            _ => None,
        };
        self.history(id).into_iter().filter_map(text).collect()
    }

    /// How many rows a table has.
    pub(super) fn rows(&mut self, table: &str) -> u64 {
        let query = format!("SELECT COUNT(*) FROM {table}");
        self.step(|step| Ok(step.tx.sql().query_row(&query, [], |row| row.get::<_, u64>(0))?)).0
    }

    /// Connects the link for mailboxes at a relay, which greets; the requests that follow.
    pub(super) fn connects(&mut self, at: &RelayAddress) -> Vec<ClientFrame> {
        let id = LinkId { relay: at.url.clone(), link: Link::Mailboxes };
        self.handle(Input::Tick);
        let mut effects = self.handle(Input::Connected(id.clone()));
        effects.extend(self.frames(&id, vec![ServerFrame::push(ServerBody::Hello(hello(at)))]));
        requests(&effects)
    }

    pub(super) fn frames(&mut self, id: &LinkId, frames: Vec<ServerFrame>) -> Vec<Effect> {
        self.handle(Input::Frames(id.clone(), frames))
    }

    /// The mailboxes that are open on a link.
    pub(super) fn open_on(&self, id: &LinkId) -> BTreeSet<MailboxId> {
        let up = self.engine.live.links.get(id).and_then(|link| link.up());
        up.map(|up| up.openings.keys().copied().collect()).unwrap_or_default()
    }
}

pub(super) fn hello(at: &RelayAddress) -> Hello {
    Hello {
        version: 1,
        challenge: Challenge { relay_identity: at.identity, ephemeral: [7; 32], nonce: [8; 16] },
        incarnation: INCARNATION,
        limits: Limits::default(),
        time: NOW / 1000,
        software: "by hand".to_owned(),
    }
}

/// The causes of the alarms among effects.
pub(super) fn alarms(effects: &[Effect]) -> Vec<Cause> {
    let alarm = |effect: &Effect| match effect {
        Effect::Event(Event::Alarm { cause, .. }) => Some(*cause),
        _ => None,
    };
    effects.iter().filter_map(alarm).collect()
}

/// The frames among effects.
pub(super) fn requests(effects: &[Effect]) -> Vec<ClientFrame> {
    let frame = |effect: &Effect| match effect {
        Effect::Send(_, frame) => Some(frame.clone()),
        _ => None,
    };
    effects.iter().filter_map(frame).collect()
}

/// The answer to the `Open` among these requests: everything empty, with these key hashes.
pub(super) fn all_opened(sent: &[ClientFrame], state: impl Fn(&MailboxId) -> OpenState) -> ServerFrame {
    let open = sent.iter().find_map(|frame| match &frame.body {
        Request::Open(open) => Some((frame.request, open)),
        _ => None,
    });
    let (request, open) = open.expect("it opens its mailboxes");
    let one = |opening: &posthorn_proto::frame::Opening| Opened {
        mailbox: opening.mailbox,
        result: Ok(state(&opening.mailbox)),
    };
    ServerFrame { request, body: ServerBody::Opened(open.openings.iter().map(one).collect()) }
}

/// A mailbox with nothing in it.
pub(super) fn empty() -> OpenState {
    at(0, 0)
}

/// A mailbox with this head, acknowledged up to `cursor`.
pub(super) fn at(head: u64, cursor: u64) -> OpenState {
    OpenState {
        head,
        oldest: 1,
        cursor,
        post_key_hash: KeyHash([1; 32]),
        turn_key_hash: KeyHash([2; 32]),
        incarnation: INCARNATION,
    }
}
