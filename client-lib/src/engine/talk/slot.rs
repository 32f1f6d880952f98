//! Where an author put a message or a commit, and what it had seen by then: MLS `authenticated_data` (rule
//! 30).
//!
//! The seal of an envelope binds it to its slot, too, but under a key that every member has. This is signed
//! by the author: nobody else can put it into another place, or with other readers, and its (seq, chain)
//! shows a fork (C4). The next epoch's keys, which a turn also names, follow from the commit itself.

use posthorn_proto::chain::Chain;
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{KeyHash, MailboxId, PostId, Turn};

const LABEL: &[u8] = b"posthorn v2 slot";
const BYTES: usize = LABEL.len() + 16 + 16 + 32 + 8 + 32;

/// What an author signs with what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct AuthorSlot {
    pub(in crate::engine) mailbox: MailboxId,
    pub(in crate::engine) post: PostId,
    /// Readers that the turn admits and evicts, with the keys of the former; [`TurnHash::NONE`] without a
    /// turn.
    pub(in crate::engine) readers: TurnHash,
    /// The newest seq that the author had applied.
    pub(in crate::engine) seq: u64,
    /// The author's chain there.
    pub(in crate::engine) chain: Chain,
}

impl AuthorSlot {
    /// The hash of what a turn does to the readers.
    pub(in crate::engine) fn readers(turn: Option<&Turn>) -> TurnHash {
        let without_keys = turn.map(|turn| Turn {
            post_key_hash: KeyHash([0; 32]),
            turn_key_hash: KeyHash([0; 32]),
            admit: turn.admit.clone(),
            evict: turn.evict.clone(),
        });
        TurnHash::of(without_keys.as_ref())
    }

    pub(in crate::engine) fn encode(&self) -> Vec<u8> {
        [LABEL, &self.mailbox.0, &self.post.0, &self.readers.0, &self.seq.to_be_bytes(), &self.chain.0]
            .concat()
    }

    pub(in crate::engine) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES {
            return None;
        }
        let (label, rest) = bytes.split_at(LABEL.len());
        let (mailbox, rest) = rest.split_first_chunk()?;
        let (post, rest) = rest.split_first_chunk()?;
        let (readers, rest) = rest.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (chain, _) = rest.split_first_chunk()?;
        (label == LABEL).then_some(Self {
            mailbox: MailboxId(*mailbox),
            post: PostId(*post),
            readers: TurnHash(*readers),
            seq: u64::from_be_bytes(*seq),
            chain: Chain(*chain),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_read_back_and_nothing_else() {
        let turn = Turn {
            post_key_hash: KeyHash([7; 32]),
            turn_key_hash: KeyHash([8; 32]),
            admit: vec![],
            evict: vec![posthorn_proto::ReaderId([9; 16])],
        };
        let slot = AuthorSlot {
            mailbox: MailboxId([1; 16]),
            post: PostId([2; 16]),
            readers: AuthorSlot::readers(Some(&turn)),
            seq: 1 << 40,
            chain: Chain([3; 32]),
        };
        let bytes = slot.encode();
        assert_eq!(AuthorSlot::decode(&bytes), Some(slot));
        assert_eq!(AuthorSlot::decode(&bytes[1..]), None);
        let mut other = bytes;
        other[0] ^= 1;
        assert_eq!(AuthorSlot::decode(&other), None);
        let other_keys = Turn { post_key_hash: KeyHash([0; 32]), ..turn.clone() };
        assert_eq!(AuthorSlot::readers(Some(&other_keys)), slot.readers);
        assert_ne!(AuthorSlot::readers(Some(&Turn { evict: vec![], ..turn })), slot.readers);
        assert_eq!(AuthorSlot::readers(None), TurnHash::NONE);
    }
}
