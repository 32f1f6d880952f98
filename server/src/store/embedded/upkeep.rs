//! Upkeep between rounds: getting the space of superseded records back, a step at a time.
//!
//! It decides *when*; the journal knows how to empty a segment, and the ledger which records are needed. How
//! much of a segment is needed is estimated as envelopes come and go. Nobody says when a record that states
//! something (a cursor, a day) is superseded. Such records count as not needed from the beginning and, once
//! carried, as needed, so that a wrong estimate makes each be carried at most once. What the estimate cannot
//! know (a carried cursor that was superseded, a post that was forgotten) is found by counting segments
//! again: while nobody asks for anything, or when the journal is much longer than what the ledger holds.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::damage::stretch;
use super::journal::compact::{CompactError, Compaction, Liveness};
use super::journal::{Batch, Damage, Fatal, Journal, Location};
use super::shared::Shared;
use super::{KIND_MARK, KIND_RECORD, MARK_BYTES, read_record};
use crate::store::ledger::{Keep, Record};

/// The most that may be needed of a segment that is emptied, in percent: carrying forward is then at most
/// half of what is written.
const LIVE_PERCENT: u64 = 50;
/// Segments that are counted again for each that is begun, while the journal is too long.
const RECOUNT_AT_ONCE: usize = 4;
/// When the journal is long: it has more than so many times what the ledger holds, and more than so many
/// segments.
const LONG: (u64, u64) = (2, 4);
/// When it is so long that counting does not wait for an idle moment.
const TOO_LONG: (u64, u64) = (3, 8);

/// What upkeep is doing, and what it has yet to do.
#[derive(Default)]
pub(super) struct Upkeep {
    work: Option<Compaction>,
    /// Segments to count again while nobody waits.
    recount: VecDeque<u32>,
    /// The journal's current segment when upkeep last looked.
    current: u32,
    /// The segment that was last counted in the present round of recounts.
    counted: u32,
    /// Set while there is no space to carry anything, to the version that the ledger had. It is tried again
    /// when a segment is begun, or when enough has happened since that something may have been freed.
    stuck: Option<u64>,
    /// Whether a segment was just emptied, or turned out not to be worth it, so that there may be another.
    again: bool,
    /// Segments that could not be read, which are tried again when one is begun.
    set_aside: BTreeSet<u32>,
}

/// Records that must be written before a compaction that found no space is tried again.
const RETRY_RECORDS: u64 = 64;

impl Upkeep {
    /// Upkeep after a start, which counts all segments, because nobody knows what was freed before.
    pub(super) fn after_start(journal: &Journal) -> Self {
        let current = journal.position().segment;
        let recount = journal.segments().keys().copied().filter(|segment| *segment != current).collect();
        Self { recount, current, ..Self::default() }
    }

    /// Whether there is something to do without anybody asking.
    pub(super) fn is_busy(&self) -> bool {
        self.work.is_some() || self.again || !self.recount.is_empty()
    }

    /// Does one step: one batch carried forward, or one segment counted.
    pub(super) fn step(
        &mut self,
        journal: &mut Journal,
        shared: &Arc<Shared>,
        is_idle: bool,
    ) -> Result<(), Fatal> {
        self.notice_new_segment(journal, shared);
        if self.work.is_none() {
            self.again = false;
            self.work = self.choose(journal, shared);
        }
        if let Some(mut work) = self.work.take() {
            journal.stamp(shared.ledger.read().version());
            let mut owner = Owner::new(journal, shared, work.segment());
            match journal.compact_step(&mut work, &mut owner) {
                Ok(true) => {
                    tracing::debug!(segment = work.segment(), "a journal segment was emptied and removed");
                    self.again = true;
                }
                Ok(false) => self.work = Some(work),
                Err(CompactError::Later(_)) => self.stuck = Some(shared.ledger.read().version()),
                Err(CompactError::Fatal(fatal)) => return Err(fatal),
                Err(error) => self.set_aside(shared, &error),
            }
            let version = shared.ledger.read().version();
            shared.publish(version, journal.position());
        } else if (is_idle || is_longer(journal, shared, TOO_LONG))
            && let Some(segment) = self.recount.pop_front()
        {
            self.count(journal, shared, segment);
        }
        Ok(())
    }

    /// A segment cannot be read. If it is damaged it never will be; else it is looked at again later.
    fn set_aside(&mut self, shared: &Shared, error: &CompactError) {
        match error {
            CompactError::Damaged(segment) => report(shared, *segment, error),
            CompactError::Unread(segment, _) => {
                tracing::warn!(%error, "a journal segment is not emptied for now");
                self.set_aside.insert(*segment);
            }
            CompactError::Later(_) | CompactError::Fatal(_) => {}
        }
    }

