//! The one place where this program reads the clock, and how it writes times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

/// Unix milliseconds.
#[allow(clippy::disallowed_methods, reason = "a program has to read the clock somewhere; this is where")]
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// The zone of this machine.
pub(crate) fn local_zone() -> TimeZone {
    TimeZone::system()
}

fn zoned(ms: u64, zone: &TimeZone) -> ZonedDateTime {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(Timestamp::UNIX_EPOCH).to_zoned_datetime(zone.clone())
}

/// `14:03`.
pub(crate) fn time_of_day(ms: u64, zone: &TimeZone) -> String {
    zoned(ms, zone).strftime("%H:%M").to_string()
}

/// `2026-11-23 14:03`.
pub(crate) fn date_and_time(ms: u64, zone: &TimeZone) -> String {
    zoned(ms, zone).strftime("%Y-%m-%d %H:%M").to_string()
}

/// `Monday, 23 November 2026`.
pub(crate) fn day(ms: u64, zone: &TimeZone) -> String {
    zoned(ms, zone).strftime("%A, %-d %B %Y").to_string()
}

/// The shortest that tells it apart in a list: the time today, else the day.
pub(crate) fn short(ms: u64, now: u64, zone: &TimeZone) -> String {
    let (then, now) = (zoned(ms, zone), zoned(now, zone));
    if then.date() == now.date() {
        then.strftime("%H:%M").to_string()
    } else if then.year() == now.year() {
        then.strftime("%-d %b").to_string()
    } else {
        then.strftime("%Y").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_392_180_123;

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(time_of_day(NOW, &TimeZone::UTC), "00:03");
        assert_eq!(day(NOW, &TimeZone::UTC), "Monday, 23 November 2026");
        assert_eq!(date_and_time(NOW, &TimeZone::UTC), "2026-11-23 00:03");
        assert_eq!(short(NOW, NOW, &TimeZone::UTC), "00:03");
        assert_eq!(short(NOW - 86_400_000, NOW, &TimeZone::UTC), "22 Nov");
        assert_eq!(short(0, NOW, &TimeZone::UTC), "1970");
    }

    #[test]
    fn an_impossible_time_is_no_panic() {
        assert_eq!(date_and_time(u64::MAX, &TimeZone::UTC), "1970-01-01 00:00");
    }
}
