//! A member and inviter who says anything at all, inside of the encryption: it has an account, the group's
//! keys and MLS itself, and is held by none of our checks. What an input is made of is its script.
//!
//! However it plays, the other's engine never fails and never comes to what it calls an error of its own, and
//! everything that it has can be looked at.

use std::collections::{BTreeMap, VecDeque};

use posthorn_proto::auth::AccountKey;
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{
    ClientFrame, Delivery, OpenState, Opened, Opening, Post, Request, ServerBody, ServerFrame,
};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{KeyHash, MailboxId, PostId, ReadKey, Reader, ReaderId, RelayIdentity, Turn, proof};
use rand::CryptoRng;
use x25519_dalek::StaticSecret;

use super::desk::{Desk, INCARNATION, NOW, elsewhere, info, relay, secret};
use crate::content::{
    Class, Content, Custom, Invitation, Leave, PROPOSAL_BYTES, Reaction, Receipt, ReceiptOnly, Said, Target,
    Text, WelcomeRefused,
};
use crate::conversation::{Cause, Conversation, ConversationId, GroupId, MessageId};
use crate::engine::talk::slot::AuthorSlot;
use crate::engine::{Command, Consent, Effect, Event, Input, Link, LinkId, Page, Who};
use crate::envelope::Slot;
use crate::group::raw::{Edits, RawChange, RawCommit, raw_commit};
use crate::group::{
    Change, EpochKeys, Group, GroupError, KeyPackageKind, OwnLeaf, Provider, Received, UnverifiedKeyPackage,
};
use crate::identity::{Card, PersonId, RelayUrl};

const TALK: GroupId = GroupId([0x77; 16]);
const PLACE: MailboxId = MailboxId([0x66; 16]);
/// What the invitation says that was there when it was made.
const BEGINNING: (u64, Chain) = (1, Chain([4; 32]));
/// Acts of one play.
const ACTS: usize = 24;
/// Effects that follow from one act, before that counts as no end.
const EFFECTS: usize = 2000;
const DAY: u64 = 24 * 3600 * 1000;

/// Plays a script; panics if a promise breaks.
pub(in crate::engine) fn play(script: &[u8]) {
    drop(played(script));
}

fn played(script: &[u8]) -> World {
    let mut script = Script(script);
    let mut world = World::new();
    for _ in 0..ACTS {
        if script.0.is_empty() {
            break;
        }
        match script.byte() % 12 {
            0..=2 => world.say(&mut script),
            3..=5 => world.commit(&mut script),
            6..=7 => world.invite(&mut script),
            8 => world.leave_in_inbox(&mut script),
            9 => world.act(&mut script),
            10 => world.wait(&mut script),
            _ => world.restart(&mut script),
        }
        world.look();
    }
    world
}

/// What is still to be played.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    /// 0 at the end.
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn flip(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => 1 << 53,
            253 => (1 << 53) + 1,
            small => small.into(),
        }
    }

    fn blob(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte()).min(self.0.len());
        let (blob, rest) = self.0.split_at(length);
        self.0 = rest;
        blob.to_vec()
    }

    fn words(&mut self) -> String {
        String::from_utf8_lossy(&self.blob()).into_owned()
    }

    /// Damages bytes, seldom more than once.
    fn bend(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.byte().saturating_sub(251) {
            let at = usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % (bytes.len() + 1);
            match (self.byte() % 5, bytes.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << (self.byte() % 8),
                (1, Some(byte)) => *byte = self.byte(),
                (2, _) => bytes.truncate(at),
                (3, Some(_)) => drop(bytes.remove(at)),
                _ => {
                    let more = self.blob();
                    bytes.splice(at..at, more);
                }
            }
        }
    }

    fn array<const N: usize>(&mut self, good: [u8; N]) -> [u8; N] {
        match self.byte() {
            255 => [self.byte(); N],
            254 => std::array::from_fn(|_| self.byte()),
            _ => good,
        }
    }

    fn edits(&mut self, numbers: &[u16]) -> Edits {
        let mut edits = Edits::new();
        for _ in 0..self.byte() % 3 {
            let which = usize::from(self.byte());
            let number = *numbers.get(which % (numbers.len() + 2)).unwrap_or(&(0xF000 | which as u16));
            if edits.iter().all(|(known, _)| *known != number) {
                edits.push((number, self.flip().then(|| self.blob())));
            }
        }
        edits
    }
}

