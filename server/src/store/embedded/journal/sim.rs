//! A disk in memory that knows what was never synced, for tests of power cuts.
//!
//! It can stop at any operation, fail a sync as Linux does (the data stays readable and is never written),
//! run full, and make images of power cuts ([`SimDisk::power_cut`]): everything up to the last sync is kept,
//! later writes are kept, dropped or torn by sectors in any combination, and later changes of the folder are
//! kept up to some point. Sectors are written as a whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rand::Rng;
use rand::rngs::StdRng;

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

#[derive(Clone)]
enum Pending {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Default)]
struct Inode {
    /// What the page cache shows.
    seen: Vec<u8>,
    /// What is on stable storage.
    durable: Vec<u8>,
    /// What has happened since the last sync.
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Gone(String),
    Renamed { from: String, to: String, inode: usize },
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    seen: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
    /// How many operations have changed something.
    operations: u64,
    /// The operation at which the power goes.
    stop_at: Option<u64>,
    /// How many syncs there were, and below the one that fails.
    syncs: u64,
    fail_sync: Option<u64>,
    /// How many bytes were read, and whether nothing can be read.
    bytes_read: usize,
    fail_reads: bool,
    /// While it is closed, syncs of files wait.
    gate: Gate,
    /// Whether there is no memory for a change of names.
    starved: bool,
    /// How many bytes all files together may take.
    capacity: Option<usize>,
}

/// Lets syncs pass, or makes them wait.
type Gate = Arc<(Mutex<bool>, Condvar)>;

