//! The engine's interface: what goes in, what comes out.
//!
//! A command carries its [`Reply`], so that an answer of another type does not compile. Replies are effects
//! like the others: they are given only after the transaction of their input was committed.

use std::fmt;

use posthorn_proto::frame::{ClientFrame, ServerFrame};
use posthorn_proto::{DeviceId, Handle};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::content::{Said, device_of_text, device_text};
use crate::conversation::{Cause, ConversationId, ConversationState, Entry, GroupId, MessageId};
use crate::identity::{ContactLink, PersonId, RelayUrl, Route, SafetyNumber};

/// One of the connections to a relay. What one says no other does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    /// Authenticates as this device: directory, tokens, the public inbox.
    Account,
    /// Never authenticates: conversations.
    Mailboxes,
    /// Never authenticates: the private inbox alone. Every member of a conversation knows whose it is, so
    /// that it must not stand beside conversations.
    Inbox,
    /// Never authenticates: one conversation that began with an invitation in the public inbox. Whoever
    /// invited knows the account and could recognise the connection by the key that it presents.
    Apart(ConversationId),
    /// Never authenticates: leaves something in the inboxes of others, then ends. Made anew each time.
    Post,
    /// Never authenticates: asks the directory of a relay where we have no account who somebody is, then
    /// ends.
    Directory,
}

/// A connection, whether it is up or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    /// To which relay.
    pub relay: RelayUrl,
    /// Which of them.
    pub link: Link,
}

/// What happens to the engine.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A connection that was asked for is up.
    Connected(LinkId),
    /// A connection ended, or could not be made; why, for people.
    Disconnected(LinkId, String),
    /// Frames came, in order.
    Frames(LinkId, Vec<ServerFrame>),
    /// The person, or the app for them, wants something.
    Command(Command),
}

/// What has to be done once the inputs' transaction is committed, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Try to connect; exactly one `Connected` or `Disconnected` follows.
    Connect(LinkId),
    /// Close the connection, or give up making it; `Disconnected` follows.
    Disconnect(LinkId),
    /// Send a frame on a connection that is up.
    Send(LinkId, ClientFrame),
    /// Tell the app.
    Event(Event),
    /// Answer a command.
    Answer(Answer),
}

/// Called once, with what it waited for.
type Then<T> = Box<dyn FnOnce(T) + Send>;

/// Where the answer to a command goes.
pub struct Reply<T>(Option<Then<Result<T, Error>>>);

impl<T: Send + 'static> Reply<T> {
    /// Calls this with the answer. It must not wait for anything.
    pub fn new(then: impl FnOnce(Result<T, Error>) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    /// Nobody waits for the answer.
    pub fn ignore() -> Self {
        Self::new(drop)
    }

    /// Answers at once.
    #[cfg(feature = "native")]
    pub(crate) fn give(self, result: Result<T, Error>) {
        self.with(result).give();
    }

    pub(super) fn with(mut self, result: Result<T, Error>) -> Answer {
        let then = self.0.take();
        Answer(Some(Box::new(move |withdrawn| {
            if let Some(then) = then {
                then(withdrawn.map_or(result, Err));
            }
        })))
    }
}

