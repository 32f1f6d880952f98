//! The one place where the client library reads the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// The last moment that there is, unix milliseconds: in the year 285,000.
const LAST: u64 = 1 << 53;

/// The time that a client goes by: the machine's, which tests may move on.
#[derive(Clone, Debug)]
pub struct Clock {
    ahead: watch::Receiver<Duration>,
}

impl Clock {
    /// The machine's time.
    pub fn system() -> Self {
        Self::ahead(watch::channel(Duration::ZERO).1)
    }

    /// Ahead of the machine's time by what the channel says. When that grows, the client does at once what is
    /// due by then.
    pub fn ahead(by: watch::Receiver<Duration>) -> Self {
        Self { ahead: by }
    }

    /// Unix milliseconds.
    #[allow(
        clippy::disallowed_methods,
        reason = "the driver passes the time into the engine; this is where it comes from"
    )]
    pub(super) fn now(&self) -> u64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = system.saturating_add(*self.ahead.borrow()).as_millis();
        u64::try_from(now).map_or(LAST, |now| now.min(LAST))
    }

    /// Resolves when it was moved on; never, if nobody can.
    pub(super) async fn moved(&mut self) {
        if self.ahead.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_moved_on_without_end() {
        assert_eq!(Clock::ahead(watch::channel(Duration::MAX).1).now(), LAST);
    }
}
