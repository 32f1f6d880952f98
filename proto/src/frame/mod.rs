//! Frames as checked Rust types, and their codec.
//!
//! Direction is in the name: a [`ClientFrame`] goes to the relay, a [`ServerFrame`] comes from it. Decoding
//! checks every length that the schema states, and that no number is above [`MOST_SEQ`], so that whoever
//! holds one of these types need not check again (parse, don't validate). Golden bytes of every frame are in
//! `proto/tests/golden.rs`.

mod client;
mod server;

pub use client::{
    Ack, Authenticate, ClientFrame, Create, Open, Opening, Post, ProveRelay, PublishCard, PublishKeyPackages,
    Register, Request, Signal, TokenPurpose,
};
pub use server::{
    CardAnswer, Delivery, Hello, KeyPackage, OpenState, Opened, Refusal, ServerBody, ServerFrame,
};

use bytes::Bytes;

use crate::code::ErrorCode;
use crate::generated as wire;
use crate::id::{BadHandle, WrongLength};
use crate::limits::MOST_SEQ;
use crate::turn::{Reader, Turn};

/// The bytes are not a frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not protobuf by this schema. The connection cannot go on.
    #[error("not a frame: {0}")]
    Malformed(String),
    /// The frame has no body, or one that this version does not know.
    #[error("unknown or missing body in request {request}")]
    UnknownBody {
        /// The request number, for the answer.
        request: u64,
    },
    /// Request number 0 on a request that must be answered.
    #[error("request number 0 is for acks only")]
    NumberMissing,
    /// A field has a wrong length or value.
    #[error("{problem}")]
    BadField {
        /// The request number, for the answer.
        request: u64,
        /// Which field, and what is wrong with it.
        problem: String,
    },
}

impl FrameError {
    /// The error code to tell the peer.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) | Self::NumberMissing => ErrorCode::BadFrame,
            Self::UnknownBody { .. } | Self::BadField { .. } => ErrorCode::BadRequest,
        }
    }

    /// The number of the request to refuse; `None` if the connection has to be closed instead.
    pub fn request(&self) -> Option<u64> {
        match self {
            Self::Malformed(_) | Self::NumberMissing => None,
            Self::UnknownBody { request } | Self::BadField { request, .. } => Some(*request),
        }
    }
}

/// What is wrong with one field, before the request number is known.
#[derive(Debug, thiserror::Error)]
pub enum BadField {
    /// A fixed-length field of another length.
    #[error(transparent)]
    Length(#[from] WrongLength),
    /// Not a handle.
    #[error(transparent)]
    Handle(#[from] BadHandle),
    /// A required message is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field that must not be empty is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A number outside of its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

pub(crate) fn array<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], WrongLength> {
    bytes.try_into().map_err(|_| WrongLength { what, expected: N, got: bytes.len() })
}

pub(crate) fn not_empty(what: &'static str, bytes: Bytes) -> Result<Bytes, BadField> {
    if bytes.is_empty() { Err(BadField::Empty(what)) } else { Ok(bytes) }
}

/// A number that the receiver may count with.
pub(crate) fn number(what: &'static str, number: u64) -> Result<u64, BadField> {
    if number > MOST_SEQ { Err(BadField::Range(what)) } else { Ok(number) }
}

/// The seq of an envelope; the first one has 1.
pub(crate) fn seq(what: &'static str, seq: u64) -> Result<u64, BadField> {
    if seq == 0 { Err(BadField::Range(what)) } else { number(what, seq) }
}

pub(crate) fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

impl TryFrom<wire::Reader> for Reader {
    type Error = BadField;

    fn try_from(wire: wire::Reader) -> Result<Self, BadField> {
        Ok(Self { id: wire.id.as_ref().try_into()?, key_hash: wire.key_hash.as_ref().try_into()? })
    }
}

impl From<&Reader> for wire::Reader {
    fn from(reader: &Reader) -> Self {
        Self { id: copy(reader.id), key_hash: copy(reader.key_hash) }
    }
}

impl TryFrom<wire::Turn> for Turn {
    type Error = BadField;

    fn try_from(wire: wire::Turn) -> Result<Self, BadField> {
        Ok(Self {
            post_key_hash: wire.post_key_hash.as_ref().try_into()?,
            turn_key_hash: wire.turn_key_hash.as_ref().try_into()?,
            admit: wire.admit.into_iter().map(Reader::try_from).collect::<Result<_, _>>()?,
            evict: wire.evict.iter().map(|id| id.as_ref().try_into()).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Turn> for wire::Turn {
    fn from(turn: &Turn) -> Self {
        Self {
            post_key_hash: copy(turn.post_key_hash),
            turn_key_hash: copy(turn.turn_key_hash),
            admit: turn.admit.iter().map(wire::Reader::from).collect(),
            evict: turn.evict.iter().map(copy).collect(),
        }
    }
}
