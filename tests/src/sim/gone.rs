//! A relay that is gone for days, with a conversation that people of two relays have there. Those whose
//! own relay answers go on elsewhere by themselves; and when it comes back, after days or after weeks, as it
//! was or as an older copy, everybody is together again and has what was said, once.
//!
//! Who is at the relay that is gone cannot be reached meanwhile; one of the others may be away, too.

use posthorn_client::conversation::ConversationState;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::repair::{DAY, Healed, NAMES, Story, start_at};
use super::world::{World, relay_url};

/// Time passes by so much at once, milliseconds: while devices find that the relay is gone, and later.
const LEAP: u64 = 10 * 60_000;
const LONG_LEAP: u64 = 2 * 60 * 60_000;
/// In so much time what is under way arrives, milliseconds.
const ARRIVES: u64 = 20_000;
/// By then, those who can have gone on elsewhere.
const GONE_ON_WITHIN: u64 = 4 * DAY;

/// Plays it.
pub fn gone(seed: u64) -> Result<Healed, String> {
    let mut world = World::new(seed);
    let mut rng = StdRng::seed_from_u64(world.rng.next_u64());
    let dies = world.add_relay();
    let count = rng.random_range(2..=5);
    // Who begins the conversation, and so where it is, is at the relay that dies; somebody is not.
    let homes: Vec<usize> = (0..count)
        .map(|device| {
            if device == 0 {
                dies
            } else if device == 1 {
                0
            } else {
                rng.random_range(0..2)
            }
        })
        .collect();
    let group = start_at(&mut world, &homes)?;
    let mut story = Story::new(world, rng, group, count);
    story.go_on("at the beginning")?;
    for _ in 0..3 {
        story.talk(3);
    }
    story.go_on("before it is gone")?;
    let here: Vec<usize> = (0..count).filter(|device| homes[*device] != dies).collect();
    let old_copy = story.rng.random_bool(0.4);
    if old_copy {
        story.world.keep_relay(dies);
        story.talk(3);
        story.world.run(300);
    }
    let away = (here.len() > 1 && story.rng.random_bool(0.4)).then(|| here[here.len() - 1]);
    let days = if story.rng.random_bool(0.3) { 40 } else { story.rng.random_range(5..12) };
    story.log.push(format!("homes {homes:?}, {days} days, away {away:?}, an older copy: {old_copy}"));
    story.world.kill_relay(dies);
    if let Some(device) = away {
        story.world.go_away(device);
    }
    let since = story.world.now;
    story.healed.troubles += 1;
    story.talk(2);
    let stay: Vec<usize> = here.iter().copied().filter(|device| Some(*device) != away).collect();
    story.wait_until(since + GONE_ON_WITHIN, LEAP);
    story.are_elsewhere(&stay).map_err(|error| format!("{error}; {:?}", story.log))?;
    story.healed.longest = (story.world.now - since) / 1000;
    story.talk(4);
    story.wait_until(since + days * DAY, LONG_LEAP);
    if days > 30 {
        // What is older than anything is kept for, or said again, is for those who have it.
        story.sent.iter_mut().for_each(|sent| sent.not_for.extend(0..count));
    }
    if old_copy {
        story.world.restore_relay(dies);
    }
    story.world.revive_relay(dies);
    if let Some(device) = away {
        story.world.come_back(device);
    }
    story.talk(3);
    story.go_on("it is back").map_err(|error| format!("{error}; {:?}", story.log))?;
    story.talk(3);
    story.go_on("at the end").map_err(|error| format!("{error}; {:?}", story.log))?;
    story.everything_is_there().map_err(|error| format!("{error}; {:?}", story.log))?;
    story.world.watch.verdict()?;
    Ok(story.healed)
}

impl Story {
    /// Lets time pass, in leaps, and after each some seconds in which what is under way arrives: whoever
    /// cannot reach its relay tries every few minutes, which changes nothing.
    fn wait_until(&mut self, at: u64, leap: u64) {
        while self.world.now < at {
            self.world.wait(leap.min(at - self.world.now));
            let until = self.world.now + ARRIVES;
            while self.world.now < until {
                self.world.step();
            }
        }
    }

    /// These people go on, in one epoch, at a relay that is there.
    fn are_elsewhere(&mut self, who: &[usize]) -> Result<(), String> {
        let group = self.group;
        let mut seen = Vec::new();
        for device in who {
            let all = self.world.conversations(*device).into_iter();
            let all: Vec<_> = all.filter(|one| one.group == group).collect();
            let [one] = &all[..] else {
                return Err(format!("{} has it {} times", NAMES[*device], all.len()));
            };
            if one.state != ConversationState::Active || one.relay != relay_url(0).to_string() {
                return Err(format!("{} does not go on: {:?} at {}", NAMES[*device], one.state, one.relay));
            }
            seen.push(one.epoch);
        }
        if seen.windows(2).all(|two| two[0] == two[1]) { Ok(()) } else { Err(format!("in epochs {seen:?}")) }
    }
}
