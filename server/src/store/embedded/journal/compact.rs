//! Gets space back: what is still needed of mostly dead segments is carried forward, and then the segments
//! are removed.
//!
//! The journal does not know which records are needed; the owner of the live state does ([`Liveness`]). Rule
//! 18 is kept here in this way: a record is dropped only when the owner says that a later journal record
//! supersedes it; what the owner keeps is on stable storage in a later segment before the old one is
//! unlinked; and no checkpoint is ever consulted.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::format::{BATCH_HEADER, BatchHeader, Ident, SEAL, SEGMENT_HEADER, is_own};
use super::scan::frames;
use super::segment::{load, marker_of, name_of};
use super::{Batch, BeginError, FRAME_HEADER, Fatal, Journal, Location};

/// The owner of the live state, asked about each record of a segment in order.
pub(crate) trait Liveness {
    /// What is still needed of the record, as bytes in a batch ([`Batch::cost`]); 0 if nothing is. Changes
    /// nothing, and may be asked again about the same record if there was no space.
    fn cost(&mut self, at: Location, kind: u8, payload: &Bytes) -> usize;

    /// Writes what [`Liveness::cost`] has just counted, and notes where it lies from now on, which the next
    /// question already sees. It is not durable yet, and what depends on these places must not be disclosed
    /// before it is.
    fn carry(&mut self, at: Location, kind: u8, payload: &Bytes, put: &mut dyn FnMut(u8, &[u8]) -> Location);
}

/// Into how many parts the emptying of a segment is split, each one batch (1 MiB of 32): bounds how long
/// posts wait behind it.
const CARRY_PART: usize = 32;
/// Records that are looked at in one step, for the same reason.
const LOOK_AT: usize = 8192;
/// How much of a segment is read at a time, in bytes, unless a batch is longer: small enough for the
/// processor's cache.
const WINDOW: usize = 512 << 10;

/// Why a segment could not be emptied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactError {
    /// The copies cannot be written for now. Nothing is lost, and what was carried stays carried.
    #[error("nothing can be written for now: {0}")]
    Later(io::Error),
    /// The segment cannot be read, for whatever reason, which says nothing of what is in it. It is kept.
    #[error("segment {0:016x} cannot be read: {1}")]
    Unread(u32, io::Error),
    /// The segment cannot be read back as a whole. It is kept, and marked as damaged.
    #[error("segment {0:016x} is damaged")]
    Damaged(u32),
    /// See [`Fatal`].
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<BeginError> for CompactError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Later(error) => Self::Later(error),
            BeginError::Fatal(fatal) => Self::Fatal(fatal),
        }
    }
}

/// A segment being emptied or counted. Holds a window of it in memory.
pub(crate) struct Compaction {
    ident: Ident,
    file: Arc<dyn DiskFile>,
    len: u64,
    window: Bytes,
    /// Where this window begins, and where the next one does, both at the beginning of a batch.
    base: u32,
    at: u32,
    /// The window's records, and which of them to look at next.
    records: Vec<(Location, u8)>,
    next: usize,
    /// Whether this is the last window.
    ended: bool,
}

impl Journal {
    /// The segment most worth emptying, if there is one of which at most `live_percent` are needed. Never the
    /// current segment, and never a damaged one or one that is set aside.
    pub(crate) fn worst_segment(&self, live_percent: u64, set_aside: &BTreeSet<u32>) -> Option<u32> {
        let permille = |live: u64, len: u64| live * 1000 / len.max(1);
        let current = self.current.ident.segment;
        self.segments
            .iter()
            .filter(|(number, usage)| **number != current && !usage.damaged && !set_aside.contains(number))
            .map(|(number, usage)| (permille(usage.live, usage.len), *number))
            .filter(|(live, _)| *live <= live_percent * 10)
            .min()
            .map(|(_, number)| number)
    }

    /// Begins to empty or count a segment.
    pub(crate) fn start_compaction(&mut self, segment: u32) -> Result<Compaction, CompactError> {
        Compaction::of(self.disk.as_ref(), segment).map_err(|unread| self.unread(segment, unread))
    }

    fn unread(&mut self, segment: u32, unread: Unread) -> CompactError {
        match unread {
            Unread::Damaged => {
                if let Some(usage) = self.segments.get_mut(&segment) {
                    usage.damaged = true;
                }
                CompactError::Damaged(segment)
            }
            Unread::Failed(error) => CompactError::Unread(segment, error),
        }
    }

