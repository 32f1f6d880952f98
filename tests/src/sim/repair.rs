//! Conversations that heal: what goes wrong here does not pass by itself. The relay goes back to an older
//! copy, mailboxes are destroyed, locks are turned in a way that no commit says, devices are away for longer
//! than anything is kept, or are put back to older copies of themselves; and the conversation is moved in
//! between.
//!
//! When it is over, nothing is suspended, everybody is in one place and one epoch, and everybody has what was
//! said, once: but for what was said while a device had lapsed, or was rolled back. In some seeds one of them
//! means harm all the while (`traitor`); then all this is so for the others.

use std::collections::BTreeSet;

use posthorn_client::conversation::{Body, Cause, ConversationState, Entry, GroupId, Notice};
use posthorn_client::engine::{Command, Who};
use posthorn_client::identity::PersonId;
use posthorn_proto::KeyHash;
use posthorn_proto::frame::Request;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::check::history_of;
use super::scenario::{contact, move_here, people_at, say, start_with};
use super::traitor::SPITE;
use super::world::{Faults, World, relay_url};

pub(super) const NAMES: [&str; 8] = ["alice", "bob", "carol", "dave", "eve", "frank", "grace", "heidi"];
pub(super) const DAY: u64 = 24 * 3600 * 1000;
/// What is not healed within this long is not healed, milliseconds.
const HEALED_WITHIN: u64 = 2 * DAY;
/// Where nobody can be asked it never is, and every device goes on asking: that is not waited for as long.
const HOPELESS_AFTER: u64 = 2 * 3600 * 1000;

/// How a run went.
#[derive(Debug, Default)]
pub struct Healed {
    /// Troubles that were made.
    pub troubles: u32,
    /// The longest that one took until everybody went on, seconds.
    pub longest: u64,
    /// All of them together, seconds.
    pub together: u64,
    /// Bytes left in inboxes for it.
    pub bytes: u64,
    /// Messages that were looked for.
    pub compared: usize,
}

/// A text, who said it, and who need not have it.
pub(super) struct Sent {
    by: usize,
    text: String,
    /// They were away for too long when it was said, or forgot it when they were put back.
    pub(super) not_for: BTreeSet<usize>,
}

pub(super) struct Story {
    pub(super) world: World,
    pub(super) rng: StdRng,
    pub(super) group: GroupId,
    count: usize,
    pub(super) sent: Vec<Sent>,
    pub(super) healed: Healed,
    said: u32,
    /// How much had arrived before the trouble, and how often each had been taken in again.
    before: (usize, Vec<usize>),
    /// Who means harm, if anybody does.
    pub(super) traitor: Option<usize>,
    /// What happened, for whoever looks for the reason of a failure.
    pub(super) log: Vec<String>,
}

/// Makes people with accounts at these relays, and starts a conversation of the first with all others.
pub(super) fn start_at(world: &mut World, homes: &[usize]) -> Result<GroupId, String> {
    let people: Vec<_> = NAMES.iter().copied().zip(homes.iter().copied()).collect();
    people_at(world, &people)?;
    let who = |(name, home): &(&str, usize)| match contact(name) {
        Who::Handle(handle) if *home != homes[0] => Who::Elsewhere(handle, relay_url(*home)),
        here => here,
    };
    start_with(world, "garden", people[1..].iter().map(who).collect())
}

/// Plays it. With `helpless` nothing is left in inboxes, so that nobody can be asked: the same seeds fail.
pub fn repair(seed: u64, helpless: bool) -> Result<Healed, String> {
    let mut world = World::new(seed);
    let mut rng = StdRng::seed_from_u64(world.rng.next_u64());
    let count = rng.random_range(2..=NAMES.len());
    let relays = rng.random_range(1..=3);
    for _ in 1..relays {
        world.add_relay();
    }
    let homes: Vec<usize> = (0..count).map(|_| rng.random_range(0..relays)).collect();
    let group = start_at(&mut world, &homes)?;
    world.mute_inboxes = helpless;
    let mut story = Story::new(world, rng, group, count);
    story.log.push(format!("homes {homes:?}"));
    // Of two, the other has nobody to be with.
    if count > 2 && !helpless && story.rng.random_bool(0.4) {
        story.traitor = Some(count - 1);
        story.log.push(format!("{} is a traitor", NAMES[count - 1]));
    }
    match story.play() {
        Ok(()) => Ok(story.healed),
        Err(error) => Err(format!("{error}; {:?}", story.log)),
    }
}

