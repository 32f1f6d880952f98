//! The memory engine: the ledger with bodies in RAM, behind one lock, answering at once. It is the readable
//! engine. Nothing outlives the process, but [`MemoryStore::image`] lets a simulation restart a relay on the
//! same state.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, Incarnation, KeyHash, MailboxId, PostId, Turn};
use rand::CryptoRng;

use super::clock::{Clocks, Now};
use super::ledger::{Command, Forget, Ledger, Outcome, Passed, Past, Rebuild, Record, Taken};
use super::{
    Advance, Append, BlobView, Blobs, CardRecord, Clock, DeviceRecord, Directory, KeyPackageStock, Later,
    Mailboxes, NewAccount, NewBlob, NewInvite, NewMailbox, OpenReader, Published, ReadRange, ReaderView,
    Spent, SpentOn, Stats, Store, StoreError, StorePolicy, Stored, TakenKeyPackage,
};
use crate::mailbox::change::ShortFingerprint;

/// A body in RAM, with the turn if it is an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Body {
    bytes: Bytes,
    turn: Option<Arc<Turn>>,
}

/// A store in RAM.
pub struct MemoryStore {
    incarnation: Mutex<Incarnation>,
    policy: StorePolicy,
    clock: Arc<dyn Clock>,
    published: Arc<dyn Published>,
    /// Guards all state. Held for the whole of each call, so that events are published in the order of the
    /// changes.
    state: Mutex<State>,
}

struct State {
    ledger: Ledger<Body>,
    clocks: Clocks,
    past: Remembered,
    /// All records, if this store is to be restarted: the journal of a store without a disk.
    journal: Option<Vec<Record>>,
    /// How often it was started.
    starts: u32,
    open: bool,
}

/// The posts that the ledger has forgotten, each with its seq and its fingerprint, and when it was forgotten
/// by the clock of post ids, unix seconds.
type Remembered = BTreeMap<(MailboxId, u64, PostId), (u64, ShortFingerprint, u64)>;

/// What a power cut would leave of a store that keeps a journal. See [`MemoryStore::image`].
#[derive(Debug, Clone)]
pub struct MemoryImage {
    incarnation: Incarnation,
    journal: Vec<Record>,
    past: Remembered,
    /// How often a store was opened on it.
    starts: u32,
}

impl MemoryStore {
    /// An empty store. The randomness makes its incarnation and the keys of its hash tables.
    pub fn new(
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        published: Arc<dyn Published>,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        let ledger = Ledger::new(policy, [rng.next_u64(), rng.next_u64()]);
        Self::with(ledger, None, (Incarnation::random(rng), Remembered::new(), 1), policy, clock, published)
    }

    /// An empty store that keeps all its records, so that [`MemoryStore::image`] works. Its memory only
    /// grows.
    pub fn restartable(
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        published: Arc<dyn Published>,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        let incarnation = Incarnation::random(rng);
        let image = MemoryImage { incarnation, journal: Vec::new(), past: Remembered::new(), starts: 0 };
        Self::reopen(image, policy, clock, published, rng)
    }

    /// Starts again from what [`MemoryStore::image`] left.
    pub fn reopen(
        image: MemoryImage,
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        published: Arc<dyn Published>,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        let mut rebuild = Rebuild::new(policy, [rng.next_u64(), rng.next_u64()]);
        for record in &image.journal {
            rebuild.apply(record, body(record));
        }
        let (ledger, missing) = rebuild.finish();
        debug_assert!(missing.is_empty(), "a journal in memory has no gaps");
        let life = (image.incarnation, image.past, image.starts + 1);
        Self::with(ledger, Some(image.journal), life, policy, clock, published)
    }

