//! The sync engine: everything that a device does, as input to effects (C5).
//!
//! [`Engine::handle`] takes one [`Input`] and the time, does its work in ONE transaction of the local
//! database, and returns the [`Effect`]s to carry out once that is committed (C1): what goes to a relay was
//! durable before. It opens no socket, reads no clock and waits for nothing; the driver in [`crate::client`]
//! does, and the simulation in `tests/`.
//!
//! Reading order: `api` (inputs, effects, commands, events), `link` (a connection to a relay), `account`
//! (registration and upkeep), `open` (opening mailboxes), `receive` (deliveries to conversations), `inbox`
//! (to inboxes), `progress` (what a conversation does next: create, commit, post), `commit` (intents into
//! commits, and what follows from one), `command` (what the person asks), and the tables `reading`, `profile`
//! and `strangers`.
//!
//! Invariant: facts live in the database only. What `Live` holds is of this run: connections, requests in
//! flight, what to look at next. A crash loses it, and the first pass after a start finds everything again.

mod account;
mod api;
mod command;
mod commit;
mod error;
mod inbox;
mod link;
mod open;
mod profile;
mod progress;
mod reading;
mod receive;
mod strangers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use posthorn_proto::frame::{Request, ServerFrame};
use rand::CryptoRng;

pub use api::{
    Account, Answer, Command, CommandError, CommandId, Contact, ConversationSummary, Effect, Event, Input,
    Link, LinkId, MemberSummary, SyncState,
};
pub use error::EngineError;

use crate::conversation::{Cause, Conversation, ConversationId};
use crate::store::{Database, Transaction};
use link::{LinkState, Pending};
use profile::Profile;
use reading::Reading;

/// A source of randomness that the engine owns.
pub type Randomness = Box<dyn CryptoRng + Send>;

/// The sans-IO core of a device. See the module's documentation.
pub struct Engine {
    database: Database,
    rng: Randomness,
    live: Live,
}

/// What this run knows beside the database.
#[derive(Default)]
struct Live {
    links: BTreeMap<LinkId, LinkState>,
    /// Conversations to look at in this pass.
    dirty: BTreeSet<ConversationId>,
    /// Look at parcels for inboxes in this pass.
    inbox_posts_dirty: bool,
    /// Look for mailboxes to open in this pass.
    openings_dirty: bool,
    /// Conversations to look at later, by unix milliseconds.
    timers: BTreeSet<(u64, ConversationId)>,
    /// Who asked for what an intent wants.
    asked: BTreeMap<i64, CommandId>,
    /// Which of them start a conversation.
    starting: BTreeMap<CommandId, ConversationId>,
    /// Who asked to register.
    registering: Option<CommandId>,
    /// One-time key packages at the relay, once it told.
    stock: Option<u32>,
    /// Conversations whose lock turned before we read it, since when (unix milliseconds).
    turned: BTreeMap<ConversationId, u64>,
    /// Mailboxes that refuse for now, until when.
    paused: BTreeMap<posthorn_proto::MailboxId, u64>,
}

/// One input being handled, inside one transaction.
struct Step<'a> {
    tx: &'a Transaction<'a>,
    live: &'a mut Live,
    rng: &'a mut dyn CryptoRng,
    now: u64,
    effects: Vec<Effect>,
}

