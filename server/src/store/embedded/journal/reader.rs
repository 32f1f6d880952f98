//! Reads single records by location, beside the writer and in any number of threads.
//!
//! Owns a bounded cache of open segment files. Never writes, and never returns bytes whose checksum is wrong.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::Location;
use super::disk::{Disk, DiskFile};
use super::format::{BATCH_HEADER, FRAME_HEADER, Ident, SEGMENT_HEADER, frame};
use super::segment::{marker_of, name_of};

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The bytes at that place are not the record that was written.
    #[error("damaged record in segment {:016x} at {}", .0.segment, .0.offset)]
    Damaged(Location),
    /// The segment was removed, after its records were copied elsewhere. Look the location up again.
    #[error("segment {0:016x} is gone")]
    Gone(u32),
    /// The disk failed to read.
    #[error("segment {0:016x} cannot be read: {1}")]
    Io(u32, io::Error),
}

/// A handle for reading; clones share the cache.
#[derive(Clone)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    open: Mutex<Open>,
    /// Most files that are held open.
    limit: usize,
}

/// The open files.
#[derive(Default)]
struct Open {
    /// The one that was used most recently last.
    files: Vec<OpenSegment>,
    /// How often one was forgotten. Whoever opened a file meanwhile must not keep it, for it may be just that
    /// one, whose space would then not come back.
    forgotten: u64,
}

#[derive(Clone)]
struct OpenSegment {
    ident: Ident,
    file: Arc<dyn DiskFile>,
}

impl Reader {
    pub(super) fn new(disk: Arc<dyn Disk>, limit: usize) -> Self {
        Self { shared: Arc::new(Shared { disk, open: Mutex::default(), limit: limit.max(1) }) }
    }

    /// The payload of the record at `at`, checked.
    pub(crate) fn read(&self, at: Location) -> Result<Bytes, ReadError> {
        let segment = self.segment(at.segment)?;
        let mut buf = BytesMut::zeroed(FRAME_HEADER + at.len as usize);
        segment.file.read_at(&mut buf, u64::from(at.offset)).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Damaged(at),
            _ => ReadError::Io(at.segment, error),
        })?;
        match frame(&buf, segment.ident, at.offset) {
            Some((_, payload, _)) if payload.len() == at.len as usize => {
                Ok(buf.freeze().slice(FRAME_HEADER..))
            }
            _ => Err(ReadError::Damaged(at)),
        }
    }

    /// The same if it is in the system's cache, which takes microseconds. `None` in every other case;
    /// [`Self::read`] says what the matter is.
    pub(crate) fn read_at_once(&self, at: Location) -> Option<Bytes> {
        let segment = self
            .shared
            .open
            .lock()
            .files
            .iter()
            .rev()
            .find(|open| open.ident.segment == at.segment)
            .cloned()?;
        let mut buf = BytesMut::zeroed(FRAME_HEADER + at.len as usize);
        if !segment.file.read_at_once(&mut buf, u64::from(at.offset)) {
            return None;
        }
        match frame(&buf, segment.ident, at.offset) {
            Some((_, payload, _)) if payload.len() == at.len as usize => {
                Some(buf.freeze().slice(FRAME_HEADER..))
            }
            _ => None,
        }
    }

    /// Closes a segment that is about to be removed, so that its space comes back.
    pub(super) fn forget(&self, segment: u32) {
        let mut open = self.shared.open.lock();
        open.forgotten += 1;
        open.files.retain(|open| open.ident.segment != segment);
    }

    fn segment(&self, number: u32) -> Result<OpenSegment, ReadError> {
        let forgotten = {
            let mut open = self.shared.open.lock();
            if let Some(index) = open.files.iter().rposition(|open| open.ident.segment == number) {
                let hit = open.files.remove(index);
                open.files.push(hit.clone());
                return Ok(hit);
            }
            open.forgotten
        };
        let fresh = self.load(number)?;
        self.keep(&fresh, forgotten);
        Ok(fresh)
    }

    /// Keeps a file open that was opened when so many had been forgotten.
    fn keep(&self, fresh: &OpenSegment, forgotten: u64) {
        let mut open = self.shared.open.lock();
        if open.forgotten != forgotten {
            return;
        }
        if open.files.len() >= self.shared.limit {
            open.files.remove(0);
        }
        open.files.push(fresh.clone());
    }

    fn load(&self, number: u32) -> Result<OpenSegment, ReadError> {
        let file = self.shared.disk.open(&name_of(number)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Gone(number),
            _ => ReadError::Io(number, error),
        })?;
        let failed = |error| ReadError::Io(number, error);
        // A file that somebody else has cut may be shorter than any that was ever written.
        let len = file.len().map_err(failed)?.min((SEGMENT_HEADER + BATCH_HEADER) as u64);
        let mut head = vec![0; len as usize];
        file.read_at(&mut head, 0).map_err(failed)?;
        let damaged = ReadError::Damaged(Location { segment: number, offset: 0, len: 0 });
        let marker = marker_of(&head, number).ok_or(damaged)?;
        Ok(OpenSegment { ident: Ident { segment: number, marker }, file })
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::SegmentHeader;
    use super::super::sim::SimDisk;
    use super::*;

    #[test]
    fn a_file_that_was_opened_while_its_segment_went_is_not_kept() {
        let disk = SimDisk::default();
        let header = SegmentHeader {
            segment: 1,
            incarnation: [0; 16],
            marker: 2,
            prev_segment: 0,
            prev_end: 0,
            first_batch: 1,
            stamp: 0,
            start: 1,
        };
        let file = disk.create(&name_of(1)).expect("made");
        file.write_at(&header.encode(), 0).expect("written");
        let reader = Reader::new(Arc::new(disk), 4);
        let late = reader.load(1).expect("it is still there");
        reader.forget(1);
        reader.keep(&late, 0);
        assert!(reader.shared.open.lock().files.is_empty(), "its space comes back");
        reader.keep(&late, 1);
        assert_eq!(reader.shared.open.lock().files.len(), 1, "others are kept");
    }
}
