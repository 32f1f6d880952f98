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
use crc32c::crc32c_append;

use super::disk::{Disk, DiskFile};
use super::format::{
    BATCH_HEADER, BatchHeader, CARRIED, Ident, REMOVED, SEAL, SEGMENT_HEADER, frame, is_own,
};
use super::segment::{load, marker_of, name_of};
use super::{Batch, BeginError, FRAME_HEADER, Fatal, Journal, Location, Usage};

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

/// The most that may be needed of a segment that is emptied, in percent: carrying forward is then at most
/// half of what is written.
const LIVE_PERCENT: u64 = 50;
/// The most that may be needed of one, not counting what is left of its own records, while there is no hurry,
/// in percent.
const RIPE_PERCENT: u64 = 12;
/// How much of a segment is read at a time, in bytes, unless a record is longer: little, because somebody may
/// wait, and small enough for the processor's cache.
const WINDOW: usize = 64 << 10;
/// What the record takes that a segment may be gone, in bytes.
const REMOVAL_COST: usize = Batch::cost(4);
/// What the record takes that says how far a segment was emptied, in bytes.
const CARRIED_COST: usize = Batch::cost(8);

/// How much one step may look at. It is counted rather than timed, so that a simulation does the same each
/// time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    records: usize,
    bytes: usize,
}

impl Effort {
    /// A step beside a round that writes so many records and bytes: some 0.3 ms, and twice what the round
    /// itself is. So emptying keeps up with whatever is written, and never makes much of a short wait.
    pub(crate) fn beside(records: usize, bytes: usize) -> Self {
        Self { records: 512 + 2 * records, bytes: (128 << 10) + 2 * bytes }
    }

    /// Notes that a record was looked at. Returns whether any effort is left.
    fn spend(&mut self, bytes: usize) -> bool {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.records > 0 && self.bytes > 0
    }
}

/// How far a step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// There is more to look at.
    More,
    /// There is more to look at, and the next record needs so much room in a batch, in bytes.
    NoRoom(usize),
    /// Everything that is needed is in a batch, and so is the record that the segment may be gone. Once that
    /// batch is committed, so it may.
    All,
}

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
    /// Where the window begins.
    base: u32,
    /// Where to read on: at the beginning of a batch or of a record.
    at: u32,
    /// The batch that is being read.
    batch: Option<Within>,
    /// The record at `at`, once it was looked at: its kind and its checksum.
    next: Option<(Location, u8, u32)>,
    /// Whether the seal was reached.
    ended: bool,
    /// What begins before this offset was carried forward earlier.
    skip: u32,
}

/// A segment being counted, and what was counted so far.
pub(crate) struct Count {
    work: Compaction,
    live: u64,
    leftover: u64,
}

impl Count {
    /// Begins to count a segment.
    pub(crate) fn of(work: Compaction) -> Self {
        Self { work, live: 0, leftover: 0 }
    }

    /// The number of the segment.
    pub(crate) fn segment(&self) -> u32 {
        self.work.segment()
    }
}

/// How far a batch has been read.
struct Within {
    header: BatchHeader,
    /// Where its body begins.
    begin: u32,
    count: u32,
    crcs: u32,
}

impl Within {
    fn end(&self) -> u32 {
        self.begin.saturating_add(self.header.body_len)
    }
}

impl Journal {
    /// The segment most worth emptying, if there is one of which at most [`LIVE_PERCENT`] are needed. Never
    /// the current segment, and never a damaged one or one that is set aside. Who is `patient` leaves those
    /// alone that will be worth more, unless their emptying has begun.
    pub(crate) fn worst_segment(&self, patient: bool, set_aside: &BTreeSet<u32>) -> Option<u32> {
        let permille = |part: u64, len: u64| part * 1000 / len.max(1);
        let current = self.current.ident.segment;
        let is_ripe = |number: &u32, usage: &Usage| {
            let needed = usage.live.saturating_sub(usage.leftover);
            self.carried.contains_key(number) || permille(needed, usage.len) <= RIPE_PERCENT * 10
        };
        self.segments
            .iter()
            .filter(|(number, usage)| **number != current && !usage.damaged && !set_aside.contains(number))
            .filter(|(number, usage)| !patient || is_ripe(number, usage))
            .map(|(number, usage)| (permille(usage.live, usage.len), *number))
            .filter(|(live, _)| *live <= LIVE_PERCENT * 10)
            .min()
            .map(|(_, number)| number)
    }

