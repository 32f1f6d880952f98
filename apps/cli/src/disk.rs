//! Whether the disk under the profile is full. The database says that in many words ("disk I/O error",
//! "unable to open database file"), and a client whose database failed only that it stopped.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::problem::Problem;

/// With less than this, SQLite cannot even open its log: 256 KiB.
const FULL: u64 = 256 * 1024;

/// The profile that this process works on. Written once, when it is known.
static PROFILE: OnceLock<PathBuf> = OnceLock::new();

/// Remembers where the profile is.
pub(crate) fn remember(home: &Path) {
    // A second call cannot happen, and would change nothing.
    let _ = PROFILE.set(home.to_owned());
}

/// What is to be said if the disk is full.
pub(crate) fn full() -> Option<Problem> {
    let home = PROFILE.get()?;
    (free(home)? < FULL).then(|| {
        let message = format!(
            "the disk that holds {} is full: make room there; what was saved before is not lost",
            home.display()
        );
        Problem::new("DISK_FULL", message)
    })
}

/// Bytes that may still be written there, or above if there is nothing yet.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The system's own words have to do.
#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}
