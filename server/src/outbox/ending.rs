//! Why the relay closes a connection.
//!
//! Owns the close codes and their words, and closes nothing.

use posthorn_proto::{CLOSE_IDLE, CLOSE_STALLED};

/// Why the relay closes a connection: a WebSocket close code and a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// RFC 6455, section 7.4; from 4000 on our own.
    pub code: u16,
    /// One word for people and programs.
    pub reason: &'static str,
}

impl Ending {
    /// The relay stops.
    pub const GOING_AWAY: Self = Self { code: 1001, reason: "GOING_AWAY" };
    /// Not WebSocket.
    pub const PROTOCOL: Self = Self { code: 1002, reason: "PROTOCOL" };
    /// A text message.
    pub const TEXT: Self = Self { code: 1003, reason: "TEXT_MESSAGE" };
    /// Not a frame of this protocol.
    pub const BAD_FRAME: Self = Self { code: 1007, reason: "BAD_FRAME" };
    /// Too much bad input, too many wrong proofs, or requests far above the rate.
    pub const FLOOD: Self = Self { code: 1008, reason: "FLOOD" };
    /// Longer than the announced frame.
    pub const TOO_LARGE: Self = Self { code: 1009, reason: "TOO_LARGE" };
    /// Nothing came for `limits.idle_seconds`.
    pub const IDLE: Self = Self { code: CLOSE_IDLE, reason: "IDLE" };
    /// For `connections.stalled_seconds` it took nothing of what was sent, or did not end a message that it
    /// had begun.
    pub const STALLED: Self = Self { code: CLOSE_STALLED, reason: "STALLED" };
}
