//! A siege: while honest people talk in two conversations, a member of one of them, strangers, and the relay
//! do what they can on the wire. What a member can say inside of the encryption is played against one engine
//! by `client-lib/src/engine/tests/hostile.rs`.
//!
//! No engine ends (a failure of one is a panic). When it is over, the conversation without the member goes on
//! as if nothing were; whoever goes on in the other is in one epoch and hears the others; and whoever does
//! not has a cause that does not pass by itself.

use posthorn_client::conversation::{Body, Cause, ConversationState, GroupId, Notice};
use posthorn_client::engine::Command;
use posthorn_proto::frame::{Post, Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, KeyHash, MailboxId, PostId, ReaderId};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::check::history_of;
use super::scenario::{Report, add, people, remove, say, start};
use super::world::{Faults, Patch, Tamper, World};

const NAMES: [&str; 4] = ["alice", "bob", "carol", "mallory"];
/// Whom mallory brings in and takes out.
const DAVE: &str = "dave";
/// Those who keep to the rules.
const HONEST: [usize; 3] = [0, 1, 2];
/// To whom the relay lies.
const BOB: usize = 1;
const MALLORY: usize = 3;
/// After what a conversation stays suspended (docs/causes.md); everything else passes with its reason.
const STAYS: [Cause; 3] = [Cause::BadTurn, Cause::BadCommit, Cause::RolledBack];
/// A conversation that is suspended is looked at again at least this often, milliseconds.
const LOOKS: u64 = 3600 * 1000;

/// What heals has healed after so many of those.
const HEALS: u32 = 5;

/// Whoever was taken out and in more often than is followed without asking is asked, and agrees.
fn say_yes(world: &mut World) {
    for device in HONEST {
        for one in world.conversations(device) {
            if one.state == ConversationState::Invited {
                let conversation = one.id;
                world.command(device, |reply| Command::Accept { conversation, foreign_relay: false, reply });
            }
        }
    }
}

/// Plays a siege. The error says what was not as it must be.
pub fn siege(seed: u64) -> Result<Report, String> {
    let mut world = World::new(seed);
    let began = world.now;
    people(&mut world, &NAMES)?;
    people(&mut world, &[DAVE])?;
    let shed = start(&mut world, "shed", &NAMES[1..3])?;
    let garden = start(&mut world, "garden", &NAMES[1..4])?;
    attack(&mut world, shed, garden);
    // It stops.
    (world.tamper, world.patch, world.faults) = (None, None, Faults::NONE);
    world.cut_all(BOB);
    world.quiet()?;
    for _ in 0..HEALS {
        world.wait(LOOKS);
        world.quiet()?;
        say_yes(&mut world);
    }
    world.quiet()?;
    let compared = holds(&mut world, shed, garden).inspect_err(|_| {
        for device in HONEST {
            world.tell_history(device);
        }
    })?;
    Ok(Report { steps: world.steps, compared, seconds: (world.now - began) / 1000 })
}

/// Plays a member who says anything at all inside of the encryption, by a script that the seed makes; how
/// long that is. A promise that breaks is a panic.
#[cfg(feature = "fuzzing")]
pub fn member(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut script = vec![0; rng.random_range(16..600)];
    rng.fill_bytes(&mut script);
    posthorn_client::engine::hostile_member(&script);
    script.len()
}

fn attack(world: &mut World, shed: GroupId, garden: GroupId) {
    world.faults = Faults::MANY;
    let mut rng = StdRng::seed_from_u64(world.rng.next_u64());
    // One seed in two has a relay that lies, one in two a member with a patched program.
    if rng.random_bool(0.5) {
        world.tamper = Some(lies(StdRng::seed_from_u64(rng.next_u64())));
    }
    if rng.random_bool(0.5) {
        world.patch = Some(forges(StdRng::seed_from_u64(rng.next_u64())));
    }
    for round in 0..40 {
        world.run(rng.random_range(0..30));
        let device = rng.random_range(0..NAMES.len());
        let group = if device == MALLORY || rng.random_bool(0.5) { garden } else { shed };
        match rng.random_range(0..10) {
            // What is refused because of what happened before is no failure.
            0..5 => drop(say(world, device, group, &format!("{} says {round}", NAMES[device]))),
            5 => drop(remove(world, device, garden, newcomer(device))),
            6 => drop(add(world, device, garden, newcomer(device))),
            _ => abuse(world, &mut rng, MALLORY),
        }
    }
}

/// Whom a device adds and removes.
fn newcomer(device: usize) -> &'static str {
    if device == MALLORY { DAVE } else { NAMES[MALLORY] }
}

