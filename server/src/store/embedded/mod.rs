//! The durable engine: a journal with sled as its checkpoint and index. docs/storage.md says why, with the
//! measurements.
//!
//! ```text
//! caller --Request--> queue --> committer: decide -> batch -> apply -> sync -> publish -> answer
//!                                  |  \-- upkeep: empties mostly dead segments         (one thread, both)
//!                                  |--> checkpointer: changed rows -> sled             (one thread)
//! caller --read--> ledger (in memory) -> wait until durable -> journal segments (pread)
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `journal` | segments, batches, checksums, recovery, carrying forward |
//! | `calls` | the trait, call by call |
//! | `queue` | how callers reach the committer, and how much of that may wait |
//! | `committer` | the order of decide, write, sync, publish, answer |
//! | `shared` | the ledger beside the durable position; reading |
//! | `acknowledged` | acknowledgements that nobody waits for, until the committer takes them |
//! | `past`, `recall` | posts that the ledger has forgotten; how they get there and are found |
//! | `upkeep` | when segments are counted and emptied |
//! | `checkpoint`, `index`, `checkpointer` | sled, which may be thrown away at any time: one checkpoint; two in turn; when |
//! | `folder`, `start` | lock and incarnation; from files to a running store |
//! | `damage`, `salvage` | what can no longer be read back, for the operator; giving it up |
//!
//! The rules of mailboxes and of the directory are not here but in the ledger, which both engines run.

mod acknowledged;
mod calls;
mod checkpoint;
mod checkpointer;
mod committer;
mod damage;
mod folder;
mod index;
pub(crate) mod journal;
mod past;
mod queue;
mod recall;
mod salvage;
mod shared;
mod start;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use posthorn_proto::Incarnation;
use rand::{CryptoRng, RngCore};
use tokio::sync::{Semaphore, mpsc};

use self::acknowledged::Acknowledgements;
use self::checkpointer::Checkpointer;
use self::committer::Committer;
use self::damage::Known;
use self::folder::{Folder, FolderError, Life, fresh};
use self::index::Index;
use self::journal::disk::{Disk, is_full};
use self::journal::real::RealDisk;
use self::journal::{Journal, JournalConfig, OpenError, Time, any_segment, last_start};
use self::past::PastIds;
use self::queue::{LEAST_ROOM, QUEUE_COMMANDS, QUEUE_GRAIN, Queue, Request};
use self::shared::{Shared, State};
use self::start::{Ground, no_thread};
use self::upkeep::Upkeep;
use super::clock::Clocks;
use super::ledger::{Command, Record};
use super::{Clock, Published, Store, StoreError, StorePolicy};

/// The kind of journal record that holds a ledger record.
const KIND_RECORD: u8 = 1;
/// The kind of journal record that is empty, and only stands behind a checkpoint's position.
const KIND_MARK: u8 = 2;
/// From here on, kinds of journal records that a version which does not know them passes over and keeps. Of
/// any other it must know what it says, or the state that it serves would be another.
const MAY_BE_IGNORED: u8 = 200;

/// What a journal record says, if it is one of the ledger's and this version knows its form.
fn read_record(kind: u8, payload: Bytes) -> Option<Record> {
    (kind == KIND_RECORD).then(|| Record::decode(payload).ok()).flatten()
}

/// What remembering a post takes of the journal once its envelope is gone, roughly, in bytes.
const MARK_BYTES: u64 = 76;

/// Entries of a slice of the past: 5 MiB, and 10 MiB of memory until it is written.
const SLICE: usize = 1 << 17;
/// Fewest bytes that the past may take: two slices and a full log fit, or each slice would go at once.
pub(crate) const LEAST_PAST_BYTES: u64 = 16 << 20;
const _: () = assert!(LEAST_PAST_BYTES >= 3 * 41 * SLICE as u64);
/// Look-ups in the past that may wait for the disk at once.
const SEARCHES: usize = 4;

/// How an embedded store is set up.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The data folder; made if it is missing.
    pub path: PathBuf,
    /// Bounds and durations.
    pub policy: StorePolicy,
    /// Length at which a journal segment is ended, in bytes; between 1 MiB and 1 GiB.
    pub segment_bytes: u32,
    /// Free space on the disk, in bytes, below which only commands that lead to more space are carried out.
    pub headroom_bytes: u64,
    /// How much is written to the journal between checkpoints, in bytes, which bounds what a start replays.
    pub checkpoint_bytes: u64,
    /// Most bytes of the ids of posts that are no longer held in memory; beyond it the oldest go.
    pub past_bytes: u64,
    /// Most commands that wait for the committer, in bytes; further callers wait until theirs is taken.
    pub queue_bytes: usize,
}