    /// Begins to empty or count a segment.
    pub(crate) fn start_compaction(&mut self, segment: u32) -> Result<Compaction, CompactError> {
        let skip = self.carried.get(&segment).copied().unwrap_or(0);
        let work = Compaction::of(self.disk.as_ref(), segment, skip);
        work.map_err(|unread| self.unread(segment, unread))
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

    /// Carries a part of a segment forward, in a batch that somebody else writes and commits. See
    /// [`Journal::carrying_room`] for how much it should have room for.
    pub(crate) fn carry(
        &mut self,
        work: &mut Compaction,
        owner: &mut dyn Liveness,
        batch: &mut Batch,
        mut effort: Effort,
    ) -> Result<Carried, CompactError> {
        let mut any = false;
        loop {
            let (at, kind, payload) = match work.look() {
                Look::Record(at, kind, payload) => (at, kind, payload),
                Look::End if batch.has_room(REMOVAL_COST) => {
                    batch.push(REMOVED, &[&work.segment().to_le_bytes()]);
                    return Ok(Carried::All);
                }
                Look::End => return Ok(Carried::NoRoom(0)),
                Look::Unread(why) => return Err(self.unread(work.segment(), why)),
            };
            let cost = if at.offset < work.skip { 0 } else { owner.cost(at, kind, &payload) };
            let fits = cost == 0 || batch.has_room(cost + REMOVAL_COST + CARRIED_COST);
            if cost > 0 && fits {
                self.carry_record(owner, batch, (at, kind, &payload));
                any = true;
            }
            if fits {
                work.pass();
            }
            let goes_on = fits && effort.spend(payload.len());
            if any && !goes_on {
                self.say_carried(work.segment(), work.at, batch);
            }
            match (fits, goes_on) {
                (false, _) => return Ok(Carried::NoRoom(cost)),
                (true, false) => return Ok(Carried::More),
                (true, true) => {}
            }
        }
    }

    /// How much room the batch of a round needs beside what the round takes itself, in bytes, if a step of
    /// emptying is to ride in it, and the next record to carry needs `least`.
    pub(crate) fn carrying_room(&self, round: usize, least: usize) -> usize {
        /// Into how many parts the emptying of a segment is split at least.
        const PARTS: usize = 32;
        let usual = (self.config.segment_bytes as usize / PARTS).min(round.max(128 << 10));
        usual.max(least) + REMOVAL_COST + CARRIED_COST
    }

    /// Carries a part of a segment forward in a batch of its own, no longer than what the next record needs,
    /// because nothing else could be written. Returns `true` once all that is needed is on stable storage, as
    /// is the record that the segment may be gone.
    pub(crate) fn carry_alone(
        &mut self,
        work: &mut Compaction,
        owner: &mut dyn Liveness,
    ) -> Result<bool, CompactError> {
        let mut effort = Effort::beside(0, 0);
        loop {
            let (at, kind, payload) = match work.look() {
                Look::Record(at, kind, payload) => (at, kind, payload),
                Look::End => {
                    self.say_removed(work.segment())?;
                    return Ok(true);
                }
                Look::Unread(why) => return Err(self.unread(work.segment(), why)),
            };
            let cost = if at.offset < work.skip { 0 } else { owner.cost(at, kind, &payload) };
            let batch = if cost > 0 { Some(self.begin(cost + CARRIED_COST)?) } else { None };
            work.pass();
            if let Some(mut batch) = batch {
                self.carry_record(owner, &mut batch, (at, kind, &payload));
                self.say_carried(work.segment(), work.at, &mut batch);
                self.commit(batch)?;
            }
            if cost > 0 || !effort.spend(payload.len()) {
                return Ok(false);
            }
        }
    }

    /// Says in a batch that what is needed of a segment up to this offset is in it, or was before.
    fn say_carried(&mut self, segment: u32, offset: u32, batch: &mut Batch) {
        batch.push(CARRIED, &[&segment.to_le_bytes(), &offset.to_le_bytes()]);
        self.carried.insert(segment, offset);
    }

    fn carry_record(
        &mut self,
        owner: &mut dyn Liveness,
        batch: &mut Batch,
        (at, kind, payload): (Location, u8, &Bytes),
    ) {
        owner.carry(at, kind, payload, &mut |kind, payload| {
            let to = batch.push(kind, &[payload]);
            self.note_live(to);
            to
        });
    }

    /// Goes on counting what the owner needs of a whole segment. Returns `true` once all of it is counted.
    pub(crate) fn count(
        &mut self,
        count: &mut Count,
        owner: &mut dyn Liveness,
        mut effort: Effort,
    ) -> Result<bool, CompactError> {
        let Count { work, live, leftover } = count;
        loop {
            match work.look() {
                Look::Record(at, kind, payload) => {
                    if at.offset >= work.skip {
                        let cost = owner.cost(at, kind, &payload);
                        let is_shorter = cost < Batch::cost(payload.len());
                        *live += cost as u64;
                        *leftover += if is_shorter { cost as u64 } else { 0 };
                    }
                    work.pass();
                    if !effort.spend(payload.len()) {
                        return Ok(false);
                    }
                }
                Look::End => break,
                Look::Unread(why) => return Err(self.unread(work.segment(), why)),
            }
        }
        if let Some(usage) = self.segments.get_mut(&work.segment()) {
            (usage.live, usage.leftover) = (*live, *leftover);
        }
        Ok(true)
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
    fn of(disk: &dyn Disk, segment: u32, skip: u32) -> Result<Self, Unread> {
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
            batch: None,
            next: None,
            ended: false,
            skip,
        })
    }

