//! The journal: an append-only sequence of checksummed records in segment files. It is the truth; everything
//! else is a shortcut.
//!
//! What it keeps:
//! - **A batch is atomic.** [`Journal::commit`] writes one batch and syncs once. After a power cut a batch is
//!   there as a whole or not at all.
//! - **At most one batch is unsynced at any time.** So only the last segment's tail can be torn, and a bad
//!   stretch that is followed by anything valid is damage, which is reported and never served (rule 19).
//! - **Space is found before anything is decided.** [`Journal::begin`] preallocates. If space, descriptors or
//!   memory have run out, it returns [`BeginError::Later`], nothing has happened, and the same call works
//!   again when they are back.
//! - **A failed write or sync is fatal** (rule 19). The call returns [`Fatal`], the journal refuses
//!   everything from then on, and the process must stop. The next start rewrites the last batch into a new
//!   segment before it serves anything, because the page cache may be lying.
//! - **Records are opaque.** Their owner says what is still needed ([`compact::Liveness`]), and a segment is
//!   removed only once the copies of what is needed are on stable storage.
//!
//! It never decodes a payload, reads no clock, and has no thread of its own. The format is in [`mod@format`],
//! and explained in docs/storage.md.

pub(crate) mod batch;
pub(crate) mod compact;
pub(crate) mod disk;
pub(crate) mod format;
mod open;
pub(crate) mod reader;
pub(crate) mod real;
mod salvage;
mod scan;
mod segment;
mod survey;

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use rand::RngCore;

pub(crate) use batch::Batch;
use disk::{Disk, DiskFile, passes};
use format::{
    ALIGN, BATCH_HEADER, CARRIED, FRAME_HEADER, Ident, REMOVED, ROSTER, SEGMENT_HEADER, SegmentHeader,
};
pub(crate) use open::{OpenError, Replayed, any_segment, last_start};
pub(crate) use reader::{ReadError, Reader};
use segment::{UNFINISHED, name_of, seal, seal_last};
pub(crate) use survey::survey;

/// Where a record stands. 12 bytes, of which memory holds one for each stored envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    /// Segment number.
    pub(crate) segment: u32,
    /// Offset of its frame from the segment's first byte.
    pub(crate) offset: u32,
    /// Length of its payload.
    pub(crate) len: u32,
}

impl Location {
    /// How many bytes of disk the record takes.
    pub(crate) fn footprint(self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.len)
    }
}

/// A place between two batches. Everything before it has been replayed or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Segment number.
    pub(crate) segment: u32,
    /// Offset from the segment's first byte.
    pub(crate) offset: u32,
}

/// What the segments that are begun from now on say of their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    /// The store's life.
    pub(crate) incarnation: [u8; 16],
    /// Its start, counted from 1.
    pub(crate) start: u32,
}

/// Where a replay may begin, for an owner that remembers what was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    /// Everything before this place is remembered.
    pub(crate) position: Position,
    /// The owner's stamp there ([`Journal::stamp`]).
    pub(crate) stamp: u64,
}

/// A stretch that was once on stable storage and can no longer be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Segment number.
    pub(crate) segment: u32,
    /// Offset of its first byte.
    pub(crate) offset: u32,
    /// Its length in bytes.
    pub(crate) len: u32,
    /// What should be there.
    pub(crate) what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}+{} of segment {}", self.what, self.offset, self.len, name_of(self.segment))
    }
}

/// The disk failed where it must not. Nothing of the batch may be answered, and the process must stop without
/// trying again.
#[derive(Debug, thiserror::Error)]
#[error("the journal cannot {during}: {source}; the relay must stop, and recovers at the next start")]
#[must_use = "after this nothing may be answered any more"]
pub(crate) struct Fatal {
    during: &'static str,
    source: io::Error,
}

/// Why a batch cannot be begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// The disk is full, or descriptors or memory have run out. Nothing has changed; try again later.
    #[error("nothing can be written for now: {0}")]
    Later(io::Error),
    /// See [`Fatal`].
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// The journal's sizes, in bytes, and how many files it may hold open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalConfig {
    /// Longest segment: it is ended when the next batch would make it longer. A longer batch gets a segment
    /// of its own.
    pub(crate) segment_bytes: u32,
    /// How much is preallocated at a time.
    pub(crate) step_bytes: u32,
    /// Most segment files that are held open for reading.
    pub(crate) open_files: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, step_bytes: 8 << 20, open_files: 64 }
    }
}

