//! The embedded engine: the conformance suite, on a real folder and on a simulated disk that loses power at
//! every restart; and tests of what only this engine has.

mod faults;
mod format;
mod forms;
mod past;
mod pins;
mod told;

use std::path::PathBuf;
use std::sync::Arc;

use posthorn_proto::Incarnation;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::folder::Life;
use super::journal::JournalConfig;
use super::journal::sim::SimDisk;
use super::{EmbeddedConfig, EmbeddedStore, Site};
use crate::store::conformance::{Engine, Opening, Setup, conformance};
use crate::store::{Append, Clock, Directory, Later, Mailboxes, Store, StoreError, Ticket};

/// Sizes so small that every test ends, empties and removes segments.
const SMALL: JournalConfig = JournalConfig { segment_bytes: 4096, step_bytes: 2048, open_files: 2 };

fn config(path: impl Into<PathBuf>, setup: &Setup) -> EmbeddedConfig {
    EmbeddedConfig {
        policy: setup.policy,
        headroom_bytes: 0,
        checkpoint_bytes: 3000,
        ..EmbeddedConfig::new(path)
    }
}

/// A folder in memory if the machine has one: these tests open thousands of stores, and none of them is about
/// the disk.
fn quick_dir() -> tempfile::TempDir {
    let quick = tempfile::tempdir_in("/dev/shm");
    quick.or_else(|_| tempfile::tempdir()).expect("temp dir")
}

/// A real folder with real sizes. The store is closed before each restart.
struct OnFolder {
    dir: tempfile::TempDir,
}

impl OnFolder {
    fn new() -> Self {
        Self { dir: quick_dir() }
    }
}

impl Engine for OnFolder {
    fn open<'a>(&'a mut self, setup: &'a Setup) -> Opening<'a> {
        Box::pin(async move {
            // Checkpoints only at the end: each makes sled write whole segments.
            let config =
                EmbeddedConfig { checkpoint_bytes: 1 << 20, ..config(self.dir.path().join("data"), setup) };
            let (clock, heard) = (setup.clock.clone(), setup.heard.clone());
            let mut rng = StdRng::seed_from_u64(7);
            let open = move || EmbeddedStore::open(&config, clock, heard, &mut rng).expect("opens");
            // A start may wait for its own first command, which no thread of a runtime may.
            let store = std::thread::spawn(open).join().expect("it ran");
            Arc::new(store) as Arc<dyn Store>
        })
    }
}

/// A simulated disk with tiny segments. Every restart is a power cut, and the index may be lost or be of an
/// earlier moment.
struct OnSim {
    disk: SimDisk,
    past: SimDisk,
    index: tempfile::TempDir,
    rng: StdRng,
    restarts: u32,
}

impl OnSim {
    fn new() -> Self {
        let index = quick_dir();
        let (disk, past) = Default::default();
        Self { disk, past, index, rng: StdRng::seed_from_u64(3), restarts: 0 }
    }

    fn path(&self) -> PathBuf {
        self.index.path().join("index")
    }
}

impl Engine for OnSim {
    fn open<'a>(&'a mut self, setup: &'a Setup) -> Opening<'a> {
        Box::pin(async move {
            if self.restarts > 0 {
                self.disk = self.disk.power_cut(&mut self.rng);
                self.past = self.past.power_cut(&mut self.rng);
                if self.rng.random_range(0..3) == 0 {
                    let _ = std::fs::remove_dir_all(self.path());
                }
            }
            self.restarts += 1;
            Arc::new(Unplugged {
                store: open_with((&self.disk, &self.past), Some(self.path()), setup),
                disks: [self.disk.clone(), self.past.clone()],
            }) as Arc<dyn Store>
        })
    }
}

/// On a disk, without a past.
fn open_on(disk: &SimDisk, index: Option<PathBuf>, setup: &Setup) -> EmbeddedStore {
    open_with((disk, &SimDisk::default()), index, setup)
}

fn open_with(disks: (&SimDisk, &SimDisk), index: Option<PathBuf>, setup: &Setup) -> EmbeddedStore {
    open_as(disks, index, false, setup)
}

/// The same; `restored` = as the operator says.
fn open_as(
    (disk, past): (&SimDisk, &SimDisk),
    index: Option<PathBuf>,
    restored: bool,
    setup: &Setup,
) -> EmbeddedStore {
    open_by((disk, past), index, restored, setup, setup.clock.clone())
}

/// The same by a clock of its own.
fn open_by(
    (disk, past): (&SimDisk, &SimDisk),
    index: Option<PathBuf>,
    restored: bool,
    setup: &Setup,
    clock: Arc<dyn Clock>,
) -> EmbeddedStore {
    let life = Life { incarnation: Incarnation([9; 16]), start: 0, is_new: false, is_damaged: false };
    let (disk, past) = (Arc::new(disk.clone()), Arc::new(past.clone()));
    let site = Site { disk, past, slice: 5, index, life, folder: None, restored };
    let mut rng = StdRng::seed_from_u64(11);
    EmbeddedStore::open_at(site, &config("", setup), SMALL, clock, setup.heard.clone(), &mut rng)
        .expect("start-up never fails after a power cut")
}

