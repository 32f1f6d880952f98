//! Images: the folders that a disk may hold when the power goes, made from a record of what a process did.
//!
//! [`Record`] is the shim's record, parsed. [`Model`] plays it up to some operation and keeps, for each file,
//! what is on stable storage and what was done since; [`Model::image`] makes one of the folders that may be
//! found. It is the model of a journaling file system that does nobody any favours:
//! - what a file held when a successful `fsync` or `fdatasync` began is kept; of later writes any subset of
//!   sectors may be there, in any combination (dropped, reordered, torn), or a prefix of them; of later
//!   changes of length any may be missing, and the file may end anywhere between;
//! - names are on stable storage once the folder is synced; of later changes of names in one folder a prefix
//!   is there. A synced file whose name was not synced may be absent.
//!
//! A sector (512 bytes) is written as a whole or not at all. Pure, but for writing an image.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;

const SECTOR: usize = 512;
const HEAD: usize = 40;

/// What a process did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Bytes were written at an offset.
    Write,
    /// A sync of a file began.
    SyncBegin,
    /// That sync succeeded.
    SyncEnd,
    /// The length was set.
    Cut,
    /// A file was created.
    Create,
    /// A file or folder was renamed.
    Rename,
    /// A name was removed.
    Unlink,
    /// A folder was made.
    MakeDir,
    /// A folder was removed.
    RemoveDir,
    /// A sync of a folder began.
    DirBegin,
    /// That sync succeeded.
    DirEnd,
    /// A process began, so what the one before it had under way never ends.
    Start,
}

const ACTS: [Act; 12] = [
    Act::Write,
    Act::SyncBegin,
    Act::SyncEnd,
    Act::Cut,
    Act::Create,
    Act::Rename,
    Act::Unlink,
    Act::MakeDir,
    Act::RemoveDir,
    Act::DirBegin,
    Act::DirEnd,
    Act::Start,
];

/// One operation on a file or a folder.
#[derive(Debug, Clone)]
pub struct Op {
    /// What was done.
    pub act: Act,
    /// The path, relative to the data folder; empty for the folder itself.
    pub path: String,
    /// The new path, if it was renamed.
    other: String,
    offset: usize,
    /// The file's length afterwards.
    size: usize,
    /// Where the written bytes stand in the record.
    data: std::ops::Range<usize>,
    /// Where the operation ends in the record. What was answered by a mark below this was answered before it.
    pub end: u64,
}

/// The record of a process.
#[derive(Debug)]
pub struct Record {
    bytes: Vec<u8>,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

impl Record {
    /// Reads a record about the files of a folder. If the last operation was still being recorded when the
    /// process ended, it is left out.
    pub fn read(path: &Path, root: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path)?;
        let root = root.to_str().context("the data folder has a name")?;
        let (mut ops, mut at) = (Vec::new(), 0);
        while let Some(head) = bytes.get(at..at + HEAD) {
            let small = |from: usize| {
                u32::from_ne_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]) as usize
            };
            let large = |from: usize| small(from) | small(from + 4) << 32;
            let names = at + HEAD;
            let data = names + small(4) + small(8)..names + small(4) + small(8) + large(32);
            if data.end > bytes.len() {
                break;
            }
            let Some(act) = small(0).checked_sub(1).and_then(|act| ACTS.get(act)) else {
                bail!("no operation {}", small(0))
            };
            let name = |from: usize, len: usize| {
                let path = String::from_utf8_lossy(&bytes[from..from + len]).into_owned();
                path.strip_prefix(root)
                    .map(|rest| rest.trim_start_matches('/').to_owned())
                    .unwrap_or_default()
            };
            at = data.end;
            ops.push(Op {
                act: *act,
                path: name(names, small(4)),
                other: name(names + small(4), small(8)),
                offset: large(16),
                size: large(24),
                data,
                end: at as u64,
            });
        }
        Ok(Self { bytes, ops })
    }
}