/// A mailbox as the relay has it.
struct Shelf {
    /// What was there before this play.
    base: u64,
    log: Vec<Delivery>,
    acknowledged: u64,
    lock: [KeyHash; 2],
}

struct World {
    /// Whose engine it is about; always there but while it begins anew.
    bob: Option<Desk>,
    mallory: Desk,
    carol: Desk,
    shelves: BTreeMap<MailboxId, Shelf>,
    posts: u16,
    groups: u8,
}

impl World {
    fn new() -> Self {
        let (bob, mallory, carol) = (Desk::new("bob"), Desk::new("mallory"), Desk::new("carol"));
        let shelves = BTreeMap::new();
        let mut world = Self { bob: Some(bob), mallory, carol, shelves, posts: 0, groups: 0 };
        let (bobs, carols) = (world.bob().card(), world.carol.card());
        let packages = [
            (world.bob().package(KeyPackageKind::OneTime), &bobs),
            (world.carol.package(KeyPackageKind::OneTime), &carols),
        ];
        let made = world.mallory.group(TALK, PLACE, &packages);
        let invitation = world.mallory.invitation(TALK, &made, &bobs);
        let keys = world.with_group(|group, _, _| group.keys()).expect("mallory is in it");
        world.shelves.insert(PLACE, Shelf::new(BEGINNING.0, &keys));
        let effects = world.bob().tick();
        world.run(effects);
        let data = invitation.encode(&world.mallory.profile().identity());
        world.seal(&data, true);
        assert!(world.bob().find(&TALK).is_some(), "it begins with bob as a member");
        world
    }

    fn bob(&mut self) -> &mut Desk {
        self.bob.as_mut().expect("always there")
    }

    /// A post id that was not used yet.
    fn post(&mut self) -> PostId {
        self.posts += 1;
        let mut id = [0x50; 16];
        id[..2].copy_from_slice(&self.posts.to_be_bytes());
        PostId(id)
    }

    /// Works on mallory's group, if it still loads.
    fn with_group<T>(
        &mut self,
        work: impl FnOnce(&mut Group<'_>, &OwnLeaf<'_>, &mut dyn CryptoRng) -> Result<T, GroupError>,
    ) -> Option<T> {
        self.mallory
            .step(|step| {
                let own = step.own()?;
                let provider = Provider::new(step.tx, Some(ConversationId(TALK.0)));
                let Ok(mut group) = Group::load(&provider, &TALK) else { return Ok(None) };
                Ok(work(&mut group, &own.leaf()?, step.rng).ok())
            })
            .0
    }

    /// Carries out effects, and all that follow from them.
    fn run(&mut self, effects: Vec<Effect>) {
        let mut queue = VecDeque::from(effects);
        for _ in 0..EFFECTS {
            let Some(effect) = queue.pop_front() else { return };
            match effect {
                Effect::Connect(id) => queue.extend(self.connect(id)),
                Effect::Disconnect(id) => {
                    queue.extend(self.bob().handle(Input::Disconnected(id, "given up".to_owned())));
                }
                Effect::Send(id, frame) => queue.extend(self.serve(&id, frame)),
                Effect::Event(Event::Alarm { cause, text, .. }) => {
                    assert_ne!(cause, Cause::Internal, "somebody's words are no error of ours: {text}");
                }
                Effect::Event(_) | Effect::Answer(_) => {}
            }
        }
        panic!("there is no end to what follows from one act");
    }

    fn connect(&mut self, id: LinkId) -> Vec<Effect> {
        if id.relay == elsewhere().url {
            return self.bob().handle(Input::Disconnected(id, "nobody is there".to_owned()));
        }
        let hello = ServerBody::Hello(self.bob().hello(&id.relay));
        let mut effects = self.bob().handle(Input::Connected(id.clone()));
        effects.extend(self.bob().frames(&id, vec![ServerFrame::push(hello)]));
        effects
    }

