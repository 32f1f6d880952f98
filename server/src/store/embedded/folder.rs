//! The data folder: who may use it (a lock), and which life of the store it is (the incarnation, R10).
//!
//! ```text
//! <data>/lock          held by the running relay
//! <data>/incarnation   one line of text, with a checksum
//! <data>/damage        what could not be read back, if anything
//! <data>/journal/      the truth
//! <data>/past/         the ids of posts that are no longer held in memory
//! <data>/index/        two checkpoints, sled's files: may be deleted at any time
//! ```
//! What the journal and the index hold is not known here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use posthorn_proto::Incarnation;
use rand::RngCore;
use rustix::fs::{FlockOperation, flock};

/// What the incarnation file begins with. The number is followed by the count of starts, and that by the
/// crc32c of everything before it, in hexadecimal; files from before there was a count, or a checksum, are
/// read as well.
const INCARNATION_LABEL: &str = "posthorn incarnation 1 ";
/// One of these makes a folder the relay's.
const OURS: [&str; 2] = ["lock", "journal"];
/// What may be in a folder that is yet to become the relay's.
const HARMLESS: [&str; 10] = [
    "posthorn.toml",
    "relay-identity.key",
    "incarnation",
    "incarnation.tmp",
    "index",
    "past",
    "damage",
    "damage.tmp",
    "admin.sock",
    "lost+found",
];

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
    /// There is something else in it.
    #[error(
        "{0} is no relay's data folder and is not empty: choose another with --data, or make an empty file named lock in it"
    )]
    Foreign(PathBuf),
    /// A file is there and cannot be read. It does not count as missing, or a wrong owner would discard
    /// everybody's key packages.
    #[error(
        "{0} cannot be read: {1}: make it readable for the relay's user, or copy the folder from the failing disk, and start again"
    )]
    Unreadable(PathBuf, io::Error),
    /// The file system reported an error.
    #[error("the data folder {0} cannot be used: {1}")]
    Io(PathBuf, io::Error),
}

/// Which life of the store this is, and how often it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    /// The last start that the file knows of; 0 if it counts none.
    pub(super) start: u32,
    /// Whether the file was missing or damaged, and is yet to be written. With a journal beside it, that
    /// looks like a partial restore.
    pub(super) is_new: bool,
    /// Whether the file is there, but damaged.
    pub(super) is_damaged: bool,
}

impl Life {
    /// Whether this file and a journal whose newest segment was begun in start `seen` are of different times,
    /// so that one of them was restored. The journal comes first: when a start is interrupted, it may be one
    /// ahead.
    pub(super) fn disagrees(&self, seen: u32) -> bool {
        !self.is_new && !(self.start..=self.start.saturating_add(1)).contains(&seen)
    }

    /// Why one of the two was restored, if that is so, for a journal that is not empty.
    pub(super) fn contradiction(&self, seen: Option<u32>) -> Option<String> {
        match seen.filter(|seen| self.disagrees(*seen)) {
            Some(seen) => Some(format!("the journal ends at start {seen}, incarnation names {}", self.start)),
            None if self.is_damaged => Some("incarnation cannot be understood".to_owned()),
            None if self.is_new => Some("incarnation is missing".to_owned()),
            None => None,
        }
    }

    /// The number of the next start. After a disagreement, the journal must not agree with the file by what
    /// this start writes into it, for then an interruption would make the next start overlook it.
    pub(super) fn next_start(&self, seen: Option<u32>) -> u32 {
        match seen {
            Some(seen) if self.is_new => seen.saturating_add(1),
            Some(seen) if self.disagrees(seen) => seen.max(self.start).saturating_add(2),
            _ => self.start.saturating_add(1),
        }
    }
}

/// Reads a file of the data folder; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FolderError::Unreadable(path.to_owned(), error)),
    }
}

