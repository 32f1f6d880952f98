//! The engine: everything that a device does, as inputs to effects (C5).
//!
//! [`Engine::handle`] takes what waits ([`Input`]s) and the time, does its work in ONE transaction of the
//! local database, and returns the [`Effect`]s to carry out once that is committed (C1): what goes to a relay
//! was durable before. It opens no socket, reads no clock and waits for nothing; the driver in
//! [`crate::client`] does, and the simulation in `tests/`. Write a driver of your own around these two types.
//!
//! Its folders are the things that a device has: `link` (connections to relays), `account` (registration and
//! what the relay is kept stocked with), `mailbox` (opening, reading), `talk` (a conversation), `inbox`
//! (invitations and other things from outside). `step` is one pass, `live` what a run knows.
//!
//! **Nothing from outside ends an engine** (rule 28). [`Error::is_fatal`] is true of the local database
//! alone. Whatever else goes wrong in a delivery is rolled back to before it and suspends that conversation;
//! a delivery that killed the process three times is passed over (`careful`).
//!
//! Invariant: facts live in the database only. What `Live` holds is of this run: connections, requests in
//! flight, what to look at next, and copies of rows that the last transaction committed. A crash loses it,
//! and the first pass after a start finds everything again.

mod account;
mod api;
mod careful;
mod command;
mod error;
mod inbox;
mod link;
mod live;
mod mailbox;
mod people;
mod step;
mod talk;
#[cfg(any(test, feature = "fuzzing"))]
mod tests;

use rand::CryptoRng;

pub use api::{
    Account, Answer, Command, Consent, ConversationSummary, Effect, Event, Input, Known, Link, LinkId,
    MemberSummary, Page, Person, Relay, Reply, SyncState, Unreachable, Waiting, Who,
};
pub use error::Error;

use crate::identity::{RelayUrl, Route};
use crate::store::Database;
use live::{Live, Promised};
use step::Step;

/// What the fuzz target `hostile_member` does with an input; panics if a promise breaks.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn hostile_member(input: &[u8]) {
    tests::hostile::play(input);
}

/// A source of randomness that the engine owns.
pub type Randomness = Box<dyn CryptoRng + Send>;

/// The sans-IO core of a device. See the module's documentation.
pub struct Engine {
    database: Database,
    rng: Randomness,
    live: Live,
    /// The database failed after a part of the last inputs was committed, whose effects were still carried
    /// out.
    failure: Option<Error>,
}

/// What an engine leaves that has failed: its database, and what the app was promised for as long as it runs.
#[derive(Debug)]
pub struct Failed {
    database: Database,
    promised: Promised,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Engine {
    /// The engine of a database; whatever was left undone goes on with the first inputs.
    /// With an error the database comes back, for another try.
    pub fn open(database: Database, rng: Randomness, now: u64) -> Result<Self, Box<(Error, Database)>> {
        let begun = Failed { database, promised: Promised::default() }.reopen(rng, now);
        begun.map_err(|failed| Box::new((failed.0, failed.1.database)))
    }

    /// Handles what waits, in one transaction. An error is of the database: nothing was done, and the engine
    /// must be dropped and opened again.
    pub fn handle(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now: u64,
    ) -> Result<Vec<Effect>, Error> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if self.live.careful > 0 {
            return self.handle_carefully(inputs.into_iter().collect(), now);
        }
        self.run(now, |step| inputs.into_iter().try_for_each(|input| step.input(input)))
    }

    /// One transaction: `work`, then everything that follows from it.
    fn run(
        &mut self,
        now: u64,
        work: impl FnOnce(&mut Step<'_>) -> Result<(), Error>,
    ) -> Result<Vec<Effect>, Error> {
        let tx = self.database.transaction(&mut self.rng)?;
        let mut step = Step::new(&tx, &mut self.live, &mut self.rng, now);
        work(&mut step)?;
        step.progress()?;
        let effects = step.finish()?;
        tx.commit()?;
        Ok(effects)
    }

    /// When [`Input::Tick`] is wanted at the latest, unix milliseconds.
    pub fn wake_at(&self) -> Option<u64> {
        if self.failure.is_some() { Some(0) } else { self.live.wake_at() }
    }

    /// The way to a relay, for whoever makes the connections.
    pub fn route(&self, relay: &RelayUrl) -> Route {
        self.live.route(relay)
    }

    /// Writes all of the profile into one file, encrypted under its passphrase ([`Database::backup`]).
    #[cfg(not(target_family = "wasm"))]
    pub fn backup(&mut self, file: &std::path::Path) -> Result<(), Error> {
        Ok(self.database.backup(file, &mut self.rng)?)
    }

    /// Ends the work in order: the next start knows that nothing killed this one.
    pub fn close(mut self) -> Result<Database, Error> {
        self.live.links.clear();
        let tx = self.database.transaction(&mut self.rng)?;
        careful::ended_well(&tx)?;
        tx.commit()?;
        Ok(self.database)
    }

    /// What is left of it after it failed.
    pub fn failed(self) -> Failed {
        Failed { database: self.database, promised: self.live.promised }
    }
}

impl Failed {
    /// Begins anew where the database stands. Who waits for something that is durable goes on waiting; with
    /// an error everything comes back, for another try.
    pub fn reopen(self, mut rng: Randomness, now: u64) -> Result<Engine, Box<(Error, Self)>> {
        let Self { mut database, promised } = self;
        match Live::begin(&mut database, &mut rng, now) {
            Ok((mut live, kept)) => {
                live.promised = promised.of(&kept);
                Ok(Engine { database, rng, live, failure: None })
            }
            Err(error) => Err(Box::new((error, Self { database, promised }))),
        }
    }

    /// The database alone; whoever waits is told that it has ended.
    pub fn into_database(self) -> Database {
        self.database
    }
}
