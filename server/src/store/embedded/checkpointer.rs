//! The checkpointer: a thread that writes the ledger's changed rows into the index while posts go on.
//!
//! The rows of one checkpoint may be of different moments, all of them after the position that the root will
//! name; replaying from there brings them to the same moment. The root is written only once everything that
//! the rows reflect is durable in the journal. If anything goes wrong, what was begun is thrown away, the
//! former checkpoint stays, and the store itself never notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::checkpoint::{Unusable, guarded};
use super::index::{Index, Unfinished};
use super::journal::Resume;
use super::shared::Shared;
use crate::store::ledger::{Listing, RowKey, Rows};
use crate::store::tables::Map;

/// Rows that are exported under one lock of the ledger: few, because the committer waits for that lock.
const ROWS_AT_ONCE: usize = 8;
/// How many times as much as the last checkpoint wrote the journal must write before the next one begins, so
/// that checkpoints add at most an eighth (before what sled itself adds).
const FAIR_PART: u64 = 8;
/// Changed rows from which on a checkpoint begins sooner, once the journal has written as much as the last
/// one did: noting a changed row takes some 60 bytes of memory.
const MANY_ROWS: usize = 1 << 17;

struct Job {
    resume: Resume,
    /// The rows that changed since the last checkpoint.
    changed: Map<RowKey, ()>,
}

/// The committer's handle of the thread. One checkpoint is under way at a time.
pub(super) struct Checkpointer {
    jobs: SyncSender<Job>,
    busy: Arc<AtomicBool>,
    /// Whether there is a checkpoint to start from.
    whole: Arc<AtomicBool>,
    /// Bytes of rows that the last checkpoint wrote.
    written: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts the thread.
    pub(super) fn start(index: Index, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let whole = Arc::new(AtomicBool::new(index.is_whole()));
        let written = Arc::new(AtomicU64::new(0));
        let (own_busy, own_whole, own_written) =
            (Arc::clone(&busy), Arc::clone(&whole), Arc::clone(&written));
        let worker = Worker { index, shared, busy: own_busy, whole: own_whole, written: own_written };
        let thread =
            std::thread::Builder::new().name("checkpointer".to_owned()).spawn(move || worker.run(&queue))?;
        Ok(Self { jobs, busy, whole, written, thread })
    }

    /// Whether a checkpoint is being written.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Whether one should begin, given how many bytes were written to the journal and how many rows changed
    /// since the last one did.
    pub(super) fn is_due(&self, written: u64, usual: u64, changed: usize) -> bool {
        written >= interval(usual, self.written.load(Ordering::Relaxed), changed) && !self.is_busy()
    }

    /// Whether there is no checkpoint to start from.
    pub(super) fn is_behind(&self) -> bool {
        !self.whole.load(Ordering::Acquire)
    }

    /// Begins a checkpoint behind which replay may start at `resume`, which is where the journal and the
    /// ledger are now. Waits for the one before it, if that is still being written.
    pub(super) fn begin(&self, resume: Resume, shared: &Shared) {
        let changed = shared.ledger.write().take_dirty();
        self.busy.store(true, Ordering::Release);
        // The thread ends only with this handle, so it takes the job.
        let _ = self.jobs.send(Job { resume, changed });
    }

    /// Ends the thread once its work is done.
    pub(super) fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::warn!("the checkpointer has panicked; the next start replays the whole journal");
        }
    }
}

/// How many bytes the journal must write before the next checkpoint, if the last one wrote `last` bytes of
/// rows.
fn interval(usual: u64, last: u64, changed: usize) -> u64 {
    if changed < MANY_ROWS { usual.max(last.saturating_mul(FAIR_PART)) } else { last }
}

