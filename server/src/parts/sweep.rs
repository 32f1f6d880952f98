//! Removes the parts of blobs that are gone, and what never belonged to one: a shelf at a time, off the
//! committer's path. That a blob is gone is asked of the store, and the store answers when that is durable.

use super::{Owner, PartError, Parts};
use crate::store::{Blobs, StoreError};

/// Most parts of one blob that are removed in one step, and most blobs.
const PARTS: usize = 1024;
const BLOBS: usize = 64;

/// How far the sweep has come.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    shelf: u8,
}

impl Sweep {
    /// Sweeps the next shelf, or goes on with one where much is to be removed. Returns whether the last shelf
    /// was done.
    pub(crate) async fn step(
        &mut self,
        store: &(impl Blobs + ?Sized),
        parts: &dyn Parts,
    ) -> Result<bool, PartError> {
        let mut removed = 0;
        for owner in parts.shelf(self.shelf).await? {
            if is_there(store, owner).await.unwrap_or(true) {
                continue;
            }
            removed += 1;
            if parts.remove(owner, PARTS).await? || removed == BLOBS {
                return Ok(false);
            }
        }
        let is_last = usize::from(self.shelf) + 1 == super::SHELVES;
        self.shelf = self.shelf.wrapping_add(1);
        Ok(is_last)
    }

    /// All shelves, until nothing is left that belongs to nobody.
    pub(crate) async fn all(
        &mut self,
        store: &(impl Blobs + ?Sized),
        parts: &dyn Parts,
    ) -> Result<(), PartError> {
        self.shelf = 0;
        while !self.step(store, parts).await? {}
        Ok(())
    }
}

/// Whether the blob is there in this life.
async fn is_there(store: &(impl Blobs + ?Sized), owner: Owner) -> Result<bool, StoreError> {
    match store.blob(owner.blob).await {
        Ok(view) => Ok(view.life == owner.life),
        Err(StoreError::BlobUnknown) => Ok(false),
        Err(error) => Err(error),
    }
}