impl Folder {
    /// Locks the folder; makes it first if it is missing. Only its owner may read it. A folder that holds
    /// other things is left as it is.
    pub(super) fn lock(path: &Path) -> Result<Self, FolderError> {
        let failed = |error| FolderError::Io(path.to_owned(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        if !may_be_ours(path).map_err(failed)? {
            return Err(FolderError::Foreign(path.to_owned()));
        }
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

    /// The folder of the past's slices.
    pub(super) fn past(&self) -> PathBuf {
        self.path.join("past")
    }

    /// The folder of sled's files.
    pub(super) fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    /// Removes sled's files, durably.
    pub(super) fn remove_index(&self) -> Result<(), FolderError> {
        let removed = match fs::remove_dir_all(self.index()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.path).and_then(|folder| folder.sync_all()),
        };
        removed.map_err(|error| FolderError::Io(self.index(), error))
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the incarnation. Makes one up if there is none, to be [written](Self::write) once the store is
    /// ready for it.
    pub(super) fn life(&self, rng: &mut dyn RngCore) -> Result<Life, FolderError> {
        let bytes = read(&self.path.join("incarnation"))?;
        let known = bytes.as_deref().and_then(|bytes| parse(std::str::from_utf8(bytes).ok()?));
        let (incarnation, start) = known.unwrap_or_else(|| (fresh(rng), 0));
        let is_new = known.is_none();
        Ok(Life { incarnation, start, is_new, is_damaged: is_new && bytes.is_some() })
    }

    /// Writes the incarnation and the number of this start, durably.
    pub(super) fn write(&self, incarnation: Incarnation, start: u32) -> Result<(), FolderError> {
        let line = format!("{INCARNATION_LABEL}{} {start}", data_encoding::HEXLOWER.encode(&incarnation.0));
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

/// A new incarnation.
pub(super) fn fresh(rng: &mut dyn RngCore) -> Incarnation {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    Incarnation(bytes)
}

fn parse(line: &str) -> Option<(Incarnation, u32)> {
    let line = line.strip_suffix('\n')?;
    let (line, is_checked) = match line.rsplit_once(' ').filter(|(_, crc)| crc.len() == 8) {
        Some((before, crc)) if crc == format!("{:08x}", crc32c::crc32c(before.as_bytes())) => (before, true),
        Some(_) => return None,
        None => (line, false),
    };
    let (hex, start) = match line.strip_prefix(INCARNATION_LABEL)?.split_once(' ') {
        Some((hex, start)) if is_checked => (hex, start.parse().ok()?),
        Some(_) => return None,
        None => (line.strip_prefix(INCARNATION_LABEL)?, 0),
    };
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
    Some((Incarnation(bytes.try_into().ok()?), start))
}

/// Whether a folder is the relay's, or may become it.
fn may_be_ours(path: &Path) -> io::Result<bool> {
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(OURS.iter().any(|ours| names.iter().any(|name| name == ours))
        || names.iter().all(|name| HARMLESS.iter().any(|known| name == known)))
}

/// Lets only the owner in, if that is who we are: else whoever made the folder has decided.
fn restrict(path: &Path) -> io::Result<()> {
    match fs::metadata(path)?.uid() == rustix::process::geteuid().as_raw() {
        true => fs::set_permissions(path, fs::Permissions::from_mode(0o700)),
        false => Ok(()),
    }
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
        let mut life = || folder.life(&mut rng).expect("readable");
        let first = life();
        assert!(first.is_new && !first.is_damaged);
        folder.write(first.incarnation, 7).expect("written");
        assert_eq!(life(), Life { is_new: false, start: 7, ..first });
        let path = dir.path().join("incarnation");
        let good = fs::read(&path).expect("written");
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            fs::write(&path, bad).expect("damaged");
            assert!(life().is_new && life().is_damaged, "bit {at}");
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).expect("cut");
            assert!(life().is_new, "{len} bytes");
        }
        // From before starts were counted, and from before there was a checksum.
        let old = "posthorn incarnation 1 000102030405060708090a0b0c0d0e0f";
        for line in [format!("{old}\n"), format!("{old} {:08x}\n", crc32c::crc32c(old.as_bytes()))] {
            fs::write(&path, &line).expect("old");
            let is = life();
            assert_eq!((is.incarnation.0[15], is.start, is.is_new), (15, 0, false), "{line}");
        }
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder cannot be read, whoever asks");
        assert!(matches!(folder.life(&mut rng), Err(FolderError::Unreadable(..))), "that is not missing");
        drop(folder);
        Folder::lock(dir.path()).expect("free again");
    }

    #[test]
    fn only_a_folder_of_ones_own_is_taken() {
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("srv");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        fs::write(path.join("posthorn.toml"), "").expect("written");
        fs::write(path.join("other"), "").expect("written");
        assert!(matches!(Folder::lock(&path), Err(FolderError::Foreign(_))));
        assert_eq!(mode(&path), 0o755, "untouched");
        assert!(!path.join("lock").exists());
        fs::remove_file(path.join("other")).expect("removed");
        drop(Folder::lock(&path).expect("only the configuration is there"));
        assert_eq!(mode(&path), 0o700);
        fs::write(path.join("other"), "").expect("written");
        Folder::lock(&path).expect("it is the relay's now, whatever is put beside");
    }

    #[test]
    fn a_restored_half_disagrees_until_it_was_dealt_with() {
        for (file, journal, restored, next) in [
            (0, 0, false, 1),
            (4, 4, false, 5),
            (4, 5, false, 5),
            (4, 3, true, 6),
            (4, 6, true, 8),
            (4, 0, true, 6),
        ] {
            let life =
                Life { incarnation: Incarnation([1; 16]), start: file, is_new: false, is_damaged: false };
            assert_eq!(life.disagrees(journal), restored, "{file} {journal}");
            assert_eq!(life.next_start(Some(journal)), next, "{file} {journal}");
            assert_eq!(life.disagrees(next), restored, "{file} {journal}: after an interruption");
            assert!(!Life { start: next, ..life }.disagrees(next), "once the file is written");
            assert!(!Life { is_new: true, ..life }.disagrees(journal), "a missing file is another matter");
        }
    }
}
