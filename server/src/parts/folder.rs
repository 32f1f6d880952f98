//! Parts as files of the data folder.
//!
//! ```text
//! blobs/incoming/<number>                      what is arriving; emptied by each start
//! blobs/<2 hex digits>/<id>-<life>/<part>      a part, as it was put: the shelf, the blob in its life, a number
//! ```
//!
//! A part arrives in a file of its own, is synced, gets its name, and then the name is synced, with that of
//! its folder. So whatever has a name is whole, at any moment. (The crate `object_store` has such an engine,
//! too, but what a kill leaves of its files it neither lists nor removes, and it would copy each part twice.)

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use posthorn_proto::BlobId;

use super::{Arriving, Owner, PartError, Parts, Soon};
use crate::store::embedded::journal::disk::passes;

/// The folder of blobs in a data folder.
pub(crate) const NAME: &str = "blobs";
const INCOMING: &str = "incoming";
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
}

/// A part in a file without a name of its own yet.
struct InFile {
    shared: Arc<Shared>,
    path: PathBuf,
    /// `None` only while bytes are being written to it.
    file: Option<File>,
}

impl FolderParts {
    /// Opens the folder of blobs in this data folder, which the store has locked, and makes it if it is
    /// missing. What was arriving when the relay ended is removed.
    pub(crate) fn open(data: &Path, headroom: u64) -> io::Result<Self> {
        let path = data.join(NAME);
        if make(&path)? {
            sync(data)?;
        }
        make(&path.join(INCOMING))?;
        for entry in fs::read_dir(path.join(INCOMING))? {
            fs::remove_file(entry?.path())?;
        }
        let (next, naming, told) = (AtomicU64::new(0), Mutex::new(()), AtomicBool::new(false));
        Ok(Self(Arc::new(Shared { path, headroom, next, naming, told })))
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

/// Makes a folder for its owner alone; whether it was missing.
fn make(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
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
        self.shelf(owner.blob.0[0]).join(format!("{}-{}", HEXLOWER.encode(&owner.blob.0), owner.life))
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

    fn begin(self: &Arc<Self>) -> Result<Box<dyn Arriving>, PartError> {
        let stat = rustix::fs::statvfs(&self.path).map_err(|error| self.failed(&error.into()))?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < self.headroom {
            return Err(PartError::Full);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(INCOMING).join(number.to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = Some(file.map_err(|error| self.failed(&error))?);
        Ok(Box::new(InFile { shared: self.clone(), path, file }))
    }

    /// Gives a file that was synced its name, unless there is one already.
    fn name(&self, file: &Path, owner: Owner, part: u32) -> Result<(), PartError> {
        let (folder, named) = (self.folder(owner), self.part(owner, part));
        let failed = |error: io::Error| self.failed(&error);
        let shelf = self.shelf(owner.blob.0[0]);
        make(&shelf).and_then(|_| make(&folder)).map_err(failed)?;
        let is_there = {
            let _naming = self.naming.lock();
            let is_there = named.try_exists().map_err(failed)?;
            if !is_there {
                fs::rename(file, &named).map_err(failed)?;
            }
            is_there
        };
        if is_there && !are_equal(file, &named).map_err(failed)? {
            return Err(PartError::Differs);
        }
        // Also if it was there: whoever put it, or made the folders, may not have come so far.
        [&folder, &shelf, &self.path].into_iter().try_for_each(|folder| sync(folder)).map_err(failed)
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

fn are_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if left != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut here, mut there) = (vec![0; COMPARED], vec![0; COMPARED]);
    while left > 0 {
        let next = left.min(COMPARED as u64) as usize;
        one.read_exact(&mut here[..next])?;
        other.read_exact(&mut there[..next])?;
        if here[..next] != there[..next] {
            return Ok(false);
        }
        left -= next as u64;
    }
    Ok(true)
}

/// Whose folder has this name.
fn owner(name: &str) -> Option<Owner> {
    let (id, life) = name.split_once('-')?;
    let blob = BlobId(HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?);
    Some(Owner { blob, life: life.parse().ok()? })
}

impl Parts for FolderParts {
    fn begin(&self) -> Soon<'_, Box<dyn Arriving>> {
        on_disk(self.0.clone(), Shared::begin)
    }

    fn first_missing(&self, owner: Owner, mut parts: Range<u32>) -> Soon<'_, Option<u32>> {
        self.work(move |shared| {
            let is_missing = |part: &u32| !shared.part(owner, *part).exists();
            Ok(parts.find(is_missing))
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
                owners.extend(name.to_str().and_then(owner));
            }
            Ok(owners)
        })
    }
}

impl Arriving for InFile {
    fn write(&mut self, bytes: Vec<u8>) -> Soon<'_, ()> {
        let (shared, file) = (self.shared.clone(), self.file.take());
        Box::pin(async move {
            let written = on_disk(shared, move |shared| {
                // Gone only if an earlier write was given up or has failed.
                let mut file = file.ok_or(PartError::Failed)?;
                file.write_all(&bytes).map_err(|error| shared.failed(&error))?;
                Ok(file)
            });
            self.file = Some(written.await?);
            Ok(())
        })
    }

    fn store(mut self: Box<Self>, owner: Owner, part: u32) -> Soon<'static, ()> {
        on_disk(self.shared.clone(), move |shared| {
            let file = self.file.take().ok_or(PartError::Failed)?;
            file.sync_all().map_err(|error| shared.failed(&error))?;
            shared.name(&self.path, owner, part)
        })
    }
}

impl Drop for InFile {
    fn drop(&mut self) {
        // Unless it has got its name. What cannot be removed goes with the next start.
        let _ = fs::remove_file(&self.path);
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
