//! A person with one registered device, whose engine is driven by hand: no relay, no network.

use std::collections::BTreeSet;
use std::sync::mpsc;

use posthorn_proto::auth::{AccountKey, Challenge};
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{
    ClientFrame, Delivery, Hello, OpenState, Opened, Request, ServerBody, ServerFrame,
};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{
    Handle, Incarnation, KeyHash, Limits, MailboxId, PostId, ReadKey, RelayIdentity, Turn, proof,
};
use rand::{CryptoRng, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::content::Invitation;
use crate::conversation::{
    Cause, Conversation, ConversationId, ConversationState, Entry, GroupId, Intent, history, intents,
};
use crate::engine::account::profile::{self, Profile};
use crate::engine::mailbox::Arrival;
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::step::Step;
use crate::engine::{Command, Consent, Effect, Engine, Error, Event, Input, Link, LinkId, Reply};
use crate::group::{
    About, Change, Group, GroupError, GroupInfo, KeyPackage, KeyPackageKind, OwnLeaf, Place, Provider, RULES,
    ReaderSecret, UnverifiedKeyPackage,
};
use crate::identity::{Card, PersonId, RelayAddress, RelayUrl};
use crate::store::{Database, KdfCost, Location, Passphrase};

/// 2026-01-01, in unix milliseconds.
pub(super) const NOW: u64 = 1_767_225_600_000;
pub(super) const INCARNATION: Incarnation = Incarnation([1; 16]);

/// The secret of the relay at an address, by the address's port.
pub(super) fn secret(at: &RelayUrl) -> StaticSecret {
    StaticSecret::from([if at.as_str().ends_with("4100") { 5 } else { 6 }; 32])
}

fn relay_at(url: &str) -> RelayAddress {
    let url = RelayUrl::parse(url).expect("a URL");
    let identity = RelayIdentity(PublicKey::from(&secret(&url)).to_bytes());
    RelayAddress { url, identity }
}

pub(super) fn relay() -> RelayAddress {
    relay_at("ws://127.0.0.1:4100")
}

/// Another one, where this device has no account.
pub(super) fn elsewhere() -> RelayAddress {
    relay_at("ws://127.0.0.1:4200")
}

pub(super) fn link(link: Link) -> LinkId {
    LinkId { relay: relay().url, link }
}

pub(super) struct Desk {
    pub(super) engine: Engine,
    pub(super) now: u64,
    /// The relay's clock less ours, milliseconds.
    pub(super) skew: i64,
    pub(super) limits: Limits,
}

/// A group that somebody made, and the Welcome to it.
pub(super) struct Made {
    pub(super) info: GroupInfo,
    pub(super) welcome: Vec<u8>,
}

impl Desk {
    /// Follows everybody's invitations.
    pub(super) fn new(name: &str) -> Self {
        Self::at(name, &relay())
    }

    /// Asks before it follows an invitation, as is the default.
    pub(super) fn cautious(name: &str) -> Self {
        let mut desk = Self::new(name);
        desk.engine.live.promised.consent = Consent::default();
        desk
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
        let mut database = memory(&mut rng);
        let handle = Handle::parse(name).expect("a handle");
        let mut profile = Profile::generate(&relay.url, &handle, String::new(), &mut rng);
        profile.relay_identity = Some(relay.identity);
        profile.registered = true;
        profile.card_version = 1;
        profile.last_resort_since = Some(NOW / 1000);
        profile.public_inbox.created = true;
        profile.private_inbox.created = true;
        profile.seeds_since = NOW;
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
        let mut desk = Self::of(database, rng, NOW);
        desk.engine.live.promised.consent = Consent::Everybody;
        desk
    }

    /// Without an account.
    pub(super) fn empty() -> Self {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let database = memory(&mut rng);
        Self::of(database, rng, NOW)
    }

    fn of(database: Database, rng: ChaCha20Rng, now: u64) -> Self {
        let engine = Engine::open(database, Box::new(rng), now).map_err(|failed| failed.0).expect("opens");
        Self { engine, now, skew: 0, limits: Limits::default() }
    }

    /// The process died, and begins anew.
    pub(super) fn reopened(self) -> Self {
        let Self { engine, now, skew, limits } = self;
        let rng = ChaCha20Rng::from_seed([now as u8; 32]);
        Self { skew, limits, ..Self::of(engine.failed().into_database(), rng, now) }
    }

    /// The database failed, and works again.
    pub(super) fn after_failure(self) -> Self {
        let Self { engine, now, skew, limits } = self;
        let rng = Box::new(ChaCha20Rng::from_seed([now as u8; 32]));
        let engine = engine.failed().reopen(rng, now).map_err(|failed| failed.0).expect("opens");
        Self { engine, now, skew, limits }
    }

    /// Runs `work` in a transaction that lasts, as an input would.
    pub(super) fn step<T>(
        &mut self,
        work: impl FnOnce(&mut Step<'_>) -> Result<T, Error>,
    ) -> (T, Vec<Effect>) {
        let Engine { database, rng, live, .. } = &mut self.engine;
        let tx = database.transaction(rng).expect("begins");
        let mut step = Step::new(&tx, live, rng, self.now);
        let result = work(&mut step).expect("the database is as it should be");
        let effects = step.finish().expect("the database is as it should be");
        tx.commit().expect("commits");
        (result, effects)
    }

    /// Handles an input and gives the answers to whoever waits; the other effects.
    pub(super) fn handle(&mut self, input: Input) -> Vec<Effect> {
        let effects =
            self.engine.handle([input], self.now).expect("nobody outside can make the database fail");
        let (answers, others): (Vec<_>, Vec<_>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Answer(_)));
        for effect in answers {
            if let Effect::Answer(answer) = effect {
                answer.give();
            }
        }
        others
    }

    /// Time has passed. Whatever was due is done then: what is still due would be asked about without end.
    pub(super) fn tick(&mut self) -> Vec<Effect> {
        let effects = self.handle(Input::Tick);
        assert!(self.engine.wake_at().is_none_or(|at| at > self.now), "the engine is busy with nothing");
        effects
    }

    /// Gives a command; whoever waits for the answer, and the effects.
    pub(super) fn asks<T: Send + 'static>(
        &mut self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> (mpsc::Receiver<Result<T, Error>>, Vec<Effect>) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let reply = Reply::new(move |result| drop(sender.send(result)));
        let effects = self.handle(Input::Command(command(reply)));
        (receiver, effects)
    }

    /// Gives a command that is answered at once; the answer.
    pub(super) fn does<T: Send + 'static>(
        &mut self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Error> {
        self.asks(command).0.try_recv().expect("it is answered at once")
    }

    pub(super) fn profile(&mut self) -> Profile {
        self.step(|step| Ok(Profile::load(step.tx)?)).0.expect("registered")
    }

    pub(super) fn person(&mut self) -> PersonId {
        PersonId::from(&self.profile().identity().key())
    }

    pub(super) fn card(&mut self) -> Card {
        self.step(|step| {
            let own = step.own()?;
            own.card(own.profile.card_version)
        })
        .0
    }

    /// A key package of this device, as the directory gives it out.
    pub(super) fn package(&mut self, kind: KeyPackageKind) -> Vec<u8> {
        self.step(|step| {
            let own = step.own()?;
            let made = KeyPackage::make(&Provider::new(step.tx, None), &own.leaf()?, kind, step.now)?;
            profile::note_key_package(step.tx, &made)?;
            Ok(made.bytes)
        })
        .0
    }

    /// Makes a group in that place with the owners of these key packages, past everything that the engine
    /// checks.
    pub(super) fn group(&mut self, id: GroupId, mailbox: MailboxId, packages: &[(Vec<u8>, &Card)]) -> Made {
        self.group_at(id, &relay(), mailbox, packages)
    }

    pub(super) fn group_at(
        &mut self,
        id: GroupId,
        at: &RelayAddress,
        mailbox: MailboxId,
        packages: &[(Vec<u8>, &Card)],
    ) -> Made {
        self.step(|step| {
            let own = step.own()?;
            let provider = Provider::new(step.tx, Some(ConversationId(id.0)));
            let info = info(step.rng, at, mailbox);
            let mut group = Group::create(&provider, &own.leaf()?, id, &info)?;
            let verified = |(bytes, card): &(Vec<u8>, &Card)| {
                let package = UnverifiedKeyPackage::parse(bytes).expect("well formed");
                package.verify(&provider, &card.identity(), step.now).expect("good")
            };
            let add = packages.iter().map(verified).collect();
            let staged = group.stage(&own.leaf()?, &Change { add, ..Change::default() }, b"")?;
            group.merge_pending()?;
            Ok(Made { info, welcome: staged.welcome.expect("somebody is added") })
        })
        .0
    }

    /// Works on a group, past everything that the engine checks.
    pub(super) fn in_group<T>(
        &mut self,
        id: &GroupId,
        work: impl FnOnce(&mut Group<'_>, &OwnLeaf<'_>, &mut dyn CryptoRng) -> Result<T, GroupError>,
    ) -> T {
        let scope = self.find(id).unwrap_or(ConversationId(id.0));
        self.step(|step| {
            step.flush()?;
            // What is loaded would not know of it.
            step.live.talks.remove(&scope);
            let own = step.own()?;
            let provider = Provider::new(step.tx, Some(scope));
            let mut group = Group::load(&provider, id)?;
            Ok(work(&mut group, &own.leaf()?, step.rng)?)
        })
        .0
    }

    /// An honest invitation to such a group; whoever means harm changes it before it is sealed.
    pub(super) fn invitation(&mut self, id: GroupId, made: &Made, to: &Card) -> Invitation {
        let device = &to.devices()[0];
        let place = &made.info.place;
        Invitation {
            recipient: (device.credential.device(), to.identity()),
            inviter: self.card(),
            group: id,
            relay: place.relay.clone(),
            mailbox: place.mailbox,
            reader: place.reader_secret.reader_id(&device.signature_key),
            read_key: ReadKey::from_bytes([3; 32]),
            seq: 1,
            chain: Chain([4; 32]),
            welcome: made.welcome.clone(),
            repaired: None,
        }
    }

    /// Signs and seals an invitation, as it would lie in `to`'s public inbox.
    pub(super) fn sealed(&mut self, invitation: &Invitation, to: &Card, post: PostId) -> Vec<u8> {
        let data = invitation.encode(&self.profile().identity());
        seals(&data, to, post)
    }

    /// Takes something that lies in the public inbox; the effects.
    pub(super) fn finds(&mut self, post: PostId, sealed: Vec<u8>) -> Vec<Effect> {
        let mailbox = self.profile().public_inbox.mailbox;
        let delivery = Delivery { mailbox, seq: 1, post_id: post, envelope: sealed.into(), turn: None };
        let arrival = Arrival { delivery: &delivery, turn: TurnHash::NONE, chain: Chain::START };
        let (done, mut effects) =
            self.step(|step| step.attempt(|step| step.inbox_delivery(Purpose::PublicInbox, &arrival)));
        done.expect("whatever lies there is told by an alarm");
        effects.extend(self.tick());
        effects
    }

    /// Likewise, the causes of the alarms that it raises.
    pub(super) fn takes(&mut self, post: PostId, sealed: Vec<u8>) -> Vec<Cause> {
        alarms(&self.finds(post, sealed))
    }

    /// The conversations of a group.
    pub(super) fn all(&mut self, id: &GroupId) -> Vec<(ConversationId, Conversation)> {
        let (mut all, _) = self.step(|step| {
            step.flush()?;
            Ok(Conversation::all(step.tx)?)
        });
        all.retain(|(_, record)| record.group == *id);
        all
    }

    /// The conversation of a group; the newest if there were several.
    pub(super) fn find(&mut self, id: &GroupId) -> Option<ConversationId> {
        let of_group = self.all(id).into_iter();
        of_group.max_by_key(|(_, record)| (record.is_read(), !record.has_ended())).map(|(id, _)| id)
    }

    pub(super) fn conversation(&mut self, id: &GroupId) -> Option<Conversation> {
        let id = self.find(id)?;
        self.step(|step| Ok(Conversation::load(step.tx, &id)?)).0
    }

    pub(super) fn state(&mut self, id: &GroupId) -> Option<ConversationState> {
        self.conversation(id).map(|record| record.state)
    }

    pub(super) fn reading(&mut self, mailbox: &MailboxId) -> Option<Reading> {
        self.step(|step| {
            step.flush()?;
            Ok(Reading::load(step.tx, mailbox)?)
        })
        .0
    }

    pub(super) fn intents(&mut self, id: &GroupId) -> Vec<Intent> {
        let id = self.find(id).expect("is");
        let wanted = self.step(|step| Ok(intents(step.tx, &id)?)).0;
        wanted.into_iter().map(|(_, intent)| intent).collect()
    }

    pub(super) fn history(&mut self, id: &GroupId) -> Vec<Entry> {
        let record = self.conversation(id).expect("is");
        let id = self.find(id).expect("is");
        self.step(|step| Ok(history::page(step.tx, &id, None, None, 1000, &record.marks())?)).0
    }

    pub(super) fn texts(&mut self, id: &GroupId) -> Vec<String> {
        self.history(id).iter().filter_map(|entry| entry.text().map(str::to_owned)).collect()
    }

    /// How many rows a table has.
    pub(super) fn rows(&mut self, table: &str) -> u64 {
        let query = format!("SELECT COUNT(*) FROM {table}");
        self.step(|step| Ok(step.tx.sql().query_row(&query, [], |row| row.get::<_, u64>(0))?)).0
    }

    /// The envelope comes as the next one of a conversation; the effects.
    pub(super) fn delivers(
        &mut self,
        id: &GroupId,
        post: PostId,
        envelope: Vec<u8>,
        turn: Option<Turn>,
    ) -> Vec<Effect> {
        let (conversation, mailbox) = {
            let id = self.find(id).expect("is");
            (id, self.step(|step| Ok(Conversation::load(step.tx, &id)?)).0.expect("is").mailbox)
        };
        let reading = self.reading(&mailbox).expect("reads it");
        let at = reading.link().expect("goes on");
        let delivery =
            Delivery { mailbox, seq: reading.seq + 1, post_id: post, envelope: envelope.into(), turn };
        self.step(|step| step.talk_delivery(&conversation, &at, &delivery)).1
    }

    /// Connects a link to the relay there, which greets and proves itself; the effects after that.
    pub(super) fn connects(&mut self, id: &LinkId) -> Vec<Effect> {
        let mut effects = self.tick();
        effects.extend(self.handle(Input::Connected(id.clone())));
        let hello = self.hello(&id.relay);
        let challenge = hello.challenge;
        let greeted = self.frames(id, vec![ServerFrame::push(ServerBody::Hello(hello))]);
        let sent = requests(&greeted, id);
        let asked = sent.iter().find_map(|frame| match &frame.body {
            Request::ProveRelay(asked) => Some((frame.request, asked.ephemeral)),
            _ => None,
        });
        let Some((request, ephemeral)) = asked else { return greeted };
        assert_eq!(sent.len(), 1, "nothing is asked before the relay has proven itself");
        let proven = proof::prove(&secret(&id.relay), &challenge, &ephemeral).expect("a good key");
        effects.extend(greeted);
        effects.extend(self.answers(id, request, ServerBody::RelayProven(proven)));
        effects
    }

    /// Connects a link and the account's device proves itself on it.
    pub(super) fn authenticates(&mut self) -> Vec<Effect> {
        let id = link(Link::Account);
        let sent = self.connects(&id);
        let request = requests(&sent, &id).into_iter().find_map(|frame| match frame.body {
            Request::Authenticate(_) | Request::Register(_) => Some(frame),
            _ => None,
        });
        let frame = request.expect("it proves to be the device");
        let mut effects = sent;
        effects.extend(match frame.body {
            Request::Register(_) => self.registered(frame.request),
            _ => {
                let key = self.account_key();
                self.answers(&id, frame.request, ServerBody::Authenticated(key.relay_proof()))
            }
        });
        effects
    }

    /// The relay takes a registration.
    pub(super) fn registered(&mut self, request: u64) -> Vec<Effect> {
        let key = self.account_key();
        self.answers(&link(Link::Account), request, ServerBody::Registered(key.relay_proof()))
    }

    fn account_key(&mut self) -> AccountKey {
        let relay = link(Link::Account).relay;
        let nonce = self.hello(&relay).challenge.nonce;
        let device = self.profile().device().account_key();
        AccountKey::of_relay(&secret(&relay), &StaticSecret::from([7; 32]), nonce, &device)
            .expect("good keys")
    }

    pub(super) fn hello(&self, at: &RelayUrl) -> Hello {
        let identity = RelayIdentity(PublicKey::from(&secret(at)).to_bytes());
        let ephemeral = PublicKey::from(&StaticSecret::from([7; 32])).to_bytes();
        Hello {
            version: 1,
            challenge: Challenge { relay_identity: identity, ephemeral, nonce: [8; 16] },
            incarnation: INCARNATION,
            limits: self.limits,
            time: self.now.saturating_add_signed(self.skew) / 1000,
            software: "by hand".to_owned(),
        }
    }

    pub(super) fn frames(&mut self, id: &LinkId, frames: Vec<ServerFrame>) -> Vec<Effect> {
        self.handle(Input::Frames(id.clone(), frames))
    }

    pub(super) fn answers(&mut self, id: &LinkId, request: u64, body: ServerBody) -> Vec<Effect> {
        self.frames(id, vec![ServerFrame { request, body }])
    }

    /// The mailboxes that are open on a link.
    pub(super) fn open_on(&self, id: &LinkId) -> BTreeSet<MailboxId> {
        let up = self.engine.live.links.get(id).and_then(|link| link.up());
        up.map(|up| up.openings.keys().copied().collect()).unwrap_or_default()
    }

    /// The state of a conversation's mailbox, with the lock of its present epoch.
    pub(super) fn locked(&mut self, id: &GroupId, head: u64, cursor: u64) -> OpenState {
        let keys = self.in_group(id, |group, _, _| group.keys());
        OpenState { post_key_hash: keys.post.hash(), turn_key_hash: keys.turn.hash(), ..at(head, cursor) }
    }
}

