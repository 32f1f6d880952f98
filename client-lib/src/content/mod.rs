//! What members say to each other inside the encryption: [`Content`] in conversations, [`InboxMessage`] to
//! inboxes.
//!
//! Owns the encoding and its checks. It encrypts nothing and decides nothing. In reading order: [`Content`]
//! is one message; [`Said`] is what it says, as class and bytes (`said.rs`); [`Kind`] is that read, one file
//! a kind (`kind/`).

mod author;
mod help;
mod inbox_message;
pub(crate) mod kind;
mod said;

pub use author::{Author, Named};
pub(crate) use author::{device_of_text, device_text};
pub(crate) use help::MOST_REPAIR;
pub use help::{Help, Repaired, UnverifiedHelp};
pub use inbox_message::{InboxMessage, Invitation, InvitationError, UnverifiedInvitation, WelcomeRefused};
pub use kind::{
    Act, CUSTOM_BYTES, Change, Custom, EMOJI_BYTES, Kind, Leave, PROPOSAL_BYTES, Reaction, ReceiptOnly,
    Sender, TEXT_BYTES, Text, Unknown,
};
pub use said::{BODY_BYTES, Class, FALLBACK_BYTES, Said, SaidError, Target};

use posthorn_proto::WrongLength;
use prost::Message as _;

use crate::conversation::MessageId;
use crate::envelope::MOST_DATA;
use crate::identity::PersonId;

pub(crate) mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated from the schema, which is documented"
    )]
    include!(concat!(env!("OUT_DIR"), "/posthorn.content.v2.rs"));
}

/// The longest encoded [`Content`]: the longest body and fallback, and under 300 bytes for the other fields.
pub const CONTENT_BYTES: usize = 68 * 1024;
/// The largest number in a content: seqs and milliseconds, which must fit JSON and SQLite.
const MOST_NUMBER: u64 = 1 << 53;

// Whatever can be said can be sealed: MLS adds the group id, a place and a signature, under 1 KiB together.
const _: () = assert!(BODY_BYTES + FALLBACK_BYTES + 300 <= CONTENT_BYTES);
const _: () = assert!(CONTENT_BYTES + 4096 <= MOST_DATA);

/// One application message of a conversation. Where its sender stood is signed beside it (rule 30).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Kept across re-encryption; receivers drop repeats by it.
    pub message: MessageId,
    /// Unix milliseconds by the sender's clock.
    pub sent_at: u64,
    /// What the sender has got and read.
    pub receipt: Receipt,
    /// What is said.
    pub said: Said,
}

/// Cumulative receipts, by seq of the mailbox in which they are sent (rule 22). 0 says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// Everything up to here has arrived.
    pub delivered: u64,
    /// Everything up to here was on a screen.
    pub read: u64,
}

/// The plaintext of a message is not content. A kind that is not known is none of these: that is content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Not protobuf of the schema, or a number that cannot be.
    #[error("the content is malformed")]
    Malformed,
    /// A field of a wrong length.
    #[error(transparent)]
    Length(#[from] WrongLength),
    /// What is said exceeds its bounds.
    #[error(transparent)]
    Said(#[from] SaidError),
}

impl Content {
    /// The bytes to encrypt.
    pub fn encode(&self) -> Vec<u8> {
        wire::Content {
            message_id: self.message.0.to_vec(),
            sent_at: self.sent_at,
            receipt: Some(wire::Receipt { delivered: self.receipt.delivered, read: self.receipt.read }),
            kind: self.said.kind(),
            class: wire::Class::from(self.said.class()).into(),
            target: self.said.target().map(|target| wire::Target {
                person: target.person.0.to_vec(),
                message: target.message.0.to_vec(),
            }),
            fallback: self.said.fallback().to_owned(),
            body: self.said.bytes().to_vec(),
        }
        .encode_to_vec()
    }

    /// Parses and checks decrypted bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContentError> {
        if bytes.len() > CONTENT_BYTES {
            return Err(ContentError::Malformed);
        }
        let raw = wire::Content::decode(bytes).map_err(|_| ContentError::Malformed)?;
        let class = match raw.class() {
            // What the enumeration does not know reads as its first value.
            wire::Class::Entry if raw.class != 0 => return Err(ContentError::Malformed),
            wire::Class::Entry => Class::Entry,
            wire::Class::Change => Class::Change,
            wire::Class::Quiet => Class::Quiet,
        };
        let receipt = raw.receipt.unwrap_or_default();
        let numbers = [raw.sent_at, receipt.delivered, receipt.read];
        if numbers.into_iter().any(|number| number > MOST_NUMBER) {
            return Err(ContentError::Malformed);
        }
        let target = raw.target.as_ref().map(Target::try_from).transpose()?;
        Ok(Self {
            message: MessageId::try_from(&raw.message_id[..])?,
            sent_at: raw.sent_at,
            receipt: Receipt { delivered: receipt.delivered, read: receipt.read },
            said: Said::from_parts(raw.kind, class, target, raw.fallback, raw.body)?,
        })
    }
}

impl From<Class> for wire::Class {
    fn from(class: Class) -> Self {
        match class {
            Class::Entry => Self::Entry,
            Class::Change => Self::Change,
            Class::Quiet => Self::Quiet,
        }
    }
}

impl TryFrom<&wire::Target> for Target {
    type Error = WrongLength;

    fn try_from(raw: &wire::Target) -> Result<Self, WrongLength> {
        let person = PersonId(array("person", &raw.person)?);
        Ok(Self { person, message: MessageId::try_from(&raw.message[..])? })
    }
}

pub(crate) fn array<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], WrongLength> {
    bytes.try_into().map_err(|_| WrongLength { what, expected: N, got: bytes.len() })
}

#[cfg(test)]
mod tests;