impl EmbeddedConfig {
    /// The default settings for a data folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            policy: StorePolicy::default(),
            segment_bytes: 32 << 20,
            headroom_bytes: 128 << 20,
            checkpoint_bytes: 256 << 20,
            past_bytes: 4 << 30,
            queue_bytes: 64 << 20,
        }
    }

    fn journal(&self) -> JournalConfig {
        let segment_bytes = self.segment_bytes.clamp(1 << 20, 1 << 30);
        JournalConfig { segment_bytes, step_bytes: segment_bytes / 4, ..JournalConfig::default() }
    }

    /// Bounds of the past, in slices of so many entries.
    fn past(&self, entries: usize) -> past::Bounds {
        past::Bounds {
            seconds: u64::from(self.policy.post_id_seconds),
            fresh: u64::from(self.policy.fresh_seconds),
            bytes: self.past_bytes,
            entries,
        }
    }
}

/// Why a store does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Two relays on one folder would destroy it.
    #[error("{0} is in use by another relay: stop that one first")]
    InUse(PathBuf),
    /// The file system reported an error.
    #[error("the data folder {0} cannot be used: {1}")]
    Folder(PathBuf, std::io::Error),
    /// There is not even space to begin.
    #[error("the disk is full: free at least 1 MiB and start again")]
    Full,
    /// The relay was started here before, and nothing of what it kept is left. To begin empty would look to
    /// its clients as if it had lost everything.
    #[error(
        "{0} holds no segment, although a relay was started on this folder before: put the folder back from a backup, or remove incarnation and index beside it to begin empty (what is left in blobs goes, too)"
    )]
    JournalGone(PathBuf),
    /// The journal is of a later version, the disk fails, or the folder is somebody else's.
    #[error("{0}")]
    Journal(String),
    /// Damage was found, and could not be written down.
    #[error("damage was found, but {0} cannot be written: {1}")]
    Damage(PathBuf, std::io::Error),
    /// What is damaged could not be given up.
    #[error("the damage could not be forgotten: {0}: free some space, and repeat it")]
    Forgetting(StoreError),
    /// The new incarnation could not be made durable, or the one-time key packages could not be discarded.
    #[error("the incarnation could not be renewed: {0}")]
    Renewal(StoreError),
}

/// The durable store. Dropping it ends it as [`Store::close`] does, and waits until that is done.
pub struct EmbeddedStore {
    incarnation: Mutex<Incarnation>,
    /// The number of this start.
    start: u32,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    published: Arc<dyn Published>,
    /// `None` only while the store is being dropped.
    queue: Option<mpsc::Sender<Request>>,
    /// How many bytes of commands may still be queued, in units of `QUEUE_GRAIN`.
    room: Arc<Semaphore>,
    /// How many callers wait for room.
    waiting: AtomicUsize,
    /// Held by the first of them. It is fair, so they keep their order.
    turn: tokio::sync::Mutex<()>,
    /// How many look-ups in the past may begin.
    searches: Arc<Semaphore>,
    /// How many are under way or wait for that.
    recalling: AtomicUsize,
    /// Held for reading by whoever asks the ledger about an id that may be new as yet. Between the look and
    /// the asking nobody asks it to forget.
    forgetting: RwLock<()>,
    policy: StorePolicy,
    committer: Option<JoinHandle<()>>,
    folder: Option<Arc<Folder>>,
}

/// Says where it was that the past could not be read or removed.
fn past_failed(folder: Option<&Path>) -> impl FnOnce(std::io::Error) -> StartError {
    let path = folder.map(|folder| folder.join("past")).unwrap_or_default();
    move |error| StartError::Folder(path, error)
}

/// Where a store is opened: the real folder, or a test's.
struct Site {
    disk: Arc<dyn Disk>,
    past: Arc<dyn Disk>,
    /// Entries of a slice of the past.
    slice: usize,
    index: Option<PathBuf>,
    life: Life,
    folder: Option<Folder>,
    /// Whether the operator says that it was restored.
    restored: bool,
}

/// That the store becomes another one.
struct Renewal {
    /// Whether the operator asked for it, and so need not be alarmed.
    as_told: bool,
    why: String,
}