/// A panic drops the inputs that it was to handle: whoever asked hears of that.
impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(then) = self.0.take()
        {
            then(Err(Error::Internal));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// A reply together with its answer; given with an error, it tells that instead.
pub struct Answer(Option<Then<Option<Error>>>);

impl Answer {
    /// Gives it to whoever asked.
    pub fn give(mut self) {
        if let Some(then) = self.0.take() {
            then(None);
        }
    }

    /// What it tells was rolled back for this reason: it tells that.
    pub(super) fn withdrawn(mut self, error: &Error) -> Self {
        let error = Error::Failed { cause: error.code(), reason: error.to_string() };
        let then = self.0.take();
        Self(Some(Box::new(move |withdrawn| {
            if let Some(then) = then {
                then(withdrawn.or(Some(error)));
            }
        })))
    }
}

/// What it tells is rolled back with the transaction that a panic ends.
impl Drop for Answer {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(then) = self.0.take()
        {
            then(Some(Error::Internal));
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

/// What can be asked. Each is answered once.
#[derive(Debug)]
pub enum Command {
    /// Make an account; answered when the relay has its card and key packages.
    Register {
        /// At this relay.
        relay: RelayUrl,
        /// Under this name.
        handle: Handle,
        /// With this invite; "" where registration is open.
        invite: String,
        /// The account.
        reply: Reply<Account>,
    },
    /// Remove the account at its relay for good, with this device's inboxes. The handle is free then. Nobody
    /// is told, and conversations are not left by it.
    RemoveAccount(Reply<()>),
    /// Who am I?
    Account(Reply<Option<Account>>),
    /// Whose invitations are followed without asking. Not kept over a restart.
    Consent(Consent, Reply<()>),
    /// Start a conversation; answered when everybody is invited. It goes on by itself after a crash.
    Start {
        /// The caller's own choice, so that a repeat begins nothing new.
        id: Option<ConversationId>,
        /// "" for none.
        name: String,
        /// Who, beside us.
        members: Vec<Who>,
        /// Begin another even if there is a conversation without a name with this one person.
        again: bool,
        /// Its id here.
        reply: Reply<ConversationId>,
    },
    /// Say something; answered as soon as it is durable in the outbox (C2).
    Send {
        /// Where.
        conversation: ConversationId,
        /// The caller's own choice, so that a repeat says nothing twice.
        id: Option<MessageId>,
        /// What.
        said: Said,
        /// Its id.
        reply: Reply<MessageId>,
    },
    /// Add people; answered when the commit was read back.
    Add {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        members: Vec<Who>,
        /// Done.
        reply: Reply<()>,
    },
    /// Remove somebody with all devices; answered when the commit was read back.
    Remove {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        person: PersonId,
        /// Done.
        reply: Reply<()>,
    },
    /// Go on in a fresh mailbox of our own relay; answered when the commit was read back.
    Move {
        /// What.
        conversation: ConversationId,
        /// The relay, where that is to be said; no other than our own can be.
        relay: Option<RelayUrl>,
        /// Done.
        reply: Reply<()>,
    },
    /// Leave; answered as soon as that is durable.
    Leave(ConversationId, Reply<()>),
    /// Follow an invitation (rule 25).
    Accept {
        /// Which.
        conversation: ConversationId,
        /// Also to a relay that this device does not use yet.
        foreign_relay: bool,
        /// Done.
        reply: Reply<()>,
    },
    /// Forget an invitation, or a conversation that has ended, with its history.
    Forget(ConversationId, Reply<()>),
    /// Put a conversation away, or take it out again. What is new in one that goes on takes it out, too.
    Archive {
        /// Which.
        conversation: ConversationId,
        /// Whether it is away from now on.
        archived: bool,
        /// Done.
        reply: Reply<()>,
    },
    /// This person's invitations leave no trace any more, or wait again (rule 25).
    Block {
        /// Whom.
        person: PersonId,
        /// Whether from now on they are blocked.
        blocked: bool,
        /// Done.
        reply: Reply<()>,
    },
    /// Our user compared somebody's safety number, or takes that back (rule 26).
    Verify {
        /// Whose.
        person: PersonId,
        /// Whether they are marked from now on.
        verified: bool,
        /// Done.
        reply: Reply<()>,
    },
    /// List conversations, most recent first.
    Conversations(Reply<Vec<ConversationSummary>>),
    /// List the members' devices of a conversation, by leaf.
    Members(ConversationId, Reply<Vec<MemberSummary>>),
    /// Everybody who was met.
    People(Reply<Vec<Person>>),
    /// Entries of a conversation, oldest first.
    History {
        /// Which.
        conversation: ConversationId,
        /// Where.
        page: Page,
        /// The entries.
        reply: Reply<Vec<Entry>>,
    },
    /// Everything in a conversation was seen, or everything up to a row.
    MarkRead {
        /// Which.
        conversation: ConversationId,
        /// Up to here; `None` = everything.
        up_to: Option<u64>,
        /// Done.
        reply: Reply<()>,
    },
    /// The safety number with somebody.
    SafetyNumber(PersonId, Reply<SafetyNumber>),
    /// The relays that this device uses, our own first.
    Relays(Reply<Vec<Relay>>),
    /// From now on this relay is in use: invitations that lead there need no more consent, and it may be one
    /// without TLS.
    UseRelay(RelayUrl, Reply<()>),
    /// From now on a relay is reached like this. Also without an account: then for registering.
    Route {
        /// Which.
        relay: RelayUrl,
        /// How; `None` = like our own relay.
        route: Option<Route>,
        /// Done.
        reply: Reply<()>,
    },
    /// How is it going?
    State(Reply<SyncState>),
}

impl Command {
    /// Whether something goes to the relay for it, and a person hopes that it goes soon.
    pub(super) fn wants_the_relay(&self) -> bool {
        matches!(
            self,
            Self::Start { .. }
                | Self::Send { .. }
                | Self::Add { .. }
                | Self::Remove { .. }
                | Self::Move { .. }
                | Self::Leave(..)
                | Self::RemoveAccount(..)
                | Self::Accept { .. }
        )
    }
}

/// A part of a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries before this row; `None` = up to the newest.
    pub before: Option<u64>,
    /// Entries after this row.
    pub after: Option<u64>,
    /// At most this many: the last ones, or the first behind `after`.
    pub limit: usize,
}

/// Whose invitations are followed without asking (rule 25).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consent {
    /// Only those of people who were accepted before.
    #[default]
    Ask,
    /// Everybody's into conversations at relays that are in use: for programs that answer anybody.
    Everybody,
}

/// Somebody to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a handful of these live for the time of a command")]
pub enum Who {
    /// By link: the identity is known beforehand.
    Link(ContactLink),
    /// By handle at our own relay: the relay's word is taken for the identity, until it is verified.
    Handle(Handle),
    /// Likewise at another relay, which is asked without an account there.
    Elsewhere(Handle, RelayUrl),
    /// Somebody who was met.
    Person(PersonId),
}

impl Who {
    /// `handle@host`, `handle@host:port`, or `handle@wss://host:port` with the relay's URL; `None` if it is
    /// something else.
    pub fn elsewhere(text: &str) -> Option<Self> {
        let (handle, relay) = text.trim().split_once('@')?;
        let url = if relay.contains("://") { RelayUrl::parse(relay) } else { RelayUrl::of_host(relay) };
        Some(Self::Elsewhere(Handle::parse(handle).ok()?, url.ok()?))
    }
}

/// The account of this profile.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Account {
    /// Its name.
    pub handle: String,
    /// Its relay's URL.
    pub relay: String,
    /// Who this is.
    pub person: PersonId,
    /// This device.
    #[serde(serialize_with = "device_text", deserialize_with = "device_of_text")]
    pub device: DeviceId,
    /// To give to others.
    pub link: String,
    /// The relay has taken all of it, once.
    pub registered: bool,
}

