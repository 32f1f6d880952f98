//! The relay's clocks. The only place of this program that reads one.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::store::Clock;

/// The clocks of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Starts the steady clock at zero.
    #[allow(clippy::disallowed_methods, reason = "this is the program's clock module")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Milliseconds since the start, never stepping.
    pub fn millis(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the program's clock module")]
    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn monotonic_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
