//! The one place where the client library reads the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix milliseconds.
#[allow(
    clippy::disallowed_methods,
    reason = "the driver passes the time into the engine; this is where it comes from"
)]
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}
