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
    /// The open files, the one that was used most recently last.
    open: Mutex<Vec<OpenSegment>>,
    /// Most files that are held open.
    limit: usize,
}

#[derive(Clone)]
struct OpenSegment {
    ident: Ident,
    file: Arc<dyn DiskFile>,
}

impl Reader {
    pub(super) fn new(disk: Arc<dyn Disk>, limit: usize) -> Self {
        Self { shared: Arc::new(Shared { disk, open: Mutex::new(Vec::new()), limit: limit.max(1) }) }
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
        let segment =
            self.shared.open.lock().iter().rev().find(|open| open.ident.segment == at.segment).cloned()?;
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
        self.shared.open.lock().retain(|open| open.ident.segment != segment);
    }

    fn segment(&self, number: u32) -> Result<OpenSegment, ReadError> {
        {
            let mut open = self.shared.open.lock();
            if let Some(index) = open.iter().rposition(|open| open.ident.segment == number) {
                let hit = open.remove(index);
                open.push(hit.clone());
                return Ok(hit);
            }
        }
        let fresh = self.load(number)?;
        let mut open = self.shared.open.lock();
        if open.len() >= self.shared.limit {
            open.remove(0);
        }
        open.push(fresh.clone());
        Ok(fresh)
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