/// How full a segment is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Length of the file.
    pub(crate) len: u64,
    /// Bytes of records that are still needed, according to the owner.
    pub(crate) live: u64,
    /// How many of these are what is left of longer records, as when only the id of a post is needed.
    pub(crate) leftover: u64,
    /// The owner's stamp when it was begun, or a lower one.
    pub(crate) stamp: u64,
    /// Whether part of it is damaged. Then it is kept for the operator, and never removed.
    pub(crate) damaged: bool,
}

/// The writer, of which there is one, in one thread.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    config: JournalConfig,
    time: Time,
    rng: Box<dyn RngCore + Send>,
    reader: Reader,
    current: Current,
    next_batch: u64,
    stamp: u64,
    /// Every segment on disk, the current one included.
    segments: BTreeMap<u32, Usage>,
    /// Segments that should exist and do not. They are named in every roster, so that their loss is never
    /// forgotten.
    lost: BTreeSet<u32>,
    /// Up to which offset segments were emptied, so that whoever goes on, after a restart too, does not carry
    /// the same again.
    carried: BTreeMap<u32, u32>,
    /// Whether a write or a sync has failed, after which nothing may be written.
    failed: bool,
    /// A batch's buffer to be used again, which saves allocations.
    spare: Vec<u8>,
}

struct Current {
    ident: Ident,
    file: Arc<dyn DiskFile>,
    /// Where the first batch behind the roster goes.
    first: u32,
    /// Where the next batch goes.
    end: u32,
    /// Length of the file; writes below it need no further space.
    allocated: u64,
}

/// What every batch leaves free behind it in its segment, in bytes: room to say that a segment may be gone,
/// however full the disk is.
const REMOVAL: usize = (BATCH_HEADER + Batch::cost(4)).next_multiple_of(ALIGN);

/// Longest buffer of a batch that is kept for the next, in bytes.
const SPARE_BYTES: usize = 2 << 20;

impl Journal {
    /// A handle for reading records.
    pub(crate) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Where the next batch will stand, unless the segment is ended first.
    pub(crate) fn position(&self) -> Position {
        Position { segment: self.current.ident.segment, offset: self.current.end }
    }

    /// Segments by number, with how full they are.
    pub(crate) fn segments(&self) -> &BTreeMap<u32, Usage> {
        &self.segments
    }

