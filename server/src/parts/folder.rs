//! Parts as files of the data folder.
//!
//! ```text
//! blobs/incoming/<number>                    what is arriving; emptied by each start
//! blobs/<2 hex digits>/<id>-<life>/<part>    a part, as it was put: the shelf, the blob in its life, a number
//! ```
//!
//! A part arrives in a file of its own, is synced, gets its name, and then the name is synced, with that of
//! its folder. So whatever has a name is whole, at any moment. (The crate `object_store` has such an engine,
//! too, but what a kill leaves of its files it neither lists nor removes, and it would copy each part twice.)

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Arriving, Owner, PartError, Parts, Place, Soon, span};
use crate::store::embedded::journal::disk::passes;
use crate::store::embedded::journal::real::leads_somewhere;

/// The folder of blobs in a data folder.
pub(crate) const NAME: &str = "blobs";
pub(crate) const INCOMING: &str = "incoming";
/// Two files are compared so many bytes at a time.
const COMPARED: usize = 64 * 1024;

/// Parts in a folder.
#[derive(Debug)]
pub(crate) struct FolderParts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// While less than this is free on the disk, no part is taken, bytes.
    headroom: u64,
    /// Names the next file that arrives.
    next: AtomicU64,
    /// Held while a part gets its name, because to rename would replace what is there.
    naming: Mutex<()>,
    /// Whether the log tells of a failing disk already.
    told: AtomicBool,
    /// Whether it tells of a full one.
    full: AtomicBool,
    /// Whether a name could not be synced. The next sync might succeed without it (rule 19), so no part is
    /// taken until the relay was started anew.
    broken: AtomicBool,
}

/// A part in a file without a name of its own yet.
struct InFile {
    shared: Arc<Shared>,
    /// `None` only while bytes are being written to it.
    unnamed: Option<Unnamed>,
}

/// The file. Whoever works on it owns it, and so is the one that removes it.
struct Unnamed {
    path: PathBuf,
    file: File,
    _place: Place,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Unless it has got its name. What cannot be removed goes with the next start.
        let _ = fs::remove_file(&self.path);
    }
}

impl FolderParts {
    /// Opens the folder of blobs in this data folder, which the store has locked, and makes it if it is
    /// missing. What was arriving when the relay ended is removed.
    pub(crate) fn open(data: &Path, headroom: u64) -> io::Result<Self> {
        let path = data.join(NAME);
        leads_somewhere(&path)?;
        make(&path)?;
        // Also if it was there: whoever made it may not have come so far.
        sync(data)?;
        make(&path.join(INCOMING))?;
        for entry in fs::read_dir(path.join(INCOMING))? {
            fs::remove_file(entry?.path())?;
        }
        let (next, naming) = (AtomicU64::new(0), Mutex::new(()));
        let [told, full, broken] = std::array::from_fn(|_| AtomicBool::new(false));
        Ok(Self(Arc::new(Shared { path, headroom, next, naming, told, full, broken })))
    }

    /// Does what needs the disk where that may take its time.
    fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, PartError> + Send + 'static,
    ) -> Soon<'static, T> {
        on_disk(self.0.clone(), move |shared| work(shared))
    }
}

fn on_disk<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&Arc<Shared>) -> Result<T, PartError> + Send + 'static,
) -> Soon<'static, T> {
    Box::pin(async move {
        // A panic in there is reported by itself.
        tokio::task::spawn_blocking(move || work(&shared)).await.unwrap_or(Err(PartError::Failed))
    })
}

