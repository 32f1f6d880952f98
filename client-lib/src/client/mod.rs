//! What an app holds: a [`Client`] over one profile, which stays in touch with its relay by itself.
//!
//! ```no_run
//! # async fn example(database: posthorn_client::store::Database) -> Result<(), posthorn_client::client::ClientError> {
//! use posthorn_client::client::Client;
//!
//! let client = Client::open(database)?;
//! let mut events = client.subscribe();
//! for conversation in client.conversations().await? {
//!     client.send(conversation.id, "hello".to_owned()).await?;
//! }
//! while let Ok(event) = events.recv().await {
//!     println!("{event:?}");
//! }
//! # Ok(())
//! # }
//! ```

mod clock;
mod driver;

use std::time::Duration;

use posthorn_proto::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::conversation::{ConversationId, Message, MessageId};
use crate::identity::{RelayUrl, SafetyNumber};
use crate::store::Database;
use crate::sync::{
    Account, Answer, Command, CommandError, Contact, ConversationSummary, EngineError, Event, MemberSummary,
    SyncState,
};
use driver::{Ask, Driver};

/// Commands that wait for the driver.
const ASK_QUEUE: usize = 64;
/// Events that a slow subscriber may lag behind before it misses some (and is told so).
const EVENT_QUEUE: usize = 4096;
/// How often [`Client::settled`] looks when no event makes it look earlier.
const SETTLE_LOOK: Duration = Duration::from_millis(50);

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The engine refused the command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The local database.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The client was closed, or its database failed while the call was under way; what was durable goes on
    /// later.
    #[error(
        "the client stopped before it could answer; what was asked and saved goes on when it is opened again"
    )]
    Stopped,
    /// Not everything was done in time; it goes on.
    #[error("not everything could be sent and received in time: it goes on when the relay can be reached")]
    NotSettled(SyncState),
    /// The thread could not be made.
    #[error("cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

impl ClientError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Command(error) => error.code(),
            Self::Engine(EngineError::Store(error)) => error.cause(),
            Self::Engine(EngineError::Session(error)) => error.cause(),
            Self::Stopped => "STOPPED",
            Self::NotSettled(_) => "NOT_SETTLED",
            Self::Thread(_) => "THREAD",
        }
    }
}

/// A profile that is online. Clones are the same client; when the last is dropped it stops.
#[derive(Clone, Debug)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<Event>,
}

macro_rules! ask {
    ($client:expr, $command:expr, $answer:pat => $value:expr) => {
        match $client.command($command).await? {
            $answer => Ok($value),
            other => unreachable!("the engine answers each command with its own answer, not {other:?}"),
        }
    };
}

impl Client {
    /// Opens a profile and begins to sync, on a thread of its own.
    pub fn open(database: Database) -> Result<Self, ClientError> {
        let (asks, queue) = mpsc::channel(ASK_QUEUE);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (to_events, (ready, opened)) = (events.clone(), std::sync::mpsc::sync_channel(1));
        std::thread::Builder::new().name("posthorn-client".to_owned()).spawn(move || {
            let driver = Driver::new(database, queue, to_events);
            match driver {
                Ok(driver) => {
                    // The opener waits for exactly one of these.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(driver.run());
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        opened.recv().map_err(|_| ClientError::Stopped)??;
        Ok(Self { asks, events })
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Makes an account and this first device of it. Answers when others can write to it.
    pub async fn register(
        &self,
        relay: RelayUrl,
        handle: Handle,
        invite: String,
    ) -> Result<Account, ClientError> {
        ask!(self, Command::Register { relay, handle, invite }, Answer::Account(Some(account)) => account)
    }

    /// The account of this profile, if it has one.
    pub async fn account(&self) -> Result<Option<Account>, ClientError> {
        ask!(self, Command::Account, Answer::Account(account) => account)
    }

    /// Starts a conversation; answers when everybody is invited.
    pub async fn start(&self, name: String, members: Vec<Contact>) -> Result<ConversationId, ClientError> {
        ask!(self, Command::Start { name, members }, Answer::Started(id) => id)
    }

    /// Queues a text, durably (C2).
    pub async fn send(&self, conversation: ConversationId, text: String) -> Result<MessageId, ClientError> {
        ask!(self, Command::Send { conversation, text }, Answer::Queued(id) => id)
    }

    /// Adds people; answers when they are members.
    pub async fn add(&self, conversation: ConversationId, members: Vec<Contact>) -> Result<(), ClientError> {
        ask!(self, Command::Add { conversation, members }, Answer::Done => ())
    }

    /// Removes a person; answers when they are not a member any more.
    pub async fn remove(&self, conversation: ConversationId, handle: String) -> Result<(), ClientError> {
        ask!(self, Command::Remove { conversation, handle }, Answer::Done => ())
    }

    /// Leaves; the others see it when the relay can be reached.
    pub async fn leave(&self, conversation: ConversationId) -> Result<(), ClientError> {
        ask!(self, Command::Leave(conversation), Answer::Done => ())
    }

    /// All conversations, most recent first.
    pub async fn conversations(&self) -> Result<Vec<ConversationSummary>, ClientError> {
        ask!(self, Command::Conversations, Answer::Conversations(list) => list)
    }

    /// The members' devices.
    pub async fn members(&self, conversation: ConversationId) -> Result<Vec<MemberSummary>, ClientError> {
        ask!(self, Command::Members(conversation), Answer::Members(list) => list)
    }

    /// Entries before a row (or the newest), oldest first.
    pub async fn history(
        &self,
        conversation: ConversationId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Message>, ClientError> {
        ask!(self, Command::History { conversation, before, limit }, Answer::History(list) => list)
    }

    /// Everything in the conversation was seen.
    pub async fn mark_read(&self, conversation: ConversationId) -> Result<(), ClientError> {
        ask!(self, Command::MarkRead(conversation), Answer::Done => ())
    }

    /// The safety number with somebody who was met in a conversation.
    pub async fn safety_number(&self, handle: String) -> Result<SafetyNumber, ClientError> {
        ask!(self, Command::SafetyNumber(handle), Answer::SafetyNumber(number) => number)
    }

    /// How far everything is.
    pub async fn state(&self) -> Result<SyncState, ClientError> {
        ask!(self, Command::State, Answer::State(state) => state)
    }

    /// Waits until everything is sent and everything that the relay has is read.
    pub async fn settled(&self, timeout: Duration) -> Result<(), ClientError> {
        let mut events = self.subscribe();
        let mut state = self.state().await?;
        let settle = async {
            while !(state.connected && state.caught_up && state.outbox == 0 && state.intents == 0) {
                // An event, a missed event and the time to look are all reasons to look.
                let _ = tokio::time::timeout(SETTLE_LOOK, events.recv()).await;
                state = self.state().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(timeout, settle).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::NotSettled(self.state().await?)),
        }
    }

    /// Stops, and waits until the profile can be opened again.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.asks.send(Ask::Close(done)).await.is_ok() {
            // An error means that it has stopped already.
            let _ = closed.await;
        }
    }

    async fn command(&self, command: Command) -> Result<Answer, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Command(command, reply)).await.map_err(|_| ClientError::Stopped)?;
        Ok(answer.await.map_err(|_| ClientError::Stopped)??)
    }
}
