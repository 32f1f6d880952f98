//! The readers of a mailbox: who may read, how far each has acknowledged, and so what may be trimmed.
//!
//! Active readers are sorted by id. An evicted reader stays for as long as there is something that it may
//! still read, and holds no trimming back. Of envelopes only the seqs are known here.

use std::collections::BTreeMap;

use posthorn_proto::{KeyHash, Reader, ReaderId, Turn};

use super::key::same_key;
use crate::store::effort::touched;
use crate::store::{OpenReader, OpeningNumber, StoreError};

/// Readers, up to which all cursors are looked at to find the lowest; beyond that counting them is worth its
/// memory.
const COUNT_ABOVE: usize = 64;
/// Evicted readers of one mailbox that are kept, the newest, so that turns cannot fill memory. A constant of
/// the format, because it says what records mean: with another number, or one that can be configured, the
/// same journal would make another state.
pub(crate) const EVICTED_KEPT: usize = 4096;

/// A reader that may read everything that is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) id: ReaderId,
    pub(crate) key: KeyHash,
    /// Newest seq acknowledged.
    pub(crate) cursor: u64,
    /// The latest opening that has moved the cursor; 0 = none yet.
    pub(crate) opening: OpeningNumber,
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
    /// How many active readers have each cursor; only while there are more than [`COUNT_ABOVE`].
    #[allow(clippy::box_collection, reason = "8 bytes in every mailbox instead of 24")]
    cursors: Option<Box<BTreeMap<u64, u32>>>,
    /// In order of eviction. `None` while there are none, which is nearly always.
    #[allow(clippy::box_collection, reason = "8 bytes in every mailbox instead of 24")]
    evicted: Option<Box<Vec<Evicted>>>,
}

/// What opening as a reader comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) cursor: u64,
    pub(crate) until: Option<u64>,
    /// The latest opening that has moved the cursor.
    pub(crate) latest: OpeningNumber,
    /// Whether the presented key must replace the reader's.
    pub(crate) claims: bool,
}

/// What acknowledging comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) cursor: u64,
    /// The opening that moves it, if it is the first time that this one does.
    pub(crate) opening: Option<OpeningNumber>,
}

impl Active {
    /// A reader that comes with this cursor.
    fn new(reader: &Reader, cursor: u64) -> Self {
        Self { id: reader.id, key: reader.key_hash, cursor, opening: OpeningNumber::default() }
    }

    fn moved_by(&mut self, opening: Option<OpeningNumber>) {
        self.opening = self.opening.max(opening.unwrap_or_default());
    }
}

impl Readers {
    /// The first readers of a mailbox, with their cursors at 0. The caller has refused duplicates.
    pub(crate) fn new(readers: &[Reader]) -> Self {
        Self::restore(readers.iter().map(|reader| Active::new(reader, 0)).collect(), Vec::new())
    }

