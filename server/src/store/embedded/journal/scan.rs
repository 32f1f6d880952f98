//! Reads a segment's bytes as batches and records, and tells a torn tail from damage.
//!
//! The difference is this: a batch is written only once the one before it is synced. So a bad stretch that is
//! followed by any valid batch of the same segment was once on stable storage, and is *damage*; a bad stretch
//! that nothing follows is a *tail* that was never answered. Pure: the caller decides what to do about
//! either.

use crc32c::crc32c_append;

use super::format::{ALIGN, BATCH_HEADER, BatchHeader, CLOSED, FRAME_HEADER, Ident, SEAL, frame};
use super::{Damage, Location};

/// Longest record that there is, and more, in bytes.
const LONGEST: usize = 1 << 20;
/// How many bytes may be hashed in search of what follows damage, for each byte of the batch. Whatever is
/// stored there needs some 64; what somebody made up to look like frames everywhere needs the square of the
/// batch's length, and is not searched to its end.
const SEARCH: usize = 1024;

/// A batch that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) offset: u32,
    pub(super) header: BatchHeader,
    /// Whether all of its frames are there and have the right checksums.
    pub(super) intact: bool,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// The batches in order, without the seal, and without the last one if that is torn.
    pub(super) spans: Vec<Span>,
    /// Stretches between batches that should be batches.
    pub(super) damage: Vec<Damage>,
    /// Whether there is a seal, so that nothing is missing at the end.
    pub(super) sealed: bool,
    /// Whether the seal says that the journal ended here.
    pub(super) closed: bool,
    /// Where the last batch ends (and the seal stands, if there is one).
    pub(super) end: u32,
    /// Whether anything but zeros follows `end`.
    pub(super) torn: bool,
}

/// Finds all batches from `from` (a batch boundary) to the end of `buf`, which holds the segment from its
/// first byte.
pub(super) fn outline(buf: &[u8], ident: Ident, from: usize) -> Outline {
    let mut found = Outline { end: from as u32, ..Outline::default() };
    let mut at = from;
    loop {
        let Some(header) = BatchHeader::decode(buf, ident, at) else {
            let Some(next) = next_batch(buf, ident, at + ALIGN) else { break };
            found.damage.push(Damage {
                segment: ident.segment,
                offset: at as u32,
                len: (next - at) as u32,
                what: "batch header",
            });
            at = next;
            continue;
        };
        if header.flags & SEAL != 0 {
            found.sealed = true;
            found.closed = header.flags & CLOSED != 0;
            found.end = at as u32;
            return found;
        }
        let intact = is_intact(buf, ident, at, &header);
        found.spans.push(Span { offset: at as u32, header, intact });
        // A damaged length may lead past the batches that follow; then the next header is searched for.
        at = at.saturating_add(header.stride()).min(buf.len());
        found.end = at as u32;
    }
    if let Some(last) = found.spans.pop_if(|last| !last.intact) {
        found.end = last.offset;
        found.torn = true;
    }
    found.torn |= buf.get(found.end as usize..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0));
    found
}

fn next_batch(buf: &[u8], ident: Ident, from: usize) -> Option<usize> {
    let first = ident.marker.to_le_bytes();
    (from..buf.len().saturating_sub(BATCH_HEADER - 1))
        .step_by(ALIGN)
        .find(|at| buf[*at..*at + 8] == first && BatchHeader::decode(buf, ident, *at).is_some())
}

fn is_intact(buf: &[u8], ident: Ident, offset: usize, header: &BatchHeader) -> bool {
    let start = offset + BATCH_HEADER;
    let body = start.checked_add(header.body_len as usize).and_then(|end| buf.get(start..end));
    body.is_some_and(|body| frames(body, ident, start as u32, header, &mut |_, _| ()))
}