    fn with(
        mut ledger: Ledger<Body>,
        journal: Option<Vec<Record>>,
        (incarnation, past, starts): (Incarnation, Remembered, u32),
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        published: Arc<dyn Published>,
    ) -> Self {
        ledger.number_openings(starts);
        let (wall, steady) = (clock.unix_seconds(), clock.monotonic_seconds());
        let clocks = Clocks::new(wall, steady, ledger.latest(), ledger.posts_clock());
        let state = Mutex::new(State { ledger, clocks, past, journal, starts, open: true });
        Self { incarnation: Mutex::new(incarnation), policy, clock, published, state }
    }

    /// What is durable now. `None` unless the store is restartable.
    pub fn image(&self) -> Option<MemoryImage> {
        let state = self.state.lock();
        let (journal, past) = (state.journal.clone()?, state.past.clone());
        Some(MemoryImage { incarnation: self.incarnation(), journal, past, starts: state.starts })
    }

    /// Runs a command: decide, apply, publish.
    fn run(&self, command: Command) -> Result<Outcome<Body>, StoreError> {
        let mut state = self.state.lock();
        self.run_locked(&mut state, command)
    }

    fn run_locked(&self, state: &mut State, command: Command) -> Result<Outcome<Body>, StoreError> {
        if !state.open {
            return Err(StoreError::Stopped);
        }
        let now = self.now(state);
        #[cfg(test)]
        tests::decide_twice(&state.ledger, &command, now);
        let decision = state.ledger.decide(command, now)?;
        for record in decision.records {
            state.ledger.apply(&record, body(&record), &mut |_, _| ());
            if let Some(news) = record.news() {
                news.tell(self.published.as_ref());
            }
            state.journal.iter_mut().for_each(|journal| journal.push(record.clone()));
        }
        while state.ledger.clear(&mut |_, _| ()) {}
        state.ledger.carried_out(&decision.unrecorded);
        self.published.told();
        Ok(decision.outcome)
    }

    fn now(&self, state: &mut State) -> Now {
        state.clocks.now(self.clock.unix_seconds(), self.clock.monotonic_seconds())
    }

    /// Notes posts elsewhere, and lets the ledger forget them (rule 2).
    fn pass(&self, state: &mut State, past: &[Past]) -> Result<(), StoreError> {
        let (posts, now) = (Forget::all(past), self.now(state).posts);
        let old =
            past.iter().map(|past| past.post_id.seconds()).filter(|made| self.policy.is_old(*made, now));
        let before = state.ledger.passed();
        let passed = Passed { made: old.fold(before.made, u64::max), at: now, ..before };
        for Past { mailbox, life, seq, post_id, fingerprint } in past {
            state.past.insert((*mailbox, *life, *post_id), (*seq, *fingerprint, now));
        }
        self.run_locked(state, Command::Forget { posts, passed }).map(drop)
    }

    /// Runs a command whose answer is only that it is done.
    fn quiet(&self, command: Command) -> Later<'static, (), StoreError> {
        ready(self.run(command).map(drop))
    }

    /// Looks at the ledger without changing anything.
    fn ask<T>(&self, question: impl FnOnce(&Ledger<Body>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let state = self.state.lock();
        if state.open { question(&state.ledger) } else { Err(StoreError::Stopped) }
    }
}

/// The body of a record, which in this engine is also its place.
fn body(record: &Record) -> Body {
    let turn = record.stored().and_then(|(_, stored)| stored.turn);
    Body { bytes: record.body().cloned().unwrap_or_default(), turn }
}

/// An answer that needs no waiting.
fn ready<T: Send + 'static>(result: Result<T, StoreError>) -> Later<'static, T, StoreError> {
    Box::pin(std::future::ready(result))
}

impl MemoryStore {
    fn of_blob(&self, command: Command) -> Later<'_, BlobView, StoreError> {
        ready(self.run(command).map(Outcome::blob))
    }
}

