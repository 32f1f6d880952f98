//! Getting space back: what is still needed in mostly dead segments is carried forward, then the segments are removed.
//!
//! The journal does not know which records are needed; the owner of the live state does ([`Liveness`]). Rule 18, as it is kept here:
//! a record is dropped only when the owner says that a later journal record supersedes it; what the owner keeps is on stable storage
//! in a later segment before the old one is unlinked; and no checkpoint is ever asked.

use super::format::{Ident, SEGMENT_HEADER, is_own};
use super::scan::{outline, records};
use super::segment::{load, marker_of, name_of};
use super::{Batch, BeginError, FRAME_HEADER, Fatal, Journal, Location};

/// What of a record must be carried forward when its segment goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Records to be written before the copy, or instead of it: kind and payload.
    pub(crate) write: Vec<(u8, Vec<u8>)>,
    /// The record itself, byte for byte.
    pub(crate) copy: bool,
}

impl Keep {
    /// Bytes in a batch, for a record of `len` payload bytes.
    pub(crate) fn cost(&self, len: usize) -> usize {
        let written: usize = self.write.iter().map(|(_, payload)| Batch::cost(payload.len())).sum();
        written + if self.copy { Batch::cost(len) } else { 0 }
    }
}

/// The owner of the live state, asked about each record of a segment in order.
pub(crate) trait Liveness {
    /// What is still needed of the record. May be asked again about the same record if there was no space; changes nothing.
    fn keep(&self, at: Location, kind: u8, payload: &[u8]) -> Keep;

    /// What was asked for was put at these places, in order, the copy last. Called before they are durable, so that the next
    /// question sees it; what depends on these places must not be disclosed until then.
    fn carried(&mut self, from: Location, kind: u8, payload: &[u8], keep: &Keep, to: &[Location]);
}

/// The part of a segment carried in one batch (1 MiB of 32): bounds how long posts wait behind the compaction.
const CARRY_PART: usize = 32;

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
    buf: Vec<u8>,
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
            let mut collect = |at, kind, _: &[u8]| {
                if !is_own(kind) {
                    found.push((at, kind));
                }
            };
            if records(&buf, ident, span, &mut collect).is_some() {
                return None;
            }
        }
        (outline.damage.is_empty() && outline.sealed).then_some(Compaction { segment, records: found, buf, next: 0 })
    }

    /// Carries a [`CARRY_PART`]th of a segment, in one synced batch. `true` when the segment is emptied and removed.
    pub(crate) fn compact_step(
        &mut self,
        work: &mut Compaction,
        owner: &mut dyn Liveness,
    ) -> Result<bool, CompactError> {
        let mut batch = None;
        while let Some((at, kind)) = work.records.get(work.next).copied() {
            let payload = work.payload(at);
            let keep = owner.keep(at, kind, payload);
            let cost = keep.cost(payload.len());
            if cost > 0 {
                let batch = match &mut batch {
                    Some(batch) => batch,
                    None => batch.insert(self.begin_carrying(cost)?),
                };
                if !batch.has_room(cost) {
                    break;
                }
                let mut to: Vec<_> = keep.write.iter().map(|(kind, payload)| batch.push(*kind, &[payload])).collect();
                if keep.copy {
                    to.push(batch.push(kind, &[payload]));
                }
                to.iter().for_each(|to| self.note_live(*to));
                owner.carried(at, kind, payload, &keep, &to);
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
    pub(crate) fn count(&self, owner: &dyn Liveness) -> u64 {
        let cost = |(at, kind): &(Location, u8)| {
            let payload = self.payload(*at);
            owner.keep(*at, *kind, payload).cost(payload.len()) as u64
        };
        self.records.iter().map(cost).sum()
    }

    fn payload(&self, at: Location) -> &[u8] {
        let start = at.offset as usize + FRAME_HEADER;
        &self.buf[start..start + at.len as usize]
    }
}
