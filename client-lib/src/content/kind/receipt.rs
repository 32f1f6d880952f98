//! Nothing but the receipt that rides on every message: sent when none of one's own went out in time
//! (rule 22).
//!
//! ```protobuf
//! message ReceiptOnly {}
//! ```

use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::Body;
use crate::content::said::{Class, SaidError};

/// Nothing but the receipt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReceiptOnly {}

#[derive(prost::Message)]
struct Wire {}

impl Body for ReceiptOnly {
    fn encode(&self) -> Vec<u8> {
        Wire {}.encode_to_vec()
    }

    fn decode(bytes: &[u8], _: Class) -> Option<Self> {
        Wire::decode(bytes).ok().map(|Wire {}| Self {})
    }

    fn check(&self) -> Result<(), SaidError> {
        Ok(())
    }

    fn line(&self) -> String {
        "got it".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, reads};
    use super::*;

    #[test]
    fn its_bytes_are_golden() {
        golden(ReceiptOnly {}, "");
        assert_eq!(reads(3, Class::Quiet, b"\xff"), None, "no protobuf");
    }
}