    /// What an honest relay answers; some questions it leaves open.
    fn serve(&mut self, id: &LinkId, frame: ClientFrame) -> Vec<Effect> {
        let now = self.bob().now;
        let challenge = self.bob().hello(&id.relay).challenge;
        let mut pushed = Vec::new();
        let body = match frame.body {
            Request::ProveRelay(asked) => {
                let proven = proof::prove(&secret(&id.relay), &challenge, &asked.ephemeral);
                ServerBody::RelayProven(proven.expect("a good key"))
            }
            Request::Authenticate(_) => {
                let device = self.bob().profile().device().account_key();
                let (own, ephemeral) = (secret(&id.relay), StaticSecret::from([7; 32]));
                let key =
                    AccountKey::of_relay(&own, &ephemeral, challenge.nonce, &device).expect("good keys");
                ServerBody::Authenticated(key.relay_proof())
            }
            Request::Open(open) => {
                let results = open.openings.iter().map(|opening| self.opened(opening)).collect();
                for opening in &open.openings {
                    let shelf = self.shelves.get(&opening.mailbox);
                    let log = shelf.map_or(&[][..], |shelf| &shelf.log[..]);
                    let acknowledged = shelf.map_or(0, |shelf| shelf.acknowledged);
                    pushed.extend(log.iter().filter(|one| one.seq > acknowledged).cloned());
                }
                ServerBody::Opened(results)
            }
            Request::Ack(ack) => {
                if let Some(shelf) = self.shelves.get_mut(&ack.mailbox) {
                    shelf.acknowledged = shelf.acknowledged.max(ack.seq);
                }
                ServerBody::Done
            }
            Request::Post(post) => {
                let seq = self.take(post).map_or(1, |delivery| {
                    let seq = delivery.seq;
                    pushed.push(delivery);
                    seq
                });
                ServerBody::Posted { seq }
            }
            Request::Create(_) => ServerBody::Created,
            Request::DrawTokens { hashes, .. } => ServerBody::TokensDrawn(hashes.len() as u32),
            Request::PublishKeyPackages(_) => {
                ServerBody::KeyPackageStock { one_time: 100, last_resort_since: now / 1000 }
            }
            Request::PublishCard(_)
            | Request::RemoveAccount
            | Request::Close(_)
            | Request::Destroy { .. }
            | Request::Ping => ServerBody::Done,
            Request::Signal(_) | Request::Register(_) | Request::LookUp(_) | Request::TakeKeyPackages(_) => {
                return Vec::new();
            }
        };
        let mut effects = self.bob().answers(id, frame.request, body);
        for delivery in pushed {
            effects.extend(self.deliver(delivery));
        }
        effects
    }

    fn opened(&mut self, opening: &Opening) -> Opened {
        let empty = Shelf { base: 0, log: Vec::new(), acknowledged: 0, lock: [KeyHash([1; 32]); 2] };
        let shelf = self.shelves.get(&opening.mailbox).unwrap_or(&empty);
        let state = OpenState {
            head: shelf.head(),
            oldest: 1,
            cursor: shelf.acknowledged,
            post_key_hash: shelf.lock[0],
            turn_key_hash: shelf.lock[1],
            incarnation: INCARNATION,
        };
        Opened { mailbox: opening.mailbox, result: Ok(state) }
    }

    /// What bob posts to where this play reads; mallory follows.
    fn take(&mut self, post: Post) -> Option<Delivery> {
        let turn = post.turn.map(|turn| turn.turn);
        let delivery = self.put(post.mailbox, post.post_id, post.envelope.to_vec(), turn)?;
        if delivery.mailbox == PLACE {
            self.catch_up();
            let slot =
                Slot { mailbox: PLACE, post: delivery.post_id, turn: TurnHash::of(delivery.turn.as_ref()) };
            // Where mallory is somewhere else by now, it stays there.
            self.with_group(|group, _, _| {
                let data = group.keys()?.envelope.open(&slot, &delivery.envelope);
                match group.receive(&data.map_err(|_| GroupError::Malformed)?, &[])? {
                    Received::Commit(change) => group.apply(*change).map(drop),
                    _ => Ok(()),
                }
            });
        }
        Some(delivery)
    }

    /// Puts an envelope on a shelf.
    fn put(
        &mut self,
        mailbox: MailboxId,
        post_id: PostId,
        envelope: Vec<u8>,
        turn: Option<Turn>,
    ) -> Option<Delivery> {
        let shelf = self.shelves.get_mut(&mailbox)?;
        if let Some(turn) = &turn {
            shelf.lock = [turn.post_key_hash, turn.turn_key_hash];
        }
        let delivery = Delivery { mailbox, seq: shelf.head() + 1, post_id, envelope: envelope.into(), turn };
        shelf.log.push(delivery.clone());
        Some(delivery)
    }

