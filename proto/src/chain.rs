//! Hashes over posts: the chain by which clients detect what a relay drops, reorders or forks (C4, rule 12),
//! and the fingerprint by which a relay recognises the repeat of a post that it took at first (rule 2).

use sha2::{Digest, Sha256};

use crate::id::{KeyHash, PostId};
use crate::turn::TurnHash;

/// The running hash over the envelopes of a mailbox up to some seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// The chain of a mailbox without envelopes (seq 0).
    pub const START: Self = Self([0; 32]);

    /// chain_n = SHA-256(chain_{n-1} || n || post id || turn hash || SHA-256(envelope)), n as a big-endian
    /// u64.
    #[must_use]
    pub fn next(&self, seq: u64, post_id: &PostId, turn: &TurnHash, envelope: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(seq.to_be_bytes());
        hash.update(post_id);
        hash.update(turn.0);
        hash.update(Sha256::digest(envelope));
        Self(hash.finalize().into())
    }
}

/// What a post consisted of, so that a repeat is recognised: the keys presented, the envelope and the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// SHA-256(hash of the post key || hash of the turn key or zeros || turn hash || SHA-256(envelope)).
    pub fn of(post_key: &KeyHash, turn_key: Option<&KeyHash>, turn: &TurnHash, envelope: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(post_key);
        hash.update(turn_key.map_or([0; 32], |key| key.0));
        hash.update(turn.0);
        hash.update(Sha256::digest(envelope));
        Self(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_depends_on_everything() {
        let base = Chain::START.next(1, &PostId([1; 16]), &TurnHash::NONE, b"x");
        assert_ne!(base, Chain::START.next(2, &PostId([1; 16]), &TurnHash::NONE, b"x"));
        assert_ne!(base, Chain::START.next(1, &PostId([2; 16]), &TurnHash::NONE, b"x"));
        assert_ne!(base, Chain::START.next(1, &PostId([1; 16]), &TurnHash([7; 32]), b"x"));
        assert_ne!(base, Chain::START.next(1, &PostId([1; 16]), &TurnHash::NONE, b"y"));
        assert_ne!(base, Chain([1; 32]).next(1, &PostId([1; 16]), &TurnHash::NONE, b"x"));
    }
}
