//! Damages a segment in any way, for fuzzing: whatever was changed, each record is read as it was written, or
//! not at all.

use super::Batch;
use super::format::{Ident, SEGMENT_HEADER, SegmentHeader};
use super::scan::{outline, records};

const HEADER: SegmentHeader = SegmentHeader {
    segment: 1,
    incarnation: [5; 16],
    marker: 0x0123_4567_89ab_cdef,
    prev_segment: 0,
    prev_end: 0,
    first_batch: 1,
    stamp: 0,
    start: 0,
};
const IDENT: Ident = Ident { segment: HEADER.segment, marker: HEADER.marker };

/// Where a record stands, and what it says.
type Found = (u32, u8, Vec<u8>);

/// A segment of five batches, and the records in it.
fn written() -> (Vec<u8>, Vec<Found>) {
    let (mut bytes, mut all) = (HEADER.encode().to_vec(), Vec::new());
    for number in 1..=5_u8 {
        let mut batch = Batch::new(IDENT, bytes.len() as u32, u64::from(number), 4096, Vec::new());
        for record in 0..number {
            let payload = vec![number ^ record; usize::from(number) * usize::from(record) * 9];
            all.push((batch.push(record + 1, &[&payload]).offset, record + 1, payload));
        }
        batch.finish();
        bytes.extend_from_slice(&batch.buf);
    }
    (bytes, all)
}

/// Every record that can be read.
fn read(bytes: &[u8]) -> Vec<Found> {
    let found = outline(bytes, IDENT, SEGMENT_HEADER.min(bytes.len()));
    assert!(found.end as usize <= bytes.len(), "a segment ends within its file");
    let mut all = Vec::new();
    for span in &found.spans {
        let damage = records(bytes, IDENT, span, &mut |at, kind, payload| {
            all.push((at.offset, kind, payload.to_vec()))
        });
        assert_eq!(damage.is_none(), span.intact, "damage is reported, and only damage");
    }
    all
}

/// Changes a segment as the input says, reads it, and returns how many records were read. The input consists
/// of edits of four bytes each: a place (u16, big endian), what to do (0 to 3: overwrite, exclusive or, cut
/// there, repeat what stands there at the end) and a value.
pub(crate) fn survey(edits: &[u8]) -> usize {
    let (mut bytes, originals) = written();
    for edit in edits.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % bytes.len().max(1);
        match edit[2] % 4 {
            0 => bytes[at..].iter_mut().take(1 + usize::from(edit[2] / 4)).for_each(|byte| *byte = edit[3]),
            1 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= edit[3]),
            2 => bytes.truncate(at.max(SEGMENT_HEADER)),
            _ => bytes.extend_from_within(at..(at + usize::from(edit[3])).min(bytes.len())),
        }
    }
    let header = SegmentHeader::decode(&bytes, IDENT.segment);
    assert!(header.is_err() || header == Ok(HEADER), "a header is whole or not one");
    let found = read(&bytes);
    assert!(found.iter().all(|record| originals.contains(record)), "only what was written is read");
    found.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_untouched_segment_is_read_as_a_whole() {
        let (bytes, originals) = written();
        assert_eq!(read(&bytes), originals);
        assert_eq!(survey(&[]), originals.len());
    }

    proptest! {
        #[test]
        fn only_what_was_written_is_read(edits in proptest::collection::vec(any::<u8>(), 0..40)) {
            survey(&edits);
        }
    }
}
