//! From a passphrase to the database key.
//!
//! The database key is 32 random bytes that never change; the passphrase only wraps it, so that changing the
//! passphrase rewrites one row. Owns the wrapping and its record; never touches SQLite.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use prost::Message;
use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{StoreError, wire};

/// Domain separation of the wrapping's associated data.
const WRAP_LABEL: &[u8] = b"posthorn v1 database key";
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;

/// What the owner types, or a random string from the system's keyring.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// Takes the text as it is: no trimming, no normalisation.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(secret)")
    }
}

/// How dear a guess is (Argon2id, RFC 9106). Stored with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes; computed one after another here.
    pub lanes: u32,
}

impl KdfCost {
    /// For people's passphrases: 64 MiB, three passes (the second recommendation of RFC 9106 section 4, with
    /// one lane).
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };

    /// For tests and simulations, and for passphrases that are random keys already.
    pub const CHEAP: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// A record that demands more than this is damaged or hostile: 4 GiB, 64 passes, 16 lanes.
    fn is_bearable(&self) -> bool {
        self.memory_kib <= 4 * 1024 * 1024 && self.passes <= 64 && self.lanes <= 16
    }
}

/// The key of a database.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct DatabaseKey(pub(super) [u8; 32]);

impl DatabaseKey {
    pub(super) fn random(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The record for the `meta` table.
    pub(super) fn wrap(
        &self,
        passphrase: &Passphrase,
        cost: KdfCost,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>, StoreError> {
        let mut salt = vec![0; SALT_BYTES];
        let mut nonce = vec![0; NONCE_BYTES];
        rng.fill_bytes(&mut salt);
        rng.fill_bytes(&mut nonce);
        let wrapped = cipher(passphrase, cost, &salt)?
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &self.0, aad: &associated_data(cost, &salt) })
            .map_err(|_| StoreError::Damaged("database key"))?;
        let record = wire::WrappedKey {
            salt,
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
            nonce,
            wrapped,
        };
        Ok(record.encode_to_vec())
    }

    /// The key in a record. Errors: [`StoreError::WrongPassphrase`], [`StoreError::Damaged`].
    pub(super) fn unwrap(record: &[u8], passphrase: &Passphrase) -> Result<Self, StoreError> {
        let damaged = StoreError::Damaged("wrapped key");
        let Ok(record) = wire::WrappedKey::decode(record) else {
            return Err(damaged);
        };
        let cost = KdfCost { memory_kib: record.memory_kib, passes: record.passes, lanes: record.lanes };
        if !cost.is_bearable() || record.nonce.len() != NONCE_BYTES || record.wrapped.len() != 48 {
            return Err(damaged);
        }
        let opened = cipher(passphrase, cost, &record.salt)?
            .decrypt(
                XNonce::from_slice(&record.nonce),
                Payload { msg: &record.wrapped, aad: &associated_data(cost, &record.salt) },
            )
            .map(Zeroizing::new)
            .map_err(|_| StoreError::WrongPassphrase)?;
        opened.as_slice().try_into().map(Self).map_err(|_| damaged)
    }
}

fn cipher(passphrase: &Passphrase, cost: KdfCost, salt: &[u8]) -> Result<XChaCha20Poly1305, StoreError> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|_| StoreError::Damaged("passphrase cost"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.0.as_bytes(), salt, key.as_mut_slice())
        .map_err(|_| StoreError::Damaged("passphrase salt"))?;
    Ok(XChaCha20Poly1305::new((&*key).into()))
}

fn associated_data(cost: KdfCost, salt: &[u8]) -> Vec<u8> {
    [WRAP_LABEL, salt, &cost.memory_kib.to_be_bytes(), &cost.passes.to_be_bytes(), &cost.lanes.to_be_bytes()]
        .concat()
}
