//! A profile in one file, to be kept elsewhere.
//!
//! The file is all of the database, encrypted and authenticated under a key derived from the database's, and
//! the record that has that key wrapped under the passphrase of the moment: whoever knows that opens it, and
//! nobody else learns more than its length. Format:
//!
//! ```text
//! "posthorn backup\n"  version (1 byte)  length of the record (4 bytes, big-endian)  record
//! nonce (19 bytes)
//! pieces: 64 KiB of the database (the last fewer) and 16 bytes of tag each, as STREAM (BE32) orders them
//! ```
//!
//! Everything before the pieces is bound to the first of them.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::aead::{KeyInit as _, Payload};
use hkdf::Hkdf;
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::create::{beside, private_file, remove_files, sync_folder_of, was_never_written};
use super::passphrase::{DatabaseKey, Passphrase};
use super::{Database, Location, StoreError, connect, schema, take_lock};

const MAGIC: &[u8; 16] = b"posthorn backup\n";
const VERSION: u8 = 1;
/// Domain separation of the key of a backup.
const LABEL: &[u8] = b"posthorn v1 backup";
/// XChaCha20-Poly1305's 24 bytes without STREAM's counter and mark of the last.
const NONCE_BYTES: usize = 19;
const PIECE: usize = 64 * 1024;
const TAG: usize = 16;
/// A wrapped key is far shorter.
const RECORD_BYTES: usize = 1024;

/// See [`Database::backup`].
pub(super) fn backup(database: &Database, file: &Path, rng: &mut dyn CryptoRng) -> Result<(), StoreError> {
    if file.exists() && header(&mut open(file)?, file).is_err() {
        return Err(StoreError::NotABackup { path: file.to_owned() });
    }
    let (copy, new) = (beside(file, "-copy"), beside(file, "-new"));
    // What a crash left of an earlier attempt.
    remove_files(&[&copy, &new])?;
    let made = seal_into(database, &copy, &new, rng).and_then(|()| {
        std::fs::rename(&new, file).map_err(|error| StoreError::io(file, error))?;
        sync_folder_of(file)
    });
    // The first error is the one to tell.
    let cleared = remove_files(&[&copy, &new]);
    made.and(cleared)
}