/// A member or a stranger leaves something where it may be left, with nothing but the key that permits it.
pub(super) fn abuse(world: &mut World, rng: &mut StdRng, member: usize) {
    let may_post =
        |mailbox: &MailboxId| world.watch.posted.iter().any(|(who, at, _)| (*who, at) == (member, mailbox));
    let open = world.watch.shelves.iter().filter(|(mailbox, shelf)| shelf.is_inbox() || may_post(mailbox));
    let open: Vec<MailboxId> = open.map(|(mailbox, _)| *mailbox).collect();
    let Some(mailbox) = open.get(rng.random_range(0..open.len().max(1))).copied() else { return };
    let shelf = &world.watch.shelves[&mailbox];
    let Some(post_key) = shelf.key.clone() else { return };
    let mut envelope = shelf.envelopes[rng.random_range(0..shelf.envelopes.len())].to_vec();
    match rng.random_range(0..4) {
        // As it was, once more.
        0 => {}
        1 => {
            let at = rng.random_range(0..envelope.len());
            envelope[at] ^= 1 << rng.random_range(0..8);
        }
        2 => envelope.truncate(rng.random_range(1..=envelope.len())),
        _ => rng.fill_bytes(&mut envelope),
    }
    for _ in 0..rng.random_range(1..20) {
        let post_id = PostId::drawn_at(world.now / 1000, rng);
        world.outsider(Request::Post(Post {
            mailbox,
            post_id,
            post_key: post_key.clone(),
            envelope: envelope.clone().into(),
            turn: None,
        }));
    }
}

/// Mallory's commits carry turns that say something else than the commits.
fn forges(mut rng: StdRng) -> Patch {
    Box::new(move |device, frame| {
        if let Request::Post(post) = &mut frame.body
            && device == MALLORY
        {
            forge(post, &mut rng);
        }
    })
}

/// A commit's turn says something else, or is left as it is.
pub(super) fn forge(post: &mut Post, rng: &mut StdRng) {
    let Some(turn) = &mut post.turn else { return };
    match rng.random_range(0..5) {
        0 => turn.turn.post_key_hash = KeyHash([9; 32]),
        1 => turn.turn.turn_key_hash = KeyHash([9; 32]),
        2 => turn.turn.admit.clear(),
        3 => turn.turn.evict.clear(),
        _ => {}
    }
}

/// The relay tells bob whatever it likes.
fn lies(mut rng: StdRng) -> Tamper {
    const CODES: [ErrorCode; 8] = [
        ErrorCode::MailboxUnknown,
        ErrorCode::ReaderUnknown,
        ErrorCode::ReadKeyWrong,
        ErrorCode::OpenedElsewhere,
        ErrorCode::KeyTurned,
        ErrorCode::MailboxFull,
        ErrorCode::RateLimited,
        ErrorCode::Internal,
    ];
    Box::new(move |device, frame| {
        if device != BOB || rng.random_bool(0.9) {
            return vec![frame];
        }
        let refusal = Refusal::new(CODES[rng.random_range(0..CODES.len())], "because");
        let push = |body| ServerFrame { request: 0, body };
        match (frame.body.clone(), rng.random_range(0..8)) {
            (ServerBody::Delivery(_), 0) => vec![],
            (ServerBody::Delivery(_), 1) => vec![frame.clone(), frame],
            (ServerBody::Delivery(mut delivery), 2) => {
                delivery.seq = [0, 1, delivery.seq + 1, 1 << 53][rng.random_range(0..4)];
                vec![push(ServerBody::Delivery(delivery)), frame]
            }
            (ServerBody::Delivery(mut delivery), 3) => {
                let mut envelope = delivery.envelope.to_vec();
                let at = rng.random_range(0..envelope.len());
                envelope[at] ^= 1;
                delivery.envelope = envelope.into();
                vec![push(ServerBody::Delivery(delivery))]
            }
            (ServerBody::Delivery(mut delivery), 4) => {
                if let Some(turn) = &mut delivery.turn {
                    turn.evict.push(ReaderId([9; 16]));
                }
                vec![push(ServerBody::Delivery(delivery))]
            }
            (ServerBody::Delivery(delivery), 5) => {
                let (mailbox, seq) = (delivery.mailbox, delivery.seq);
                vec![push(ServerBody::Lost { mailbox, seq, reason: refusal }), frame]
            }
            (ServerBody::Delivery(delivery), _) => {
                let closed = ServerBody::Closed { mailbox: delivery.mailbox, reason: refusal };
                vec![frame, push(closed)]
            }
            (ServerBody::Posted { seq }, 0..4) => {
                vec![ServerFrame { request: frame.request, body: ServerBody::Posted { seq: seq + 1 } }]
            }
            (ServerBody::Hello(_) | ServerBody::RelayProven(_), _) => vec![frame],
            (_, 0 | 1) => vec![ServerFrame { request: frame.request, body: ServerBody::Error(refusal) }],
            (_, 2) => vec![frame.clone(), frame],
            _ => vec![frame],
        }
    })
}

