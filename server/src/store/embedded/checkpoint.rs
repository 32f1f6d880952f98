//! The checkpoint: the live state as rows in sled, so that a start replays only the journal's tail.
//!
//! sled never has to be durable, or even right. Each value carries a checksum, and a root row says how many
//! rows there are, what their hashes add up to, and from which journal position to replay. Opening reads
//! everything and compares. If anything is odd, and be it a panic inside sled, the whole index is worthless:
//! it is thrown away and built again from the journal. Nothing in the journal is ever dropped because a
//! checkpoint holds it (rule 18).
//!
//! | key | value |
//! |---|---|
//! | 0 | root: format u32, segment u32, offset u32, version u64, rows u64, sum u64, crc32c u32 (little-endian) |
//! | 1, row key | crc32c u32 over key and value, then the value |

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crc32c::{crc32c, crc32c_append};
use sha2::{Digest, Sha256};

use super::journal::disk::passes;
use super::journal::{Position, Resume};
use crate::panics::caught;

const FORMAT: u32 = 2;
const ROOT: &[u8] = &[0];
const ROW: u8 = 1;
const ROOT_LEN: usize = 40;
/// Size of sled's segments, in bytes. With sled's default of 512 KiB even an fsync of its own was measured to
/// be not enough for values of mixed sizes (see docs/storage.md). sled writes whole segments, so the tests,
/// which make thousands of small indexes, take smaller ones.
const SLED_SEGMENT: usize = if cfg!(test) { 1 << 20 } else { 2 << 20 };
/// Rounds of collecting what sled has put off freeing; each frees some 500 objects, and takes microseconds
/// when nothing is left.
const COLLECTIONS: u32 = 4096;
/// sled's page cache, in bytes. Small, because the index is read once and from then on only written.
const SLED_CACHE: u64 = 2 << 20;

/// How often a start tries to lock the index, a millisecond apart: in the same process, a store that was just
/// closed may still hold it.
const LOCK_TRIES: u32 = 2000;
const LOCK_WAIT: Duration = Duration::from_millis(1);

/// Why an index is of no use. The worst that follows is a slow start.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// sled reported an error.
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    /// sled panicked; the text is what it said.
    #[error("sled: {0}")]
    Panicked(String),
    /// The file system reported an error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not hold what was put there.
    #[error("{0}")]
    Contradicts(&'static str),
}

impl Unusable {
    /// Whether it is only that descriptors, memory or space have run out.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Io(error) | Self::Sled(sled::Error::Io(error)) => passes(error),
            _ => false,
        }
    }
}

/// Called with the key and the value of each row.
pub(super) type Row<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), Unusable>;

/// What is known of the rows of one checkpoint, so that the next need not write them all.
///
/// sled is open while a checkpoint is read or written, and closed in between: its cache holds about as much
/// as the ledger and evicts little of it, and a relay has better uses for that memory.
pub(super) struct Checkpoint {
    db: Option<sled::Db>,
    path: PathBuf,
    rows: u64,
    sum: u64,
}

/// Runs work in which sled may panic.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Unusable>) -> Result<T, Unusable> {
    caught(work).unwrap_or_else(|said| Err(Unusable::Panicked(said)))
}

impl Checkpoint {
    /// Opens a checkpoint and hands out its rows, then returns the position from which to replay.
    pub(super) fn load(path: &Path, row: Row<'_>) -> Result<(Self, Resume), Unusable> {
        guarded(|| {
            let db = open_sled(path)?;
            let Some(root) = db.get(ROOT)? else { return Err(Unusable::Contradicts("the root is missing")) };
            let (resume, rows, sum) =
                parse_root(&root).ok_or(Unusable::Contradicts("the root is damaged"))?;
            let mut found = Self { db: None, path: path.to_owned(), rows: 0, sum: 0 };
            for item in db.range::<&[u8], _>(&[ROW][..]..) {
                let (key, stored) = item?;
                let value = checked(&key, &stored).ok_or(Unusable::Contradicts("a row is damaged"))?;
                found.rows += 1;
                found.sum = found.sum.wrapping_add(row_hash(&key, &stored));
                row(&key[1..], value)?;
            }
            if (found.rows, found.sum) != (rows, sum) {
                return Err(Unusable::Contradicts("rows are missing or of another moment"));
            }
            Ok((found, resume))
        })
    }

