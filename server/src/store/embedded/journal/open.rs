//! Opening a journal: finding what is there, cutting the torn tail, rewriting the last batch, and replaying.
//!
//! The last batch may be in the page cache without being on the disk, if its sync failed just before the
//! process stopped, and there is no system call that would tell. So it is *rewritten* into a new segment and
//! synced before anything is served (rule 19). The order, in which the power may go between any two steps:
//! write the new segment under a temporary name, sync, rename, sync the folder, from when on its header says
//! where the old segment ends; then cut and seal the old one. A sealed segment needs no rewriting.
//!
//! Each segment begins with a roster of the segments there are, and nothing is removed before a record says
//! so. So a lost segment is noticed, and so is one that was removed and is back, from a backup for instance;
//! that one is left alone. A start removes a segment only once the new segment has said so again, because the
//! first record that said so may have been seen in the page cache only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use rand::RngCore;

use super::disk::{Disk, DiskFile, is_full};
use super::format::{
    ALIGN, BATCH_HEADER, CARRIED, Ident, REMOVED, ROSTER, SEGMENT_HEADER, SegmentHeader, is_own,
};
use super::scan::{Outline, Span, outline, records};
use super::segment::{Found, UNFINISHED, find, load, name_of, number_of, seal};
use super::{
    Batch, Current, Damage, Journal, JournalConfig, Location, Position, REMOVAL, Reader, Resume, Time, Usage,
    progress,
};

/// What replay yields, in order.
#[derive(Debug)]
pub(crate) enum Replayed<'a> {
    /// A record, intact.
    Record {
        /// Where it stands.
        at: Location,
        /// The kind under which it was pushed.
        kind: u8,
        /// The bytes that were pushed.
        payload: &'a [u8],
    },
    /// Something here can no longer be read back. What follows it is still replayed.
    Damage(Damage),
    /// The end of the journal was torn and has been cut: a batch that was being written, and was never
    /// answered. Damage to the very last batch looks the same, if the journal was not ended cleanly.
    Torn(Damage),
}

/// Why a journal does not open. None of these comes from a power cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The disk failed.
    #[error("the journal cannot be opened: {0}")]
    Io(#[from] io::Error),
    /// There is not even space for one small segment.
    #[error("the disk is full: free at least 1 MiB and start again")]
    Full,
    /// It was written by a later version of this program.
    #[error(
        "segment {segment:016x} has format {version}; this program reads up to {}: update it",
        super::format::VERSION
    )]
    Version {
        /// The segment that cannot be read.
        segment: u32,
        /// The version of its format.
        version: u32,
    },
    /// What stands here is intact, and its owner does not know what it says.
    #[error(
        "a record in segment {:016x} at {} is of a form that this version does not know; a later version wrote \
         it: start that one",
        .0.segment, .0.offset
    )]
    Newer(Location),
    /// The journal no longer holds what supersedes things that were remembered at that place. What is
    /// remembered is worth nothing, and the journal must be replayed from the beginning.
    #[error("the journal no longer reaches back to {0:?}")]
    Elsewhere(Resume),
    /// The journal ends before the place asked for, which was on stable storage, so its end is lost. It must
    /// be replayed from the beginning.
    #[error("the journal does not reach to {0:?}")]
    Short(Resume),
}

/// The last segment, read and judged.
struct Tail {
    found: Found,
    buf: Vec<u8>,
    outline: Outline,
    /// The last batch, if it is to be rewritten.
    rewrite: Option<Span>,
    /// Where the segment ends once that is done.
    cut: u32,
}