    /// How long segments become, in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        u64::from(self.config.segment_bytes)
    }

    /// How many bytes may still be allocated on the disk.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    /// Sets the owner's stamp, a count of its own that never falls. It is written into the headers of
    /// segments that are begun from now on.
    pub(crate) fn stamp(&mut self, stamp: u64) {
        self.stamp = stamp;
    }

    /// Notes that the owner needs this record.
    pub(crate) fn note_live(&mut self, at: Location) {
        if let Some(usage) = self.segments.get_mut(&at.segment) {
            usage.live += at.footprint();
        }
    }

    /// Notes that carrying forward what this record leads to may take so many bytes, if that is more than the
    /// record itself takes.
    pub(crate) fn note_needed(&mut self, at: Location, bytes: u64) {
        if let Some(usage) = self.segments.get_mut(&at.segment) {
            usage.live += bytes.saturating_sub(at.footprint());
        }
    }

    /// Notes that the owner no longer needs this record, but for `rest` bytes, which is what carrying it
    /// forward will take when its segment goes. An estimate: after a start everything counts as needed until
    /// it is counted again.
    pub(crate) fn note_dead(&mut self, at: Location, rest: u64) {
        if let Some(usage) = self.segments.get_mut(&at.segment) {
            let rest = rest.min(at.footprint());
            usage.live = usage.live.saturating_sub(at.footprint() - rest);
            usage.leftover += rest;
        }
    }

    /// Takes space for a batch of records whose [`Batch::cost`]s add up to at most `bytes`.
    pub(crate) fn begin(&mut self, bytes: usize) -> Result<Batch, BeginError> {
        self.check()?;
        let need = (BATCH_HEADER + bytes).next_multiple_of(ALIGN) + BATCH_HEADER + REMOVAL;
        let is_begun = self.current.end > self.current.first;
        if is_begun && self.current.end as usize + need > self.config.segment_bytes as usize {
            self.roll(need)?;
        }
        let (config, current) = (self.config, &mut self.current);
        match grow(current.file.as_ref(), config, u64::from(current.end) + need as u64, current.allocated) {
            Ok(allocated) => current.allocated = allocated,
            Err(error) if passes(&error) => return Err(BeginError::Later(error)),
            Err(error) => return Err(self.fatal("preallocate", error).into()),
        }
        let spare = std::mem::take(&mut self.spare);
        Ok(Batch::new(self.current.ident, self.current.end, self.next_batch, bytes, spare))
    }

    /// Writes a batch and syncs it. When this returns `Ok`, all its records are on stable storage.
    pub(crate) fn commit(&mut self, mut batch: Batch) -> Result<(), Fatal> {
        self.check()?;
        assert!(
            batch.ident == self.current.ident && batch.base == self.current.end,
            "a batch is committed where it was begun"
        );
        if !batch.is_empty() {
            batch.finish();
            let written = self.current.file.write_at(&batch.buf, u64::from(batch.base));
            if let Err(error) = written.and_then(|()| self.current.file.sync()) {
                return Err(self.fatal("write and sync a batch", error));
            }
            self.current.end += batch.buf.len() as u32;
            self.next_batch += 1;
            self.note_length();
        }
        self.spare = batch.buf;
        self.spare.shrink_to(SPARE_BYTES);
        Ok(())
    }

    /// Ends the current segment and begins another with room for `need` bytes. That one is there, whole,
    /// before the current one is touched, so that `Later` means that nothing has changed.
    fn roll(&mut self, need: usize) -> Result<(), BeginError> {
        let number = self.current.ident.segment + 1;
        let ident = Ident { segment: number, marker: self.rng.next_u64() };
        let all = self.segments.keys().chain(&self.lost).copied();
        let roster = roster(ident, self.next_batch, all, &self.carried);
        let begin = [&self.header(ident).encode()[..], &roster.buf].concat();
        let next = match self.prepare(number, &begin, need) {
            Ok(next) => next,
            Err(error) if passes(&error) => {
                // Gives back what it took of the last space; if that fails, the next attempt does it.
                let _ = self.disk.unlink(UNFINISHED);
                return Err(BeginError::Later(error));
            }
            Err(error) => return Err(self.fatal("begin a segment", error).into()),
        };
        let end = begin.len() as u32;
        self.switch(next, ident, end).map_err(|error| self.fatal("end a segment", error).into())
    }

    /// The first bytes of the next segment.
    fn header(&self, ident: Ident) -> SegmentHeader {
        SegmentHeader {
            segment: ident.segment,
            incarnation: self.time.incarnation,
            marker: ident.marker,
            prev_segment: self.current.ident.segment,
            prev_end: self.current.end,
            first_batch: self.next_batch,
            stamp: self.stamp,
            start: self.time.start,
        }
    }

    /// Writes the next segment. Until it has its name it is nothing: whatever fails, another begins anew.
    fn prepare(&mut self, number: u32, begin: &[u8], need: usize) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        if self.disk.list()?.iter().any(|name| name == UNFINISHED) {
            self.disk.unlink(UNFINISHED)?;
        }
        let file = self.disk.create(UNFINISHED)?;
        let allocated = grow(file.as_ref(), self.config, (begin.len() + need) as u64, 0)?;
        file.write_at(begin, 0)?;
        file.sync()?;
        self.disk.rename(UNFINISHED, &name_of(number))?;
        Ok((file, allocated))
    }

    /// Begins the new segment durably before it ends the old one. So if an ended segment has no later one,
    /// the later one is lost.
    fn switch(
        &mut self,
        (file, allocated): (Arc<dyn DiskFile>, u64),
        ident: Ident,
        end: u32,
    ) -> io::Result<()> {
        self.disk.sync_dir()?;
        let current = &mut self.current;
        seal(current.file.as_ref(), current.ident, current.end, self.next_batch - 1)?;
        current.allocated = u64::from(current.end) + BATCH_HEADER as u64;
        self.note_length();
        self.next_batch += 1;
        self.current = Current { ident, file, first: end, end, allocated };
        self.segments.insert(ident.segment, Usage { len: allocated, stamp: self.stamp, ..Usage::default() });
        Ok(())
    }

    /// Ends the journal cleanly: the next start has nothing to rewrite.
    pub(crate) fn close(&mut self) -> Result<(), Fatal> {
        self.check()?;
        let current = &mut self.current;
        let sealed = seal_last(current.file.as_ref(), current.ident, current.end, self.next_batch - 1);
        sealed.map_err(|error| self.fatal("end the last segment", error))?;
        self.current.allocated = u64::from(self.current.end) + BATCH_HEADER as u64;
        self.note_length();
        Ok(())
    }

    /// Says in a batch that somebody else commits that a segment may be gone. `false` if there is no room.
    pub(crate) fn announce(&self, segment: u32, batch: &mut Batch) -> bool {
        let fits = batch.fits(4);
        if fits {
            batch.push(REMOVED, &[&segment.to_le_bytes()]);
        }
        fits
    }

    /// Says in a batch of its own that a segment may be gone, if necessary in the last space there is.
    pub(crate) fn say_removed(&mut self, segment: u32) -> Result<(), BeginError> {
        self.check()?;
        let mut batch = self.begin_in_reserve()?;
        batch.push(REMOVED, &[&segment.to_le_bytes()]);
        Ok(self.commit(batch)?)
    }

    /// Removes a segment. What is needed of it, and the record that it may be gone, without which the next
    /// start would miss it, must be on stable storage; the latter in the current segment, because a start
    /// reads it only there.
    pub(crate) fn unlink(&mut self, segment: u32) -> Result<(), BeginError> {
        self.check()?;
        assert!(segment != self.current.ident.segment, "the current segment is never removed");
        self.reader.forget(segment);
        match self.disk.unlink(&name_of(segment)) {
            Ok(()) => {}
            Err(error) if passes(&error) => return Err(BeginError::Later(error)),
            Err(error) => return Err(self.fatal("remove a segment", error).into()),
        }
        self.segments.remove(&segment);
        self.carried.remove(&segment);
        self.disk.sync_dir().map_err(|error| self.fatal("sync the folder", error).into())
    }

    /// A batch for the number of one segment. If there is no other space, it takes what the batch before left
    /// for it.
    fn begin_in_reserve(&mut self) -> Result<Batch, BeginError> {
        let cost = Batch::cost(4);
        match self.begin(cost) {
            Err(BeginError::Later(_))
                if u64::from(self.current.end) + (REMOVAL + BATCH_HEADER) as u64
                    <= self.current.allocated =>
            {
                Ok(Batch::new(self.current.ident, self.current.end, self.next_batch, cost, Vec::new()))
            }
            other => other,
        }
    }

    fn note_length(&mut self) {
        if let Some(usage) = self.segments.get_mut(&self.current.ident.segment) {
            usage.len = self.current.allocated;
        }
    }

    fn check(&self) -> Result<(), Fatal> {
        if self.failed {
            let source = io::Error::other("it has failed before");
            return Err(Fatal { during: "be used", source });
        }
        Ok(())
    }

    fn fatal(&mut self, during: &'static str, source: io::Error) -> Fatal {
        self.failed = true;
        Fatal { during, source }
    }
}

