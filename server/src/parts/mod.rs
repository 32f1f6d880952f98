//! Where the parts of blobs lie: the trait [`Parts`], and its engines. What is known of a blob stands in the
//! store; here are bytes under a name.
//!
//! What all engines promise:
//! - **Durable before answered.** When a part is stored, it is on stable storage, and so is its name.
//! - **Whole or not at all.** A part that did not arrive as a whole is nowhere.
//! - **Stored once.** The same bytes again are stored; others are refused, and the first ones stay.
//!
//! [`folder`] is the durable default, [`memory`] the readable one; `s3`, a bucket elsewhere, is built in with
//! the feature of this name. What belongs to no blob (any more) is removed by [`sweep`].

pub(crate) mod folder;
pub(crate) mod memory;
#[cfg(feature = "s3")]
pub(crate) mod s3;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use posthorn_proto::limits::BLOB_PART_BYTES;
use posthorn_proto::{BlobId, ErrorCode};

/// What an engine returns: it may need the disk or a network.
pub(crate) type Soon<'a, T> = Pin<Box<dyn Future<Output = Result<T, PartError>> + Send + 'a>>;

/// What bounds how much is under way.
pub(crate) type Place = Box<dyn Send>;

/// So many shelves there are; a blob stands on that of its name's first byte.
pub(crate) const SHELVES: usize = 256;

/// Whose parts: those of a blob in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) blob: BlobId,
    pub(crate) life: u64,
}

impl Owner {
    /// Its name where its parts lie.
    fn name(self) -> String {
        format!("{}-{}", HEXLOWER.encode(&self.blob.0), self.life)
    }

    /// Whose name this is.
    fn of_name(name: &str) -> Option<Self> {
        let (id, life) = name.split_once('-')?;
        let blob = BlobId(HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?);
        Some(Self { blob, life: life.parse().ok()? })
    }
}

/// Why a part is not stored, or not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PartError {
    /// See [`ErrorCode::PartMissing`].
    #[error("this part was not put yet")]
    Missing,
    /// See [`ErrorCode::PartDiffers`].
    #[error("other bytes are stored as this part: a blob never changes, so create another")]
    Differs,
    /// See [`ErrorCode::StoreUnavailable`].
    #[error("the relay has no room for blobs just now: try again later")]
    Full,
    /// See [`ErrorCode::Internal`].
    #[error("the relay's disk failed: try again later")]
    Failed,
    /// See [`ErrorCode::StoreUnavailable`].
    #[error("where the relay keeps blobs cannot be reached just now: try again later")]
    Away,
}

impl PartError {
    /// The code on the wire.
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::PartMissing,
            Self::Differs => ErrorCode::PartDiffers,
            Self::Full | Self::Away => ErrorCode::StoreUnavailable,
            Self::Failed => ErrorCode::Internal,
        }
    }
}

/// An engine.
pub(crate) trait Parts: Send + Sync + 'static {
    /// Looks whether parts can be stored, which [`Parts::refusal`] says from then on. The relay looks every
    /// second, so what was missing is noticed to be back although nobody puts anything.
    fn look(&self) -> Soon<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Why no part is stored just now, as far as is known.
    fn refusal(&self) -> Option<PartError> {
        None
    }

    /// Makes room for a part that is about to arrive. `place` is dropped when nothing is done for it any
    /// more, which may be later than the end of whoever asked.
    fn begin(&self, place: Place) -> Soon<'_, Box<dyn Arriving>>;

    /// The first of these parts of a blob of this length that is not stored as a whole.
    fn first_missing(&self, owner: Owner, length: u64, parts: Range<u32>) -> Soon<'_, Option<u32>>;

    /// Bytes of one part, all of those that are asked for.
    fn read(&self, owner: Owner, part: u32, range: Range<u32>) -> Soon<'_, Bytes>;

    /// How many bytes are best read at once.
    fn read_at_once(&self) -> u32 {
        64 * 1024
    }

    /// Removes parts, `most` at once. Returns whether there may be more.
    fn remove(&self, owner: Owner, most: usize) -> Soon<'_, bool>;

    /// Whose parts stand on a shelf, in any order; below [`SHELVES`].
    fn shelf(&self, shelf: u8) -> Soon<'_, Vec<Owner>>;

    /// How often the sweep may look at a shelf.
    fn seconds_per_shelf(&self) -> u64 {
        1
    }
}

/// A part that is arriving. Dropped, it is nowhere.
pub(crate) trait Arriving: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: Vec<u8>) -> Soon<'_, ()>;

    /// Stores it as this part: all of it has arrived. Whoever calls has seen to it that all that are stored
    /// as one part have the same length.
    fn store(self: Box<Self>, owner: Owner, part: u32) -> Soon<'static, ()>;
}

/// How many parts a blob of this length has.
pub(crate) fn count(length: u64) -> u32 {
    u32::try_from(length.div_ceil(u64::from(BLOB_PART_BYTES))).unwrap_or(u32::MAX)
}

/// Which of a blob's bytes a part has; `None` if there is no such part.
pub(crate) fn span(length: u64, part: u32) -> Option<Range<u64>> {
    let start = u64::from(part) * u64::from(BLOB_PART_BYTES);
    (start < length).then(|| start..length.min(start + u64::from(BLOB_PART_BYTES)))
}
