//! The seam between the journal and the machine: everything that the journal asks of a disk, and nothing
//! else.
//!
//! There are two implementations: [`super::real::RealDisk`] for production, and `super::sim::SimDisk` for
//! tests, which forgets what was never synced. This module owns no state and decides nothing about
//! durability; the journal decides when to sync.

use std::io;
use std::sync::Arc;

/// One flat folder of files. All methods take names without a path.
pub(crate) trait Disk: Send + Sync + 'static {
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file for reading and writing; an existing one is an error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing the target. Durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Durable only after [`Disk::sync_dir`].
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// How many bytes an unprivileged process may still allocate on the file system.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. All methods take `&self`, so that readers can go on beside the one writer.
pub(crate) trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills the whole buffer from `offset`, or fails with `UnexpectedEof`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// The same if there is no need to wait for the disk; `false` if there might be, or if that cannot be
    /// known.
    fn read_at_once(&self, _buf: &mut [u8], _offset: u64) -> bool {
        false
    }
    /// Writes all of `data` at `offset`. Durable only after [`DiskFile::sync`].
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file at least `len` bytes long, with the space really taken, so that writes below `len`
    /// cannot fail for lack of it.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts the file. Durable only after [`DiskFile::sync`].
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes data and length durable. After an error nothing may be believed about the part of the file that
    /// was not synced before (rule 19).
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error passes: space, descriptors or memory has run out. With any other the disk is broken. Only
/// before anything was written can it be waited for: what became of a failed write or sync, nobody knows.
pub(crate) fn passes(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_full(error)
        || error.kind() == io::ErrorKind::OutOfMemory
        || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Whether it is space that has run out.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
