//! A device of the simulation: a real engine over a real database file, which outlives the engine's crashes.

use std::path::PathBuf;

use posthorn_client::conversation::{Cause, ConversationId};
use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use posthorn_client::sync::{Answer, Command, CommandError, CommandId, Effect, Engine, Event, Input};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

pub(super) struct Device {
    pub(super) name: String,
    path: PathBuf,
    engine: Option<Engine>,
    rng: StdRng,
    next_command: u64,
    /// Every alarm of its life, crashes included.
    pub(super) alarms: Vec<(Option<ConversationId>, Cause, String)>,
    answers: Vec<(CommandId, Result<Answer, CommandError>)>,
}

impl Device {
    pub(super) fn new(name: &str, folder: &std::path::Path, now: u64, rng: &mut StdRng) -> Self {
        let mut rng = StdRng::seed_from_u64(rng.next_u64());
        let path = folder.join(format!("{name}.db"));
        let passphrase = Passphrase::new("simulated");
        let database = Database::create(Location::File(&path), &passphrase, KdfCost::CHEAP, &mut rng)
            .expect("a fresh folder takes a database");
        let mut device = Self {
            name: name.to_owned(),
            path,
            engine: None,
            rng,
            next_command: 1,
            alarms: vec![],
            answers: vec![],
        };
        device.begin(database, now);
        device
    }

    fn begin(&mut self, database: Database, now: u64) {
        let rng = StdRng::seed_from_u64(self.rng.next_u64());
        self.engine =
            Some(Engine::open(database, Box::new(rng), now).map_err(|failed| failed.0).expect("opens"));
    }

    /// The process dies and starts again: only the file is left.
    pub(super) fn crash(&mut self, now: u64) {
        self.engine = None;
        self.answers.clear();
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
            Self { name, path, engine: None, rng, next_command: 1, alarms: vec![], answers: vec![] };
        device.crash(now);
        device
    }

    /// Handles an input; events are noted, and what concerns connections is returned.
    pub(super) fn handle(&mut self, input: Input, now: u64) -> Vec<Effect> {
        let engine = self.engine.as_mut().expect("is running");
        let effects =
            engine.handle(input, now).unwrap_or_else(|error| panic!("{}: engine failed: {error}", self.name));
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                Effect::Event(Event::Alarm { conversation, cause, text, .. }) => {
                    self.alarms.push((conversation, cause, text));
                }
                Effect::Event(_) => {}
                Effect::Answer(id, answer) => self.answers.push((id, *answer)),
                effect => rest.push(effect),
            }
        }
        rest
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        self.engine.as_ref().and_then(Engine::wake_at)
    }

    /// Gives a command; its answer, if any, comes later.
    pub(super) fn command(&mut self, command: Command, now: u64) -> (CommandId, Vec<Effect>) {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        (id, self.handle(Input::Command(id, command), now))
    }

    /// A command that is answered at once.
    pub(super) fn ask(&mut self, command: Command, now: u64) -> (Result<Answer, CommandError>, Vec<Effect>) {
        let (id, effects) = self.command(command, now);
        let answer = self.answer(id).expect("this kind of command is answered at once");
        (answer, effects)
    }

    /// The answer to an earlier command, once it is there.
    pub(super) fn answer(&mut self, id: CommandId) -> Option<Result<Answer, CommandError>> {
        let at = self.answers.iter().position(|(answered, _)| *answered == id)?;
        Some(self.answers.swap_remove(at).1)
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
