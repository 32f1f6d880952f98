//! What time it is: whether the clock can be believed (rule 20), and by which time post ids are judged (rule
//! 2). Both engines ask once a batch.

/// The relay's clock. Only the engines read it, once a batch; replay reads none.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, in unix seconds.
    fn unix_seconds(&self) -> u64;
    /// Seconds since some fixed point, on a clock that never steps, so that jumps of the other are noticed.
    /// It should count the time that the machine sleeps (`CLOCK_BOOTTIME`), or else waking up looks like a
    /// jump.
    fn monotonic_seconds(&self) -> u64;
}

/// A jump, in seconds: what the wall clock may at most stray from the steady one, and may at most be behind
/// the newest record at start. Clocks that are only corrected a little stay well below it.
const JUMP_SECONDS: u64 = 3600;
/// How long the relay may have been off, in seconds: at start a wall clock up to this far after the newest
/// record is believed.
pub(crate) const OFF_SECONDS: u64 = 7 * 24 * 3600;

/// How long after the start a step of the wall clock is judged as a start is, in seconds: boards without a
/// clock of their own begin with the time of the shutdown, and are set right once the network is there.
const YOUNG_SECONDS: u64 = 15 * 60;
/// How long a clock that had stepped must agree with the steady one again to be believed, in seconds.
const HEALED_SECONDS: u64 = 10 * 60;

/// Compares the wall clock with the steady one. A jump pauses expiry until the clock agrees with the steady
/// one again for a while, or the operator confirms it; until then records are stamped with the time that it
/// would be without the jump. Pure: the readings of both clocks are parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockGuard {
    /// The wall time that was believed last, when the steady clock showed `steady`.
    wall: u64,
    steady: u64,
    /// The steady clock at the start, and the time of the newest record then.
    started: u64,
    latest: u64,
    doubt: Option<Doubt>,
}

/// Why the wall clock is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It was too far after the newest record at the start: only the operator can know.
    Far,
    /// It stepped, or stood before the newest record at the start. It agrees with the steady clock since
    /// then, if it does.
    Stepped { agrees_since: Option<u64> },
}

impl ClockGuard {
    /// At start: the clocks' readings and the time of the newest record (0 = none), all in seconds.
    pub(crate) fn new(wall: u64, steady: u64, latest: u64) -> Self {
        let is_behind = wall + JUMP_SECONDS < latest;
        let is_far = latest > 0 && wall > latest + OFF_SECONDS;
        // A wall clock behind the records is certainly wrong. One ahead of them is more likely right than
        // not, and a stamp that is too late only keeps an envelope too long, whereas one that is too early
        // would lose it.
        let doubt = match (is_far, is_behind) {
            (true, _) => Some(Doubt::Far),
            (_, true) => Some(Doubt::Stepped { agrees_since: None }),
            _ => None,
        };
        let latest = if latest == 0 { wall } else { latest };
        Self { wall: wall.max(latest), steady, started: steady, latest, doubt }
    }

    /// The time to stamp records with, unix seconds. Notices jumps. Small corrections are followed, however
    /// many there are: only one step of over an hour counts.
    pub(crate) fn now(&mut self, wall: u64, steady: u64) -> u64 {
        let expected = self.wall + steady.saturating_sub(self.steady);
        let stepped = wall.abs_diff(expected) > JUMP_SECONDS;
        if stepped && self.is_set_right(wall, steady) {
            return self.believe(wall, steady);
        }
        match &mut self.doubt {
            None if stepped => self.doubt = Some(Doubt::Stepped { agrees_since: None }),
            None => return self.believe(wall, steady),
            Some(Doubt::Far) => {}
            Some(Doubt::Stepped { agrees_since }) if stepped => *agrees_since = None,
            Some(Doubt::Stepped { agrees_since }) => {
                let since = *agrees_since.get_or_insert(steady);
                if steady.saturating_sub(since) >= HEALED_SECONDS {
                    return self.believe(wall, steady);
                }
            }
        }
        expected
    }

    /// Whether a step is a clock that is set right soon after the start, to what would have been believed
    /// then.
    fn is_set_right(&self, wall: u64, steady: u64) -> bool {
        let age = steady.saturating_sub(self.started);
        let plausible = self.latest.saturating_sub(JUMP_SECONDS)..=self.latest + OFF_SECONDS + age;
        age <= YOUNG_SECONDS && plausible.contains(&wall)
    }

    fn believe(&mut self, wall: u64, steady: u64) -> u64 {
        (self.wall, self.steady, self.doubt) = (wall, steady, None);
        wall
    }

    /// Whether expiry is paused.
    pub(crate) fn paused(&self) -> bool {
        self.doubt.is_some()
    }

    /// The operator vouches for the wall clock.
    pub(crate) fn confirm(&mut self, wall: u64, steady: u64) {
        self.latest = wall;
        self.believe(wall, steady);
    }
}