impl Journal {
    /// Opens a journal, and replays what stands at or after `from`, or all of it.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        config: JournalConfig,
        time: Time,
        mut rng: Box<dyn RngCore + Send>,
        from: Option<Resume>,
        visit: &mut dyn FnMut(Replayed<'_>),
    ) -> Result<Self, OpenError> {
        let mut found = find_segments(disk.as_ref())?;
        let tail = found.pop().map(read_tail).transpose()?;
        let (lost, mut removed) = call_the_roll(&mut found, tail.as_ref(), visit);
        removed.extend(tail.as_ref().filter(|tail| tail.is_emptied()).map(|tail| tail.found.number));
        if let Some(from) = from {
            check_reach(from, &found, tail.as_ref())?;
        }
        let from = from.map(|from| from.position);
        let mut segments = BTreeMap::new();
        for (index, segment) in found.iter().enumerate() {
            let next = found.get(index + 1).or(tail.as_ref().map(|tail| &tail.found));
            let usage = finish_and_replay(segment, next, index + 1 == found.len(), from, visit)?;
            segments.insert(segment.number, usage);
        }
        let header = next_header(tail.as_ref(), &lost, time, rng.next_u64());
        let carried = still_carried(tail.as_ref(), &lost, &segments);
        let all: Vec<u32> =
            segments.keys().chain(tail.iter().map(|tail| &tail.found.number)).chain(&lost).copied().collect();
        let moved = begin_segment(disk.as_ref(), &header, (&all, &removed, &carried), tail.as_ref())?;
        // Until now, the record that they may be gone may have been seen in the page cache only.
        for segment in &removed {
            disk.unlink(&name_of(*segment))?;
        }
        if !removed.is_empty() {
            disk.sync_dir()?;
        }
        if let Some(tail) = &tail {
            if !tail.is_emptied() {
                segments.insert(tail.found.number, tail.finish()?);
            }
            tail.replay(from, visit);
        }
        let current = moved.replay(visit);
        // The owner has yet to say what is needed; until then nothing is taken for garbage.
        segments.values_mut().for_each(|usage| usage.live = usage.len);
        let usage = Usage { len: current.allocated, stamp: header.stamp, ..Usage::default() };
        segments.insert(header.segment, usage);
        let last_batch = tail.as_ref().map_or(0, Tail::last_batch);
        Ok(Self {
            reader: Reader::new(Arc::clone(&disk), config.open_files),
            disk,
            config,
            time,
            rng,
            current,
            next_batch: header.first_batch.max(last_batch) + 1,
            stamp: header.stamp,
            segments,
            lost,
            carried,
            failed: false,
            spare: Vec::new(),
        })
    }
}

/// The newest start of the store that a journal knows of, 0 if none; `None` if that cannot be read. Changes
/// nothing.
pub(crate) fn last_start(disk: &dyn Disk) -> io::Result<Option<u32>> {
    match disk.list()?.iter().filter_map(|name| number_of(name)).max() {
        None => Ok(Some(0)),
        Some(last) => Ok(find(disk, last)?.ok().and_then(|found| found.header).map(|header| header.start)),
    }
}

/// Whether there is a segment.
pub(crate) fn any_segment(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.list()?.iter().any(|name| number_of(name).is_some()))
}

/// All segments in order of number.
fn find_segments(disk: &dyn Disk) -> Result<Vec<Found>, OpenError> {
    let mut numbers = Vec::new();
    for name in disk.list()? {
        if name == UNFINISHED {
            disk.unlink(&name)?;
        }
        numbers.extend(number_of(&name));
    }
    numbers.sort_unstable();
    // A name that is seen here may be in the page cache only, and the next steps rely on it: ending the
    // segment before it, for instance.
    disk.sync_dir()?;
    let open = |number| match find(disk, number)? {
        Ok(found) => Ok(found),
        Err(future) => Err(OpenError::Version { segment: number, version: future.0 }),
    };
    numbers.into_iter().map(open).collect()
}

