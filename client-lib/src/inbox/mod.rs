//! Inboxes: what is sealed to one device by somebody who shares no key with it yet.
//!
//! Owns the inbox's key pair, its address and the seal. What is sealed (invitations, key packages, repairs)
//! is bytes here. HPKE base mode authenticates nobody (fine print, rule 14): whoever reads what was opened
//! must find the sender's signature inside.
//!
//! A sealed message is `encapsulated key (1,120) || ciphertext` of a standard length, see
//! [`crate::envelope`]; the mailbox and the post are in HPKE's `info`, so that a relay cannot move it.

mod hpke;
#[cfg(test)]
mod tests;

use std::fmt;

use posthorn_proto::{MailboxId, PostId, PostKey, RelayIdentity};
use prost::Message;
use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::envelope::{LONGEST, is_standard_length, pad, standard_length, unpad};
use crate::identity::{RelayAddress, RelayUrl, wire};

pub(crate) use hpke::{encapsulate, is_public_key};

/// Domain separation of HPKE's `info`.
const LABEL: &[u8] = b"posthorn v1 inbox";

/// Bytes that sealing adds before padding: encapsulated key, tag and length.
pub const OVERHEAD: usize = hpke::ENCAPSULATED_BYTES + hpke::TAG_BYTES + 4;

/// The most data that one sealed message carries, in bytes.
pub const MOST_DATA: usize = LONGEST - OVERHEAD;

/// Why something was not sealed to an inbox, or does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// More data than [`MOST_DATA`].
    #[error("{got} bytes do not fit an inbox message, which holds at most {MOST_DATA}")]
    TooLong {
        /// Bytes given.
        got: usize,
    },
    /// No X-Wing public key.
    #[error("not an inbox key: 1,216 bytes of an X-Wing public key are needed")]
    Key,
    /// The length is not one that a sealed message can have.
    #[error("{got} bytes is no length of an inbox message")]
    Length {
        /// Bytes given.
        got: usize,
    },
    /// Sealed to another inbox, mailbox or post, or tampered with.
    #[error("the inbox message does not open with this key in this place")]
    Seal,
    /// The sender did not pad as the format demands.
    #[error("the inbox message's padding is malformed")]
    Padding,
    /// An address with a field that is out of form.
    #[error("the inbox address is malformed: {0}")]
    Address(&'static str),
}

impl InboxError {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "INBOX_TOO_LONG",
            Self::Key => "INBOX_KEY",
            Self::Length { .. } => "INBOX_LENGTH",
            Self::Seal => "INBOX_SEAL",
            Self::Padding => "INBOX_PADDING",
            Self::Address(_) => "INBOX_ADDRESS",
        }
    }
}

/// The public half of an inbox: X-Wing (draft-connolly-cfrg-xwing-kem-06), 1,216 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct InboxKey(Box<[u8; hpke::PUBLIC_BYTES]>);

impl InboxKey {
    /// Length in bytes.
    pub const LEN: usize = hpke::PUBLIC_BYTES;

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Whether anything can be sealed to it (ML-KEM's modulus check, FIPS 203 section 7.2). Takes some 30
    /// microseconds.
    pub fn is_valid(&self) -> bool {
        hpke::is_public_key(self.as_bytes())
    }

    /// Seals `data` so that only the inbox's owner opens it, and only as this post in this mailbox. Errors:
    /// [`InboxError::TooLong`], [`InboxError::Key`].
    pub fn seal(
        &self,
        mailbox: &MailboxId,
        post: &PostId,
        data: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, InboxError> {
        let total = standard_length(OVERHEAD + data.len()).ok_or(InboxError::TooLong { got: data.len() })?;
        let padded = Zeroizing::new(pad(data, total - hpke::ENCAPSULATED_BYTES - hpke::TAG_BYTES));
        let mut randomness = Zeroizing::new([0; hpke::RANDOMNESS_BYTES]);
        rng.fill_bytes(&mut *randomness);
        hpke::seal(self.as_bytes(), &info(mailbox, post), &padded, &randomness).ok_or(InboxError::Key)
    }
}

impl TryFrom<&[u8]> for InboxKey {
    type Error = InboxError;

    /// Checks the length only; see [`InboxKey::is_valid`]. Errors: [`InboxError::Key`].
    fn try_from(bytes: &[u8]) -> Result<Self, InboxError> {
        let bytes: [u8; Self::LEN] = bytes.try_into().map_err(|_| InboxError::Key)?;
        Ok(Self(Box::new(bytes)))
    }
}

impl fmt::Debug for InboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboxKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// The secret half of an inbox: the 32-byte seed that is X-Wing's private key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct InboxSecret([u8; 32]);

impl InboxSecret {
    /// A fresh inbox.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut secret = Self([0; 32]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// A stored inbox.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The secret seed, for storing it sealed.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half. Takes some 50 microseconds.
    pub fn key(&self) -> InboxKey {
        InboxKey(Box::new(hpke::public_key(&self.0)))
    }

    /// Opens what was read as this post of this mailbox. Errors: [`InboxError::Length`],
    /// [`InboxError::Seal`], [`InboxError::Padding`].
    pub fn open(&self, mailbox: &MailboxId, post: &PostId, sealed: &[u8]) -> Result<Vec<u8>, InboxError> {
        if !is_standard_length(sealed.len()) || sealed.len() < OVERHEAD {
            return Err(InboxError::Length { got: sealed.len() });
        }
        let padded = hpke::open(&self.0, &info(mailbox, post), sealed).ok_or(InboxError::Seal)?;
        unpad(padded).ok_or(InboxError::Padding)
    }
}

impl fmt::Debug for InboxSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InboxSecret(secret)")
    }
}

/// Where sealed messages for one device can be left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxAddress {
    /// The relay.
    pub relay: RelayAddress,
    /// The mailbox there.
    pub mailbox: MailboxId,
    /// Lets its holder post into it.
    pub post_key: PostKey,
    /// What to seal to.
    pub key: InboxKey,
}

impl InboxAddress {
    /// The bytes, as they stand in a leaf.
    pub fn encode(&self) -> Vec<u8> {
        wire::InboxAddress {
            relay_url: self.relay.url.as_str().to_owned(),
            relay_identity: self.relay.identity.0.to_vec(),
            mailbox_id: self.mailbox.0.to_vec(),
            post_key: self.post_key.expose().to_vec(),
            public_key: self.key.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }

    /// Errors: [`InboxError::Address`].
    pub fn decode(bytes: &[u8]) -> Result<Self, InboxError> {
        use InboxError::Address;
        let raw = wire::InboxAddress::decode(bytes).map_err(|_| Address("encoding"))?;
        // Exactly one encoding, so that nothing can be hidden in a leaf (rule 29).
        if raw.encode_to_vec() != bytes {
            return Err(Address("encoding"));
        }
        Ok(Self {
            relay: RelayAddress {
                url: RelayUrl::parse(&raw.relay_url).map_err(|_| Address("relay url"))?,
                identity: RelayIdentity::try_from(&raw.relay_identity[..])
                    .map_err(|_| Address("relay identity"))?,
            },
            mailbox: MailboxId::try_from(&raw.mailbox_id[..]).map_err(|_| Address("mailbox id"))?,
            post_key: PostKey::try_from(&raw.post_key[..]).map_err(|_| Address("post key"))?,
            key: InboxKey::try_from(&raw.public_key[..]).map_err(|_| Address("inbox key"))?,
        })
    }
}

fn info(mailbox: &MailboxId, post: &PostId) -> Vec<u8> {
    [LABEL, &mailbox.0, &post.0].concat()
}
