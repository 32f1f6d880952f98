//! Getting space back: what is still needed in mostly dead segments is carried forward, then the segments are removed.
//!
//! The journal does not know which records are needed; the owner of the live state does ([`Liveness`]). Rule 18, as it is kept here:
//! a record is dropped only when the owner says that a later journal record supersedes it; what the owner keeps is on stable storage
//! in a later segment before the old one is unlinked; and no checkpoint is ever asked.

use bytes::Bytes;

use super::format::{Ident, SEGMENT_HEADER, is_own};
use super::scan::{frames, outline};
use super::segment::{load, marker_of, name_of};
use super::{Batch, BeginError, FRAME_HEADER, Fatal, Journal, Location};

/// The owner of the live state, asked about each record of a segment in order.
pub(crate) trait Liveness {
    /// What is still needed of the record, as bytes of a batch ([`Batch::cost`]); 0: nothing. May be asked again about the same record
    /// if there was no space; the live state stays as it is.
    fn cost(&mut self, at: Location, kind: u8, payload: &Bytes) -> usize;

    /// Puts what [`Liveness::cost`] has just counted, and takes over where it lies from now on: the next question sees it. It is not
    /// durable yet, so what depends on these places must not be disclosed until then.
    fn carry(&mut self, at: Location, kind: u8, payload: &Bytes, put: &mut dyn FnMut(u8, &[u8]) -> Location);
}

/// The part of a segment carried in one batch (1 MiB of 32): bounds how long posts wait behind the compaction.
const CARRY_PART: usize = 32;
/// Records looked at in one step, for the same reason.
const LOOK_AT: usize = 8192;

/// Why a segment could not be emptied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactError {
    /// No space for the copies. Nothing is lost; what was carried stays carried.
    #[error("the disk is full")]
    Full,
    /// The segment does not read back whole: it is kept, and marked as damaged.
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

/// A segment being emptied, a step at a time so that posts go on between the steps. Holds the segment in memory.
pub(crate) struct Compaction {
    segment: u32,
    records: Vec<(Location, u8)>,
    buf: Bytes,
    next: usize,
}

impl Journal {
    /// The segment most worth emptying, if in any at most `live_percent` are needed. Never the current or a damaged one.
    pub(crate) fn worst_segment(&self, live_percent: u64) -> Option<u32> {
        let permille = |live: u64, len: u64| live * 1000 / len.max(1);
        let current = self.current.ident.segment;
        self.segments
            .iter()
            .filter(|(number, usage)| **number != current && !usage.damaged)
            .map(|(number, usage)| (permille(usage.live, usage.len), *number))
            .filter(|(live, _)| *live <= live_percent * 10)
            .min()
            .map(|(_, number)| number)
    }

    /// Reads a segment in order to empty it.
    pub(crate) fn start_compaction(&mut self, segment: u32) -> Result<Compaction, CompactError> {
        if let Some(work) = self.read_whole(segment) {
            return Ok(work);
        }
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.damaged = true;
        }
        Err(CompactError::Damaged(segment))
    }

    fn read_whole(&self, segment: u32) -> Option<Compaction> {
        let file = self.disk.open(&name_of(segment)).ok()?;
        let buf = load(file.as_ref(), u64::MAX).ok()?;
        let ident = Ident { segment, marker: marker_of(&buf, segment)? };
        let outline = outline(&buf, ident, SEGMENT_HEADER);
        let mut found = Vec::new();
        for span in &outline.spans {
            if !span.intact {
                return None;
            }
            frames(&buf, ident, span, &mut |at, kind| found.extend((!is_own(kind)).then_some((at, kind))));
        }
        let whole = outline.damage.is_empty() && outline.sealed;
        whole.then(|| Compaction { segment, records: found, buf: buf.into(), next: 0 })
    }

    /// Carries a part of a segment forward, in one synced batch. `true` when the segment is emptied and removed.
    pub(crate) fn compact_step(
        &mut self,
        work: &mut Compaction,
        owner: &mut dyn Liveness,
    ) -> Result<bool, CompactError> {
        let mut batch = None;
        for (at, kind) in work.records[work.next..].iter().copied().take(LOOK_AT) {
            let payload = work.payload(at);
            let cost = owner.cost(at, kind, &payload);
            if cost > 0 {
                let batch = match &mut batch {
                    Some(batch) => batch,
                    None => batch.insert(self.begin_carrying(cost)?),
                };
                if !batch.has_room(cost) {
                    break;
                }
                owner.carry(at, kind, &payload, &mut |kind, payload| {
                    let to = batch.push(kind, &[payload]);
                    self.note_live(to);
                    to
                });
            }
            work.next += 1;
        }
        if let Some(batch) = batch {
            self.commit(batch)?;
        }
        if work.next < work.records.len() {
            return Ok(false);
        }
        self.remove(work.segment)?;
        Ok(true)
    }

    /// On an almost full disk only what the next record takes.
    fn begin_carrying(&mut self, cost: usize) -> Result<Batch, BeginError> {
        let usual = self.config.segment_bytes as usize / CARRY_PART;
        match self.begin(cost.max(usual)) {
            Err(BeginError::Full) if cost < usual => self.begin(cost),
            other => other,
        }
    }
}

impl Compaction {
    /// Which segment.
    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    /// Counts what the owner needs of the whole segment, bytes.
    pub(crate) fn count(&self, owner: &mut dyn Liveness) -> u64 {
        self.records.iter().map(|(at, kind)| owner.cost(*at, *kind, &self.payload(*at)) as u64).sum()
    }

    fn payload(&self, at: Location) -> Bytes {
        let start = at.offset as usize + FRAME_HEADER;
        self.buf.slice(start..start + at.len as usize)
    }
}
