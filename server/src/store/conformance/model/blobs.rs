//! The blobs of the model.

use posthorn_proto::{BlobId, KeyHash};

use super::Model;
use crate::store::{BlobView, NewBlob, SpentOn, StoreError};

impl Model {
    /// The blob, if it is there as this would make it.
    fn may_create_blob(&self, new: NewBlob) -> Result<Option<BlobView>, StoreError> {
        if let Some((present, _)) = self.blobs.get(&new.blob) {
            let same = (present.holder, present.length) == (new.holder, new.length);
            return if same { self.blob(new.blob).map(Some) } else { Err(StoreError::BlobExists) };
        }
        if self.blobs.len() as u64 >= self.policy.blobs {
            return Err(StoreError::Quota("blobs"));
        }
        if self.blob_bytes() + new.length > self.policy.blob_bytes {
            return Err(StoreError::Quota("bytes of blobs"));
        }
        Ok(None)
    }

    /// Spends the token and makes the blob.
    pub(crate) fn create_blob(&mut self, new: NewBlob) -> Result<BlobView, StoreError> {
        if let Some(present) = self.may_create_blob(new)? {
            return Ok(present);
        }
        let number = self.spend(new.token, SpentOn::Blob(new.blob))?;
        self.make_blob(new, number)
    }

    /// Makes the blob with what was spent under this number.
    pub(crate) fn make_blob(&mut self, new: NewBlob, number: u64) -> Result<BlobView, StoreError> {
        if let Some(present) = self.may_create_blob(new)? {
            return Ok(present);
        }
        self.pay(new.token, SpentOn::Blob(new.blob), number)?;
        self.blobs.insert(new.blob, (new, self.now + u64::from(new.seconds)));
        self.blob(new.blob)
    }

    pub(super) fn blob_bytes(&self) -> u64 {
        self.blobs.values().map(|(blob, _)| blob.length).sum()
    }

    /// Its life is the store's own affair: here it is 0.
    pub(crate) fn blob(&self, blob: BlobId) -> Result<BlobView, StoreError> {
        let (present, until) = self.blobs.get(&blob).ok_or(StoreError::BlobUnknown)?;
        Ok(BlobView { life: 0, length: present.length, holder: present.holder, until: *until })
    }

    fn held_blob(&mut self, blob: BlobId, holder: KeyHash) -> Result<&mut (NewBlob, u64), StoreError> {
        let present = self.blobs.get_mut(&blob).ok_or(StoreError::BlobUnknown)?;
        if present.0.holder == holder { Ok(present) } else { Err(StoreError::HolderKeyWrong) }
    }

    pub(crate) fn extend_blob(
        &mut self,
        blob: BlobId,
        holder: KeyHash,
        seconds: u32,
    ) -> Result<BlobView, StoreError> {
        let until = self.now + u64::from(seconds);
        let present = self.held_blob(blob, holder)?;
        present.1 = present.1.max(until);
        self.blob(blob)
    }

    pub(crate) fn delete_blob(&mut self, blob: BlobId, holder: KeyHash) -> Result<(), StoreError> {
        self.held_blob(blob, holder)?;
        self.blobs.remove(&blob);
        Ok(())
    }
}
