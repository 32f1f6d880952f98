//! The engine's interface: what goes in, what comes out.

use posthorn_proto::frame::{ClientFrame, ServerFrame};
use posthorn_proto::{DeviceId, Handle};
use serde::Serialize;

use crate::conversation::{Cause, ConversationId, ConversationState, Message, MessageId, MessageState};
use crate::identity::{ContactLink, RelayUrl, SafetyNumber};

/// One of the two connections to a relay. What one says the other never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    /// Authenticates as this device: directory, tokens, the public inbox.
    Account,
    /// Never authenticates: conversations and the private inbox.
    Mailboxes,
}

/// A connection, whether it is up or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    /// To which relay.
    pub relay: RelayUrl,
    /// Which of the two.
    pub link: Link,
}

/// Names a command until its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

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
    Command(CommandId, Command),
}

/// What has to be done once the input's transaction is committed, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Try to connect; exactly one `Connected` or `Disconnected` follows.
    Connect(LinkId),
    /// Close the connection; `Disconnected` follows.
    Disconnect(LinkId),
    /// Send a frame on a connection that is up.
    Send(LinkId, ClientFrame),
    /// Tell the app.
    Event(Event),
    /// The answer to a command.
    Answer(CommandId, Box<Result<Answer, CommandError>>),
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
    },
    /// Who am I?
    Account,
    /// Start a conversation; answered with its id when everybody is invited. It goes on by itself after a
    /// crash.
    Start {
        /// "" for none.
        name: String,
        /// Who, beside us.
        members: Vec<Contact>,
    },
    /// Send a text; answered as soon as it is durable in the outbox (C2).
    Send {
        /// Where.
        conversation: ConversationId,
        /// What.
        text: String,
    },
    /// Add people; answered when the commit was read back.
    Add {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        members: Vec<Contact>,
    },
    /// Remove somebody with all devices; answered when the commit was read back.
    Remove {
        /// Where.
        conversation: ConversationId,
        /// Whose handle.
        handle: String,
    },
    /// Leave; answered as soon as that is durable.
    Leave(ConversationId),
    /// List conversations.
    Conversations,
    /// List the members' devices of a conversation.
    Members(ConversationId),
    /// Entries of a conversation.
    History {
        /// Which.
        conversation: ConversationId,
        /// Entries before this row; `None` = the newest.
        before: Option<u64>,
        /// At most this many.
        limit: usize,
    },
    /// Everything in a conversation was seen.
    MarkRead(ConversationId),
    /// The safety number with somebody.
    SafetyNumber(String),
    /// How is it going?
    State,
}

/// Answers, each to its command.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To `Account`, and to `Register`.
    Account(Option<Account>),
    /// To `Start`.
    Started(ConversationId),
    /// To `Send`.
    Queued(MessageId),
    /// To `Add`, `Remove`, `Leave` and `MarkRead`.
    Done,
    /// To `Conversations`, most recent first.
    Conversations(Vec<ConversationSummary>),
    /// To `Members`, by leaf.
    Members(Vec<MemberSummary>),
    /// To `History`, oldest first.
    History(Vec<Message>),
    /// To `SafetyNumber`.
    SafetyNumber(SafetyNumber),
    /// To `State`.
    State(SyncState),
}

/// Why a command was not done. One line each, that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no account in this profile.
    #[error("this profile has no account yet: register first")]
    NoAccount,
    /// There is one already.
    #[error("this profile has an account already: {0}; use another profile for another account")]
    AccountExists(String),
    /// No conversation has this id.
    #[error("no such conversation: list them to find its id")]
    UnknownConversation,
    /// It takes nothing any more.
    #[error("this conversation has ended for you ({0}): start another")]
    NotActive(&'static str),
    /// The text is too long or empty.
    #[error("{0}")]
    BadText(String),
    /// The name is too long.
    #[error("a conversation's name has at most {limit} bytes")]
    BadName {
        /// The limit.
        limit: usize,
    },
    /// Nobody of this name is a member, or known.
    #[error("nobody called {0} is known here")]
    UnknownPerson(String),
    /// We ourselves were named.
    #[error("that is yourself: to go, leave the conversation")]
    Yourself,
    /// Nobody was named.
    #[error("name at least one other person")]
    Nobody,
    /// A contact whose account is at another relay.
    #[error("{handle} is at {relay}, and accounts at other relays than your own cannot be looked up yet")]
    OtherRelay {
        /// Who.
        handle: String,
        /// Where.
        relay: String,
    },
    /// Somebody could not be added.
    #[error("{handle} cannot be added: {reason}")]
    CannotAdd {
        /// Who.
        handle: String,
        /// Why.
        reason: String,
    },
    /// A change that cannot be.
    #[error("{reason} ({cause})")]
    Failed {
        /// A cause's stable name.
        cause: &'static str,
        /// Why.
        reason: String,
    },
    /// The relay refused for good.
    #[error("the relay refused ({code}): {message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
}

