//! Something that an app understands, and this library carries: bots, boards, business. Its class says what
//! becomes of it, as for any other kind.
//!
//! ```protobuf
//! message Custom {
//!   string name = 1;  // reverse-DNS, at most 64 bytes: org.example.board
//!   bytes bytes = 2;  // at most 32 KiB
//! }
//! ```

use data_encoding::BASE64;
use prost::Message as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Body;
use crate::content::said::{Class, SaidError, check_length};

/// The longest name, bytes.
const NAME_BYTES: usize = 64;
/// The longest payload, bytes.
pub const CUSTOM_BYTES: usize = 32 * 1024;

/// Something that an app understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custom {
    /// Whose it is and what: reverse-DNS in lower case, at most 64 bytes, such as `org.example.board`.
    pub name: String,
    /// What becomes of it.
    pub class: Class,
    /// The app's own, at most [`CUSTOM_BYTES`]; base64 in JSON.
    #[serde(serialize_with = "base64", deserialize_with = "of_base64")]
    pub bytes: Vec<u8>,
}

#[derive(prost::Message)]
struct Wire {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
}

impl Body for Custom {
    fn encode(&self) -> Vec<u8> {
        Wire { name: self.name.clone(), bytes: self.bytes.clone() }.encode_to_vec()
    }

    fn decode(bytes: &[u8], class: Class) -> Option<Self> {
        let Wire { name, bytes } = Wire::decode(bytes).ok()?;
        Some(Self { name, class, bytes })
    }

    fn check(&self) -> Result<(), SaidError> {
        check_length("a custom kind's name", self.name.len(), (3, NAME_BYTES))?;
        check_length("a custom message", self.bytes.len(), (0, CUSTOM_BYTES))?;
        let is_label = |label: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty() && label.bytes().all(allowed)
        };
        if !self.name.contains('.') || !self.name.split('.').all(is_label) {
            return Err(SaidError::Form("a custom kind is named like org.example.board, with a-z 0-9 and -"));
        }
        Ok(())
    }

    fn line(&self) -> String {
        format!("something for an app ({})", self.name)
    }
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn of_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;
    use crate::content::Said;

    fn custom(name: &str, length: usize) -> Custom {
        Custom { name: name.to_owned(), class: Class::Entry, bytes: vec![5; length] }
    }

    #[test]
    fn its_bytes_are_golden() {
        golden(custom("org.example", 2), "0a0b6f72672e6578616d706c6512020505");
        golden(Custom { class: Class::Quiet, ..custom("org.example", 0) }, "0a0b6f72672e6578616d706c65");
    }

    #[test]
    fn names_are_reverse_dns() {
        let longest = format!("org.{}", "x".repeat(60));
        for good in ["org.example", "org.example.board-2", "a.b", &longest] {
            Said::new(custom(good, CUSTOM_BYTES)).expect(good);
        }
        let longer = format!("{longest}x");
        for bad in ["", "a", "abc", "org.", ".org", "org..example", "Org.example", "org.ex ample", &longer] {
            assert!(Said::new(custom(bad, 0)).is_err(), "{bad}");
        }
        assert!(matches!(Said::new(custom("a.b", CUSTOM_BYTES + 1)), Err(SaidError::Length { .. })));
    }
}
