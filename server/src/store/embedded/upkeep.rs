//! Upkeep beside rounds: getting the space of superseded records back, a small step at a time.
//!
//! It decides *when*; the journal knows how to empty a segment, and the ledger which records are needed. What
//! must be carried forward rides in the batch of a round, behind what was asked, and so does the record that
//! a segment may be gone; the segment is removed once that batch is synced. So emptying costs no sync of its
//! own, and nobody waits for more than a step ([`Effort`]).
//!
//! How much of a segment is needed is estimated as envelopes come and go. Nobody says when a record that
//! states something (a cursor, a day) is superseded. Such records count as not needed from the beginning and,
//! once carried, as needed, so that a wrong estimate makes each be carried at most once. What the estimate
//! cannot know (a carried cursor that was superseded, a post that was forgotten) is found by counting
//! segments again: while nobody asks for anything, or when the journal is much longer than what the ledger
//! holds.
//!
//! What is half needed now may be needed no more in a moment, when readers have acknowledged it. So upkeep is
//! patient ([`Journal::worst_segment`]), unless space is short, the journal is long, or nothing has been
//! written for anybody for some seconds. (The relay itself wakes the store every second.)

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::journal::compact::{Carried, CompactError, Compaction, Count, Effort, Liveness};
use super::journal::{Batch, BeginError, Fatal, Journal, Location};
use super::shared::Shared;
use super::{KIND_MARK, KIND_RECORD, MARK_BYTES, read_record};
use crate::store::ledger::{Keep, Record};

/// Segments that are counted again for each that is begun, while the journal is too long.
const RECOUNT_AT_ONCE: usize = 4;
/// When the journal is long, so that upkeep is no longer patient and counts again: it has more than so many
/// times what the ledger holds, and more than so many segments.
const LONG: (u64, u64) = (2, 4);
/// When it is so long that counting does not wait for an idle moment.
const TOO_LONG: (u64, u64) = (3, 8);

/// What upkeep is doing, and what it has yet to do.
#[derive(Default)]
pub(super) struct Upkeep {
    work: Option<Compaction>,
    /// How much room in a batch the next record to carry is known to need, in bytes.
    least: usize,
    /// The segments that are emptied and not yet removed, each with the segment in which it was last said
    /// that it may be gone.
    leaving: Vec<(u32, u32)>,
    /// The segment that is being counted.
    counting: Option<Count>,
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
    /// When something was last written because somebody asked for it, in seconds of the clock that never
    /// steps; `None` = not yet.
    busy: Option<u64>,
    /// Whether posts were forgotten since all segments were last counted, and when that was.
    forgot: bool,
    counted_all: Option<u64>,
}

/// After how many seconds in which nothing was written for anybody upkeep is no longer patient.
const CALM_SECONDS: u64 = 2;
/// The fewest seconds between two counts of all segments.
const COUNT_SECONDS: u64 = 60;
/// Records that must be written before a compaction that found no space is tried again.
const RETRY_RECORDS: u64 = 64;

impl Upkeep {
    /// Upkeep after a start, which counts all segments, because nobody knows what was freed before.
    pub(super) fn after_start(journal: &Journal) -> Self {
        let current = journal.position().segment;
        let recount = journal.segments().keys().copied().filter(|segment| *segment != current).collect();
        Self { recount, current, ..Self::default() }
    }

    /// Notes that something was written in this second: whether the relay had asked for it itself, and
    /// whether that was to forget posts.
    pub(super) fn wrote(&mut self, is_own: bool, forgets: bool, second: u64) {
        self.busy = if is_own { self.busy } else { Some(second) };
        self.forgot |= forgets;
    }

    /// Whether there is something to do without anybody asking.
    pub(super) fn is_busy(&self) -> bool {
        self.has_to_write() || self.again || self.counting.is_some() || !self.recount.is_empty()
    }

    /// Whether there is something to write. (A segment that somebody still reads from leaves with a later
    /// round.)
    pub(super) fn has_to_write(&self) -> bool {
        let unsaid = self.leaving.iter().any(|(_, said)| *said != self.current);
        self.stuck.is_none() && (unsaid || self.work.is_some())
    }

