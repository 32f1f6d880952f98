//! What the committer shares with everybody else: the ledger, how far it is durable, and how the store is
//! doing.
//!
//! The ledger runs ahead of the disk, because the committer applies a batch's records before the batch is
//! synced. So whoever has looked at the ledger must wait until what was seen is durable before telling
//! anybody. Waiting never holds the ledger's lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::acknowledged::Acknowledged;
use super::damage::{Known, envelope, stretch};
use super::journal::{Damage, Location, Position, ReadError, Reader};
use super::past::PastIds;
use crate::store::clock::{Clocks, Now};
use crate::store::ledger::{Held, Ledger, Missing, Place, Record, Taken, Unrecorded};
use crate::store::{BlobView, CardRecord, Clock, ReadRange, Stats, StoreError, Stored, TakenKeyPackage};
use posthorn_proto::{BlobId, Handle, MailboxId};

impl Place for Location {
    fn put(&self, out: &mut Vec<u8>) {
        for number in [self.segment, self.offset, self.len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let mut number = || {
            let (bytes, rest) = input.split_first_chunk::<4>()?;
            *input = rest;
            Some(u32::from_le_bytes(*bytes))
        };
        Some(Self { segment: number()?, offset: number()?, len: number()? })
    }
}

/// How far the store is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    /// The version of the newest record on stable storage.
    pub(super) version: u64,
    /// Everything before this place is on stable storage.
    pub(super) end: Position,
    pub(super) state: State,
}

/// Whether the store still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// It has been closed.
    Closed,
    /// The disk failed; the process must stop (rule 19).
    Failed,
}

/// Shared by the committer (the only writer), the checkpointer and all callers.
pub(super) struct Shared {
    pub(super) ledger: RwLock<Ledger<Location>>,
    pub(super) reader: Reader,
    /// What time it is. Whoever asks moves it on.
    clocks: Mutex<Clocks>,
    posts_time: AtomicU64,
    /// The posts that the ledger has forgotten.
    pub(super) past: PastIds,
    durable: watch::Sender<Durable>,
    /// Whether the store has ended, for whoever waits for nothing else: the end of a round wakes all who wait
    /// for `durable`.
    end: watch::Sender<State>,
    /// The place of the newest record in the ledger, durable or not: segment and offset. Written under the
    /// ledger's lock.
    applied: AtomicU64,
    /// Written by the committer, for [`Stats`].
    pub(super) paused: AtomicBool,
    pub(super) full: AtomicBool,
    pub(super) disk_bytes: AtomicU64,
    /// How many requests are not answered yet, and when one was last, or when the first of these was made: in
    /// seconds of the clock that never steps.
    unanswered: AtomicU64,
    moved: AtomicU64,
    /// Acknowledgements that the committer has yet to take.
    pub(super) acknowledged: Acknowledged,
    /// What could not be read back.
    pub(super) damage: Known,
    /// How many readers of each segment there are that was emptied, or may be, before they have read.
    pins: Mutex<BTreeMap<u32, usize>>,
}

/// A place whose segment is not removed for as long as this lives.
pub(super) struct Pinned {
    shared: Arc<Shared>,
    pub(super) place: Location,
}

impl Pinned {
    /// Made by the committer, which alone removes segments, or while the ledger is locked: what the ledger
    /// says to lie in a segment was not carried elsewhere yet, so the segment goes later, and finds this.
    pub(super) fn new(shared: &Arc<Shared>, place: Location) -> Self {
        *shared.pins.lock().entry(place.segment).or_insert(0) += 1;
        Self { shared: Arc::clone(shared), place }
    }
}

/// A request that waits for its answer.
pub(super) struct Unanswered<'a>(&'a Shared);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.told(1);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.place.segment) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.place.segment);
            }
        }
    }
}

impl Shared {
    pub(super) fn new(
        ledger: Ledger<Location>,
        (reader, end): (Reader, Position),
        damage: Known,
        past: PastIds,
        clocks: Clocks,
    ) -> Self {
        let acknowledged = Acknowledged::new(ledger.keyed());
        let durable = Durable { version: ledger.version(), end, state: State::Running };
        Self {
            ledger: RwLock::new(ledger),
            reader,
            clocks: Mutex::new(clocks),
            posts_time: AtomicU64::new(0),
            past,
            durable: watch::Sender::new(durable),
            end: watch::Sender::new(State::Running),
            applied: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            full: AtomicBool::new(false),
            disk_bytes: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            acknowledged,
            damage,
            pins: Mutex::new(BTreeMap::new()),
        }
    }