fn memory(rng: &mut ChaCha20Rng) -> Database {
    Database::create(Location::Memory, &Passphrase::new("x"), KdfCost::CHEAP, rng).expect("in memory")
}

/// What a new group at this place agrees on.
pub(super) fn info(rng: &mut dyn CryptoRng, at: &RelayAddress, mailbox: MailboxId) -> GroupInfo {
    let reader_secret = ReaderSecret::generate(rng);
    let place = Place { number: 1, relay: at.clone(), mailbox, reader_secret };
    GroupInfo { rules: RULES, place, about: About::default(), others: Vec::new() }
}

/// Seals something to `to`'s public inbox.
pub(super) fn seals(data: &[u8], to: &Card, post: PostId) -> Vec<u8> {
    let inbox = &to.devices()[0].public_inbox;
    let mut rng = ChaCha20Rng::from_seed([post.0[0]; 32]);
    inbox.key.seal(&inbox.mailbox, &post, data, &mut rng).expect("fits")
}

/// The causes of the alarms among effects.
pub(super) fn alarms(effects: &[Effect]) -> Vec<Cause> {
    let alarm = |effect: &Effect| match effect {
        Effect::Event(Event::Alarm { cause, .. }) => Some(*cause),
        _ => None,
    };
    effects.iter().filter_map(alarm).collect()
}

/// The frames for a link among effects.
pub(super) fn requests(effects: &[Effect], on: &LinkId) -> Vec<ClientFrame> {
    let frame = |effect: &Effect| match effect {
        Effect::Send(id, frame) if id == on => Some(frame.clone()),
        _ => None,
    };
    effects.iter().filter_map(frame).collect()
}

/// What goes on a wire, or tries to.
pub(super) fn on_the_wire(effects: &[Effect]) -> Vec<String> {
    let seen = |effect: &Effect| match effect {
        Effect::Connect(id) => Some(format!("connect {id:?}")),
        Effect::Send(id, frame) => Some(format!("send {id:?} {frame:?}")),
        Effect::Disconnect(_) | Effect::Event(_) | Effect::Answer(_) => None,
    };
    effects.iter().filter_map(seen).collect()
}

/// The connections that are asked for.
pub(super) fn wanted(effects: &[Effect]) -> Vec<LinkId> {
    let connect = |effect: &Effect| match effect {
        Effect::Connect(id) => Some(id.clone()),
        _ => None,
    };
    effects.iter().filter_map(connect).collect()
}

/// The answer to the `Open` among these requests: everything in this state.
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
