//! The relay's clocks. The only place of this program that reads one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::store::Clock;

/// The clocks of the machine, which tests may move on.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
    ahead: Option<watch::Receiver<Duration>>,
}

impl SystemClock {
    /// Starts the steady clock at zero.
    #[allow(clippy::disallowed_methods, reason = "this is the program's clock module")]
    pub fn start() -> Self {
        Self { started: Instant::now(), ahead: None }
    }

    /// Ahead of the machine's clocks by what the channel says, which must not shrink.
    pub fn ahead(by: watch::Receiver<Duration>) -> Self {
        Self { ahead: Some(by), ..Self::start() }
    }

    fn skipped(&self) -> Duration {
        self.ahead.as_ref().map_or(Duration::ZERO, |ahead| *ahead.borrow())
    }

    /// Milliseconds since the start, never stepping.
    pub fn millis(&self) -> u64 {
        (self.started.elapsed() + self.skipped()).as_millis() as u64
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the program's clock module")]
    fn unix_seconds(&self) -> u64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (system + self.skipped()).as_secs()
    }

    fn monotonic_seconds(&self) -> u64 {
        (self.started.elapsed() + self.skipped()).as_secs()
    }
}