    /// Delivers where the mailbox is open; else it waits for that.
    fn deliver(&mut self, delivery: Delivery) -> Vec<Effect> {
        let links = &self.bob().engine.live.links;
        let is_open = |(id, state): (&LinkId, &crate::engine::link::LinkState)| {
            let open = state.up().is_some_and(|up| up.openings.contains_key(&delivery.mailbox));
            open.then(|| id.clone())
        };
        match links.iter().find_map(is_open) {
            Some(id) => self.bob().frames(&id, vec![ServerFrame::push(ServerBody::Delivery(delivery))]),
            None => Vec::new(),
        }
    }

    fn show(&mut self, mailbox: MailboxId, post: PostId, envelope: Vec<u8>, turn: Option<Turn>) {
        if let Some(delivery) = self.put(mailbox, post, envelope, turn) {
            let effects = self.deliver(delivery);
            self.run(effects);
        }
    }

    /// A commit of mallory's that is pending is applied if bob followed it, else dropped.
    fn catch_up(&mut self) {
        let bobs = self.bob().conversation(&TALK).map_or(0, |record| record.epoch);
        self.with_group(|group, _, _| {
            if !group.has_pending() {
                return Ok(());
            }
            if bobs > group.epoch() { group.merge_pending().map(drop) } else { group.clear_pending() }
        });
    }

    fn seen(&mut self, script: &mut Script<'_>) -> (u64, Chain) {
        let true_one = self.bob().reading(&PLACE).map_or(BEGINNING, |reading| (reading.seq, reading.chain()));
        match script.byte() {
            255 => (script.number(), true_one.1),
            254 => (true_one.0, Chain([script.byte(); 32])),
            253 => BEGINNING,
            252 => (0, Chain::START),
            _ => true_one,
        }
    }

    /// The place that an author signs.
    fn signed_place(&mut self, script: &mut Script<'_>, post: PostId, turn: Option<&Turn>) -> Vec<u8> {
        let (seq, chain) = self.seen(script);
        let readers = AuthorSlot::readers(turn);
        let slot = AuthorSlot { mailbox: PLACE, post: PostId(script.array(post.0)), readers, seq, chain };
        let mut aad = slot.encode();
        script.bend(&mut aad);
        aad
    }

    fn say(&mut self, script: &mut Script<'_>) {
        let post = self.post();
        let turn = (script.byte() == 255).then(|| any_turn(script));
        let aad = self.signed_place(script, post, turn.as_ref());
        let mut content = self.content(script);
        script.bend(&mut content);
        let slot = Slot { mailbox: PLACE, post, turn: TurnHash::of(turn.as_ref()) };
        let envelope = self.with_group(|group, own, rng| {
            let mut encrypted = group.encrypt(own, &content, &aad)?;
            script.bend(&mut encrypted);
            let sealed = group.keys()?.envelope.seal(&slot, &encrypted, rng);
            sealed.map_err(|_| GroupError::Malformed)
        });
        if let Some(mut envelope) = envelope {
            script.bend(&mut envelope);
            self.show(PLACE, post, envelope, turn);
        }
    }

    fn content(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        let person = match script.byte() % 3 {
            0 => self.bob().person(),
            1 => self.mallory.person(),
            _ => PersonId([script.byte(); 32]),
        };
        let target = Target { person, message: MessageId([script.byte(); 16]) };
        let said = match script.byte() % 7 {
            0 => Said::new(Text::new(script.words())),
            1 => Said::change(Reaction::new(script.words()), target),
            2 => {
                let leave = self.with_group(|group, own, _| group.propose_leave(own, &script.blob()));
                let mut proposal = leave.unwrap_or_default();
                script.bend(&mut proposal);
                proposal.truncate(PROPOSAL_BYTES);
                Said::new(Leave { proposal })
            }
            3 => Said::new(ReceiptOnly {}),
            4 => {
                let name = script.words();
                let class = if script.flip() { Class::Entry } else { Class::Quiet };
                Said::new(Custom { name, class, bytes: script.blob() })
            }
            5 => {
                let (name, bytes) = (script.words(), script.blob());
                Said::change(Custom { name, class: Class::Change, bytes }, target)
            }
            // Whatever it is.
            _ => return script.blob(),
        };
        let said = said.or_else(|_| Said::new(Text::new("x")).and_then(|said| said.with_fallback("y")));
        Content {
            message: MessageId([script.byte(); 16]),
            sent_at: if script.flip() { NOW } else { script.number() },
            receipt: Receipt { delivered: script.number(), read: script.number() },
            said: said.expect("this fits"),
        }
        .encode()
    }