    /// What time it is now.
    pub(super) fn now(&self, clock: &dyn Clock) -> Now {
        let now = self.clocks.lock().now(clock.unix_seconds(), clock.monotonic_seconds());
        self.paused.store(now.paused, Ordering::Relaxed);
        // Of two who ask at once, the later one may come first.
        self.posts_time.fetch_max(now.posts, Ordering::Relaxed);
        now
    }

    /// The time by which post ids are judged, when it was last asked for: never later than it is.
    pub(super) fn posts_time(&self) -> u64 {
        self.posts_time.load(Ordering::Relaxed)
    }

    /// The operator vouches for the clock.
    pub(super) fn confirm_clock(&self, clock: &dyn Clock) -> Now {
        self.clocks.lock().confirm(clock.unix_seconds(), clock.monotonic_seconds());
        self.now(clock)
    }

    /// Counts a request as unanswered until what is returned is dropped.
    pub(super) fn asked(&self, clock: &dyn Clock) -> Unanswered<'_> {
        self.awaits(clock);
        Unanswered(self)
    }

    /// Counts a request as unanswered until [`Shared::told`].
    pub(super) fn awaits(&self, clock: &dyn Clock) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
            self.moved(clock);
        }
    }

    /// Notes that so many requests were told their answers.
    pub(super) fn told(&self, requests: u64) {
        self.unanswered.fetch_sub(requests, Ordering::Relaxed);
    }

    /// Notes that requests were answered.
    pub(super) fn moved(&self, clock: &dyn Clock) {
        self.moved.store(clock.monotonic_seconds(), Ordering::Relaxed);
    }

    /// Whether somebody is about to read from this segment.
    pub(super) fn is_pinned(&self, segment: u32) -> bool {
        self.pins.lock().contains_key(&segment)
    }

    /// Notes that the committer applied a record that will stand at `place`. The ledger must be locked for
    /// writing.
    pub(super) fn applied(&self, place: Location) {
        self.applied.store(u64::from(place.segment) << 32 | u64::from(place.offset), Ordering::Release);
    }

    /// Notes what no record says of a decision without records.
    pub(super) fn carried_out(&self, unrecorded: &Unrecorded) {
        if *unrecorded != Unrecorded::Nothing {
            self.ledger.write().carried_out(unrecorded);
        }
    }

    /// The place of the newest record in the ledger.
    pub(super) fn newest(&self) -> Position {
        let packed = self.applied.load(Ordering::Acquire);
        Position { segment: (packed >> 32) as u32, offset: packed as u32 }
    }

    /// Notes that the committer synced.
    pub(super) fn publish(&self, version: u64, end: Position) {
        self.durable.send_if_modified(|durable| {
            let changed = (durable.version, durable.end) != (version, end);
            (durable.version, durable.end) = (version, end);
            changed
        });
    }

    /// Notes that the store stopped working.
    pub(super) fn stop(&self, state: State) {
        self.durable.send_modify(|durable| durable.state = state);
        self.end.send_replace(state);
    }

    /// Waits for the end of the store, and says which end it was.
    pub(super) async fn stopped(&self) -> State {
        let mut end = self.end.subscribe();
        end.wait_for(|state| *state != State::Running).await.map_or(State::Closed, |state| *state)
    }

    /// The version of the newest record on stable storage.
    pub(super) fn version(&self) -> u64 {
        self.durable.borrow().version
    }

    /// Waits until what was seen is durable, given the version and the place of its newest record.
    pub(super) async fn until(&self, version: u64, place: Position) -> Result<(), StoreError> {
        let settled = |durable: &Durable| durable.version >= version && durable.end > place;
        let now = *self.durable.borrow();
        if now.state == State::Running && settled(&now) {
            return Ok(());
        }
        let mut durable = self.durable.subscribe();
        let reached = durable.wait_for(|durable| durable.state != State::Running || settled(durable)).await;
        match reached.map(|durable| durable.state) {
            Ok(State::Running) => Ok(()),
            _ => Err(StoreError::Stopped),
        }
    }

    /// Waits until everything that is in the ledger now is durable, even while the store is closing.
    pub(super) async fn settled(&self) -> bool {
        let place = self.newest();
        let mut durable = self.durable.subscribe();
        let reached = durable.wait_for(|durable| durable.state == State::Failed || durable.end > place).await;
        reached.is_ok_and(|durable| durable.state != State::Failed)
    }

    /// Looks something up, and returns it once everything that it may depend on is durable. That goes for
    /// refusals, too, which also disclose something.
    pub(super) async fn look<T>(
        &self,
        question: impl FnOnce(&Ledger<Location>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (answer, place) = {
            let ledger = self.ledger.read();
            (question(&ledger), self.newest())
        };
        self.until(0, place).await?;
        answer
    }

    /// The same for whether something may be done: if so, and nothing is found (`None`), that discloses
    /// nothing and waits for nothing. Doing it waits.
    pub(super) async fn look_whether<T>(
        &self,
        question: impl FnOnce(&Ledger<Location>) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let (answer, newest) = {
            let ledger = self.ledger.read();
            (question(&ledger), self.newest())
        };
        if !matches!(answer, Ok(None)) {
            self.until(0, newest).await?;
        }
        answer
    }

    /// The same for something of one mailbox, without waiting for changes to others.
    pub(super) async fn look_into<T>(
        &self,
        mailbox: &MailboxId,
        question: impl FnOnce(&Ledger<Location>) -> Result<(T, Position), StoreError>,
    ) -> Result<T, StoreError> {
        let (answer, version, newest) = {
            let ledger = self.ledger.read();
            (question(&ledger), ledger.mailbox_version(mailbox), self.newest())
        };
        match answer {
            Ok((answer, place)) => self.until(version, place).await.map(|()| answer),
            Err(error) => self.until(0, newest).await.and(Err(error)),
        }
    }

    /// What is known of a blob, without waiting for what else is changed.
    pub(super) async fn blob(&self, blob: &BlobId) -> Result<BlobView, StoreError> {
        let (answer, version, newest) = {
            let ledger = self.ledger.read();
            (ledger.blob(blob), ledger.blob_version(blob), self.newest())
        };
        match answer {
            Ok(view) => self.until(version, Position { segment: 0, offset: 0 }).await.map(|()| view),
            Err(error) => self.until(0, newest).await.and(Err(error)),
        }
    }

    /// Reads stored envelopes. The answer ends before a damaged one; only if that is the first, the answer is
    /// that it is damaged.
    pub(super) async fn read(
        self: &Arc<Self>,
        mailbox: &MailboxId,
        range: ReadRange,
    ) -> Result<Vec<Stored>, StoreError> {
        let held = self.look_into(mailbox, |ledger| locate(ledger, mailbox, range)).await?;
        if let Some(stored) = read_at_once(&self.reader, &held) {
            return Ok(stored);
        }
        // Now it takes time, in which what is read must not be carried elsewhere and removed.
        let pinned = |ledger: &Ledger<Location>| {
            let (held, last) = locate(ledger, mailbox, range)?;
            let pins: Vec<_> = held.iter().map(|held| Pinned::new(self, held.place)).collect();
            Ok(((held, pins), last))
        };
        let (held, pins) = self.look_into(mailbox, pinned).await?;
        let first = held.first().map(|held| held.seq);
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = read_all(&reader, held);
            drop(pins);
            read
        });
        let read = read.await.map_err(|_| StoreError::Stopped)?;
        read.map_err(|error| {
            if let (ReadError::Damaged(at), Some(seq)) = (&error, first) {
                self.note(*at);
                self.damage.found(envelope(&Missing { mailbox: *mailbox, seq }));
            }
            unreadable(&error)
        })
    }

    /// Notes that the record at this place cannot be read back.
    fn note(&self, at: Location) {
        // As long as for a start that comes across it, so that it counts once.
        let (segment, offset, len) = (at.segment, at.offset, at.footprint() as u32);
        self.damage.found(stretch(&Damage { segment, offset, len, what: "record" }));
    }

    /// The record at a place.
    fn record(&self, place: Location) -> Result<Record, ReadError> {
        record_at(&self.reader, place).inspect_err(|error| {
            if let ReadError::Damaged(at) = error {
                self.note(*at);
            }
        })
    }

    /// Key packages that were handed out, which only the caller has the places of.
    pub(super) async fn key_packages(
        self: &Arc<Self>,
        all: Vec<Taken<Pinned>>,
    ) -> Result<Vec<TakenKeyPackage>, StoreError> {
        let told = |taken: &Taken<Pinned>, record: &Record| TakenKeyPackage {
            device: taken.device,
            key_package: record.body().cloned().unwrap_or_default(),
            last_resort: taken.last_resort,
        };
        let at_once = |taken: &Taken<Pinned>| {
            let record = Record::decode(self.reader.read_at_once(taken.place.place)?).ok()?;
            Some(told(taken, &record))
        };
        if let Some(all) = all.iter().map(at_once).collect() {
            return Ok(all);
        }
        let shared = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let read = |taken: &Taken<Pinned>| Ok(told(taken, &shared.record(taken.place.place)?));
            all.iter().map(read).collect::<Result<_, ReadError>>()
        });
        read.await.map_err(|_| StoreError::Stopped)?.map_err(|error| unreadable(&error))
    }

    /// An account's card.
    pub(super) async fn card(self: &Arc<Self>, handle: &Handle) -> Result<CardRecord, StoreError> {
        let question = |ledger: &Ledger<Location>| {
            let held = ledger.card(handle)?;
            let pin = held.place.map(|place| Pinned::new(self, place));
            Ok((held, pin))
        };
        let (held, pin) = self.look(question).await?;
        let card = match pin.as_ref().map(|pin| self.record(pin.place)) {
            None => Bytes::new(),
            Some(Ok(record)) => record.body().cloned().unwrap_or_default(),
            // Pinned segments are not removed: it is lost.
            Some(Err(ReadError::Gone(_))) => return Err(StoreError::Damaged),
            Some(Err(error)) => return Err(unreadable(&error)),
        };
        Ok(CardRecord { identity_key: held.identity_key, version: held.version, card })
    }

    /// Numbers for the operator.
    pub(super) fn stats(&self, clock: &dyn Clock) -> Stats {
        let waits = self.unanswered.load(Ordering::Relaxed) > 0;
        let (past_since, past_bytes) = self.past.numbers();
        let still = clock.monotonic_seconds().saturating_sub(self.moved.load(Ordering::Relaxed));
        Stats {
            stalled_seconds: if waits { still } else { 0 },
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
            expiry_paused: self.paused.load(Ordering::Relaxed),
            past_bytes,
            past_since,
            damaged: self.damage.count(),
            full: self.full.load(Ordering::Relaxed),
            ..self.ledger.read().stats()
        }
    }
}

