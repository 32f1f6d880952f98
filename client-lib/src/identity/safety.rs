//! The safety number: 60 digits that two people compare to know that no one stands between them.
//!
//! The construction is that of Signal's numeric fingerprint (libsignal, `rust/protocol/src/fingerprint.rs`):
//! per side, SHA-512 iterated 5,200 times over the running hash and the key, its first 30 bytes turned into
//! six groups of five digits (5 bytes big-endian, modulo 100,000); the lower side's 30 digits first. The
//! identity key stands for Signal's "stable identifier" too, because handles can change. 30 digits are about
//! 100 bits per side, and the iterations slow a search for a key with the same digits.

use std::fmt;

use sha2::{Digest, Sha512};

use super::IdentityKey;

/// Domain separation, in the place of Signal's version.
const LABEL: &[u8] = b"posthorn v1 safety number";
const ITERATIONS: usize = 5200;
const GROUPS_PER_SIDE: usize = 6;

/// 60 decimal digits. Displays as twelve groups of five.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyNumber(String);

impl SafetyNumber {
    /// The 60 digits without spaces.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The twelve groups.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        (0..2 * GROUPS_PER_SIDE).map(|group| &self.0[group * 5..group * 5 + 5])
    }
}

/// From its 60 digits.
impl<'de> serde::Deserialize<'de> for SafetyNumber {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = <String as serde::Deserialize>::deserialize(deserializer)?;
        match digits.len() == 10 * GROUPS_PER_SIDE && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Ok(Self(digits)),
            false => Err(serde::de::Error::custom("a safety number has 60 digits")),
        }
    }
}

impl fmt::Display for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.groups().enumerate() {
            write!(f, "{}{group}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// The number of two identities; the same whoever asks. Takes some milliseconds.
pub fn safety_number(one: &IdentityKey, other: &IdentityKey) -> SafetyNumber {
    let mut sides = [side(one), side(other)];
    sides.sort();
    SafetyNumber(sides.concat())
}

fn side(key: &IdentityKey) -> String {
    let key = key.as_bytes();
    let mut hash = Sha512::new().chain_update(LABEL).chain_update(key).chain_update(key).finalize();
    for _ in 1..ITERATIONS {
        hash = Sha512::new().chain_update(hash).chain_update(key).finalize();
    }
    hash.chunks_exact(5)
        .take(GROUPS_PER_SIDE)
        .map(|chunk| {
            let number = chunk.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            format!("{:05}", number % 100_000)
        })
        .collect()
}