impl Story {
    fn play(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            self.talk(4);
        }
        self.go_on("at the beginning")?;
        for _ in 0..6 {
            self.betray();
            self.before.1 = self.returns();
            let what = self.trouble()?;
            self.log.push(format!("{what} before {}", self.said));
            self.healed.troubles += 1;
            let (since, bytes) = (self.world.now, self.world.watch.inbox_bytes);
            self.talk(3);
            self.go_on(&what)?;
            let took = self.world.now.saturating_sub(since) / 1000;
            self.healed.longest = self.healed.longest.max(took);
            self.healed.together += took;
            self.healed.bytes += self.world.watch.inbox_bytes - bytes;
            self.talk(3);
        }
        self.go_on("at the end")?;
        self.everything_is_there()?;
        // What the traitor's program posts is not ours to answer for.
        if self.traitor.is_none() { self.world.watch.verdict() } else { Ok(()) }
    }

    pub(super) fn new(world: World, rng: StdRng, group: GroupId, count: usize) -> Self {
        Self {
            world,
            rng,
            group,
            count,
            sent: Vec::new(),
            healed: Healed::default(),
            said: 0,
            before: Default::default(),
            traitor: None,
            log: vec![],
        }
    }

    /// Some of them say something; who is asked, in what order, is the seed's.
    pub(super) fn talk(&mut self, times: u32) {
        for _ in 0..times {
            let by = self.rng.random_range(0..self.count);
            let text = format!("{} says {}", NAMES[by], self.said);
            self.says(by, text);
            self.spite();
            let steps = self.rng.random_range(0..60);
            self.world.run(steps);
        }
    }

    /// Says something. What a traitor says nobody need have.
    fn says(&mut self, by: usize, text: String) {
        self.said += 1;
        if say(&mut self.world, by, self.group, &text).is_ok() && Some(by) != self.traitor {
            self.sent.push(Sent { by, text, not_for: self.traitor.into_iter().collect() });
        }
    }

    /// All who keep to the rules.
    fn honest(&self) -> Vec<usize> {
        (0..self.count).filter(|device| Some(*device) != self.traitor).collect()
    }

    /// Something goes wrong that does not pass by itself; what.
    fn trouble(&mut self) -> Result<String, String> {
        if self.rng.random_bool(0.3) {
            self.world.faults = Faults { clock: 0, ..Faults::MANY };
        }
        let device = self.rng.random_range(0..self.count);
        Ok(match self.rng.random_range(0..7) {
            0 => {
                let relay = self.world.any_relay();
                self.world.keep_relay(relay);
                self.talk(4);
                self.world.run(300);
                self.world.restore_relay(relay);
                format!("relay {relay} went back to an older copy")
            }
            1 => {
                self.world.destroy_busiest();
                "the mailbox was destroyed".to_owned()
            }
            2 => {
                self.bend_a_turn(device);
                format!("{} turned the lock in a wrong way", NAMES[device])
            }
            3 => {
                move_here(&mut self.world, device, self.group);
                format!("{} moved the conversation", NAMES[device])
            }
            4 if self.count > 2 => {
                self.restore_without(device);
                format!("a relay went back to an older copy while {} was away", NAMES[device])
            }
            5 => {
                self.put_back(device);
                format!("{} is an older copy", NAMES[device])
            }
            _ => {
                self.lapse(device);
                format!("{} was away for too long", NAMES[device])
            }
        })
    }

    /// A commit of this device says one thing, and its turn another.
    fn bend_a_turn(&mut self, device: usize) {
        let mut done = false;
        self.world.patch = Some(Box::new(move |from, frame| {
            let Request::Post(post) = &mut frame.body else { return };
            if let Some(turn) = post.turn.as_mut().filter(|_| from == device && !done) {
                done = true;
                turn.turn.turn_key_hash = KeyHash([9; 32]);
            }
        }));
        move_here(&mut self.world, device, self.group);
        self.world.run(200);
        self.world.patch = None;
        self.betray();
    }

    /// The relay goes back while somebody is away who has read everything before: the others move on.
    fn restore_without(&mut self, device: usize) {
        self.world.run(600);
        self.world.go_away(device);
        let relay = self.world.any_relay();
        self.world.keep_relay(relay);
        self.talk_without(device);
        self.talk_without(device);
        self.world.run(600);
        self.world.restore_relay(relay);
        for _ in 0..40 {
            self.world.wait(30_000);
            self.world.run(100);
        }
        self.world.come_back(device);
    }

    fn put_back(&mut self, device: usize) {
        self.world.devices[device].keep_copy();
        self.excuse(device);
        let before = self.sent.len();
        self.talk(5);
        self.world.run(300);
        self.world.meanwhile(device, |device| device.put_back());
        for sent in &mut self.sent[before..] {
            sent.not_for.insert(device);
        }
        // What it said itself meanwhile is forgotten there, and may not have left it.
        let mut at = 0;
        self.sent.retain(|sent| {
            at += 1;
            at <= before || sent.by != device
        });
    }

    /// What a device has not read by now it need not read later.
    fn excuse(&mut self, device: usize) {
        let entries = history_of(&mut self.world, device, self.group);
        for sent in &mut self.sent {
            if !entries.iter().any(|entry| entry.text() == Some(&sent.text)) {
                sent.not_for.insert(device);
            }
        }
    }

    fn lapse(&mut self, device: usize) {
        self.world.go_away(device);
        self.excuse(device);
        let before = self.sent.len();
        for _ in 0..7 {
            self.talk_without(device);
            self.world.wait(5 * DAY);
            self.world.run(150);
        }
        for sent in &mut self.sent[before..] {
            sent.not_for.insert(device);
        }
        self.world.come_back(device);
    }

    fn talk_without(&mut self, device: usize) {
        let others: Vec<usize> = (0..self.count).filter(|other| *other != device).collect();
        let by = others[self.rng.random_range(0..others.len())];
        let text = format!("{} says {} without {}", NAMES[by], self.said, NAMES[device]);
        self.says(by, text);
    }

    /// Runs until everybody goes on and nothing is left to do.
    pub(super) fn go_on(&mut self, after: &str) -> Result<(), String> {
        self.world.faults = Faults::NONE;
        let within = if self.world.mute_inboxes { HOPELESS_AFTER } else { HEALED_WITHIN };
        let mut peace = self.traitor.map(|_| self.world.now + self.rng.random_range(0..SPITE));
        let until = self.world.now + within;
        let mut well_since = None;
        for _ in 0..400_000 {
            if self.world.now > until {
                break;
            }
            if peace.is_some_and(|peace| self.world.now > peace) {
                self.make_peace();
                peace = None;
            }
            if self.world.step() {
                continue;
            }
            if peace.is_some() {
                self.spite();
            }
            if !self.is_well() {
                self.agree();
                well_since = None;
                continue;
            }
            let since = *well_since.get_or_insert(self.world.now);
            if self.world.now > since + 60_000 {
                // Whoever repaired alone finds out within an hour.
                match self.is_one() {
                    Err(_) if !self.world.mute_inboxes && self.world.now < since + 2 * 3_600_000 => {}
                    is_one => {
                        self.before.0 = self.sent.len();
                        return is_one.map_err(|error| format!("{after}: {error}"));
                    }
                }
            }
        }
        let group = self.group;
        let states: Vec<_> = (0..self.count)
            .map(|device| {
                let all = self.world.conversations(device).into_iter().filter(|one| one.group == group);
                let all: Vec<_> = all.map(|one| (one.epoch, one.relay, one.state)).collect();
                (NAMES[device], all, self.world.state(device))
            })
            .collect();
        Err(format!("{after}: it does not heal: {states:?}"))
    }

    /// Everybody agrees to go where the conversation is, if that is a relay that they have not used.
    fn agree(&mut self) {
        for device in 0..self.count {
            for one in self.world.conversations(device) {
                let is_asked = match &one.state {
                    ConversationState::Invited => true,
                    ConversationState::Suspended(why) => why.cause == Cause::ForeignRelay,
                    _ => false,
                };
                if is_asked {
                    let conversation = one.id;
                    let accept = |reply| Command::Accept { conversation, foreign_relay: true, reply };
                    self.world.command(device, accept);
                }
            }
        }
    }

    fn is_well(&mut self) -> bool {
        let group = self.group;
        self.honest().into_iter().all(|device| {
            let state = self.world.state(device);
            let quiet = state.connected && state.caught_up && state.outbox == 0 && state.intents == 0;
            let mut all = self.world.conversations(device).into_iter().filter(|one| one.group == group);
            quiet && all.any(|one| one.state == ConversationState::Active) && {
                let mut all = self.world.conversations(device).into_iter().filter(|one| one.group == group);
                all.all(|one| one.state == ConversationState::Active)
            }
        })
    }

    /// How often each was taken in again.
    fn returns(&mut self) -> Vec<usize> {
        let returned = |entry: &Entry| matches!(entry.body, Body::Notice(Notice::Returned { .. }));
        let of =
            |device| history_of(&mut self.world, device, self.group).into_iter().filter(returned).count();
        (0..self.count).map(of).collect()
    }

    /// A traitor can make newcomers of those who were there all the time: whoever was out meanwhile does not
    /// get what was said before those came.
    fn excuse_returned(&mut self) {
        if self.traitor.is_none() {
            return;
        }
        for (device, returns) in self.returns().into_iter().enumerate() {
            if self.before.1.get(device).is_some_and(|before| returns > *before) {
                for sent in &mut self.sent[self.before.0..] {
                    sent.not_for.insert(device);
                }
            }
        }
    }

    /// All are in one epoch, with the same members, and hear each other.
    fn is_one(&mut self) -> Result<(), String> {
        self.excuse_returned();
        let group = self.group;
        let mut seen = Vec::new();
        let honest: Vec<_> = self.honest().iter().map(|device| self.world.person(NAMES[*device])).collect();
        for device in self.honest() {
            let mut all: Vec<_> =
                self.world.conversations(device).into_iter().filter(|one| one.group == group).collect();
            if all.len() != 1 {
                return Err(format!("{} has the conversation {} times", NAMES[device], all.len()));
            }
            let one = all.remove(0);
            let mut members: Vec<PersonId> = one.members.iter().map(|one| one.person).collect();
            members.sort();
            seen.push((one.epoch, members));
        }
        let are_in = honest.iter().all(|person| seen[0].1.contains(person));
        let same = seen.iter().all(|one| *one == seen[0]) && are_in;
        if !same {
            return Err(format!("they are not together: {seen:?}"));
        }
        // Places of rival repairs look alike.
        let Some(last) = self.sent.last() else { return Ok(()) };
        for device in (0..self.count).filter(|device| !last.not_for.contains(device)) {
            let entries = history_of(&mut self.world, device, group);
            if !entries.iter().any(|entry| entry.text() == Some(&last.text)) {
                return Err(format!("{} does not hear {:?}", NAMES[device], last.text));
            }
        }
        Ok(())
    }

    /// What was said is there for everybody, once.
    pub(super) fn everything_is_there(&mut self) -> Result<(), String> {
        for device in self.honest() {
            let entries = history_of(&mut self.world, device, self.group);
            for sent in &self.sent {
                let count = entries.iter().filter(|entry| entry.text() == Some(&sent.text)).count();
                let may_lack = sent.not_for.contains(&device);
                if count > 1 || (count == 0 && !may_lack) {
                    let text = &sent.text;
                    return Err(format!("{} has {text:?} {count} times", NAMES[device]));
                }
                self.healed.compared += 1;
            }
        }
        let inner: Vec<_> = self
            .world
            .devices
            .iter()
            .flat_map(|device| device.alarms.iter().map(move |(_, cause, text)| (&device.name, cause, text)))
            .filter(|(_, cause, _)| **cause == Cause::Internal)
            .collect();
        if inner.is_empty() { Ok(()) } else { Err(format!("{inner:?}")) }
    }
}