    /// How much room it wants in the batch of a round of `bytes`.
    pub(super) fn room(&self, journal: &Journal, bytes: usize) -> usize {
        if self.has_to_write() { journal.carrying_room(bytes, self.least) } else { 0 }
    }

    /// Does a step, which writes into the batch of a round. If the batch has no room for it, the next step
    /// will ask for enough.
    pub(super) fn ride(
        &mut self,
        journal: &mut Journal,
        shared: &Shared,
        batch: &mut Batch,
    ) -> Result<(), Fatal> {
        let into = batch.segment();
        for (segment, said) in self.leaving.iter_mut().filter(|(_, said)| *said != into) {
            if journal.announce(*segment, batch) {
                *said = into;
            }
        }
        let Some(mut work) = self.work.take() else { return Ok(()) };
        let (records, bytes) = batch.size();
        let mut owner = Owner::new(journal, shared, work.segment());
        match journal.carry(&mut work, &mut owner, batch, Effort::beside(records, bytes)) {
            Ok(Carried::All) => {
                self.leaving.push((work.segment(), into));
                (self.again, self.least) = (true, 0);
            }
            Ok(Carried::More) => (self.work, self.least) = (Some(work), 0),
            Ok(Carried::NoRoom(least)) => (self.work, self.least) = (Some(work), least),
            Err(error) => self.failed(shared, error)?,
        }
        Ok(())
    }

    /// Removes the segments that are emptied, now that a batch was synced, unless somebody is about to read
    /// from one. No segment is removed elsewhere while the store serves.
    pub(super) fn leave(&mut self, journal: &mut Journal, shared: &Shared) -> Result<(), Fatal> {
        let current = journal.position().segment;
        for at in (0..self.leaving.len()).rev() {
            let (segment, said) = self.leaving[at];
            if said != current || shared.is_pinned(segment) {
                continue;
            }
            match journal.unlink(segment) {
                Ok(()) => {
                    self.leaving.swap_remove(at);
                    tracing::debug!(segment, "a journal segment was emptied and removed");
                }
                // It is looked at again after the next round.
                Err(BeginError::Later(_)) => {}
                Err(BeginError::Fatal(fatal)) => return Err(fatal),
            }
        }
        Ok(())
    }

    /// Does a step by itself, because the disk is too full for one that rides with a round.
    pub(super) fn alone(&mut self, journal: &mut Journal, shared: &Shared) -> Result<(), Fatal> {
        let stuck = Some(shared.ledger.read().version());
        for (segment, said) in self.leaving.iter_mut().filter(|(_, said)| *said != self.current) {
            match journal.say_removed(*segment) {
                Ok(()) => *said = journal.position().segment,
                Err(BeginError::Later(_)) => self.stuck = stuck,
                Err(BeginError::Fatal(fatal)) => return Err(fatal),
            }
        }
        if let Some(mut work) = self.work.take() {
            let mut owner = Owner::new(journal, shared, work.segment());
            match journal.carry_alone(&mut work, &mut owner) {
                Ok(true) => {
                    self.leaving.push((work.segment(), journal.position().segment));
                    self.again = true;
                }
                Ok(false) => self.work = Some(work),
                Err(CompactError::Later(_)) => (self.work, self.stuck) = (Some(work), stuck),
                Err(error) => self.failed(shared, error)?,
            }
        }
        shared.publish(shared.ledger.read().version(), journal.position());
        self.leave(journal, shared)
    }

    /// Decides what to do next, and goes on counting.
    pub(super) fn plan(
        &mut self,
        journal: &mut Journal,
        shared: &Shared,
        is_idle: bool,
        second: u64,
    ) -> Result<(), Fatal> {
        self.notice_new_segment(journal, shared);
        let is_full = shared.full.load(Ordering::Relaxed);
        let is_calm = self.busy.is_none_or(|busy| second >= busy + CALM_SECONDS);
        if self.forgot && (is_full || is_calm) {
            self.count_all(journal, shared, is_full, second);
        }
        if self.stuck.is_some_and(|version| shared.ledger.read().version() >= version + RETRY_RECORDS) {
            self.stuck = None;
        }
        if self.work.is_none() && self.stuck.is_none() {
            self.again = false;
            self.work = self.choose(journal, shared, is_full || is_calm)?;
        }
        self.again &= self.stuck.is_none();
        let rests = self.work.is_none() || self.stuck.is_some();
        if rests && (is_idle || is_longer(journal, shared, TOO_LONG)) {
            self.count(journal, shared)?;
        }
        Ok(())
    }

