//! "I leave": another member commits the removal, for nobody can commit their own.
//!
//! ```protobuf
//! message Leave {
//!   bytes proposal = 1;  // an MLS proposal that proves the wish, at most 4 KiB; may be empty
//! }
//! ```

use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{Act, Body};
use crate::content::said::{Class, SaidError, check_length};

/// The longest proposal, bytes.
pub const PROPOSAL_BYTES: usize = 4 * 1024;

/// "I leave."
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leave {
    /// An MLS proposal that proves the wish to whoever judges the commit; may be empty.
    #[serde(skip)]
    pub proposal: Vec<u8>,
}

#[derive(prost::Message)]
struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    proposal: Vec<u8>,
}

impl Body for Leave {
    fn encode(&self) -> Vec<u8> {
        Wire { proposal: self.proposal.clone() }.encode_to_vec()
    }

    fn decode(bytes: &[u8], _: Class) -> Option<Self> {
        Some(Self { proposal: Wire::decode(bytes).ok()?.proposal })
    }

    fn check(&self) -> Result<(), SaidError> {
        check_length("a proposal", self.proposal.len(), (0, PROPOSAL_BYTES))
    }

    fn line(&self) -> String {
        "left".to_owned()
    }

    fn act(&self) -> Option<Act> {
        Some(Act::TakeOut { proposal: self.proposal.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;
    use crate::content::Said;

    #[test]
    fn its_bytes_are_golden() {
        golden(Leave::default(), "");
        golden(Leave { proposal: vec![1, 2, 3] }, "0a03010203");
    }

    #[test]
    fn its_proposal_is_bounded_and_is_what_the_engine_gets() {
        let leave = |length| Said::new(Leave { proposal: vec![7; length] });
        let act = leave(PROPOSAL_BYTES).expect("fits").read().act();
        assert_eq!(act, Some(Act::TakeOut { proposal: vec![7; PROPOSAL_BYTES] }));
        assert!(matches!(leave(PROPOSAL_BYTES + 1), Err(SaidError::Length { .. })));
    }
}