/// A person as this device knows them (rule 26).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Person {
    /// Who.
    pub person: PersonId,
    /// What they call themselves; with the beginning of the key behind it where somebody else is known by
    /// that name.
    pub handle: String,
    /// On what word the name stands.
    pub known: Known,
    /// Whether their invitations are followed.
    pub accepted: bool,
    /// Whether their invitations leave no trace.
    pub blocked: bool,
    /// Whether our user marked this key as compared ([`Command::Verify`]).
    #[serde(default)]
    pub verified: bool,
}

/// On what word a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Known {
    /// The relay's directory or a contact link gave this key for this name.
    Pinned,
    /// They say so themselves.
    Claimed,
    /// Somebody else is known by this name.
    Contradicted,
}

/// A conversation in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConversationSummary {
    /// Its id on this device.
    pub id: ConversationId,
    /// The MLS group, the same for all members.
    pub group: GroupId,
    /// "" = none.
    pub name: String,
    /// People, ourselves included.
    pub members: Vec<Person>,
    /// The handles of those who are being added, and are no members yet.
    pub adding: Vec<String>,
    /// Where it stands.
    pub state: ConversationState,
    /// Our user has put it away ([`Command::Archive`]): it is for whoever looks for it.
    #[serde(default)]
    pub archived: bool,
    /// Who invited us, if somebody did.
    pub inviter: Option<Person>,
    /// The relay where it lives.
    pub relay: String,
    /// It is an invitation to a relay that this device does not use yet: accepting it has to say so.
    pub foreign_relay: bool,
    /// What was said here and is not sent yet, reactions included.
    #[serde(default)]
    pub queued: u64,
    /// Entries not seen yet.
    pub unread: u64,
    /// The first of them.
    pub first_unread: Option<u64>,
    /// The newest entry.
    pub last: Option<Entry>,
    /// MLS epoch.
    pub epoch: u64,
}

