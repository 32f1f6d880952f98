//! Why a group could not do as asked, sorted by who is to blame: us (`Store`, `Library`), the caller
//! (`Pending`, ..), or whoever made the bytes (`Malformed`, `Decrypt`, `Refused`, ..).

use super::key_package::KeyPackageError;
use super::storage::RowError;
use crate::store::StoreError;

/// A rule of ours that a commit, a Welcome or a leaf breaks. All members judge alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something else than adding, removing and changing the info, or not proposed by the committer itself.
    #[error("a commit may only add, remove and change the conversation's info")]
    Proposal,
    /// Made by somebody who is not a member.
    #[error("only a member may commit")]
    Outsider,
    /// A leaf without a credential that its identity signed for its signature key.
    #[error("a device is not signed by the identity that it claims")]
    Credential,
    /// A committer that changed its identity, device, handle or signature key.
    #[error("a member changed who it is")]
    Identity,
    /// A leaf with a private inbox that is malformed, a committer's fresh leaf without one, or a newcomer's
    /// with one.
    #[error("a device names no private inbox, or a malformed one, or names one before its time")]
    Inbox,
    /// A device that is in the group already.
    #[error("a device is in the group twice")]
    Duplicate,
    /// Group info that is missing, of other rules, or not alone.
    #[error("the conversation's info is malformed or follows other rules")]
    Info,
    /// A commit that moves the conversation, which these rules do not allow.
    #[error("a commit moves the conversation, which only a repair may do")]
    Moved,
    /// A commit that raises the rules above what a member knows, or sinks them.
    #[error("a commit changes the rules to some that not everybody knows")]
    Rules,
    /// A leaf with extensions or capabilities that are not exactly ours, or too large.
    #[error("a device's leaf is out of form")]
    Leaf,
    /// A key that nothing can be encrypted to.
    #[error("a device has a key that nothing can be encrypted to")]
    Key,
    /// A Welcome that leaves out secrets of our own path: the next commit could not be followed.
    #[error("the Welcome leaves out secrets of our own place in the tree")]
    PathSecrets,
    /// More devices than a conversation may have.
    #[error("a conversation has at most 1,024 devices")]
    Crowd,
    /// A key package that is not one of ours, or one whose validity would depend on a clock.
    #[error("a key package is malformed")]
    KeyPackage,
}

impl Refusal {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Proposal => "COMMIT_PROPOSAL",
            Self::Outsider => "COMMIT_OUTSIDER",
            Self::Credential => "COMMIT_CREDENTIAL",
            Self::Identity => "COMMIT_IDENTITY",
            Self::Inbox => "COMMIT_INBOX",
            Self::Duplicate => "COMMIT_DUPLICATE",
            Self::Info => "COMMIT_INFO",
            Self::Moved => "COMMIT_MOVED",
            Self::Rules => "COMMIT_RULES",
            Self::Leaf => "COMMIT_LEAF",
            Self::Key => "COMMIT_KEY",
            Self::PathSecrets => "COMMIT_PATH_SECRETS",
            Self::Crowd => "COMMIT_CROWD",
            Self::KeyPackage => "COMMIT_KEY_PACKAGE",
        }
    }
}

/// Why a group could not do as asked. After any of these it is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The database. The transaction should be given up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the database that cannot be read or written. The transaction should be given up.
    #[error("the group's rows: {0}")]
    Row(RowError),
    /// No group of this conversation is stored.
    #[error("no group of this conversation is stored")]
    Unknown,
    /// A commit of ours is pending; it must be merged or cleared first.
    #[error("a commit of ours is pending")]
    Pending,
    /// No commit of ours is pending.
    #[error("no commit of ours is pending")]
    NotPending,
    /// We were removed from the group.
    #[error("this device was removed from the conversation")]
    Evicted,
    /// No member has this leaf.
    #[error("no member has leaf {0}")]
    NoMember(u32),
    /// A change that changes nothing.
    #[error("the change is empty")]
    Empty,
    /// Not an MLS message that we take.
    #[error("not an MLS message, or one of a kind that is not used")]
    Malformed,
    /// Of another conversation.
    #[error("the message belongs to another conversation")]
    WrongConversation,
    /// Made in another epoch than ours.
    #[error("the message is of epoch {got}, we are in {ours}")]
    WrongEpoch {
        /// The message's epoch.
        got: u64,
        /// Ours.
        ours: u64,
    },
    /// Does not decrypt: a replay, a forgery, or its key is gone.
    #[error("the message does not decrypt (a replay, or not made by a member)")]
    Decrypt,
    /// A commit that we signed, and know nothing of: this database is older than it.
    #[error("a commit of this device's own that it does not know")]
    OwnCommitLost,
    /// Breaks the rules of MLS.
    #[error("the message breaks MLS: {0}")]
    Invalid(String),
    /// Breaks a rule of ours.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The Welcome is for none of our key packages, or its key package was used up.
    #[error("the invitation is for no key package that we hold")]
    NoKeyPackage,
    /// The group follows rules that this version does not know.
    #[error(
        "the conversation follows rules of version {rules}, which this version does not know: update to go on"
    )]
    RulesTooNew {
        /// Theirs.
        rules: u32,
    },
    /// Nothing can be encrypted to a member's key, so that no commit with a path can be made.
    #[error("the device in leaf {leaf} has a key that nothing can be encrypted to")]
    BadKey {
        /// Whose.
        leaf: u32,
    },
    /// A key package is refused.
    #[error(transparent)]
    KeyPackage(#[from] KeyPackageError),
    /// OpenMLS failed in a way that it should not.
    #[error("MLS library: {0}")]
    Library(String),
}

impl GroupError {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Store(error) => error.cause(),
            Self::Row(RowError::Store(error)) => error.cause(),
            Self::Row(_) => "GROUP_ROW",
            Self::Unknown => "GROUP_UNKNOWN",
            Self::Pending => "GROUP_PENDING",
            Self::NotPending => "GROUP_NOT_PENDING",
            Self::Evicted => "GROUP_EVICTED",
            Self::NoMember(_) => "GROUP_NO_MEMBER",
            Self::Empty => "GROUP_EMPTY",
            Self::Malformed => "GROUP_MALFORMED",
            Self::WrongConversation => "GROUP_WRONG_CONVERSATION",
            Self::WrongEpoch { .. } => "GROUP_WRONG_EPOCH",
            Self::Decrypt => "GROUP_DECRYPT",
            Self::OwnCommitLost => "GROUP_OWN_COMMIT_LOST",
            Self::Invalid(_) => "GROUP_INVALID",
            Self::Refused(refusal) => refusal.cause(),
            Self::NoKeyPackage => "GROUP_NO_KEY_PACKAGE",
            Self::RulesTooNew { .. } => "UPDATE_NEEDED",
            Self::BadKey { .. } => "GROUP_BAD_KEY",
            Self::KeyPackage(error) => error.cause(),
            Self::Library(_) => "GROUP_LIBRARY",
        }
    }

    /// Whether the database failed, so that the transaction cannot be committed with this as its result.
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Row(_))
    }

    pub(super) fn library(error: impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }
}

impl From<RowError> for GroupError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Store(error) => Self::Store(error),
            error => Self::Row(error),
        }
    }
}
