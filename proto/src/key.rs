//! The three keys of a mailbox, and tokens: secrets of 32 random bytes each, of which the relay stores only
//! the SHA-256.
//!
//! Keys that allow different things are different types, so that a post key can never be presented where a
//! turn key is asked for.

use std::fmt;

use rand::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::{KeyHash, WrongLength};

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = 32;

            /// A fresh random key.
            pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
                let mut bytes = [0; 32];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }

            /// Takes key bytes that were derived or received.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The secret bytes.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }

            /// What the relay keeps of this key: its SHA-256.
            pub fn hash(&self) -> KeyHash {
                KeyHash(Sha256::digest(self.0).into())
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = WrongLength;

            fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
                bytes.try_into().map(Self).map_err(|_| WrongLength {
                    what: stringify!($name),
                    expected: 32,
                    got: bytes.len(),
                })
            }
        }

        impl PartialEq for $name {
            /// Compares in constant time.
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    };
}

key!(
    /// Lets its holder append envelopes and send signals.
    PostKey);
key!(
    /// Lets its holder receive from one reader's cursor, and acknowledge.
    ReadKey);
key!(
    /// Lets its holder turn the lock: replace the post and turn keys, admit and evict readers, destroy the
    /// mailbox.
    TurnKey);
key!(
    /// Lets its holder put the parts of a blob, extend its lease and delete it.
    HolderKey);
key!(
    /// Pays for the creation of one mailbox (rule 16), or for the upload of one blob.
    Token);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_key() {
        let text = format!("{:?}", TurnKey::from_bytes([0x41; 32]));
        assert_eq!(text, "TurnKey(secret)");
    }

    #[test]
    fn hash_is_sha256() {
        let hash = PostKey::from_bytes([0; 32]).hash();
        assert_eq!(hash.0[..4], [0x66, 0x68, 0x7a, 0xad]);
    }
}