    fn commit(&mut self, script: &mut Script<'_>) {
        let post = self.post();
        let change = self.change(script);
        let (card, package) = (self.carol.card(), change.add.first().cloned());
        let turn = self.with_group(|group, _, _| {
            let reader = |leaf: &u32| group.member(*leaf).map(|member| member.reader).ok();
            let evict = change.remove.iter().filter_map(reader).collect();
            Ok(Turn {
                post_key_hash: KeyHash([0; 32]),
                turn_key_hash: KeyHash([0; 32]),
                admit: vec![],
                evict,
            })
        });
        let Some(mut turn) = turn else { return };
        if let Some(package) = package {
            turn.admit.extend(self.reader_of(&package, &card));
        }
        bend_readers(script, &mut turn);
        let aad = self.signed_place(script, post, Some(&turn));
        let honest = script.flip();
        let made = self.stage(&change, &aad, honest);
        let Some((made, keys)) = made else { return self.catch_up() };
        if let Some(next) = made.outcome.as_ref().and_then(|outcome| outcome.keys.as_ref()) {
            (turn.post_key_hash, turn.turn_key_hash) = (next.post.hash(), next.turn.hash());
        }
        turn.post_key_hash.0 = script.array(turn.post_key_hash.0);
        let turn = (script.byte() != 255).then_some(turn);
        let slot = Slot { mailbox: PLACE, post, turn: TurnHash::of(turn.as_ref()) };
        let mut commit = made.commit;
        script.bend(&mut commit);
        let envelope = self.with_group(|_, _, rng| {
            keys.envelope.seal(&slot, &commit, rng).map_err(|_| GroupError::Malformed)
        });
        if let Some(envelope) = envelope {
            self.show(PLACE, post, envelope, turn);
        }
        self.catch_up();
    }

    fn change(&mut self, script: &mut Script<'_>) -> RawChange {
        let mut change = RawChange::default();
        let what = script.byte();
        if what & 1 != 0 {
            change.leaf = Some(script.edits(&[0xF002, 0xF008]));
        }
        if what & 2 != 0 {
            change.context = Some(script.edits(&[0xF001, 0xF006, 0xF007]));
        }
        if what & 4 != 0 {
            change.remove = vec![u32::from(script.byte() % 5)];
        }
        if what & 8 != 0 {
            change.add = vec![self.carol.package(KeyPackageKind::OneTime)];
        }
        change
    }

    /// Makes a commit, past the checks or with them: it, and the keys of the epoch before it.
    fn stage(&mut self, change: &RawChange, aad: &[u8], honest: bool) -> Option<(RawCommit, EpochKeys)> {
        let (card, now) = (self.carol.card(), self.mallory.now);
        let step = self.mallory.step(|step| {
            let own = step.own()?;
            let leaf = own.leaf()?;
            let provider = Provider::new(step.tx, Some(ConversationId(TALK.0)));
            let Ok(mut group) = Group::load(&provider, &TALK) else { return Ok(None) };
            let Ok(keys) = group.keys() else { return Ok(None) };
            let made = if honest {
                let verified = |bytes: &Vec<u8>| {
                    let package = UnverifiedKeyPackage::parse(bytes).ok()?;
                    package.verify(&provider, &card.identity(), now).ok()
                };
                let add = change.add.iter().filter_map(verified).collect();
                let change = Change {
                    add,
                    remove: change.remove.clone(),
                    update_self: change.leaf.is_some(),
                    ..Change::default()
                };
                group.stage(&leaf, &change, aad).map(|staged| RawCommit {
                    commit: staged.commit,
                    welcome: staged.welcome,
                    outcome: Some(staged.outcome),
                })
            } else {
                drop(group);
                raw_commit(&provider, &leaf, &TALK, change, aad)
            };
            Ok(made.ok().map(|made| (made, keys)))
        });
        step.0
    }

