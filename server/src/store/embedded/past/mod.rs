//! Posts that the ledger no longer holds in memory, so that their repeats are recognised all the same (rule
//! 2).
//!
//! ```text
//! <data>/past/0000000007.ids   a slice: entries in order, never changed (`slice`)
//! <data>/past/0000000008.log   the newest entries, as they came; they are held in memory, too (`log`)
//! ```
//! What is written here is synced before the ledger forgets it, so a post is always found in one of the two.
//! How far that has come ([`Passed`]) stands in the ledger from then on: so what is missing here is noticed,
//! and no id that was here is taken for that of a new post, even if all of this is lost.
//! Once there are enough entries, or they are old enough, the log is written as a slice and the next is
//! begun. Slices go when the time for which posts are remembered has passed, or all of them take too many
//! bytes: the oldest first. One that is damaged goes as well, for good, and the relay goes on: of the posts
//! in it, it only no longer knows. What cannot be read for another reason is not lost: whoever asks is told
//! to come again.
//!
//! The disk is only touched by [`PastIds::write`], [`PastIds::tidy`] and [`PastIds::find`], which may wait
//! for it.

mod log;
mod slice;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use posthorn_proto::{MailboxId, PostId};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sha2::{Digest as _, Sha256};

use self::log::Log;
use self::slice::{Header, Slice};
use super::journal::disk::Disk;
use crate::mailbox::change::ShortFingerprint;
use crate::store::ledger::{Passed, Past};

/// How the entries of a slice are hashed, so that nobody chooses names that lie side by side in it.
type Salt = [u8; 16];
/// Names a post: the salted hash of its mailbox, the life of that, and its id.
type Key = [u8; 16];
/// What is known of a post: its seq and the fingerprint by which a repeat is told from another post.
pub(super) type Known = (u64, ShortFingerprint);

/// Bytes of an entry: key, seq, fingerprint.
const ENTRY: usize = 40;

/// The most that is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How long a post is remembered, seconds.
    pub(super) seconds: u64,
    /// How old the id of a new post may be, seconds.
    pub(super) fresh: u64,
    /// Most bytes of all files together.
    pub(super) bytes: u64,
    /// Entries of a slice.
    pub(super) entries: usize,
}

impl Bounds {
    /// How long entries are gathered at most before they become a slice, seconds.
    fn gather_seconds(&self) -> u64 {
        (self.seconds / 12).max(1)
    }
}

/// The posts that the ledger has forgotten.
pub(super) struct PastIds {
    disk: Arc<dyn Disk>,
    bounds: Bounds,
    /// Held while the disk is written to and synced: not for those who must not wait for that.
    state: Mutex<State>,
    /// What is told of it: since when posts are recognised, and the bytes of all files.
    told: Mutex<(u64, u64)>,
    /// [`Passed::made`], for who must not wait for the disk.
    made: AtomicU64,
}

struct State {
    /// Oldest first.
    slices: Vec<Slice>,
    /// `None` until there is something to write, and after a write that failed.
    log: Option<Log>,
    /// What the log says, or will say once it is begun again.
    recent: Recent,
    /// Bytes of the log that is there and is not written to, because a start has found it or a write failed.
    left: u64,
    /// The number from which on all slices should be there.
    first: u64,
    /// The number of the log, and of the slice that it becomes. Each is one more than that before, so that
    /// what is missing is noticed.
    next: u64,
    /// The newest time in an id that was old when it came in, and when something came in last, unix seconds.
    made: u64,
    at: u64,
    /// Up to this time something was given up, unix seconds.
    lost: u64,
    rng: StdRng,
}

/// Entries that are not in a slice yet.
#[derive(Default)]
struct Recent {
    salt: Salt,
    entries: BTreeMap<Key, Known>,
    header: Header,
}

/// What has to be looked through for a post.
pub(super) enum Search {
    /// Nothing: this is what is known, or nothing is.
    Over(Option<Known>),
    /// These slices.
    In(Vec<Slice>),
}

/// A post cannot be looked up for now.
#[derive(Debug)]
pub(super) struct Unread;

