//! Whether the clock can be believed (rule 20). Both engines ask it once a batch.

/// A jump, in seconds: what the wall clock may at most stray from the steady one, and may at most be behind
/// the newest record at start. Clocks that are only corrected a little stay well below it.
const JUMP_SECONDS: u64 = 3600;
/// How long the relay may have been off, in seconds: at start a wall clock up to this far after the newest
/// record is believed.
pub(crate) const OFF_SECONDS: u64 = 7 * 24 * 3600;

/// Compares the wall clock with the steady one. A jump pauses expiry until the operator confirms the clock;
/// until then records are stamped with the time that it would be without the jump. Pure: the readings of both
/// clocks are parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockGuard {
    /// The wall time that was believed when the steady clock showed `steady`.
    wall: u64,
    steady: u64,
    paused: bool,
}

impl ClockGuard {
    /// At start: the clocks' readings and the time of the newest record (0 = none), all in seconds.
    pub(crate) fn new(wall: u64, steady: u64, latest: u64) -> Self {
        let back = wall + JUMP_SECONDS < latest;
        let far = latest > 0 && wall > latest + OFF_SECONDS;
        // A wall clock behind the records is certainly wrong. One ahead of them is more likely right than
        // not, and a stamp that is too late only keeps an envelope too long, whereas one that is too early
        // would lose it.
        Self { wall: wall.max(latest), steady, paused: back || far }
    }

    /// The time to stamp records with, unix seconds. Notices jumps.
    pub(crate) fn now(&mut self, wall: u64, steady: u64) -> u64 {
        let expected = self.wall + steady.saturating_sub(self.steady);
        self.paused |= wall.abs_diff(expected) > JUMP_SECONDS;
        if self.paused { expected } else { wall }
    }

    /// Whether expiry is paused until the operator confirms the clock.
    pub(crate) fn paused(&self) -> bool {
        self.paused
    }

    /// The operator vouches for the wall clock.
    pub(crate) fn confirm(&mut self, wall: u64, steady: u64) {
        *self = Self { wall, steady, paused: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_steady_clock_is_believed() {
        let mut guard = ClockGuard::new(NOW, 5, NOW - 60);
        assert_eq!(guard.now(NOW + 1000, 1005), NOW + 1000);
        assert_eq!(
            guard.now(NOW + 1000 + JUMP_SECONDS, 1005),
            NOW + 1000 + JUMP_SECONDS,
            "an hour is not yet a jump"
        );
        assert!(!guard.paused());
    }

    #[test]
    fn a_jump_pauses_until_confirmed_and_stamps_go_on_as_before() {
        for jumped in [NOW - JUMP_SECONDS - 1, NOW + JUMP_SECONDS + 1, 0] {
            let mut guard = ClockGuard::new(NOW, 0, 0);
            assert_eq!(guard.now(jumped, 0), NOW);
            assert!(guard.paused());
            assert_eq!(guard.now(NOW + 10, 10), NOW + 10);
            assert!(guard.paused(), "only the operator ends it");
            guard.confirm(jumped, 20);
            assert!(!guard.paused());
            assert_eq!(guard.now(jumped + 5, 25), jumped + 5);
            assert!(!guard.paused());
        }
    }

    #[test]
    fn at_start_the_newest_record_is_the_measure() {
        assert!(!ClockGuard::new(NOW, 0, 0).paused(), "a new store has nothing to compare with");
        assert!(!ClockGuard::new(NOW, 0, NOW - OFF_SECONDS).paused());
        assert!(ClockGuard::new(NOW, 0, NOW - OFF_SECONDS - 1).paused());
        assert!(!ClockGuard::new(NOW, 0, NOW + JUMP_SECONDS).paused());
        let mut behind = ClockGuard::new(NOW, 0, NOW + JUMP_SECONDS + 1);
        assert!(behind.paused());
        assert_eq!(behind.now(NOW, 0), NOW + JUMP_SECONDS + 1, "stamps do not go back");
    }
}
