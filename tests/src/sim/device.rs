//! A device of the simulation: a real engine over a real database file, which outlives the engine's crashes.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use posthorn_client::conversation::{Cause, ConversationId};
use posthorn_client::engine::{Command, Consent, Effect, Engine, Error, Event, Input, Reply};
use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

pub(super) struct Device {
    pub(super) name: String,
    path: PathBuf,
    engine: Option<Engine>,
    rng: StdRng,
    /// By how much its clock is ahead of the world's, milliseconds.
    ahead: i64,
    /// What is to be done since it began.
    begun: Vec<Effect>,
    /// Every alarm of its life, crashes included.
    pub(super) alarms: Vec<(Option<ConversationId>, Cause, String)>,
}

/// Whether all that happens is told on standard error, for whoever looks for the reason of a failure.
pub(super) fn is_traced() -> bool {
    static TRACED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("POSTHORN_SIM_TRACE").is_some());
    *TRACED
}

/// Where the answer to a command appears.
pub(super) struct Slot<T>(Arc<Mutex<Option<Result<T, Error>>>>);

impl<T: Send + 'static> Slot<T> {
    pub(super) fn new() -> (Self, Reply<T>) {
        let slot = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&slot);
        let reply = Reply::new(move |result| {
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        (Self(slot), reply)
    }

    /// The answer, once it is there.
    pub(super) fn take(&self) -> Option<Result<T, Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Device {
    pub(super) fn new(
        name: &str,
        folder: &std::path::Path,
        (now, ahead): (u64, i64),
        rng: &mut StdRng,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(rng.next_u64());
        let path = folder.join(format!("{name}.db"));
        let passphrase = Passphrase::new("simulated");
        let database = Database::create(Location::File(&path), &passphrase, KdfCost::CHEAP, &mut rng)
            .expect("a fresh folder takes a database");
        let mut device =
            Self { name: name.to_owned(), path, engine: None, rng, ahead, begun: vec![], alarms: vec![] };
        device.begin(database, now);
        device
    }

    /// What its clock shows at this time of the world.
    fn shows(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead)
    }

    /// Somebody sets its clock.
    pub(super) fn set_clock(&mut self, ahead: i64) {
        self.ahead = ahead;
    }

    fn begin(&mut self, database: Database, now: u64) {
        let rng = StdRng::seed_from_u64(self.rng.next_u64());
        self.engine = Some(
            Engine::open(database, Box::new(rng), self.shows(now)).map_err(|failed| failed.0).expect("opens"),
        );
        // What consent is about stands in the engine's own tests.
        self.begun = self.handle(Input::Command(Command::Consent(Consent::Everybody, Reply::ignore())), now);
    }

    /// The process dies and starts again: only the file is left.
    pub(super) fn crash(&mut self, now: u64) {
        self.engine = None;
        let database = Database::open(Location::File(&self.path), &Passphrase::new("simulated"))
            .expect("opens after a crash");
        self.begin(database, now);
    }

    /// The process ends in order.
    pub(super) fn stop(&mut self) {
        self.engine = None;
    }

    /// Keeps a copy of the database as it is now, for [`Device::put_back`].
    pub(super) fn keep_copy(&self) {
        copy_database(&self.path, &self.path.with_extension("kept"));
    }

    /// Puts the kept copy in place of the database of a device that is stopped.
    pub(super) fn put_back(&mut self) {
        copy_database(&self.path.with_extension("kept"), &self.path);
    }

    /// Runs SQL on the database of a device that is stopped.
    pub(super) fn damage(&mut self, sql: &str) {
        let mut database =
            Database::open(Location::File(&self.path), &Passphrase::new("simulated")).expect("opens");
        let tx = database.transaction(&mut self.rng).expect("begins");
        tx.sql().execute_batch(sql).expect("runs");
        tx.commit().expect("commits");
    }

    /// Another process on a copy of the database.
    pub(super) fn copied(&self, rng: &mut StdRng, now: u64) -> Self {
        let name = format!("{}'s copy", self.name);
        let path = self.path.with_extension("copy");
        copy_database(&self.path, &path);
        let rng = StdRng::seed_from_u64(rng.next_u64());
        let mut device =
            Self { name, path, engine: None, rng, ahead: self.ahead, begun: vec![], alarms: vec![] };
        device.crash(now);
        device
    }

    /// Handles an input; events are noted, and what concerns connections is returned.
    pub(super) fn handle(&mut self, input: Input, now: u64) -> Vec<Effect> {
        let now = self.shows(now);
        let engine = self.engine.as_mut().expect("is running");
        let effects = engine
            .handle([input], now)
            .unwrap_or_else(|error| panic!("{}: engine failed: {error}", self.name));
        let mut rest = std::mem::take(&mut self.begun);
        for effect in effects {
            if let Effect::Event(event) = &effect
                && is_traced()
            {
                eprintln!("{now} {}: {event:?}", self.name);
            }
            match effect {
                Effect::Event(Event::Alarm { conversation, cause, text, .. }) => {
                    self.alarms.push((conversation, cause, text));
                }
                Effect::Event(_) => {}
                Effect::Answer(answer) => answer.give(),
                effect => rest.push(effect),
            }
        }
        rest
    }

    /// When it wants to do something, in the world's time.
    pub(super) fn wake_at(&self) -> Option<u64> {
        let at = self.engine.as_ref().and_then(Engine::wake_at)?;
        Some(at.saturating_add_signed(-self.ahead))
    }

    /// Gives a command; its answer, if any, comes later.
    pub(super) fn command<T: Send + 'static>(
        &mut self,
        command: impl FnOnce(Reply<T>) -> Command,
        now: u64,
    ) -> (Slot<T>, Vec<Effect>) {
        let (slot, reply) = Slot::new();
        (slot, self.handle(Input::Command(command(reply)), now))
    }
}

/// A database is a file and its log. Nothing writes while this runs.
fn copy_database(from: &std::path::Path, to: &std::path::Path) {
    let log = |path: &std::path::Path| {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        PathBuf::from(name)
    };
    std::fs::copy(from, to).expect("copies");
    match std::fs::copy(log(from), log(to)) {
        Ok(_) => {}
        // It was closed in order, and there is no log.
        Err(_) => drop(std::fs::remove_file(log(to))),
    }
}