    /// A copy in another folder, of a checkpoint that is not being written.
    pub(super) fn copy(&self, to: &Path) -> Result<Self, Unusable> {
        copy_all(&self.path, to)?;
        Ok(Self { db: None, path: to.to_owned(), rows: self.rows, sum: self.sum })
    }

    /// Opens the index to write into it. Nothing has changed if that fails.
    pub(super) fn begin(&mut self) -> Result<(), Unusable> {
        guarded(|| opened(&mut self.db, &self.path).map(drop))
    }

    /// Begins an empty index, and throws away what is there.
    pub(super) fn create(path: &Path) -> Result<Self, Unusable> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        guarded(|| Ok(Self { db: Some(open_sled(path)?), path: path.to_owned(), rows: 0, sum: 0 }))
    }

    /// Writes rows, and removes those without a value. Until [`Checkpoint::finish`] the index contradicts its
    /// root.
    pub(super) fn put(
        &mut self,
        rows: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), Unusable> {
        guarded(|| {
            let db = opened(&mut self.db, &self.path)?;
            for (key, value) in rows {
                let mut full = vec![ROW];
                full.extend_from_slice(&key);
                let old = match value {
                    Some(value) => {
                        let stored =
                            [&crc32c_append(crc32c(&full), &value).to_le_bytes()[..], &value].concat();
                        self.rows += 1;
                        self.sum = self.sum.wrapping_add(row_hash(&full, &stored));
                        db.insert(&full, stored)?
                    }
                    None => db.remove(&full)?,
                };
                if let Some(old) = old {
                    self.rows -= 1;
                    self.sum = self.sum.wrapping_sub(row_hash(&full, &old));
                }
            }
            Ok(())
        })
    }

    /// Declares the rows complete, so that replay may begin at `resume`. All records that the rows reflect
    /// must be durable by now.
    pub(super) fn finish(&mut self, resume: Resume) -> Result<(), Unusable> {
        guarded(|| {
            let db = opened(&mut self.db, &self.path)?;
            db.insert(ROOT, root_bytes(resume, self.rows, self.sum).to_vec())?;
            db.flush()?;
            self.db = None;
            // What sled has put off freeing would otherwise stay until sled is next used.
            (0..COLLECTIONS).for_each(|_| crossbeam_epoch::pin().flush());
            // sled's own flush ends in sync_file_range, which does not reach the disk's cache.
            sync_all(&self.path)?;
            Ok(())
        })
    }
}

fn opened<'a>(db: &'a mut Option<sled::Db>, path: &Path) -> Result<&'a sled::Db, Unusable> {
    Ok(match db {
        Some(db) => db,
        None => db.insert(open_sled(path)?),
    })
}

fn open_sled(path: &Path) -> Result<sled::Db, Unusable> {
    let config = sled::Config::default().path(path).cache_capacity(SLED_CACHE).flush_every_ms(None);
    let config = config.segment_size(SLED_SEGMENT);
    for _ in 0..LOCK_TRIES {
        match config.open() {
            // sled's own threads hold its file for a moment after the last handle is dropped.
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") => {
                std::thread::sleep(LOCK_WAIT);
            }
            other => return Ok(other?),
        }
    }
    Ok(config.open()?)
}

pub(super) fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

fn checked<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = stored.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == crc32c_append(crc32c(key), value)).then_some(value)
}

/// The hash of a row. Hashes are added up, so that the sum does not depend on the order of the rows.
fn row_hash(key: &[u8], stored: &[u8]) -> u64 {
    let hash =
        Sha256::new().chain_update((key.len() as u64).to_le_bytes()).chain_update(key).chain_update(stored);
    let bytes = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|at| bytes[at]))
}

