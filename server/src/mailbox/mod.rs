//! One mailbox: its lock ([`access`]), its readers ([`readers`]), its log ([`log`]), what it keeps for how
//! long ([`retention`]), and what can change in it ([`change`]).
//!
//! Pure: a request is checked against the present state and answered with the change that it would make.
//! Applying the change is a separate step, so that an engine can make it durable in between, or replay it
//! later. A mailbox knows neither other mailboxes nor accounts, reads no clock and no disk, and holds bodies
//! only by their place `L`.

pub(crate) mod access;
pub(crate) mod change;
mod key;
pub(crate) mod log;
mod pieces;
pub(crate) mod readers;
pub(crate) mod retention;

use std::sync::Arc;

use posthorn_proto::limits::POST_OVERHEAD_BYTES;
use posthorn_proto::{KeyHash, Reader, Turn};

use self::access::{Lock, check_reader_changes};
use self::change::{MailboxChange, Snapshot};
use self::log::{Entry, Freed, Log};
use self::readers::{Moved, Readers};
use self::retention::{DAY, reserve, turn_cost};
use crate::store::keyed::Keyed;
use crate::store::{
    Advance, Append, NewIds, NewMailbox, OpenReader, OpeningNumber, ReaderView, StoreError, StorePolicy,
};

/// A mailbox, with bodies at places `L`.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox<L> {
    /// Version of the record that created it, which tells two mailboxes with the same id apart.
    pub(crate) life: u64,
    /// Version of the newest record about it.
    pub(crate) version: u64,
    /// Version of the newest record that states all of it but the log: `Created` or a snapshot.
    pub(crate) stated: u64,
    pub(crate) lock: Lock,
    pub(crate) readers: Readers,
    pub(crate) log: Log<L>,
    quota: u64,
    /// The beginning of the hash of the token that paid for it, by which a repeated creation is recognised.
    paid: u64,
    expiry: u32,
    /// The last day (unix seconds / 86,400) on which it was opened, or else that of its creation.
    opened: u32,
    /// When the ledger will look at it next, unix seconds. Only the ledger writes it.
    pub(crate) scheduled: u32,
    /// Only the ledger writes it.
    pub(crate) noted: NotedRows,
}

/// Which rows of a mailbox were noted last for a checkpoint: of which checkpoint (0 = none yet), and the low
/// bits of the number of a row of posts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NotedRows {
    pub(crate) checkpoint: u32,
    pub(crate) posts: Option<u32>,
}

/// What becomes of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is a repeat of the one at this seq.
    Repeated(u64),
    /// It is to be made, by this change.
    Accepted(MailboxChange),
}

/// The record by which a change is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// The record's version.
    pub(crate) version: u64,
    /// The record's time, unix seconds.
    pub(crate) time: u32,
}

/// An entry that is not the next one of the log, as happens only while a store is rebuilt.
pub(crate) type Stray<L> = Option<(u64, Entry<L>)>;

/// The part of a token's hash that a mailbox keeps.
pub(crate) fn paid_with(token: &KeyHash) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|at| token.0[at]))
}

impl<L: Clone + PartialEq> Mailbox<L> {
    /// A new mailbox, created by the record `at`.
    pub(crate) fn create(new: &NewMailbox, at: At) -> Self {
        Self {
            life: at.version,
            version: at.version,
            stated: at.version,
            lock: Lock { post_key: new.post_key, turn_key: new.turn_key },
            readers: Readers::new(&new.readers),
            log: Log::new(0, 1),
            quota: new.quota,
            paid: paid_with(&new.token),
            expiry: new.expiry,
            opened: day(u64::from(at.time)),
            scheduled: u32::MAX,
            noted: NotedRows::default(),
        }
    }

    /// Whether it is what this request would make, and nothing has happened to it since.
    pub(crate) fn is_as_created(&self, new: &NewMailbox) -> bool {
        self.log.head() == 0
            && self.lock == Lock { post_key: new.post_key, turn_key: new.turn_key }
            && (self.expiry, self.quota, self.paid) == (new.expiry, new.quota, paid_with(&new.token))
            && self.readers == Readers::new(&new.readers)
    }

