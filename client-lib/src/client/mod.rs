//! What an app holds: a [`Client`] over one profile, which stays in touch with its relay by itself.
//!
//! A client is cheap to clone, and every clone is the same client. [`Client::conversation`] gives a handle
//! for one conversation; [`Client::events`] a stream of what happens, which says when it missed something.

mod beside;
mod builder;
mod clock;
mod conversation;
mod driver;
mod events;

use std::time::Duration;

use posthorn_proto::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::conversation::ConversationId;
use crate::engine::{
    Account, Command, Consent, ConversationSummary, Error, Event, Person, Relay, Reply, SyncState, Who,
};
use crate::identity::{PersonId, RelayUrl, Route, SafetyNumber};
use crate::store::{Database, StoreError};
#[cfg(unix)]
pub use beside::Share;
pub use builder::Builder;
pub use clock::Clock;
pub use conversation::Conversation;
use driver::{Ask, Driver};
pub use events::EventStream;

/// Commands that wait for the driver.
const ASK_QUEUE: usize = 256;
/// Whoever has the profile answers a new guest within this time.
#[cfg(unix)]
const GREETING: Duration = Duration::from_secs(5);
/// Events that a slow subscriber may lag behind before it misses some (and is told so). Each may hold a text
/// of 64 KiB, so that this is up to 64 MiB.
const EVENT_QUEUE: usize = 1024;

/// A profile that is online. Clones are the same client; when the last is dropped it stops.
#[derive(Clone, Debug)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    /// The driver has the only sender: its end is the end of the stream.
    events: broadcast::WeakSender<Event>,
}

impl Client {
    /// Opens or makes the profile in a folder.
    pub fn builder(folder: impl Into<std::path::PathBuf>) -> Builder {
        Builder::new(folder.into())
    }

    /// Begins to sync with a database that is open already, on a thread of its own. Waits for the disk.
    pub fn with_database(database: Database) -> Result<Self, Error> {
        Self::with_clock(database, Clock::system())
    }