impl Blobs for MemoryStore {
    fn may_create_blob(&self, new: NewBlob) -> Later<'_, Option<BlobView>, StoreError> {
        ready(self.ask(|ledger| ledger.may_create_blob(&new)))
    }

    fn create_blob(&self, new: NewBlob, spent: Spent) -> Later<'_, BlobView, StoreError> {
        self.of_blob(Command::CreateBlob(new, spent))
    }

    fn blob(&self, blob: BlobId) -> Later<'_, BlobView, StoreError> {
        ready(self.ask(|ledger| ledger.blob(&blob)))
    }

    fn extend_blob(&self, blob: BlobId, holder: KeyHash, seconds: u32) -> Later<'_, BlobView, StoreError> {
        self.of_blob(Command::ExtendBlob { blob, holder, seconds })
    }

    fn delete_blob(&self, blob: BlobId, holder: KeyHash) -> Later<'_, (), StoreError> {
        self.quiet(Command::DeleteBlob { blob, holder })
    }
}

impl Mailboxes for MemoryStore {
    fn may_create(&self, new: NewMailbox) -> Later<'_, bool, StoreError> {
        ready(self.ask(|ledger| ledger.may_create(&new)))
    }

    fn create(&self, new: NewMailbox, spent: Spent) -> Later<'_, (), StoreError> {
        self.quiet(Command::Create(new, spent))
    }

    fn append(&self, append: Append) -> Later<'_, u64, StoreError> {
        let mut state = self.state.lock();
        let (mailbox, post_id) = (append.mailbox, append.post_id);
        ready(match self.run_locked(&mut state, Command::Append(append.clone())) {
            Ok(outcome) => Ok(outcome.posted()),
            Err(StoreError::PostIdTime { now }) => {
                match state.past.get(&(mailbox, state.ledger.life(&mailbox), post_id)) {
                    Some((seq, known, _)) if append.is_known_as(known) => Ok(*seq),
                    Some(_) => Err(StoreError::PostIdReused),
                    None => Err(StoreError::PostIdTime { now }),
                }
            }
            Err(error) => Err(error),
        })
    }

    fn posts_time(&self) -> u64 {
        self.now(&mut self.state.lock()).posts
    }

    fn may_open(&self, open: OpenReader) -> Later<'_, (), StoreError> {
        ready(self.ask(|ledger| ledger.may_open(&open)))
    }

    fn open(&self, open: OpenReader) -> Later<'_, ReaderView, StoreError> {
        ready(self.run(Command::Open(open)).map(Outcome::opened))
    }

    fn read(&self, mailbox: MailboxId, range: ReadRange) -> Later<'_, Vec<Stored>, StoreError> {
        ready(self.ask(|ledger| {
            let held = ledger.read(&mailbox, range)?.into_iter();
            let stored = held.map(|held| Stored {
                seq: held.seq,
                post_id: held.post_id,
                envelope: held.place.bytes,
                turn: held.place.turn,
            });
            Ok(stored.collect())
        }))
    }

    fn advance(&self, to: Advance) -> Later<'_, (), StoreError> {
        self.quiet(Command::Advance(to))
    }

    fn advance_soon(&self, to: Advance) {
        // Here it costs nothing to do it at once, and what is refused is nobody's concern.
        let _ = self.run(Command::Advance(to));
    }

    fn signal(&self, mailbox: MailboxId, post_key: KeyHash, payload: Bytes) -> Later<'_, usize, StoreError> {
        let checked = self.ask(|ledger| ledger.check_post_key(&mailbox, &post_key));
        ready(checked.map(|()| self.published.signalled(&mailbox, &payload)))
    }

    fn destroy(&self, mailbox: MailboxId, turn_key: KeyHash) -> Later<'_, (), StoreError> {
        self.quiet(Command::Destroy { mailbox, turn_key })
    }
}