/// Makes a folder for its owner alone, if it is missing.
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Shared {
    fn shelf(&self, shelf: u8) -> PathBuf {
        self.path.join(format!("{shelf:02x}"))
    }

    fn folder(&self, owner: Owner) -> PathBuf {
        self.shelf(owner.blob.0[0]).join(owner.name())
    }

    fn part(&self, owner: Owner, part: u32) -> PathBuf {
        self.folder(owner).join(part.to_string())
    }

    /// What an error of the disk comes to. One that does not pass is told once.
    fn failed(&self, error: &io::Error) -> PartError {
        match error.kind() {
            _ if passes(error) => PartError::Full,
            ErrorKind::NotFound => PartError::Missing,
            kind => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        ?kind,
                        "parts of blobs cannot be stored or read: look at the disk (told once)"
                    );
                }
                PartError::Failed
            }
        }
    }

    /// Whether there is room for parts. Only a change is told.
    fn look(&self) -> Result<(), PartError> {
        let stat = rustix::fs::statvfs(&self.path).map_err(|error| self.failed(&error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let is_full = free < self.headroom;
        match (self.full.swap(is_full, Ordering::Relaxed), is_full) {
            (false, true) => tracing::warn!(
                free,
                headroom = self.headroom,
                "the disk has no room for blobs: what is put is refused until there is more; free some, or lower \
                 store.headroom_bytes, of which blobs leave twice as much"
            ),
            (true, false) => tracing::info!("there is room for blobs again"),
            _ => {}
        }
        self.refusal().map_or(Ok(()), Err)
    }

    fn refusal(&self) -> Option<PartError> {
        match (self.broken.load(Ordering::Relaxed), self.full.load(Ordering::Relaxed)) {
            (true, _) => Some(PartError::Failed),
            (false, true) => Some(PartError::Full),
            (false, false) => None,
        }
    }

    fn begin(self: &Arc<Self>, place: Place) -> Result<Box<dyn Arriving>, PartError> {
        self.look()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(INCOMING).join(number.to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| self.failed(&error))?;
        let unnamed = Some(Unnamed { path, file, _place: place });
        Ok(Box::new(InFile { shared: self.clone(), unnamed }))
    }

    /// Gives a file that was synced its name, unless there is one already. One of another length is what a
    /// failing disk has left of the part: all that are put have the same length.
    fn name(&self, arrived: &Unnamed, owner: Owner, part: u32) -> Result<(), PartError> {
        let (folder, named) = (self.folder(owner), self.part(owner, part));
        let failed = |error: io::Error| self.failed(&error);
        let shelf = self.shelf(owner.blob.0[0]);
        make(&shelf).and_then(|()| make(&folder)).map_err(failed)?;
        let length = arrived.file.metadata().map_err(failed)?.len();
        let is_there = {
            let _naming = self.naming.lock();
            let is_there = length_of(&named).map_err(failed)? == Some(length);
            if !is_there {
                fs::rename(&arrived.path, &named).map_err(failed)?;
            }
            is_there
        };
        if is_there && !are_equal(&arrived.file, &named, length).map_err(failed)? {
            return Err(PartError::Differs);
        }
        // Also if it was there: whoever put it, or made the folders, may not have come so far.
        [&folder, &shelf, &self.path].into_iter().try_for_each(|folder| {
            let folder = File::open(folder).map_err(failed)?;
            folder.sync_all().map_err(|error| {
                self.broken.store(true, Ordering::Relaxed);
                failed(error)
            })
        })
    }

    fn remove(&self, owner: Owner, most: usize) -> io::Result<bool> {
        let folder = self.folder(owner);
        let mut parts = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            parts => parts?,
        };
        for part in parts.by_ref().take(most) {
            fs::remove_file(part?.path())?;
        }
        match fs::remove_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(true),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(false),
        }
    }
}

