//! The one file of `limit-wal`: whatever is queued is written as one batch, synced once, then forwarded and
//! answered, while the next batch gathers.
//!
//! Owns the file and its thread. Keeps no index and no checksums, and never reads.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rustix::fs::FallocateFlags;

use super::answer;
use super::topic::{Outbox, Topic, wake};

/// How much space the file takes at a time, in bytes, so that a sync need not write its length each time.
const STEP: u64 = 64 * 1024 * 1024;

/// A post or an acknowledgement that waits for the disk.
pub(crate) struct Record {
    pub(crate) message: Bytes,
    /// Whom a post goes to, and who is answered.
    pub(crate) then: Option<(Arc<Topic>, Arc<Outbox>)>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<Record>>,
    some: Condvar,
}

/// The log file and the thread that writes it.
pub(crate) struct Log {
    queue: Arc<Queue>,
}

impl Log {
    /// Begins a log in this folder.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let file = File::create_new(folder.join("log"))?;
        let queue = Arc::<Queue>::default();
        let theirs = Arc::clone(&queue);
        std::thread::Builder::new().name("log".into()).spawn(move || {
            if let Err(error) = commit(&theirs, file) {
                eprintln!("the log failed: {error}");
                std::process::exit(1);
            }
        })?;
        Ok(Self { queue })
    }

    /// Queues posts, and leaves `batch` empty.
    pub(crate) fn append(&self, batch: &mut Vec<Record>) {
        let was_empty = {
            let mut waiting = self.queue.waiting.lock();
            let was_empty = waiting.is_empty();
            waiting.append(batch);
            was_empty
        };
        if was_empty {
            self.queue.some.notify_one();
        }
    }
}

fn commit(queue: &Queue, mut file: File) -> anyhow::Result<()> {
    let (mut batch, mut bytes, mut asleep) = (Vec::<Record>::new(), Vec::new(), Vec::new());
    let (mut length, mut room) = (0, 0);
    loop {
        {
            let mut waiting = queue.waiting.lock();
            while waiting.is_empty() {
                queue.some.wait(&mut waiting);
            }
            std::mem::swap(&mut batch, &mut *waiting);
        }
        bytes.clear();
        for record in &batch {
            bytes.extend_from_slice(&(record.message.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&record.message);
        }
        length += bytes.len() as u64;
        if length > room {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), room, length - room + STEP)?;
            room = length + STEP;
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        for record in batch.drain(..) {
            if let Some((topic, poster)) = record.then {
                topic.forward(&record.message, &mut asleep);
                poster.push(answer(&record.message), &mut asleep);
            }
        }
        wake(&mut asleep);
    }
}
