//! What a mailbox may hold and for how long: quota and reserve (rule 5), expiry (rule 20), which post ids may
//! leave memory (rule 2), and the removal of a mailbox that nobody opens (rule 16). Reads no clock: `now` is
//! a parameter.

use posthorn_proto::Turn;
use posthorn_proto::limits::{ENVELOPE_BYTES, POST_OVERHEAD_BYTES};

use super::Mailbox;
use super::log::Entry;
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
    /// Nobody has opened it for too long, so it goes.
    Remove,
    /// From now on this is the oldest seq that is stored, as it may have been before.
    Keep { oldest: u64 },
}

impl<L: Clone + PartialEq> Mailbox<L> {
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
        let drop =
            self.log.get(self.log.oldest()).map(|oldest| u64::from(oldest.time) + u64::from(self.expiry));
        drop.into_iter().fold(self.abandoned_at(policy), u64::min)
    }

    /// The earliest time at which [`Mailbox::past`] may find something, unix seconds.
    pub(crate) fn past_due(&self, policy: &StorePolicy) -> Option<u64> {
        let first = self.log.forgotten() + 1;
        let entry = self.log.get(first).filter(|_| first < self.log.oldest())?;
        Some(u64::from(entry.time) + u64::from(policy.fresh_seconds))
    }

    /// What has expired by `now`, as far as `most` entries go. Cuts prefixes only: an envelope behind one
    /// that has not expired stays. A part of a cut is a cut like any.
    pub(crate) fn expire(&self, now: u64, policy: &StorePolicy, most: u64) -> Expiry {
        if now >= self.abandoned_at(policy) {
            return Expiry::Remove;
        }
        let expired = |time: u32| u64::from(time) + u64::from(self.expiry) <= now;
        let (stored, few) = (self.log.oldest(), usize::try_from(most).unwrap_or(usize::MAX));
        let gone = self.log.from(stored).take(few).take_while(|(_, entry)| expired(entry.time)).count();
        // Whoever missed something by this no longer holds back the rest (R3).
        let oldest = self.readers.settle(stored + gone as u64, None).min(stored.saturating_add(most));
        Expiry::Keep { oldest }
    }

    /// The first posts that need not be held in memory: they are trimmed, and their ids are old by the time
    /// `now`; prefixes only. An id that is ahead (the clock was, or it is from before ids had a time) could
    /// be that of a new post later, and is held for as long as repeats are to be recognised, and as it could
    /// be one.
    pub(crate) fn past(&self, now: u64, policy: &StorePolicy) -> impl Iterator<Item = (u64, &Entry<L>)> {
        let (oldest, kept) = (self.log.oldest(), policy.held_seconds());
        let is_past = move |(seq, entry): &(u64, &Entry<L>)| {
            let is_over = u64::from(entry.time) + kept <= now;
            *seq < oldest && (policy.is_old(entry.post_id.seconds(), now) || is_over)
        };
        self.log.from(self.log.forgotten() + 1).take_while(is_past)
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
