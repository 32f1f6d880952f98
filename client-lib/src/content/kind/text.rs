//! Words.
//!
//! ```protobuf
//! message Text {
//!   string text = 1;  // UTF-8, 1 byte to 64 KiB
//! }
//! ```

use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{Body, one_line};
use crate::content::said::{Class, SaidError, check_length};

/// The longest text, in bytes of UTF-8.
pub const TEXT_BYTES: usize = 64 * 1024;

/// Words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// 1 byte to [`TEXT_BYTES`].
    pub text: String,
}

#[derive(prost::Message)]
struct Wire {
    #[prost(string, tag = "1")]
    text: String,
}

impl Text {
    /// These words.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

impl Body for Text {
    fn encode(&self) -> Vec<u8> {
        Wire { text: self.text.clone() }.encode_to_vec()
    }

    fn decode(bytes: &[u8], _: Class) -> Option<Self> {
        Some(Self { text: Wire::decode(bytes).ok()?.text })
    }

    fn check(&self) -> Result<(), SaidError> {
        check_length("a text", self.text.len(), (1, TEXT_BYTES))
    }

    fn line(&self) -> String {
        one_line(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, reads};
    use super::*;
    use crate::content::{Kind, Said};

    #[test]
    fn its_bytes_are_golden() {
        golden(Text::new("Grüße"), "0a074772c3bcc39f65");
    }

    #[test]
    fn its_bounds_are_kept_and_what_exceeds_them_is_not_read() {
        let of = |length| Said::new(Text::new("x".repeat(length)));
        assert_eq!(of(TEXT_BYTES).expect("fits").read().line().chars().count(), 161);
        let words = [of(0), of(TEXT_BYTES + 1)].map(|said| said.expect_err("out of bounds").to_string());
        assert_eq!(
            words,
            [
                "a text has 1 to 65536 bytes, this one has 0",
                "a text has 1 to 65536 bytes, this one has 65537"
            ]
        );
        assert_eq!(reads(1, Class::Entry, b""), None);
        assert_eq!(reads(1, Class::Entry, b"\x0a\x02\xff\xff"), None, "not UTF-8");
        // A field that a later version adds is passed over.
        assert_eq!(reads(1, Class::Entry, b"\x0a\x01a\x10\x05"), Some(Kind::Text(Text::new("a"))));
    }

    #[test]
    fn its_line_is_one() {
        assert_eq!(Text::new("one\n two\t\u{2028}three ").line(), "one two three");
    }
}
