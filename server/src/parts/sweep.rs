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
        blobs: &(impl Blobs + ?Sized),
        parts: &dyn Parts,
    ) -> Result<bool, PartError> {
        let (mut removed, mut result) = (0, Ok(()));
        let owners = parts.shelf(self.shelf).await.unwrap_or_else(|error| {
            result = Err(error);
            Vec::new()
        });
        for owner in owners {
            if is_there(blobs, owner).await.unwrap_or(true) {
                continue;
            }
            match parts.remove(owner, PARTS).await {
                Ok(true) => return Ok(false),
                Ok(false) => removed += 1,
                // The others can go.
                Err(error) => result = Err(error),
            }
            if removed == BLOBS {
                return Ok(false);
            }
        }
        let is_last = usize::from(self.shelf) + 1 == super::SHELVES;
        self.shelf = self.shelf.wrapping_add(1);
        result.map(|()| is_last)
    }

    /// All shelves, until nothing is left that belongs to nobody, but for what cannot be removed. Returns the
    /// last error.
    pub(crate) async fn all(
        &mut self,
        blobs: &(impl Blobs + ?Sized),
        parts: &dyn Parts,
    ) -> Result<(), PartError> {
        self.shelf = 0;
        let mut result = Ok(());
        loop {
            match self.step(blobs, parts).await {
                Ok(true) => return result,
                Ok(false) => continue,
                Err(error) => result = Err(error),
            }
            if self.shelf == 0 {
                return result;
            }
        }
    }
}

/// Whether the blob is there in this life.
async fn is_there(blobs: &(impl Blobs + ?Sized), owner: Owner) -> Result<bool, StoreError> {
    match blobs.blob(owner.blob).await {
        Ok(view) => Ok(view.life == owner.life),
        Err(StoreError::BlobUnknown) => Ok(false),
        Err(error) => Err(error),
    }
}