    /// Counts what is needed of a segment.
    fn count(&mut self, journal: &mut Journal, shared: &Arc<Shared>, segment: u32) {
        if journal.segments().contains_key(&segment)
            && let Err(error) = journal.count(segment, &mut Owner::new(journal, shared, segment))
        {
            self.set_aside(shared, &error);
        }
    }

    fn notice_new_segment(&mut self, journal: &Journal, shared: &Shared) {
        let current = journal.position().segment;
        if current == self.current {
            return;
        }
        (self.current, self.stuck) = (current, None);
        self.set_aside.clear();
        if !is_longer(journal, shared, LONG) {
            return;
        }
        for _ in 0..RECOUNT_AT_ONCE {
            let sealed =
                |from: u32| journal.segments().range(from..current).next().map(|(number, _)| *number);
            let Some(next) = sealed(self.counted + 1).or_else(|| sealed(0)) else { break };
            self.counted = next;
            if !self.recount.contains(&next) {
                self.recount.push_back(next);
            }
        }
    }

    /// A segment that is worth emptying, if there is one.
    fn choose(&mut self, journal: &mut Journal, shared: &Arc<Shared>) -> Option<Compaction> {
        if let Some(version) = self.stuck {
            if shared.ledger.read().version() < version + RETRY_RECORDS {
                return None;
            }
            self.stuck = None;
        }
        let segment = journal.worst_segment(LIVE_PERCENT, &self.set_aside)?;
        let work = journal.start_compaction(segment);
        // This one is not chosen again, but another may be worth it.
        self.again = work.is_err();
        work.inspect_err(|error| self.set_aside(shared, error)).ok()
    }
}

fn is_longer(journal: &Journal, shared: &Shared, (times, segments): (u64, u64)) -> bool {
    let all: u64 = journal.segments().values().map(|usage| usage.len).sum();
    all > times * shared.ledger.read().recorded_bytes(MARK_BYTES) + segments * journal.segment_bytes()
}

fn report(shared: &Shared, segment: u32, error: &CompactError) {
    tracing::error!(%error, "a journal segment cannot be read back whole; it is kept");
    let what = "part of the segment (it is kept)";
    shared.damage.found(stretch(&Damage { segment, offset: 0, len: 0, what }));
}

/// The ledger, as the owner of a segment's records.
struct Owner<'a> {
    shared: &'a Shared,
    /// Tombstones up to this version no longer bury anything once the segment is gone.
    floor: u64,
    /// The record that was last asked about, and what is needed of it. `None` if it is not understood; then
    /// it is copied.
    asked: Option<(Record, Keep)>,
    /// The records to write for it, encoded one behind the other.
    written: Vec<u8>,
    /// Where each of those ends.
    ends: Vec<usize>,
}

impl<'a> Owner<'a> {
    fn new(journal: &Journal, shared: &'a Shared, segment: u32) -> Self {
        let oldest = journal.segments().iter().find(|(number, _)| **number != segment);
        let floor = oldest.map_or(0, |(_, usage)| usage.stamp);
        Self { shared, floor, asked: None, written: Vec::new(), ends: Vec::new() }
    }

    fn apply(&self, record: &Record, place: Location) {
        // The post is remembered already, or its mark would not be needed.
        if record.is_mark() {
            return;
        }
        let mut ledger = self.shared.ledger.write();
        // Whatever this frees lies in the segment that goes anyway.
        ledger.apply(record, place, &mut |_, _| ());
        self.shared.applied(place);
    }
}

impl Liveness for Owner<'_> {
    fn cost(&mut self, at: Location, kind: u8, payload: &Bytes) -> usize {
        self.written.clear();
        self.ends.clear();
        self.asked = None;
        if kind == KIND_MARK {
            return 0;
        }
        let Some(record) = read_record(kind, payload.clone()) else {
            // What this version may ignore, another needs.
            return Batch::cost(payload.len());
        };
        let keep = self.shared.ledger.read().keep(&record, &at, self.floor);
        for record in &keep.write {
            record.encode(&mut self.written);
            self.ends.push(self.written.len());
        }
        let copied = if keep.copy { Batch::cost(payload.len()) } else { 0 };
        self.asked = Some((record, keep));
        self.written.len() + self.ends.len() * Batch::cost(0) + copied
    }

    fn carry(&mut self, _: Location, kind: u8, payload: &Bytes, put: &mut dyn FnMut(u8, &[u8]) -> Location) {
        let Some((record, keep)) = &self.asked else {
            put(kind, payload);
            return;
        };
        let mut start = 0;
        for (record, end) in keep.write.iter().zip(&self.ends) {
            self.apply(record, put(KIND_RECORD, &self.written[start..*end]));
            start = *end;
        }
        if keep.copy {
            self.apply(record, put(kind, payload));
        }
    }
}
