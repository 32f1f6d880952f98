//! One process per profile.
//!
//! Two processes on one database would use the same MLS generations twice (a key and nonce repeated), so the
//! profile is locked by an advisory lock on a sibling file. The system drops it with the process, however
//! that ends.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::StoreError;

/// Held as long as the database is open.
#[derive(Debug)]
pub(super) struct ProfileLock {
    _file: File,
}

impl ProfileLock {
    /// Errors: [`StoreError::AlreadyOpen`], [`StoreError::Io`].
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(beside(database))
            .map_err(|error| StoreError::io(database, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::AlreadyOpen { path: database.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StoreError::io(database, error)),
        }
    }
}

fn beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
