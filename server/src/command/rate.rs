//! Rates: how often something may happen.
//!
//! Owns the arithmetic and the memory of past events; reads no clock (the caller passes milliseconds of a
//! monotonic one) and decides no policy. The algorithm is GCRA: one number per bucket, the theoretical
//! arrival time of the next event.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use parking_lot::Mutex;

/// So many events per period, with a burst. A rate of zero events means "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Microseconds between events at the full rate; 0 = unlimited.
    interval: u64,
    /// Microseconds of credit that may be saved up.
    burst: u64,
}

impl Rate {
    /// No limit.
    pub(crate) const UNLIMITED: Self = Self { interval: 0, burst: 0 };

    /// `events` per `seconds`, of which `burst` (at least one) may come at once.
    pub(crate) fn new(events: u32, seconds: u32, burst: u32) -> Self {
        if events == 0 {
            return Self::UNLIMITED;
        }
        let interval = (u64::from(seconds) * 1_000_000 / u64::from(events)).max(1);
        Self { interval, burst: interval * u64::from(burst.max(1)) }
    }
}

/// The past of one thing that is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Microseconds: when the bucket is full again.
    full_at: u64,
}

impl Bucket {
    /// Takes `cost` events, or tells how many milliseconds to wait for them.
    pub(crate) fn take(&mut self, rate: Rate, cost: u32, now: u64) -> Result<(), u32> {
        let now = now.saturating_mul(1000);
        let after = self.full_at.max(now).saturating_add(rate.interval.saturating_mul(u64::from(cost)));
        // A cost above the burst is let through when the bucket is full, else it could never happen.
        let allowed = now.saturating_add(rate.burst);
        if rate.interval > 0 && after > allowed && self.full_at > now {
            let wait = (after - allowed).min(self.full_at - now).div_ceil(1000);
            return Err(u32::try_from(wait).unwrap_or(u32::MAX));
        }
        if rate.interval > 0 {
            self.full_at = after;
        }
        Ok(())
    }

    /// Takes `cost` events even if there is no room; `false` once the debt is as large as the burst.
    pub(crate) fn owe(&mut self, rate: Rate, cost: u32, now: u64) -> bool {
        let now = now.saturating_mul(1000);
        self.full_at = self.full_at.max(now).saturating_add(rate.interval.saturating_mul(u64::from(cost)));
        self.full_at <= now.saturating_add(rate.burst.saturating_mul(2))
    }

    fn is_full(&self, now: u64) -> bool {
        self.full_at <= now.saturating_mul(1000)
    }
}

/// Many buckets, by key. Holds a keyed hash of each key, never the key, and a bounded number of them.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: Rate,
    most: usize,
    hasher: RandomState,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    buckets: HashMap<u64, Bucket>,
    /// Steady milliseconds from which on it is worth while to look for full buckets again.
    look_at: u64,
}

/// Milliseconds between two searches for buckets that can be forgotten: each looks at all of them.
const SEARCH: u64 = 1000;

impl Buckets {
    /// Buckets of one rate, at most `most` of them.
    pub(crate) fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, hasher: RandomState::new(), held: Mutex::default() }
    }

    /// Takes one event of `key`, or tells how many milliseconds to wait. When too many keys are being limited
    /// at once, new ones have to wait too: memory is bounded, and forgetting the others would lift their
    /// limit.
    pub(crate) fn take(&self, key: impl Hash, now: u64) -> Result<(), u32> {
        self.take_some(key, 1, now)
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.held.lock().buckets.len()
    }

    /// The same for `cost` events.
    pub(crate) fn take_some(&self, key: impl Hash, cost: u32, now: u64) -> Result<(), u32> {
        self.change(key, now, |bucket| bucket.take(self.rate, cost, now)).unwrap_or_else(Err)
    }

    /// Takes `cost` events even if there is no room. When too many keys are being limited at once, nothing is
    /// noted of another, which has to wait anyway.
    pub(crate) fn owe(&self, key: impl Hash, cost: u32, now: u64) {
        let _ = self.change(key, now, |bucket| bucket.owe(self.rate, cost, now));
    }

    /// Changes the bucket of `key`, or tells how many milliseconds to wait until there is room for one.
    fn change<T>(&self, key: impl Hash, now: u64, change: impl FnOnce(&mut Bucket) -> T) -> Result<T, u32> {
        if self.rate == Rate::UNLIMITED {
            return Ok(change(&mut Bucket::default()));
        }
        let key = self.hasher.hash_one(key);
        let mut held = self.held.lock();
        let Held { buckets, look_at } = &mut *held;
        if buckets.len() >= self.most && !buckets.contains_key(&key) {
            if now >= *look_at {
                buckets.retain(|_, bucket| !bucket.is_full(now));
                *look_at = now + SEARCH;
            }
            if buckets.len() >= self.most {
                return Err(SEARCH as u32);
            }
        }
        Ok(change(buckets.entry(key).or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, 1, 5);
        let mut bucket = Bucket::default();
        for _ in 0..5 {
            assert_eq!(bucket.take(rate, 1, 0), Ok(()));
        }
        assert_eq!(bucket.take(rate, 1, 0), Err(100));
        assert_eq!(bucket.take(rate, 1, 99), Err(1));
        assert_eq!(bucket.take(rate, 1, 100), Ok(()));
        assert_eq!(bucket.take(rate, 1, 100), Err(100));
        assert_eq!(
            bucket.take(rate, 100, 10_000),
            Ok(()),
            "a full bucket lets even a large cost through, once"
        );
        assert!(bucket.take(rate, 1, 10_000).is_err());
    }

    #[test]
    fn debt_has_an_end() {
        let rate = Rate::new(10, 1, 2);
        let mut bucket = Bucket::default();
        assert!((0..4).all(|_| bucket.owe(rate, 1, 0)));
        assert!(!bucket.owe(rate, 1, 0));
        assert!(Bucket::default().owe(Rate::UNLIMITED, 1_000_000, 0));
    }

    #[test]
    fn keys_are_separate_and_bounded() {
        let buckets = Buckets::new(Rate::new(1, 1, 1), 2);
        assert_eq!(buckets.take("a", 0), Ok(()));
        assert_eq!(buckets.take("a", 0), Err(1000));
        assert_eq!(buckets.take("b", 0), Ok(()));
        assert!(buckets.take("c", 0).is_err(), "no room for a third");
        assert_eq!(buckets.take("c", 1000), Ok(()), "the others have recovered and are forgotten");
        assert_eq!(buckets.take("d", 1500), Ok(()));
        assert!(buckets.take("e", 2100).is_ok(), "c has recovered");
        assert!(buckets.take("f", 2600).is_err(), "d has recovered, but nobody looks again so soon");
        assert!(buckets.take("f", 3100).is_ok());
    }
}
