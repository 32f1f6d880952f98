//! Seals single values of the database, and hides the names of rows.
//!
//! A sealed value is `nonce (24) || XChaCha20-Poly1305(value)`, with table, column and row key as associated
//! data, so that a thief of the file can neither read values nor swap them. Owns the two keys derived from
//! the database key.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::StoreError;
use super::passphrase::DatabaseKey;

/// Domain separation of the key that seals values.
const SEAL_LABEL: &[u8] = b"posthorn v1 sealed value";
/// Domain separation of the key that hides row names.
const NAME_LABEL: &[u8] = b"posthorn v1 row name";
const NONCE_BYTES: usize = 24;

/// Where a sealed value stands. A value opens only in its place.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row's key, in any encoding that tells rows apart.
    pub key: &'a [u8],
}

impl Place<'_> {
    /// Every part with its length before it, so that no two places run together to the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(32 + self.key.len());
        for part in [self.table.as_bytes(), self.column.as_bytes(), self.key] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part);
        }
        data
    }
}

/// Seals and opens values under the database key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Sealer {
    seal_key: [u8; 32],
    name_key: [u8; 32],
}

impl Sealer {
    pub(super) fn new(key: &DatabaseKey) -> Self {
        let derive = |label: &[u8]| {
            let mut out = [0; 32];
            Hkdf::<Sha256>::new(None, &key.0)
                .expand(label, &mut out)
                .expect("32 bytes are within HKDF's limit");
            out
        };
        Self { seal_key: derive(SEAL_LABEL), name_key: derive(NAME_LABEL) }
    }

    pub(super) fn seal(
        &self,
        place: Place<'_>,
        value: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let sealed = XChaCha20Poly1305::new((&self.seal_key).into())
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: value, aad: &place.associated_data() })
            .expect("a value in memory is shorter than the cipher's 256 GiB");
        [&nonce[..], &sealed].concat()
    }

    pub(super) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let damaged = StoreError::Damaged(place.table);
        let Some((nonce, sealed)) = sealed.split_at_checked(NONCE_BYTES) else {
            return Err(damaged);
        };
        XChaCha20Poly1305::new((&self.seal_key).into())
            .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &place.associated_data() })
            .map_err(|_| damaged)
    }

    pub(super) fn name(&self, table: &'static str, name: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.name_key).expect("HMAC takes any key length");
        mac.update(&(table.len() as u64).to_be_bytes());
        mac.update(table.as_bytes());
        mac.update(name);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(secret)")
    }
}
