//! The network, the clock and the schedule.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use posthorn_client::conversation::{Cause, ConversationId, GroupId};
use posthorn_client::engine::{
    Command, ConversationSummary, Effect, Error, Input, Link, LinkId, Reply, SyncState,
};
use posthorn_client::identity::{PersonId, RelayUrl};
use posthorn_proto::frame::{ClientFrame, Request, ServerFrame};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::device::{Device, Slot, is_traced};
use super::relay::SimRelay;
use super::watch::Watch;

/// Nothing is left to do for this long, milliseconds: longer than any jitter.
const SETTLED_MS: u64 = 60_000;

/// One connection: whose, and which.
pub(super) type Wire = (usize, LinkId);

/// What a relay that lies does to a frame on its way: the frames that arrive instead.
pub(super) type Tamper = Box<dyn FnMut(usize, ServerFrame) -> Vec<ServerFrame>>;

/// What a device that was patched does to what it sends.
pub(super) type Patch = Box<dyn FnMut(usize, &mut ClientFrame)>;

/// What is on its way on a connection.
#[derive(Default)]
struct Flow {
    to_relay: VecDeque<Bytes>,
    to_device: VecDeque<Bytes>,
}

/// How often things go wrong, per thousand steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    /// A connection breaks.
    pub(super) cut: u32,
    /// A device's process dies.
    pub(super) device_crash: u32,
    /// A device's process dies after a transaction, before its effects are carried out.
    pub(super) effects_lost: u32,
    /// The relay dies.
    pub(super) relay_crash: u32,
    /// A connection cannot be made.
    pub(super) refused: u32,
    /// Somebody sets a clock: a device's, or the relay's.
    pub(super) clock: u32,
}

/// How far clocks are off at most where they are, milliseconds: hours.
const SKEW: i64 = 20 * 3_600_000;

