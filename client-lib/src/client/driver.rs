//! Drives the engine: carries inputs to it and effects from it, on a thread of its own, because the engine
//! waits for the disk. All decisions are the engine's.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::clock::Clock;
use crate::engine::{Command, Effect, Engine, Error, Event, Input, LinkId, Randomness, Reply, SyncState};
use crate::store::Database;
use crate::transport::{Connection, FromLink};

/// After the local database failed (a full disk), the engine starts anew after this long.
const DATABASE_RETRY: Duration = Duration::from_secs(2);
/// Inputs from connections that wait for the engine; beyond that they wait in the sockets.
const INPUT_QUEUE: usize = 64;
/// Inputs that are handled in one transaction, at most.
const AT_ONCE: usize = 64;
/// Without anything to do, look again after this long.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What a [`super::Client`] asks of its driver.
pub(super) enum Ask {
    Command(Box<Command>),
    /// Tell when the state is like this. Whoever asks waits for so long, and then drops `done`.
    Settled {
        like: Box<dyn Fn(&SyncState) -> bool + Send>,
        done: oneshot::Sender<()>,
        timeout: Duration,
    },
    /// Write all of the profile into this file.
    Backup(PathBuf, Reply<()>),
    Close(oneshot::Sender<()>),
}

type Waiting = (Box<dyn Fn(&SyncState) -> bool + Send>, oneshot::Sender<()>);

pub(super) struct Driver {
    engine: Engine,
    clock: Clock,
    asks: mpsc::Receiver<Ask>,
    events: broadcast::Sender<Event>,
    settling: Vec<Waiting>,
    connections: HashMap<LinkId, Connection>,
    next_generation: u64,
    inputs: mpsc::Receiver<FromLink>,
    to_inputs: mpsc::Sender<FromLink>,
}

/// From the system for each draw: a copy of a running machine must not draw the same twice.
fn randomness() -> Randomness {
    Box::new(OsRng.unwrap_err())
}

impl Driver {
    pub(super) fn new(
        database: Database,
        clock: Clock,
        asks: mpsc::Receiver<Ask>,
        events: broadcast::Sender<Event>,
    ) -> Result<Self, Error> {
        let (to_inputs, inputs) = mpsc::channel(INPUT_QUEUE);
        Ok(Self {
            engine: Engine::open(database, randomness(), clock.now()).map_err(|failed| failed.0)?,
            clock,
            asks,
            events,
            settling: Vec::new(),
            connections: HashMap::new(),
            next_generation: 1,
            inputs,
            to_inputs,
        })
    }

