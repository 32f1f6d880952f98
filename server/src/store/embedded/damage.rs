//! What is known of damage: a count for the operator, and a file in the data folder that remembers.
//!
//! ```text
//! <data>/damage    one line for each stretch of the journal and each envelope that is lost, under a few words
//!                  on what to do; with `forgotten: ` before it once the operator has dealt with it
//! ```
//! Owns that file. It is there so that damage is acted upon once and not at every start, and so that the
//! names of mailboxes, which the log must not tell, are written down somewhere. Deleting it does no harm:
//! whatever is found again counts as new.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::folder::{FolderError, read};
use super::journal::Damage;
use super::journal::format::FRAME_HEADER;
use crate::store::ledger::Missing;

const HEAD: &str = "\
# Parts of this store could not be read back. What follows is lost; everything else is served.
# What to do: find out why (`dmesg`, SMART), copy the data folder to a good disk, and start again; or put a
# backup in its place, and run `posthorn-server restored` before the relay starts. A segment that is named
# here is kept as it is, until `posthorn-server forget-damage` saves what is readable of it and removes it.
# This file may be deleted.
";
/// Before a line that the operator has dealt with.
const FORGOTTEN: &str = "forgotten: ";

/// Most lines that are remembered of damage found while running. What a start finds is never cut.
const MOST: usize = 10_000;

/// The damage that is known, as lines of the file.
#[derive(Debug, Default)]
pub(super) struct Known {
    path: Option<PathBuf>,
    /// Guards the lines and the file. Those that are forgotten are known, and do not count.
    lines: Mutex<BTreeSet<String>>,
    forgotten: Mutex<BTreeSet<String>>,
    /// Whether the operator was pointed to the file since the start.
    told: AtomicBool,
}

/// The line for a stretch of the journal.
pub(super) fn stretch(damage: &Damage) -> String {
    damage.to_string()
}

/// The line for an envelope.
pub(super) fn envelope(missing: &Missing) -> String {
    format!(
        "envelope {} of mailbox {}",
        missing.seq,
        data_encoding::HEXLOWER.encode(missing.mailbox.as_ref())
    )
}

impl Known {
    /// What the file in a data folder says.
    pub(super) fn of(folder: Option<&Path>) -> Result<Self, FolderError> {
        let path = folder.map(|folder| folder.join("damage"));
        let text = path.as_deref().map(read).transpose()?.flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (forgotten, lines): (BTreeSet<_>, BTreeSet<_>) =
            lines.map(str::to_owned).partition(|line| line.starts_with(FORGOTTEN));
        let forgotten = forgotten.iter().filter_map(|line| line.strip_prefix(FORGOTTEN)).map(str::to_owned);
        let (forgotten, lines) = (Mutex::new(forgotten.collect()), Mutex::new(lines));
        Ok(Self { path, lines, forgotten, told: AtomicBool::new(false) })
    }

    /// Whether all of these lines are known.
    pub(super) fn knows<'a>(&self, mut lines: impl Iterator<Item = &'a String>) -> bool {
        let (known, forgotten) = (self.lines.lock(), self.forgotten.lock());
        let noted = Lines::new(vec![&known, &forgotten]);
        lines.all(|line| noted.has(line))
    }

    /// Those of all that is lost which the operator has not dealt with.
    pub(super) fn not_forgotten<'a, T>(&self, all: &'a [T], line: fn(&T) -> String) -> Vec<&'a T> {
        let forgotten = self.forgotten.lock();
        let noted = Lines::new(vec![&forgotten]);
        all.iter().filter(|one| !noted.has(&line(one))).collect()
    }

    /// The lines that count.
    pub(super) fn lines(&self) -> BTreeSet<String> {
        self.lines.lock().clone()
    }

    /// How many lines are known.
    pub(super) fn count(&self) -> u64 {
        self.lines.lock().len() as u64
    }

    /// Adds lines, durably.
    pub(super) fn add(&self, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
        let mut known = self.lines.lock();
        let forgotten = self.forgotten.lock();
        let noted = Lines::new(vec![&known, &forgotten]);
        let fresh: Vec<String> = lines.into_iter().filter(|line| !noted.has(line)).collect();
        let Some(path) = self.path.as_ref().filter(|_| !fresh.is_empty()) else {
            known.extend(fresh);
            return Ok(());
        };
        let is_new = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let mut text = if is_new { HEAD.to_owned() } else { String::new() };
        fresh.iter().for_each(|line| text.extend([line.as_str(), "\n"]));
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        known.extend(fresh);
        Ok(())
    }

    /// What is known from now on counts as dealt with, durably.
    pub(super) fn forget(&self) -> io::Result<()> {
        let (mut known, mut forgotten) = (self.lines.lock(), self.forgotten.lock());
        let all: BTreeSet<String> = known.union(&forgotten).cloned().collect();
        if let Some(path) = self.path.as_ref().filter(|_| !all.is_empty()) {
            let mut text = HEAD.to_owned();
            all.iter().for_each(|line| text.extend([FORGOTTEN, line, "\n"]));
            let temporary = path.with_extension("tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            if let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
        }
        known.clear();
        *forgotten = all;
        Ok(())
    }

    /// Points the operator to the file, once.
    pub(super) fn point_there(&self) {
        if let (false, Some(path)) = (self.told.swap(true, Ordering::Relaxed), &self.path) {
            tracing::error!("what is lost, and what to do, stands in {}", path.display());
        }
    }

    /// Adds that a segment does not read back as a whole, unless it is known of a part of it.
    pub(super) fn found_in(&self, segment: u32) {
        let line = stretch(&Damage { segment, offset: 0, len: 0, what: "part of the segment" });
        let end = line.rsplit_once(" of segment ").map_or("", |(_, segment)| segment);
        let is_of_it = |line: &String| line.ends_with(end);
        if !self.lines.lock().iter().any(is_of_it) && !self.forgotten.lock().iter().any(is_of_it) {
            self.found(line);
        }
    }

    /// Adds something that was found while running. It counts in the operator's numbers whether or not it can
    /// be written down.
    pub(super) fn found(&self, line: String) {
        if self.count() >= MOST as u64 || self.knows(std::iter::once(&line)) {
            return;
        }
        self.point_there();
        if let Err(error) = self.add([line.clone()]) {
            tracing::warn!(%error, "damage cannot be written down");
            self.lines.lock().insert(line);
        }
    }
}

