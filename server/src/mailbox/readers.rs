//! The readers of a mailbox: who may read, how far each has acknowledged, and so what may be trimmed.
//!
//! Active readers are sorted by id. An evicted reader stays for as long as there is something that it may
//! still read, and holds no trimming back. Of envelopes only the seqs are known here.

use posthorn_proto::{KeyHash, Reader, ReaderId, Turn};

use super::key::same_key;
use crate::store::{OpenReader, StoreError};

/// A reader that may read everything that is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) id: ReaderId,
    pub(crate) key: KeyHash,
    /// Newest seq acknowledged.
    pub(crate) cursor: u64,
}

/// A reader that may read up to the append that evicted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) reader: Active,
    /// The seq of that append. It is always above the cursor, or else the reader is gone.
    pub(crate) until: u64,
}

/// All readers of one mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Readers {
    active: Box<[Active]>,
    /// In order of eviction. `None` while there are none, which is nearly always.
    #[allow(clippy::box_collection, reason = "8 bytes in every mailbox instead of 24")]
    evicted: Option<Box<Vec<Evicted>>>,
}

/// What opening as a reader comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) cursor: u64,
    pub(crate) until: Option<u64>,
    /// Whether the presented key must replace the reader's.
    pub(crate) claims: bool,
}

impl Readers {
    /// The first readers of a mailbox, with their cursors at 0. The caller has refused duplicates.
    pub(crate) fn new(readers: &[Reader]) -> Self {
        let active = |reader: &Reader| Active { id: reader.id, key: reader.key_hash, cursor: 0 };
        Self::restore(readers.iter().map(active).collect(), Vec::new())
    }

    /// Readers as a snapshot states them.
    pub(crate) fn restore(mut active: Vec<Active>, evicted: Vec<Evicted>) -> Self {
        active.sort_unstable_by_key(|reader| reader.id);
        Self { active: active.into_boxed_slice(), evicted: (!evicted.is_empty()).then(|| Box::new(evicted)) }
    }