impl Renewal {
    /// If there is any reason for it. A journal without its incarnation is not a whole data folder: somebody
    /// restored it. And where any record may be lost, the store is in the state of a restored one: keys may
    /// be those from before a turn, and a package may be given out again.
    fn due(as_told: bool, torn_apart: Option<String>, lost: bool) -> Option<Self> {
        let told = as_told.then(|| "restored, as the operator says".to_owned());
        let lost = lost.then(|| "records may be lost".to_owned());
        let reasons: Vec<String> = [told, torn_apart, lost].into_iter().flatten().collect();
        (!reasons.is_empty()).then(|| Self { as_told, why: reasons.join("; ") })
    }

    fn tell(&self) {
        let what = "the store begins a new incarnation and discards one-time key packages";
        match self.as_told {
            true => tracing::info!("{what}: {}", self.why),
            false => tracing::error!("{what}: {}", self.why),
        }
    }
}

impl Site {
    /// The real folder, locked.
    fn of(config: &EmbeddedConfig, rng: &mut impl CryptoRng) -> Result<Self, StartError> {
        let folder = Folder::lock(&config.path)?;
        let life = folder.life(rng)?;
        let disk = |path: PathBuf| match RealDisk::open(&path) {
            Ok(disk) => Ok(Arc::new(disk)),
            // It is there, but not for the relay: the advice is that for a file.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(StartError::from(FolderError::Unreadable(path, error)))
            }
            Err(error) => Err(StartError::Folder(path, error)),
        };
        let (disk, past, index) = (disk(folder.journal())?, disk(folder.past())?, Some(folder.index()));
        if life.start > 0 && !any_segment(disk.as_ref()).map_err(OpenError::from)? {
            return Err(StartError::JournalGone(folder.journal()));
        }
        Ok(Self { disk, past, slice: SLICE, index, life, folder: Some(folder), restored: false })
    }
}

