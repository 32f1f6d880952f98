//! Segment files: their names, their beginning, their end.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{
    BATCH_HEADER, BadHeader, BatchHeader, CLOSED, Ident, SEAL, SEGMENT_HEADER, SegmentHeader,
};

const SUFFIX: &str = ".seg";
/// The name of a new segment until its beginning is on stable storage, so that a `.seg` file never begins
/// with a torn write.
pub(super) const UNFINISHED: &str = "next.tmp";

/// The file name of a segment.
pub(super) fn name_of(segment: u32) -> String {
    format!("{segment:016x}{SUFFIX}")
}

/// The number of the segment that a file name stands for.
pub(super) fn number_of(name: &str) -> Option<u32> {
    let hex = name.strip_suffix(SUFFIX).filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()?.try_into().ok().filter(|number| *number > 0)
}

/// The marker of a segment: from its header or, if that is damaged, from its first batch.
pub(super) fn marker_of(head: &[u8], segment: u32) -> Option<u64> {
    if let Ok(header) = SegmentHeader::decode(head, segment) {
        return Some(header.marker);
    }
    let marker = u64::from_le_bytes(head.get(SEGMENT_HEADER..SEGMENT_HEADER + 8)?.try_into().ok()?);
    BatchHeader::decode(head, Ident { segment, marker }, SEGMENT_HEADER).map(|_| marker)
}

/// Ends a segment at `end` for good: cuts what follows, writes the seal, syncs. `last_batch` is the number of
/// its last batch. A later segment must be on stable storage already: if there is none behind such a seal, it
/// is lost. For a clean end of the journal see [`seal_last`].
pub(super) fn seal(file: &dyn DiskFile, ident: Ident, end: u32, last_batch: u64) -> io::Result<()> {
    seal_with(file, ident, end, last_batch, SEAL)
}

/// Ends the last segment, which none follows.
pub(super) fn seal_last(file: &dyn DiskFile, ident: Ident, end: u32, last_batch: u64) -> io::Result<()> {
    seal_with(file, ident, end, last_batch, SEAL | CLOSED)
}

fn seal_with(file: &dyn DiskFile, ident: Ident, end: u32, last_batch: u64, flags: u32) -> io::Result<()> {
    let seal = BatchHeader { number: last_batch, body_len: 0, count: 0, flags, body_crc: 0 };
    file.write_at(&seal.encode(ident, end), u64::from(end))?;
    file.truncate(u64::from(end) + BATCH_HEADER as u64)?;
    file.sync()
}

/// A segment's file and what its header says.
pub(super) struct Found {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) len: u64,
    /// `None` if the header is damaged.
    pub(super) header: Option<SegmentHeader>,
    /// `None` if neither the header nor the first batch can be read; then nothing in the segment can.
    pub(super) marker: Option<u64>,
}

impl Found {
    /// The owner's stamp; 0, which claims nothing, if the header is damaged.
    pub(super) fn stamp(&self) -> u64 {
        self.header.map_or(0, |header| header.stamp)
    }
}

/// The version of a segment that this program is too old to read.
pub(super) struct FromTheFuture(pub(super) u32);

/// Opens a segment file and reads its header.
pub(super) fn find(disk: &dyn Disk, number: u32) -> io::Result<Result<Found, FromTheFuture>> {
    let file = disk.open(&name_of(number))?;
    let len = file.len()?;
    let mut head = vec![0; len.min((SEGMENT_HEADER + BATCH_HEADER) as u64) as usize];
    file.read_at(&mut head, 0)?;
    let header = match SegmentHeader::decode(&head, number) {
        Ok(header) => Some(header),
        Err(BadHeader::Damaged) => None,
        Err(BadHeader::Version(version)) => return Ok(Err(FromTheFuture(version))),
    };
    Ok(Ok(Found { number, file, len, header, marker: marker_of(&head, number) }))
}

/// The bytes of a segment up to `end`.
pub(super) fn load(file: &dyn DiskFile, end: u64) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; end.min(file.len()?) as usize];
    file.read_at(&mut buf, 0)?;
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        assert_eq!(name_of(0x1f), "000000000000001f.seg");
        assert_eq!(number_of("000000000000001f.seg"), Some(0x1f));
        for other in
            ["0.seg", "000000000000001f.tmp", "00000000000000000.seg", "0000000000000000.seg", "next.tmp"]
        {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
