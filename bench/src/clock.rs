//! The load generator's only clock.

use std::time::Instant;

/// Now, on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this program's clock module; it measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