/// A simulated folder; clones share it.
#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: usize,
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.stop_at.is_some_and(|stop| self.operations >= stop) { Err(gone()) } else { Ok(()) }
    }

    fn rename(&mut self) -> io::Result<()> {
        if self.starved { Err(io::ErrorKind::OutOfMemory.into()) } else { self.operate() }
    }

    fn used(&self) -> usize {
        self.seen.values().map(|inode| self.inodes[*inode].seen.len()).sum()
    }

    fn room(&self, inode: usize, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.inodes[inode].seen.len());
        if self.capacity.is_some_and(|capacity| self.used() + more > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl SimDisk {
    /// Makes the power go at the `n`-th changing operation from now. That one and all later ones fail, and
    /// change nothing.
    pub(crate) fn stop_after(&self, n: u64) {
        let mut state = self.0.lock();
        state.stop_at = Some(state.operations + n);
    }

    /// Makes the `n`-th sync of a file from now fail. What it should have written is lost, though reads still
    /// show it.
    pub(crate) fn fail_sync_after(&self, n: u64) {
        let mut state = self.0.lock();
        state.fail_sync = Some(state.syncs + n);
    }

    /// Makes syncs of files wait from now on, or go on.
    pub(crate) fn hold_syncs(&self, hold: bool) {
        let gate = Arc::clone(&self.0.lock().gate);
        *gate.0.lock() = hold;
        gate.1.notify_all();
    }

    /// Makes every change of an existing name fail for want of memory from now on, or not any more.
    pub(crate) fn starve(&self, starve: bool) {
        self.0.lock().starved = starve;
    }

    /// Limits the bytes of all files together.
    pub(crate) fn set_capacity(&self, bytes: Option<usize>) {
        self.0.lock().capacity = bytes;
    }

    /// Makes all reads fail, as of a disk that is broken or not there, or none.
    pub(crate) fn fail_reads(&self, fail: bool) {
        self.0.lock().fail_reads = fail;
    }

    /// How many bytes were read so far.
    pub(crate) fn bytes_read(&self) -> usize {
        self.0.lock().bytes_read
    }

    /// How many syncs of files there were.
    pub(crate) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// How many bytes all files take.
    pub(crate) fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// Flips a bit of a file, both on the disk and in the cache.
    pub(crate) fn flip(&self, name: &str, offset: usize) {
        let mut state = self.0.lock();
        let inode = state.seen[name];
        if let Some(byte) = state.inodes[inode].seen.get_mut(offset) {
            *byte ^= 1;
        }
        if let Some(byte) = state.inodes[inode].durable.get_mut(offset) {
            *byte ^= 1;
        }
    }

    /// Every place at which these bytes stand: file and offset.
    pub(crate) fn find(&self, needle: &[u8]) -> Vec<(String, usize)> {
        let state = self.0.lock();
        let place = |(name, inode): (&String, &usize)| {
            let at = state.inodes[*inode].seen.windows(needle.len()).position(|window| window == needle)?;
            Some((name.clone(), at))
        };
        state.seen.iter().filter_map(place).collect()
    }

    /// The same disk for the next process, with the page cache still there.
    pub(crate) fn restart(&self) -> Self {
        let mut state = self.0.lock().clone();
        (state.stop_at, state.fail_sync, state.gate) = (None, None, Gate::default());
        state.fail_reads = false;
        Self(Arc::new(Mutex::new(state)))
    }

    /// One of the disks that may be found when the power comes back.
    pub(crate) fn power_cut(&self, rng: &mut StdRng) -> Self {
        let old = self.0.lock().clone();
        let mut names = old.durable.clone();
        for change in &old.pending[..rng.random_range(0..=old.pending.len())] {
            match change {
                NameChange::Set(name, inode) => _ = names.insert(name.clone(), *inode),
                NameChange::Gone(name) => _ = names.remove(name),
                NameChange::Renamed { from, to, inode } => {
                    names.remove(from);
                    names.insert(to.clone(), *inode);
                }
            }
        }
        let mut new = State { capacity: old.capacity, ..State::default() };
        for (name, inode) in names {
            let bytes = old.inodes[inode].after_power_cut(rng);
            new.seen.insert(name.clone(), new.inodes.len());
            new.durable.insert(name, new.inodes.len());
            new.inodes.push(Inode { seen: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        Self(Arc::new(Mutex::new(new)))
    }
}

impl Inode {
    fn after_power_cut(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let fate = rng.random_range(0..4);
        for pending in &self.pending {
            match pending {
                Pending::Length(len) if rng.random() => bytes.resize(*len, 0),
                Pending::Length(_) => {}
                Pending::Write { offset, data } => {
                    // 0: all are dropped; 1: all are kept; 2 and 3: each sector by itself, so that writes are
                    // dropped, reordered and torn.
                    let first = offset / SECTOR;
                    for sector in first..(offset + data.len()).div_ceil(SECTOR) {
                        if fate == 1 || (fate >= 2 && rng.random()) {
                            let from = (sector * SECTOR).max(*offset);
                            let to = ((sector + 1) * SECTOR).min(offset + data.len());
                            if bytes.len() < to {
                                bytes.resize(to, 0);
                            }
                            bytes[from..to].copy_from_slice(&data[from - offset..to - offset]);
                        }
                    }
                }
            }
        }
        bytes
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().seen.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.operate()?;
        if state.seen.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.seen.insert(name.to_owned(), inode);
        state.pending.push(NameChange::Set(name.to_owned(), inode));
        Ok(Arc::new(SimFile { state: Arc::clone(&self.0), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        let inode = *state.seen.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { state: Arc::clone(&self.0), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.rename()?;
        let inode = state.seen.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.seen.insert(to.to_owned(), inode);
        state.pending.push(NameChange::Renamed { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.rename()?;
        state.seen.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(NameChange::Gone(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        state.durable = state.seen.clone();
        state.pending.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()) as u64))
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().inodes[self.inode].seen.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.fail_reads {
            return Err(rustix::io::Errno::IO.into());
        }
        state.bytes_read += buf.len();
        let from = offset as usize;
        let bytes =
            state.inodes[self.inode].seen.get(from..from + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let (from, to) = (offset as usize, offset as usize + data.len());
        state.room(self.inode, to)?;
        let inode = &mut state.inodes[self.inode];
        if inode.seen.len() < to {
            inode.seen.resize(to, 0);
        }
        inode.seen[from..to].copy_from_slice(data);
        inode.pending.push(Pending::Write { offset: from, data: data.to_vec() });
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        state.room(self.inode, len as usize)?;
        let inode = &mut state.inodes[self.inode];
        if inode.seen.len() < len as usize {
            inode.seen.resize(len as usize, 0);
            inode.pending.push(Pending::Length(len as usize));
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let inode = &mut state.inodes[self.inode];
        inode.seen.resize(len as usize, 0);
        inode.pending.push(Pending::Length(len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let gate = Arc::clone(&self.state.lock().gate);
        gate.1.wait_while(&mut gate.0.lock(), |held| *held);
        let mut state = self.state.lock();
        state.operate()?;
        state.syncs += 1;
        let fails = state.fail_sync == Some(state.syncs);
        let inode = &mut state.inodes[self.inode];
        let pending = std::mem::take(&mut inode.pending);
        if fails {
            // Linux marks the pages clean: they stay readable, and no later sync writes them.
            return Err(io::Error::other("simulated EIO"));
        }
        for pending in pending {
            match pending {
                Pending::Length(len) => inode.durable.resize(len, 0),
                Pending::Write { offset, data } => {
                    let to = offset + data.len();
                    if inode.durable.len() < to {
                        inode.durable.resize(to, 0);
                    }
                    inode.durable[offset..to].copy_from_slice(&data);
                }
            }
        }
        Ok(())
    }
}