    /// A segment cannot be read. If it is damaged it never will be; else it is looked at again later.
    fn failed(&mut self, shared: &Shared, error: CompactError) -> Result<(), Fatal> {
        match &error {
            CompactError::Damaged(segment) => report(shared, *segment, &error),
            CompactError::Unread(segment, _) => {
                tracing::warn!(%error, "a journal segment is not emptied for now");
                self.set_aside.insert(*segment);
            }
            CompactError::Later(_) | CompactError::Fatal(_) => {}
        }
        match error {
            CompactError::Fatal(fatal) => Err(fatal),
            _ => Ok(()),
        }
    }

    /// Counts a part of what is needed of a segment.
    fn count(&mut self, journal: &mut Journal, shared: &Shared) -> Result<(), Fatal> {
        if self.counting.is_none() {
            let Some(segment) = self.recount.pop_front() else { return Ok(()) };
            if !journal.segments().contains_key(&segment) {
                return Ok(());
            }
            match journal.start_compaction(segment) {
                Ok(work) => self.counting = Some(Count::of(work)),
                Err(error) => return self.failed(shared, error),
            }
        }
        let Some(mut count) = self.counting.take() else { return Ok(()) };
        let mut owner = Owner::new(journal, shared, count.segment());
        match journal.count(&mut count, &mut owner, Effort::beside(0, 0)) {
            Ok(true) => {
                // It may be worth emptying now, and need less space than what there is none for.
                self.again = true;
                if self.stuck.take().is_some() {
                    (self.work, self.least) = (None, 0);
                }
                Ok(())
            }
            Ok(false) => {
                self.counting = Some(count);
                Ok(())
            }
            Err(error) => self.failed(shared, error),
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

    /// Counts all segments again, if that may bring space back: nobody says where what remembered a post lies
    /// when it is forgotten.
    fn count_all(&mut self, journal: &Journal, shared: &Shared, is_full: bool, second: u64) {
        let rests = self.recount.is_empty() && self.counting.is_none();
        let is_early = self.counted_all.is_some_and(|last| second < last + COUNT_SECONDS);
        if rests && !is_early && (is_full || is_longer(journal, shared, LONG)) {
            let sealed = journal.segments().keys().copied().filter(|segment| *segment != self.current);
            self.recount.extend(sealed);
            (self.forgot, self.counted_all) = (false, Some(second));
        }
    }

    /// A segment that is worth emptying, if there is one.
    fn choose(
        &mut self,
        journal: &mut Journal,
        shared: &Shared,
        hurry: bool,
    ) -> Result<Option<Compaction>, Fatal> {
        let gone = self.leaving.iter().map(|(segment, _)| *segment);
        let passed_over = self.set_aside.iter().copied().chain(gone).collect();
        let hurry = hurry || is_longer(journal, shared, LONG);
        let Some(segment) = journal.worst_segment(!hurry, &passed_over) else { return Ok(None) };
        match journal.start_compaction(segment) {
            Ok(work) => Ok(Some(work)),
            Err(error) => {
                // This one is not chosen again, but another may be worth it.
                self.again = true;
                self.failed(shared, error).map(|()| None)
            }
        }
    }
}

fn is_longer(journal: &Journal, shared: &Shared, (times, segments): (u64, u64)) -> bool {
    let all: u64 = journal.segments().values().map(|usage| usage.len).sum();
    all > times * shared.ledger.read().recorded_bytes(MARK_BYTES) + segments * journal.segment_bytes()
}

fn report(shared: &Shared, segment: u32, error: &CompactError) {
    tracing::error!(%error, "a journal segment cannot be read back whole; it is kept");
    shared.damage.found_in(segment);
}

/// The ledger, as the owner of a segment's records.
pub(super) struct Owner<'a> {
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
    pub(super) fn new(journal: &Journal, shared: &'a Shared, segment: u32) -> Self {
        let floor = journal.floor_without(segment);
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