fn root_bytes(resume: Resume, rows: u64, sum: u64) -> [u8; ROOT_LEN] {
    let mut out = [0; ROOT_LEN];
    out[..4].copy_from_slice(&FORMAT.to_le_bytes());
    out[4..8].copy_from_slice(&resume.position.segment.to_le_bytes());
    out[8..12].copy_from_slice(&resume.position.offset.to_le_bytes());
    out[12..20].copy_from_slice(&resume.stamp.to_le_bytes());
    out[20..28].copy_from_slice(&rows.to_le_bytes());
    out[28..36].copy_from_slice(&sum.to_le_bytes());
    let crc = crc32c(&out[..36]);
    out[36..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn parse_root(bytes: &[u8]) -> Option<(Resume, u64, u64)> {
    let bytes: &[u8; ROOT_LEN] = bytes.try_into().ok()?;
    let u32_at = |at| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    let u64_at = |at| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    if u32_at(36) != crc32c(&bytes[..36]) || u32_at(0) != FORMAT {
        return None;
    }
    let position = Position { segment: u32_at(4), offset: u32_at(8) };
    Some((Resume { position, stamp: u64_at(12) }, u64_at(20), u64_at(28)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn load(path: &Path) -> Result<(Rows, Resume), Unusable> {
        let mut rows = Vec::new();
        let (_, resume) = Checkpoint::load(path, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok((rows, resume))
    }

    fn row(key: u8, value: u8) -> (Vec<u8>, Option<Vec<u8>>) {
        (vec![key], Some(vec![value; 100]))
    }

    #[test]
    fn a_finished_checkpoint_comes_back_and_an_unfinished_one_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("index");
        let resume = Resume { position: Position { segment: 3, offset: 99 }, stamp: 12 };
        let mut checkpoint = Checkpoint::create(&path).expect("made");
        checkpoint.put([row(1, 1), row(2, 2), row(3, 3)]).expect("put");
        checkpoint.put([row(2, 9), (vec![3], None), (vec![4], None)]).expect("put");
        checkpoint.finish(resume).expect("finished");
        drop(checkpoint);
        let want = vec![(vec![1], vec![1; 100]), (vec![2], vec![9; 100])];
        assert_eq!(load(&path).expect("opens"), (want.clone(), resume));
        assert_eq!(
            Checkpoint::load(&path, &mut |_, _| Ok(()))
                .expect("opens")
                .0
                .copy(&dir.path().join("copy"))
                .expect("copied")
                .rows,
            2
        );
        assert_eq!(load(&dir.path().join("copy")).expect("opens"), (want, resume));

        let (mut checkpoint, _) = Checkpoint::load(&path, &mut |_, _| Ok(())).expect("opens");
        checkpoint.put([row(1, 7)]).expect("put");
        checkpoint.db.as_ref().expect("open").flush().expect("flushed");
        drop(checkpoint);
        assert!(matches!(load(&path), Err(Unusable::Contradicts(_))), "between two moments");
        drop(Checkpoint::create(&path).expect("begins anew"));
        assert!(matches!(load(&path), Err(Unusable::Contradicts(_))), "no root");
    }

    #[test]
    fn any_damaged_file_is_noticed_or_harmless() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("index");
        let mut checkpoint = Checkpoint::create(&path).expect("made");
        checkpoint.put((0..200).map(|key| row(key, key))).expect("put");
        let resume = Resume { position: Position { segment: 1, offset: 72 }, stamp: 0 };
        checkpoint.finish(resume).expect("finished");
        drop(checkpoint);
        let good = load(&path).expect("opens");
        let file = path.join("db");
        let bytes = fs::read(&file).expect("sled's file");
        for at in (0..bytes.len().min(40_000)).step_by(1301) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).expect("damaged");
            if let Ok(found) = load(&path) {
                assert_eq!(found, good, "byte {at}");
            }
        }
    }
}