fn key(salt: &Salt, mailbox: &MailboxId, life: u64, post: &PostId) -> Key {
    let mut hash = Sha256::new();
    for part in [&salt[..], &mailbox.0, &life.to_le_bytes(), &post.0] {
        hash.update(part);
    }
    let hash = hash.finalize();
    std::array::from_fn(|at| hash[at])
}

impl PastIds {
    /// Reads what there is, where the ledger knows that there should be so much. What is missing or damaged
    /// is given up.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        bounds: Bounds,
        known: Passed,
        rng: &mut dyn RngCore,
    ) -> io::Result<Self> {
        let mut names = disk.list()?;
        names.sort_unstable();
        let state = State::read(disk.as_ref(), &names, known, StdRng::seed_from_u64(rng.next_u64()))?;
        // What is left of a log that became a slice, and of what was not finished. If that fails, it stays.
        let log = log::name(state.next);
        let over =
            |name: &&String| name.ends_with(slice::UNFINISHED) || name.ends_with(log::END) && **name != log;
        names.iter().filter(over).for_each(|name| _ = disk.unlink(name));
        let (told, made) = (Mutex::new((state.lost, state.bytes())), AtomicU64::new(state.made));
        Ok(Self { disk, bounds, state: Mutex::new(state), told, made })
    }

    /// How far posts have come here.
    pub(super) fn passed(&self) -> Passed {
        self.state.lock().passed()
    }

    /// [`Passed::made`], without waiting for the disk.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Since when posts are recognised (unix seconds, 0 = since ever), and the bytes of all files.
    pub(super) fn numbers(&self) -> (u64, u64) {
        *self.told.lock()
    }

    fn tell(&self, state: &State) {
        *self.told.lock() = (state.lost, state.bytes());
        self.made.store(state.made, Ordering::Release);
    }

    /// Writes these, at this time of the clock of post ids, unix seconds. Once it has returned, they are
    /// durable. Returns how far posts have come here.
    pub(super) fn write(&self, past: &[Past], now: u64) -> io::Result<Passed> {
        let mut state = self.state.lock();
        state.begin_log(self.disk.as_ref())?;
        let State { log, recent, left, .. } = &mut *state;
        let Some(open) = log else { return Ok(state.passed()) };
        let entry = |past: &Past| {
            let key = key(&recent.salt, &past.mailbox, past.life, &past.post_id);
            // What came before is here, and the ledger has not forgotten it: that had failed.
            let is_new = !recent.entries.contains_key(&key);
            is_new.then_some((past.post_id.seconds(), (key, (past.seq, past.fingerprint))))
        };
        let (made, entries): (Vec<u64>, Vec<(Key, Known)>) = past.iter().filter_map(entry).unzip();
        let old = made.iter().filter(|made| **made + self.bounds.fresh <= now).max().copied();
        if !entries.is_empty() {
            let mut header = recent.header;
            header.note(made.into_iter(), now);
            if let Err(error) = open.append(&entries, &header) {
                // Nobody knows what of it is on the disk. What is in memory begins the next.
                (*left, *log) = (open.bytes(), None);
                return Err(error);
            }
            recent.entries.extend(entries);
            recent.header = header;
            state.made = old.map_or(state.made, |old| old.max(state.made));
            state.at = state.at.max(now);
        }
        let closed = match state.recent.entries.len() >= self.bounds.entries {
            true => state.close_log(self.disk.as_ref()),
            false => Ok(()),
        };
        self.tell(&state);
        closed.map(|()| state.passed())
    }

    /// Whether [`PastIds::tidy`] has something to do.
    pub(super) fn is_untidy(&self, now: u64) -> bool {
        let state = self.state.lock();
        let goes = state.slices.first().is_some_and(|slice| self.is_over(&slice.header, now));
        goes || state.bytes() > self.bounds.bytes && !state.slices.is_empty() || self.is_ripe(&state, now)
    }

    /// Ends a log that is old enough, and drops what is over, or too much. Returns how far posts have come.
    pub(super) fn tidy(&self, now: u64) -> io::Result<Passed> {
        let mut state = self.state.lock();
        if self.is_ripe(&state, now) {
            state.close_log(self.disk.as_ref())?;
        }
        let mut removed = false;
        while let Some(first) = state
            .slices
            .first()
            .filter(|first| self.is_over(&first.header, now) || state.bytes() > self.bounds.bytes)
        {
            let (number, ended) = (first.number, first.header.ended);
            gone(self.disk.unlink(&slice::name(number)))?;
            (state.first, state.lost) = (state.first.max(number + 1), state.lost.max(ended));
            state.slices.remove(0);
            removed = true;
        }
        self.tell(&state);
        if removed {
            // Or a power cut could bring it back.
            self.disk.sync_dir()?;
        }
        Ok(state.passed())
    }

    /// Drops everything at this time of the clock of post ids, unix seconds: it belongs to another life of
    /// the store. Returns how far posts have come.
    pub(super) fn clear(&self, now: u64) -> io::Result<Passed> {
        let mut state = self.state.lock();
        (state.log, state.recent, state.left) = (None, Recent::default(), 0);
        state.slices.clear();
        state.next += 1;
        (state.first, state.lost) = (state.next, state.lost.max(now));
        self.tell(&state);
        for name in self.disk.list()? {
            if [slice::END, log::END].iter().any(|end| name.ends_with(end)) {
                self.disk.unlink(&name)?;
            }
        }
        self.disk.sync_dir()?;
        Ok(state.passed())
    }

    /// Begins to look for a post.
    pub(super) fn search(&self, mailbox: &MailboxId, life: u64, post: &PostId) -> Search {
        let state = self.state.lock();
        let found = state.recent.entries.get(&key(&state.recent.salt, mailbox, life, post));
        let slices = state.slices.iter().filter(|slice| slice.header.covers(post.seconds()));
        match found {
            Some(found) => Search::Over(Some(*found)),
            None => match slices.cloned().collect::<Vec<_>>() {
                slices if slices.is_empty() => Search::Over(None),
                slices => Search::In(slices),
            },
        }
    }

    /// Looks through slices, of which some may be gone meanwhile: those that were over.
    pub(super) fn find(
        &self,
        slices: &[Slice],
        mailbox: &MailboxId,
        life: u64,
        post: &PostId,
    ) -> Result<Option<Known>, Unread> {
        // A repeat is usually of a post that was not long ago.
        for slice in slices.iter().rev() {
            match slice.find(self.disk.as_ref(), &key(&slice.salt, mailbox, life, post)) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) if is_lost(&error) => self.lose(slice, &error),
                Err(error) => {
                    let name = slice::name(slice.number);
                    tracing::warn!(name, %error, "post ids cannot be read for now");
                    return Err(Unread);
                }
            }
        }
        Ok(None)
    }

    /// Gives a slice up for good, unless that was over and is gone.
    fn lose(&self, slice: &Slice, error: &io::Error) {
        let mut state = self.state.lock();
        let before = state.slices.len();
        state.slices.retain(|present| present.number != slice.number);
        if state.slices.len() < before {
            give_up(self.disk.as_ref(), &slice::name(slice.number), error);
            state.miss();
            self.tell(&state);
        }
    }

    fn is_over(&self, header: &Header, now: u64) -> bool {
        header.ended + self.bounds.seconds <= now
    }

    fn is_ripe(&self, state: &State, now: u64) -> bool {
        let recent = &state.recent;
        !recent.entries.is_empty() && recent.header.begun + self.bounds.gather_seconds() <= now
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.slices.iter().map(|slice| slice.header.bytes()).sum::<u64>()
            + self.log.as_ref().map_or(self.left, Log::bytes)
    }

    /// Reads what there is, where there should be so much.
    fn read(disk: &dyn Disk, names: &[String], known: Passed, rng: StdRng) -> io::Result<Self> {
        let Passed { made, at, since, first, number, entries } = known;
        let mut state = Self {
            slices: Vec::new(),
            log: None,
            recent: Recent::default(),
            left: 0,
            first: first.max(1),
            next: number.max(1),
            made,
            at,
            lost: since,
            rng,
        };
        for name in names {
            let number = |end| name.strip_suffix(end).and_then(|number: &str| number.parse::<u64>().ok());
            if let Some(number) = number(slice::END) {
                state.next = state.next.max(number + 1);
                state.slices.extend(read(disk, name, || Slice::open(disk, number))?);
            } else if let Some(number) = number(log::END) {
                state.next = state.next.max(number);
            }
        }
        // A log is written anew before anything is appended: what is behind its end was never durable.
        let log = log::name(state.next);
        if let Some(said) = read(disk, &log, || Log::read(disk, state.next))?.flatten() {
            (state.recent, state.left) = said;
        }
        let headers = state.slices.iter().map(|slice| &slice.header).chain([&state.recent.header]);
        // What came in before `at` the ledger knows better.
        for header in headers.filter(|header| header.ended > at) {
            state.made = state.made.max(header.newest_old());
            state.at = state.at.max(header.ended);
        }
        let is_short = number == state.next && (state.recent.entries.len() as u64) < entries;
        if is_short {
            state.lost = state.lost.max(state.at);
        }
        state.miss();
        if state.lost > since {
            tracing::warn!(
                since = state.lost,
                "remembered post ids are missing: repeats of posts from before that time (unix seconds) get POST_ID_TIME"
            );
        }
        Ok(state)
    }

    /// How far posts have come here.
    fn passed(&self) -> Passed {
        Passed {
            made: self.made,
            at: self.at,
            since: self.lost,
            first: self.first,
            number: self.next,
            entries: self.recent.entries.len() as u64,
        }
    }

    /// Gives up what is missing of the slices that should be there, and of what came before.
    fn miss(&mut self) {
        let (first, mut next) = (self.first, self.first);
        for slice in self.slices.iter().filter(|slice| slice.number >= first) {
            if slice.number > next {
                (self.first, self.lost) = (slice.number, self.lost.max(slice.header.begun));
            }
            next = slice.number + 1;
        }
        if next < self.next {
            let since = if self.recent.entries.is_empty() { self.at } else { self.recent.header.begun };
            (self.first, self.lost) = (self.next, self.lost.max(since));
        }
    }

    /// Makes sure that there is a log to write to, which holds what is in memory.
    fn begin_log(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.log.is_some() {
            return Ok(());
        }
        if self.recent.entries.is_empty() {
            self.recent = Recent::default();
            self.rng.fill_bytes(&mut self.recent.salt);
        }
        let Recent { salt, entries, header } = &self.recent;
        self.log = Some(Log::create(disk, self.next, salt, entries, header)?);
        Ok(())
    }

    /// Writes what is in memory as a slice, and removes the log of it.
    fn close_log(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let Recent { salt, entries, header } = &self.recent;
        let slice = Slice::write(disk, self.next, salt, entries, *header)?;
        let name = log::name(slice.number);
        self.slices.push(slice);
        (self.log, self.recent, self.left) = (None, Recent::default(), 0);
        self.next += 1;
        // If that fails, the next start passes it over.
        gone(disk.unlink(&name))
    }
}

/// What was to be removed may be missing.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Whether what was to be read is lost: only bytes that were read and do not check are damage.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

/// Reads a file, which is given up if it is damaged. What merely cannot be read is none of the past that
/// could be done without.
fn read<T>(disk: &dyn Disk, name: &str, read: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
    match read() {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_lost(&error) => {
            give_up(disk, name, &error);
            Ok(None)
        }
        Err(error) => {
            let what = format!("{name} cannot be read: {error}: remove it to give up the post ids in it");
            Err(io::Error::new(error.kind(), what))
        }
    }
}

/// Removes what is lost, so that it stays so.
fn give_up(disk: &dyn Disk, name: &str, error: &io::Error) {
    if let Err(error) = gone(disk.unlink(name)).and_then(|()| disk.sync_dir()) {
        tracing::warn!(name, %error, "a file of post ids that is damaged cannot be removed");
    }
    tracing::warn!(
        name,
        %error,
        "remembered post ids cannot be read and are given up: repeats of their posts get POST_ID_TIME"
    );
}

#[cfg(test)]
mod tests;
