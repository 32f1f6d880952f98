//! The lock of a mailbox: whether a key opens it, and what a turn may ask.
//!
//! Hashes are compared in constant time, so that the time an answer takes says nothing about those stored.

use posthorn_proto::{KeyHash, Turn};
use subtle::ConstantTimeEq;

use super::key::same_key;
use super::readers::Readers;
use crate::store::StoreError;

/// The hashes of the current post and turn keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) post_key: KeyHash,
    pub(crate) turn_key: KeyHash,
}

impl Lock {
    /// Checks the post key and, for an append that turns the lock, the turn key as well. Both are compared
    /// before either result is used.
    pub(crate) fn check(&self, post_key: &KeyHash, turn_key: Option<&KeyHash>) -> Result<(), StoreError> {
        let post = self.post_key.0.ct_eq(&post_key.0);
        let turn = self.turn_key.0.ct_eq(&turn_key.unwrap_or(&self.turn_key).0);
        if (post & turn).into() { Ok(()) } else { Err(StoreError::KeyTurned) }
    }

    /// Checks the turn key alone, as destroying needs.
    pub(crate) fn check_turn_key(&self, turn_key: &KeyHash) -> Result<(), StoreError> {
        if same_key(&self.turn_key, turn_key) { Ok(()) } else { Err(StoreError::KeyTurned) }
    }
}

/// Checks a turn's changes against the readers there are: it may evict only readers that are there and admit
/// only readers that are not, each once, and must stay within the limit.
pub(crate) fn check_reader_changes(turn: &Turn, readers: &Readers, limit: usize) -> Result<(), StoreError> {
    let mut evicted: Vec<_> = turn.evict.clone();
    evicted.sort_unstable();
    if evicted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StoreError::BadTurn("a reader is evicted twice"));
    }
    if !turn.evict.iter().all(|id| readers.is_active(id)) {
        return Err(StoreError::BadTurn("an evicted reader is not there"));
    }
    let mut admitted: Vec<_> = turn.admit.iter().map(|reader| reader.id).collect();
    admitted.sort_unstable();
    if admitted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StoreError::BadTurn("a reader is admitted twice"));
    }
    if admitted.iter().any(|id| readers.is_active(id)) {
        return Err(StoreError::BadTurn("an admitted reader is there already"));
    }
    if readers.active() - evicted.len() + admitted.len() > limit {
        return Err(StoreError::BadTurn("too many readers"));
    }
    Ok(())
}
