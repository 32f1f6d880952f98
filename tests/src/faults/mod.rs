//! Faults: programs that break a relay on purpose, and look at what became of what it had answered.
//! docs/reliability.md says what each one shows, with figures; `cargo xtask faults` runs them.
//!
//! Reading guide: [`load`] asks a relay for everything that changes something, and writes that into the
//! [`book`], which holds the rules by which all programs judge; [`verify`] looks at a relay or at a store.
//! The programs are [`kill`] (SIGKILL at any instant), [`power`] (the images that a disk may leave when the
//! power goes, which [`image`] makes from a record of what the process did), [`disk`] (full, failing,
//! read-only), [`descriptors`] (files that do not open), [`memory`] (every call that may say that something
//! has run out), [`corrupt`] (damaged files), [`blobs`] (kills and a full disk while blobs are put),
//! [`hostile`] (peers that mean harm, in large numbers), [`proxy`] (real proxies in front), [`browser`] (a
//! page in real browsers) and [`soak`] (steady load, flat disk and memory). [`shim`], preloaded into the
//! relay, records file operations and makes them fail.
//!
//! Invariant: the relay is the real program, in a process of its own. Whatever is random comes from a seed,
//! which is printed and replays it.

pub mod blobs;
pub mod book;
pub mod browser;
pub mod corrupt;
pub mod descriptors;
pub mod disk;
pub mod hostile;
pub mod image;
pub mod kill;
pub mod load;
pub mod memory;
pub mod power;
pub mod proxy;
pub mod shim;
pub mod soak;
pub mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

/// How a program is run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The relay's program.
    pub relay: PathBuf,
    /// Whether to run for hours instead of seconds.
    pub long: bool,
    /// The seed of everything random.
    pub seed: u64,
    /// How long the soak lasts, if it was said.
    pub minutes: Option<u64>,
}

/// What came of a program.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many cases held.
    pub passed: u32,
    /// How many cases did not.
    pub failed: u32,
}

impl Tally {
    /// Prints and counts a case.
    pub fn count(&mut self, name: &str, outcome: anyhow::Result<String>) {
        match outcome {
            Ok(text) => {
                self.passed += 1;
                println!("ok   {name}: {text}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {error:#}");
            }
        }
    }

    /// Prints how many held. A program of which nothing was played did not pass.
    pub fn end(self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Prints a case that cannot be run on this machine, which counts as neither.
    pub fn skip(name: &str, why: &str) {
        println!("skip {name}: {why}");
    }
}

/// The time now. Nothing is decided by it but when to stop.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A time in milliseconds, for people.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