/// Where the envelopes lie, and the last of these places.
fn locate(
    ledger: &Ledger<Location>,
    mailbox: &MailboxId,
    range: ReadRange,
) -> Result<(Vec<Held<Location>>, Position), StoreError> {
    let held = ledger.read(mailbox, range)?;
    let last =
        held.iter().map(|held| Position { segment: held.place.segment, offset: held.place.offset }).max();
    Ok((held, last.unwrap_or(Position { segment: 0, offset: 0 })))
}

/// Reads all of them, in segments that are not removed meanwhile: what is not there is lost.
fn read_all(reader: &Reader, held: Vec<Held<Location>>) -> Result<Vec<Stored>, ReadError> {
    let mut all = Vec::with_capacity(held.len());
    for held in held {
        let stored = record_at(reader, held.place).and_then(|record| match record.stored() {
            Some((_, stored)) if stored.seq == held.seq => Ok(stored),
            _ => Err(ReadError::Damaged(held.place)),
        });
        match stored {
            Ok(stored) => all.push(stored),
            Err(ReadError::Gone(_)) if all.is_empty() => return Err(ReadError::Damaged(held.place)),
            Err(error) if all.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(all)
}

/// Reads all of them if all are intact and in the system's cache. Most of what is read was written a moment
/// ago, and a trip to another thread and back costs ten times the reading.
fn read_at_once(reader: &Reader, held: &[Held<Location>]) -> Option<Vec<Stored>> {
    let read = |held: &Held<Location>| {
        let (_, stored) = Record::decode(reader.read_at_once(held.place)?).ok()?.stored()?;
        (stored.seq == held.seq).then_some(stored)
    };
    held.iter().map(read).collect()
}

fn record_at(reader: &Reader, place: Location) -> Result<Record, ReadError> {
    Record::decode(reader.read(place)?).map_err(|_| ReadError::Damaged(place))
}

/// Tells the operator where it is, and the caller that something is wrong.
pub(super) fn unreadable(error: &ReadError) -> StoreError {
    tracing::error!(%error, "a stored record cannot be served");
    match error {
        ReadError::Damaged(_) => StoreError::Damaged,
        ReadError::Gone(_) | ReadError::Io(..) => StoreError::Unavailable,
    }
}