struct Worker {
    index: Index,
    shared: Arc<Shared>,
    busy: Arc<AtomicBool>,
    whole: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            // Whatever happens, the thread goes on: without it nothing would ever be checkpointed again, and
            // the rows that changed would be noted for ever.
            match guarded(|| self.write(job)) {
                Err(error) if error.passes() => {
                    tracing::warn!(%error, "no checkpoint can be written for now; the former one stays");
                }
                Err(error) => tracing::warn!(%error, "a checkpoint is thrown away; the next one comes later"),
                Ok(()) => {}
            }
            self.whole.store(self.index.is_whole(), Ordering::Release);
            posthorn_heap::trim();
            self.busy.store(false, Ordering::Release);
        }
    }

    fn write(&mut self, job: Job) -> Result<(), Unusable> {
        self.index.changed(job.changed.into_keys().collect());
        let mut unfinished = self.index.begin()?;
        match self.fill(&mut unfinished) {
            Ok(()) => self.index.finish(unfinished, job.resume),
            Err(error) => {
                self.index.give_up(unfinished);
                Err(error)
            }
        }
    }

    fn fill(&self, unfinished: &mut Unfinished) -> Result<(), Unusable> {
        let mut keys = match unfinished.rows.take() {
            Some(rows) => rows,
            None => self.all_rows(),
        };
        // Neighbouring rows share sled's pages.
        keys.sort_unstable();
        keys.dedup();
        let mut written = 0;
        for keys in keys.chunks(ROWS_AT_ONCE) {
            let rows: Vec<(_, Option<Vec<u8>>)> = {
                let ledger = self.shared.ledger.read();
                keys.iter().map(|key| (key.bytes(), ledger.export(key))).collect()
            };
            written += rows.iter().filter_map(|(_, row)| row.as_ref()).map(Vec::len).sum::<usize>();
            unfinished.checkpoint.put(rows)?;
        }
        self.written.store(written as u64, Ordering::Relaxed);
        match self.settled() {
            true => Ok(()),
            false => Err(Unusable::Contradicts("the journal failed before the checkpoint was complete")),
        }
    }

    /// The keys of all rows, listed a part at a time, so that the committer need not wait for all of them.
    fn all_rows(&self) -> Vec<RowKey> {
        let (mut listing, mut all) = (Listing::default(), Vec::new());
        while let Some(rows) = {
            let ledger = self.shared.ledger.read();
            ledger.list(&mut listing)
        } {
            all.extend(rows.into_iter().flat_map(Rows::keys));
        }
        all
    }

    /// Waits until everything that the rows may reflect is durable. `false` if it never will be.
    fn settled(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.is_ok_and(|runtime| runtime.block_on(self.shared.settled()))
    }
}

#[cfg(test)]
mod tests {
    use posthorn_proto::{KeyHash, MailboxId};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::damage::Known;
    use super::super::journal::sim::SimDisk;
    use super::super::journal::{Journal, JournalConfig, Location, Time};
    use super::super::past::{Bounds, PastIds};
    use super::*;
    use crate::store::StorePolicy;
    use crate::store::clock::Clocks;
    use crate::store::keyed::Keyed;
    use crate::store::ledger::{Change, Ledger, Record};

    const MAILBOX: MailboxId = MailboxId([1; 16]);

    /// (Its thread used to end, the committer took it for busy for ever, and nobody heard of it.)
    #[test]
    fn a_checkpoint_that_panics_is_not_the_last_one() {
        let rng = Box::new(StdRng::seed_from_u64(1));
        let (config, time) = (JournalConfig::default(), Time { incarnation: [1; 16], start: 1 });
        let disk = Arc::new(SimDisk::default());
        let journal = Journal::open(disk, config, time, rng, None, &mut |_| ()).expect("opens");
        let mut ledger = Ledger::new(StorePolicy::default(), [1, 2]);
        let key = KeyHash([1; 32]);
        let change = Change::Created {
            mailbox: MAILBOX,
            token: key,
            post_key: key,
            turn_key: key,
            readers: Vec::new(),
            expiry: 60,
            quota: 1000,
        };
        let nowhere = Location { segment: 0, offset: 0, len: 0 };
        ledger.apply(&Record { version: 1, time: 1, change }, nowhere, &mut |_, _| ());
        let known = Known::of(None).expect("there is no file");
        let bounds = Bounds { seconds: 0, fresh: 0, bytes: 0, entries: 1 };
        let past = PastIds::open(
            Arc::new(SimDisk::default()),
            bounds,
            Default::default(),
            &mut StdRng::seed_from_u64(1),
        );
        let (past, clocks) = (past.expect("opens"), Clocks::new(0, 0, 0, 0));
        let at = (journal.reader(), journal.position());
        let shared = Arc::new(Shared::new(ledger, at, known, past, clocks));
        let dir = tempfile::tempdir().expect("temp dir");
        let index = Index::at(&dir.path().join("index"));
        let checkpointer = Checkpointer::start(index, Arc::clone(&shared)).expect("a thread");
        let resume = Resume { position: journal.position(), stamp: 1 };
        let write = |row| {
            let mut changed = Map::new(Keyed::new([1, 2]));
            changed.insert(row, ());
            checkpointer.busy.store(true, Ordering::Release);
            checkpointer.jobs.send(Job { resume, changed }).expect("the thread lives");
            while checkpointer.is_busy() {
                assert!(!checkpointer.thread.is_finished(), "the thread has ended");
                std::thread::yield_now();
            }
            checkpointer.is_behind()
        };
        assert!(!write(RowKey::Meta), "the first one has all rows");
        // No mailbox has such a chunk, and the sum of its number and one does not fit.
        write(RowKey::Chunk(MAILBOX, u64::MAX));
        assert!(!write(RowKey::Mailbox(MAILBOX)), "the next one is written as if nothing had been");
        checkpointer.finish();
    }

    #[test]
    fn checkpoints_cost_a_part_of_the_journal_and_noting_rows_is_bounded() {
        assert_eq!(interval(64, 1, 10), 64);
        assert_eq!(interval(64, 100, 10), 800);
        assert_eq!(interval(64, 100, MANY_ROWS), 100);
        assert_eq!(interval(64, 0, MANY_ROWS), 0);
    }
}
