//! Creation tokens: hashes that may be spent once each, without any trace of who drew them (rule 16).
//!
//! How many a device drew today is counted in memory only: on disk the count would stand beside the hashes
//! and link them to the device. A restart of the relay forgets it, which costs at most one day's allowance.

use hashbrown::HashMap;
use posthorn_proto::{DeviceId, KeyHash};

use crate::store::StoreError;
use crate::store::keyed::Keyed;

/// Life of an unspent token, in days, because everything that is stored has an expiry (R6).
pub(crate) const TOKEN_DAYS: u32 = 180;

/// What is known of how a token was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Version of the record that says so.
    pub(crate) version: u64,
    /// The day, as unix seconds / 86,400.
    pub(crate) day: u32,
}

/// All unspent tokens, and today's counts.
#[derive(Debug)]
pub(crate) struct Tokens {
    unspent: HashMap<KeyHash, Drawn, Keyed>,
    /// Tokens drawn before this day are void.
    void_before: u32,
    /// Tokens drawn by each device on `day`. In memory only.
    today: HashMap<DeviceId, u32, Keyed>,
    day: u32,
    /// The day on which void tokens were last looked for. In memory only.
    looked: u32,
}

impl Tokens {
    /// No tokens yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        let (unspent, today) = (HashMap::with_hasher(keyed), HashMap::with_hasher(keyed));
        Self { unspent, void_before: 0, today, day: 0, looked: 0 }
    }

    /// The hashes of all tokens that may be spent.
    pub(crate) fn unspent(&self) -> impl Iterator<Item = &KeyHash> {
        self.unspent.keys()
    }

    /// When this token was drawn, if it may be spent.
    pub(crate) fn get(&self, token: &KeyHash) -> Option<Drawn> {
        self.unspent.get(token).copied()
    }

    /// The day before which tokens are void.
    pub(crate) fn void_before(&self) -> u32 {
        self.void_before
    }

    /// How many of the hashes are accepted, from the front, and which of those are new. Counts them as drawn.
    pub(crate) fn draw(
        &mut self,
        device: DeviceId,
        hashes: Vec<KeyHash>,
        day: u32,
        per_device: usize,
        total: u64,
    ) -> Result<(u32, Vec<KeyHash>), StoreError> {
        if day != self.day {
            self.today.clear();
            self.day = day;
        }
        let drawn = self.today.get(&device).copied().unwrap_or(0);
        let left = u32::try_from(per_device).unwrap_or(u32::MAX).saturating_sub(drawn) as usize;
        let room = usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(self.unspent.len());
        let (mut accepted, mut fresh) = (0u32, Vec::new());
        let mut seen = hashbrown::HashSet::new();
        for hash in hashes {
            if !self.unspent.contains_key(&hash) && !seen.contains(&hash) {
                if fresh.len() >= left || fresh.len() >= room {
                    if accepted == 0 && left > 0 {
                        return Err(StoreError::Quota("tokens"));
                    }
                    break;
                }
                seen.insert(hash);
                fresh.push(hash);
            }
            accepted += 1;
        }
        if !fresh.is_empty() {
            self.today.insert(device, drawn + fresh.len() as u32);
        }
        Ok((accepted, fresh))
    }

    /// Adds a token that may be spent.
    pub(crate) fn enter(&mut self, token: KeyHash, drawn: Drawn) {
        self.unspent.insert(token, drawn);
    }

    /// The record of this version says that the token is spent.
    pub(crate) fn spend(&mut self, token: &KeyHash, version: u64) {
        if self.get(token).is_some_and(|drawn| drawn.version < version) {
            self.unspent.remove(token);
            // Many may be drawn at once and then spent one by one: give the room back as they go.
            let (all, room) = (self.unspent.len(), self.unspent.capacity());
            if room > 1024 && all < room / 8 {
                self.unspent.shrink_to(all * 2);
            }
        }
    }

    /// The day before which tokens are void by now, if there are any. Looks once a day.
    pub(crate) fn expire(&mut self, day: u32) -> Option<u32> {
        if std::mem::replace(&mut self.looked, day) == day {
            return None;
        }
        let before = day.saturating_sub(TOKEN_DAYS);
        (before > self.void_before && self.unspent.values().any(|drawn| drawn.day < before)).then_some(before)
    }

    /// Drops the tokens that were drawn before this day, and returns them.
    pub(crate) fn void(&mut self, before: u32) -> Vec<KeyHash> {
        self.void_before = self.void_before.max(before);
        let before = self.void_before;
        self.unspent.extract_if(|_, drawn| drawn.day < before).map(|(token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_is_unspent() {
        let mut tokens = Tokens::new(Keyed::new([1, 2]));
        let hash = |n: u32| KeyHash(std::array::from_fn(|at| n.to_le_bytes()[at % 4]));
        (0..10_000).for_each(|n| tokens.enter(hash(n), Drawn { version: 1, day: 1 }));
        (0..9_900).for_each(|n| tokens.spend(&hash(n), 2));
        assert!(tokens.unspent.capacity() < 2_000, "{}", tokens.unspent.capacity());
        assert!((9_900..10_000).all(|n| tokens.get(&hash(n)).is_some()));
    }
}