impl CommandError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoAccount => "NO_ACCOUNT",
            Self::AccountExists(_) => "ACCOUNT_EXISTS",
            Self::UnknownConversation => "UNKNOWN_CONVERSATION",
            Self::NotActive(_) => "NOT_ACTIVE",
            Self::BadText(_) => "BAD_TEXT",
            Self::BadName { .. } => "BAD_NAME",
            Self::UnknownPerson(_) => "UNKNOWN_PERSON",
            Self::Yourself => "YOURSELF",
            Self::Nobody => "NOBODY",
            Self::OtherRelay { .. } => "OTHER_RELAY",
            Self::CannotAdd { .. } => "CANNOT_ADD",
            Self::Failed { cause, .. } => cause,
            Self::Refused { .. } => "REFUSED",
        }
    }
}

/// Somebody to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a handful of these live for the time of a command")]
pub enum Contact {
    /// By link: the identity is known beforehand.
    Link(ContactLink),
    /// By handle at our own relay: the relay's word is taken for the identity, until it is verified.
    Handle(Handle),
}

/// The account of this profile.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// Its name.
    pub handle: String,
    /// Its relay's URL.
    pub relay: String,
    /// Ed25519 public key.
    #[serde(serialize_with = "hex")]
    pub identity_key: [u8; 32],
    /// This device.
    #[serde(serialize_with = "hex")]
    pub device: [u8; 16],
    /// To give to others.
    pub link: String,
    /// The relay knows it.
    pub registered: bool,
}

/// A conversation in a list.
#[derive(Debug, Clone, Serialize)]
pub struct ConversationSummary {
    /// Its id.
    pub id: ConversationId,
    /// "" = none.
    pub name: String,
    /// Handles, our own included.
    pub members: Vec<String>,
    /// Where it stands.
    pub state: ConversationState,
    /// Entries not seen yet.
    pub unread: u64,
    /// The newest entry.
    pub last: Option<Message>,
    /// MLS epoch.
    pub epoch: u64,
}

/// A member's device.
#[derive(Debug, Clone, Serialize)]
pub struct MemberSummary {
    /// What its identity calls itself.
    pub handle: String,
    /// Ed25519 public key.
    #[serde(serialize_with = "hex")]
    pub identity_key: [u8; 32],
    /// The device.
    #[serde(serialize_with = "hex")]
    pub device: [u8; 16],
    /// It is this account's.
    pub me: bool,
}

/// How far everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SyncState {
    /// Both connections to our own relay are up.
    pub connected: bool,
    /// Every mailbox is open and read to the head that the relay told.
    pub caught_up: bool,
    /// Parcels in the outbox.
    pub outbox: u64,
    /// Changes of conversations still wanted and due now.
    pub intents: u64,
    /// The relay has our account, card and key packages.
    pub registered: bool,
}

/// What an app is told.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A connection to a relay can be used: one for mailboxes is greeted, the account's is authenticated.
    /// `Command::State` tells whether both to our own relay are.
    Connected,
    /// A connection ended.
    Disconnected {
        /// Why, for people.
        reason: String,
        /// The next try.
        retry_in_ms: u64,
    },
    /// A new entry in a history.
    Message(Message),
    /// An entry's mark changed.
    MessageState {
        /// Where.
        conversation: ConversationId,
        /// Which.
        id: MessageId,
        /// Now.
        state: MessageState,
    },
    /// Something in a conversation's summary changed.
    Conversation {
        /// Which.
        conversation: ConversationId,
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

fn hex<S: serde::Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
}

impl MemberSummary {
    /// The device's id.
    pub fn device_id(&self) -> DeviceId {
        DeviceId(self.device)
    }
}