/// Lines, and what they say of records. A record may be noted by whoever reads it and, later, by a start that
/// reads the whole journal, to which neighbours are one stretch: what is covered is no news.
struct Lines<'a> {
    lines: Vec<&'a BTreeSet<String>>,
    /// Segment, offset and end of each stretch of records, in order; made when it is first needed.
    records: OnceCell<Vec<(&'a str, u64, u64)>>,
}

impl<'a> Lines<'a> {
    fn new(lines: Vec<&'a BTreeSet<String>>) -> Self {
        Self { lines, records: OnceCell::new() }
    }

    fn has(&self, line: &String) -> bool {
        self.lines.iter().any(|lines| lines.contains(line))
            || records(line).is_some_and(|stretch| self.covers(stretch))
    }

    fn covers(&self, (segment, mut from, to): (&str, u64, u64)) -> bool {
        let all = self.records.get_or_init(|| {
            let mut all: Vec<_> =
                self.lines.iter().flat_map(|lines| lines.iter()).filter_map(|line| records(line)).collect();
            all.sort_unstable();
            all
        });
        let begin = all.partition_point(|(other, ..)| *other < segment);
        for (_, offset, end) in all[begin..].iter().take_while(|(other, ..)| *other == segment) {
            if *offset <= from {
                // An earlier version noted the length without the frame's header. No record is so short that
                // it would be taken for a part of the one before it.
                from = from.max(end + FRAME_HEADER as u64);
            }
        }
        from >= to
    }
}

/// Segment, offset and end of a stretch of records, if the line is one for that.
fn records(line: &str) -> Option<(&str, u64, u64)> {
    let (stretch, segment) = line.strip_prefix("record at ")?.split_once(" of segment ")?;
    let (offset, len) = stretch.split_once('+')?;
    let (offset, len): (u32, u32) = (offset.parse().ok()?, len.parse().ok()?);
    Some((segment, u64::from(offset), u64::from(offset) + u64::from(len)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_known_stays_known() {
        let dir = tempfile::tempdir().expect("temp dir");
        let known = Known::of(Some(dir.path())).expect("readable");
        let lines = ["one".to_owned(), "two".to_owned()];
        assert!(!known.knows(lines.iter()));
        known.add(lines.clone()).expect("written");
        known.found("three".to_owned());
        let again = Known::of(Some(dir.path())).expect("readable");
        assert!(again.knows(lines.iter()));
        assert_eq!(again.count(), 3);
        let text = fs::read_to_string(dir.path().join("damage")).expect("there");
        assert!(text.starts_with(HEAD) && text.ends_with("three\n"));
        fs::write(dir.path().join("damage"), [0xff, 0]).expect("damaged");
        assert!(!Known::of(Some(dir.path())).expect("readable").knows(lines.iter()));
    }

    /// Whoever read a record of it said more.
    #[test]
    fn a_damaged_segment_of_which_a_record_is_known_needs_no_line() {
        let known = Known::of(None).expect("nothing to read");
        known.found(stretch(&Damage { segment: 3, offset: 112, len: 509, what: "record" }));
        known.found_in(3);
        assert_eq!(known.count(), 1);
        known.found_in(0x13);
        known.found_in(0x13);
        assert_eq!(known.count(), 2);
    }

    #[test]
    fn what_is_forgotten_is_known_and_does_not_count() {
        let dir = tempfile::tempdir().expect("temp dir");
        let known = Known::of(Some(dir.path())).expect("readable");
        known.forget().expect("nothing to do");
        assert!(!dir.path().join("damage").exists());
        known.add(["one".to_owned()]).expect("written");
        known.forget().expect("written");
        for known in [known, Known::of(Some(dir.path())).expect("readable")] {
            assert!(known.knows(["one".to_owned()].iter()));
            assert_eq!(known.count(), 0);
            known.add(["one".to_owned(), "two".to_owned()]).expect("written");
            assert_eq!(known.count(), 1, "found again is no news");
        }
        let again = Known::of(Some(dir.path())).expect("readable");
        assert_eq!(again.count(), 1);
    }

    #[test]
    fn records_that_were_noted_one_by_one_are_known_as_a_stretch() {
        let known = Known::of(None).expect("nothing to read");
        let line =
            |offset: u32, len: u32, segment: u32| stretch(&Damage { segment, offset, len, what: "record" });
        // Two neighbours, the first by a version that left out its header, and one of another segment.
        known.add([line(112, 500, 3), line(621, 509, 3), line(1130, 509, 4)]).expect("no file");
        for (offset, len, is_known) in
            [(112, 509, true), (112, 1018, true), (621, 509, true), (112, 1528, false), (100, 521, false)]
        {
            let line = line(offset, len, 3);
            assert_eq!(known.knows([line.clone()].iter()), is_known, "{line}");
            known.add([line]).expect("no file");
        }
        assert_eq!(known.count(), 5, "only what is new");
        assert!(!known.knows([line(1130, 509, 5), "record at x of segment 3".to_owned()].iter()));
    }
}