    /// Carries a part of a segment forward, in one synced batch. Returns `true` once the segment is empty and
    /// removed.
    pub(crate) fn compact_step(
        &mut self,
        work: &mut Compaction,
        owner: &mut dyn Liveness,
    ) -> Result<bool, CompactError> {
        let mut batch = None;
        let mut unread = None;
        for _ in 0..LOOK_AT {
            let (at, kind, payload) = match work.look() {
                Look::Record(at, kind, payload) => (at, kind, payload),
                Look::End => break,
                Look::Unread(why) => {
                    unread = Some(why);
                    break;
                }
            };
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
        if let Some(why) = unread {
            return Err(self.unread(work.segment(), why));
        }
        let emptied = matches!(work.look(), Look::End);
        if emptied {
            self.remove(work.segment())?;
        }
        Ok(emptied)
    }

    /// Counts what the owner needs of a whole segment, in bytes.
    pub(crate) fn count(&mut self, segment: u32, owner: &mut dyn Liveness) -> Result<u64, CompactError> {
        let mut work = self.start_compaction(segment)?;
        let mut live = 0;
        loop {
            match work.look() {
                Look::Record(at, kind, payload) => live += owner.cost(at, kind, &payload) as u64,
                Look::End => break,
                Look::Unread(why) => return Err(self.unread(segment, why)),
            }
            work.next += 1;
        }
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.live = live;
        }
        Ok(live)
    }

    /// Begins a batch for the copies; on an almost full disk one that holds just the next record's.
    fn begin_carrying(&mut self, cost: usize) -> Result<Batch, BeginError> {
        let usual = self.config.segment_bytes as usize / CARRY_PART;
        match self.begin(cost.max(usual)) {
            Err(BeginError::Later(_)) if cost < usual => self.begin(cost),
            other => other,
        }
    }
}

/// What comes next in a segment.
enum Look {
    Record(Location, u8, Bytes),
    End,
    Unread(Unread),
}

/// Why a segment could not be read. Only bytes that were read and do not check are damage.
enum Unread {
    Damaged,
    Failed(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // It is not there, or not all of it.
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Failed(error),
        }
    }
}

impl Compaction {
    fn of(disk: &dyn Disk, segment: u32) -> Result<Self, Unread> {
        let file = disk.open(&name_of(segment))?;
        let len = file.len()?;
        let head = load(file.as_ref(), (SEGMENT_HEADER + BATCH_HEADER) as u64)?;
        let ident = Ident { segment, marker: marker_of(&head, segment).ok_or(Unread::Damaged)? };
        let at = SEGMENT_HEADER as u32;
        Ok(Self {
            ident,
            file,
            len,
            window: Bytes::new(),
            base: at,
            at,
            records: Vec::new(),
            next: 0,
            ended: false,
        })
    }

    /// The number of the segment.
    pub(crate) fn segment(&self) -> u32 {
        self.ident.segment
    }

    fn look(&mut self) -> Look {
        while self.next == self.records.len() {
            if self.ended {
                return Look::End;
            }
            if let Err(unread) = self.read_on() {
                return Look::Unread(unread);
            }
        }
        let (at, kind) = self.records[self.next];
        let start = (at.offset - self.base) as usize + FRAME_HEADER;
        Look::Record(at, kind, self.window.slice(start..start + at.len as usize))
    }

    /// Takes the next batches, at least one, or the seal.
    fn read_on(&mut self) -> Result<(), Unread> {
        self.records.clear();
        self.next = 0;
        let mut want = WINDOW as u64;
        loop {
            let end = (u64::from(self.at) + want).min(self.len);
            let len = end.checked_sub(u64::from(self.at)).ok_or(Unread::Damaged)?;
            let mut buf = vec![0; len as usize];
            self.file.read_at(&mut buf, u64::from(self.at))?;
            let (taken, more) = self.take_batches(&buf).ok_or(Unread::Damaged)?;
            if taken > 0 || self.ended {
                (self.base, self.at) = (self.at, self.at + taken as u32);
                self.window = buf.into();
                return Ok(());
            }
            if end == self.len {
                return Err(Unread::Damaged);
            }
            want = more as u64;
        }
    }

    /// Notes the records of the batches that lie in a window as a whole. Returns how many bytes those take,
    /// and how many the next one does.
    fn take_batches(&mut self, buf: &[u8]) -> Option<(usize, usize)> {
        let (ident, mut taken) = (self.ident, 0);
        while let Some(head) = buf.get(taken..taken + BATCH_HEADER) {
            let offset = self.at + taken as u32;
            let header = BatchHeader::decode_at(head, ident, offset)?;
            if header.flags & SEAL != 0 {
                self.ended = true;
                break;
            }
            if taken + header.stride() > buf.len() {
                return Some((taken, header.stride()));
            }
            let body = &buf[taken + BATCH_HEADER..][..header.body_len as usize];
            let records = &mut self.records;
            let intact = frames(body, ident, offset + BATCH_HEADER as u32, &header, &mut |at, kind| {
                if !is_own(kind) {
                    records.push((at, kind));
                }
            });
            if !intact {
                return None;
            }
            taken += header.stride();
        }
        Some((taken, BATCH_HEADER))
    }
}