/// How long a file is, if there is one.
fn length_of(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether two files of this length have the same bytes.
fn are_equal(one: &File, other: &Path, length: u64) -> io::Result<bool> {
    let other = File::open(other)?;
    let (mut here, mut there) = (vec![0; COMPARED], vec![0; COMPARED]);
    let mut at = 0;
    while at < length {
        let next = (length - at).min(COMPARED as u64) as usize;
        one.read_exact_at(&mut here[..next], at)?;
        other.read_exact_at(&mut there[..next], at)?;
        if here[..next] != there[..next] {
            return Ok(false);
        }
        at += next as u64;
    }
    Ok(true)
}

impl Parts for FolderParts {
    fn look(&self) -> Soon<'_, ()> {
        self.work(Shared::look)
    }

    fn refusal(&self) -> Option<PartError> {
        self.0.refusal()
    }

    fn begin(&self, place: Place) -> Soon<'_, Box<dyn Arriving>> {
        on_disk(self.0.clone(), move |shared| shared.begin(place))
    }

    fn first_missing(&self, owner: Owner, length: u64, parts: Range<u32>) -> Soon<'_, Option<u32>> {
        self.work(move |shared| {
            for part in parts {
                let whole = span(length, part).map(|span| span.end - span.start);
                let stored = length_of(&shared.part(owner, part)).map_err(|error| shared.failed(&error))?;
                if stored.is_none() || stored != whole {
                    return Ok(Some(part));
                }
            }
            Ok(None)
        })
    }

    fn read(&self, owner: Owner, part: u32, range: Range<u32>) -> Soon<'_, Bytes> {
        self.work(move |shared| {
            let mut bytes = vec![0; range.len()];
            let read = File::open(shared.part(owner, part))
                .and_then(|file| file.read_exact_at(&mut bytes, range.start.into()));
            read.map(|()| bytes.into()).map_err(|error| shared.failed(&error))
        })
    }

    fn remove(&self, owner: Owner, most: usize) -> Soon<'_, bool> {
        self.work(move |shared| shared.remove(owner, most).map_err(|error| shared.failed(&error)))
    }

    fn shelf(&self, shelf: u8) -> Soon<'_, Vec<Owner>> {
        self.work(move |shared| {
            let failed = |error: io::Error| shared.failed(&error);
            let mut owners = Vec::new();
            let entries = match fs::read_dir(shared.shelf(shelf)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(owners),
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                let name = entry.map_err(failed)?.file_name();
                owners.extend(name.to_str().and_then(Owner::of_name));
            }
            Ok(owners)
        })
    }
}

impl Arriving for InFile {
    fn write(&mut self, bytes: Vec<u8>) -> Soon<'_, ()> {
        let (shared, unnamed) = (self.shared.clone(), self.unnamed.take());
        Box::pin(async move {
            let written = on_disk(shared, move |shared| {
                // Gone only if an earlier write was given up or has failed.
                let mut unnamed = unnamed.ok_or(PartError::Failed)?;
                unnamed.file.write_all(&bytes).map_err(|error| shared.failed(&error))?;
                Ok(unnamed)
            });
            self.unnamed = Some(written.await?);
            Ok(())
        })
    }

    fn store(mut self: Box<Self>, owner: Owner, part: u32) -> Soon<'static, ()> {
        let unnamed = self.unnamed.take();
        on_disk(self.shared.clone(), move |shared| {
            let unnamed = unnamed.ok_or(PartError::Failed)?;
            unnamed.file.sync_all().map_err(|error| shared.failed(&error))?;
            shared.name(&unnamed, owner, part)
        })
    }
}

impl Drop for InFile {
    fn drop(&mut self) {
        // Removing may take its time, too: not where connections are served.
        if let (Some(unnamed), Ok(runtime)) = (self.unnamed.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(unnamed));
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let parts = FolderParts::open(folder.path(), 0).expect("opened");
        for (errno, expected) in [
            (Errno::NOSPC, PartError::Full),
            (Errno::DQUOT, PartError::Full),
            (Errno::MFILE, PartError::Full),
            (Errno::NFILE, PartError::Full),
            (Errno::NOMEM, PartError::Full),
            (Errno::NOENT, PartError::Missing),
            (Errno::IO, PartError::Failed),
            (Errno::ROFS, PartError::Failed),
        ] {
            assert_eq!(parts.0.failed(&errno.into()), expected, "{errno:?}");
        }
    }
}