/// Calls `visit` with the place and kind of each record of a batch whose body begins at `start` of the
/// segment. Returns whether all of them are there and have the right checksums.
pub(super) fn frames(
    body: &[u8],
    ident: Ident,
    start: u32,
    header: &BatchHeader,
    visit: &mut dyn FnMut(Location, u8),
) -> bool {
    let (mut at, mut count, mut crcs) = (0, 0, 0);
    while let Some((kind, payload, crc)) = frame(&body[at..], ident, start + at as u32) {
        visit(
            Location { segment: ident.segment, offset: start + at as u32, len: payload.len() as u32 },
            kind,
        );
        crcs = crc32c_append(crcs, &crc.to_le_bytes());
        count += 1;
        at += FRAME_HEADER + payload.len();
    }
    at == body.len() && count == header.count && crcs == header.body_crc
}

/// Calls `visit` with the readable records of a batch, in order. In a batch that is not intact, the records
/// before and after a damaged one are still found as long as lengths lead to them. The rest is returned as
/// damage.
pub(super) fn records<'a>(
    buf: &'a [u8],
    ident: Ident,
    span: &Span,
    visit: &mut dyn FnMut(Location, u8, &'a [u8]),
) -> Option<Damage> {
    let start = span.offset as usize + BATCH_HEADER;
    let end = (start + span.header.body_len as usize).min(buf.len());
    let mut at = start;
    let mut bad: Option<(usize, usize)> = None;
    let mut effort = (end.saturating_sub(start)).saturating_mul(SEARCH);
    while at < end {
        if let Some((kind, payload, _)) = frame(&buf[at..end], ident, at as u32) {
            visit(
                Location { segment: ident.segment, offset: at as u32, len: payload.len() as u32 },
                kind,
                payload,
            );
            at += FRAME_HEADER + payload.len();
            continue;
        }
        // The length may be what is damaged, and frames are not aligned, so any byte may begin the next one.
        // A frame's checksum covers its place, so the chance of a false find is 2^-32 for each byte, and only
        // within a batch that is damaged anyway.
        let next = (at + 1..end)
            .find(|next| begins_frame(&buf[*next..end], ident, *next, &mut effort))
            .unwrap_or(end);
        bad = Some((bad.map_or(at, |bad| bad.0), next));
        at = next;
    }
    let (from, to) = bad?;
    Some(Damage { segment: ident.segment, offset: from as u32, len: (to - from) as u32, what: "record" })
}

/// Whether a frame begins here. A cheap test comes before the checksum, and that is not made any more once
/// the effort is used up.
fn begins_frame(buf: &[u8], ident: Ident, offset: usize, effort: &mut usize) -> bool {
    let len = buf.first_chunk::<4>().map_or(usize::MAX, |len| u32::from_le_bytes(*len) as usize);
    let kind_is_known = buf.get(8).is_some_and(|kind| (1..64).contains(kind));
    if !kind_is_known || len > LONGEST.min(buf.len()) {
        return false;
    }
    let Some(left) = effort.checked_sub(len) else {
        *effort = 0;
        return false;
    };
    *effort = left;
    frame(buf, ident, offset as u32).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::Batch;
    use super::super::format::SEGMENT_HEADER;
    use super::*;

    /// An envelope whose bytes look like the beginning of a long frame, from every fourth on, made a start
    /// take minutes for each MiB.
    #[test]
    fn searching_damage_has_an_end() {
        let ident = Ident { segment: 1, marker: 7 };
        let made_up: Vec<u8> = [0, 1, 0, 1].repeat(25_000);
        for (payload, found) in [(vec![0xa5; 100_000], 2), (made_up, 1)] {
            let mut batch = Batch::new(ident, SEGMENT_HEADER as u32, 1, 1 << 20, Vec::new());
            for payload in [&b"before"[..], &payload, b"behind"] {
                batch.push(1, &[payload]);
            }
            batch.finish();
            let mut buf = [vec![0; SEGMENT_HEADER], batch.buf].concat();
            let header = BatchHeader::decode(&buf, ident, SEGMENT_HEADER).expect("a batch");
            let at = SEGMENT_HEADER + BATCH_HEADER + FRAME_HEADER + 6;
            buf[at..at + 4].fill(0xff);
            let span = Span { offset: SEGMENT_HEADER as u32, header, intact: false };
            let mut seen = 0;
            assert!(records(&buf, ident, &span, &mut |_, _, _| seen += 1).is_some());
            assert_eq!(seen, found);
        }
    }
}