/// The time by which post ids are judged. It never goes back, so that what is no longer of now never is
/// again, and its memory may go. When the guarded clock goes back, this one goes on at half the speed until
/// the other has caught up: clients follow, and forgetting goes on. While the clock is in doubt it goes on by
/// itself: followed to a time that is decades ahead, it would stay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PostClock {
    /// What it showed when the steady clock showed `steady`.
    at: u64,
    steady: u64,
}

impl PostClock {
    fn now(&mut self, guarded: u64, is_doubted: bool, steady: u64) -> u64 {
        let passed = steady.saturating_sub(self.steady);
        let half = passed / 2;
        if is_doubted {
            *self = Self { at: self.at + passed, steady };
        } else if guarded >= self.at + half {
            *self = Self { at: guarded, steady };
        } else {
            // What was too little to count as a second counts the next time.
            *self = Self { at: self.at + half, steady: self.steady + 2 * half };
        }
        self.at
    }
}

/// What time it is for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// The guarded clock, by which records are stamped, unix seconds.
    pub(crate) time: u64,
    /// The time by which post ids are judged, unix seconds.
    pub(crate) posts: u64,
    /// Whether expiry is paused, because the clock is in doubt.
    pub(crate) paused: bool,
}

#[cfg(test)]
impl From<u64> for Now {
    fn from(time: u64) -> Self {
        Self { time, posts: time, paused: false }
    }
}

/// The clocks of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    guard: ClockGuard,
    posts: PostClock,
}

impl Clocks {
    /// At start: the clocks' readings, the time of the newest record (0 = none), and what the clock of post
    /// ids is known to have shown, all in seconds.
    pub(crate) fn new(wall: u64, steady: u64, latest: u64, posts: u64) -> Self {
        let guard = ClockGuard::new(wall, steady, latest);
        // What was never shown cannot be gone on from. Of two times that differ, the earlier one is taken: it
        // can be followed to the later.
        let at = if posts == 0 && guard.paused() { wall.min(latest) } else { posts };
        Self { guard, posts: PostClock { at, steady } }
    }

    /// What time it is. Notices jumps.
    pub(crate) fn now(&mut self, wall: u64, steady: u64) -> Now {
        let time = self.guard.now(wall, steady);
        let paused = self.guard.paused();
        Now { time, posts: self.posts.now(time, paused, steady), paused }
    }

