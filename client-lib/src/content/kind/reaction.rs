//! A sign beside an entry. Everybody has one for each entry: the newest in the order of the mailbox counts.
//!
//! ```protobuf
//! message Reaction {
//!   string emoji = 1;  // one grapheme cluster of at most 64 bytes; empty = taken back
//! }
//! ```

use prost::Message as _;
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation as _;

use super::{Altered, Body, Change, Kind};
use crate::content::said::{Class, SaidError, check_length};

/// The longest sign, bytes of UTF-8: families and flags have some 30.
pub const EMOJI_BYTES: usize = 64;

/// A sign beside an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// One grapheme cluster of at most [`EMOJI_BYTES`]; empty takes the one before back.
    pub emoji: String,
}

#[derive(prost::Message)]
struct Wire {
    #[prost(string, tag = "1")]
    emoji: String,
}

impl Reaction {
    /// This sign; "" takes the one before back.
    pub fn new(emoji: impl Into<String>) -> Self {
        Self { emoji: emoji.into() }
    }
}

impl Body for Reaction {
    fn encode(&self) -> Vec<u8> {
        Wire { emoji: self.emoji.clone() }.encode_to_vec()
    }

    fn decode(bytes: &[u8], _: Class) -> Option<Self> {
        Some(Self { emoji: Wire::decode(bytes).ok()?.emoji })
    }

    fn check(&self) -> Result<(), SaidError> {
        check_length("a reaction", self.emoji.len(), (0, EMOJI_BYTES))?;
        let is_blank = self.emoji.chars().any(|c| c.is_control() || c.is_whitespace());
        if is_blank || self.emoji.graphemes(true).nth(1).is_some() {
            return Err(SaidError::Form("a reaction is one sign"));
        }
        Ok(())
    }

    fn line(&self) -> String {
        match self.emoji.as_str() {
            "" => "took a reaction back".to_owned(),
            emoji => format!("reacted with {emoji}"),
        }
    }

    fn alter(&self, altered: &mut Altered, change: Change) {
        let is_earlier = |known: &Change| {
            known.author.person == change.author.person && matches!(known.said, Kind::Reaction(_))
        };
        altered.changes.retain(|known| !is_earlier(known));
        if !self.emoji.is_empty() {
            altered.changes.push(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, reads};
    use super::*;

    #[test]
    fn its_bytes_are_golden() {
        golden(Reaction::new("👍"), "0a04f09f918d");
        golden(Reaction::new(""), "");
    }

    #[test]
    fn it_is_one_sign() {
        for good in ["👍", "👩‍👩‍👧‍👦", "🇩🇪", "❤️", "x", "é", ""] {
            assert_eq!(Reaction::new(good).check(), Ok(()), "{good}");
        }
        for bad in ["👍👍", "no", " ", "\u{1b}", "\r\n", &format!("e{}", "\u{301}".repeat(32))] {
            assert!(Reaction::new(bad).check().is_err(), "{bad:?}");
        }
        assert_eq!(reads(4, Class::Change, b"\x0a\x02no"), None, "words are no reaction");
        assert_eq!(reads(4, Class::Entry, b"\x0a\x01x"), None, "it is always a change");
    }
}