/// A member's device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberSummary {
    /// Whose.
    #[serde(flatten)]
    pub person: Person,
    /// The device.
    #[serde(serialize_with = "device_text", deserialize_with = "device_of_text")]
    pub device: DeviceId,
    /// It is this account's.
    pub me: bool,
    /// It has given its place fresh keys since it was added, which takes up to half a minute: its invitation
    /// arrived.
    pub joined: bool,
}

/// How far everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SyncState {
    /// The connections to our own relay are up.
    pub connected: bool,
    /// Every mailbox at a relay that can be reached is open and read to the head that the relay told.
    pub caught_up: bool,
    /// Parcels in the outbox that can go.
    pub outbox: u64,
    /// Changes of conversations still wanted and due now.
    pub intents: u64,
    /// The relay has our account, card and key packages.
    pub registered: bool,
    /// The relay says that it does not know our account: it has lost it, or removed it. Registering again
    /// under the same name gives it back ([`Command::Register`]).
    #[serde(default)]
    pub unknown: bool,
    /// What the relay makes us wait for.
    pub waiting: Option<Waiting>,
    /// Relays other than our own that cannot be reached. What lies there, or is to go there, waits, and is
    /// not counted above.
    pub unreachable: Vec<Unreachable>,
}

/// A relay that this device uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Relay {
    /// Its URL.
    pub relay: String,
    /// Whether our account is there.
    pub own: bool,
    /// The conversations that live there and go on.
    pub conversations: u64,
    /// Why it cannot be reached, for people; `None` if nothing is known of that.
    pub unreachable: Option<String>,
    /// How it is reached: `direct`, or the URL of a proxy.
    pub route: String,
}

/// A relay that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unreachable {
    /// Its URL.
    pub relay: String,
    /// Why, for people.
    pub reason: String,
}

/// The relay refuses something for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waiting {
    /// The relay's code.
    pub code: String,
    /// In words.
    pub text: String,
    /// Unix milliseconds of the next try.
    pub until: u64,
}

/// What an app is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A connection to our own relay can be used. [`SyncState::connected`] tells whether all are.
    Connected,
    /// A connection to our own relay ended.
    Disconnected {
        /// Why, for people.
        reason: String,
        /// The next try.
        retry_in_ms: u64,
    },
    /// Another relay cannot be reached, or can be again: only what lies there waits for it.
    Relay {
        /// Its URL.
        relay: String,
        /// Why it cannot be reached, for people; `None` once it is.
        unreachable: Option<String>,
    },
    /// A new entry in a history.
    Entry(Box<Entry>),
    /// An entry is shown differently from now on: its mark, or what was said about it.
    Changed(Box<Entry>),
    /// Something in a conversation's summary changed; or it is gone.
    Conversation {
        /// Which.
        conversation: ConversationId,
    },
    /// Somebody invites us: `Command::Accept`, `Command::Forget` or `Command::Block` answer it.
    Invited {
        /// The conversation that it would become.
        conversation: ConversationId,
        /// Who.
        inviter: Person,
        /// The relay where it lives.
        relay: String,
        /// Whether this device does not use that relay yet.
        foreign_relay: bool,
    },
    /// The relay refuses something for now.
    Waiting(Waiting),
    /// Some events were missed: whoever shows conversations should look at them again.
    Missed {
        /// How many.
        events: u64,
    },
    /// Something is wrong.
    Alarm {
        /// Where, if in a conversation.
        conversation: Option<ConversationId>,
        /// Stable name.
        cause: Cause,
        /// At which seq, if at one.
        seq: Option<u64>,
        /// One line.
        text: String,
    },
}