    /// Readers as a snapshot states them.
    pub(crate) fn restore(mut active: Vec<Active>, evicted: Vec<Evicted>) -> Self {
        active.sort_unstable_by_key(|reader| reader.id);
        let evicted = (!evicted.is_empty()).then(|| Box::new(evicted));
        Self { cursors: count(&active), active: active.into_boxed_slice(), evicted }
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

    /// The reader, evicted or not.
    pub(crate) fn get(&self, id: &ReaderId) -> Option<&Active> {
        self.find(id).map(|at| &self.active[at]).or_else(|| self.find_evicted(id).map(|found| &found.reader))
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
        Ok(Opened { cursor: reader.cursor, until, latest: reader.opening, claims: !fits })
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

    /// Where acknowledging `seq` in an opening puts the reader's cursor; `None` if it stays. The cursor of an
    /// evicted reader stops where that reader must stop reading.
    pub(crate) fn advance_to(
        &self,
        id: &ReaderId,
        opening: OpeningNumber,
        seq: u64,
        head: u64,
    ) -> Result<Option<Moved>, StoreError> {
        let (reader, end) = match (self.find(id), self.find_evicted(id)) {
            (Some(at), _) => (&self.active[at], head),
            (None, Some(evicted)) => (&evicted.reader, evicted.until),
            (None, None) => return Err(StoreError::ReaderUnknown),
        };
        if opening < reader.opening {
            return Err(StoreError::OpenedElsewhere);
        }
        let cursor = seq.min(end);
        let opening = (opening > reader.opening).then_some(opening);
        Ok((cursor > reader.cursor).then_some(Moved { cursor, opening }))
    }

    /// Moves a cursor, and never back. An evicted reader that has read everything it may is dropped.
    pub(crate) fn set_cursor(&mut self, id: &ReaderId, Moved { cursor, opening }: Moved) {
        if let Some(at) = self.find(id) {
            self.active[at].moved_by(opening);
            let present = &mut self.active[at].cursor;
            let before = std::mem::replace(present, cursor.max(*present));
            if let Some(cursors) = &mut self.cursors {
                if let Some(count) = cursors.get_mut(&before) {
                    *count -= 1;
                    if *count == 0 {
                        cursors.remove(&before);
                    }
                }
                *cursors.entry(cursor.max(before)).or_insert(0) += 1;
            }
        } else if let Some(all) = &mut self.evicted {
            if let Some(evicted) = all.iter_mut().find(|evicted| evicted.reader.id == *id) {
                evicted.reader.cursor = evicted.reader.cursor.max(cursor);
                evicted.reader.moved_by(opening);
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

    /// Evicts and admits as the append of this seq says. Of the evicted readers only the newest
    /// [`EVICTED_KEPT`] stay.
    pub(crate) fn turn(&mut self, turn: &Turn, seq: u64) {
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
            active.extend(turn.admit.iter().map(|reader| Active::new(reader, seq)));
            active.sort_by_key(|reader| reader.id);
            active.dedup_by_key(|reader| reader.id);
        }
        (self.cursors, self.active) = (count(&active), active.into_boxed_slice());
        if let Some(evicted) = &mut self.evicted {
            let surplus = evicted.len().saturating_sub(EVICTED_KEPT);
            evicted.drain(..surplus);
        }
        self.drop_evicted(|_| false);
    }

    /// The oldest seq that must stay stored, given that `oldest` is the oldest stored now: everything below
    /// it was acknowledged by every reader that holds trimming back. A reader that has already missed
    /// something, because it expired, holds nothing back (R3); and with nobody to wait for, only expiry
    /// trims. `ahead` is a cursor that is about to be set.
    pub(crate) fn settle(&self, oldest: u64, ahead: Option<(&ReaderId, u64)>) -> u64 {
        let Some(cursors) = &self.cursors else {
            let ahead = |reader: &Active| ahead.filter(|(id, _)| **id == reader.id);
            let cursors = self.active.iter().map(|reader| match ahead(reader) {
                Some((_, cursor)) => cursor.max(reader.cursor),
                None => reader.cursor,
            });
            return settled(oldest, cursors);
        };
        let moving = ahead.and_then(|(id, to)| Some((self.active[self.find(id)?].cursor, to)));
        let (from, to) = moving.map_or((None, None), |(from, to)| (Some(from), Some(to.max(from))));
        let stays = |(cursor, count): &(&u64, &u32)| from != Some(**cursor) || **count > 1;
        let waiting = cursors.range(oldest.saturating_sub(1)..).find(stays).map(|(cursor, _)| *cursor);
        settled(oldest, waiting.into_iter().chain(to))
    }

    /// What [`Readers::settle`] will say once this turn has happened, as the append of this seq.
    pub(crate) fn settle_after(&self, turn: &Turn, seq: u64, oldest: u64) -> u64 {
        let mut leaving = turn.evict.clone();
        leaving.sort_unstable();
        let staying = self.active.iter().filter(|reader| leaving.binary_search(&reader.id).is_err());
        let admitted = turn.admit.first().map(|_| seq);
        settled(oldest, staying.map(|reader| reader.cursor).chain(admitted))
    }
}

/// How many readers have each cursor, if there are so many readers that somebody should know.
#[allow(clippy::box_collection, reason = "8 bytes in every mailbox instead of 24")]
fn count(active: &[Active]) -> Option<Box<BTreeMap<u64, u32>>> {
    if active.len() <= COUNT_ABOVE {
        return None;
    }
    let mut cursors = BTreeMap::new();
    for reader in active {
        *cursors.entry(reader.cursor).or_insert(0) += 1;
    }
    Some(Box::new(cursors))
}

/// The seq behind the lowest of the cursors that hold trimming back.
fn settled(oldest: u64, cursors: impl Iterator<Item = u64>) -> u64 {
    let mut low = None::<u64>;
    for cursor in cursors {
        touched(1);
        if cursor.checked_add(1) == Some(oldest) {
            return oldest;
        }
        if cursor >= oldest {
            low = Some(low.map_or(cursor, |low| low.min(cursor)));
        }
    }
    low.map_or(oldest, |low| low.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The readers 0 to n - 1.
    fn readers(n: u16) -> Readers {
        Readers::new(&(0..n).map(|n| Reader { id: id(n), key_hash: KeyHash([0; 32]) }).collect::<Vec<_>>())
    }

    fn id(n: u16) -> ReaderId {
        ReaderId(std::array::from_fn(|at| if at < 2 { n.to_be_bytes()[at] } else { 0 }))
    }

    #[test]
    fn the_lowest_cursor_of_a_large_group_is_what_looking_at_all_would_find() {
        let (mut large, mut oldest, mut random) = (readers(300), 1u64, 7u64);
        assert!(large.cursors.is_some());
        for round in 0..4000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (reader, to) = (id((random >> 33) as u16 % 300), round / 20 + (random >> 50) % 9);
            // Reader 7 is away, until the others were cut off from it by expiry.
            if reader == id(7) {
                continue;
            }
            if round == 2000 {
                oldest += 40;
            }
            let all =
                |large: &Readers, oldest| settled(oldest, large.active.iter().map(|reader| reader.cursor));
            let ahead = large.settle(oldest, Some((&reader, to)));
            large.set_cursor(&reader, Moved { cursor: to, opening: None });
            assert_eq!(large.settle(oldest, None), all(&large, oldest), "round {round}");
            assert_eq!(ahead, all(&large, oldest), "round {round}, before");
            oldest = ahead;
            if round % 100 == 99 {
                let turn = Turn {
                    post_key_hash: KeyHash([1; 32]),
                    turn_key_hash: KeyHash([1; 32]),
                    admit: vec![Reader { id: id(1000 + round as u16), key_hash: KeyHash([0; 32]) }],
                    evict: vec![id(8 + (round / 100) as u16)],
                };
                let told = large.settle_after(&turn, round, oldest);
                large.turn(&turn, round);
                assert_eq!(told, large.settle(oldest, None), "round {round}, a turn");
                assert_eq!(told, all(&large, oldest), "round {round}, a turn");
                oldest = told;
            }
        }
        assert!(oldest > 60, "{oldest}");
    }
}
