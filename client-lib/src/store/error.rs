//! Why the database could not do as asked.

use std::path::PathBuf;

use rusqlite::{ErrorCode, ffi};

/// Why the database could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no database where one should be opened.
    #[error("there is no profile at {path}: register first, or name another folder")]
    NotFound {
        /// Where.
        path: PathBuf,
    },
    /// There is a file where a database should be created.
    #[error("there is a profile already at {path}: open it, or choose another folder")]
    AlreadyExists {
        /// Where.
        path: PathBuf,
    },
    /// Another process has the profile open.
    #[error("the profile at {path} is open in another process; close that one first")]
    AlreadyOpen {
        /// Where.
        path: PathBuf,
    },
    /// The passphrase does not fit.
    #[error("that is not the passphrase of this profile: try again")]
    WrongPassphrase,
    /// A database, but not one of ours.
    #[error("{path} is no profile of Posthorn: look at its name")]
    NotOurs {
        /// Where.
        path: PathBuf,
    },
    /// A file that is no backup of a profile: it is neither read nor overwritten.
    #[error("{path} is no backup of a profile: name another file")]
    NotABackup {
        /// Where.
        path: PathBuf,
    },
    /// Written by version 0.1.
    #[error(
        "this profile was made by version 0.1, whose formats have ended: keep its folder to read it with 0.1, and \
         register anew in another"
    )]
    TooOld,
    /// Written by a later version of Posthorn.
    #[error("the profile has schema {found}, this version knows up to {known}; update Posthorn")]
    NewerSchema {
        /// Its schema version.
        found: u32,
        /// The latest known here.
        known: u32,
    },
    /// A value is not what was written: damaged, or tampered with.
    #[error("the profile is damaged: {0}")]
    Damaged(&'static str),
    /// No room for the profile. Nothing is lost.
    #[error("the disk with the profile is full: make room and try again")]
    DiskFull,
    /// The file system.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// SQLite.
    #[error("database: {0}")]
    Sqlite(rusqlite::Error),
}

impl StoreError {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NO_PROFILE",
            Self::AlreadyExists { .. } => "STORE_EXISTS",
            Self::AlreadyOpen { .. } => "PROFILE_IN_USE",
            Self::WrongPassphrase => "WRONG_PASSPHRASE",
            Self::NotOurs { .. } => "STORE_FOREIGN",
            Self::NotABackup { .. } => "STORE_NO_BACKUP",
            Self::TooOld => "STORE_TOO_OLD",
            Self::NewerSchema { .. } => "STORE_NEWER",
            Self::Damaged(_) => "STORE_DAMAGED",
            Self::DiskFull => "DISK_FULL",
            Self::Io { .. } => "STORE_IO",
            Self::Sqlite(_) => "STORE_SQLITE",
        }
    }

    /// Whether it may pass by itself, or by making room.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::AlreadyOpen { .. } | Self::DiskFull | Self::Io { .. } | Self::Sqlite(_))
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn io(path: &std::path::Path, error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { path: path.to_owned(), error },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // The write-ahead log's index is a file in memory: its growth is refused under another code.
        let no_room = error.sqlite_error_code() == Some(ErrorCode::DiskFull)
            || error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHMSIZE);
        if no_room { Self::DiskFull } else { Self::Sqlite(error) }
    }
}