    /// Whether an append may be made. The order of the checks is part of the contract: post id, keys, turn,
    /// quota.
    pub(crate) fn append(
        &self,
        append: Append,
        new_ids: &NewIds,
        keyed: &Keyed,
        policy: &StorePolicy,
    ) -> Result<Verdict, StoreError> {
        if let Some((seq, entry)) = self.log.find(&append.post_id, keyed) {
            let same = append.is_known_as(&entry.fingerprint);
            return if same { Ok(Verdict::Repeated(seq)) } else { Err(StoreError::PostIdReused) };
        }
        // An id that a new post may have is held in memory if there was a post with it.
        new_ids.check(&append.post_id)?;
        self.lock.check(&append.post_key, append.turn.as_ref().map(|(key, _)| key))?;
        let seq = self.log.head() + 1;
        let mut oldest = self.log.oldest();
        let Append { post_id, turn, envelope, fingerprint, .. } = append;
        let turn = turn.map(|(_, turn)| turn);
        if let Some(turn) = &turn {
            check_reader_changes(turn, &self.readers, policy.readers_per_mailbox)?;
            oldest = self.at_once(self.readers.settle_after(turn, seq, oldest));
        }
        let bytes = stored_bytes(envelope.len(), turn.as_ref());
        let room = if turn.is_some() { self.quota } else { self.quota - reserve(self.quota) };
        if self.log.cost() + POST_OVERHEAD_BYTES + u64::from(bytes) > room {
            return Err(StoreError::MailboxFull);
        }
        Ok(Verdict::Accepted(MailboxChange::Posted {
            seq,
            oldest,
            post_id,
            fingerprint,
            turn: turn.map(Arc::new),
            envelope,
        }))
    }

    /// Opens as a reader, with a number above `newest`. Returns the view and up to two changes: the claim
    /// that was made good, the day noted.
    pub(crate) fn open(
        &self,
        open: &OpenReader,
        newest: OpeningNumber,
        now: u64,
    ) -> Result<(ReaderView, Vec<MailboxChange>), StoreError> {
        let opened = self.readers.open(open)?;
        let mut changes = Vec::new();
        if opened.claims {
            changes.push(MailboxChange::Claimed { reader: open.reader, key: open.key });
        }
        if day(now) > self.opened {
            changes.push(MailboxChange::Opened { day: day(now) });
        }
        let view = ReaderView {
            opening: OpeningNumber(opened.latest.max(newest).0.saturating_add(1)),
            head: self.log.head(),
            oldest: self.log.oldest(),
            cursor: opened.cursor,
            until: opened.until,
            post_key: self.lock.post_key,
            turn_key: self.lock.turn_key,
        };
        Ok((view, changes))
    }

    /// The change that this acknowledgement makes; `None` if the cursor stays.
    pub(crate) fn advance(&self, to: &Advance) -> Result<Option<MailboxChange>, StoreError> {
        let Advance { reader, opening, seq, .. } = *to;
        let moved = self.readers.advance_to(&reader, opening, seq, self.log.head())?;
        Ok(moved.map(|Moved { cursor, opening }| {
            let oldest = self.at_once(self.readers.settle(self.log.oldest(), Some((&reader, cursor))));
            MailboxChange::Advanced { reader, cursor, oldest, opening }
        }))
    }

    /// Makes a change. Idempotent: what an equal or later record has already said stays. `place` is where the
    /// record lies. No configuration comes in: the same records make the same mailbox wherever they are
    /// applied.
    pub(crate) fn apply(
        &mut self,
        change: &MailboxChange,
        at: At,
        place: L,
        keyed: &Keyed,
        freed: Freed<'_, L>,
    ) -> Stray<L> {
        let newer = at.version > self.version;
        self.version = self.version.max(at.version);
        match change {
            MailboxChange::Posted { seq, oldest, post_id, fingerprint, turn, envelope } => {
                let bytes = stored_bytes(envelope.len(), turn.as_deref());
                let entry = Entry {
                    post_id: *post_id,
                    fingerprint: *fingerprint,
                    time: at.time,
                    bytes,
                    place: Some(place),
                };
                let stray = self.log.insert(*seq, entry, keyed, freed).err();
                if let (Some(turn), true) = (turn, newer) {
                    self.lock = Lock { post_key: turn.post_key_hash, turn_key: turn.turn_key_hash };
                    self.readers.turn(turn, *seq);
                }
                self.trim(*oldest, freed);
                return stray.map(|entry| (*seq, entry));
            }
            MailboxChange::Mark { seq, post_id, fingerprint } => {
                let entry = Entry {
                    post_id: *post_id,
                    fingerprint: *fingerprint,
                    time: at.time,
                    bytes: 0,
                    place: None,
                };
                return self.log.insert(*seq, entry, keyed, freed).err().map(|entry| (*seq, entry));
            }
            MailboxChange::Advanced { reader, cursor, oldest, opening } => {
                self.readers.set_cursor(reader, Moved { cursor: *cursor, opening: *opening });
                self.trim(*oldest, freed);
            }
            MailboxChange::Claimed { reader, key } if newer => self.readers.claim(reader, *key),
            MailboxChange::Opened { day } => self.opened = self.opened.max(*day),
            MailboxChange::Cut { oldest, forgotten } => {
                self.trim(*oldest, freed);
                self.log.forget(*forgotten, keyed);
            }
            MailboxChange::Snapshot(snapshot) => self.restate(snapshot, at, keyed, freed),
            MailboxChange::Claimed { .. } | MailboxChange::Removed => {}
        }
        None
    }

