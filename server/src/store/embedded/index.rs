//! The index: two checkpoints, written in turn, so that the former one stays whole while the next is written
//! and a start after a crash at any moment replays no more than what came after it.
//!
//! ```text
//! index/1, index/2   sled's files, each a checkpoint of another moment
//! index/newest       which of the two was finished last: "1" or "2"
//! index/opening      which a start is reading: one digit for each start that did not come to an end
//! ```
//! Nothing here has to be durable, or right. Each checkpoint tells by itself whether it is whole; the files
//! beside them only say which to try first, and which not to try again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, Row, Unusable};
use super::journal::Resume;
use crate::store::ledger::RowKey;

/// Starts that may end while they read a checkpoint before it counts as the reason: sled may abort the
/// process over a damaged file, and a person may lose patience once.
const TRIES: usize = 2;
const NAMES: [&str; 2] = ["1", "2"];

/// One of the two.
#[derive(Default)]
struct Turn {
    /// `None` if it is not there, not whole, or was not read.
    checkpoint: Option<Checkpoint>,
    /// The rows that changed since.
    lacks: Vec<RowKey>,
}

pub(super) struct Index {
    path: PathBuf,
    turns: [Turn; 2],
    newest: Option<usize>,
}

/// A checkpoint that is being written: it contradicts itself until it is finished.
pub(super) struct Unfinished {
    pub(super) checkpoint: Checkpoint,
    /// The rows to write; `None` for all of them.
    pub(super) rows: Option<Vec<RowKey>>,
    turn: usize,
}

impl Index {
    /// The index in a folder, of which nothing is read yet.
    pub(super) fn at(path: &Path) -> Self {
        if path.join("db").is_file()
            && let Err(error) = move_single(path)
        {
            tracing::warn!(%error, "the index of an earlier version cannot be used");
        }
        Self { path: path.to_owned(), turns: Default::default(), newest: None }
    }

    fn folder(&self, turn: usize) -> PathBuf {
        self.path.join(NAMES[turn])
    }

    /// The checkpoints that may be read, the one first that should be the newest.
    pub(super) fn candidates(&self) -> Vec<usize> {
        // The start takes long then, and does so again until somebody mends it.
        if let Err(error) = fs::read_dir(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            let path = self.path.display();
            tracing::warn!(
                "{path} cannot be read: {error}: the whole journal is read instead; make it readable for the relay's user"
            );
        }
        let ended = fs::read_to_string(self.path.join("opening")).unwrap_or_default();
        let newest = fs::read_to_string(self.path.join("newest")).unwrap_or_default();
        let mut turns: Vec<usize> = (0..NAMES.len()).filter(|turn| self.folder(*turn).is_dir()).collect();
        turns.sort_by_key(|turn| newest != NAMES[*turn]);
        turns.retain(|turn| {
            let is_tried = ended.matches(NAMES[*turn]).count() < TRIES;
            if !is_tried {
                tracing::warn!("starts ended while they read a part of the index: it is thrown away");
                remove(&self.folder(*turn));
            }
            is_tried
        });
        turns
    }

    /// Reads a checkpoint ([`Checkpoint::load`]); one that is of no use is thrown away.
    pub(super) fn load(&mut self, turn: usize, row: Row<'_>) -> Result<Resume, Unusable> {
        let opening = self.path.join("opening");
        let before = fs::read_to_string(&opening).unwrap_or_default();
        let noted = fs::write(&opening, before + NAMES[turn]);
        let loaded = Checkpoint::load(&self.folder(turn), row);
        // It came to an end, whichever.
        let noted = noted.and_then(|()| fs::remove_file(&opening));
        if let Err(error) = noted {
            tracing::debug!(%error, "the index does not say that it is being read");
        }
        match loaded {
            Ok((checkpoint, resume)) => {
                self.turns[turn] = Turn { checkpoint: Some(checkpoint), lacks: Vec::new() };
                self.newest = Some(turn);
                Ok(resume)
            }
            Err(error) => {
                // One that cannot be read for now may be read by the next start.
                if !error.passes() {
                    remove(&self.folder(turn));
                }
                Err(error)
            }
        }
    }

    /// Whether there is a checkpoint to start from.
    pub(super) fn is_whole(&self) -> bool {
        self.newest.is_some()
    }

    /// Throws everything away.
    pub(super) fn clear(&mut self) {
        (0..NAMES.len()).for_each(|turn| self.discard(turn));
    }