/// How an honest person has a conversation: its epoch while it goes on, else why it does not.
fn stands(world: &mut World, device: usize, group: GroupId) -> Result<Result<u64, Cause>, String> {
    let local = world.local(device, group).ok_or("it is gone")?;
    let one = world.conversations(device).into_iter().find(|one| one.id == local).ok_or("it is gone")?;
    match one.state {
        ConversationState::Active => Ok(Ok(one.epoch)),
        ConversationState::Suspended(why) => Ok(Err(why.cause)),
        state => Err(format!("it is over: {}", state.in_words())),
    }
}

fn holds(world: &mut World, shed: GroupId, garden: GroupId) -> Result<usize, String> {
    let mut compared = 0;
    for (group, name) in [(shed, "shed"), (garden, "garden")] {
        let mut epochs = Vec::new();
        for device in HONEST {
            let of = |why: &dyn std::fmt::Display| format!("{}: the {name}: {why}", NAMES[device]);
            let may_break = name == "garden" || is_lied_to(world, device);
            match stands(world, device, group).map_err(|why| of(&why))? {
                Ok(epoch) => epochs.push((device, epoch)),
                Err(cause) if !may_break || !STAYS.contains(&cause) => {
                    return Err(of(&format!("does not go on: {cause}")));
                }
                Err(_) => {}
            }
        }
        if epochs.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            return Err(format!("the {name} has come apart: {epochs:?}"));
        }
        compared += goes_on(world, group, epochs.iter().map(|(device, _)| *device).collect())
            .map_err(|why| format!("the {name}: {why}"))?;
    }
    Ok(compared)
}

/// What each says now the others hear, and what they have is the same.
fn goes_on(world: &mut World, group: GroupId, in_it: Vec<usize>) -> Result<usize, String> {
    for device in &in_it {
        say(world, *device, group, &last_words(*device))?;
    }
    world.quiet()?;
    let mut compared = 0;
    for device in &in_it {
        let heard = texts(world, *device, group);
        for other in &in_it {
            let words = last_words(*other);
            if !heard.iter().any(|(_, text)| *text == words) {
                return Err(format!("{} does not hear {}", NAMES[*device], NAMES[*other]));
            }
        }
        // What the relay spoiled on its way to whom it lied to, nobody can bring back.
        let first = texts(world, in_it[0], group);
        // A repair says again what somebody may lack: to those who have it, it stays where it was.
        let words = |texts: &[((u32, u64), String)]| {
            let mut words: Vec<String> = texts.iter().map(|(_, text)| text.clone()).collect();
            words.sort();
            words
        };
        let is_same = words(&heard) == words(&first);
        // Whoever was taken in again after somebody new had come does not get what was said before.
        let excused =
            [in_it[0], *device].iter().any(|one| is_lied_to(world, *one) || has_returned(world, *one, group));
        if !excused && !is_same {
            let names = (NAMES[in_it[0]], NAMES[*device]);
            return Err(format!("{} and {} differ: {first:?}, {heard:?}", names.0, names.1));
        }
        compared += heard.len();
    }
    Ok(compared)
}

fn last_words(device: usize) -> String {
    format!("{} after the siege", NAMES[device])
}

/// Whether somebody was taken out and in again.
fn has_returned(world: &mut World, device: usize, group: GroupId) -> bool {
    let all = history_of(world, device, group);
    all.iter().any(|entry| matches!(entry.body, Body::Notice(Notice::Returned { .. })))
}

/// Whether the relay has lied to somebody so that they know it.
fn is_lied_to(world: &World, device: usize) -> bool {
    device == BOB && !world.devices[BOB].alarms.is_empty()
}

/// What was said, by seq.
fn texts(world: &mut World, device: usize, group: GroupId) -> Vec<((u32, u64), String)> {
    let all = history_of(world, device, group);
    let at = |entry: &posthorn_client::conversation::Entry| entry.place.zip(entry.seq);
    let mut texts: Vec<((u32, u64), String)> =
        all.iter().filter_map(|entry| Some((at(entry)?, entry.text()?.to_owned()))).collect();
    texts.sort();
    texts
}
