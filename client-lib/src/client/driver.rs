//! Drives the engine: carries inputs to it and effects from it, on a thread of its own, because the engine
//! waits for the disk. All decisions are the engine's.

use std::collections::HashMap;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::clock::now;
use crate::store::Database;
use crate::sync::{
    Answer, Command, CommandError, CommandId, Effect, Engine, EngineError, Event, Input, LinkId,
};
use crate::transport::{Connection, FromLink};

/// After the local database failed (a full disk), the engine starts anew after this long.
const DATABASE_RETRY: Duration = Duration::from_secs(2);
/// Inputs from connections that wait for the engine; beyond that they wait in the sockets.
const INPUT_QUEUE: usize = 64;
/// Without anything to do, look again after this long.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What a [`super::Client`] asks of its driver.
pub(super) enum Ask {
    Command(Command, oneshot::Sender<Result<Answer, CommandError>>),
    Close(oneshot::Sender<()>),
}

pub(super) struct Driver {
    engine: Engine,
    asks: mpsc::Receiver<Ask>,
    events: broadcast::Sender<Event>,
    replies: HashMap<CommandId, oneshot::Sender<Result<Answer, CommandError>>>,
    next_command: u64,
    connections: HashMap<LinkId, Connection>,
    next_generation: u64,
    inputs: mpsc::Receiver<FromLink>,
    to_inputs: mpsc::Sender<FromLink>,
}

impl Driver {
    pub(super) fn new(
        database: Database,
        asks: mpsc::Receiver<Ask>,
        events: broadcast::Sender<Event>,
    ) -> Result<Self, EngineError> {
        let (to_inputs, inputs) = mpsc::channel(INPUT_QUEUE);
        Ok(Self {
            engine: Engine::open(database, Box::new(StdRng::from_os_rng()), now())
                .map_err(|failed| failed.0)?,
            asks,
            events,
            replies: HashMap::new(),
            next_command: 1,
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
                .map_or(LONGEST_SLEEP, |at| Duration::from_millis(at.saturating_sub(now())));
            let result = tokio::select! {
                ask = self.asks.recv() => match ask {
                    None => return,
                    Some(Ask::Close(done)) => {
                        self.connections.clear();
                        drop(self.engine);
                        // Whoever closed may not wait for it.
                        let _ = done.send(());
                        return;
                    }
                    Some(Ask::Command(command, reply)) => {
                        let id = CommandId(self.next_command);
                        self.next_command += 1;
                        self.replies.insert(id, reply);
                        self.handle(Input::Command(id, command))
                    }
                },
                Some((id, generation, input)) = self.inputs.recv() => {
                    // A connection that was replaced may still have had something in the queue.
                    if self.connections.get(&id).is_some_and(|connection| connection.generation == generation) {
                        if matches!(input, Input::Disconnected(..)) {
                            self.connections.remove(&id);
                        }
                        self.handle(input)
                    } else {
                        Ok(())
                    }
                }
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => self.handle(Input::Tick),
            };
            if let Err(error) = result {
                match self.restart(error).await {
                    Some(driver) => self = driver,
                    None => return,
                }
            }
        }
    }

    fn handle(&mut self, input: Input) -> Result<(), EngineError> {
        let mut dead = Vec::new();
        for effect in self.engine.handle(input, now())? {
            match effect {
                Effect::Connect(id) => {
                    let connection =
                        Connection::start(id.clone(), self.next_generation, self.to_inputs.clone());
                    self.next_generation += 1;
                    self.connections.insert(id, connection);
                }
                Effect::Disconnect(id) => dead.push((id, "given up".to_owned())),
                Effect::Send(id, frame) => {
                    if self.connections.get(&id).is_some_and(|connection| !connection.send(frame)) {
                        dead.push((id, "the connection is stuck".to_owned()));
                    }
                }
                // Nobody has to listen.
                Effect::Event(event) => drop(self.events.send(event)),
                Effect::Answer(id, answer) => {
                    if let Some(reply) = self.replies.remove(&id) {
                        // Whoever asked may be gone.
                        let _ = reply.send(*answer);
                    }
                }
            }
        }
        for (id, reason) in dead {
            if self.connections.remove(&id).is_some() {
                self.handle(Input::Disconnected(id, reason))?;
            }
        }
        Ok(())
    }

    /// The database failed and the input was not handled. Everything durable is as before it: begin anew from
    /// there.
    async fn restart(mut self, error: EngineError) -> Option<Self> {
        tracing::warn!(%error, "the local database failed; trying again");
        self.connections.clear();
        self.replies.clear();
        let mut database = self.engine.into_database();
        loop {
            tokio::time::sleep(DATABASE_RETRY).await;
            if self.asks.is_closed() {
                return None;
            }
            match Engine::open(database, Box::new(StdRng::from_os_rng()), now()) {
                Ok(engine) => return Some(Self { engine, ..self }),
                Err(failed) => database = failed.1,
            }
        }
    }
}
