//! Names: of mailboxes, posts, readers, devices. All are random, none is secret, and none is printed in full.
//!
//! `Debug` shows the first two bytes only, so that log lines can be told apart without giving away what they
//! are about.

use std::fmt;

use rand::CryptoRng;

/// A byte string does not have the one length that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {got} bytes, expected {expected}")]
pub struct WrongLength {
    /// Which name or key it was to become.
    pub what: &'static str,
    /// The length required, in bytes.
    pub expected: usize,
    /// The length given, in bytes.
    pub got: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub [u8; $len]);

        /// By words, which hashers take faster than bytes, and without the length, which never differs.
        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                let (words, rest) = self.0.as_chunks();
                words.iter().for_each(|word| state.write_u64(u64::from_le_bytes(*word)));
                debug_assert!(rest.is_empty(), "a name is some words long");
            }
        }

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The value as bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = WrongLength;

            fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
                bytes.try_into().map(Self).map_err(|_| WrongLength {
                    what: stringify!($name),
                    expected: $len,
                    got: bytes.len(),
                })
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:02x}{:02x}..)"), self.0[0], self.0[1])
            }
        }
    };
}

macro_rules! random {
    ($($name:ident),*) => {
        $(impl $name {
            /// A fresh random value.
            pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
                let mut bytes = [0; Self::LEN];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }
        })*
    };
}

id!(
    /// Names a mailbox on its relay.
    MailboxId, 16);
id!(
    /// Names one append; the same id posted again is the same append. It begins with the time at which it was
    /// made, so that a relay needs to keep at hand only the ids of the last minutes.
    PostId, 16);
id!(
    /// Names a reader within one mailbox.
    ReaderId, 16);
id!(
    /// Names a device of an account.
    DeviceId, 16);
id!(
    /// Names a blob on its relay. Whoever knows it can read the blob.
    BlobId, 16);
id!(
    /// Names one life of a relay's store (R10).
    Incarnation, 16);
id!(
    /// A relay's long-term X25519 public key, which names the relay in cards and key derivations.
    RelayIdentity, 32);
id!(
    /// SHA-256 of an access key or a token, which is all that the relay keeps of it.
    KeyHash, 32);

random!(MailboxId, ReaderId, DeviceId, BlobId, Incarnation);

impl PostId {
    /// Names a post that is made at this time of its relay's clock, unix seconds: four bytes of it, in
    /// network order, and 12 random ones.
    pub fn at(seconds: u64, random: [u8; 12]) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&u32::try_from(seconds).unwrap_or(u32::MAX).to_be_bytes());
        bytes[4..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The same, with the random bytes drawn.
    pub fn drawn_at(seconds: u64, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut random = [0; 12];
        rng.fill_bytes(&mut random);
        Self::at(seconds, random)
    }

    /// When it was made, by its relay's clock, unix seconds; whatever it says, if somebody made it otherwise.
    pub fn seconds(&self) -> u64 {
        let [a, b, c, d, ..] = self.0;
        u64::from(u32::from_be_bytes([a, b, c, d]))
    }
}

/// An account's name on its relay: 2 to 32 characters of `a-z 0-9 _ . -`, beginning with a letter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(String);

/// The text is not a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a handle has 2 to 32 characters of a-z 0-9 _ . - and begins with a letter")]
pub struct BadHandle;

impl Handle {
    /// Checks a handle. Nothing is folded: upper case is refused, so that no account has two spellings.
    pub fn parse(text: &str) -> Result<Self, BadHandle> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
        let well_formed = (2..=32).contains(&text.len())
            && text.as_bytes()[0].is_ascii_lowercase()
            && text.bytes().all(allowed);
        well_formed.then(|| Self(text.to_owned())).ok_or(BadHandle)
    }

    /// The handle as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_narrow() {
        for good in ["al", "alice", "a.b-c_9", "abcdefghijklmnopqrstuvwxyz012345"] {
            assert_eq!(Handle::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "a", "9ab", "Alice", "al ice", "älice", "abcdefghijklmnopqrstuvwxyz0123456", "_ab"] {
            assert_eq!(Handle::parse(bad), Err(BadHandle), "{bad:?}");
        }
    }

    #[test]
    fn debug_does_not_tell_the_whole_name() {
        assert_eq!(format!("{:?}", MailboxId([0xab; 16])), "MailboxId(abab..)");
        assert!(!format!("{:?}", Handle::parse("alice").expect("valid")).contains("alice"));
    }

    #[test]
    fn a_post_id_tells_when_it_was_made() {
        let id = PostId::at(0x6553_f100, [7; 12]);
        assert_eq!(id.0[..5], [0x65, 0x53, 0xf1, 0x00, 7]);
        assert_eq!(id.seconds(), 1_700_000_000);
        assert_eq!(PostId::at(u64::MAX, [0; 12]).seconds(), u64::from(u32::MAX), "no time is another");
    }

    #[test]
    fn wrong_lengths_are_told() {
        let error = PostId::try_from(&[0u8; 3][..]).expect_err("three bytes");
        assert_eq!(error.to_string(), "PostId has 3 bytes, expected 16");
    }
}
