//! The real disk: a folder on a POSIX file system.
//!
//! Owns one open folder handle (for syncing names) and makes the plain system calls. Never retries a failed
//! sync.

use std::fs::{self, File, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::disk::{Disk, DiskFile};

/// Zeros that are written at once where the file system cannot preallocate, in bytes.
const ZERO_BLOCK: usize = 64 * 1024;

/// A folder of files.
pub(crate) struct RealDisk {
    path: PathBuf,
    folder: File,
}

impl RealDisk {
    /// Opens the folder, making it (durably) if it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            leads_somewhere(path)?;
            fs::create_dir_all(path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { path: path.to_owned(), folder: File::open(path)? })
    }
}

/// Refuses a link to where no folder is, such as one to a disk that is not mounted, which would hide a folder
/// that was made there.
pub(crate) fn leads_somewhere(path: &Path) -> io::Result<()> {
    match fs::read_link(path) {
        Ok(target) if !path.is_dir() => Err(io::Error::other(format!(
            "it is a link to {}, where no folder is: mount the disk that has it, or make the link right, and start again",
            target.display()
        ))),
        _ => Ok(()),
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, error))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Ok(Arc::new(file.map_err(|error| unreadable(&path, error))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }

    #[cfg(target_os = "linux")]
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> bool {
        let len = buf.len();
        let read = rustix::io::preadv2(
            self,
            &mut [IoSliceMut::new(buf)],
            offset,
            rustix::io::ReadWriteFlags::NOWAIT,
        );
        read == Ok(len)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, data, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let have = self.metadata()?.len();
        if have >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(self, FallocateFlags::empty(), have, len - have) {
            Ok(()) => Ok(()),
            Err(error) if is_unsupported(error) => write_zeros(self, have, len),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Says what may not be opened. Other errors stay as they are, because what they are decides what follows.
fn unreadable(path: &Path, error: io::Error) -> io::Error {
    let advice = "make it readable and writable for the relay's user, and start again";
    match error.kind() {
        kind @ (io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory) => {
            io::Error::new(kind, format!("{} cannot be read: {error}: {advice}", path.display()))
        }
        _ => error,
    }
}

/// Whether it is the file system (or a sandbox) that cannot preallocate, and not the disk that fails. FUSE
/// and network file systems say it in several ways.
fn is_unsupported(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV)
}

/// Preallocation for file systems without `fallocate`.
fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = [0; ZERO_BLOCK];
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZERO_BLOCK as u64) as usize;
        FileExt::write_all_at(file, &zeros[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_preallocate_is_no_broken_disk() {
        use rustix::io::Errno;
        for error in [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::NODEV] {
            assert!(is_unsupported(error), "{error:?}");
        }
        for error in [Errno::NOSPC, Errno::IO, Errno::DQUOT, Errno::FBIG, Errno::ROFS, Errno::INTR] {
            assert!(!is_unsupported(error), "{error:?}");
        }
        let dir = tempfile::tempdir().expect("temp dir");
        let file = RealDisk::open(dir.path()).expect("there").create("a").expect("created");
        file.write_at(b"hello", 0).expect("written");
        let raw = OpenOptions::new().read(true).write(true).open(dir.path().join("a")).expect("there");
        write_zeros(&raw, 5, 200_000).expect("written");
        let mut buf = [1; 5];
        file.read_at(&mut buf, 0).expect("read");
        assert_eq!((&buf, file.len().expect("len")), (b"hello", 200_000));
    }

    #[test]
    fn a_link_to_nowhere_is_not_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (link, there) = (dir.path().join("journal"), dir.path().join("unmounted"));
        std::os::unix::fs::symlink(&there, &link).expect("linked");
        let error = RealDisk::open(&link).map(drop).expect_err("nobody knows what is there").to_string();
        assert!(
            error.contains("unmounted") && error.contains("mount the disk") && !there.exists(),
            "{error}"
        );
        fs::create_dir(&there).expect("made");
        RealDisk::open(&link).expect("it is there now");
    }

    #[test]
    fn a_file_survives_its_handle() {
        let dir = tempfile::tempdir().expect("temp dir");
        let disk = RealDisk::open(&dir.path().join("deep").join("er")).expect("made");
        let file = disk.create("a").expect("created");
        file.allocate(10_000).expect("allocated");
        file.write_at(b"hello", 3).expect("written");
        file.truncate(8).expect("cut");
        file.sync().expect("synced");
        disk.rename("a", "b").expect("renamed");
        disk.sync_dir().expect("synced");
        let mut buf = [0; 5];
        let again = disk.open("b").expect("opened");
        again.read_at(&mut buf, 3).expect("read");
        assert_eq!((&buf, again.len().expect("len")), (b"hello", 8));
        if cfg!(target_os = "linux") && again.read_at_once(&mut buf, 3) {
            assert_eq!(&buf, b"hello");
        }
        assert!(!again.read_at_once(&mut buf, 4), "short reads are not whole");
        assert!(again.read_at(&mut buf, 4).is_err(), "short reads are errors");
        assert!(disk.create("b").is_err(), "existing files are not overwritten");
        assert!(disk.free_bytes().expect("statvfs") > 0);
        disk.unlink("b").expect("removed");
        assert_eq!(disk.list().expect("listed"), Vec::<String>::new());
    }
}
