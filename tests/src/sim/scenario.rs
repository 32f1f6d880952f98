//! What the people of a simulation do.

use posthorn_client::content::{Said, Text};
use posthorn_client::conversation::{Cause, ConversationState, GroupId};
use posthorn_client::engine::{Command, Who};
use posthorn_proto::Handle;
use rand::Rng as _;

use super::check::{Sent, all_delivered, consistent};
use super::device::Slot;
use super::world::{Faults, World, relay_url};

/// Which story is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Four people talk, add, remove, move and leave while much goes wrong.
    Talk,
    /// Three people commit at the same time, for this many rounds.
    Commits(u32),
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// Steps of the schedule.
    pub steps: u64,
    /// Messages that were compared between devices.
    pub compared: usize,
    /// Seconds that passed in the world.
    pub seconds: u64,
}

/// Plays a scenario. The error says what was not as it must be.
pub fn run(scenario: Scenario, seed: u64) -> Result<Report, String> {
    let mut world = World::new(seed);
    let began = world.now;
    let compared = match scenario {
        Scenario::Talk => talk(&mut world)?,
        Scenario::Commits(rounds) => commits(&mut world, rounds)?,
    };
    Ok(Report { steps: world.steps, compared, seconds: (world.now - began) / 1000 })
}

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn handle(name: &str) -> Handle {
    Handle::parse(name).expect("a handle")
}

pub(super) fn contact(name: &str) -> Who {
    Who::Handle(handle(name))
}

/// A text as it is said.
pub(super) fn text(words: &str) -> Said {
    Said::new(Text::new(words)).expect("is within bounds")
}

/// Makes devices with accounts.
pub(super) fn people(world: &mut World, names: &[&str]) -> Result<(), String> {
    let first: Vec<_> = names.iter().map(|name| (*name, 0)).collect();
    people_at(world, &first)
}

/// Likewise, each at a relay.
pub(super) fn people_at(world: &mut World, names: &[(&str, usize)]) -> Result<(), String> {
    for (name, relay) in names {
        let device = world.add_device(name);
        let slot = world.command(device, |reply| Command::Register {
            relay: relay_url(*relay),
            handle: handle(name),
            invite: String::new(),
            reply,
        });
        world.answered(device, &slot)?.map_err(|error| format!("{name} cannot register: {error}"))?;
    }
    Ok(())
}

/// Starts a conversation of the first with the others, and waits until it stands.
pub(super) fn start(world: &mut World, name: &str, others: &[&str]) -> Result<GroupId, String> {
    let members = others.iter().map(|other| contact(other)).collect();
    start_with(world, name, members)
}

/// Likewise with people of any relays.
pub(super) fn start_with(world: &mut World, name: &str, members: Vec<Who>) -> Result<GroupId, String> {
    let name = name.to_owned();
    let slot = world.command(0, |reply| Command::Start { id: None, name, members, again: true, reply });
    match world.answered(0, &slot)? {
        Ok(conversation) => {
            world.settle()?;
            let all = world.conversations(0);
            let found = all.into_iter().find(|one| one.id == conversation);
            found.map(|one| one.group).ok_or("the conversation is not there".to_owned())
        }
        Err(error) => Err(format!("the conversation did not start: {error}")),
    }
}

/// Says something; whether it could be said.
pub(super) fn say(world: &mut World, device: usize, group: GroupId, words: &str) -> Result<(), String> {
    let name = world.devices[device].name.clone();
    let conversation =
        world.local(device, group).ok_or_else(|| format!("{name} is not in the conversation"))?;
    let said = text(words);
    let result = world.ask(device, |reply| Command::Send { conversation, id: None, said, reply });
    result.map(drop).map_err(|error| format!("{name} cannot say {words:?}: {error}"))
}

/// Wants somebody added. The answer comes when it is true.
pub(super) fn add(world: &mut World, device: usize, group: GroupId, other: &str) -> Option<Slot<()>> {
    let conversation = world.local(device, group)?;
    let members = vec![contact(other)];
    Some(world.command(device, |reply| Command::Add { conversation, members, reply }))
}

/// Wants somebody removed, likewise.
pub(super) fn remove(world: &mut World, device: usize, group: GroupId, other: &str) -> Option<Slot<()>> {
    let conversation = world.local(device, group)?;
    let person = world.person(other);
    Some(world.command(device, |reply| Command::Remove { conversation, person, reply }))
}

