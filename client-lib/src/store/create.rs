//! Making a database that is there whole or not at all.

#[cfg(not(target_family = "wasm"))]
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{Location, StoreError, connect, foreign, path_of, schema};

/// A connection to a new database with all tables, and with what `also` writes.
pub(super) fn create(
    location: Location<'_>,
    also: impl FnOnce(&Connection) -> Result<(), StoreError>,
) -> Result<Connection, StoreError> {
    #[cfg(not(target_family = "wasm"))]
    if let Location::File(path) = location {
        make_file(path, also)?;
        return connect(location, OpenFlags::empty());
    }
    let mut conn =
        connect(location, OpenFlags::SQLITE_OPEN_CREATE).map_err(|error| foreign(location, error))?;
    if !schema::is_empty(&conn)? {
        return Err(StoreError::AlreadyExists { path: path_of(location) });
    }
    schema::migrate(&mut conn, also)?;
    Ok(conn)
}

/// Makes the file under another name, and renames it when it is complete and on stable storage. The caller
/// holds the profile's lock.
#[cfg(not(target_family = "wasm"))]
fn make_file(
    path: &Path,
    also: impl FnOnce(&Connection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if path.exists() && !was_never_written(path)? {
        return Err(StoreError::AlreadyExists { path: path.to_owned() });
    }
    let new = beside(path, "-new");
    // What a crash left of an earlier attempt, and of an empty database its companions.
    remove_files(&[&new, &beside(&new, "-journal"), &beside(path, "-wal"), &beside(path, "-shm")])?;
    let made = fill(&new, also).and_then(|()| {
        std::fs::rename(&new, path).map_err(|error| StoreError::io(path, error))?;
        sync_folder_of(path)
    });
    if made.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    made
}

/// Those that are there.
#[cfg(not(target_family = "wasm"))]
pub(super) fn remove_files(files: &[&Path]) -> Result<(), StoreError> {
    for file in files {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(file, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether somebody opened a database here and wrote nothing, or merely touched the file.
#[cfg(not(target_family = "wasm"))]
pub(super) fn was_never_written(path: &Path) -> Result<bool, StoreError> {
    let location = Location::File(path);
    connect(location, OpenFlags::empty())
        .and_then(|conn| schema::is_empty(&conn))
        .map_err(|error| foreign(location, error))
}

/// Without a write-ahead log, so that the one file is all there is when the connection is closed.
#[cfg(not(target_family = "wasm"))]
fn fill(new: &Path, also: impl FnOnce(&Connection) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_CREATE;
    private_file(new)?;
    let mut conn = Connection::open_with_flags(new, flags)?;
    conn.pragma_update(None, "synchronous", "EXTRA")?;
    schema::migrate(&mut conn, also)?;
    Ok(conn.close().map_err(|(_, error)| error)?)
}

/// An empty file that only its owner may read and write, whatever its folder allows. SQLite gives what it
/// puts beside a database the same permissions.
#[cfg(not(target_family = "wasm"))]
pub(super) fn private_file(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(|error| StoreError::io(path, error))
}

/// A rename lasts once the folder is synced; where folders cannot be opened, the system does so by itself.
#[cfg(not(target_family = "wasm"))]
pub(super) fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| StoreError::io(path, error))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(not(target_family = "wasm"))]
pub(super) fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