    fn reader_of(&mut self, package: &[u8], card: &Card) -> Option<Reader> {
        let key = card.devices()[0].signature_key;
        UnverifiedKeyPackage::parse(package).ok()?;
        self.with_group(|group, _, _| {
            let id = group.info().place.reader_secret.reader_id(&key);
            Ok(Reader { id, key_hash: ReadKey::from_bytes([3; 32]).hash() })
        })
    }

    /// An invitation to another group of this mallory's.
    fn invite(&mut self, script: &mut Script<'_>) {
        self.groups += 1;
        let id = if script.byte() > 250 { TALK } else { GroupId([0x80 + self.groups; 16]) };
        let at = if script.byte() > 250 { elsewhere() } else { relay() };
        let mailbox = match script.byte() {
            255 => PLACE,
            254 => self.bob().profile().public_inbox.mailbox,
            253 => self.bob().profile().private_inbox.mailbox,
            _ => MailboxId([0x80 + self.groups; 16]),
        };
        let kind = if script.flip() { KeyPackageKind::OneTime } else { KeyPackageKind::LastResort };
        let package = self.bob().package(kind);
        let mut change = self.change(script);
        change.remove.clear();
        change.add.insert(0, package);
        let card = self.bob().card();
        // The same identity and device, on a fresh database: an id may come twice.
        let mut twin = Desk::new("mallory");
        twin.now = self.mallory.now;
        let made = twin.step(|step| {
            let own = step.own()?;
            let provider = Provider::new(step.tx, Some(ConversationId(id.0)));
            let info = info(step.rng, &at, mailbox);
            Group::create(&provider, &own.leaf()?, id, &info)?;
            let made = raw_commit(&provider, &own.leaf()?, &id, &change, b"").ok();
            Ok(made.and_then(|made| Some((info, made.welcome?, made.outcome))))
        });
        let Some((info, mut welcome, outcome)) = made.0 else { return };
        script.bend(&mut welcome);
        let device = &card.devices()[0];
        let reader = info.place.reader_secret.reader_id(&device.signature_key);
        let url = match script.byte() {
            255 => RelayUrl::parse("ws://192.168.1.1:80").expect("a URL"),
            _ => at.url.clone(),
        };
        let invitation = Invitation {
            recipient: (device.credential.device(), card.identity()),
            inviter: self.mallory.card(),
            group: GroupId(script.array(id.0)),
            relay: crate::identity::RelayAddress {
                url,
                identity: RelayIdentity(script.array(at.identity.0)),
            },
            mailbox: MailboxId(script.array(mailbox.0)),
            reader: ReaderId(script.array(reader.0)),
            read_key: ReadKey::from_bytes([3; 32]),
            seq: script.number() % (1 << 53),
            chain: Chain([script.byte(); 32]),
            welcome,
            repaired: None,
        };
        if let Some(keys) = outcome.and_then(|outcome| outcome.keys) {
            let (mailbox, seq) = (invitation.mailbox, invitation.seq);
            self.shelves.entry(mailbox).or_insert_with(|| Shelf::new(seq, &keys));
        }
        let mut data = invitation.encode(&self.mallory.profile().identity());
        script.bend(&mut data);
        let public = script.flip();
        self.seal(&data, public);
    }

    fn leave_in_inbox(&mut self, script: &mut Script<'_>) {
        let device = match script.byte() % 3 {
            0 => self.mallory.profile().device().id(),
            1 => self.carol.profile().device().id(),
            _ => self.bob().profile().device().id(),
        };
        let group = GroupId(script.array(TALK.0));
        let (key_package, cause) = (script.blob(), script.words());
        let mut data = WelcomeRefused { group, device, key_package, cause }.encode();
        if script.byte() == 255 {
            data = script.blob();
        }
        script.bend(&mut data);
        let public = script.flip();
        self.seal(&data, public);
    }

    /// Seals something to one of bob's inboxes, and delivers it.
    fn seal(&mut self, data: &[u8], public: bool) {
        let post = self.post();
        let inbox = match public {
            true => self.bob().card().devices()[0].public_inbox.clone(),
            false => self.bob().step(|step| Ok(step.own()?.leaf()?.inbox.clone())).0,
        };
        let sealed = self.mallory.step(|step| Ok(inbox.key.seal(&inbox.mailbox, &post, data, step.rng).ok()));
        let Some(sealed) = sealed.0 else { return };
        let empty = || Shelf { base: 0, log: Vec::new(), acknowledged: 0, lock: [KeyHash([1; 32]); 2] };
        self.shelves.entry(inbox.mailbox).or_insert_with(empty);
        self.show(inbox.mailbox, post, sealed, None);
    }

