//! What the people of a simulation do.

use posthorn_client::conversation::{Cause, ConversationId, ConversationState};
use posthorn_client::sync::{Answer, Command, Contact};
use posthorn_proto::Handle;
use rand::Rng as _;

use super::check::{Sent, all_delivered, consistent};
use super::world::{Faults, World, relay_url};

/// Which story is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Four people talk, add, remove and leave while much goes wrong.
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

pub(super) fn contact(name: &str) -> Contact {
    Contact::Handle(handle(name))
}

/// Makes devices with accounts.
pub(super) fn people(world: &mut World, names: &[&str]) -> Result<(), String> {
    for name in names {
        let device = world.add_device(name);
        let register = Command::Register { relay: relay_url(), handle: handle(name), invite: String::new() };
        let id = world.command(device, register);
        world.answered(device, id)?.map_err(|error| format!("{name} cannot register: {error}"))?;
    }
    Ok(())
}

/// Starts a conversation of the first with the others, and waits until it stands.
pub(super) fn start(world: &mut World, name: &str, others: &[&str]) -> Result<ConversationId, String> {
    let members = others.iter().map(|other| contact(other)).collect();
    let id = world.command(0, Command::Start { name: name.to_owned(), members });
    match world.answered(0, id)? {
        Ok(Answer::Started(conversation)) => {
            world.settle()?;
            Ok(conversation)
        }
        other => Err(format!("the conversation did not start: {other:?}")),
    }
}

fn talk(world: &mut World) -> Result<usize, String> {
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
    let unexpected = world.unexpected_alarms(&[Cause::CannotAdd, Cause::Evicted, Cause::ReadKeyRefused]);
    if !unexpected.is_empty() {
        return Err(format!("alarms without a cause: {unexpected:?}"));
    }
    consistent(world, &sent)
}

/// Somebody does something. What is refused because of what happened before is no failure.
fn act(world: &mut World, conversation: ConversationId, round: u32, sent: &mut Vec<Sent>) {
    let device = world.rng.random_range(0..NAMES.len());
    let other = NAMES[world.rng.random_range(0..NAMES.len())];
    match world.rng.random_range(0..20) {
        0..14 => {
            let text = format!("{} says {round} – grüße 👋", NAMES[device]);
            if world.ask(device, Command::Send { conversation, text: text.clone() }).is_ok() {
                sent.push((device, conversation, text));
            }
        }
        14..16 => {
            world.command(device, Command::Add { conversation, members: vec![contact(other)] });
        }
        // Somebody always stays, so that there is something to compare.
        16 if other != NAMES[0] => {
            world.command(device, Command::Remove { conversation, handle: other.to_owned() });
        }
        17 if device != 0 => {
            world.command(device, Command::Leave(conversation));
        }
        _ => {
            world.command(device, Command::MarkRead(conversation));
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
            let command = if round % 2 == 0 {
                Command::Add { conversation, members: vec![contact(NAMES[3])] }
            } else {
                Command::Remove { conversation, handle: NAMES[3].to_owned() }
            };
            world.command(device, command);
            let text = format!("{name} in round {round}");
            if world.ask(device, Command::Send { conversation, text: text.clone() }).is_ok() {
                sent.push((device, conversation, text));
            }
        }
        for _ in 0..world.rng.random_range(40..120) {
            world.step();
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
        match world.ask(device, Command::Conversations) {
            Ok(Answer::Conversations(list)) if list[0].state == ConversationState::Active => {}
            other => return Err(format!("{name} is not in any more: {other:?}")),
        }
    }
    if rounds % 2 == 1 {
        all_delivered(world, 0, conversation)?;
    }
    Ok(compared)
}