#[derive(Debug, Clone)]
enum Pending {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// What is not on stable storage, with the number of each operation.
    pending: Vec<(usize, Pending)>,
    /// The file's length as the process sees it.
    len: usize,
    /// The operations at which syncs began that have not ended yet.
    syncing: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, Node),
    Gone(String),
    Renamed(String, String, Node),
}

impl NameChange {
    fn folder(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Gone(name) | Self::Renamed(_, name, _) => parent(name),
        }
    }

    fn make(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Set(name, node) => _ = names.insert(name.clone(), *node),
            Self::Gone(name) => _ = names.remove(name),
            Self::Renamed(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The state of a disk at some operation.
#[derive(Debug, Default)]
pub struct Model {
    inodes: Vec<Inode>,
    seen: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<(usize, NameChange)>,
    dirs_syncing: HashMap<String, Vec<usize>>,
    next: usize,
}

impl Model {
    /// A disk that holds exactly this folder, durably.
    pub fn of(folder: &Path) -> anyhow::Result<Self> {
        let mut model = Self::default();
        model.load(folder, "")?;
        model.durable = model.seen.clone();
        Ok(model)
    }

    fn load(&mut self, folder: &Path, prefix: &str) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().ok().context("names are text")?;
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type()?.is_dir() {
                self.seen.insert(name.clone(), Node::Dir);
                self.load(&entry.path(), &name)?;
            } else if entry.file_type()?.is_file() {
                let bytes = std::fs::read(entry.path())?;
                self.seen.insert(name, Node::File(self.inodes.len()));
                self.inodes.push(Inode { len: bytes.len(), durable: bytes, ..Inode::default() });
            }
        }
        Ok(())
    }

    /// Plays operations until this many have been played.
    pub fn play(&mut self, record: &Record, until: usize) {
        while self.next < until.min(record.ops.len()) {
            self.step(record, &record.ops[self.next]);
            self.next += 1;
        }
    }

    fn file(&mut self, path: &str) -> Option<&mut Inode> {
        match self.seen.get(path) {
            Some(Node::File(inode)) => self.inodes.get_mut(*inode),
            _ => None,
        }
    }

    fn name(&mut self, change: NameChange) {
        change.make(&mut self.seen);
        self.pending.push((self.next, change));
    }

    fn step(&mut self, record: &Record, op: &Op) {
        let (now, path) = (self.next, op.path.as_str());
        match op.act {
            Act::Write => {
                let data = record.bytes[op.data.clone()].to_vec();
                let Some(file) = self.file(path) else { return };
                let end = op.offset + data.len();
                file.grew(now, op.size.max(end));
                file.pending.push((now, Pending::Write { offset: op.offset, data }));
            }
            Act::Cut => {
                let Some(file) = self.file(path) else { return };
                file.len = op.size;
                file.pending.push((now, Pending::Length(op.size)));
            }
            Act::SyncBegin => {
                let Some(file) = self.file(path) else { return };
                file.grew(now, op.size);
                file.syncing.push(now);
            }
            Act::SyncEnd => {
                if let Some(file) = self.file(path) {
                    file.sync();
                }
            }
            Act::Create => {
                self.inodes.push(Inode::default());
                self.name(NameChange::Set(path.to_owned(), Node::File(self.inodes.len() - 1)));
            }
            Act::MakeDir => self.name(NameChange::Set(path.to_owned(), Node::Dir)),
            Act::Unlink | Act::RemoveDir => self.name(NameChange::Gone(path.to_owned())),
            Act::Rename => {
                if let Some(node) = self.seen.get(path).copied() {
                    self.name(NameChange::Renamed(path.to_owned(), op.other.clone(), node));
                }
            }
            Act::Start => {
                self.inodes.iter_mut().for_each(|inode| inode.syncing.clear());
                self.dirs_syncing.clear();
            }
            Act::DirBegin => self.dirs_syncing.entry(path.to_owned()).or_default().push(now),
            Act::DirEnd => {
                let Some(begun) = self.dirs_syncing.get_mut(path).filter(|begun| !begun.is_empty()) else {
                    return;
                };
                let begun = begun.remove(0);
                let (durable, folder) = (&mut self.durable, path);
                self.pending.retain(|(at, change)| {
                    let synced = *at < begun && change.folder() == folder;
                    if synced {
                        change.make(durable);
                    }
                    !synced
                });
            }
        }
    }

    /// How many operations are not on stable storage.
    pub fn unsynced(&self) -> usize {
        self.pending.len() + self.inodes.iter().map(|inode| inode.pending.len()).sum::<usize>()
    }

    /// Writes one of the folders that may be found now.
    pub fn image(&self, target: &Path, rng: &mut ChaCha20Rng) -> anyhow::Result<()> {
        let mut names = self.durable.clone();
        let mut kept: HashMap<&str, bool> = HashMap::new();
        let all = rng.random_range(0..4) == 0;
        for (_, change) in &self.pending {
            let going_on = kept.entry(change.folder()).or_insert(true);
            *going_on = *going_on && (all || rng.random_range(0..3) > 0);
            if *going_on {
                change.make(&mut names);
            }
        }
        for (name, node) in &names {
            // If a folder is not there, neither is what lies in it.
            let is_there = |folder: &str| folder.is_empty() || names.get(folder) == Some(&Node::Dir);
            let folders: Vec<&str> =
                std::iter::successors(Some(parent(name)), |at| (!at.is_empty()).then(|| parent(at)))
                    .collect();
            if !folders.into_iter().all(is_there) {
                continue;
            }
            let path: PathBuf = target.join(name);
            match node {
                Node::Dir => std::fs::create_dir_all(path)?,
                Node::File(inode) => {
                    std::fs::create_dir_all(path.parent().context("it is below the target")?)?;
                    std::fs::write(&path, self.inodes[*inode].after_power_cut(rng))?;
                    // As the relay makes its secret files, because it uses none that others may read.
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                }
            }
        }
        Ok(())
    }
}

