//! Upkeep between rounds: getting the space of superseded records back, a step at a time.
//!
//! Decides *when*; the journal knows how segments are emptied, and the ledger which records are needed. How much of a segment is
//! needed is counted as envelopes come and go; records that state something (a cursor, a key) are superseded without a word, so
//! each segment is also counted anew from time to time, which errs on neither side.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::damage::stretch;
use super::journal::compact::{CompactError, Compaction, Keep, Liveness};
use super::journal::{Damage, Fatal, Journal, Location};
use super::shared::Shared;
use super::{KIND_MARK, KIND_RECORD};
use crate::store::ledger::Record;

/// A segment is emptied when at most this part of it is needed: what is carried forward is at most half of what is written.
const LIVE_PERCENT: u64 = 50;
/// Segments counted anew whenever a segment is begun.
const RECOUNT_AT_ONCE: usize = 2;

/// What is under way.
#[derive(Default)]
pub(super) struct Upkeep {
    work: Option<Compaction>,
    /// To be counted anew, while nobody waits.
    recount: VecDeque<u32>,
    /// The current segment when it was last looked at.
    current: u32,
    /// Where the round of recounts has come to.
    counted: u32,
    /// There was no space to carry anything; the version that the ledger had. Tried again when a segment is begun, or when so much has
    /// happened since that something may have been freed.
    stuck: Option<u64>,
    /// A segment was just emptied, or turned out not to be worth it: there may be another.
    again: bool,
}

/// Records after which a compaction that found no space is tried again.
const RETRY_RECORDS: u64 = 64;

impl Upkeep {
    /// After a start all segments are counted: what was freed before is not known.
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
    pub(super) fn step(&mut self, journal: &mut Journal, shared: &Arc<Shared>, is_idle: bool) -> Result<(), Fatal> {
        self.notice_new_segment(journal);
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
                Err(CompactError::Full) => self.stuck = Some(shared.ledger.read().version()),
                Err(CompactError::Damaged(segment)) => tracing::error!(segment, "a damaged journal segment is kept"),
                Err(CompactError::Fatal(fatal)) => return Err(fatal),
            }
            let version = shared.ledger.read().version();
            shared.publish(version, journal.position());
        } else if is_idle && let Some(segment) = self.recount.pop_front() {
            count(journal, shared, segment);
        }
        Ok(())
    }

    fn notice_new_segment(&mut self, journal: &Journal) {
        let current = journal.position().segment;
        if current == self.current {
            return;
        }
        (self.current, self.stuck) = (current, None);
        for _ in 0..RECOUNT_AT_ONCE {
            let sealed = |from: u32| journal.segments().range(from..current).next().map(|(number, _)| *number);
            let Some(next) = sealed(self.counted + 1).or_else(|| sealed(0)) else { break };
            self.counted = next;
            if !self.recount.contains(&next) {
                self.recount.push_back(next);
            }
        }
    }

    /// A segment that is worth emptying by an exact count.
    fn choose(&mut self, journal: &mut Journal, shared: &Arc<Shared>) -> Option<Compaction> {
        if let Some(version) = self.stuck {
            if shared.ledger.read().version() < version + RETRY_RECORDS {
                return None;
            }
            self.stuck = None;
        }
        let segment = journal.worst_segment(LIVE_PERCENT)?;
        let counted = count(journal, shared, segment);
        let len = journal.segments().get(&segment)?.len;
        let found = counted.filter(|(_, live)| live * 100 <= len * LIVE_PERCENT).map(|(work, _)| work);
        // This one is not taken again as it is counted now; another may be worth it.
        self.again = found.is_none();
        found
    }
}

/// Counts what is needed of a segment.
fn count(journal: &mut Journal, shared: &Arc<Shared>, segment: u32) -> Option<(Compaction, u64)> {
    if !journal.segments().contains_key(&segment) {
        return None;
    }
    let work = match journal.start_compaction(segment) {
        Ok(work) => work,
        Err(error) => {
            tracing::error!(%error, "a journal segment cannot be read back whole; it is kept");
            shared.damage.found(stretch(&Damage {
                segment,
                offset: 0,
                len: 0,
                what: "part of the segment (it is kept)",
            }));
            return None;
        }
    };
    let live = work.count(&Owner::new(journal, shared, segment));
    journal.recounted(segment, live);
    Some((work, live))
}

/// The ledger, as the owner of a segment's records.
struct Owner<'a> {
    shared: &'a Shared,
    /// Tombstones up to this version bury nothing any more when the segment is gone.
    floor: u64,
}

impl<'a> Owner<'a> {
    fn new(journal: &Journal, shared: &'a Shared, segment: u32) -> Self {
        let oldest = journal.segments().iter().find(|(number, _)| **number != segment);
        Self { shared, floor: oldest.map_or(0, |(_, usage)| usage.stamp) }
    }
}

impl Liveness for Owner<'_> {
    fn keep(&self, at: Location, kind: u8, payload: &[u8]) -> Keep {
        if kind == KIND_MARK {
            return Keep::default();
        }
        let Ok(record) = Record::decode(Bytes::copy_from_slice(payload)) else {
            // What is not understood is not thrown away.
            return Keep { copy: true, write: Vec::new() };
        };
        let keep = self.shared.ledger.read().keep(&record, &at, self.floor);
        let encode = |record: &Record| {
            let mut out = Vec::new();
            record.encode(&mut out);
            (KIND_RECORD, out)
        };
        Keep { copy: keep.copy, write: keep.write.iter().map(encode).collect() }
    }

    fn carried(&mut self, _: Location, _: u8, payload: &[u8], keep: &Keep, to: &[Location]) {
        let written = keep.write.iter().map(|(_, payload)| &payload[..]).chain(keep.copy.then_some(payload));
        let mut ledger = self.shared.ledger.write();
        for (payload, place) in written.zip(to) {
            if let Ok(record) = Record::decode(Bytes::copy_from_slice(payload)) {
                // What is freed lies in the segment that goes.
                ledger.apply(&record, *place, &mut |_, _| ());
            }
            self.shared.applied(*place);
        }
    }
}