impl Live {
    /// What the database says is to be done.
    fn begin(database: &mut Database, rng: &mut Randomness, now: u64) -> Result<Self, EngineError> {
        let mut live = Self { inbox_posts_dirty: true, openings_dirty: true, ..Self::default() };
        let tx = database.transaction(rng)?;
        for (id, _) in Conversation::all(&tx)? {
            live.dirty.insert(id);
        }
        if let Some(profile) = Profile::load(&tx)? {
            live.want_links(&profile, now)?;
        }
        for (_, reading) in Reading::all(&tx)? {
            live.want_relay(&reading.relay, now);
        }
        Ok(live)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Engine {
    /// The engine of a database; whatever was left undone goes on with the first inputs.
    /// With an error the database comes back, for another try.
    pub fn open(
        mut database: Database,
        mut rng: Randomness,
        now: u64,
    ) -> Result<Self, Box<(EngineError, Database)>> {
        match Live::begin(&mut database, &mut rng, now) {
            Ok(live) => Ok(Self { database, rng, live }),
            Err(error) => Err(Box::new((error, database))),
        }
    }

    /// Handles one input in one transaction. An error is of the database: nothing was done, and the engine
    /// must be dropped and opened again.
    pub fn handle(&mut self, input: Input, now: u64) -> Result<Vec<Effect>, EngineError> {
        let tx = self.database.transaction(&mut self.rng)?;
        let mut step = Step { tx: &tx, live: &mut self.live, rng: &mut self.rng, now, effects: Vec::new() };
        step.input(input)?;
        step.progress()?;
        let effects = step.effects;
        tx.commit()?;
        Ok(effects)
    }

    /// When [`Input::Tick`] is wanted at the latest, unix milliseconds.
    pub fn wake_at(&self) -> Option<u64> {
        let links = self.live.links.values().filter_map(LinkState::wake_at);
        let timers = self.live.timers.first().map(|(at, _)| *at);
        links.chain(timers).chain(self.live.paused.values().copied()).min()
    }

    /// The database, after the engine's work is over.
    pub fn into_database(self) -> Database {
        self.database
    }
}

impl Step<'_> {
    fn input(&mut self, input: Input) -> Result<(), EngineError> {
        match input {
            Input::Tick => Ok(()),
            Input::Connected(id) => {
                self.link_connected(&id);
                Ok(())
            }
            Input::Disconnected(id, reason) => {
                self.link_disconnected(&id, reason);
                Ok(())
            }
            Input::Frames(id, frames) => self.frames(&id, frames),
            Input::Command(id, command) => self.command(id, command),
        }
    }

    /// Everything that can be done now, until nothing more can.
    fn progress(&mut self) -> Result<(), EngineError> {
        self.wake_timers();
        self.progress_links();
        self.progress_account()?;
        self.progress_openings()?;
        while let Some(id) = self.live.dirty.pop_first() {
            self.progress_conversation(&id)?;
        }
        if std::mem::take(&mut self.live.inbox_posts_dirty) {
            self.progress_inbox_posts()?;
        }
        Ok(())
    }

    fn wake_timers(&mut self) {
        while let Some((at, id)) = self.live.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.live.timers.remove(&(at, id));
            self.live.dirty.insert(id);
        }
        let over: Vec<_> =
            self.live.paused.iter().filter(|(_, until)| **until <= self.now).map(|(id, _)| *id).collect();
        if !over.is_empty() {
            over.iter().for_each(|id| {
                self.live.paused.remove(id);
            });
            self.look_everywhere();
        }
    }

    /// Looks at a conversation again at a time.
    fn wake_conversation(&mut self, id: ConversationId, at: u64) {
        self.live.timers.insert((at, id));
    }

    /// A link came up or a refusal ended: everything may be able to go on.
    fn look_everywhere(&mut self) {
        self.live.inbox_posts_dirty = true;
        self.live.openings_dirty = true;
        if let Ok(all) = Conversation::all(self.tx) {
            self.live.dirty.extend(all.into_iter().map(|(id, _)| id));
        }
    }

    /// Takes frames of a link in order, then acknowledges once for each mailbox that moved.
    fn frames(&mut self, id: &LinkId, frames: Vec<ServerFrame>) -> Result<(), EngineError> {
        let mut moved = BTreeMap::new();
        for frame in frames {
            self.frame(id, frame, &mut moved)?;
        }
        for (mailbox, delivered) in moved {
            self.acknowledge(id, &mailbox, delivered)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        self.effects.push(Effect::Event(event));
    }

    fn alarm(
        &mut self,
        conversation: Option<ConversationId>,
        cause: Cause,
        seq: Option<u64>,
        text: impl Into<String>,
    ) {
        self.event(Event::Alarm { conversation, cause, seq, text: text.into() });
    }

    fn answer(&mut self, command: CommandId, answer: Result<Answer, CommandError>) {
        self.effects.push(Effect::Answer(command, Box::new(answer)));
    }

    /// Sends a request on a link that is up, and remembers what its answer is for.
    fn request(&mut self, id: &LinkId, request: Request, pending: Pending) {
        if let Some(frame) =
            self.live.links.get_mut(id).and_then(|link| link.request(request, pending, self.now))
        {
            self.effects.push(Effect::Send(id.clone(), frame));
        }
    }
}
