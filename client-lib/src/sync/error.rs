//! Errors that end an engine.

use crate::session::SessionError;
use crate::store::StoreError;

/// The local database failed. Nothing of the input was done; open the engine again.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Reading or writing it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// MLS's rows in it, or a step of our own that MLS refused although it must not.
    #[error("session: {0}")]
    Session(#[from] SessionError),
}

impl From<rusqlite::Error> for EngineError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