    /// Runs until the client is closed or dropped.
    pub(super) async fn run(mut self) {
        loop {
            let wait = self
                .engine
                .wake_at()
                .map_or(LONGEST_SLEEP, |at| Duration::from_millis(at.saturating_sub(self.clock.now())));
            let mut batch = Vec::new();
            let mut close = None;
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None => break,
                    Some(ask) => close = self.take(ask, &mut batch),
                },
                Some(input) = self.inputs.recv() => self.hear(input, &mut batch),
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => batch.push(Input::Tick),
                () = self.clock.moved() => batch.push(Input::Tick),
            }
            // Everything that waits goes into the same transaction.
            while close.is_none() && batch.len() < AT_ONCE {
                if let Ok(ask) = self.asks.try_recv() {
                    close = self.take(ask, &mut batch);
                } else if let Ok(input) = self.inputs.try_recv() {
                    self.hear(input, &mut batch);
                } else {
                    break;
                }
            }
            let handled = self.handle(batch).and_then(|()| self.look_who_settles());
            if let Err(error) = handled {
                if let Some(done) = close {
                    // It is as durable as it will be.
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                match self.restart(error).await {
                    Some(driver) => self = driver,
                    None => return,
                }
            }
            if let Some(done) = close {
                self.connections.clear();
                end(self.engine);
                // Whoever closed may not wait for it.
                let _ = done.send(());
                return;
            }
        }
        self.connections.clear();
        end(self.engine);
    }

    /// Takes what the client asks; who waits for the end, if that is it.
    fn take(&mut self, ask: Ask, batch: &mut Vec<Input>) -> Option<oneshot::Sender<()>> {
        match ask {
            Ask::Command(command) => batch.push(Input::Command(*command)),
            Ask::Settled { like, done, .. } => self.settling.push((like, done)),
            Ask::Backup(file, reply) => reply.give(self.engine.backup(&file)),
            Ask::Close(done) => return Some(done),
        }
        None
    }

    /// Takes something from a connection; one that was replaced may still have had something in the queue.
    fn hear(&mut self, (id, generation, input): FromLink, batch: &mut Vec<Input>) {
        if self.connections.get(&id).is_some_and(|connection| connection.generation == generation) {
            if matches!(input, Input::Disconnected(..)) {
                self.connections.remove(&id);
            }
            batch.push(input);
        }
    }

    fn handle(&mut self, inputs: Vec<Input>) -> Result<(), Error> {
        if inputs.is_empty() {
            return Ok(());
        }
        let mut dead = Vec::new();
        // A panic in somebody's code must not take the app with it. The transaction was rolled back; the
        // engine is opened again, with more care (`engine::careful`).
        let handled = catch_unwind(AssertUnwindSafe(|| self.engine.handle(inputs, self.clock.now())));
        let effects = handled.unwrap_or(Err(Error::Internal))?;
        for effect in effects {
            match effect {
                Effect::Connect(id) => {
                    let (route, inputs) = (self.engine.route(&id.relay), self.to_inputs.clone());
                    let connection = Connection::start(id.clone(), route, self.next_generation, inputs);
                    self.next_generation += 1;
                    self.connections.insert(id, connection);
                }
                Effect::Disconnect(id) => dead.push(Input::Disconnected(id, "given up".to_owned())),
                Effect::Send(id, frame) => {
                    if self.connections.get(&id).is_some_and(|connection| !connection.send(frame)) {
                        dead.push(Input::Disconnected(id, "the connection is stuck".to_owned()));
                    }
                }
                // Nobody has to listen.
                Effect::Event(event) => drop(self.events.send(event)),
                Effect::Answer(answer) => answer.give(),
            }
        }
        dead.retain(|input| match input {
            Input::Disconnected(id, _) => self.connections.remove(id).is_some(),
            _ => false,
        });
        self.handle(dead)
    }

    /// Tells those who wait for everything to be done, when it is.
    fn look_who_settles(&mut self) -> Result<(), Error> {
        self.settling.retain(|(_, done)| !done.is_closed());
        if self.settling.is_empty() {
            return Ok(());
        }
        let (told, state) = std::sync::mpsc::sync_channel(1);
        let reply = Reply::new(move |state| drop(told.try_send(state)));
        self.handle(vec![Input::Command(Command::State(reply))])?;
        let Ok(Ok(state)) = state.try_recv() else { return Ok(()) };
        let (done, waiting) =
            std::mem::take(&mut self.settling).into_iter().partition(|(like, _)| like(&state));
        self.settling = waiting;
        let done: Vec<Waiting> = done;
        for (_, done) in done {
            let _ = done.send(());
        }
        Ok(())
    }

    /// The database failed, or this program did, and the input was not handled. Everything durable is as
    /// before it: begin anew from there.
    async fn restart(mut self, error: Error) -> Option<Self> {
        let reason = match error {
            Error::Internal => "something went wrong in this program; it begins anew".to_owned(),
            error => format!("this device's database failed: {error}; it is tried again"),
        };
        tracing::warn!("{reason}");
        let retry_in_ms = DATABASE_RETRY.as_millis() as u64;
        // Nobody has to listen.
        let _ = self.events.send(Event::Disconnected { reason, retry_in_ms });
        self.connections.clear();
        let mut left = self.engine.failed();
        loop {
            let retry = tokio::time::Instant::now() + DATABASE_RETRY;
            // Meanwhile nobody waits: a command that is dropped is answered as one that was not taken.
            while let Ok(ask) = tokio::time::timeout_at(retry, self.asks.recv()).await {
                match ask {
                    Some(Ask::Command(_) | Ask::Backup(..)) => {}
                    Some(Ask::Settled { like, done, .. }) => self.settling.push((like, done)),
                    Some(Ask::Close(done)) => {
                        drop(left);
                        let _ = done.send(());
                        return None;
                    }
                    None => return None,
                }
            }
            match left.reopen(randomness(), self.clock.now()) {
                Ok(engine) => return Some(Self { engine, ..self }),
                Err(failed) => left = failed.1,
            }
        }
    }
}