    /// Notes rows that changed.
    pub(super) fn changed(&mut self, rows: Vec<RowKey>) {
        for turn in self.turns.iter_mut().filter(|turn| turn.checkpoint.is_some()) {
            turn.lacks.extend_from_slice(&rows);
            // While no checkpoint can be written, the same rows would come again and again.
            turn.lacks.sort_unstable();
            turn.lacks.dedup();
        }
    }

    /// Begins the next checkpoint, in the place of the older one. If the older one is not there, it becomes a
    /// copy of the newest first, so that only what changed since has to be written. After an error both are
    /// as they were, or the older is gone.
    pub(super) fn begin(&mut self) -> Result<Unfinished, Unusable> {
        let turn = self.newest.map_or(0, |newest| 1 - newest);
        let folder = self.folder(turn);
        if self.turns[turn].checkpoint.is_none() {
            remove(&folder);
            if let Some(newest) = self.newest
                && let Some(former) = &self.turns[newest].checkpoint
            {
                match former.copy(&folder) {
                    Ok(copy) => {
                        let lacks = self.turns[newest].lacks.clone();
                        self.turns[turn] = Turn { checkpoint: Some(copy), lacks };
                    }
                    Err(error) if error.passes() => {
                        remove(&folder);
                        return Err(error);
                    }
                    // Then it is written from the ledger.
                    Err(error) => tracing::warn!(%error, "the index cannot be copied"),
                }
            }
        }
        let Some(checkpoint) = &mut self.turns[turn].checkpoint else {
            fs::create_dir_all(&self.path)?;
            return Ok(Unfinished { checkpoint: Checkpoint::create(&folder)?, rows: None, turn });
        };
        if let Err(error) = checkpoint.begin() {
            if !error.passes() {
                self.discard(turn);
            }
            return Err(error);
        }
        let Turn { checkpoint, lacks } = std::mem::take(&mut self.turns[turn]);
        let checkpoint = checkpoint.ok_or(Unusable::Contradicts("it was there a moment ago"))?;
        Ok(Unfinished { checkpoint, rows: Some(lacks), turn })
    }

    /// The checkpoint is complete, or is thrown away with whatever went wrong.
    pub(super) fn finish(&mut self, unfinished: Unfinished, resume: Resume) -> Result<(), Unusable> {
        let Unfinished { mut checkpoint, turn, .. } = unfinished;
        let finished = checkpoint.finish(resume);
        if finished.is_err() {
            drop(checkpoint);
            self.discard(turn);
            return finished;
        }
        self.turns[turn].checkpoint = Some(checkpoint);
        self.newest = Some(turn);
        if let Err(error) = fs::write(self.path.join("newest"), NAMES[turn]) {
            tracing::debug!(%error, "the next start tries the other checkpoint first");
        }
        Ok(())
    }

    /// Gives up a checkpoint that was begun.
    pub(super) fn give_up(&mut self, unfinished: Unfinished) {
        let turn = unfinished.turn;
        drop(unfinished);
        self.discard(turn);
    }

    fn discard(&mut self, turn: usize) {
        self.turns[turn] = Turn::default();
        if self.newest == Some(turn) {
            self.newest = None;
        }
        remove(&self.folder(turn));
    }
}

