//! The bytes of a segment file. Pure: encodes and decodes, touches no disk. All integers are little-endian.
//!
//! ```text
//! segment  = header(72) batch* [seal]
//! header   = magic(8) version(4) segment(4) incarnation(16) marker(8) prev_segment(4) prev_end(4)
//!            first_batch(8) stamp(8) start(4) crc(4)
//! batch    = batch header(40) frame* zero padding to a multiple of 8
//! batch header = marker(8) number(8) body_len(4) count(4) flags(4) body_crc(4) offset(4) crc(4)
//! frame    = len(4) crc(4) kind(1) payload(len)
//! ```
//! - The *marker* is random, secret, and new for each segment, so that even a poster who knows this format
//!   cannot put bytes into an envelope that a scan of damage would take for a batch.
//! - A batch header's crc covers the segment number and the header; `body_crc` covers the crcs of the frames
//!   in order.
//! - A frame's crc covers the marker, the segment, its own offset, len, kind and payload. So a block that was
//!   written to the wrong place is noticed, and bytes inside an envelope cannot pass for a record when a
//!   damaged batch is searched.
//! - *prev_end* is where the previous segment ends. Bytes beyond it are a tail that was rewritten here and
//!   are ignored.
//! - *stamp* is a number of the owner's, as high as it was when the segment was begun, or lower.
//! - *start* counts the starts of the store; 0 in segments from before they were counted.
//! - A *seal* is a batch header with flag 1, no body, and the number of the batch before it; nothing follows
//!   it. With flag 2 as well, the journal was ended cleanly there; without it, a later segment was on stable
//!   storage before.
//! - A frame of kind 60 is the *roster*, the first frame of every segment: the numbers (4 bytes each) of all
//!   segments that exist. One of kind 61 says of one segment (4 bytes) that it may be gone from now on. From
//!   both it follows whether a segment was removed or is lost.
//! - One of kind 62 says of segments (4 bytes each) up to which offset (4 bytes) everything that is needed of
//!   them was carried forward, in this batch or before. It is said again at the beginning of each segment.

use crc32c::{crc32c, crc32c_append};

/// The first bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"PHJSEG\0\0";
/// The format that this code writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 1;
/// Length of a segment header, in bytes.
pub(crate) const SEGMENT_HEADER: usize = 72;
/// Length of a batch header, in bytes.
pub(crate) const BATCH_HEADER: usize = 40;
/// Length of a frame before its payload, in bytes.
pub(crate) const FRAME_HEADER: usize = 9;
/// Alignment of batches, in bytes.
pub(crate) const ALIGN: usize = 8;
/// The flag of a seal.
pub(crate) const SEAL: u32 = 1;
/// The flag of a seal with which the journal ends: no later segment was ever begun.
pub(crate) const CLOSED: u32 = 2;
/// The kind of frame that lists the segments.
pub(crate) const ROSTER: u8 = 60;
/// The kind of frame that says that a segment may be gone.
pub(crate) const REMOVED: u8 = 61;
/// The kind of frame that says how far a segment was emptied.
pub(crate) const CARRIED: u8 = 62;

/// Whether frames of this kind are the journal's own, and not records of its owner.
pub(crate) const fn is_own(kind: u8) -> bool {
    matches!(kind, ROSTER | REMOVED | CARRIED)
}

/// What ties checksums to one segment of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ident {
    /// The segment's number.
    pub(crate) segment: u32,
    /// Its secret marker.
    pub(crate) marker: u64,
}

/// What the first 72 bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// This segment's number; must match the file's name.
    pub(crate) segment: u32,
    /// The store's life in which the segment was begun.
    pub(crate) incarnation: [u8; 16],
    /// Begins every batch of this segment.
    pub(crate) marker: u64,
    /// The last segment before this one was begun, or 0.
    pub(crate) prev_segment: u32,
    /// Where that segment ends.
    pub(crate) prev_end: u32,
    /// Number of the first batch in this segment.
    pub(crate) first_batch: u64,
    /// The owner's stamp; see [`super::Journal::stamp`].
    pub(crate) stamp: u64,
    /// The store's start in which the segment was begun; 0 if it was not counted yet.
    pub(crate) start: u32,
}

/// What the 40 bytes before a batch's frames say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Counts batches over the life of the journal.
    pub(crate) number: u64,
    /// Bytes of frames, without padding.
    pub(crate) body_len: u32,
    /// How many frames there are.
    pub(crate) count: u32,
    /// [`SEAL`], perhaps with [`CLOSED`], or 0.
    pub(crate) flags: u32,
    /// Checksum of the frames' checksums.
    pub(crate) body_crc: u32,
}

/// Why a segment header was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Not a segment, or damaged.
    Damaged,
    /// Written by a later version of this program.
    Version(u32),
}

fn u32_at(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]])
}

fn u64_at(buf: &[u8], at: usize) -> u64 {
    u64::from(u32_at(buf, at)) | u64::from(u32_at(buf, at + 4)) << 32
}

