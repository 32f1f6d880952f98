//! Names of conversations and messages, and how people write them.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use posthorn_proto::WrongLength;
use rand::CryptoRng;

/// The text names nothing: 26 characters of base32 are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 26 characters of a-z 2-7")]
pub struct BadId;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh random name.
            pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = WrongLength;

            fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
                crate::content::array(stringify!($name), bytes).map(Self)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:02x}{:02x}..)"), self.0[0], self.0[1])
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| BadId)?;
                Self::try_from(&bytes[..]).map_err(|_| BadId)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Names a conversation on this device, and nowhere else: nobody else's word can go on with it (rule 27).
    ConversationId);
name!(
    /// Names an MLS group, the same for all its members. Whoever made the group chose it.
    GroupId);
name!(
    /// Names a message inside the encryption, the same however often it is encrypted anew.
    MessageId);
