//! The one error of this crate: why something was not done.

use crate::group::GroupError;
use crate::store::StoreError;

/// Why something was not done. One line each, that says what to do; [`Error::code`] is stable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The local database. Nothing of the input was done; the engine must be opened again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// MLS. Ends what it happened in (a delivery, a command), not the engine, unless it is of the database.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// There is no account in this profile.
    #[error("this profile has no account yet: register first")]
    NoAccount,
    /// There is one already.
    #[error("this profile has an account already: {0}; use another profile for another account")]
    AccountExists(String),
    /// No conversation has this id.
    #[error("no such conversation: list them to find its id")]
    UnknownConversation,
    /// It takes nothing any more, or not yet.
    #[error("this conversation does not take that: {0}")]
    NotActive(String),
    /// Only an invitation, or what has ended, may be forgotten: the others would go on speaking to us.
    #[error("you are still in this conversation: leave it before you forget it")]
    StillIn,
    /// What would be said is malformed.
    #[error("{0}")]
    BadContent(String),
    /// The name is too long.
    #[error("a conversation's name has at most {limit} bytes")]
    BadName {
        /// The limit.
        limit: usize,
    },
    /// The id that the caller chose stands for something else.
    #[error("this id is taken by something else: choose a random one for each thing that is sent or started")]
    IdTaken,
    /// Nobody of this name is a member, or known.
    #[error("{0} is not known here: list the people, or the members")]
    UnknownPerson(String),
    /// We ourselves were named.
    #[error("that is yourself: to go, leave the conversation")]
    Yourself,
    /// Nobody was named.
    #[error("name at least one other person")]
    Nobody,
    /// Somebody whose account is at another relay, nobody knows where.
    #[error(
        "{handle} is at another relay ({relay}), and its address is not known here: name them by their contact link, or as {handle}@HOST"
    )]
    OtherRelay {
        /// Who.
        handle: String,
        /// Where.
        relay: String,
    },
    /// The invitation leads to a relay that this device does not use yet.
    #[error(
        "this conversation lives on {0}, which this device has never connected to: accept that relay, too"
    )]
    ForeignRelay(String),
    /// Somebody named a relay without TLS that is not on this machine.
    #[error(
        "{0} is without TLS, so that whoever is on the way there sees what a relay sees: if you want to use it all the same, say so by naming it yourself (posthorn relay use {0})"
    )]
    PlainRelay(String),
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
    /// The client was closed.
    #[error("this client was closed; what was asked and saved goes on when the profile is opened again")]
    Stopped,
    /// The local database failed, and is tried again every two seconds; the call was not taken.
    #[error(
        "this device's database does not answer now, mostly because the disk is full: make room, and try again"
    )]
    Unavailable,
    /// A defect of this library: the call ended nowhere. What was saved before it stays.
    #[error(
        "something went wrong in this program: try again, and please report it with the last lines of the log"
    )]
    Internal,
    /// Not everything was done in time; it goes on.
    #[error("not everything could be sent and received in time: {0}")]
    NotSettled(String),
    /// The thread could not be made.
    #[error("cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

impl Error {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.cause(),
            Self::Group(error) => error.cause(),
            Self::NoAccount => "NO_ACCOUNT",
            Self::AccountExists(_) => "ACCOUNT_EXISTS",
            Self::UnknownConversation => "UNKNOWN_CONVERSATION",
            Self::NotActive(_) => "NOT_ACTIVE",
            Self::StillIn => "STILL_IN",
            Self::BadContent(_) => "BAD_CONTENT",
            Self::BadName { .. } => "BAD_NAME",
            Self::IdTaken => "ID_TAKEN",
            Self::UnknownPerson(_) => "UNKNOWN_PERSON",
            Self::Yourself => "YOURSELF",
            Self::Nobody => "NOBODY",
            Self::OtherRelay { .. } => "OTHER_RELAY",
            Self::ForeignRelay(_) => "FOREIGN_RELAY",
            Self::PlainRelay(_) => "PLAIN_RELAY",
            Self::Failed { cause, .. } => cause,
            Self::Refused { .. } => "REFUSED",
            Self::Stopped => "STOPPED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
            Self::NotSettled(_) => "NOT_SETTLED",
            Self::Thread(_) => "THREAD",
        }
    }

    /// Whether the local database failed, so that the engine must be dropped and opened again. Nothing that
    /// another person, device or relay sends makes an error like that.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Store(_) => true,
            Self::Group(error) => error.is_storage(),
            _ => false,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Unavailable | Self::NotSettled(_) => true,
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