/// Compares the segments that are there with the roster of the last one. Returns those that are lost, and
/// those that are to be removed, which it takes out of the list.
fn call_the_roll(
    found: &mut Vec<Found>,
    tail: Option<&Tail>,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> (BTreeSet<u32>, Vec<u32>) {
    let Some((tail, (named, removed))) = tail.and_then(|tail| Some((tail, tail.roster()?))) else {
        return (BTreeSet::new(), Vec::new());
    };
    let present: BTreeSet<u32> = found.iter().map(|found| found.number).chain([tail.found.number]).collect();
    let mut lost: BTreeSet<u32> = &(&named - &removed) - &present;
    if tail.outline.sealed && !tail.outline.closed {
        // It was ended only once a later segment was on stable storage.
        lost.insert(tail.found.number + 1);
    }
    for segment in &lost {
        visit(Replayed::Damage(Damage {
            segment: *segment,
            offset: 0,
            len: 0,
            what: "segment that is missing",
        }));
    }
    let mut going = Vec::new();
    for segment in found.iter().map(|found| found.number) {
        if removed.contains(&segment) {
            going.push(segment);
        } else if !named.contains(&segment) {
            let what = "segment that was removed and is back (it is not read)";
            visit(Replayed::Damage(Damage { segment, offset: 0, len: 0, what }));
        }
    }
    found.retain(|found| named.contains(&found.number) && !removed.contains(&found.number));
    (lost, going)
}

fn read_tail(found: Found) -> Result<Tail, OpenError> {
    let buf = load(found.file.as_ref(), found.len)?;
    let outline = match found.marker {
        Some(marker) => outline(&buf, Ident { segment: found.number, marker }, SEGMENT_HEADER),
        None => Outline { end: found.len as u32, ..Outline::default() },
    };
    let rewrite = outline.spans.last().copied().filter(|_| !outline.sealed);
    let cut = rewrite.map_or(outline.end, |span| span.offset);
    Ok(Tail { found, buf, outline, rewrite, cut })
}

/// Checks that the journal fits a checkpoint. A checkpoint is written only once a later batch is on stable
/// storage, so the place that it names is never rewritten or cut. And it may hold things whose tombstones
/// compaction has dropped since; those are at most as new as the stamp of the oldest segment, so a checkpoint
/// that is as new as that stamp knows of them.
fn check_reach(from: Resume, found: &[Found], tail: Option<&Tail>) -> Result<(), OpenError> {
    let reached = tail.map_or(Position { segment: 0, offset: 0 }, |tail| Position {
        segment: tail.found.number,
        offset: tail.cut,
    });
    let oldest = found.iter().chain(tail.map(|tail| &tail.found)).find_map(|found| found.header);
    let buried = oldest.map_or(0, |header| header.stamp);
    match from.position > reached {
        true => Err(OpenError::Short(from)),
        false if from.stamp < buried => Err(OpenError::Elsewhere(from)),
        false => Ok(()),
    }
}

/// For a segment that is not the last: makes sure that it is ended, and replays it.
fn finish_and_replay(
    found: &Found,
    next: Option<&Found>,
    next_is_last: bool,
    from: Option<Position>,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> Result<Usage, OpenError> {
    let mut usage = Usage { len: found.len, stamp: found.stamp(), ..Usage::default() };
    let Some(marker) = found.marker else {
        usage.damaged = true;
        visit(Replayed::Damage(Damage {
            segment: found.number,
            offset: 0,
            len: found.len as u32,
            what: "segment",
        }));
        return Ok(usage);
    };
    let ident = Ident { segment: found.number, marker };
    let told_end = next.and_then(|next| next.header).filter(|header| header.prev_segment == found.number);
    if let Some(header) = told_end.filter(|_| next_is_last) {
        // An earlier start may have been interrupted between beginning the next segment and ending this one,
        // and a seal that is seen may be in the page cache only.
        seal(found.file.as_ref(), ident, header.prev_end, header.first_batch - 1)?;
        usage.len = found.file.len()?;
    }
    if from.is_some_and(|from| found.number < from.segment) {
        return Ok(usage);
    }
    let buf = load(found.file.as_ref(), u64::MAX)?;
    let begin = first_offset(from, found.number);
    let outline = outline(&buf, ident, begin);
    usage.damaged = report(found, &outline, begin, visit);
    if !outline.sealed {
        usage.damaged = true;
        let len = (buf.len() as u32).saturating_sub(outline.end);
        visit(Replayed::Damage(Damage {
            segment: found.number,
            offset: outline.end,
            len,
            what: "end of the segment",
        }));
    }
    for span in &outline.spans {
        usage.damaged |= replay_span(&buf, ident, span, visit);
    }
    Ok(usage)
}

fn first_offset(from: Option<Position>, segment: u32) -> usize {
    from.filter(|from| from.segment == segment).map_or(SEGMENT_HEADER, |from| from.offset as usize)
}

fn report(found: &Found, outline: &Outline, begin: usize, visit: &mut dyn FnMut(Replayed<'_>)) -> bool {
    let mut any = false;
    if found.header.is_none() {
        any = true;
        let len = SEGMENT_HEADER as u32;
        visit(Replayed::Damage(Damage { segment: found.number, offset: 0, len, what: "segment header" }));
    }
    for damage in outline.damage.iter().filter(|damage| damage.offset as usize >= begin) {
        any = true;
        visit(Replayed::Damage(*damage));
    }
    any
}

fn replay_span(buf: &[u8], ident: Ident, span: &Span, visit: &mut dyn FnMut(Replayed<'_>)) -> bool {
    let mut yield_record = |at, kind, payload: &[u8]| {
        if !is_own(kind) {
            visit(Replayed::Record { at, kind, payload });
        }
    };
    let damage = records(buf, ident, span, &mut yield_record);
    if let Some(damage) = damage {
        visit(Replayed::Damage(damage));
    }
    damage.is_some()
}

impl Tail {
    fn last_batch(&self) -> u64 {
        let before = self.found.header.map_or(0, |header| header.first_batch - 1);
        self.outline.spans.last().map_or(before, |span| span.header.number)
    }

    fn is_damaged(&self) -> bool {
        let is_whole = self.outline.spans.iter().all(|span| span.intact);
        !self.outline.damage.is_empty() || self.found.header.is_none() || !is_whole
    }

    /// Whether nothing is left in it once its last batch is rewritten.
    fn is_emptied(&self) -> bool {
        self.found.marker.is_some() && self.cut as usize == SEGMENT_HEADER && !self.is_damaged()
    }

    /// Which segments exist according to this one, and which of them may be gone since. `None` if it says
    /// nothing that can be read.
    fn roster(&self) -> Option<(BTreeSet<u32>, BTreeSet<u32>)> {
        let ident = Ident { segment: self.found.number, marker: self.found.marker? };
        let (mut named, mut removed) = (None, BTreeSet::new());
        let mut take = |_, kind, payload: &[u8]| {
            let numbers =
                payload.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            match kind {
                ROSTER => named = Some(numbers.collect()),
                REMOVED => removed.extend(numbers),
                _ => {}
            }
        };
        for span in &self.outline.spans {
            let _ = records(&self.buf, ident, span, &mut take);
        }
        Some((named?, removed))
    }

    /// How far segments were emptied according to this one.
    fn carried(&self) -> BTreeMap<u32, u32> {
        let mut carried = BTreeMap::new();
        let Some(marker) = self.found.marker else { return carried };
        let ident = Ident { segment: self.found.number, marker };
        for span in &self.outline.spans {
            let _ = records(&self.buf, ident, span, &mut |_, kind, payload| {
                if kind == CARRIED {
                    let number = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                    let pairs = payload.chunks_exact(8);
                    carried.extend(pairs.map(|pair| (number(&pair[..4]), number(&pair[4..]))));
                }
            });
        }
        carried
    }

    /// Cuts and seals this segment, which is now the last but one.
    fn finish(&self) -> Result<Usage, OpenError> {
        let Some(marker) = self.found.marker else {
            return Ok(Usage { len: self.found.len, damaged: true, ..Usage::default() });
        };
        // A seal that is there already is written again, because it may be in the page cache only.
        let last = self.last_batch() - u64::from(self.rewrite.is_some());
        seal(self.found.file.as_ref(), Ident { segment: self.found.number, marker }, self.cut, last)?;
        let (len, stamp) = (self.found.file.len()?, self.found.stamp());
        Ok(Usage { len, stamp, damaged: self.is_damaged(), ..Usage::default() })
    }

    /// Replays everything but the batch that was rewritten.
    fn replay(&self, from: Option<Position>, visit: &mut dyn FnMut(Replayed<'_>)) {
        let begin = first_offset(from, self.found.number);
        let Some(marker) = self.found.marker else {
            let len = self.found.len as u32;
            return visit(Replayed::Damage(Damage {
                segment: self.found.number,
                offset: 0,
                len,
                what: "segment",
            }));
        };
        report(&self.found, &self.outline, begin, visit);
        if self.outline.torn && !self.outline.sealed {
            let (segment, offset) = (self.found.number, self.outline.end);
            let used = self.buf.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u32 + 1);
            visit(Replayed::Torn(Damage {
                segment,
                offset,
                len: used.saturating_sub(offset),
                what: "torn end",
            }));
        }
        let ident = Ident { segment: self.found.number, marker };
        let kept =
            self.outline.spans.iter().filter(|span| span.offset as usize >= begin && span.offset < self.cut);
        for span in kept {
            replay_span(&self.buf, ident, span, visit);
        }
    }
}

/// The header of the segment that follows `tail`, or of the first one.
fn next_header(tail: Option<&Tail>, lost: &BTreeSet<u32>, time: Time, marker: u64) -> SegmentHeader {
    let first = SegmentHeader {
        segment: 1,
        incarnation: time.incarnation,
        marker,
        prev_segment: 0,
        prev_end: 0,
        first_batch: 1,
        stamp: 0,
        start: time.start,
    };
    let Some(tail) = tail else { return first };
    SegmentHeader {
        // The number of a lost segment is not given out again, or its loss would be forgotten.
        segment: tail.found.number.max(lost.last().copied().unwrap_or(0)) + 1,
        prev_segment: tail.found.number,
        prev_end: tail.cut,
        first_batch: tail.rewrite.map_or(tail.last_batch() + 1, |span| span.header.number),
        // The owner's stamp is known only after the replay. The last known one is lower, which is allowed.
        stamp: tail.found.header.map_or(0, |header| header.stamp),
        ..first
    }
}

/// How far the segments that are there were emptied. Where anything is damaged, copies may be what is lost:
/// then all is carried again.
fn still_carried(
    tail: Option<&Tail>,
    lost: &BTreeSet<u32>,
    segments: &BTreeMap<u32, Usage>,
) -> BTreeMap<u32, u32> {
    let is_damaged = segments.values().any(|usage| usage.damaged);
    let tail = tail.filter(|tail| lost.is_empty() && !is_damaged && !tail.is_damaged());
    let mut carried = tail.map(Tail::carried).unwrap_or_default();
    carried.retain(|segment, _| segments.contains_key(segment));
    carried
}

/// The segment that was begun for this start.
struct Begun {
    current: Current,
    buf: Vec<u8>,
}

/// Writes the new segment, with the roster, the records that some segments may be gone, and the rewritten
/// batch. When this returns, all of it is on stable storage.
fn begin_segment(
    disk: &dyn Disk,
    header: &SegmentHeader,
    (all, removed, carried): (&[u32], &[u32], &BTreeMap<u32, u32>),
    tail: Option<&Tail>,
) -> Result<Begun, OpenError> {
    let ident = Ident { segment: header.segment, marker: header.marker };
    let bytes = |numbers: &[u32]| numbers.iter().copied().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let (names, gone) = (bytes(&[all, &[header.segment]].concat()), bytes(removed));
    let progress = progress(carried);
    let rewrite = tail.and_then(|tail| Some((tail, tail.rewrite?)));
    let room = Batch::cost(names.len())
        + Batch::cost(gone.len())
        + Batch::cost(progress.len())
        + rewrite.map_or(0, |(_, span)| span.header.body_len as usize);
    // A rewritten batch keeps its number, and with it its place in the order; a roster by itself takes the
    // next number.
    let mut batch = Batch::new(ident, SEGMENT_HEADER as u32, header.first_batch, room, Vec::new());
    batch.push(ROSTER, &[&names]);
    if !removed.is_empty() {
        batch.push(REMOVED, &[&gone]);
    }
    if !progress.is_empty() {
        batch.push(CARRIED, &[&progress]);
    }
    if let Some((tail, span)) = rewrite {
        let old = Ident { segment: tail.found.number, marker: tail.found.marker.unwrap_or_default() };
        let _ = records(&tail.buf, old, &span, &mut |_, kind, payload| {
            if !is_own(kind) {
                batch.push(kind, &[payload]);
            }
        });
    }
    batch.finish();
    let buf = [&header.encode()[..], &batch.buf].concat();
    let allocated = (buf.len() + ALIGN + BATCH_HEADER + REMOVAL) as u64;
    let write = || -> io::Result<Arc<dyn DiskFile>> {
        if let Some(tail) = tail.filter(|tail| tail.found.marker.is_some() && !tail.outline.sealed) {
            // What was preallocated and never used goes first: on a full disk that is the space for the new
            // segment.
            tail.found.file.truncate(u64::from(tail.outline.end))?;
        }
        let file = disk.create(UNFINISHED)?;
        file.allocate(allocated)?;
        file.write_at(&buf, 0)?;
        file.sync()?;
        disk.rename(UNFINISHED, &name_of(header.segment))?;
        disk.sync_dir()?;
        Ok(file)
    };
    let file = write().map_err(|error| if is_full(&error) { OpenError::Full } else { error.into() })?;
    let end = buf.len() as u32;
    let first = if rewrite.is_some() { SEGMENT_HEADER as u32 } else { end };
    Ok(Begun { current: Current { ident, file, first, end, allocated }, buf })
}

impl Begun {
    fn replay(self, visit: &mut dyn FnMut(Replayed<'_>)) -> Current {
        for span in &outline(&self.buf, self.current.ident, SEGMENT_HEADER).spans {
            replay_span(&self.buf, self.current.ident, span, visit);
        }
        self.current
    }
}