impl Directory for MemoryStore {
    fn mint_invite(&self, invite: NewInvite) -> Later<'_, (), StoreError> {
        self.quiet(Command::MintInvite(invite))
    }

    fn register(&self, new: NewAccount) -> Later<'_, (), StoreError> {
        self.quiet(Command::Register(new))
    }

    fn remove_account(&self, handle: Handle) -> Later<'_, (), StoreError> {
        self.quiet(Command::RemoveAccount(handle))
    }

    fn device(&self, device: DeviceId) -> Later<'_, DeviceRecord, StoreError> {
        ready(self.ask(|ledger| ledger.device(&device)))
    }

    fn publish_card(&self, device: DeviceId, version: u64, card: Bytes) -> Later<'_, (), StoreError> {
        self.quiet(Command::PublishCard { device, version, card })
    }

    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) -> Later<'_, KeyPackageStock, StoreError> {
        let command = Command::PublishKeyPackages { device, one_time, last_resort };
        ready(self.run(command).map(Outcome::stock))
    }

    fn card(&self, handle: Handle) -> Later<'_, CardRecord, StoreError> {
        ready(self.ask(|ledger| {
            let card = ledger.card(&handle)?;
            let bytes = card.place.map(|body| body.bytes).unwrap_or_default();
            Ok(CardRecord { identity_key: card.identity_key, version: card.version, card: bytes })
        }))
    }

    fn take_key_packages(&self, handle: Handle) -> Later<'_, Vec<TakenKeyPackage>, StoreError> {
        let read = |Taken { device, last_resort, place }: Taken<Body>| TakenKeyPackage {
            device,
            key_package: place.bytes,
            last_resort,
        };
        let taken = self.run(Command::TakeKeyPackages(handle)).map(Outcome::taken);
        ready(taken.map(|all| all.into_iter().map(read).collect()))
    }

    fn draw_tokens(
        &self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    ) -> Later<'_, u32, StoreError> {
        ready(self.run(Command::DrawTokens { device, purpose, hashes }).map(Outcome::drawn))
    }

    fn spend(&self, token: KeyHash, on: SpentOn) -> Later<'_, Spent, StoreError> {
        ready(self.run(Command::Spend { token, on }).map(Outcome::spent))
    }

    fn give_back(&self, spent: Spent) -> Later<'_, (), StoreError> {
        self.quiet(Command::GiveBack(spent))
    }
}

impl Store for MemoryStore {
    fn incarnation(&self) -> Incarnation {
        *self.incarnation.lock()
    }

    fn renew(&self, next: Incarnation) -> Later<'_, (), StoreError> {
        ready(self.run(Command::Restored).map(|_| *self.incarnation.lock() = next))
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn expire(&self) -> Later<'_, (), StoreError> {
        let mut state = self.state.lock();
        if !state.open {
            return ready(Err(StoreError::Stopped));
        }
        loop {
            match self.run_locked(&mut state, Command::Expire) {
                Ok(Outcome::Expired { more: false, past }) if past.is_empty() => break,
                Ok(Outcome::Expired { past, .. }) => {
                    if let Err(error) = self.pass(&mut state, &past) {
                        return ready(Err(error));
                    }
                }
                Ok(_) => unreachable!("an expiry is answered with what is left of it"),
                Err(error) => return ready(Err(error)),
            }
        }
        let (now, kept) = (self.now(&mut state).posts, u64::from(self.policy.post_id_seconds));
        state.past.retain(|_, (.., at)| *at + kept > now);
        ready(Ok(()))
    }

    fn confirm_clock(&self) -> Later<'_, (), StoreError> {
        let mut state = self.state.lock();
        state.clocks.confirm(self.clock.unix_seconds(), self.clock.monotonic_seconds());
        ready(self.run_locked(&mut state, Command::ConfirmClock).map(drop))
    }

    fn stats(&self) -> Stats {
        let mut state = self.state.lock();
        Stats { expiry_paused: self.now(&mut state).paused, ..state.ledger.stats() }
    }

    fn close(&self) -> Later<'_, (), StoreError> {
        self.state.lock().open = false;
        ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
