//! The journal: an append-only sequence of checksummed records in segment files. It is the truth; everything
//! else is a shortcut.
//!
//! What it keeps:
//! - **A batch is atomic.** [`Journal::commit`] writes one batch and syncs once. After a power cut a batch is
//!   there whole or not at all.
//! - **At most one batch is unsynced at any time.** So only the last segment's tail can be torn, and a bad
//!   stretch that is followed by anything valid is damage, which is reported and never served (rule 19).
//! - **Space is found before anything is decided.** [`Journal::begin`] preallocates; a full disk is
//!   [`BeginError::Full`], nothing has happened, and the same call works again when space is back.
//! - **A failed write or sync is fatal** (rule 19). [`Fatal`] comes back, the journal refuses everything from
//!   then on, and the process must stop; the next start rewrites the last batch into a new segment before
//!   serving, because the page cache may be lying.
//! - **Records are opaque.** What is still needed is for the owner to say ([`compact::Liveness`]); a segment
//!   is removed only after the copies of what was needed are on stable storage.
//!
//! It never decodes a payload, reads no clock, and has no thread of its own. The format is in [`mod@format`];
//! docs/storage.md tells it.

pub(crate) mod batch;
pub(crate) mod compact;
pub(crate) mod disk;
pub(crate) mod format;
mod open;
pub(crate) mod reader;
pub(crate) mod real;
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
use disk::{Disk, DiskFile, is_full};
use format::{ALIGN, BATCH_HEADER, FRAME_HEADER, Ident, REMOVED, ROSTER, SEGMENT_HEADER, SegmentHeader};
pub(crate) use open::{OpenError, Replayed};
pub(crate) use reader::{ReadError, Reader};
use segment::{UNFINISHED, name_of, seal, seal_last};
pub(crate) use survey::survey;

/// Where a record stands. 12 bytes: this is what a retained envelope costs in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    /// Segment number.
    pub(crate) segment: u32,
    /// Of its frame, from the segment's first byte.
    pub(crate) offset: u32,
    /// Of its payload.
    pub(crate) len: u32,
}

impl Location {
    /// Bytes of disk that the record takes.
    pub(crate) fn footprint(self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.len)
    }
}

/// A place between two batches; everything before it was replayed or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Segment number.
    pub(crate) segment: u32,
    /// From the segment's first byte.
    pub(crate) offset: u32,
}

/// Where a replay may begin, for an owner that remembers what was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    /// Everything before this place is remembered.
    pub(crate) position: Position,
    /// What the owner had come to there ([`Journal::stamp`]).
    pub(crate) stamp: u64,
}

/// A stretch that was once on stable storage and no longer reads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Segment number.
    pub(crate) segment: u32,
    /// First byte.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) len: u32,
    /// What stood there.
    pub(crate) what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}+{} of segment {}", self.what, self.offset, self.len, name_of(self.segment))
    }
}

/// The disk failed where it must not. Nothing of the batch may be answered and the process must stop; there
/// is no retry.
#[derive(Debug, thiserror::Error)]
#[error("the journal cannot {during}: {source}; the relay must stop, and recovers at the next start")]
#[must_use = "after this nothing may be answered any more"]
pub(crate) struct Fatal {
    during: &'static str,
    source: io::Error,
}

/// Why no batch can be begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// The disk is full. Nothing has changed; try again when space is back.
    #[error("the disk is full")]
    Full,
    /// See [`Fatal`].
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Sizes. All in bytes but `open_files`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalConfig {
    /// A segment is ended when the next batch would make it longer. One batch may exceed it in a segment of
    /// its own.
    pub(crate) segment_bytes: u32,
    /// Preallocation goes in steps of this.
    pub(crate) step_bytes: u32,
    /// Most segment files held open for reading.
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
    /// Bytes of the file.
    pub(crate) len: u64,
    /// Bytes of records that are still needed, as the owner told.
    pub(crate) live: u64,
    /// The owner's stamp when it was begun, or less.
    pub(crate) stamp: u64,
    /// Part of it is damaged; it is kept for the operator and never removed by itself.
    pub(crate) damaged: bool,
}

/// The writer. There is one, in one thread.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    config: JournalConfig,
    incarnation: [u8; 16],
    rng: Box<dyn RngCore + Send>,
    reader: Reader,
    current: Current,
    next_batch: u64,
    stamp: u64,
    /// Every segment on disk, the current one included.
    segments: BTreeMap<u32, Usage>,
    /// Segments that should exist and do not: named in every roster, so that their loss is never forgotten.
    lost: BTreeSet<u32>,
    /// A write or sync has failed: nothing may be written any more.
    failed: bool,
    /// A used batch buffer, to save allocations.
    spare: Vec<u8>,
}

struct Current {
    ident: Ident,
    file: Arc<dyn DiskFile>,
    /// Where the first batch behind the roster goes.
    first: u32,
    /// Where the next batch goes.
    end: u32,
    /// The file's length: writes below it need no further space.
    allocated: u64,
}

/// Space that every batch leaves behind it in its segment: for saying that a segment may be gone, however
/// full the disk is.
const REMOVAL: usize = (BATCH_HEADER + Batch::cost(4)).next_multiple_of(ALIGN);

/// Most bytes of batch buffer kept between batches.
const SPARE_BYTES: usize = 2 << 20;

impl Journal {
    /// A handle for reading records.
    pub(crate) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Where the next batch will stand, unless the segment is ended before.
    pub(crate) fn position(&self) -> Position {
        Position { segment: self.current.ident.segment, offset: self.current.end }
    }

    /// Segments by number, with how full they are.
    pub(crate) fn segments(&self) -> &BTreeMap<u32, Usage> {
        &self.segments
    }

