//! The role of a store that knows about blobs, and its words. Their bytes lie elsewhere: see
//! [`parts`](crate::parts).

use posthorn_proto::{BlobId, KeyHash};

use super::{Later, Spent, StoreError};

/// A blob to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewBlob {
    /// Its name, chosen by the client.
    pub blob: BlobId,
    /// Hash of the upload token that pays for it.
    pub token: KeyHash,
    /// Hash of the key that may put its parts, extend its lease and delete it.
    pub holder: KeyHash,
    /// Its length in bytes, already within the relay's limit.
    pub length: u64,
    /// For how long it is kept, seconds, already within the relay's limit.
    pub seconds: u32,
}

/// A blob as the store knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobView {
    /// Tells it from another blob that had its name before, or will have it.
    pub life: u64,
    /// Its length, as declared, bytes.
    pub length: u64,
    /// Hash of its holder's key.
    pub holder: KeyHash,
    /// When its lease ends, unix seconds.
    pub until: u64,
}

/// What is known of blobs, whose bytes lie elsewhere (rule 35).
pub trait Blobs: Send + Sync + 'static {
    /// What is there, if it is as [`Blobs::create_blob`] would make it (name, holder, length); `None` if that
    /// would make it as things stand, whatever pays for it. Refuses with `BlobExists`, `Quota` (blobs are
    /// counted by the length that was declared), in this order. `None` promises nothing.
    fn may_create_blob(&self, new: NewBlob) -> Later<'_, Option<BlobView>, StoreError>;

    /// Creates a blob with what its upload token was spent as. The same again is answered with what is there.
    /// Refuses as [`Blobs::may_create_blob`] does, and then with `TokenUnknown` as
    /// [`Mailboxes::create`](super::Mailboxes::create) does.
    fn create_blob(&self, new: NewBlob, spent: Spent) -> Later<'_, BlobView, StoreError>;

    /// What is known of a blob (`BlobUnknown`).
    fn blob(&self, blob: BlobId) -> Later<'_, BlobView, StoreError>;

    /// Extends the lease to `seconds` from now, if it would end before, for whoever has the holder's key
    /// (`HolderKeyWrong`). Returns what is known of the blob then.
    fn extend_blob(&self, blob: BlobId, holder: KeyHash, seconds: u32) -> Later<'_, BlobView, StoreError>;

    /// Deletes a blob, for whoever has the holder's key.
    fn delete_blob(&self, blob: BlobId, holder: KeyHash) -> Later<'_, (), StoreError>;
}