    /// Bob does something.
    fn act(&mut self, script: &mut Script<'_>) {
        let ids = self.conversations();
        let at = usize::from(script.byte());
        let Some(id) = ids.get(at % ids.len().max(1)).copied() else { return };
        let (mallory, carol) = (self.mallory.person(), self.carol.person());
        let effects = match script.byte() % 9 {
            0 => {
                let said = Said::new(Text::new("hello")).expect("fits");
                self.bob().asks(|reply| Command::Send { conversation: id, id: None, said, reply }).1
            }
            1 => self.bob().asks(|reply| Command::Leave(id, reply)).1,
            2 => {
                let foreign_relay = script.flip();
                self.bob().asks(|reply| Command::Accept { conversation: id, foreign_relay, reply }).1
            }
            3 => self.bob().asks(|reply| Command::Forget(id, reply)).1,
            4 => {
                let blocked = script.flip();
                self.bob().asks(|reply| Command::Block { person: mallory, blocked, reply }).1
            }
            5 => {
                let person = if script.flip() { mallory } else { carol };
                self.bob().asks(|reply| Command::Remove { conversation: id, person, reply }).1
            }
            6 => {
                let members = vec![Who::Person(carol)];
                self.bob().asks(|reply| Command::Add { conversation: id, members, reply }).1
            }
            7 => self.bob().asks(|reply| Command::MarkRead { conversation: id, up_to: None, reply }).1,
            _ => {
                let consent = if script.flip() { Consent::Everybody } else { Consent::Ask };
                self.bob().asks(|reply| Command::Consent(consent, reply)).1
            }
        };
        self.run(effects);
    }

    fn wait(&mut self, script: &mut Script<'_>) {
        let time = [1_000, 31_000, 300_000, DAY / 24, DAY, 40 * DAY][usize::from(script.byte() % 6)];
        self.bob().now += time;
        self.mallory.now += time;
        self.carol.now += time;
    }

    fn restart(&mut self, script: &mut Script<'_>) {
        let bob = self.bob.take().expect("always there");
        let mut bob = bob.reopened();
        if script.flip() {
            bob.does(|reply| Command::Consent(Consent::Everybody, reply)).expect("at once");
        }
        self.bob = Some(bob);
    }

    fn conversations(&mut self) -> Vec<ConversationId> {
        let all = self.bob().step(|step| {
            step.flush()?;
            Ok(Conversation::all(step.tx)?)
        });
        all.0.into_iter().map(|(id, _)| id).collect()
    }

    /// Everything that bob has can be looked at, and he has nothing to do without end.
    fn look(&mut self) {
        let effects = self.bob().tick();
        self.run(effects);
        let bob = self.bob();
        let summaries = bob.does(Command::Conversations).expect("conversations are listed");
        bob.does(Command::People).expect("people are listed");
        bob.does(Command::State).expect("the state is told");
        for summary in summaries {
            let conversation = summary.id;
            let page = Page { limit: 1000, ..Page::default() };
            bob.does(|reply| Command::History { conversation, page, reply }).expect("it has a history");
            // Why there are none to show is the only thing that may come instead.
            let members = bob.does(|reply| Command::Members(conversation, reply));
            assert!(!members.is_err_and(|error| error.is_fatal()));
        }
        let is_apart = |id: &LinkId| matches!(id.link, Link::Apart(_));
        let apart = bob.engine.live.links.keys().filter(|id| is_apart(id)).count();
        assert!(apart <= ACTS + 1, "one connection for one conversation");
    }
}

impl Shelf {
    fn new(base: u64, keys: &EpochKeys) -> Self {
        Self { base, log: Vec::new(), acknowledged: base, lock: [keys.post.hash(), keys.turn.hash()] }
    }

    fn head(&self) -> u64 {
        self.base + self.log.len() as u64
    }
}

fn any_turn(script: &mut Script<'_>) -> Turn {
    let mut turn = Turn {
        post_key_hash: KeyHash([script.byte(); 32]),
        turn_key_hash: KeyHash([script.byte(); 32]),
        admit: vec![],
        evict: vec![],
    };
    bend_readers(script, &mut turn);
    turn
}