    /// The number of the segment.
    pub(crate) fn segment(&self) -> u32 {
        self.ident.segment
    }

    /// The record that is to be looked at next.
    fn look(&mut self) -> Look {
        while !self.ended {
            match self.read_on() {
                Ok(Some((at, kind, payload))) => return Look::Record(at, kind, payload),
                Ok(None) => {}
                Err(unread) => return Look::Unread(unread),
            }
        }
        Look::End
    }

    /// Reads the record, the batch header or the seal where it is, or checks the batch that ends there.
    /// Records are taken one by one, since each has a checksum of its own: a batch may be long.
    fn read_on(&mut self) -> Result<Option<(Location, u8, Bytes)>, Unread> {
        let ident = self.ident;
        let Some(batch) = &self.batch else {
            let head = self.bytes(BATCH_HEADER)?;
            let header = BatchHeader::decode_at(&head, ident, self.at).ok_or(Unread::Damaged)?;
            self.ended = header.flags & SEAL != 0;
            let begin = self.at.saturating_add(BATCH_HEADER as u32);
            if !self.ended {
                (self.at, self.batch) = (begin, Some(Within { header, begin, count: 0, crcs: 0 }));
            }
            return Ok(None);
        };
        if self.at == batch.end() {
            if (batch.count, batch.crcs) != (batch.header.count, batch.header.body_crc) {
                return Err(Unread::Damaged);
            }
            let stride = u32::try_from(batch.header.stride()).map_err(|_| Unread::Damaged)?;
            self.at = (batch.begin - BATCH_HEADER as u32).saturating_add(stride);
            self.batch = None;
            return Ok(None);
        }
        let left = batch.end().checked_sub(self.at).ok_or(Unread::Damaged)? as usize;
        let (at, kind, payload, crc) = match self.next {
            Some((at, kind, crc)) => {
                let whole = self.bytes(FRAME_HEADER + at.len as usize)?;
                (at, kind, whole.slice(FRAME_HEADER..), crc)
            }
            None => self.read_record(left)?,
        };
        self.next = Some((at, kind, crc));
        if is_own(kind) {
            self.pass();
            return Ok(None);
        }
        Ok(Some((at, kind, payload)))
    }

    /// Reads and checks the record at `at`, which has at most `left` bytes.
    fn read_record(&mut self, left: usize) -> Result<(Location, u8, Bytes, u32), Unread> {
        let head = self.bytes(FRAME_HEADER.min(left))?;
        let len = head.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)).ok_or(Unread::Damaged)?;
        let whole = FRAME_HEADER.saturating_add(len as usize);
        if whole > left {
            return Err(Unread::Damaged);
        }
        let bytes = self.bytes(whole)?;
        let (kind, _, crc) = frame(&bytes, self.ident, self.at).ok_or(Unread::Damaged)?;
        let at = Location { segment: self.ident.segment, offset: self.at, len };
        Ok((at, kind, bytes.slice(FRAME_HEADER..), crc))
    }

    /// Goes on behind the record that was looked at.
    fn pass(&mut self) {
        if let (Some((at, _, crc)), Some(batch)) = (self.next.take(), &mut self.batch) {
            batch.count += 1;
            batch.crcs = crc32c_append(batch.crcs, &crc.to_le_bytes());
            self.at += FRAME_HEADER as u32 + at.len;
        }
    }

    /// So many bytes from `at` on.
    fn bytes(&mut self, len: usize) -> Result<Bytes, Unread> {
        let start = (self.at - self.base) as usize;
        if start + len <= self.window.len() {
            return Ok(self.window.slice(start..start + len));
        }
        let left = self.len.checked_sub(u64::from(self.at)).ok_or(Unread::Damaged)?;
        if len as u64 > left {
            return Err(Unread::Damaged);
        }
        let mut buf = vec![0; (WINDOW as u64).min(left).max(len as u64) as usize];
        self.file.read_at(&mut buf, u64::from(self.at))?;
        (self.window, self.base) = (buf.into(), self.at);
        Ok(self.window.slice(..len))
    }
}
