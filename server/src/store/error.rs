//! Why a store refuses something.

use posthorn_proto::ErrorCode;

/// Why a store refused. There is one enum for all operations, because most can fail in most of these ways;
/// each variant has one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// See [`ErrorCode::MailboxUnknown`].
    #[error("no such mailbox")]
    MailboxUnknown,
    /// See [`ErrorCode::MailboxExists`].
    #[error("another mailbox has this id")]
    MailboxExists,
    /// See [`ErrorCode::KeyTurned`].
    #[error("the lock has turned: read on, then post again")]
    KeyTurned,
    /// See [`ErrorCode::ReadKeyWrong`].
    #[error("the read key does not open this reader")]
    ReadKeyWrong,
    /// See [`ErrorCode::ReaderUnknown`].
    #[error("no such reader in this mailbox")]
    ReaderUnknown,
    /// See [`ErrorCode::OpenedElsewhere`].
    #[error("a later opening of the same reader took over")]
    OpenedElsewhere,
    /// See [`ErrorCode::PostIdReused`].
    #[error("the post id stands for a different post")]
    PostIdReused,
    /// See [`ErrorCode::PostIdTime`].
    #[error("the post id is not of the last minutes, and no post with it is known: read on, then post anew")]
    PostIdTime {
        /// The time by which post ids are judged, unix seconds.
        now: u64,
    },
    /// See [`ErrorCode::BadTurn`].
    #[error("the turn contradicts the readers: {0}")]
    BadTurn(&'static str),
    /// See [`ErrorCode::TokenUnknown`].
    #[error(
        "the token was never drawn, or for something else, is spent, or is older than 7 days: draw another"
    )]
    TokenUnknown,
    /// See [`ErrorCode::InviteInvalid`].
    #[error("the invite is unknown, used up or expired: ask the relay's host for a new one")]
    InviteInvalid,
    /// See [`ErrorCode::HandleTaken`].
    #[error("the handle belongs to another account: choose another")]
    HandleTaken,
    /// See [`ErrorCode::HandleUnknown`].
    #[error("no account has this handle")]
    HandleUnknown,
    /// Another account's device has this id. See [`ErrorCode::AuthenticationFailed`].
    #[error("the device id belongs to another account: choose another")]
    DeviceTaken,
    /// See [`ErrorCode::CardStale`].
    #[error("the card's version is not above the stored one")]
    CardStale,
    /// See [`ErrorCode::NoKeyPackage`].
    #[error("no device of the account has a key package")]
    NoKeyPackage,
    /// No such device. See [`ErrorCode::AuthenticationFailed`].
    #[error("no such device")]
    DeviceUnknown,
    /// See [`ErrorCode::BlobUnknown`].
    #[error("no such blob: its lease may have ended")]
    BlobUnknown,
    /// See [`ErrorCode::BlobExists`].
    #[error("another blob has this id: choose another")]
    BlobExists,
    /// See [`ErrorCode::HolderKeyWrong`].
    #[error("the key does not hold this blob")]
    HolderKeyWrong,
    /// See [`ErrorCode::MailboxFull`].
    #[error("the mailbox is full until its readers acknowledge or it expires")]
    MailboxFull,
    /// See [`ErrorCode::Quota`].
    #[error("the relay is at its quota of {0}")]
    Quota(&'static str),
    /// See [`ErrorCode::Busy`].
    #[error("the relay's queue is full")]
    Busy,
    /// See [`ErrorCode::StoreUnavailable`].
    #[error(
        "the relay cannot write just now (its log and /health say whether the disk is full): try again later"
    )]
    Unavailable,
    /// What is stored there failed its checksum, and is never served. See [`ErrorCode::Internal`].
    #[error("stored data is damaged")]
    Damaged,
    /// The store has stopped. See [`ErrorCode::ShuttingDown`].
    #[error("the relay is stopping")]
    Stopped,
}

impl StoreError {
    /// The code on the wire. This is the only place that maps one to the other.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::MailboxUnknown => ErrorCode::MailboxUnknown,
            Self::MailboxExists => ErrorCode::MailboxExists,
            Self::KeyTurned => ErrorCode::KeyTurned,
            Self::ReadKeyWrong => ErrorCode::ReadKeyWrong,
            Self::ReaderUnknown => ErrorCode::ReaderUnknown,
            Self::OpenedElsewhere => ErrorCode::OpenedElsewhere,
            Self::PostIdReused => ErrorCode::PostIdReused,
            Self::PostIdTime { .. } => ErrorCode::PostIdTime,
            Self::BadTurn(_) => ErrorCode::BadTurn,
            Self::TokenUnknown => ErrorCode::TokenUnknown,
            Self::InviteInvalid => ErrorCode::InviteInvalid,
            Self::HandleTaken => ErrorCode::HandleTaken,
            Self::HandleUnknown => ErrorCode::HandleUnknown,
            Self::CardStale => ErrorCode::CardStale,
            Self::NoKeyPackage => ErrorCode::NoKeyPackage,
            Self::DeviceUnknown | Self::DeviceTaken => ErrorCode::AuthenticationFailed,
            Self::BlobUnknown => ErrorCode::BlobUnknown,
            Self::BlobExists => ErrorCode::BlobExists,
            Self::HolderKeyWrong => ErrorCode::HolderKeyWrong,
            Self::MailboxFull => ErrorCode::MailboxFull,
            Self::Quota(_) => ErrorCode::Quota,
            Self::Busy => ErrorCode::Busy,
            Self::Unavailable => ErrorCode::StoreUnavailable,
            Self::Damaged => ErrorCode::Internal,
            Self::Stopped => ErrorCode::ShuttingDown,
        }
    }
}
