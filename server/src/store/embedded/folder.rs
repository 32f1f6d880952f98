//! The data folder: who may use it (a lock), and which life of the store it is (the incarnation, R10).
//!
//! ```text
//! <data>/lock          held by the running relay
//! <data>/incarnation   one line of text, with a checksum
//! <data>/damage        what could not be read back, if anything
//! <data>/journal/      the truth
//! <data>/index/        sled's files: may be deleted at any time
//! ```
//! What the journal and the index hold is not known here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use posthorn_proto::Incarnation;
use rand::RngCore;
use rustix::fs::{FlockOperation, flock};

/// What the incarnation file begins with. The number is followed by the crc32c of everything before it, in
/// hexadecimal; files from before there was a checksum are read as well.
const INCARNATION_LABEL: &str = "posthorn incarnation 1 ";

/// A data folder, locked for this process as long as the value lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// Two relays on one folder would destroy it.
    #[error("{0} is in use by another relay: stop that one first")]
    InUse(PathBuf),
    /// The file system reported an error.
    #[error("the data folder {0} cannot be used: {1}")]
    Io(PathBuf, io::Error),
}

/// Which life of the store this is, and whether it had to be made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    /// Whether the file was missing or unreadable, and is yet to be written. With a journal beside it, that
    /// looks like a partial restore.
    pub(super) is_new: bool,
}

impl Folder {
    /// Locks the folder; makes it first if it is missing, so that only its owner may read it.
    pub(super) fn lock(path: &Path) -> Result<Self, FolderError> {
        let failed = |error| FolderError::Io(path.to_owned(), error);
        fs::create_dir_all(path).map_err(failed)?;
        restrict(path).map_err(failed)?;
        // If the folder's name were lost, everything in it would be. (Where the parent may not be opened,
        // somebody else made the folder.)
        if let Some(parent) = fs::canonicalize(path).map_err(failed)?.parent()
            && let Ok(parent) = File::open(parent)
        {
            parent.sync_all().map_err(failed)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FolderError::InUse(path.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The folder of the journal's segments.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// The folder of sled's files.
    pub(super) fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the incarnation. Makes one up if there is none, to be [written](Self::write) once the store is
    /// ready for it.
    pub(super) fn life(&self, rng: &mut dyn RngCore) -> Life {
        let read = fs::read_to_string(self.path.join("incarnation"));
        match read.ok().as_deref().and_then(parse) {
            Some(incarnation) => Life { incarnation, is_new: false },
            None => Life { incarnation: fresh(rng), is_new: true },
        }
    }

    /// Gives the store a new incarnation, durably.
    pub(super) fn renew(&self, rng: &mut dyn RngCore) -> Result<Incarnation, FolderError> {
        let incarnation = fresh(rng);
        self.write(incarnation)?;
        Ok(incarnation)
    }

    /// Writes the incarnation, durably.
    pub(super) fn write(&self, incarnation: Incarnation) -> Result<(), FolderError> {
        let line = format!("{INCARNATION_LABEL}{}", data_encoding::HEXLOWER.encode(&incarnation.0));
        let line = format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()));
        let write = || {
            let temporary = self.path.join("incarnation.tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, self.path.join("incarnation"))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| FolderError::Io(self.path.clone(), error))
    }
}

fn fresh(rng: &mut dyn RngCore) -> Incarnation {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    Incarnation(bytes)
}

fn parse(line: &str) -> Option<Incarnation> {
    let line = line.strip_suffix('\n')?;
    let line = match line.rsplit_once(' ').filter(|(_, crc)| crc.len() == 8) {
        Some((before, crc)) if crc == format!("{:08x}", crc32c::crc32c(before.as_bytes())) => before,
        Some(_) => return None,
        None => line,
    };
    let hex = line.strip_prefix(INCARNATION_LABEL)?;
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
    Some(Incarnation(bytes.try_into().ok()?))
}

fn restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn one_relay_and_one_life_at_a_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut rng = StdRng::seed_from_u64(1);
        let folder = Folder::lock(dir.path()).expect("locked");
        assert!(matches!(Folder::lock(dir.path()), Err(FolderError::InUse(_))));
        let first = folder.life(&mut rng);
        assert!(first.is_new);
        folder.write(first.incarnation).expect("written");
        drop(folder);
        let folder = Folder::lock(dir.path()).expect("free again");
        let again = folder.life(&mut rng);
        assert_eq!(again, Life { is_new: false, ..first });
        let renewed = folder.renew(&mut rng).expect("renewed");
        assert_ne!(renewed, first.incarnation);
        assert_eq!(folder.life(&mut rng).incarnation, renewed);
        let good = fs::read(dir.path().join("incarnation")).expect("written");
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            fs::write(dir.path().join("incarnation"), bad).expect("damaged");
            assert!(folder.life(&mut rng).is_new, "bit {at}");
        }
        for len in 0..good.len() {
            fs::write(dir.path().join("incarnation"), &good[..len]).expect("cut");
            assert!(folder.life(&mut rng).is_new, "{len} bytes");
        }
        fs::write(
            dir.path().join("incarnation"),
            "posthorn incarnation 1 000102030405060708090a0b0c0d0e0f\n",
        )
        .expect("old");
        assert!(!folder.life(&mut rng).is_new, "from before there was a checksum");
    }
}
