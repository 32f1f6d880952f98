//! The outer envelope: what a relay stores instead of a message.
//!
//! Owns padding and the seal that hides from the relay what MLS leaves in clear (group id, epoch, content
//! type, sender). It never looks into what it seals, and knows neither conversations nor MLS. What it makes
//! is `nonce (24) || XChaCha20-Poly1305(length as u32 big-endian || data || zeros)`, of a standard length
//! (`padding.rs`), with `label || mailbox id || post id || turn hash` as associated data (fine print, rule
//! 1): an envelope that a relay moves to another mailbox, post or turn does not open.

mod padding;

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{MailboxId, PostId};
use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use padding::{LONGEST, SHORTEST, is_standard_length, standard_length};
pub(crate) use padding::{pad, unpad};

/// Domain separation of the associated data.
const LABEL: &[u8] = b"posthorn v1 envelope";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Bytes that an envelope adds to its data before padding: nonce, tag and length.
pub const OVERHEAD: usize = NONCE_BYTES + TAG_BYTES + padding::LENGTH_BYTES;

/// The most data that one envelope carries, in bytes.
pub const MOST_DATA: usize = LONGEST - OVERHEAD;

/// Where an envelope stands. Sealing binds it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The mailbox it is posted to.
    pub mailbox: MailboxId,
    /// The post that carries it.
    pub post: PostId,
    /// The turn that the post carries, or [`TurnHash::NONE`].
    pub turn: TurnHash,
}

impl Slot {
    fn associated_data(&self) -> Vec<u8> {
        [LABEL, &self.mailbox.0, &self.post.0, &self.turn.0].concat()
    }
}

/// Why an envelope was not sealed or does not open. None is worth a retry with the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More data than [`MOST_DATA`].
    #[error("{got} bytes do not fit an envelope, which holds at most {MOST_DATA}")]
    TooLong {
        /// Bytes given.
        got: usize,
    },
    /// The length is not one that an envelope can have.
    #[error("{got} bytes is no length of an envelope")]
    Length {
        /// Bytes given.
        got: usize,
    },
    /// Wrong key, wrong slot, or tampered with.
    #[error("the envelope does not open with this key in this place")]
    Seal,
    /// Whoever held the key did not pad as the format demands.
    #[error("the envelope's padding is malformed")]
    Padding,
}

impl EnvelopeError {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "ENVELOPE_TOO_LONG",
            Self::Length { .. } => "ENVELOPE_LENGTH",
            Self::Seal => "ENVELOPE_SEAL",
            Self::Padding => "ENVELOPE_PADDING",
        }
    }
}

/// Seals and opens the envelopes of one epoch of one conversation. 32 bytes from the epoch's exporter.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EnvelopeKey([u8; 32]);

impl EnvelopeKey {
    /// Takes derived key bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret bytes, for storing them sealed.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals `data` into an envelope for `slot`. Errors: [`EnvelopeError::TooLong`].
    pub fn seal(
        &self,
        slot: &Slot,
        data: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, EnvelopeError> {
        let total =
            standard_length(OVERHEAD + data.len()).ok_or(EnvelopeError::TooLong { got: data.len() })?;
        let padded = Zeroizing::new(pad(data, total - NONCE_BYTES - TAG_BYTES));
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let sealed = XChaCha20Poly1305::new((&self.0).into())
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &padded, aad: &slot.associated_data() })
            .map_err(|_| EnvelopeError::TooLong { got: data.len() })?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens an envelope that was read at `slot`. Errors: all but [`EnvelopeError::TooLong`].
    pub fn open(&self, slot: &Slot, envelope: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        if !is_standard_length(envelope.len()) {
            return Err(EnvelopeError::Length { got: envelope.len() });
        }
        let (nonce, sealed) = envelope.split_at(NONCE_BYTES);
        let padded = XChaCha20Poly1305::new((&self.0).into())
            .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &slot.associated_data() })
            .map_err(|_| EnvelopeError::Seal)?;
        unpad(padded).ok_or(EnvelopeError::Padding)
    }
}

impl fmt::Debug for EnvelopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeKey(secret)")
    }
}

#[cfg(test)]
mod tests;