fn bend_readers(script: &mut Script<'_>, turn: &mut Turn) {
    let any = |script: &mut Script<'_>| ReaderId([script.byte(); 16]);
    match script.byte() {
        255 => turn.evict.push(any(script)),
        254 => turn.admit.push(Reader { id: any(script), key_hash: KeyHash([9; 32]) }),
        253 => turn.evict.clear(),
        252 => turn.admit.clear(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::conversation::{Body, ConversationState};

    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/hostile_member");

    /// An act, with bytes that mostly say "as it should be".
    fn act() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![3 => 0u8..16, 1 => 16u8..248, 1 => 248u8..=255];
        (0u8..12, proptest::collection::vec(byte, 4..48))
            .prop_map(|(first, rest)| [&[first], &rest[..]].concat())
    }

    /// More by `PROPTEST_CASES`.
    fn cases() -> ProptestConfig {
        let cases =
            if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 48 };
        ProptestConfig { cases, max_shrink_iters: 64, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]
        #[test]
        fn whatever_a_member_says_the_engine_goes_on(acts in proptest::collection::vec(act(), 1..12)) {
            play(&acts.concat());
        }
    }

    /// Some of what is played gets as far as it can, and some is refused.
    #[test]
    fn plays_go_far() {
        let mut runner = TestRunner::deterministic();
        let (mut followed, mut joined, mut unreadable, mut said) = (0, 0, 0, 0);
        for _ in 0..30 {
            let acts = proptest::collection::vec(act(), 6..12).new_tree(&mut runner).expect("makes one");
            let mut world = played(&acts.current().concat());
            let records = world.bob().step(|step| {
                step.flush()?;
                Ok(Conversation::all(step.tx)?)
            });
            for (id, record) in records.0 {
                followed += record.epoch.saturating_sub(1);
                joined += u32::from(record.group != TALK && record.is_read());
                let page = Page { limit: 1000, ..Page::default() };
                let history = world.bob().does(|reply| Command::History { conversation: id, page, reply });
                for entry in history.expect("a history") {
                    unreadable += u32::from(matches!(entry.body, Body::Unreadable(_)));
                    said += u32::from(entry.said().is_some() && !entry.mine);
                }
            }
        }
        println!("{followed} commits, {joined} joins, {unreadable} unreadable, {said} said");
        assert!(followed > 5 && joined > 3 && unreadable > 3 && said > 5);
    }

    /// What was found once is not lost again.
    #[test]
    fn the_corpus_is_survived() {
        for entry in std::fs::read_dir(CORPUS).expect("the corpus is checked in") {
            play(&std::fs::read(entry.expect("an entry").path()).expect("readable"));
        }
    }

    /// Without a script the acts are honest, and are followed: else the others would test nothing.
    #[test]
    fn honest_acts_are_followed() {
        let mut world = World::new();
        // A text "hi", then a fresh leaf of mallory's.
        world.say(&mut Script(&[0, 0, 0, 0, 0, 0, 0, 2, b'h', b'i', 9]));
        assert_eq!(world.bob().texts(&TALK), ["hi"]);
        world.commit(&mut Script(&[1]));
        world.look();
        let epoch = world.bob().conversation(&TALK).expect("in it").epoch;
        assert_eq!(epoch, 2);
        world.say(&mut Script(&[0, 0, 0, 0, 0, 0, 0, 2, b'h', b'o', 10]));
        assert_eq!(world.bob().texts(&TALK), ["hi", "ho"]);
        world.invite(&mut Script(&[]));
        world.look();
        assert_eq!(world.conversations().len(), 2);
        // Bob's own fresh leaf is followed, too.
        world.wait(&mut Script(&[3]));
        world.look();
        world.look();
        assert_eq!(world.bob().conversation(&TALK).expect("in it").epoch, 3);
        world.say(&mut Script(&[0, 0, 0, 0, 0, 0, 0, 3, b'y', b'e', b's', 11]));
        assert_eq!(world.bob().texts(&TALK), ["hi", "ho", "yes"]);
        // One reader more is evicted than the commit says: nobody can follow it.
        world.commit(&mut Script(&[1, 0, 255, 9]));
        let cause = match world.bob().state(&TALK) {
            Some(ConversationState::Suspended(suspension)) => Some(suspension.cause),
            _ => None,
        };
        assert_eq!(cause, Some(Cause::BadTurn));
        world.look();
    }
}
