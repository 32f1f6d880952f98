//! Cause codes: why something that a user can see did not go as hoped (C3). There is no failure without one.

use std::fmt;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident $text:literal),* $(,)?) => {
        /// Why. Names are stable; `docs/causes.md` tells what each means and what happens next.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Cause { $($(#[$doc])* $name),* }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

causes! {
    /// A member's chain at a seq differs from ours: the relay showed us different histories (C4).
    ChainMismatch "CHAIN_MISMATCH",
    /// The relay skipped a seq.
    Gap "GAP",
    /// An append turned the lock in a way that its commit does not say (rule 1).
    BadTurn "BAD_TURN",
    /// A commit that no turn came with, which nobody may apply.
    CommitWithoutTurn "COMMIT_WITHOUT_TURN",
    /// A commit that the rules of the conversation do not allow.
    BadCommit "BAD_COMMIT",
    /// The relay's cursor is ahead of this database: an older copy of it was put back (rule 10). It must not
    /// send.
    RolledBack "ROLLED_BACK",
    /// The relay's newest seq is below what we have read: its store was put back (rule 8).
    RelayRolledBack "RELAY_ROLLED_BACK",
    /// We have read everything, and the lock is still not the one of our epoch (rule 7).
    KeyMismatch "KEY_MISMATCH",
    /// Envelopes expired before we read them.
    Lapsed "LAPSED",
    /// The mailbox is gone from the relay.
    MailboxGone "MAILBOX_GONE",
    /// The relay has not answered for days, while our own did.
    RelayGone "RELAY_GONE",
    /// The relay says that we were removed, and the commit that says so is not to be had any more.
    Evicted "EVICTED",
    /// A commit removed us.
    Removed "REMOVED",
    /// The relay does not take our read key.
    ReadKeyRefused "READ_KEY_REFUSED",
    /// The same device is open somewhere else: a copied profile.
    OpenedElsewhere "OPENED_ELSEWHERE",
    /// An envelope that the epoch's key does not open, or of a wrong form.
    EnvelopeUnreadable "ENVELOPE_UNREADABLE",
    /// An MLS message that does not decrypt or verify.
    MessageUnreadable "MESSAGE_UNREADABLE",
    /// A message that decrypts and is not content. (A kind that is not known is content, and is kept.)
    ContentMalformed "CONTENT_MALFORMED",
    /// A message or commit that stands in another place than its author put it.
    Misplaced "MISPLACED",
    /// An envelope that ended this program three times; it was passed over.
    Poison "POISON",
    /// A message whose claimed position cannot be.
    BadPosition "BAD_POSITION",
    /// What the relay shows under our own post id, or at the seq that it answered, is not what we posted.
    EchoDiffers "ECHO_DIFFERS",
    /// An invitation that is not valid.
    BadInvitation "BAD_INVITATION",
    /// An invitation whose Welcome does not open.
    WelcomeUnreadable "WELCOME_UNREADABLE",
    /// The relay is not the one that we know under this address.
    RelayChanged "RELAY_CHANGED",
    /// The conversation moved to a relay that this device does not use yet.
    ForeignRelay "FOREIGN_RELAY",
    /// The relay's store was restored from a backup (R10).
    RelayRestored "RELAY_RESTORED",
    /// The relay does not believe this device.
    AuthenticationFailed "AUTHENTICATION_FAILED",
    /// The relay refused for good; the message says why.
    Refused "REFUSED",
    /// The relay or the mailbox is full; we keep trying.
    Full "FULL",
    /// Somebody has the name of somebody else.
    NameTwice "NAME_TWICE",
    /// Somebody could not be added: no such account, no key package, a wrong card.
    CannotAdd "CANNOT_ADD",
    /// This device's keys could not be renewed; it is tried again.
    CannotUpdate "CANNOT_UPDATE",
    /// The relay lost an envelope that it had promised to keep.
    Damaged "DAMAGED",
    /// The conversation follows rules that this version does not know.
    UpdateNeeded "UPDATE_NEEDED",
    /// We left before it was said.
    Left "LEFT",
    /// Strangers want more than they may in a day.
    TooMany "TOO_MANY",
    /// This device's clock and the relay's differ by more than half an hour.
    ClockWrong "CLOCK_WRONG",
    /// Something went wrong in this program; what it was about is as before.
    Internal "INTERNAL",
    /// Somebody else changed the same thing first.
    Overtaken "OVERTAKEN",
    /// The commit or the invitation does not fit one envelope.
    TooLarge "TOO_LARGE",
}

impl Cause {
    /// The cause of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.name() == name)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Cause {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom("unknown cause"))
    }
}
