//! A batch under construction: records that become durable together or not at all.
//!
//! The journal begins a batch once it has taken the space for it, so the final place of every record is known
//! when it is pushed. The batch never touches the disk.

use crc32c::crc32c_append;

use super::Location;
use super::format::{ALIGN, BATCH_HEADER, BatchHeader, FRAME_HEADER, Ident, frame_crc};

/// Records gathered for one write. It may be dropped: nothing has been done yet.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) ident: Ident,
    /// Offset of the batch header in the segment.
    pub(super) base: u32,
    number: u64,
    count: u32,
    body_crc: u32,
    /// Bytes reserved for frames.
    room: usize,
    pub(super) buf: Vec<u8>,
}

impl Batch {
    pub(super) fn new(ident: Ident, base: u32, number: u64, room: usize, mut buf: Vec<u8>) -> Self {
        buf.clear();
        buf.resize(BATCH_HEADER, 0);
        Self { ident, base, number, count: 0, body_crc: 0, room, buf }
    }

    /// What a record of `len` payload bytes takes of the room.
    pub(crate) const fn cost(len: usize) -> usize {
        FRAME_HEADER + len
    }

    /// Whether a record of `len` payload bytes still fits into what was reserved.
    pub(crate) fn fits(&self, len: usize) -> bool {
        self.has_room(Self::cost(len))
    }

    /// Whether records whose [`Batch::cost`]s add up to `cost` still fit.
    pub(crate) fn has_room(&self, cost: usize) -> bool {
        self.buf.len() - BATCH_HEADER + cost <= self.room
    }

    /// The segment that it will stand in.
    pub(crate) fn segment(&self) -> u32 {
        self.ident.segment
    }

    /// How many records have been pushed, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.count as usize, self.buf.len() - BATCH_HEADER)
    }

    /// Whether nothing has been pushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a record whose payload is the concatenation of `parts`; returns where it will stand.
    ///
    /// # Panics
    /// If the record does not fit ([`Batch::fits`]), because writing beyond the reservation could fail when
    /// the decision has already been taken.
    pub(crate) fn push(&mut self, kind: u8, parts: &[&[u8]]) -> Location {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(self.fits(len), "a record of {len} bytes exceeds the batch's reservation");
        let start = self.buf.len();
        let offset = self.base + start as u32;
        self.buf.extend_from_slice(&(len as u32).to_le_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.push(kind);
        for part in parts {
            self.buf.extend_from_slice(part);
        }
        let crc = frame_crc(self.ident, offset, kind, &self.buf[start + FRAME_HEADER..]).to_le_bytes();
        self.buf[start + 4..start + 8].copy_from_slice(&crc);
        self.body_crc = crc32c_append(self.body_crc, &crc);
        self.count += 1;
        Location { segment: self.ident.segment, offset, len: len as u32 }
    }

    /// Fills in the batch header and pads. After that the bytes are final.
    pub(super) fn finish(&mut self) {
        let header = BatchHeader {
            number: self.number,
            body_len: (self.buf.len() - BATCH_HEADER) as u32,
            count: self.count,
            flags: 0,
            body_crc: self.body_crc,
        };
        self.buf[..BATCH_HEADER].copy_from_slice(&header.encode(self.ident, self.base));
        self.buf.resize(self.buf.len().next_multiple_of(ALIGN), 0);
    }
}
