//! The identity key: Ed25519 (RFC 8032), from a 32-byte seed, and the one encoding of everything it signs.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand::CryptoRng;
use zeroize::Zeroizing;

/// Length of a signature, in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// What is signed: the label, then each field, each with its length before it (u32 big-endian). Labels are
/// constants that begin with "posthorn v" and the number of their format, so a signature made for one purpose
/// never serves another, and no two lists of fields give the same bytes.
fn signed_bytes(label: &'static str, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in std::iter::once(label.as_bytes()).chain(fields.iter().copied()) {
        bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// The bytes are no Ed25519 public key that may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identity key: 32 bytes of an Ed25519 public key are needed")]
pub struct BadIdentityKey;

/// The public half of an identity. Always a point of the curve and never one of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdentityKey(VerifyingKey);

impl IdentityKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// The bytes, as on the wire.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether this identity signed these fields under this label. Strict (RFC 8032 with the small-order
    /// checks).
    #[must_use]
    pub fn has_signed(&self, label: &'static str, fields: &[&[u8]], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .and_then(|signature| self.0.verify_strict(&signed_bytes(label, fields), &signature))
            .is_ok()
    }
}

impl TryFrom<&[u8]> for IdentityKey {
    type Error = BadIdentityKey;

    fn try_from(bytes: &[u8]) -> Result<Self, BadIdentityKey> {
        let key = VerifyingKey::try_from(bytes).map_err(|_| BadIdentityKey)?;
        if key.is_weak() { Err(BadIdentityKey) } else { Ok(Self(key)) }
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.as_bytes();
        write!(f, "IdentityKey({:02x}{:02x}..)", bytes[0], bytes[1])
    }
}

/// A person's (or bot's) root key.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The identity of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// A fresh identity.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The secret seed, for storing it sealed.
    pub fn expose_seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public half.
    pub fn key(&self) -> IdentityKey {
        IdentityKey(self.0.verifying_key())
    }

    /// Signs fields under a label. Labels are constants beside the code that uses them.
    pub fn sign(&self, label: &'static str, fields: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&signed_bytes(label, fields)).to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(secret)")
    }
}
