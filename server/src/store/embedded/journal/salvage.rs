//! Giving up what is damaged, because the operator says so: what can still be read of a segment is carried
//! forward, and then the segment goes like any other.
//!
//! Nobody else ever removes a damaged segment, for it may be all that is left of something. What is lost with
//! it is known before: a start reads it in the same way.

use bytes::Bytes;

use super::compact::{CompactError, Liveness};
use super::format::{FRAME_HEADER, Ident, REMOVED, SEGMENT_HEADER, is_own};
use super::scan::{outline, records};
use super::segment::{load, marker_of, name_of, number_of};
use super::{Batch, BeginError, Journal, Location};

/// How much is carried with one sync, in bytes.
const PART: usize = 256 << 10;

impl Journal {
    /// Up to which of the owner's stamps nothing remains that was written before it took effect, once this
    /// segment is gone. While segments are lost that is unknown: one of them may be put back.
    pub(crate) fn floor_without(&self, segment: u32) -> u64 {
        let oldest = self.segments.iter().find(|(number, _)| **number != segment);
        if self.lost.is_empty() { oldest.map_or(0, |(_, usage)| usage.stamp) } else { 0 }
    }

    /// The segments that are damaged.
    pub(crate) fn damaged(&self) -> Vec<u32> {
        let current = self.current.ident.segment;
        let damaged = self.segments.iter().filter(|(number, usage)| usage.damaged && **number != current);
        damaged.map(|(number, _)| *number).collect()
    }

    /// Carries forward what can be read of a damaged segment, and removes it.
    pub(crate) fn give_up(&mut self, segment: u32, owner: &mut dyn Liveness) -> Result<(), CompactError> {
        let unread = |error| CompactError::Unread(segment, error);
        let file = self.disk.open(&name_of(segment)).map_err(unread)?;
        let buf = Bytes::from(load(file.as_ref(), u64::MAX).map_err(unread)?);
        let mut batch: Option<Batch> = None;
        for (at, kind) in readable(&buf, segment) {
            let start = at.offset as usize + FRAME_HEADER;
            let payload = buf.slice(start..start + at.len as usize);
            let cost = owner.cost(at, kind, &payload);
            if cost == 0 {
                continue;
            }
            if let Some(full) = batch.take_if(|batch| !batch.has_room(cost)) {
                self.commit(full)?;
            }
            let batch = match &mut batch {
                Some(batch) => batch,
                None => batch.insert(self.begin(cost.max(PART))?),
            };
            owner.carry(at, kind, &payload, &mut |kind, payload| {
                let to = batch.push(kind, &[payload]);
                self.note_live(to);
                to
            });
        }
        if let Some(batch) = batch {
            self.commit(batch)?;
        }
        self.say_removed(segment)?;
        Ok(self.unlink(segment)?)
    }

    /// From now on nobody misses the lost segments, and files of segments that were removed and are back are
    /// removed again.
    pub(crate) fn forget_lost(&mut self) -> Result<(), BeginError> {
        let lost: Vec<u8> = self.lost.iter().flat_map(|segment| segment.to_le_bytes()).collect();
        if !lost.is_empty() {
            let mut batch = self.begin(Batch::cost(lost.len()))?;
            batch.push(REMOVED, &[&lost]);
            self.commit(batch)?;
            self.lost.clear();
        }
        let back = |journal: &mut Self| {
            for name in journal.disk.list()? {
                if number_of(&name).is_some_and(|number| !journal.segments.contains_key(&number)) {
                    journal.disk.unlink(&name)?;
                }
            }
            journal.disk.sync_dir()
        };
        back(self).map_err(|error| self.fatal("remove segments that are back", error).into())
    }
}

/// The owner's records that can be read.
fn readable(buf: &[u8], segment: u32) -> Vec<(Location, u8)> {
    let mut found = Vec::new();
    let Some(marker) = marker_of(buf, segment) else { return found };
    let ident = Ident { segment, marker };
    for span in &outline(buf, ident, SEGMENT_HEADER).spans {
        let _ = records(buf, ident, span, &mut |at, kind, _| {
            if !is_own(kind) {
                found.push((at, kind));
            }
        });
    }
    found
}