fn seal_into(
    database: &Database,
    copy: &Path,
    new: &Path,
    rng: &mut dyn CryptoRng,
) -> Result<(), StoreError> {
    private_file(copy)?;
    let name = copy.to_str().ok_or_else(|| {
        StoreError::io(copy, std::io::Error::other("a backup has a name in UTF-8: choose another"))
    })?;
    // The copy holds what the profile holds, sealed as there, and not what was deleted.
    database.conn.execute("VACUUM INTO ?1", [name])?;
    let record: Vec<u8> =
        database.conn.query_row("SELECT v FROM meta WHERE k = 'key'", [], |row| row.get(0))?;
    let mut nonce = [0; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    let length = u32::try_from(record.len()).map_err(|_| StoreError::Damaged("wrapped key"))?;
    let head = [&MAGIC[..], &[VERSION], &length.to_be_bytes(), &record, &nonce].concat();
    private_file(new)?;
    let mut to = File::options().write(true).open(new).map_err(|error| StoreError::io(new, error))?;
    let mut write = |bytes: &[u8]| to.write_all(bytes).map_err(|error| StoreError::io(new, error));
    write(&head)?;
    let mut sealer = EncryptorBE32::from_aead(cipher(&database.key), (&nonce).into());
    let mut pieces = Pieces { from: open(copy)?, path: copy, size: PIECE, ahead: None };
    let (mut aad, full) = (&head[..], |_| StoreError::Damaged("a profile of more than 256 TiB"));
    loop {
        let (piece, is_last) = pieces.next()?;
        let payload = Payload { msg: &piece, aad: std::mem::take(&mut aad) };
        if is_last {
            write(&sealer.encrypt_last(payload).map_err(full)?)?;
            break;
        }
        write(&sealer.encrypt_next(payload).map_err(full)?)?;
    }
    to.sync_all().map_err(|error| StoreError::io(new, error))
}

/// See [`Database::restore`].
pub(super) fn restore(backup: &Path, database: &Path, passphrase: &Passphrase) -> Result<(), StoreError> {
    let _lock = take_lock(Location::File(database))?;
    if database.exists() && !was_never_written(database)? {
        return Err(StoreError::AlreadyExists { path: database.to_owned() });
    }
    let new = beside(database, "-new");
    remove_files(&[&new, &beside(database, "-wal"), &beside(database, "-shm")])?;
    let made = open_into(backup, &new, passphrase).and_then(|()| {
        std::fs::rename(&new, database).map_err(|error| StoreError::io(database, error))?;
        sync_folder_of(database)
    });
    if made.is_err() {
        let _ = remove_files(&[&new, &beside(&new, "-wal"), &beside(&new, "-shm")]);
    }
    made
}

fn open_into(backup: &Path, new: &Path, passphrase: &Passphrase) -> Result<(), StoreError> {
    let mut from = open(backup)?;
    let head = header(&mut from, backup)?;
    let key = DatabaseKey::unwrap(&head.record, passphrase)?;
    private_file(new)?;
    let mut to = File::options().write(true).open(new).map_err(|error| StoreError::io(new, error))?;
    let mut opener = DecryptorBE32::from_aead(cipher(&key), (&head.nonce).into());
    let mut pieces = Pieces { from, path: backup, size: PIECE + TAG, ahead: None };
    let (mut aad, damaged) = (&head.bytes[..], |_| StoreError::Damaged("backup"));
    loop {
        let (piece, is_last) = pieces.next()?;
        let payload = Payload { msg: &piece, aad: std::mem::take(&mut aad) };
        let mut write = |bytes: &[u8]| to.write_all(bytes).map_err(|error| StoreError::io(new, error));
        if is_last {
            write(&opener.decrypt_last(payload).map_err(damaged)?)?;
            break;
        }
        write(&opener.decrypt_next(payload).map_err(damaged)?)?;
    }
    to.sync_all().map_err(|error| StoreError::io(new, error))?;
    let conn = connect(Location::File(new), rusqlite::OpenFlags::empty())?;
    if !schema::is_ours(&conn)? {
        return Err(StoreError::NotOurs { path: backup.to_owned() });
    }
    schema::check_version(&conn)?;
    let has_key = conn.query_row("SELECT 1 FROM meta WHERE k = 'key'", [], |_| Ok(())).optional()?;
    has_key.ok_or(StoreError::Damaged("no wrapped key"))?;
    Ok(conn.close().map_err(|(_, error)| error)?)
}

fn cipher(key: &DatabaseKey) -> XChaCha20Poly1305 {
    let mut out = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, &key.0).expand(LABEL, &mut *out).expect("32 bytes are within HKDF's limit");
    XChaCha20Poly1305::new((&*out).into())
}

fn open(path: &Path) -> Result<BufReader<File>, StoreError> {
    File::open(path).map(BufReader::new).map_err(|error| StoreError::io(path, error))
}

/// What stands before the pieces.
struct Header {
    record: Vec<u8>,
    nonce: [u8; NONCE_BYTES],
    /// All of it.
    bytes: Vec<u8>,
}

fn header(from: &mut impl Read, path: &Path) -> Result<Header, StoreError> {
    let foreign = || StoreError::NotABackup { path: path.to_owned() };
    let mut fixed = [0; MAGIC.len() + 1 + 4];
    from.read_exact(&mut fixed).map_err(|_| foreign())?;
    let (magic, rest) = fixed.split_at(MAGIC.len());
    let length = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
    if magic != MAGIC || rest[0] != VERSION || length > RECORD_BYTES {
        return Err(foreign());
    }
    let (mut record, mut nonce) = (vec![0; length], [0; NONCE_BYTES]);
    from.read_exact(&mut record).and_then(|()| from.read_exact(&mut nonce)).map_err(|_| foreign())?;
    let bytes = [&fixed[..], &record, &nonce].concat();
    Ok(Header { record, nonce, bytes })
}

/// A file in pieces, each told whether it is the last. An empty file has one, which is empty.
struct Pieces<'p> {
    from: BufReader<File>,
    path: &'p Path,
    size: usize,
    /// The next, once it was read.
    ahead: Option<Vec<u8>>,
}

