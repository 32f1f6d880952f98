//! Creation tokens: hashes that may be spent once each, without any trace of who drew them (rule 16).
//!
//! How many a device drew today is counted in memory only: on disk the count would stand beside the hashes
//! and link them to the device. A restart of the relay forgets it, which costs at most one day's allowance.

use posthorn_proto::{DeviceId, KeyHash};

use crate::store::StoreError;
use crate::store::keyed::Keyed;
use crate::store::tables::Map;

/// Life of an unspent token, in days, because everything that is stored has an expiry (R6).
/// A client draws anew when it is short of them, and few devices that draw every day and spend nothing
/// must not use up what all have together.
pub(crate) const TOKEN_DAYS: u32 = 7;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Version of the record that says so.
    pub(crate) version: u64,
    /// The day, as unix seconds / 86,400.
    pub(crate) day: u32,
    /// The name of what it is spent on, which is not created yet. (In a box, because few are.)
    pub(crate) on: Option<Box<[u8; 16]>>,
}

/// All tokens that have not paid for anything yet, and today's counts.
#[derive(Debug)]
pub(crate) struct Tokens {
    unspent: Map<KeyHash, Drawn>,
    keyed: Keyed,
    /// Tokens drawn before this day are void, even those that [`Tokens::sweep`] has not dropped yet.
    void_before: u32,
    /// The part of `unspent` that is swept next; `None` if no void ones are left.
    sweeping: Option<usize>,
    /// Tokens drawn by each device on `day`. In memory only.
    today: Map<DeviceId, u32>,
    day: u32,
}

impl Tokens {
    /// No tokens yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        let (unspent, today) = (Map::new(keyed), Map::new(keyed));
        Self { unspent, keyed, void_before: 0, sweeping: None, today, day: 0 }
    }

    /// All tokens that have not paid yet, and perhaps void ones.
    pub(crate) fn all(&self) -> &Map<KeyHash, Drawn> {
        &self.unspent
    }

    /// What is known of this token, if it is good.
    pub(crate) fn get(&self, token: &KeyHash) -> Option<&Drawn> {
        self.unspent.get(token).filter(|drawn| drawn.day >= self.void_before)
    }

    /// The day before which tokens are void.
    pub(crate) fn void_before(&self) -> u32 {
        self.void_before
    }

    /// How many of the hashes are accepted, from the front, and which of those are new. They are
    /// [counted](Self::count) once they are drawn.
    pub(crate) fn draw(
        &self,
        device: DeviceId,
        hashes: Vec<KeyHash>,
        day: u32,
        per_device: usize,
        total: u64,
    ) -> Result<(u32, Vec<KeyHash>), StoreError> {
        let drawn = if day == self.day { self.today.get(&device).copied().unwrap_or(0) } else { 0 };
        let left = u32::try_from(per_device).unwrap_or(u32::MAX).saturating_sub(drawn) as usize;
        let room = usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(self.unspent.len());
        let (mut accepted, mut fresh) = (0u32, Vec::new());
        let mut seen = hashbrown::HashSet::new();
        for hash in hashes {
            if self.get(&hash).is_none() && !seen.contains(&hash) {
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
        Ok((accepted, fresh))
    }

    /// The device has drawn so many new tokens.
    pub(crate) fn count(&mut self, device: DeviceId, day: u32, fresh: u32) {
        if day != self.day {
            self.today = Map::new(self.keyed);
            self.day = day;
        }
        if fresh > 0 {
            let drawn = self.today.get(&device).copied().unwrap_or(0);
            self.today.insert(device, drawn + fresh);
        }
    }

    /// A record says this of a token. What an older record says is passed over.
    pub(crate) fn enter(&mut self, token: KeyHash, drawn: Drawn) {
        let is_news = self.unspent.get(&token).is_none_or(|known| known.version <= drawn.version);
        if drawn.day >= self.void_before && is_news {
            self.unspent.insert(token, drawn);
        }
    }

    /// The record of this version says that the token has paid.
    pub(crate) fn paid(&mut self, token: &KeyHash, version: u64) {
        if self.get(token).is_some_and(|drawn| drawn.version < version) {
            self.unspent.remove(token);
        }
    }

    /// The day before which tokens are void by now, if that was not said yet and there may be any.
    pub(crate) fn expire(&self, day: u32) -> Option<u32> {
        let before = day.saturating_sub(TOKEN_DAYS);
        (before > self.void_before && self.unspent.len() > 0).then_some(before)
    }

    /// From now on, tokens that were drawn before this day are void.
    pub(crate) fn void(&mut self, before: u32) {
        if before > self.void_before {
            (self.void_before, self.sweeping) = (before, Some(0));
        }
    }

    /// Whether there may be void tokens that still take memory.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweeping.is_some()
    }

    /// Drops void tokens, as far as one part of all tokens goes, and returns them.
    pub(crate) fn sweep(&mut self) -> Vec<KeyHash> {
        let Some(part) = self.sweeping else { return Vec::new() };
        let before = self.void_before;
        let void = self.unspent.extract(part, |_, drawn| drawn.day < before);
        self.sweeping = Some(part + 1).filter(|next| *next < self.unspent.parts());
        void.into_iter().map(|(token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(day: u32) -> Drawn {
        Drawn { version: 1, day, on: None }
    }

    #[test]
    fn memory_follows_what_is_unspent() {
        let mut tokens = Tokens::new(Keyed::new([1, 2]));
        let hash = |n: u32| KeyHash(std::array::from_fn(|at| n.to_le_bytes()[at % 4]));
        (0..10_000).for_each(|n| tokens.enter(hash(n), drawn(1)));
        (0..9_900).for_each(|n| tokens.paid(&hash(n), 2));
        assert!(tokens.unspent.capacity() < 2_000, "{}", tokens.unspent.capacity());
        assert!((9_900..10_000).all(|n| tokens.get(&hash(n)).is_some()));
    }

    #[test]
    fn void_tokens_are_void_at_once_and_go_by_and_by() {
        let mut tokens = Tokens::new(Keyed::new([1, 2]));
        let hash = |n: u32| KeyHash(std::array::from_fn(|at| n.to_le_bytes()[at % 4]));
        (0..10_000).for_each(|n| tokens.enter(hash(n), drawn(n % 2 + 1)));
        tokens.void(2);
        assert!((0..10_000).all(|n| tokens.get(&hash(n)).is_some() == (n % 2 == 1)));
        let mut steps = Vec::new();
        while tokens.is_sweeping() {
            steps.push(tokens.sweep().len());
        }
        assert_eq!((steps.iter().sum::<usize>(), tokens.unspent.len()), (5_000, 5_000));
        assert!(steps.iter().all(|step| *step < 600), "{steps:?}");
        tokens.enter(hash(0), drawn(1));
        assert_eq!(tokens.get(&hash(0)), None, "a late copy of its record brings none back");
    }
}