/// An earlier version had one checkpoint, in the folder itself.
fn move_single(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("former");
    fs::rename(path, &aside)?;
    fs::create_dir(path)?;
    fs::rename(aside, path.join(NAMES[0]))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a part of the index cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use posthorn_proto::MailboxId;

    use super::super::checkpoint::copy_all;
    use super::super::journal::Position;
    use super::*;

    fn resume(stamp: u64) -> Resume {
        Resume { position: Position { segment: 1, offset: 72 }, stamp }
    }

    type Rows = Vec<(u8, u8)>;

    /// What the next start finds: from where it replays, and the rows.
    fn start(path: &Path) -> Option<(Index, u64, Rows)> {
        let mut index = Index::at(path);
        let mut rows = Vec::new();
        let loaded = index.candidates().into_iter().find_map(|turn| {
            rows.clear();
            let mut row = |key: &[u8], value: &[u8]| {
                rows.push((key[0], value[0]));
                Ok(())
            };
            index.load(turn, &mut row).ok()
        });
        loaded.map(|resume| (index, resume.stamp, rows))
    }

    fn begin(index: &mut Index, rows: &[(u8, u8)]) -> Unfinished {
        let mut unfinished = index.begin().expect("begins");
        unfinished.checkpoint.put(rows.iter().map(|row| (vec![row.0], Some(vec![row.1; 100])))).expect("put");
        unfinished
    }

    fn write(index: &mut Index, stamp: u64, rows: &[(u8, u8)]) {
        let unfinished = begin(index, rows);
        index.finish(unfinished, resume(stamp)).expect("finished");
    }

    #[test]
    fn a_crash_while_one_is_written_leaves_the_former_whole() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("index");
        assert!(start(&path).is_none(), "nothing yet");
        let mut index = Index::at(&path);
        write(&mut index, 1, &[(1, 1), (2, 2)]);
        let key = |n| RowKey::Mailbox(MailboxId([n; 16]));
        index.changed(vec![key(1)]);
        let second = index.begin().expect("begins");
        assert_eq!(
            second.rows.as_ref().map(Vec::len),
            Some(1),
            "a copy of the first lacks what changed since"
        );
        index.finish(second, resume(2)).expect("finished");
        index.changed(vec![key(1), key(2)]);
        let third = begin(&mut index, &[(1, 3), (3, 3)]);
        assert_eq!(
            third.rows.as_ref().map(Vec::len),
            Some(2),
            "the first lacks what changed since it was made"
        );
        drop((third, index));
        let (mut index, stamp, rows) = start(&path).expect("the second is whole");
        assert_eq!((stamp, rows), (2, vec![(1, 1), (2, 2)]));

        // Whichever the file beside them names, and if it names none.
        write(&mut index, 4, &[(1, 4)]);
        drop(begin(&mut index, &[(1, 5)]));
        drop(index);
        for named in ["1", "2", "", "rubbish"] {
            fs::write(path.join("newest"), named).expect("written");
            let copy = dir.path().join("copy");
            copy_all(&path, &copy).expect("copied");
            let (_, stamp, rows) = start(&copy).expect("one is whole");
            assert_eq!((stamp, rows), (4, vec![(1, 4), (2, 2)]), "{named}");
            fs::remove_dir_all(copy).expect("removed");
        }
    }

    #[test]
    fn what_is_given_up_costs_the_older_one_and_what_is_full_costs_none() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("index");
        let mut index = Index::at(&path);
        write(&mut index, 1, &[(1, 1)]);
        write(&mut index, 2, &[(1, 2)]);
        let third = begin(&mut index, &[(1, 3)]);
        index.give_up(third);
        assert!(index.is_whole());
        assert!(!path.join("1").exists());
        drop(index);
        let (mut index, stamp, _) = start(&path).expect("the second is whole");
        assert_eq!(stamp, 2);
        write(&mut index, 3, &[(1, 4)]);
        index.clear();
        assert!(!index.is_whole());
        write(&mut index, 5, &[(7, 7)]);
        drop(index);
        assert_eq!(start(&path).map(|(_, stamp, rows)| (stamp, rows)), Some((5, vec![(7, 7)])));
    }

    /// sled may abort the process over a damaged file: no start dies of it more than twice.
    #[test]
    fn a_part_over_which_starts_ended_is_not_read_again() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("index");
        let mut index = Index::at(&path);
        write(&mut index, 1, &[(1, 1)]);
        write(&mut index, 2, &[(1, 2)]);
        drop(index);
        fs::write(path.join("opening"), "2").expect("written");
        let (index, stamp, _) = start(&path).expect("patience may be lost once");
        assert_eq!(stamp, 2);
        assert!(!path.join("opening").exists(), "this one came to its end");
        drop(index);
        fs::write(path.join("opening"), "22").expect("written");
        let (_, stamp, _) = start(&path).expect("the other is whole");
        assert_eq!(stamp, 1);
        assert!(!path.join("2").exists());
    }

    #[test]
    fn the_single_checkpoint_of_an_earlier_version_is_taken_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("index");
        let mut single = Checkpoint::create(&path).expect("made");
        single.put([(vec![9], Some(vec![9; 10]))]).expect("put");
        single.finish(resume(3)).expect("finished");
        drop(single);
        assert_eq!(start(&path).map(|(_, stamp, rows)| (stamp, rows)), Some((3, vec![(9, 9)])));
    }
}