impl Faults {
    /// Nothing goes wrong.
    pub(super) const NONE: Self =
        Self { cut: 0, device_crash: 0, effects_lost: 0, relay_crash: 0, refused: 0, clock: 0 };
    /// Much goes wrong.
    pub(super) const MANY: Self =
        Self { cut: 12, device_crash: 4, effects_lost: 4, relay_crash: 2, refused: 200, clock: 3 };
}

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: u64,
    pub(super) devices: Vec<Device>,
    pub(super) faults: Faults,
    /// Whether clocks differ from the beginning.
    pub(super) is_skewed: bool,
    pub(super) tamper: Option<Tamper>,
    pub(super) patch: Option<Patch>,
    /// Where devices can be, by number.
    relays: Vec<SimRelay>,
    /// Those that cannot be reached.
    dead: BTreeSet<usize>,
    wires: BTreeMap<Wire, Flow>,
    pub(super) watch: Watch,
    folder: tempfile::TempDir,
    /// Whatever is left in inboxes gets lost.
    pub(super) mute_inboxes: bool,
    /// Devices that have no network.
    away: BTreeSet<usize>,
    /// What groups are called on devices, as it was when it was asked first.
    first: BTreeMap<(usize, GroupId), ConversationId>,
    /// Steps taken, for reports.
    pub(super) steps: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = 1_790_000_000_000;
        // Memory file systems make fsync free; whether a disk keeps its word is not what is simulated.
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let relays = vec![SimRelay::new(now, &mut rng)];
        Self {
            relays,
            dead: BTreeSet::new(),
            rng,
            now,
            devices: Vec::new(),
            faults: Faults::NONE,
            is_skewed: false,
            tamper: None,
            patch: None,
            wires: BTreeMap::new(),
            watch: Watch::default(),
            folder: folder.expect("a folder for the databases"),
            away: BTreeSet::new(),
            mute_inboxes: false,
            first: BTreeMap::new(),
            steps: 0,
        }
    }

    /// One more relay; its number.
    pub(super) fn add_relay(&mut self) -> usize {
        self.relays.push(SimRelay::new(self.now, &mut self.rng));
        self.relays.len() - 1
    }

    /// The relay at the other end of a connection.
    fn relay_of(&mut self, wire: &Wire) -> &mut SimRelay {
        let number = number_of(&wire.1);
        &mut self.relays[number]
    }

    pub(super) fn add_device(&mut self, name: &str) -> usize {
        let ahead = if self.is_skewed { self.rng.random_range(-SKEW..=SKEW) } else { 0 };
        let device = Device::new(name, self.folder.path(), (self.now, ahead), &mut self.rng);
        self.devices.push(device);
        self.devices.len() - 1
    }

    pub(super) fn command<T: Send + 'static>(
        &mut self,
        device: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Slot<T> {
        let (slot, effects) = self.devices[device].command(command, self.now);
        self.carry_out(device, effects);
        slot
    }

    /// A command that is answered at once.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        device: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Error> {
        self.command(device, command).take().expect("this kind of command is answered at once")
    }

    pub(super) fn conversations(&mut self, device: usize) -> Vec<ConversationSummary> {
        self.ask(device, Command::Conversations).expect("has an account")
    }

    /// What a group is called on a device: the conversation that goes on, else the newest that ended. Of two
    /// that go on, the one that was there first: somebody who was taken out may begin another in its name.
    pub(super) fn local(&mut self, device: usize, group: GroupId) -> Option<ConversationId> {
        let mut all = self.conversations(device);
        all.retain(|one| one.group == group);
        let mut open = all.iter().filter(|one| super::check::goes_on(&one.state));
        let first = self.first.get(&(device, group)).copied();
        let found = open.clone().find(|one| Some(one.id) == first).or(open.next()).or(all.first());
        let id = found.map(|one| one.id)?;
        self.first.entry((device, group)).or_insert(id);
        Some(id)
    }

    /// Who has this name.
    pub(super) fn person(&mut self, name: &str) -> PersonId {
        let device = self.devices.iter().position(|device| device.name == name).expect("is in the story");
        let account = self.ask(device, Command::Account).expect("is answered");
        account.expect("has an account").person
    }

    /// One line about something that happened to a device, cut.
    fn tell(&self, device: usize, what: &dyn std::fmt::Debug) {
        if is_traced() {
            let what: String = format!("{what:?}").chars().take(400).collect();
            eprintln!("{} {}: {what}", self.now, self.devices[device].name);
        }
    }

    /// Every conversation of a device with what is in it, for whoever looks for the reason of a failure.
    pub(super) fn tell_history(&mut self, device: usize) {
        if !is_traced() {
            return;
        }
        for one in self.conversations(device) {
            let name = &self.devices[device].name;
            eprintln!("{name}: {:?} of {:?}, {:?}, epoch {}", one.id, one.group, one.state, one.epoch);
            for entry in super::check::history(self, device, one.id) {
                eprintln!("  {:?} {:?} {:?}", entry.place, entry.seq, entry.body);
            }
        }
    }

    fn input(&mut self, device: usize, input: Input) {
        self.tell(device, &input);
        let effects = self.devices[device].handle(input, self.now);
        if !effects.is_empty() && self.happens(self.faults.effects_lost) {
            self.crash_device(device);
        } else {
            self.carry_out(device, effects);
        }
    }

    fn carry_out(&mut self, device: usize, effects: Vec<Effect>) {
        for effect in effects {
            self.tell(device, &effect);
            match effect {
                Effect::Connect(link) => {
                    let wire = (device, link.clone());
                    let is_dead = self.dead.contains(&number_of(&link));
                    if is_dead || self.away.contains(&device) || self.happens(self.faults.refused) {
                        self.input(device, Input::Disconnected(link, "refused".to_owned()));
                    } else {
                        self.relay_of(&wire).connect(&wire);
                        self.wires.insert(wire, Flow::default());
                        self.input(device, Input::Connected(link));
                    }
                }
                Effect::Disconnect(link) => self.cut(&(device, link)),
                Effect::Send(link, mut frame) => {
                    let wire = (device, link);
                    if self.mute_inboxes
                        && wire.1.link == Link::Post
                        && matches!(frame.body, Request::Post(_))
                    {
                        continue;
                    }
                    if let Some(patch) = &mut self.patch {
                        patch(device, &mut frame);
                    }
                    if let Some(flow) = self.wires.get_mut(&wire) {
                        self.watch.sends(&wire, &frame);
                        flow.to_relay.push_back(frame.encode());
                    }
                }
                Effect::Event(_) | Effect::Answer(_) => {}
            }
        }
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.random_range(0..1000) < per_mille
    }

    fn cut(&mut self, wire: &Wire) {
        if self.wires.remove(wire).is_some() {
            self.watch.ended(wire);
            self.relay_of(wire).disconnect(wire);
            self.input(wire.0, Input::Disconnected(wire.1.clone(), "cut".to_owned()));
        }
    }

    fn crash_device(&mut self, device: usize) {
        self.hang_up(device);
        self.devices[device].crash(self.now);
        self.input_tick(device);
    }

    /// All connections of a device are gone, without a word.
    fn hang_up(&mut self, device: usize) {
        let gone: Vec<Wire> = self.wires.keys().filter(|wire| wire.0 == device).cloned().collect();
        for wire in gone {
            self.wires.remove(&wire);
            self.watch.ended(&wire);
            self.relay_of(&wire).disconnect(&wire);
        }
    }

    /// The process of a device ends, its database is changed, and it starts again.
    pub(super) fn meanwhile(&mut self, device: usize, change: impl FnOnce(&mut Device)) {
        self.hang_up(device);
        self.devices[device].stop();
        change(&mut self.devices[device]);
        self.devices[device].crash(self.now);
        self.input_tick(device);
    }

    /// A second process runs on a copy of a device's database.
    pub(super) fn add_copy(&mut self, of: usize) -> usize {
        let copy = self.devices[of].copied(&mut self.rng, self.now);
        self.devices.push(copy);
        let device = self.devices.len() - 1;
        self.input_tick(device);
        device
    }

    /// Time passes.
    pub(super) fn wait(&mut self, millis: u64) {
        self.set_time(self.now + millis);
        for device in 0..self.devices.len() {
            self.input(device, Input::Tick);
        }
    }

    /// Somebody from anywhere says this to the relay, on a connection of its own.
    pub(super) fn outsider(&mut self, request: Request) {
        let wire = (usize::MAX, LinkId { relay: relay_url(0), link: Link::Post });
        let relay = self.relay_of(&wire);
        relay.connect(&wire);
        relay.take(&wire, ClientFrame { request: 1, body: request }.encode());
        relay.disconnect(&wire);
    }

    /// A device has no network from now on.
    pub(super) fn go_away(&mut self, device: usize) {
        self.away.insert(device);
        self.cut_all(device);
    }

    /// It has one again.
    pub(super) fn come_back(&mut self, device: usize) {
        self.away.remove(&device);
    }

    /// Keeps a copy of a relay's store, for [`World::restore_relay`].
    pub(super) fn keep_relay(&mut self, relay: usize) {
        self.relays[relay].keep();
    }

    /// A relay's store is put back to the copy, and starts a new life.
    pub(super) fn restore_relay(&mut self, relay: usize) {
        let rng = &mut self.rng;
        self.relays[relay].restore(rng);
        self.lose_relay(relay, "the relay is restored");
    }

    /// A relay cannot be reached any more.
    pub(super) fn kill_relay(&mut self, relay: usize) {
        self.dead.insert(relay);
        self.lose_relay(relay, "the relay is gone");
    }

    /// It can be again, and its operator has confirmed its clock, as its log asks for.
    pub(super) fn revive_relay(&mut self, relay: usize) {
        self.dead.remove(&relay);
        self.relays[relay].set_clock(0, true);
    }

    /// Every connection to a relay ends.
    fn lose_relay(&mut self, relay: usize, why: &str) {
        let there = |wire: &&Wire| number_of(&wire.1) == relay;
        let wires: Vec<Wire> = self.wires.keys().filter(there).cloned().collect();
        for wire in &wires {
            self.wires.remove(wire);
            self.watch.ended(wire);
        }
        for wire in wires {
            self.input(wire.0, Input::Disconnected(wire.1, why.to_owned()));
        }
    }

    /// The mailbox into which was posted last is destroyed.
    pub(super) fn destroy_busiest(&mut self) {
        let last = self.watch.posted.iter().rev().map(|(_, mailbox, _)| *mailbox);
        let talk = last.into_iter().find(|mailbox| self.watch.turned.contains_key(mailbox));
        let Some(mailbox) = talk else { return };
        for lock in self.watch.turned[&mailbox].iter().rev() {
            if self.relays.iter().any(|relay| relay.destroy(mailbox, *lock)) {
                return;
            }
        }
    }

    /// Every connection of a device breaks.
    pub(super) fn cut_all(&mut self, device: usize) {
        let all: Vec<Wire> = self.wires.keys().filter(|wire| wire.0 == device).cloned().collect();
        all.iter().for_each(|wire| self.cut(wire));
    }

    /// Runs some steps.
    pub(super) fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            self.step();
        }
    }

    fn input_tick(&mut self, device: usize) {
        let effects = self.devices[device].handle(Input::Tick, self.now);
        self.carry_out(device, effects);
    }

    fn crash_relay(&mut self) {
        let relay = self.any_relay();
        let rng = &mut self.rng;
        self.relays[relay].restart(rng);
        self.lose_relay(relay, "the relay died");
    }

    /// One of them. Where there is one alone, nothing is drawn.
    pub(super) fn any_relay(&mut self) -> usize {
        let count = self.relays.len();
        if count == 1 { 0 } else { self.rng.random_range(0..count) }
    }

    /// One step of the schedule. Returns false if nothing was on its way, so that time had to pass.
    pub(super) fn step(&mut self) -> bool {
        self.steps += 1;
        self.go_wrong();
        let frames: Vec<_> = self.relays.iter_mut().flat_map(SimRelay::outgoing).collect();
        for (wire, frame) in frames {
            if let Some(flow) = self.wires.get_mut(&wire) {
                flow.to_device.push_back(frame);
            }
        }
        let busy: Vec<Wire> = self
            .wires
            .iter()
            .filter(|(_, flow)| !flow.to_relay.is_empty() || !flow.to_device.is_empty())
            .map(|(wire, _)| wire.clone())
            .collect();
        if busy.is_empty() {
            self.pass_time();
            return false;
        }
        let wire = busy[self.rng.random_range(0..busy.len())].clone();
        // A few milliseconds pass, whatever happens.
        let passed = self.rng.random_range(0..3);
        self.set_time(self.now + passed);
        self.move_frames(&wire);
        true
    }

    fn go_wrong(&mut self) {
        let faults = self.faults;
        if self.happens(faults.cut)
            && let Some(wire) =
                self.wires.keys().nth(self.rng.random_range(0..self.wires.len().max(1))).cloned()
        {
            self.cut(&wire);
        }
        if self.happens(faults.device_crash) {
            let device = self.rng.random_range(0..self.devices.len());
            self.crash_device(device);
        }
        if self.happens(faults.relay_crash) {
            self.crash_relay();
        }
        if self.happens(faults.clock) {
            self.set_a_clock();
        }
    }

    /// Sets the clock of a device or of the relay, which may be told to believe it.
    fn set_a_clock(&mut self) {
        let ahead = self.rng.random_range(-SKEW..=SKEW);
        match self.rng.random_range(0..=self.devices.len()) {
            device if device < self.devices.len() => {
                self.devices[device].set_clock(ahead);
                self.input_tick(device);
            }
            _ => {
                let relay = self.any_relay();
                self.relays[relay].set_clock(ahead, self.rng.random());
            }
        }
    }

    /// Moves a frame to the relay, or some to the device, in order.
    fn move_frames(&mut self, wire: &Wire) {
        let Some(flow) = self.wires.get_mut(wire) else { return };
        let to_relay = !flow.to_relay.is_empty() && (flow.to_device.is_empty() || self.rng.random_bool(0.5));
        if to_relay {
            if let Some(frame) = flow.to_relay.pop_front() {
                self.relay_of(wire).take(wire, frame);
            }
            return;
        }
        let count = self.rng.random_range(1..=8).min(flow.to_device.len());
        let bytes: Vec<Bytes> = flow.to_device.drain(..count).collect();
        let mut frames = Vec::new();
        for bytes in bytes {
            let frame = ServerFrame::decode(bytes).expect("the relay speaks the protocol");
            self.watch.receives(wire, &frame);
            match &mut self.tamper {
                Some(tamper) => frames.extend(tamper(wire.0, frame)),
                None => frames.push(frame),
            }
        }
        self.input(wire.0, Input::Frames(wire.1.clone(), frames));
    }

    /// Nothing is on its way: time passes until somebody wants to do something.
    fn pass_time(&mut self) {
        let next = self.devices.iter().filter_map(Device::wake_at).min().unwrap_or(self.now + 1000);
        self.set_time(next.max(self.now + 1));
        for device in 0..self.devices.len() {
            if self.devices[device].wake_at().is_some_and(|at| at <= self.now) {
                self.input(device, Input::Tick);
            }
        }
    }

    fn set_time(&mut self, now: u64) {
        self.now = now;
        self.relays.iter().for_each(|relay| relay.set_time(now));
    }

    /// Runs until a command is answered.
    pub(super) fn answered<T: Send + 'static>(
        &mut self,
        device: usize,
        slot: &Slot<T>,
    ) -> Result<Result<T, Error>, String> {
        for _ in 0..20_000 {
            if let Some(answer) = slot.take() {
                return Ok(answer);
            }
            self.step();
        }
        let state = self.state(device);
        let device = &self.devices[device];
        Err(format!("{} never got an answer: {state:?}, alarms {:?}", device.name, device.alarms))
    }

    pub(super) fn state(&mut self, device: usize) -> SyncState {
        self.ask(device, Command::State).expect("is answered")
    }

    /// Runs without faults until everybody has done everything. What was seen on the wire must have been
    /// right.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.faults = Faults::NONE;
        self.quiet()?;
        self.watch.verdict()
    }

    pub(super) fn quiet(&mut self) -> Result<(), String> {
        let mut done_since = None;
        for _ in 0..60_000 {
            if self.step() {
                continue;
            }
            let done = |state: SyncState| {
                state.connected && state.caught_up && state.outbox == 0 && state.intents == 0
            };
            if !(0..self.devices.len()).all(|device| done(self.state(device))) {
                done_since = None;
                continue;
            }
            // Jittered updates and receipts may still be to come.
            let since = *done_since.get_or_insert(self.now);
            if self.now > since + SETTLED_MS {
                return Ok(());
            }
        }
        let mut states = Vec::new();
        for device in 0..self.devices.len() {
            let state = self.state(device);
            let talks = self.conversations(device).into_iter().map(|one| (one.group, one.epoch, one.state));
            let talks: Vec<_> = talks.collect();
            states.push(format!("{}: {state:?}, {talks:?}", self.devices[device].name));
        }
        Err(format!("it never settled; {}", states.join("; ")))
    }

    /// All alarms that are not among `expected`.
    pub(super) fn unexpected_alarms(&self, expected: &[Cause]) -> Vec<String> {
        let mut found = Vec::new();
        for device in &self.devices {
            for (_, cause, text) in device.alarms.iter().filter(|(_, cause, _)| !expected.contains(cause)) {
                found.push(format!("{}: {cause}: {text}", device.name));
            }
        }
        found
    }
}

/// The port of the first relay; the others follow.
const PORT: usize = 4100;

/// A relay's URL.
pub(super) fn relay_url(relay: usize) -> RelayUrl {
    RelayUrl::parse(&format!("ws://127.0.0.1:{}", PORT + relay)).expect("a relay's URL")
}

/// The number of the relay that a connection leads to.
fn number_of(link: &LinkId) -> usize {
    let port =
        link.relay.as_str().rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok());
    port.map_or(0, |port: usize| port - PORT)
}
