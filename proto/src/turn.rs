//! Turns: what an append may change in a mailbox's lock and readers (rule 1).

use sha2::{Digest, Sha256};

use crate::id::{KeyHash, ReaderId};
use crate::key::TurnKey;

/// Separates [`Turn::hash`] from every other hash.
const TURN_LABEL: &[u8] = b"posthorn v1 turn";

/// A reader of a mailbox, and the hash of its read key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// Unique within the mailbox.
    pub id: ReaderId,
    /// SHA-256 of the read key.
    pub key_hash: KeyHash,
}

/// What a turn changes: the keys from now on, and the readers. Delivered to readers with the append that
/// carried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Hash of the next post key.
    pub post_key_hash: KeyHash,
    /// Hash of the next turn key.
    pub turn_key_hash: KeyHash,
    /// Readers to admit; their cursor becomes the seq of this append.
    pub admit: Vec<Reader>,
    /// Readers to evict; they may still read up to this append.
    pub evict: Vec<ReaderId>,
}

/// A turn with the key that permits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnRequest {
    /// The current turn key.
    pub key: TurnKey,
    /// What it changes.
    pub turn: Turn,
}

/// SHA-256 of a turn, or 32 zero bytes for an append without one. Part of an envelope's associated data and
/// of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnHash(pub [u8; 32]);

impl TurnHash {
    /// The hash that stands for "no turn".
    pub const NONE: Self = Self([0; 32]);

    /// The hash of a turn, or [`TurnHash::NONE`].
    pub fn of(turn: Option<&Turn>) -> Self {
        turn.map_or(Self::NONE, Turn::hash)
    }
}

impl Turn {
    /// SHA-256 over the label, both key hashes, then each list with its length as a big-endian u32.
    pub fn hash(&self) -> TurnHash {
        let mut hash = Sha256::new();
        hash.update(TURN_LABEL);
        hash.update(self.post_key_hash);
        hash.update(self.turn_key_hash);
        hash.update((self.admit.len() as u32).to_be_bytes());
        for reader in &self.admit {
            hash.update(reader.id);
            hash.update(reader.key_hash);
        }
        hash.update((self.evict.len() as u32).to_be_bytes());
        for reader in &self.evict {
            hash.update(reader);
        }
        TurnHash(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_changes_the_hash() {
        let base = Turn {
            post_key_hash: KeyHash([1; 32]),
            turn_key_hash: KeyHash([2; 32]),
            admit: vec![Reader { id: ReaderId([3; 16]), key_hash: KeyHash([4; 32]) }],
            evict: vec![ReaderId([5; 16])],
        };
        let variants = [
            Turn { post_key_hash: KeyHash([9; 32]), ..base.clone() },
            Turn { turn_key_hash: KeyHash([9; 32]), ..base.clone() },
            Turn { admit: vec![], ..base.clone() },
            Turn { evict: vec![], ..base.clone() },
        ];
        for variant in variants {
            assert_ne!(variant.hash(), base.hash());
        }
        assert_ne!(base.hash(), TurnHash::NONE);
    }
}