fn end(engine: Engine) {
    if let Err(error) = engine.close() {
        tracing::warn!(%error, "the profile could not be closed in order");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use posthorn_proto::Handle;
    use rand::{CryptoRng, RngCore, TryRngCore as _};

    use super::*;
    use crate::conversation::ConversationId;
    use crate::identity::RelayUrl;
    use crate::store::{KdfCost, Location, Passphrase};

    /// Randomness that panics once when it is told to, as a bug in somebody's code would.
    struct Trap {
        is_set: Arc<AtomicBool>,
    }

    impl RngCore for Trap {
        fn next_u32(&mut self) -> u32 {
            let mut bytes = [0; 4];
            self.fill_bytes(&mut bytes);
            u32::from_le_bytes(bytes)
        }

        fn next_u64(&mut self) -> u64 {
            let mut bytes = [0; 8];
            self.fill_bytes(&mut bytes);
            u64::from_le_bytes(bytes)
        }

        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            assert!(!self.is_set.swap(false, Ordering::SeqCst), "a bug");
            OsRng.unwrap_err().fill_bytes(bytes);
        }
    }

    impl CryptoRng for Trap {}

    fn register(reply: Reply<crate::engine::Account>) -> Ask {
        let relay = RelayUrl::parse("ws://127.0.0.1:1").expect("a URL");
        let handle = Handle::parse("ann").expect("a handle");
        Ask::Command(Box::new(Command::Register { relay, handle, invite: String::new(), reply }))
    }

    /// Whoever closes while the database fails is not kept until it works again, also when the end is asked
    /// for in the batch that fails.
    #[tokio::test]
    async fn closing_waits_for_no_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("profile.db");
        let database = Database::create(
            Location::File(&path),
            &Passphrase::new("x"),
            KdfCost::CHEAP,
            &mut OsRng.unwrap_err(),
        );
        let (asks, asked) = mpsc::channel(8);
        let events = broadcast::channel(8).0;
        let driver = Driver::new(database.expect("is made"), Clock::system(), asked, events).expect("opens");
        let other = rusqlite::Connection::open(&path).expect("opens");
        other.execute_batch("ALTER TABLE conversation RENAME TO away").expect("it fails from now on");
        let (told, listed) = oneshot::channel();
        let reply = Reply::new(move |result| drop(told.send(result.map(drop))));
        let list = Command::Members(ConversationId([1; 16]), reply);
        asks.send(Ask::Command(Box::new(list))).await.expect("waits");
        let (told, closed) = oneshot::channel();
        asks.send(Ask::Close(told)).await.expect("waits");
        let mut running = tokio::task::JoinSet::new();
        running.spawn(driver.run());
        let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
        closed.expect("nothing is waited for").expect("it is told");
        let listed = listed.await;
        assert!(listed.is_err(), "it failed: {listed:?}");
        running.join_next().await.expect("one").expect("no panic comes through");
    }

    /// The app goes on, whoever asked is told, and so is whoever listens.
    #[tokio::test]
    async fn a_panic_in_the_engine_ends_one_input_and_nothing_else() {
        let database = Database::create(
            Location::Memory,
            &Passphrase::new("x"),
            KdfCost::CHEAP,
            &mut OsRng.unwrap_err(),
        )
        .expect("in memory");
        let (asks, asked) = mpsc::channel(8);
        let (events, mut heard) = broadcast::channel(64);
        let mut driver = Driver::new(database, Clock::system(), asked, events).expect("opens");
        let is_set = Arc::new(AtomicBool::new(false));
        let trap = Box::new(Trap { is_set: Arc::clone(&is_set) });
        driver.engine = Engine::open(driver.engine.failed().into_database(), trap, driver.clock.now())
            .map_err(|failed| failed.0)
            .expect("opens");
        let mut running = tokio::task::JoinSet::new();
        running.spawn(driver.run());
        is_set.store(true, Ordering::SeqCst);
        let (told, answer) = oneshot::channel();
        asks.send(register(Reply::new(move |result| drop(told.send(result.map(drop)))))).await.expect("runs");
        let answer = answer.await.expect("whoever asked hears of it");
        assert_eq!(answer.expect_err("it was not taken").code(), "INTERNAL");
        assert!(!is_set.load(Ordering::SeqCst), "the trap has closed");
        let told = |event: Event| matches!(event, Event::Disconnected { reason, .. } if reason.contains("went wrong"));
        assert!(told(heard.recv().await.expect("an event")));
        // It begins anew, from what is durable: nothing of the command.
        let (told, settled) = oneshot::channel();
        let timeout = Duration::from_secs(60);
        asks.send(Ask::Settled { like: Box::new(|_| true), done: told, timeout }).await.expect("runs");
        settled.await.expect("it is looked at when it has begun anew");
        let (told, answer) = oneshot::channel();
        let account = Command::Account(Reply::new(move |result| drop(told.send(result))));
        asks.send(Ask::Command(Box::new(account))).await.expect("runs");
        assert!(answer.await.expect("answered").expect("it goes on").is_none());
        let (told, closed) = oneshot::channel();
        asks.send(Ask::Close(told)).await.expect("runs");
        closed.await.expect("it closes");
        running.join_next().await.expect("one").expect("no panic comes through");
    }
}