    /// The operator vouches for the wall clock.
    pub(crate) fn confirm(&mut self, wall: u64, steady: u64) -> Now {
        self.guard.confirm(wall, steady);
        self.now(wall, steady)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_post_ids_never_goes_back_and_never_stands_still() {
        let mut clocks = Clocks::new(NOW, 0, NOW, NOW - 500);
        assert_eq!(clocks.now(NOW, 0), Now::from(NOW));
        assert_eq!(clocks.now(NOW + 900, 900).posts, NOW + 900);
        // The operator sets it back by a day.
        let mut last = clocks.confirm(NOW + 900 - 86_400, 900).posts;
        assert_eq!(last, NOW + 900);
        for second in 1..=2 * 86_400 {
            let now = clocks.now(NOW + 900 - 86_400 + second, 900 + second);
            assert!((last..=last + 1).contains(&now.posts), "{second}");
            assert_eq!(now.posts, now.time.max(NOW + 900 + second / 2), "{second}");
            last = now.posts;
        }
        assert_eq!(last, NOW + 900 + 86_400, "the other has caught up");
        let ahead = NOW + 900 + 86_400 + 1800;
        assert_eq!(clocks.now(ahead, 900 + 2 * 86_400), Now::from(ahead), "forward it follows at once");
        // A start with a clock that stands before what it had shown.
        let mut clocks = Clocks::new(NOW, 0, 0, NOW + 7200);
        assert_eq!([0, 1, 2, 3600].map(|at| clocks.now(NOW + at, at).posts - NOW), [7200, 7200, 7201, 9000]);
    }

    /// A start with a clock that is wrong by decades, for seconds, must not leave anything behind.
    #[test]
    fn a_doubted_clock_is_not_followed_by_that_of_post_ids() {
        const CENTURY: u64 = 100 * 365 * 86_400;
        let mut clocks = Clocks::new(NOW + CENTURY, 0, NOW - 60, NOW - 600);
        for second in 0..=8 {
            let now = clocks.now(NOW + CENTURY + second, second);
            assert_eq!((now.posts, now.paused), (NOW - 600 + second, true));
        }
        assert_eq!(clocks.now(NOW + 9, 9), Now::from(NOW + 9), "it is set right");
        // What was stamped meanwhile makes the right time look wrong at the next start, until confirmed.
        let mut clocks = Clocks::new(NOW + 60, 0, NOW + CENTURY, NOW + 9);
        let now = clocks.now(NOW + 70, 10);
        assert_eq!((now.posts, now.paused), (NOW + 19, true));
        assert_eq!(clocks.confirm(NOW + 80, 20), Now::from(NOW + 80));
        // Nothing was ever shown.
        for (wall, latest) in [(NOW + CENTURY, NOW), (NOW, NOW + CENTURY)] {
            assert_eq!(Clocks::new(wall, 0, latest, 0).now(wall + 5, 5).posts, NOW + 5);
        }
    }

    const NOW: u64 = 1_800_000_000;
    /// A steady clock that shows that the start was long ago.
    const OLD: u64 = YOUNG_SECONDS + 1;

    #[test]
    fn a_steady_clock_is_believed() {
        let mut guard = ClockGuard::new(NOW, 5, NOW - 60);
        assert_eq!(guard.now(NOW + 1000, 1005), NOW + 1000);
        let later = NOW + 1000 + JUMP_SECONDS;
        assert_eq!(guard.now(later, 1005), later, "an hour is not yet a jump");
        assert!(!guard.paused());
    }

    /// Hosts whose clock is set by small steps, each day one.
    #[test]
    fn small_steps_never_add_up_to_a_jump() {
        let mut guard = ClockGuard::new(NOW, 0, 0);
        for day in 1..1000 {
            let wall = NOW + day * (86_400 + 60);
            assert_eq!(guard.now(wall, day * 86_400), wall);
            assert!(!guard.paused(), "day {day}");
        }
    }

    #[test]
    fn a_jump_pauses_until_confirmed_and_stamps_go_on_as_before() {
        for jumped in [NOW - JUMP_SECONDS - 1, NOW + JUMP_SECONDS + OLD + 1, 0] {
            let mut guard = ClockGuard::new(NOW, 0, 0);
            assert_eq!(guard.now(jumped, OLD), NOW + OLD);
            assert!(guard.paused());
            assert_eq!(guard.now(jumped + 100_000, OLD + 100_000), NOW + OLD + 100_000);
            assert!(guard.paused(), "it stays as far off");
            let steady = OLD + 100_020;
            guard.confirm(jumped + 100_020, steady);
            assert!(!guard.paused());
            assert_eq!(guard.now(jumped + 100_025, steady + 5), jumped + 100_025);
            assert!(!guard.paused());
        }
    }

    #[test]
    fn a_glitch_that_heals_needs_nobody() {
        let mut guard = ClockGuard::new(NOW, 0, 0);
        guard.now(NOW + 100 * 86_400, OLD);
        let mut back = |after: u64| {
            guard.now(NOW + OLD + after, OLD + after);
            guard.paused()
        };
        assert!(back(60) && back(60 + HEALED_SECONDS - 1));
        assert!(!back(60 + HEALED_SECONDS));
        // One that comes and goes is not healed.
        let (start, step) = (OLD + 10_000, HEALED_SECONDS / 2);
        for n in 0..10 {
            let steady = start + n * step;
            let wall = if n % 2 == 0 { 7 } else { NOW + steady };
            assert_eq!(guard.now(wall, steady), NOW + steady);
            assert!(guard.paused(), "{n}");
        }
    }

    /// A board without a clock: it begins with the time of the shutdown, or with none, and is set right when
    /// the network is there.
    #[test]
    fn a_clock_that_is_set_right_after_the_start_is_judged_as_at_a_start() {
        for begins in [NOW, NOW - 100 * 86_400, 0] {
            let mut guard = ClockGuard::new(begins, 50, NOW);
            assert_eq!(guard.paused(), begins != NOW);
            let right = NOW + 86_400;
            assert_eq!(guard.now(right, 50 + 120), right);
            assert!(!guard.paused(), "{begins}");
        }
        // It began far ahead, and is set back.
        let mut guard = ClockGuard::new(NOW + 1000 * 86_400, 0, NOW);
        assert!(guard.paused());
        assert_eq!(guard.now(NOW + 60, 60), NOW + 60);
        assert!(!guard.paused());
        // Not what would not be believed at a start, and not later.
        let mut guard = ClockGuard::new(NOW, 0, NOW);
        guard.now(NOW + OFF_SECONDS + 121, 120);
        assert!(guard.paused());
        let mut guard = ClockGuard::new(NOW, 0, NOW);
        guard.now(NOW + 86_400, OLD);
        assert!(guard.paused());
    }

    #[test]
    fn at_start_the_newest_record_is_the_measure() {
        assert!(!ClockGuard::new(NOW, 0, 0).paused(), "a new store has nothing to compare with");
        assert!(!ClockGuard::new(NOW, 0, NOW - OFF_SECONDS).paused());
        let mut far = ClockGuard::new(NOW, 0, NOW - OFF_SECONDS - 1);
        far.now(NOW + 86_400, 86_400);
        assert!(far.paused(), "that it goes on steadily says nothing of how it began");
        assert!(!ClockGuard::new(NOW, 0, NOW + JUMP_SECONDS).paused());
        let mut behind = ClockGuard::new(NOW, 0, NOW + JUMP_SECONDS + 1);
        assert!(behind.paused());
        assert_eq!(behind.now(NOW, 0), NOW + JUMP_SECONDS + 1, "stamps do not go back");
    }
}