/// Wants the conversation moved, likewise.
pub(super) fn move_here(world: &mut World, device: usize, group: GroupId) -> Option<Slot<()>> {
    let conversation = world.local(device, group)?;
    Some(world.command(device, |reply| Command::Move { conversation, relay: None, reply }))
}

fn talk(world: &mut World) -> Result<usize, String> {
    world.is_skewed = true;
    people(world, &NAMES)?;
    let conversation = start(world, "garden", &NAMES[1..3])?;
    world.faults = Faults::MANY;
    let mut sent: Vec<Sent> = Vec::new();
    for round in 0..100 {
        for _ in 0..world.rng.random_range(0..40) {
            world.step();
        }
        act(world, conversation, round, &mut sent);
    }
    world.settle()?;
    // Who was away while it was removed, or invited and removed again, learns it from the relay.
    let expected = [Cause::CannotAdd, Cause::Evicted, Cause::ReadKeyRefused, Cause::ClockWrong];
    let unexpected = world.unexpected_alarms(&expected);
    if !unexpected.is_empty() {
        return Err(format!("alarms without a cause: {unexpected:?}"));
    }
    consistent(world, &sent)
}

/// Somebody does something. What is refused because of what happened before is no failure.
fn act(world: &mut World, group: GroupId, round: u32, sent: &mut Vec<Sent>) {
    let device = world.rng.random_range(0..NAMES.len());
    let other = NAMES[world.rng.random_range(0..NAMES.len())];
    match world.rng.random_range(0..20) {
        0..14 => {
            let words = format!("{} says {round} – grüße 👋", NAMES[device]);
            if say(world, device, group, &words).is_ok() {
                sent.push((device, group, words));
            }
        }
        14..16 => drop(add(world, device, group, other)),
        // Somebody always stays, so that there is something to compare.
        16 if other != NAMES[0] => drop(remove(world, device, group, other)),
        18 => drop(move_here(world, device, group)),
        17 if device != 0 => {
            if let Some(conversation) = world.local(device, group) {
                world.command(device, |reply| Command::Leave(conversation, reply));
            }
        }
        _ => {
            if let Some(conversation) = world.local(device, group) {
                world.command(device, |reply| Command::MarkRead { conversation, up_to: None, reply });
            }
        }
    }
}

/// Each of three wants a commit in every round, all before anything of the others has arrived.
fn commits(world: &mut World, rounds: u32) -> Result<usize, String> {
    people(world, &NAMES)?;
    let conversation = start(world, "race", &NAMES[1..3])?;
    let mut sent: Vec<Sent> = Vec::new();
    for round in 0..rounds {
        // The fourth is added and removed by turns, by all three at once; one commit wins, the others find it
        // done.
        for (device, name) in NAMES.iter().enumerate().take(3) {
            if round % 2 == 0 {
                add(world, device, conversation, NAMES[3]);
            } else {
                remove(world, device, conversation, NAMES[3]);
            }
            let words = format!("{name} in round {round}");
            if say(world, device, conversation, &words).is_ok() {
                sent.push((device, conversation, words));
            }
        }
        for _ in 0..world.rng.random_range(40..120) {
            world.step();
        }
    }
    world.settle()?;
    // Whoever was brought in by one person for the ninth time that day is asked, and agrees.
    let fourth = NAMES.len() - 1;
    for one in world.conversations(fourth) {
        if one.state == ConversationState::Invited {
            let conversation = one.id;
            world.command(fourth, |reply| Command::Accept { conversation, foreign_relay: false, reply });
        }
    }
    world.settle()?;
    // An invitation that the next round took back or replaced is found to be void, and says so.
    let unexpected = world.unexpected_alarms(&[Cause::Evicted, Cause::ReadKeyRefused]);
    if !unexpected.is_empty() {
        return Err(format!("alarms without a cause: {unexpected:?}"));
    }
    let compared = consistent(world, &sent)?;
    for (device, name) in NAMES.iter().enumerate().take(3) {
        let list = world.conversations(device);
        if list[0].state != ConversationState::Active {
            return Err(format!("{name} is not in any more: {:?}", list[0].state));
        }
    }
    if rounds % 2 == 1 {
        all_delivered(world, 0, conversation)?;
    }
    Ok(compared)
}