    fn trim(&mut self, oldest: u64, freed: Freed<'_, L>) {
        if oldest > self.log.oldest() {
            self.log.trim(oldest, freed);
            self.readers.trimmed(oldest);
        }
    }

    /// Takes over what a snapshot states, unless something later is known. What its time allowed to drop is
    /// dropped.
    fn restate(&mut self, snapshot: &Snapshot, at: At, keyed: &Keyed, freed: Freed<'_, L>) {
        if at.version < self.version {
            return;
        }
        let log = std::mem::replace(&mut self.log, Log::new(0, 1));
        *self = Self { log, scheduled: self.scheduled, ..Self::restore(snapshot, self.life, at.version) };
        self.trim(snapshot.oldest, freed);
        self.log.forget(snapshot.forgotten, keyed);
    }

    /// The mailbox that a snapshot states, with a log of which only the ends are known.
    pub(crate) fn restore(snapshot: &Snapshot, life: u64, version: u64) -> Self {
        Self {
            life,
            version,
            stated: version,
            lock: Lock { post_key: snapshot.post_key, turn_key: snapshot.turn_key },
            readers: Readers::restore(snapshot.active.clone(), snapshot.evicted.clone()),
            log: Log::new(snapshot.forgotten, snapshot.oldest),
            quota: snapshot.quota,
            paid: snapshot.paid,
            expiry: snapshot.expiry,
            opened: snapshot.opened,
            scheduled: u32::MAX,
            noted: NotedRows::default(),
        }
    }

    /// States everything but the log.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            head: self.log.head(),
            oldest: self.log.oldest(),
            forgotten: self.log.forgotten(),
            post_key: self.lock.post_key,
            turn_key: self.lock.turn_key,
            quota: self.quota,
            paid: self.paid,
            expiry: self.expiry,
            opened: self.opened,
            active: self.readers.all_active().to_vec(),
            evicted: self.readers.evicted().to_vec(),
        }
    }

    /// Most posts that its quota lets it hold in memory.
    pub(crate) fn most_posts(&self) -> u64 {
        self.quota / POST_OVERHEAD_BYTES
    }

    /// The last day on which it was opened.
    pub(crate) fn opened(&self) -> u32 {
        self.opened
    }
}

/// What an envelope and its turn take of the quota while stored, bytes.
pub(crate) fn stored_bytes(envelope: usize, turn: Option<&Turn>) -> u32 {
    u32::try_from(envelope as u64 + turn.map_or(0, turn_cost)).unwrap_or(u32::MAX)
}

/// The day, in unix seconds / 86,400, of a time in unix seconds.
pub(crate) fn day(now: u64) -> u32 {
    u32::try_from(now / DAY).unwrap_or(u32::MAX)
}

/// Checks the first readers of a mailbox: each only once, and within the limit.
pub(crate) fn check_first_readers(readers: &[Reader], limit: usize) -> Result<(), StoreError> {
    let mut ids: Vec<_> = readers.iter().map(|reader| reader.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StoreError::BadTurn("a reader is admitted twice"));
    }
    if ids.len() > limit { Err(StoreError::BadTurn("too many readers")) } else { Ok(()) }
}