    /// How many readers are active.
    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }

    /// How many readers are kept in memory, evicted ones included.
    pub(crate) fn count(&self) -> usize {
        self.active.len() + self.evicted().len()
    }

    /// The active readers, in order of id.
    pub(crate) fn all_active(&self) -> &[Active] {
        &self.active
    }

    /// The evicted readers, in order of eviction.
    pub(crate) fn evicted(&self) -> &[Evicted] {
        self.evicted.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether the reader is there and not evicted.
    pub(crate) fn is_active(&self, id: &ReaderId) -> bool {
        self.find(id).is_some()
    }

    /// The reader's cursor, evicted or not.
    pub(crate) fn cursor(&self, id: &ReaderId) -> Option<u64> {
        self.find(id)
            .map(|at| self.active[at].cursor)
            .or_else(|| self.find_evicted(id).map(|found| found.reader.cursor))
    }

    fn find(&self, id: &ReaderId) -> Option<usize> {
        self.active.binary_search_by_key(id, |reader| reader.id).ok()
    }

    fn find_evicted(&self, id: &ReaderId) -> Option<&Evicted> {
        self.evicted().iter().find(|evicted| evicted.reader.id == *id)
    }

    /// Checks the reader's key. If it is the one-time key that fits, it has to be replaced.
    pub(crate) fn open(&self, open: &OpenReader) -> Result<Opened, StoreError> {
        let (reader, until) = match (self.find(&open.reader), self.find_evicted(&open.reader)) {
            (Some(at), _) => (&self.active[at], None),
            (None, Some(evicted)) => (&evicted.reader, Some(evicted.until)),
            (None, None) => return Err(StoreError::ReaderUnknown),
        };
        let (fits, claim_fits) = (
            same_key(&reader.key, &open.key),
            open.claim.as_ref().is_some_and(|claim| same_key(&reader.key, claim)),
        );
        if !fits && !claim_fits {
            return Err(StoreError::ReadKeyWrong);
        }
        Ok(Opened { cursor: reader.cursor, until, claims: !fits })
    }

    /// Replaces a reader's key.
    pub(crate) fn claim(&mut self, id: &ReaderId, key: KeyHash) {
        if let Some(at) = self.find(id) {
            self.active[at].key = key;
        } else if let Some(evicted) =
            self.evicted.iter_mut().flat_map(|all| all.iter_mut()).find(|e| e.reader.id == *id)
        {
            evicted.reader.key = key;
        }
    }

    /// Where acknowledging `seq` puts the reader's cursor; `None` if it stays. The cursor of an evicted
    /// reader stops where that reader must stop reading.
    pub(crate) fn advance_to(&self, id: &ReaderId, seq: u64, head: u64) -> Result<Option<u64>, StoreError> {
        let (cursor, end) = match (self.find(id), self.find_evicted(id)) {
            (Some(at), _) => (self.active[at].cursor, head),
            (None, Some(evicted)) => (evicted.reader.cursor, evicted.until),
            (None, None) => return Err(StoreError::ReaderUnknown),
        };
        let to = seq.min(end);
        Ok((to > cursor).then_some(to))
    }

    /// Moves a cursor, and never back. An evicted reader that has read everything it may is dropped.
    pub(crate) fn set_cursor(&mut self, id: &ReaderId, cursor: u64) {
        if let Some(at) = self.find(id) {
            self.active[at].cursor = self.active[at].cursor.max(cursor);
        } else if let Some(all) = &mut self.evicted {
            if let Some(evicted) = all.iter_mut().find(|evicted| evicted.reader.id == *id) {
                evicted.reader.cursor = evicted.reader.cursor.max(cursor);
            }
            self.drop_evicted(|evicted| evicted.reader.cursor >= evicted.until);
        }
    }

    /// Drops evicted readers of whom the last envelope they may read is no longer stored.
    pub(crate) fn trimmed(&mut self, oldest: u64) {
        self.drop_evicted(|evicted| evicted.until < oldest);
    }

    fn drop_evicted(&mut self, gone: impl Fn(&Evicted) -> bool) {
        if let Some(all) = &mut self.evicted {
            all.retain(|evicted| !gone(evicted));
            if all.is_empty() {
                self.evicted = None;
            }
        }
    }

    /// Evicts and admits as the append of this seq says. Of the evicted readers only the newest are kept, at
    /// most `limit` of them, so that turns cannot fill memory.
    pub(crate) fn turn(&mut self, turn: &Turn, seq: u64, limit: usize) {
        let mut active = std::mem::take(&mut self.active).into_vec();
        if !turn.evict.is_empty() {
            let mut leaving: Vec<ReaderId> = turn.evict.clone();
            leaving.sort_unstable();
            let evicted = self.evicted.get_or_insert_default();
            active.retain(|reader| {
                let leaves = leaving.binary_search(&reader.id).is_ok();
                if leaves {
                    evicted.push(Evicted { reader: *reader, until: seq });
                }
                !leaves
            });
        }
        if !turn.admit.is_empty() {
            let mut coming: Vec<ReaderId> = turn.admit.iter().map(|reader| reader.id).collect();
            coming.sort_unstable();
            self.drop_evicted(|evicted| coming.binary_search(&evicted.reader.id).is_ok());
            let admitted =
                turn.admit.iter().map(|reader| Active { id: reader.id, key: reader.key_hash, cursor: seq });
            active.extend(admitted);
            active.sort_by_key(|reader| reader.id);
            active.dedup_by_key(|reader| reader.id);
        }
        self.active = active.into_boxed_slice();
        if let Some(evicted) = &mut self.evicted {
            let surplus = evicted.len().saturating_sub(limit);
            evicted.drain(..surplus);
        }
        self.drop_evicted(|_| false);
    }

    /// The oldest seq that must stay stored, given that `oldest` is the oldest stored now: everything below
    /// it was acknowledged by every reader that holds trimming back. A reader that has already missed
    /// something, because it expired, holds nothing back (R3); and with nobody to wait for, only expiry
    /// trims. `ahead` is a cursor that is about to be set.
    pub(crate) fn settle(&self, oldest: u64, ahead: Option<(&ReaderId, u64)>) -> u64 {
        let mut low = None::<u64>;
        for reader in &self.active {
            let cursor = match ahead {
                Some((id, cursor)) if *id == reader.id => cursor.max(reader.cursor),
                _ => reader.cursor,
            };
            if cursor.checked_add(1) == Some(oldest) {
                return oldest;
            }
            if cursor >= oldest {
                low = Some(low.map_or(cursor, |low| low.min(cursor)));
            }
        }
        low.map_or(oldest, |low| low.saturating_add(1))
    }
}
