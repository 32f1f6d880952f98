//! The wire of Posthorn: what a client and a relay say to each other, and the few computations on it that
//! both must agree on.
//!
//! Reading guide: `schema/posthorn.proto` is the normative description; [`frame`] holds the same messages as
//! Rust types with their lengths checked, and the codec; [`id`] and [`key`] the names and keys; [`turn`] what
//! an append may change in the lock; [`chain`] the hashes over posts; [`auth`] how a device proves itself and
//! the relay to it; [`proof`] how the relay proves itself to anybody; [`limits`] every size; [`code`] every
//! error.
//!
//! Invariant: no I/O, no clock, no ambient randomness, and nothing about what an envelope contains. The
//! generated protobuf types are private: outside of this crate only the checked types exist.

pub mod auth;
pub mod chain;
pub mod code;
pub mod frame;
pub mod id;
pub mod key;
pub mod limits;
pub mod proof;
pub mod turn;

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated from the schema, which is documented"
    )]
    include!(concat!(env!("OUT_DIR"), "/posthorn.v1.rs"));
}

pub use code::ErrorCode;
pub use id::{
    BadHandle, BlobId, DeviceId, Handle, Incarnation, KeyHash, MailboxId, PostId, ReaderId, RelayIdentity,
    WrongLength,
};
pub use key::{HolderKey, PostKey, ReadKey, Token, TurnKey};
pub use limits::Limits;
pub use turn::{Reader, Turn, TurnRequest};

/// The WebSocket subprotocol that both sides must name.
pub const SUBPROTOCOL: &str = "posthorn.v1";

/// Where a relay speaks WebSocket, below its URL.
pub const PATH: &str = "/v1/ws";

/// Below which path of a relay's URL blobs are put and got by HTTP: `/v1/blob/` and the id in 32 hexadecimal
/// digits.
pub const BLOB_PATH: &str = "/v1/blob/";

/// The WebSocket close code of a connection that was silent for `limits.idle_seconds`.
pub const CLOSE_IDLE: u16 = 4000;

/// The WebSocket close code of a connection that took nothing of what was sent to it, or did not end a
/// message that it had begun.
pub const CLOSE_STALLED: u16 = 4001;

/// The protocol version that `Hello` announces.
pub const VERSION: u32 = 1;
