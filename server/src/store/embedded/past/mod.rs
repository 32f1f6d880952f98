//! Posts that the ledger no longer holds in memory, so that their repeats are recognised all the same (rule
//! 2).
//!
//! ```text
//! <data>/past/0000000007.ids   a slice: entries in order, never changed (`slice`)
//! <data>/past/0000000008.log   the newest entries, as they came; they are held in memory, too (`log`)
//! ```
//! What is written here is synced before the ledger forgets it, so a post is always found in one of the two.
//! Once there are enough entries, or they are old enough, the log is written as a slice and the next is
//! begun. Slices go when the time for which posts are remembered has passed, or all of them take too many
//! bytes: the oldest first. One that cannot be read goes as well, and the relay goes on: of the posts in it,
//! it only no longer knows.
//!
//! The disk is only touched by [`PastIds::write`], [`PastIds::tidy`] and [`PastIds::find`], which may wait
//! for it.

mod log;
mod slice;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use posthorn_proto::{MailboxId, PostId};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sha2::{Digest as _, Sha256};

use self::log::Log;
use self::slice::{Header, Slice};
use super::journal::disk::{Disk, passes};
use crate::mailbox::change::ShortFingerprint;
use crate::store::ledger::Past;

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
}

struct State {
    /// Oldest first.
    slices: Vec<Slice>,
    /// `None` until there is something to write, and after a write that failed.
    log: Option<Log>,
    /// What the log says, or will say once it is begun again.
    recent: Recent,
    /// The number of the log, and of the slice that it becomes. Each is one more than that before, so that
    /// what is missing is noticed.
    next: u64,
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
    /// Reads what there is. What cannot be read is given up.
    pub(super) fn open(disk: Arc<dyn Disk>, bounds: Bounds, rng: &mut dyn RngCore) -> io::Result<Self> {
        let mut state = State {
            slices: Vec::new(),
            log: None,
            recent: Recent::default(),
            next: 1,
            lost: 0,
            rng: StdRng::seed_from_u64(rng.next_u64()),
        };
        let mut names = disk.list()?;
        names.sort_unstable();
        for name in &names {
            let number = |end| name.strip_suffix(end).and_then(|number: &str| number.parse::<u64>().ok());
            if let Some(number) = number(slice::END) {
                state.next = state.next.max(number + 1);
                match Slice::open(disk.as_ref(), number) {
                    Ok(slice) => state.slices.push(slice),
                    Err(error) if passes(&error) => return Err(error),
                    Err(error) => give_up(name, &error),
                }
            } else if let Some(number) = number(log::END) {
                state.next = state.next.max(number);
            }
        }
        // What is left of a log that became a slice, and of what was not finished. If that fails, it stays.
        let log = log::name(state.next);
        let over =
            |name: &&String| name.ends_with(slice::UNFINISHED) || name.ends_with(log::END) && **name != log;
        names.iter().filter(over).for_each(|name| _ = disk.unlink(name));
        state.read_log(disk.as_ref())?;
        state.lost = state.gap();
        let told = Mutex::new((state.lost, state.bytes()));
        Ok(Self { disk, bounds, state: Mutex::new(state), told })
    }

    /// The time up to which it has been written to, by the clock of post ids, unix seconds. 0 = never.
    pub(super) fn newest(&self) -> u64 {
        let state = self.state.lock();
        state.slices.iter().map(|slice| slice.header.ended).fold(state.recent.header.ended, u64::max)
    }

    /// Since when posts are recognised (unix seconds, 0 = since ever), and the bytes of all files.
    pub(super) fn numbers(&self) -> (u64, u64) {
        *self.told.lock()
    }

    fn tell(&self, state: &State) {
        *self.told.lock() = (state.lost, state.bytes());
    }

