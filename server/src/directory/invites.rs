//! Invites: each may make a number of accounts, until it expires.

use std::collections::BTreeSet;

use posthorn_proto::KeyHash;

use crate::store::keyed::Keyed;
use crate::store::tables::Map;
use crate::store::{NewInvite, StoreError};

/// An invite that still has uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invite {
    /// Accounts that it may still make; never 0.
    pub(crate) uses: u32,
    /// When it becomes void, unix seconds.
    pub(crate) expires: u64,
    /// Version of the newest record about it.
    pub(crate) version: u64,
}

/// All invites that still have uses.
#[derive(Debug)]
pub(crate) struct Invites {
    by_hash: Map<KeyHash, Invite>,
    /// The same, in the order in which they expire.
    by_expiry: BTreeSet<(u64, KeyHash)>,
}

impl Invites {
    /// No invites yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { by_hash: Map::new(keyed), by_expiry: BTreeSet::new() }
    }

    /// The invite, if it has uses left; it may have expired.
    pub(crate) fn get(&self, hash: &KeyHash) -> Option<&Invite> {
        self.by_hash.get(hash)
    }

    /// All invites that have uses left.
    pub(crate) fn all(&self) -> &Map<KeyHash, Invite> {
        &self.by_hash
    }

    /// Whether minting this one would change anything.
    pub(crate) fn is_new(&self, new: &NewInvite) -> bool {
        match self.get(&new.hash) {
            Some(invite) => (invite.uses, invite.expires) != (new.uses, new.expires),
            None => new.uses > 0,
        }
    }

    /// How many uses would be left after one more.
    pub(crate) fn use_one(&self, hash: &KeyHash, now: u64) -> Result<u32, StoreError> {
        let invite = self.get(hash).filter(|invite| now < invite.expires).ok_or(StoreError::InviteInvalid)?;
        Ok(invite.uses - 1)
    }

    /// The hashes of those that have expired by `now`, the earliest first.
    pub(crate) fn expired(&self, now: u64) -> impl Iterator<Item = KeyHash> {
        self.by_expiry.iter().take_while(move |(expires, _)| *expires <= now).map(|(_, hash)| *hash)
    }

    /// Adds an invite as a record states it, unless a later record is known.
    pub(crate) fn put(&mut self, hash: KeyHash, invite: Invite) {
        if self.get(&hash).is_some_and(|present| present.version > invite.version) {
            return;
        }
        self.drop(&hash);
        if invite.uses > 0 {
            self.by_expiry.insert((invite.expires, hash));
            self.by_hash.insert(hash, invite);
        }
    }

    /// The record of this version says how many uses are left.
    pub(crate) fn left(&mut self, hash: &KeyHash, uses: u32, version: u64) {
        if let Some(present) = self.get(hash).copied().filter(|present| present.version < version) {
            self.put(*hash, Invite { uses, version, ..present });
        }
    }

    /// The record of this version says that the invite is gone.
    pub(crate) fn remove(&mut self, hash: &KeyHash, version: u64) {
        if self.get(hash).is_some_and(|present| present.version < version) {
            self.drop(hash);
        }
    }

    fn drop(&mut self, hash: &KeyHash) {
        if let Some(invite) = self.by_hash.remove(hash) {
            self.by_expiry.remove(&(invite.expires, *hash));
        }
    }
}
