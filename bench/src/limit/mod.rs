//! The limits: the least that a relay on tokio-tungstenite can do, without storage and with one log file.
//!
//! Reading guide: [`relay`] has the connections, [`topic`] what they forward through, [`log`] the one file of
//! `limit-wal`. A message from a client is a kind (one byte), a topic (u32) and, in a post or an
//! acknowledgement, a number (u64) and the payload. A post is forwarded as it came, and answered by its kind
//! and number.
//!
//! Invariant: this is the yardstick, so it is written as well as we can, and does nothing that it need not
//! do: no ids, no keys, no checks, no reading back, no bound on its queues. `limit-wal` forwards and answers
//! only what is on stable storage.

pub(crate) mod log;
pub(crate) mod relay;
pub(crate) mod topic;

use bytes::Bytes;

/// First byte of a post, from the poster and to the reader.
pub(crate) const POST: u8 = b'P';
/// First byte of a subscription, and of its answer.
pub(crate) const SUBSCRIBE: u8 = b'S';
/// First byte of an acknowledgement, which is not answered. `limit-wal` logs it with the next batch.
pub(crate) const ACK: u8 = b'K';
/// First byte of the answer to a post.
pub(crate) const ANSWER: u8 = b'A';

/// The answer to a post.
pub(crate) fn answer(post: &Bytes) -> Bytes {
    let mut answer = [ANSWER; 9];
    answer[1..].copy_from_slice(&post[5..13]);
    Bytes::copy_from_slice(&answer)
}
