//! The load generator's only clock.

use std::sync::OnceLock;
use std::time::Instant;

/// Now, on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this program's clock module; it measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day, unix seconds: by it a relay that runs here goes, too.
#[allow(clippy::disallowed_methods, reason = "this program's clock module; it measures real time")]
pub(crate) fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Nanoseconds since the first call, as a number that fits into a payload.
pub(crate) fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(now).elapsed().as_nanos() as u64
}
