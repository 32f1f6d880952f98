//! Who somebody is, as everything else names them: the bytes of an identity key, and how people write them.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use super::IdentityKey;

/// The text names nobody: 52 characters of base32 are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a person's id has 52 characters of a-z 2-7")]
pub struct BadPersonId;

/// A person (or bot): the bytes of an identity key (Ed25519). Shown as 52 characters of lower-case base32
/// without padding, in text and JSON alike. Naming somebody proves nothing; an [`IdentityKey`] does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonId(pub [u8; 32]);

impl PersonId {
    /// The first 8 characters, to tell people of one name apart on a screen. 40 bits can be imitated.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl From<&IdentityKey> for PersonId {
    fn from(key: &IdentityKey) -> Self {
        Self(*key.as_bytes())
    }
}

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PersonId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl FromStr for PersonId {
    type Err = BadPersonId;

    fn from_str(text: &str) -> Result<Self, BadPersonId> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| BadPersonId)?;
        bytes.try_into().map(Self).map_err(|_| BadPersonId)
    }
}

impl serde::Serialize for PersonId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PersonId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_and_read_as_52_characters() {
        let person = PersonId([0xab; 32]);
        let text = person.to_string();
        assert_eq!((text.len(), text.as_str()), (52, "vov2xk5lvov2xk5lvov2xk5lvov2xk5lvov2xk5lvov2xk5lvovq"));
        assert_eq!(text.parse(), Ok(person));
        assert_eq!(text.to_ascii_uppercase().parse(), Ok(person));
        assert_eq!(person.short(), "vov2xk5l");
        assert_eq!(format!("{person:?}"), "PersonId(abab..)");
        // The last character holds one bit only: nobody is written in two ways.
        for bad in
            ["", &text[1..], &format!("{text}a"), &text.replace('v', "1"), &format!("{}r", &text[..51])]
        {
            assert_eq!(bad.parse::<PersonId>(), Err(BadPersonId), "{bad}");
        }
    }
}
