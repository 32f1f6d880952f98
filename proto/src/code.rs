//! Error codes: the stable vocabulary of refusal (R9). `docs/protocol.md` lists them for readers without this
//! source.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal $retry:ident),* $(,)?) => {
        /// Why a request was refused. Numbers and names never change their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name = $number),* }

        impl ErrorCode {
            /// Every code, in order of number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable name, as in the schema.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Whether, and on what condition, the same request may succeed later.
            pub fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry),* }
            }

            /// The code with this number; a number from a newer relay is `None`.
            pub fn from_number(number: i32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

/// What a client should do about a refused request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request would fail again.
    Never,
    /// Read the mailbox up to its head first, then build the request again.
    AfterReading,
    /// The same request may succeed after waiting (`retry_after_ms`, else with backoff).
    Later,
    /// Reconnect, then send the same request again.
    Reconnect,
}

codes! {
    /// Not a frame; the connection is closed.
    BadFrame = 1 "BAD_FRAME" Never,
    /// A field has the wrong length or value.
    BadRequest = 2 "BAD_REQUEST" Never,
    /// Over an announced limit.
    TooLarge = 3 "TOO_LARGE" Never,
    /// The request needs an authenticated device.
    Unauthenticated = 4 "UNAUTHENTICATED" Never,
    /// Unknown device or wrong proof.
    AuthenticationFailed = 5 "AUTHENTICATION_FAILED" Never,
    /// The relay's directory answers only devices with an account there.
    AccountNeeded = 6 "ACCOUNT_NEEDED" Never,
    /// Never existed, expired or destroyed.
    MailboxUnknown = 10 "MAILBOX_UNKNOWN" Never,
    /// Another mailbox has this id.
    MailboxExists = 11 "MAILBOX_EXISTS" Never,
    /// The post key or turn key is not the current one, or no longer is.
    KeyTurned = 12 "KEY_TURNED" AfterReading,
    /// The reader exists, but this is not its key.
    ReadKeyWrong = 13 "READ_KEY_WRONG" Never,
    /// Never admitted, or evicted.
    ReaderUnknown = 14 "READER_UNKNOWN" Never,
    /// A later opening of the same reader took over.
    OpenedElsewhere = 15 "OPENED_ELSEWHERE" Never,
    /// This connection has not opened the mailbox.
    NotOpen = 16 "NOT_OPEN" Never,
    /// The post id stands for a different post.
    PostIdReused = 17 "POST_ID_REUSED" Never,
    /// The turn contradicts the mailbox's readers or their limit.
    BadTurn = 18 "BAD_TURN" Never,
    /// The token was never drawn for this, is spent, or is void.
    TokenUnknown = 19 "TOKEN_UNKNOWN" Never,
    /// Unknown, used up or expired invite.
    InviteInvalid = 20 "INVITE_INVALID" Never,
    /// The handle belongs to another account.
    HandleTaken = 21 "HANDLE_TAKEN" Never,
    /// No account has this handle.
    HandleUnknown = 22 "HANDLE_UNKNOWN" Never,
    /// The card's version is not above the stored one.
    CardStale = 23 "CARD_STALE" Never,
    /// No device of the account has a key package.
    NoKeyPackage = 24 "NO_KEY_PACKAGE" Later,
    /// The post id is not of the last minutes, and no post with it is known.
    PostIdTime = 25 "POST_ID_TIME" AfterReading,
    /// The mailbox is at its quota.
    MailboxFull = 40 "MAILBOX_FULL" Later,
    /// The relay or the account is at its quota.
    Quota = 41 "QUOTA" Later,
    /// Too many requests.
    RateLimited = 42 "RATE_LIMITED" Later,
    /// The relay's queue is full.
    Busy = 43 "BUSY" Later,
    /// The relay cannot write just now.
    StoreUnavailable = 44 "STORE_UNAVAILABLE" Later,
    /// The relay is stopping.
    ShuttingDown = 45 "SHUTTING_DOWN" Reconnect,
    /// A bug in the relay.
    Internal = 46 "INTERNAL" Later,
    /// A stored envelope can no longer be read back.
    Damaged = 47 "DAMAGED" Never,
    /// No such blob: it never existed, its lease ended, or it was deleted.
    BlobUnknown = 60 "BLOB_UNKNOWN" Never,
    /// Another blob has this id.
    BlobExists = 61 "BLOB_EXISTS" Never,
    /// The blob exists, but this is not its holder's key.
    HolderKeyWrong = 62 "HOLDER_KEY_WRONG" Never,
    /// The blob exists, but this part of it was not put yet.
    PartMissing = 63 "PART_MISSING" Later,
    /// Other bytes are stored as this part.
    PartDiffers = 64 "PART_DIFFERS" Never,
    /// The range does not overlap what there is.
    RangeWrong = 65 "RANGE_WRONG" Never,
    /// Too little came for too long. What was put stays.
    TooSlow = 66 "TOO_SLOW" Later,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated;

    #[test]
    fn codes_are_those_of_the_schema() {
        for code in ErrorCode::ALL {
            let schema = generated::ErrorCode::try_from(*code as i32).expect("number stands in the schema");
            assert_eq!(schema.as_str_name(), code.name());
            assert_eq!(ErrorCode::from_number(*code as i32), Some(*code));
        }
        let schema = (1..1000).filter(|n| generated::ErrorCode::try_from(*n).is_ok()).count();
        assert_eq!(schema, ErrorCode::ALL.len(), "the schema has a code that this enum lacks");
    }
}