/// The batch that begins a segment, and says which segments exist, and how far they were emptied.
fn roster(
    ident: Ident,
    number: u64,
    segments: impl Iterator<Item = u32>,
    carried: &BTreeMap<u32, u32>,
) -> Batch {
    let names: Vec<u8> = segments.chain([ident.segment]).flat_map(u32::to_le_bytes).collect();
    let progress = progress(carried);
    let room = Batch::cost(names.len()) + Batch::cost(progress.len());
    let mut batch = Batch::new(ident, SEGMENT_HEADER as u32, number, room, Vec::new());
    batch.push(ROSTER, &[&names]);
    if !progress.is_empty() {
        batch.push(CARRIED, &[&progress]);
    }
    batch.finish();
    batch
}

/// What a frame says of how far segments were emptied.
fn progress(carried: &BTreeMap<u32, u32>) -> Vec<u8> {
    carried.iter().flat_map(|(segment, offset)| [*segment, *offset]).flat_map(u32::to_le_bytes).collect()
}

/// Preallocates to at least `need`, in whole steps if the disk has room for them. Returns the new length.
fn grow(file: &dyn DiskFile, config: JournalConfig, need: u64, have: u64) -> io::Result<u64> {
    if need <= have {
        return Ok(have);
    }
    let step =
        need.next_multiple_of(u64::from(config.step_bytes)).min(u64::from(config.segment_bytes)).max(need);
    match file.allocate(step) {
        Ok(()) => Ok(step),
        Err(error) if passes(&error) && step > need => file.allocate(need).map(|()| need),
        Err(error) => Err(error),
    }
}