impl Pieces<'_> {
    fn read(&mut self) -> Result<Vec<u8>, StoreError> {
        let mut piece = Vec::with_capacity(self.size);
        let read = (&mut self.from).take(self.size as u64).read_to_end(&mut piece);
        read.map_err(|error| StoreError::io(self.path, error))?;
        Ok(piece)
    }

    fn next(&mut self) -> Result<(Vec<u8>, bool), StoreError> {
        let piece = match self.ahead.take() {
            Some(piece) => piece,
            None => self.read()?,
        };
        let after = self.read()?;
        let is_last = after.is_empty();
        self.ahead = Some(after);
        Ok((piece, is_last))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;
    use tempfile::TempDir;

    use super::*;
    use crate::store::KdfCost;

    struct Kept {
        folder: TempDir,
        database: Database,
    }

    fn pass(text: &str) -> Passphrase {
        Passphrase::new(text)
    }

    impl Kept {
        /// A profile of several pieces, some of it still in the write-ahead log.
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("profile.db");
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let database = Database::create(Location::File(&path), &pass("one"), KdfCost::CHEAP, &mut rng);
            let database = database.expect("is made");
            database.conn.execute_batch("CREATE TABLE more (v BLOB)").expect("writes");
            database.conn.execute("INSERT INTO more VALUES (zeroblob(300000))", []).expect("writes");
            Self { folder, database }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn backup(&self, name: &str) -> Result<(), StoreError> {
            self.database.backup(&self.path(name), &mut ChaCha20Rng::seed_from_u64(2))
        }

        fn restore(&self, from: &str, to: &str, passphrase: &str) -> Result<(), &'static str> {
            Database::restore(&self.path(from), &self.path(to), &pass(passphrase))
                .map_err(|error| error.cause())
        }
    }

    #[test]
    fn what_was_kept_comes_back() {
        let mut kept = Kept::new();
        kept.backup("b").expect("is made");
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        kept.database.change_passphrase(&pass("two"), KdfCost::CHEAP, &mut rng).expect("changes");
        kept.backup("b").expect("replaces the earlier one");
        assert_eq!(kept.restore("b", "new.db", "one"), Err("WRONG_PASSPHRASE"));
        assert_eq!(kept.restore("b", "new.db", "two"), Ok(()));
        assert_eq!(kept.restore("b", "new.db", "two"), Err("STORE_EXISTS"));
        assert_eq!(kept.restore("b", "profile.db", "two"), Err("PROFILE_IN_USE"));
        let new = Database::open(Location::File(&kept.path("new.db")), &pass("two")).expect("opens");
        let bytes: u64 =
            new.conn.query_row("SELECT length(v) FROM more", [], |row| row.get(0)).expect("is there");
        assert_eq!(bytes, 300_000);
        let mut left: Vec<_> = std::fs::read_dir(kept.folder.path()).expect("a folder").flatten().collect();
        left.retain(|file| file.file_name().to_string_lossy().contains("-copy"));
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn whoever_has_the_file_alone_reads_and_changes_nothing() {
        let kept = Kept::new();
        kept.backup("b").expect("is made");
        let whole = std::fs::read(kept.path("b")).expect("reads");
        assert!(!whole.windows(6).any(|bytes| bytes == b"SQLite"), "nothing of it stands in clear");
        let head = header(&mut &whole[..], Path::new("b")).expect("a head").bytes.len();
        let piece = PIECE + TAG;
        assert!(whole.len() > head + 3 * piece, "it has several pieces");
        let swapped =
            [&whole[..head], &whole[head + piece..head + 2 * piece], &whole[head..head + piece]].concat();
        let swapped = [&swapped[..], &whole[head + 2 * piece..]].concat();
        let changed = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        for bytes in [
            changed(head - 1),
            changed(head),
            changed(whole.len() - 1),
            whole[..head + 2 * piece].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            whole[..head].to_vec(),
            [&whole[..], b"x"].concat(),
            swapped,
        ] {
            std::fs::write(kept.path("bad"), bytes).expect("writes");
            assert_eq!(kept.restore("bad", "new.db", "one"), Err("STORE_DAMAGED"));
            assert!(!kept.path("new.db").exists(), "whole or not at all");
        }
        std::fs::write(kept.path("bad"), &whole[..head - 1]).expect("writes");
        assert_eq!(kept.restore("bad", "new.db", "one"), Err("STORE_NO_BACKUP"));
    }

    #[test]
    fn no_other_file_is_overwritten() {
        let kept = Kept::new();
        std::fs::write(kept.path("letter"), "dear bob").expect("writes");
        assert_eq!(kept.backup("letter").expect_err("is none").cause(), "STORE_NO_BACKUP");
        assert_eq!(std::fs::read(kept.path("letter")).expect("reads"), b"dear bob");
        assert_eq!(kept.restore("letter", "new.db", "one"), Err("STORE_NO_BACKUP"));
        assert_eq!(kept.backup("profile.db").expect_err("is none").cause(), "STORE_NO_BACKUP");
        assert_eq!(kept.restore("absent", "new.db", "one"), Err("STORE_IO"));
    }
}
