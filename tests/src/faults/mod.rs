//! Faults: programs that break a relay on purpose and look at what became of what it had answered.
//! docs/reliability.md tells what each shows and with which figures; `cargo xtask faults` runs them.
//!
//! Reading guide: [`load`] asks a relay for everything that changes something and writes it into the
//! [`book`], which holds the rules by which all programs judge; [`verify`] looks at a relay or at a store.
//! The programs: [`kill`] (SIGKILL at any instant), [`power`] (every image that a disk may leave when the
//! power goes, made from a record of what the process did, [`image`]), [`disk`] (full, failing, read-only),
//! [`corrupt`] (damaged files), [`hostile`] (peers that mean harm, at size), [`soak`] (steady load, flat disk
//! and memory). [`shim`] is what records and fails file operations, preloaded into the relay.
//!
//! Invariant: the relay is the real program in a process of its own. What is random is from a seed that is
//! printed and replays it.

pub mod book;
pub mod corrupt;
pub mod disk;
pub mod hostile;
pub mod image;
pub mod kill;
pub mod load;
pub mod power;
pub mod shim;
pub mod soak;
pub mod verify;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

/// How a program is run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The relay.
    pub relay: PathBuf,
    /// For hours instead of seconds.
    pub long: bool,
    /// Of all randomness.
    pub seed: u64,
    /// How long the soak lasts, if it is said.
    pub minutes: Option<u64>,
}

/// What a program came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Cases that held.
    pub passed: u32,
    /// Cases that did not.
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

    /// Prints a case that this machine cannot show. It counts as nothing.
    pub fn skip(name: &str, why: &str) {
        println!("skip {name}: {why}");
    }
}

/// The time of this program; nothing is decided by it but when to stop.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds, for people.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
