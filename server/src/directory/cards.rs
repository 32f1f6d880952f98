//! Contact cards: opaque, one for each account, replaced only by a higher version.

use posthorn_proto::Handle;

use super::digest;
use crate::store::StoreError;
use crate::store::keyed::Keyed;
use crate::store::tables::Map;

/// Where an account's card lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredCard<L> {
    pub(crate) version: u64,
    /// Version of the record that holds it, by which the card of a removed account is told from that of a
    /// later one of the same name; 0 in checkpoints from before there were removals.
    pub(crate) stated: u64,
    /// The beginning of the card's SHA-256, by which a repeat is recognised.
    pub(crate) digest: [u8; 16],
    pub(crate) bytes: u32,
    pub(crate) place: L,
}

/// All cards, by account.
#[derive(Debug)]
pub(crate) struct Cards<L> {
    by_handle: Map<Handle, StoredCard<L>>,
}

impl<L: Clone + PartialEq> Cards<L> {
    /// No cards yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { by_handle: Map::new(keyed) }
    }

    /// The account's card, if it published one.
    pub(crate) fn get(&self, handle: &Handle) -> Option<&StoredCard<L>> {
        self.by_handle.get(handle)
    }

    /// All cards, by the names of their accounts.
    pub(crate) fn all(&self) -> &Map<Handle, StoredCard<L>> {
        &self.by_handle
    }

    /// Bytes of all cards.
    pub(crate) fn bytes(&self) -> u64 {
        self.by_handle.iter().map(|(_, card)| u64::from(card.bytes)).sum()
    }

    /// Whether the card must be stored; `false` if it already is.
    pub(crate) fn check(&self, handle: &Handle, version: u64, card: &[u8]) -> Result<bool, StoreError> {
        match self.get(handle) {
            Some(stored) if stored.version == version && stored.digest == digest::<16>(card) => Ok(false),
            Some(stored) if stored.version >= version => Err(StoreError::CardStale),
            None if version == 0 => Err(StoreError::CardStale),
            _ => Ok(true),
        }
    }

    /// Stores a card, unless a later one is there. Hands back what is no longer needed.
    pub(crate) fn put(&mut self, handle: &Handle, card: StoredCard<L>) -> Option<StoredCard<L>> {
        match self.by_handle.get(handle) {
            Some(present) if present.stated > card.stated => Some(card),
            _ => self.by_handle.insert(handle.clone(), card),
        }
    }

    /// The record of this version says that the account is gone. Hands back its card.
    pub(crate) fn remove(&mut self, handle: &Handle, version: u64) -> Option<StoredCard<L>> {
        self.get(handle).is_some_and(|card| card.stated < version).then(|| self.by_handle.remove(handle))?
    }
}