    /// How long segments become, bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        u64::from(self.config.segment_bytes)
    }

    /// Bytes that may still be allocated on the disk.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    /// What the owner has come to (a count of its own that never falls): written into the headers of segments
    /// begun from now on.
    pub(crate) fn stamp(&mut self, stamp: u64) {
        self.stamp = stamp;
    }

    /// The owner needs this record.
    pub(crate) fn note_live(&mut self, at: Location) {
        if let Some(usage) = self.segments.get_mut(&at.segment) {
            usage.live += at.footprint();
        }
    }

    /// The owner no longer needs this record, but for `rest` bytes that it says in fewer words when its
    /// segment goes. An estimate: after a start everything counts as needed until it is counted anew.
    pub(crate) fn note_dead(&mut self, at: Location, rest: u64) {
        if let Some(usage) = self.segments.get_mut(&at.segment) {
            usage.live = usage.live.saturating_sub(at.footprint().saturating_sub(rest));
        }
    }

    /// Takes space for a batch whose records' [`Batch::cost`]s add up to at most `bytes`.
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
            Err(error) if is_full(&error) => return Err(BeginError::Full),
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

    /// Ends the current segment and begins another with room for `need` bytes. All space is taken first: on
    /// `Full` nothing changed.
    fn roll(&mut self, need: usize) -> Result<(), BeginError> {
        let number = self.current.ident.segment + 1;
        let ident = Ident { segment: number, marker: self.rng.next_u64() };
        let roster = roster(ident, self.next_batch, self.segments.keys().chain(&self.lost).copied());
        let next = match self.prepare(SEGMENT_HEADER + roster.buf.len() + need) {
            Ok(next) => next,
            Err(error) if is_full(&error) => {
                // What it took of the last space is given back; if that fails, the next attempt does it.
                let _ = self.disk.unlink(UNFINISHED);
                return Err(BeginError::Full);
            }
            Err(error) => return Err(self.fatal("begin a segment", error).into()),
        };
        self.switch(next, ident, roster).map_err(|error| self.fatal("end a segment", error).into())
    }

    fn prepare(&mut self, bytes: usize) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        if self.disk.list()?.iter().any(|name| name == UNFINISHED) {
            self.disk.unlink(UNFINISHED)?;
        }
        let file = self.disk.create(UNFINISHED)?;
        let allocated = grow(file.as_ref(), self.config, bytes as u64, 0)?;
        Ok((file, allocated))
    }

    /// The new segment first, durably, then the old one's end: so an ended segment without a later one has
    /// lost it.
    fn switch(
        &mut self,
        (file, allocated): (Arc<dyn DiskFile>, u64),
        ident: Ident,
        roster: Batch,
    ) -> io::Result<()> {
        let old = &self.current;
        let header = SegmentHeader {
            segment: ident.segment,
            incarnation: self.incarnation,
            marker: ident.marker,
            prev_segment: old.ident.segment,
            prev_end: old.end,
            first_batch: self.next_batch,
            stamp: self.stamp,
        };
        let begin = [&header.encode()[..], &roster.buf].concat();
        file.write_at(&begin, 0)?;
        file.sync()?;
        self.disk.rename(UNFINISHED, &name_of(header.segment))?;
        self.disk.sync_dir()?;
        let current = &mut self.current;
        seal(current.file.as_ref(), current.ident, current.end, self.next_batch - 1)?;
        current.allocated = u64::from(current.end) + BATCH_HEADER as u64;
        self.note_length();
        self.next_batch += 1;
        let end = begin.len() as u32;
        self.current = Current { ident, file, first: end, end, allocated };
        self.segments.insert(header.segment, Usage { len: allocated, stamp: self.stamp, ..Usage::default() });
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

    /// Removes a segment, whose needed records must have been copied and committed before. First it is said
    /// that it may be gone, or the next start would miss it.
    fn remove(&mut self, segment: u32) -> Result<(), BeginError> {
        self.check()?;
        assert!(segment != self.current.ident.segment, "the current segment is never removed");
        let mut batch = self.begin_in_reserve()?;
        batch.push(REMOVED, &[&segment.to_le_bytes()]);
        self.commit(batch)?;
        self.reader.forget(segment);
        if let Err(error) = self.disk.unlink(&name_of(segment)) {
            return Err(self.fatal("remove a segment", error).into());
        }
        self.segments.remove(&segment);
        self.disk.sync_dir().map_err(|error| self.fatal("sync the folder", error).into())
    }

    /// A batch for one number, in the space that the batch before left for it if there is no other.
    fn begin_in_reserve(&mut self) -> Result<Batch, BeginError> {
        let cost = Batch::cost(4);
        match self.begin(cost) {
            Err(BeginError::Full)
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

/// The batch that begins a segment: which segments exist.
fn roster(ident: Ident, number: u64, segments: impl Iterator<Item = u32>) -> Batch {
    let names: Vec<u8> = segments.chain([ident.segment]).flat_map(u32::to_le_bytes).collect();
    let mut batch = Batch::new(ident, SEGMENT_HEADER as u32, number, Batch::cost(names.len()), Vec::new());
    batch.push(ROSTER, &[&names]);
    batch.finish();
    batch
}

/// Preallocates to at least `need`, by whole steps if the disk has them. Returns the new length.
fn grow(file: &dyn DiskFile, config: JournalConfig, need: u64, have: u64) -> io::Result<u64> {
    if need <= have {
        return Ok(have);
    }
    let step =
        need.next_multiple_of(u64::from(config.step_bytes)).min(u64::from(config.segment_bytes)).max(need);
    match file.allocate(step) {
        Ok(()) => Ok(step),
        Err(error) if is_full(&error) && step > need => file.allocate(need).map(|()| need),
        Err(error) => Err(error),
    }
}