    /// Writes these, at this time of the clock of post ids, unix seconds. Once it has returned, they are
    /// durable.
    pub(super) fn write(&self, past: &[Past], now: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin_log(self.disk.as_ref())?;
        let State { log, recent, .. } = &mut *state;
        let Some(open) = log else { return Ok(()) };
        let entry = |past: &Past| {
            (key(&recent.salt, &past.mailbox, past.life, &past.post_id), (past.seq, past.fingerprint))
        };
        let entries: Vec<(Key, Known)> = past.iter().map(entry).collect();
        let made = past.iter().map(|past| past.post_id.seconds());
        let mut header = recent.header;
        header.note(made, now);
        if let Err(error) = open.append(&entries, &header) {
            // Nobody knows what of it is on the disk. What is in memory begins the next.
            *log = None;
            return Err(error);
        }
        recent.entries.extend(entries);
        recent.header = header;
        let closed = match recent.entries.len() >= self.bounds.entries {
            true => state.close_log(self.disk.as_ref()),
            false => Ok(()),
        };
        self.tell(&state);
        closed
    }

    /// Whether [`PastIds::tidy`] has something to do.
    pub(super) fn is_untidy(&self, now: u64) -> bool {
        let state = self.state.lock();
        let goes = state.slices.first().is_some_and(|slice| self.is_over(&slice.header, now));
        goes || state.bytes() > self.bounds.bytes && !state.slices.is_empty() || self.is_ripe(&state, now)
    }

    /// Ends a log that is old enough, and drops what is over, or too much.
    pub(super) fn tidy(&self, now: u64) -> io::Result<()> {
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
            let (name, ended) = (slice::name(first.number), first.header.ended);
            gone(self.disk.unlink(&name))?;
            state.lost = state.lost.max(ended);
            state.slices.remove(0);
            removed = true;
        }
        self.tell(&state);
        // Or a power cut could bring it back.
        if removed { self.disk.sync_dir() } else { Ok(()) }
    }

    /// Drops everything: it belongs to another life of the store.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        (state.log, state.recent) = (None, Recent::default());
        state.slices.clear();
        self.tell(&state);
        for name in self.disk.list()? {
            if [slice::END, log::END].iter().any(|end| name.ends_with(end)) {
                self.disk.unlink(&name)?;
            }
        }
        self.disk.sync_dir()
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
                Err(error) if passes(&error) => return Err(Unread),
                Err(error) => self.lose(slice, &error),
            }
        }
        Ok(None)
    }

    fn lose(&self, slice: &Slice, error: &io::Error) {
        let mut state = self.state.lock();
        let before = state.slices.len();
        state.slices.retain(|present| present.number != slice.number);
        if state.slices.len() < before {
            give_up(&slice::name(slice.number), error);
            state.lost = state.lost.max(slice.header.ended);
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
            + self.log.as_ref().map_or(0, Log::bytes)
    }

    /// Since when there is no gap among the slices: what is missing before the first of them was given up.
    fn gap(&self) -> u64 {
        let mut numbers = 1..;
        let mut lost = 0;
        for slice in &self.slices {
            if numbers.next() != Some(slice.number) {
                lost = slice.header.begun;
                numbers = slice.number + 1..;
            }
        }
        lost
    }

    /// Takes what the last log says. Its file is written anew before anything is appended: what is behind its
    /// end was never durable.
    fn read_log(&mut self, disk: &dyn Disk) -> io::Result<()> {
        match Log::read(disk, self.next) {
            Ok(Some((salt, entries, header))) => self.recent = Recent { salt, entries, header },
            Ok(None) => {}
            Err(error) if passes(&error) => return Err(error),
            Err(error) => give_up(&log::name(self.next), &error),
        }
        Ok(())
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
        (self.log, self.recent) = (None, Recent::default());
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

fn give_up(name: &str, error: &io::Error) {
    tracing::warn!(
        name,
        %error,
        "remembered post ids cannot be read and are given up: repeats of their posts get POST_ID_TIME"
    );
}

#[cfg(test)]
mod tests;