impl SegmentHeader {
    /// The 72 bytes.
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.segment.to_le_bytes());
        out[16..32].copy_from_slice(&self.incarnation);
        out[32..40].copy_from_slice(&self.marker.to_le_bytes());
        out[40..44].copy_from_slice(&self.prev_segment.to_le_bytes());
        out[44..48].copy_from_slice(&self.prev_end.to_le_bytes());
        out[48..56].copy_from_slice(&self.first_batch.to_le_bytes());
        out[56..64].copy_from_slice(&self.stamp.to_le_bytes());
        out[64..68].copy_from_slice(&self.start.to_le_bytes());
        let crc = crc32c(&out[..68]);
        out[68..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`SegmentHeader::encode`] wrote for this segment number.
    pub(crate) fn decode(buf: &[u8], segment: u32) -> Result<Self, BadHeader> {
        if buf.len() < SEGMENT_HEADER || buf[..8] != MAGIC || u32_at(buf, 68) != crc32c(&buf[..68]) {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(buf, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let mut incarnation = [0; 16];
        incarnation.copy_from_slice(&buf[16..32]);
        let header = Self {
            segment: u32_at(buf, 12),
            incarnation,
            marker: u64_at(buf, 32),
            prev_segment: u32_at(buf, 40),
            prev_end: u32_at(buf, 44),
            first_batch: u64_at(buf, 48),
            stamp: u64_at(buf, 56),
            start: u32_at(buf, 64),
        };
        if header.segment == segment { Ok(header) } else { Err(BadHeader::Damaged) }
    }
}

impl BatchHeader {
    /// Bytes from this batch's start to the next one's.
    pub(crate) fn stride(&self) -> usize {
        (BATCH_HEADER + self.body_len as usize).next_multiple_of(ALIGN)
    }

    /// The 40 bytes, for a batch at `offset` of a segment.
    pub(crate) fn encode(&self, ident: Ident, offset: u32) -> [u8; BATCH_HEADER] {
        let mut out = [0; BATCH_HEADER];
        out[..8].copy_from_slice(&ident.marker.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.count.to_le_bytes());
        out[24..28].copy_from_slice(&self.flags.to_le_bytes());
        out[28..32].copy_from_slice(&self.body_crc.to_le_bytes());
        out[32..36].copy_from_slice(&offset.to_le_bytes());
        let crc = crc32c_append(crc32c(&ident.segment.to_le_bytes()), &out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header of the batch at `offset` in the segment's bytes, if there is one.
    pub(crate) fn decode(buf: &[u8], ident: Ident, offset: usize) -> Option<Self> {
        Self::decode_at(buf.get(offset..offset.checked_add(BATCH_HEADER)?)?, ident, offset as u32)
    }

    /// The same, from the 40 bytes themselves.
    pub(crate) fn decode_at(bytes: &[u8], ident: Ident, offset: u32) -> Option<Self> {
        if u64_at(bytes, 0) != ident.marker
            || u32_at(bytes, 32) != offset
            || u32_at(bytes, 36) != crc32c_append(crc32c(&ident.segment.to_le_bytes()), &bytes[..36])
        {
            return None;
        }
        Some(Self {
            number: u64_at(bytes, 8),
            body_len: u32_at(bytes, 16),
            count: u32_at(bytes, 20),
            flags: u32_at(bytes, 24),
            body_crc: u32_at(bytes, 28),
        })
    }
}

/// A frame's checksum.
pub(crate) fn frame_crc(ident: Ident, offset: u32, kind: u8, payload: &[u8]) -> u32 {
    let mut head = [0; 21];
    head[..8].copy_from_slice(&ident.marker.to_le_bytes());
    head[8..12].copy_from_slice(&ident.segment.to_le_bytes());
    head[12..16].copy_from_slice(&offset.to_le_bytes());
    head[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[20] = kind;
    crc32c_append(crc32c(&head), payload)
}

/// An intact frame: kind, payload, checksum.
pub(crate) type Frame<'a> = (u8, &'a [u8], u32);

/// The frame that begins at `buf[0]`, which stands at `offset` of the segment; `None` if it is damaged or
/// does not fit.
pub(crate) fn frame(buf: &[u8], ident: Ident, offset: u32) -> Option<Frame<'_>> {
    if buf.len() < FRAME_HEADER {
        return None;
    }
    let payload = buf[FRAME_HEADER..].get(..u32_at(buf, 0) as usize)?;
    let (crc, kind) = (u32_at(buf, 4), buf[8]);
    (frame_crc(ident, offset, kind, payload) == crc).then_some((kind, payload, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_notice_every_flipped_bit() {
        let header = SegmentHeader {
            segment: 7,
            incarnation: [9; 16],
            marker: 0x1234_5678_9abc_def0,
            prev_segment: 6,
            prev_end: 4096,
            first_batch: 33,
            stamp: 12,
            start: 3,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes, 7), Ok(header));
        assert_eq!(SegmentHeader::decode(&bytes, 8), Err(BadHeader::Damaged));
        let ident = Ident { segment: 7, marker: header.marker };
        let batch = BatchHeader { number: 5, body_len: 100, count: 2, flags: 0, body_crc: 77 };
        let coded = batch.encode(ident, 0);
        assert_eq!(BatchHeader::decode(&coded, ident, 0), Some(batch));
        assert_eq!(BatchHeader::decode(&coded, Ident { segment: 8, ..ident }, 0), None);
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad, 7).is_err(), "bit {bit}");
        }
        for bit in 0..BATCH_HEADER * 8 {
            let mut bad = coded;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&bad, ident, 0), None, "bit {bit}");
        }
    }

    /// Released disk formats stay readable: these bytes are version 1 for ever.
    #[test]
    fn version_1_is_fixed() {
        let header = SegmentHeader {
            segment: 1,
            incarnation: [0xaa; 16],
            marker: 2,
            prev_segment: 0,
            prev_end: 0,
            first_batch: 1,
            stamp: 0,
            start: 0,
        };
        let hex: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with("50484a5345470000010000000100000"), "{hex}");
        let ident = Ident { segment: 1, marker: 2 };
        let crc = frame_crc(ident, 64, 3, b"payload");
        assert_ne!(crc, frame_crc(ident, 72, 3, b"payload"), "bound to its place");
        assert_ne!(
            crc,
            frame_crc(Ident { marker: 3, ..ident }, 64, 3, b"payload"),
            "bound to the secret marker"
        );
    }
}
