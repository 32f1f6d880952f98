//! Getting space back: what is still needed in mostly dead segments is copied forward, then the segments are removed.
//!
//! The journal does not know which records are needed; the owner of the live state does ([`Liveness`]). Rule 18, as it is kept here:
//! a record is dropped only when the owner says that a later journal record supersedes it; what the owner keeps is on stable storage
//! in a later segment before the old one is unlinked; and no checkpoint is ever asked.

use super::format::{BATCH_HEADER, Ident, SEGMENT_HEADER};
use super::scan::{outline, records};
use super::segment::load;
use super::{Batch, BeginError, Fatal, Journal, Location, Usage};

/// What becomes of a record whose segment is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A later journal record supersedes it.
    Dead,
    /// It is still needed, as it is.
    Copy,
    /// It is still needed, and these records say the same: (kind, payload) each.
    Replace(Vec<(u8, Vec<u8>)>),
}

/// The owner of the live state, asked about each record of a segment in order.
pub(crate) trait Liveness {
    /// Whether the record is needed. May be asked again about the same record, if the disk was full the first time.
    fn judge(&mut self, at: Location, kind: u8, payload: &[u8]) -> Verdict;

    /// The record that was at `from` is now durable at each of `to` (one for a copy, one for each replacement). `from` is dead.
    fn moved(&mut self, from: Location, to: &[Location]);
}

/// Bytes of records copied in one batch: bounds how long posts wait behind the compaction.
pub(crate) const COPY_BATCH_BYTES: usize = 1 << 20;

/// Why a segment could not be compacted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactError {
    /// No space for the copies. Nothing is lost; what was copied stays copied.
    #[error("the disk is full")]
    Full,
    /// The segment could not be read back: it is kept, and marked as damaged.
    #[error("segment {0:016x} is damaged")]
    Damaged(u32),
    /// See [`Fatal`].
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<BeginError> for CompactError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Full => Self::Full,
            BeginError::Fatal(fatal) => Self::Fatal(fatal),
        }
    }
}

/// A segment being emptied, a step at a time so that posts go on between the steps.
pub(crate) struct Compaction {
    segment: u32,
    records: Vec<(Location, u8)>,
    buf: Vec<u8>,
    next: usize,
}

impl Journal {
    /// The segment most worth emptying: wholly dead, or at most `live_percent` needed. Never the current or a damaged one.
    pub(crate) fn worst_segment(&self, live_percent: u64) -> Option<u32> {
        let ratio = |usage: &Usage| usage.live * 1000 / usage.len.max(1);
        let current = self.current.ident.segment;
        self.segments
            .iter()
            .filter(|(number, usage)| **number != current && !usage.damaged && ratio(usage) <= live_percent * 10)
            .min_by_key(|(_, usage)| ratio(usage))
            .map(|(number, _)| *number)
    }

    /// Reads a segment in order to empty it.
    pub(crate) fn start_compaction(&mut self, segment: u32) -> Result<Compaction, CompactError> {
        let read = || {
            let file = self.disk.open(&super::name_of(segment)).ok()?;
            let buf = load(file.as_ref(), u64::MAX).ok()?;
            let marker = super::segment::marker_of(&buf, segment)?;
            let ident = Ident { segment, marker };
            let outline = outline(&buf, ident, SEGMENT_HEADER);
            let mut found = Vec::new();
            for span in &outline.spans {
                let mut collect = |at, kind, _: &[u8]| found.push((at, kind));
                if records(&buf, ident, span, &mut collect).is_some() {
                    return None;
                }
            }
            (outline.damage.is_empty() && outline.sealed).then_some((found, buf))
        };
        let Some((records, buf)) = read() else {
            if let Some(usage) = self.segments.get_mut(&segment) {
                usage.damaged = true;
            }
            return Err(CompactError::Damaged(segment));
        };
        Ok(Compaction { segment, records, buf, next: 0 })
    }

    /// Copies up to [`COPY_BATCH_BYTES`] of needed records, in one synced batch. `true` when the segment is emptied and removed.
    pub(crate) fn compact_step(
        &mut self,
        work: &mut Compaction,
        owner: &mut dyn Liveness,
    ) -> Result<bool, CompactError> {
        let (verdicts, bytes, next) = work.judge(owner);
        if bytes > 0 {
            let mut batch = self.begin(bytes)?;
            let moves: Vec<_> =
                verdicts.iter().map(|(at, kind, verdict)| (*at, work.put(&mut batch, *at, *kind, verdict))).collect();
            self.commit(batch)?;
            for (from, to) in moves {
                to.iter().for_each(|to| self.note_live(*to));
                owner.moved(from, &to);
            }
        }
        work.next = next;
        if work.next < work.records.len() {
            return Ok(false);
        }
        self.remove(&[work.segment])?;
        Ok(true)
    }
}

impl Compaction {
    fn payload(&self, at: Location) -> &[u8] {
        let start = at.offset as usize + super::FRAME_HEADER;
        &self.buf[start..start + at.len as usize]
    }

    /// Asks about records until a batch is full. Returns what is to be written, its cost, and where to go on.
    fn judge(&self, owner: &mut dyn Liveness) -> (Vec<(Location, u8, Verdict)>, usize, usize) {
        let (mut needed, mut bytes, mut next) = (Vec::new(), 0, self.next);
        while next < self.records.len() && bytes < COPY_BATCH_BYTES {
            let (at, kind) = self.records[next];
            next += 1;
            let verdict = owner.judge(at, kind, self.payload(at));
            bytes += match &verdict {
                Verdict::Dead => continue,
                Verdict::Copy => Batch::cost(at.len as usize),
                Verdict::Replace(with) => with.iter().map(|(_, payload)| Batch::cost(payload.len())).sum(),
            };
            needed.push((at, kind, verdict));
        }
        (needed, bytes, next)
    }

    fn put(&self, batch: &mut Batch, at: Location, kind: u8, verdict: &Verdict) -> Vec<Location> {
        match verdict {
            Verdict::Dead => Vec::new(),
            Verdict::Copy => vec![batch.push(kind, &[self.payload(at)])],
            Verdict::Replace(with) => with.iter().map(|(kind, payload)| batch.push(*kind, &[payload])).collect(),
        }
    }
}

/// A batch's own bytes beside its records; used when estimating what a compaction will write.
pub(crate) const BATCH_OVERHEAD: usize = BATCH_HEADER;
