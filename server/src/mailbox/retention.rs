//! What a mailbox may hold and for how long: quota and reserve (rule 5), expiry (rule 20), forgetting (rule
//! 2), and the removal of a mailbox that nobody opens (rule 16). Reads no clock: `now` is a parameter.

use posthorn_proto::Turn;
use posthorn_proto::limits::{ENVELOPE_BYTES, POST_OVERHEAD_BYTES};

use super::Mailbox;
use crate::store::StorePolicy;

/// A day in seconds: how finely openings are noted, so that opening a mailbox rarely writes anything.
pub(crate) const DAY: u64 = 24 * 3600;

/// Most entries that one command trims or forgets. What is left is trimmed by expiry, a part at a time with
/// other commands in between, so that nobody waits for long however much there is.
pub(crate) const CUT_AT_ONCE: u64 = 2048;

/// The part of a quota that only appends with a turn may use, in bytes: a tenth, and at least room for four
/// of the largest envelopes, but never more than half, so that small mailboxes stay usable.
pub(crate) fn reserve(quota: u64) -> u64 {
    let four = 4 * (ENVELOPE_BYTES as u64 + POST_OVERHEAD_BYTES);
    (quota / 10).max(four).min(quota / 2)
}

/// What a turn takes of the quota beside its envelope, in bytes: it is stored and delivered with it.
pub(crate) fn turn_cost(turn: &Turn) -> u64 {
    64 + 48 * turn.admit.len() as u64 + 16 * turn.evict.len() as u64
}

/// What expiry does to a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Nothing is due.
    Nothing,
    /// Nobody has opened it for too long, so it goes.
    Remove,
    /// From now on `oldest` is the oldest seq that is stored, and `forgotten` the newest post that is not
    /// remembered.
    Cut { oldest: u64, forgotten: u64 },
}

impl<L: Clone + PartialEq> Mailbox<L> {
    /// How long a post is remembered, seconds.
    fn remember_for(&self, policy: &StorePolicy) -> u64 {
        u64::from(policy.post_id_seconds.max(self.expiry))
    }

    /// When it will be removed if nobody opens it, unix seconds. The day of the last opening counts in full.
    fn abandoned_at(&self, policy: &StorePolicy) -> u64 {
        (u64::from(self.opened) + 1) * DAY + policy.unopened_seconds
    }

    /// The earliest time at which [`Mailbox::expire`] may find something to do, unix seconds; 0 while more
    /// has been acknowledged than could be trimmed at once.
    pub(crate) fn due(&self, policy: &StorePolicy) -> u64 {
        if self.readers.settle(self.log.oldest(), None) > self.log.oldest() {
            return 0;
        }
        let forget = self
            .log
            .get(self.log.forgotten() + 1)
            .map(|first| u64::from(first.time) + self.remember_for(policy));
        let drop =
            self.log.get(self.log.oldest()).map(|oldest| u64::from(oldest.time) + u64::from(self.expiry));
        [forget, drop].into_iter().flatten().fold(self.abandoned_at(policy), u64::min)
    }

    /// What has expired by `now`, as far as `most` entries go. Cuts prefixes only: an envelope behind one
    /// that has not expired stays. A part of a cut is a cut like any.
    pub(crate) fn expire(&self, now: u64, policy: &StorePolicy, most: u64) -> Expiry {
        if now >= self.abandoned_at(policy) {
            return Expiry::Remove;
        }
        let over = |seconds: u64| move |time: u32| u64::from(time) + seconds <= now;
        let (expired, forgettable) = (over(u64::from(self.expiry)), over(self.remember_for(policy)));
        let (stored, first) = (self.log.oldest(), self.log.forgotten() + 1);
        let few = usize::try_from(most).unwrap_or(usize::MAX);
        let gone = self.log.from(stored).take(few).take_while(|(_, entry)| expired(entry.time)).count();
        // Whoever missed something by this no longer holds back the rest (R3).
        let oldest = self.readers.settle(stored + gone as u64, None).min(stored.saturating_add(most));
        let rest = most - (oldest - stored);
        let lost = self
            .log
            .from(first)
            .take(usize::try_from(rest).unwrap_or(usize::MAX))
            .take_while(|(seq, entry)| *seq < oldest && forgettable(entry.time))
            .count();
        let forgotten = self.log.forgotten() + lost as u64;
        if (oldest, forgotten) == (self.log.oldest(), self.log.forgotten()) {
            return Expiry::Nothing;
        }
        Expiry::Cut { oldest, forgotten }
    }

    /// How far one command may trim, given how far all would go.
    pub(super) fn at_once(&self, oldest: u64) -> u64 {
        oldest.min(self.log.oldest().saturating_add(CUT_AT_ONCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_tenth_and_four_envelopes_but_never_more_than_half() {
        let four = 4 * (ENVELOPE_BYTES as u64 + POST_OVERHEAD_BYTES);
        assert_eq!(reserve(64 << 20), (64 << 20) / 10);
        assert_eq!(reserve(4 << 20), four);
        assert_eq!(reserve(1000), 500);
        assert_eq!(reserve(0), 0);
    }
}