impl EmbeddedStore {
    /// Opens the store of a data folder, whether or not it was closed. Blocks while it reads the index and
    /// the journal's tail, or the whole journal.
    pub fn open(
        config: &EmbeddedConfig,
        clock: Arc<dyn Clock>,
        published: Arc<dyn Published>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, StartError> {
        let site = Site::of(config, rng)?;
        Self::open_at(site, config, config.journal(), clock, published, rng)
    }

    fn open_at(
        site: Site,
        config: &EmbeddedConfig,
        journal: JournalConfig,
        clock: Arc<dyn Clock>,
        published: Arc<dyn Published>,
        rng: &mut dyn RngCore,
    ) -> Result<Self, StartError> {
        let incarnation = site.life.incarnation;
        let seen = last_start(site.disk.as_ref()).map_err(OpenError::from)?;
        let start = site.life.next_start(seen);
        let ground = Ground {
            disk: site.disk,
            index: site.index.as_deref(),
            journal,
            policy: config.policy,
            time: Time { incarnation: incarnation.0, start },
        };
        let mut started = ground.start(rng)?;
        // Each start begins a segment, and that is durable by now.
        started.ledger.number_openings(started.journal.position().segment);
        let folder = site.folder.as_ref().map(Folder::path);
        let known = Known::of(folder)?;
        started.report(&known);
        // Rebuilding the ledger leaves much freed memory behind.
        posthorn_heap::trim();
        let losses = started.losses();
        let is_empty = started.ledger.version() == 0;
        let lost_unknown = !known.knows(started.unknown_losses().iter());
        let bounds = config.past(site.slice);
        let past =
            PastIds::open(site.past, bounds, started.ledger.passed(), rng).map_err(past_failed(folder))?;
        started.ledger.found_passed(past.passed());
        let (wall, steady) = (clock.unix_seconds(), clock.monotonic_seconds());
        let clocks = Clocks::new(wall, steady, started.ledger.latest(), started.ledger.posts_clock());
        // What was replayed is durable: where that was not certain, the journal has written it again.
        let shared = Arc::new(Shared::new(
            started.ledger,
            (started.journal.reader(), started.journal.position()),
            known,
            past,
            clocks,
        ));
        shared.now(clock.as_ref());
        let rest = (started.journal, started.index, started.replayed_bytes);
        let life = (incarnation, start, site.folder.map(Arc::new));
        let mut store = Self::set_going(config, shared, rest, (clock, published), life)?;
        // A disk without a folder has no life of its own that could disagree.
        let torn_apart = store.folder.as_ref().and_then(|_| site.life.contradiction(seen));
        let torn_apart = torn_apart.filter(|_| !is_empty || !site.life.is_new);
        let renewal = Renewal::due(site.restored, torn_apart, lost_unknown);
        store.begin_life(&site.life, renewal.as_ref(), rng)?;
        // This comes last: if the power goes before, the next start does all of it again.
        if let Err(error) = store.shared.damage.add(losses) {
            let folder = store.folder.as_ref().map(|folder| folder.path().join("damage"));
            return Err(StartError::Damage(folder.unwrap_or_default(), error));
        }
        Ok(store)
    }

    /// The store with its threads, of what a start has found.
    fn set_going(
        config: &EmbeddedConfig,
        shared: Arc<Shared>,
        (journal, index, replayed_bytes): (Journal, Option<Index>, u64),
        (clock, published): (Arc<dyn Clock>, Arc<dyn Published>),
        (incarnation, start, folder): (Incarnation, u32, Option<Arc<Folder>>),
    ) -> Result<Self, StartError> {
        let keyed = shared.ledger.read().keyed();
        let checkpointer = index.map(|index| Checkpointer::start(index, Arc::clone(&shared)));
        let checkpointer = checkpointer.transpose().map_err(no_thread)?;
        let (queue, requests) = mpsc::channel(QUEUE_COMMANDS);
        let room = Arc::new(Semaphore::new((config.queue_bytes / QUEUE_GRAIN).max(LEAST_ROOM)));
        let committer = Committer {
            shared: Arc::clone(&shared),
            upkeep: Upkeep::after_start(&journal),
            journal,
            queue: Queue { requests, room: Arc::clone(&room) },
            clock: Arc::clone(&clock),
            published: Arc::clone(&published),
            checkpointer,
            headroom: config.headroom_bytes,
            checkpoint_every: config.checkpoint_bytes,
            since_checkpoint: replayed_bytes,
            waiting: VecDeque::new(),
            clearing: false,
            settling: Acknowledgements::new(keyed),
            settled: 0,
            second: 0,
            heads: Vec::new(),
            ends: Vec::new(),
            lists: (Vec::new(), Vec::new()),
            wakers: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || committer.run());
        Ok(Self {
            incarnation: Mutex::new(incarnation),
            start,
            shared,
            clock,
            published,
            queue: Some(queue),
            waiting: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::new(()),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            recalling: AtomicUsize::new(0),
            forgetting: RwLock::new(()),
            policy: config.policy,
            room,
            committer: Some(thread.map_err(no_thread)?),
            folder,
        })
    }

    /// Makes another store of it if it has to be one, and writes down which it is and that it was started.
    fn begin_life(
        &mut self,
        life: &Life,
        renewal: Option<&Renewal>,
        rng: &mut dyn RngCore,
    ) -> Result<(), StartError> {
        if let Some(renewal) = renewal {
            // What is told apart by another life's seqs would be told wrong.
            let cleared = self.shared.past.clear(self.shared.now(self.clock.as_ref()).posts);
            let passed = cleared.map_err(past_failed(self.folder.as_deref().map(Folder::path)))?;
            self.blocking(Command::Restored).map_err(StartError::Renewal)?;
            self.blocking(Command::Forget { posts: Vec::new(), passed }).map_err(StartError::Renewal)?;
            renewal.tell();
            if !life.is_new {
                *self.incarnation.get_mut() = fresh(rng);
            }
        }
        let Some(folder) = &self.folder else { return Ok(()) };
        match folder.write(self.incarnation(), self.start) {
            // The next start has the same number then, which tells nobody anything wrong.
            Err(FolderError::Io(_, error)) if is_full(&error) && renewal.is_none() && !life.is_new => Ok(()),
            written => Ok(written?),
        }
    }

    /// For an operator who restored a data folder from a backup (R10). One-time key packages are discarded,
    /// because some may have been given out since, and then the store gets a new incarnation. The relay must
    /// not be running. If this fails, it must be repeated.
    pub fn renew_incarnation(
        config: &EmbeddedConfig,
        clock: Arc<dyn Clock>,
        rng: &mut impl CryptoRng,
    ) -> Result<Incarnation, StartError> {
        let site = Site { restored: true, ..Site::of(config, rng)? };
        let heard = Arc::new(super::Unheard);
        Ok(Self::open_at(site, config, config.journal(), clock, heard, rng)?.incarnation())
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the committer has panicked");
            self.shared.stop(State::Failed);
        }
    }
}