    /// Likewise, by a clock that a test moves on.
    pub fn with_clock(database: Database, clock: Clock) -> Result<Self, Error> {
        let (asks, queue) = mpsc::channel(ASK_QUEUE);
        let (to_events, _) = broadcast::channel(EVENT_QUEUE);
        let events = to_events.downgrade();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, opened) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("posthorn-client".to_owned()).spawn(move || {
            match Driver::new(database, clock, queue, to_events) {
                Ok(driver) => {
                    // The opener waits for exactly one of these.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(driver.run());
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        opened.recv().map_err(|_| Error::Stopped)??;
        Ok(Self { asks, events })
    }

    /// A client that does nothing itself: the process that has the profile in this folder, and shares it,
    /// does it all ([`Client::share`]). It asks for no passphrase; only a process of the same user is let in,
    /// and only one of the same user is taken for the holder. `None` if nobody shares the profile now.
    /// Registering and [`Client::consent`] are for the holder. When that ends, every call answers
    /// [`Error::Stopped`].
    #[cfg(unix)]
    pub fn attach(folder: &std::path::Path) -> Result<Option<Self>, Error> {
        let Some(stream) = beside::connect(folder)? else { return Ok(None) };
        let (asks, queue) = mpsc::channel(ASK_QUEUE);
        let (to_events, _) = broadcast::channel(EVENT_QUEUE);
        let events = to_events.downgrade();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, greeted) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("posthorn-guest".to_owned()).spawn(move || {
            runtime.block_on(async {
                let greeting = async {
                    let (input, output) = beside::guest_stream(stream)?.into_split();
                    let mut guest = beside::Guest::new(input, output, queue, to_events);
                    guest.greet().await.map(|()| guest)
                };
                let guest = tokio::time::timeout(GREETING, greeting).await;
                let guest = guest.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
                // Whoever attaches waits for exactly one of these.
                let _ = ready.send(guest.is_ok());
                if let Ok(guest) = guest {
                    guest.run().await;
                }
            });
        })?;
        Ok(greeted.recv().unwrap_or(false).then_some(Self { asks, events }))
    }

    /// Does what other processes of the same user ask who attach to this folder, which is this profile's, by
    /// a socket in it. To be called inside of a tokio runtime.
    #[cfg(unix)]
    pub fn share(&self, folder: &std::path::Path) -> Result<Share, Error> {
        Ok(beside::share(self.clone(), folder)?)
    }

    /// Does what is asked on a stream, line by line, as `docs/json-rpc.md` describes: until there is nothing
    /// more to read and everything is answered, or nobody reads the answers.
    pub async fn serve(
        &self,
        input: impl tokio::io::AsyncRead + Unpin,
        output: impl tokio::io::AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let (_lives_on, ended) = tokio::sync::watch::channel(false);
        beside::serve(self.clone(), input, output, ended).await
    }

    /// What happens from now on.
    pub fn events(&self) -> EventStream {
        EventStream::new(self.events.upgrade().map(|events| events.subscribe()))
    }

    /// Makes an account and this first device of it. Answers when others can write to it.
    pub async fn register(&self, relay: RelayUrl, handle: Handle, invite: &str) -> Result<Account, Error> {
        let invite = invite.to_owned();
        self.ask(|reply| Command::Register { relay, handle, invite, reply }).await
    }

    /// Removes the account at its relay for good, with this device's inboxes; answers when the relay has done
    /// that. The handle is free then. Nobody is told: leave conversations before. The profile stays, for its
    /// history, and nobody can reach it any more. This is for the process that has the profile.
    pub async fn remove_account(&self) -> Result<(), Error> {
        self.ask(Command::RemoveAccount).await
    }

    /// The account of this profile, if it has one.
    pub async fn account(&self) -> Result<Option<Account>, Error> {
        self.ask(Command::Account).await
    }

    /// Whose invitations are followed without asking, until this client is closed.
    pub async fn consent(&self, consent: Consent) -> Result<(), Error> {
        self.ask(|reply| Command::Consent(consent, reply)).await
    }

    /// A conversation, whether it is there or not: its calls tell.
    pub fn conversation(&self, id: ConversationId) -> Conversation {
        Conversation::new(self.clone(), id)
    }

    /// Starts a conversation; answers when everybody is invited. Without a name and with one person whom we
    /// have such a conversation with already, it is that one.
    pub async fn start(&self, name: &str, members: Vec<Who>) -> Result<Conversation, Error> {
        self.start_as(None, name, members, false).await
    }

    /// Likewise, under an id of the caller's choice, so that the call can be repeated after a crash; `again`
    /// begins another conversation with the same person.
    pub async fn start_as(
        &self,
        id: Option<ConversationId>,
        name: &str,
        members: Vec<Who>,
        again: bool,
    ) -> Result<Conversation, Error> {
        let name = name.to_owned();
        let id = self.ask(|reply| Command::Start { id, name, members, again, reply }).await?;
        Ok(self.conversation(id))
    }

    /// All conversations, most recent first; invitations that wait among them.
    pub async fn conversations(&self) -> Result<Vec<ConversationSummary>, Error> {
        self.ask(Command::Conversations).await
    }

    /// Everybody who was met.
    pub async fn people(&self) -> Result<Vec<Person>, Error> {
        self.ask(Command::People).await
    }

    /// A person's invitations leave no trace any more, or wait again (rule 25).
    pub async fn block(&self, person: PersonId, blocked: bool) -> Result<(), Error> {
        self.ask(|reply| Command::Block { person, blocked, reply }).await
    }

    /// Marks somebody's key as compared by our user, by the safety number, or takes that back. Whoever is
    /// marked is who the name means from now on (rule 26).
    pub async fn verify(&self, person: PersonId, verified: bool) -> Result<(), Error> {
        self.ask(|reply| Command::Verify { person, verified, reply }).await
    }

    /// The safety number with somebody who was met.
    pub async fn safety_number(&self, person: PersonId) -> Result<SafetyNumber, Error> {
        self.ask(|reply| Command::SafetyNumber(person, reply)).await
    }

    /// The relays that this device uses, our own first.
    pub async fn relays(&self) -> Result<Vec<Relay>, Error> {
        self.ask(Command::Relays).await
    }

    /// From now on a relay is in use: invitations that lead there need no more consent. It may be one without
    /// TLS, where whoever is on the way sees what a relay sees.
    pub async fn use_relay(&self, relay: RelayUrl) -> Result<(), Error> {
        self.ask(|reply| Command::UseRelay(relay, reply)).await
    }

    /// From now on a relay is reached like this; `None` = like our own relay. Before registering, it can be
    /// said of the relay where the account shall be.
    pub async fn route(&self, relay: RelayUrl, route: Option<Route>) -> Result<(), Error> {
        self.ask(|reply| Command::Route { relay, route, reply }).await
    }

    /// How far everything is.
    pub async fn state(&self) -> Result<SyncState, Error> {
        self.ask(Command::State).await
    }

    /// Waits until everything is sent and everything that the relay has is read; what is at other relays that
    /// cannot be reached is not waited for ([`SyncState::unreachable`]). Errors:
    /// [`Error::NotSettled`], which says what it waited for.
    pub async fn settled(&self, timeout: Duration) -> Result<(), Error> {
        let settled =
            |state: &SyncState| state.connected && state.caught_up && state.outbox == 0 && state.intents == 0;
        let (done, wait) = oneshot::channel();
        self.tell(Ask::Settled { like: Box::new(settled), done, timeout }).await?;
        match tokio::time::timeout(timeout, wait).await {
            Ok(done) => done.map_err(|_| Error::Stopped),
            Err(_) => Err(Error::NotSettled(in_words(&self.state().await?))),
        }
    }

    /// Writes all of the profile into one file, as it is now; its passphrase opens that
    /// ([`Builder::restore`]). An earlier backup of this name is replaced, and no other file.
    pub async fn backup(&self, file: impl AsRef<std::path::Path>) -> Result<(), Error> {
        // Another process may have the profile, and another working folder.
        let file = file.as_ref();
        let file = std::path::absolute(file).map_err(|error| StoreError::io(file, error))?;
        let (answer, wait) = oneshot::channel();
        let reply = Reply::new(move |result| drop(answer.send(result)));
        self.tell(Ask::Backup(file, reply)).await?;
        wait.await.map_err(|_| if self.asks.is_closed() { Error::Stopped } else { Error::Unavailable })?
    }

    /// Stops, and waits until the profile can be opened again.
    pub async fn close(self) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        self.tell(Ask::Close(done)).await?;
        wait.await.map_err(|_| Error::Stopped)
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Error> {
        let (answer, wait) = oneshot::channel();
        // Whoever asked may be gone.
        let reply = Reply::new(move |result| drop(answer.send(result)));
        self.tell(Ask::Command(Box::new(command(reply)))).await?;
        wait.await.map_err(|_| if self.asks.is_closed() { Error::Stopped } else { Error::Unavailable })?
    }

    async fn tell(&self, ask: Ask) -> Result<(), Error> {
        self.asks.send(ask).await.map_err(|_| Error::Stopped)
    }
}

/// What is still to be done.
fn in_words(state: &SyncState) -> String {
    if let Some(waiting) = &state.waiting {
        return format!("the relay makes us wait ({}): {}", waiting.code, waiting.text);
    }
    if !state.connected {
        return "the relay cannot be reached; it goes on when it can".to_owned();
    }
    if !state.caught_up {
        return "not everything is read yet; it goes on".to_owned();
    }
    format!("{} posts and {} changes are still to go; it goes on", state.outbox, state.intents)
}