impl Inode {
    /// The file is found to be this long, so it was preallocated in between.
    fn grew(&mut self, now: usize, size: usize) {
        if size > self.len {
            self.len = size;
            self.pending.push((now, Pending::Length(size)));
        }
    }

    fn sync(&mut self) {
        if self.syncing.is_empty() {
            return;
        }
        // If there are several, the one that began first: what came after that is not certain to be covered.
        let begun = self.syncing.remove(0);
        let durable = &mut self.durable;
        self.pending.retain(|(at, pending)| {
            if *at <= begun {
                match pending {
                    Pending::Length(len) => durable.resize(*len, 0),
                    Pending::Write { offset, data } => put(durable, *offset, data),
                }
            }
            *at > begun
        });
    }

    fn after_power_cut(&self, rng: &mut ChaCha20Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if self.pending.is_empty() {
            return bytes;
        }
        // 0: nothing of it is there; 1: all of it; 2: a prefix, of which the last write is torn; 3, 4: each
        // sector by itself; 5: the same, and cut somewhere.
        let fate = rng.random_range(0..6);
        let prefix = rng.random_range(0..=self.pending.len());
        for (index, (_, pending)) in self.pending.iter().enumerate() {
            match pending {
                Pending::Length(len)
                    if fate == 1 || (fate == 2 && index < prefix) || (fate > 2 && rng.random()) =>
                {
                    bytes.resize(*len, 0);
                }
                Pending::Length(_) => {}
                Pending::Write { offset, data } => {
                    let torn = if data.is_empty() { 0 } else { rng.random_range(0..data.len()) };
                    for sector in offset / SECTOR..(offset + data.len()).div_ceil(SECTOR) {
                        let from = (sector * SECTOR).max(*offset);
                        let to = ((sector + 1) * SECTOR).min(offset + data.len());
                        let keep = match fate {
                            0 => false,
                            1 => true,
                            2 => index < prefix || (index == prefix && to - offset <= torn),
                            _ => rng.random(),
                        };
                        if keep {
                            put(&mut bytes, from, &data[from - offset..to - offset]);
                        }
                    }
                }
            }
        }
        if fate == 5 && bytes.len() > self.durable.len() {
            bytes.truncate(rng.random_range(self.durable.len()..=bytes.len()));
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}