/// A store that is not closed: when it is dropped, the disk has already stopped.
struct Unplugged {
    store: EmbeddedStore,
    disks: [SimDisk; 2],
}

impl Drop for Unplugged {
    fn drop(&mut self) {
        self.disks.iter().for_each(|disk| disk.stop_after(1));
    }
}

macro_rules! delegate {
    ($role:ident { $($more:tt)* } $($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl crate::store::$role for Unplugged {
            $($more)*
            $(fn $name(&self, $($arg: $type),*) -> crate::store::Later<'_, $answer, crate::store::StoreError> {
                self.store.$name($($arg),*)
            })*
        }
    };
}

delegate! {
    Mailboxes {
        fn posts_time(&self) -> u64 {
            self.store.posts_time()
        }
        fn advance_soon(&self, to: crate::store::Advance) {
            self.store.advance_soon(to);
        }
        fn append_soon(&self, append: Append, ticket: Ticket) -> Option<(Append, Ticket)> {
            self.store.append_soon(append, ticket)
        }
        /// As connections do it: told, and not waiting in the store.
        fn append(&self, append: Append) -> Later<'_, u64, StoreError> {
            Box::pin(async move {
                let (tell, told) = oneshot::channel();
                let ticket = Ticket::new(move |posted| {
                    let _ = tell.send(posted);
                    None
                });
                if let Some((append, ticket)) = self.store.append_soon(append, ticket) {
                    ticket.tell(self.store.append(append).await);
                }
                told.await.unwrap_or(Err(StoreError::Damaged))
            })
        }
    }
    may_create(new: crate::store::NewMailbox) -> bool;
    create(new: crate::store::NewMailbox, spent: crate::store::Spent) -> ();
    may_open(open: crate::store::OpenReader) -> ();
    open(open: crate::store::OpenReader) -> crate::store::ReaderView;
    read(mailbox: posthorn_proto::MailboxId, range: crate::store::ReadRange) -> Vec<crate::store::Stored>;
    advance(to: crate::store::Advance) -> ();
    signal(mailbox: posthorn_proto::MailboxId, post_key: posthorn_proto::KeyHash, payload: bytes::Bytes) -> usize;
    destroy(mailbox: posthorn_proto::MailboxId, turn_key: posthorn_proto::KeyHash) -> ();
}

delegate! {
    Directory {}
    mint_invite(invite: crate::store::NewInvite) -> ();
    register(new: crate::store::NewAccount) -> ();
    remove_account(handle: posthorn_proto::Handle) -> ();
    device(device: posthorn_proto::DeviceId) -> crate::store::DeviceRecord;
    publish_card(device: posthorn_proto::DeviceId, version: u64, card: bytes::Bytes) -> ();
    publish_key_packages(device: posthorn_proto::DeviceId, one_time: Vec<bytes::Bytes>, last_resort: Option<bytes::Bytes>)
        -> crate::store::KeyPackageStock;
    card(handle: posthorn_proto::Handle) -> crate::store::CardRecord;
    take_key_packages(handle: posthorn_proto::Handle) -> Vec<crate::store::TakenKeyPackage>;
    draw_tokens(device: posthorn_proto::DeviceId, purpose: posthorn_proto::frame::TokenPurpose, hashes: Vec<posthorn_proto::KeyHash>)
        -> u32;
    spend(token: posthorn_proto::KeyHash, on: crate::store::SpentOn) -> crate::store::Spent;
    give_back(spent: crate::store::Spent) -> ();
}

delegate! {
    Blobs {}
    may_create_blob(new: crate::store::NewBlob) -> Option<crate::store::BlobView>;
    create_blob(new: crate::store::NewBlob, spent: crate::store::Spent) -> crate::store::BlobView;
    blob(blob: posthorn_proto::BlobId) -> crate::store::BlobView;
    extend_blob(blob: posthorn_proto::BlobId, holder: posthorn_proto::KeyHash, seconds: u32) -> crate::store::BlobView;
    delete_blob(blob: posthorn_proto::BlobId, holder: posthorn_proto::KeyHash) -> ();
}

delegate! {
    Store {
        fn incarnation(&self) -> Incarnation {
            self.store.incarnation()
        }
        fn stats(&self) -> crate::store::Stats {
            self.store.stats()
        }
        fn failed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            self.store.failed()
        }
    }
    renew(next: Incarnation) -> ();
    expire() -> ();
    confirm_clock() -> ();
    close() -> ();
}

mod folder {
    use super::*;
    conformance!(OnFolder::new());
}

mod power_cuts {
    use super::*;
    conformance!(OnSim::new());
}
