//! What members say to each other inside the encryption: [`Content`] in conversations, [`InboxMessage`] to
//! inboxes.
//!
//! Owns the encoding and its checks. It encrypts nothing and decides nothing.

mod inbox_message;

pub use inbox_message::{InboxMessage, Invitation, InvitationError, UnverifiedInvitation, WelcomeRefused};

use posthorn_proto::WrongLength;
use posthorn_proto::chain::Chain;
use prost::Message as _;

use crate::conversation::MessageId;

pub(crate) mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated from the schema, which is documented"
    )]
    include!(concat!(env!("OUT_DIR"), "/posthorn.content.v1.rs"));
}

/// The longest text, in bytes of UTF-8. It fits one envelope with room to spare.
pub const TEXT_BYTES: usize = 64 * 1024;

/// One application message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Kept across re-encryption; receivers drop repeats by it.
    pub message: MessageId,
    /// Unix milliseconds by the sender's clock.
    pub sent_at: u64,
    /// Where the sender stood when it encrypted this.
    pub position: Position,
    /// What the sender has got and read.
    pub receipt: Receipt,
    /// What is said.
    pub body: ContentBody,
}

/// A place in a mailbox, with the chain that proves what came before (C4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The newest seq that the sender had applied.
    pub seq: u64,
    /// The sender's chain there.
    pub chain: Chain,
}

/// Cumulative receipts, by seq (rule 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// Everything up to here has arrived.
    pub delivered: u64,
    /// Everything up to here was on a screen.
    pub read: u64,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContentBody {
    /// Words.
    Text(String),
    /// "I leave": another member commits the removal.
    Leave,
    /// Nothing but the receipt.
    ReceiptOnly,
}

/// The plaintext of a message is not content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Not protobuf of the schema.
    #[error("the content is malformed")]
    Malformed,
    /// A field of a wrong length.
    #[error(transparent)]
    Length(#[from] WrongLength),
    /// A kind that this version does not know: the sender's software is newer.
    #[error("the content is of a kind that this version does not know")]
    UnknownKind,
    /// A text over [`TEXT_BYTES`].
    #[error("the text has {got} bytes, at most {TEXT_BYTES} are taken")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
}

impl Content {
    /// The bytes to encrypt.
    pub fn encode(&self) -> Vec<u8> {
        use wire::content::Body;
        wire::Content {
            message_id: self.message.0.to_vec(),
            sent_at: self.sent_at,
            position: Some(wire::Position { seq: self.position.seq, chain: self.position.chain.0.to_vec() }),
            receipt: Some(wire::Receipt { delivered: self.receipt.delivered, read: self.receipt.read }),
            body: Some(match &self.body {
                ContentBody::Text(text) => Body::Text(wire::Text { text: text.clone() }),
                ContentBody::Leave => Body::Leave(wire::Leave {}),
                ContentBody::ReceiptOnly => Body::ReceiptOnly(wire::ReceiptOnly {}),
            }),
        }
        .encode_to_vec()
    }

    /// Parses and checks decrypted bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContentError> {
        use wire::content::Body;
        let raw = wire::Content::decode(bytes).map_err(|_| ContentError::Malformed)?;
        let position = raw.position.ok_or(ContentError::Malformed)?;
        let receipt = raw.receipt.unwrap_or_default();
        let body = match raw.body.ok_or(ContentError::UnknownKind)? {
            Body::Text(wire::Text { text }) if text.len() > TEXT_BYTES => {
                return Err(ContentError::TooLong { got: text.len() });
            }
            Body::Text(wire::Text { text }) => ContentBody::Text(text),
            Body::Leave(wire::Leave {}) => ContentBody::Leave,
            Body::ReceiptOnly(wire::ReceiptOnly {}) => ContentBody::ReceiptOnly,
        };
        Ok(Self {
            message: MessageId::try_from(&raw.message_id[..])?,
            sent_at: raw.sent_at,
            position: Position { seq: position.seq, chain: Chain(array("chain", &position.chain)?) },
            receipt: Receipt { delivered: receipt.delivered, read: receipt.read },
            body,
        })
    }
}

pub(crate) fn array<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], WrongLength> {
    bytes.try_into().map_err(|_| WrongLength { what, expected: N, got: bytes.len() })
}
