//! The relay's clocks. The only place of this program that reads one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::store::Clock;

/// The clocks of the machine, which tests may move on.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Duration,
    ahead: Option<watch::Receiver<Duration>>,
}

impl SystemClock {
    /// Starts the steady clock at zero.
    pub fn start() -> Self {
        Self { started: steady(), ahead: None }
    }

    /// Ahead of the machine's clocks by what the channel says, which must not shrink.
    pub fn ahead(by: watch::Receiver<Duration>) -> Self {
        Self { ahead: Some(by), ..Self::start() }
    }

    /// Since the start, never stepping.
    fn elapsed(&self) -> Duration {
        steady().saturating_sub(self.started) + self.skipped()
    }

    fn skipped(&self) -> Duration {
        self.ahead.as_ref().map_or(Duration::ZERO, |ahead| *ahead.borrow())
    }

    /// Milliseconds since the start, never stepping.
    pub fn millis(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}

/// The clock that never steps. It counts the time that the machine sleeps, too, where there is one that does:
/// else waking up would look like a jump of the wall clock.
fn steady() -> Duration {
    #[cfg(target_os = "linux")]
    const STEADY: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const STEADY: ClockId = ClockId::Monotonic;
    let now = clock_gettime(STEADY);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the program's clock module")]
    fn unix_seconds(&self) -> u64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (system + self.skipped()).as_secs()
    }

    fn monotonic_seconds(&self) -> u64 {
        self.elapsed().as_secs()
    }
}
