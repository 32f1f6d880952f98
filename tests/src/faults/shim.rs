//! The shim: a small C library that is preloaded into the relay, records what the process does to the files
//! of its data folder, and makes some of it fail (`shim.c`, which describes the format). It sees what the
//! process really does, sled included. It needs a C compiler, and a relay that is linked dynamically.
//!
//! Owns the compiled library, the record and the page of controls. Never touches the relay's own files.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::relay::RelayProgram;

/// The error number of Linux for what may work later, such as another thread.
pub const EAGAIN: u32 = 11;
/// The error number for no buffers.
pub const ENOBUFS: u32 = 105;
/// The error number for an I/O error.
pub const EIO: u32 = 5;
/// The error number for no memory.
pub const ENOMEM: u32 = 12;
/// The error number for too many open files on the machine.
pub const ENFILE: u32 = 23;
/// The error number for too many open files of the process.
pub const EMFILE: u32 = 24;
/// The error number for no space left on the device.
pub const ENOSPC: u32 = 28;
/// The error number for a read-only file system.
pub const EROFS: u32 = 30;

/// The numbers in the page of controls, by their place there.
#[derive(Debug, Clone, Copy)]
enum Control {
    FailSyncIn = 0,
    WriteErrno = 4,
    SyncMicros = 8,
    Syncs = 12,
    Failed = 16,
    OpenErrno = 20,
    FailFolderSyncIn = 24,
    Denied = 28,
    DeniedErrno = 32,
    DeniedTimes = 36,
}

/// Calls in which the kernel may say that something has run out; the bits of `shim.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls(u32);

#[allow(missing_docs, reason = "shim.c says what each is")]
impl Calls {
    pub const NONE: Self = Self(0);
    pub const OPENS: Self = Self(1);
    pub const READS: Self = Self(1 << 1);
    pub const WRITES: Self = Self(1 << 2);
    pub const SYNCS: Self = Self(1 << 3);
    pub const CUTS: Self = Self(1 << 4);
    pub const RENAMES: Self = Self(1 << 5);
    pub const UNLINKS: Self = Self(1 << 6);
    pub const MAKES: Self = Self(1 << 7);
    pub const LISTS: Self = Self(1 << 8);
    pub const LOOKS: Self = Self(1 << 9);
    pub const DOUBLES: Self = Self(1 << 10);
    pub const ACCEPTS: Self = Self(1 << 11);
    pub const WATCHES: Self = Self(1 << 12);
    pub const RECEIVES: Self = Self(1 << 13);
    pub const SENDS: Self = Self(1 << 14);
    pub const THREADS: Self = Self(1 << 15);
    pub const SOCKETS: Self = Self(1 << 16);
    pub const EVENTS: Self = Self(1 << 17);
}

/// One relay's shim.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
    controls: File,
}

impl Shim {
    /// Compiles the library.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = folder.path().join("shim.c");
        std::fs::write(&source, include_str!("shim.c"))?;
        let mut cc = std::process::Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(folder.path().join("shim.so")).arg(&source);
        let output = cc.args(["-ldl", "-lpthread"]).output().context("there is no C compiler")?;
        ensure!(
            output.status.success(),
            "the shim does not compile: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut open = OpenOptions::new();
        let controls =
            open.read(true).write(true).create(true).truncate(false).open(folder.path().join("controls"))?;
        controls.set_len(4096)?;
        Ok(Self { folder, controls })
    }

    /// How to start a relay under the shim, which watches this data folder.
    pub fn program(&self, relay: &Path, data: &Path) -> RelayProgram {
        let set = |name: &str, value: &Path| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        let first = vec![
            set("LD_PRELOAD", &self.folder.path().join("shim.so")),
            set("POSTHORN_SHIM_ROOT", data),
            set("POSTHORN_SHIM_LOG", &self.record()),
            set("POSTHORN_SHIM_CONTROL", &self.folder.path().join("controls")),
            relay.into(),
        ];
        // `env` becomes the relay, so it is the relay that is killed.
        RelayProgram { program: "/usr/bin/env".into(), first }
    }

    /// The path of the record.
    pub fn record(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    /// A function that says how long the record is, which marks answers.
    pub fn mark(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let record = self.record();
        move || std::fs::metadata(&record).map_or(0, |metadata| metadata.len())
    }

    fn set(&self, control: Control, value: u32) -> anyhow::Result<()> {
        Ok(self.controls.write_all_at(&value.to_ne_bytes(), control as u64)?)
    }

    fn get(&self, control: Control) -> anyhow::Result<u32> {
        let mut bytes = [0; 4];
        self.controls.read_exact_at(&mut bytes, control as u64)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Makes the `n`-th sync of a file from now fail without doing anything; none if `n` is 0.
    pub fn fail_sync_in(&self, n: u32) -> anyhow::Result<()> {
        self.set(Control::FailSyncIn, n)
    }

    /// Makes the `n`-th sync of a folder from now fail without doing anything; none if `n` is 0.
    pub fn fail_folder_sync_in(&self, n: u32) -> anyhow::Result<()> {
        self.set(Control::FailFolderSyncIn, n)
    }

    /// Makes everything that changes a file fail with this error number; nothing if it is 0.
    pub fn fail_writes(&self, errno: u32) -> anyhow::Result<()> {
        self.set(Control::WriteErrno, errno)
    }

    /// Makes every opening of a file fail with this error number; none if it is 0.
    pub fn fail_opens(&self, errno: u32) -> anyhow::Result<()> {
        self.set(Control::OpenErrno, errno)
    }

    /// Makes these calls fail with this error number, so many times; until it is said otherwise if that is
    /// `u32::MAX`.
    pub fn deny(&self, calls: Calls, errno: u32, times: u32) -> anyhow::Result<()> {
        // What counts down comes last, and is nothing while the rest changes.
        self.set(Control::DeniedTimes, 0)?;
        self.set(Control::Denied, calls.0)?;
        self.set(Control::DeniedErrno, errno)?;
        self.set(Control::DeniedTimes, times)
    }

    /// Makes every sync take this much longer.
    pub fn slow_syncs(&self, micros: u32) -> anyhow::Result<()> {
        self.set(Control::SyncMicros, micros)
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> anyhow::Result<u32> {
        self.get(Control::Syncs)
    }

    /// How many operations were made to fail.
    pub fn failed(&self) -> anyhow::Result<u32> {
        self.get(Control::Failed)
    }
}
