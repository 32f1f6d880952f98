//! The memory that all connections together may hold: what was read and is not stored, what waits to be sent.
//!
//! Owns the numbers. Whoever holds bytes for a client charges them here and asks, before it takes more, what
//! its share is. A share is a part of what is *free*: as the budget fills every connection's part shrinks,
//! and those who take what they get go on in what is left. When it is short, those who take nothing are cut
//! off sooner.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One connection may hold this part of what is free.
const PART: usize = 16;

/// Bytes held for clients, over the whole relay.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    used: AtomicUsize,
    /// Of that, what openings hold.
    openings: AtomicUsize,
}

impl Budget {
    /// A budget of this many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, used: AtomicUsize::new(0), openings: AtomicUsize::new(0) }
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What nobody holds, bytes.
    pub(crate) fn free(&self) -> usize {
        self.most.saturating_sub(self.used())
    }

    /// Whether most of it is used.
    pub(crate) fn is_short(&self) -> bool {
        self.free() < self.most / 4
    }

    /// The most that one connection may hold of one kind now, bytes.
    pub(crate) fn share(&self) -> usize {
        self.free() / PART
    }

    /// The most that one `Open` may hold now, bytes. Openings have half of the budget to themselves: whoever
    /// fills it with messages that never end keeps nobody from opening.
    pub(crate) fn share_of_openings(&self) -> usize {
        (self.most / 2).saturating_sub(self.openings.load(Ordering::Relaxed)) / PART
    }

    /// Counts what an opening holds from now on.
    pub(crate) fn charge_opening(&self, bytes: usize) {
        self.openings.fetch_add(bytes, Ordering::Relaxed);
        self.charge(bytes);
    }

    /// Counts what an opening does not hold any more.
    pub(crate) fn release_opening(&self, bytes: usize) {
        self.openings.fetch_sub(bytes, Ordering::Relaxed);
        self.release(bytes);
    }

    /// Counts bytes that are held from now on. Never refuses: some things have to be taken.
    pub(crate) fn charge(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are not held any more.
    pub(crate) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_and_something_stays_free() {
        let budget = Budget::new(1 << 20);
        let shares: Vec<_> = (0..50)
            .map(|_| {
                let share = budget.share();
                budget.charge(share);
                share
            })
            .collect();
        assert!(shares.is_sorted_by(|larger, smaller| larger > smaller));
        assert!(budget.is_short() && budget.free() > 32 * 1024, "{}", budget.free());
        budget.charge(2 << 20);
        assert_eq!((budget.free(), budget.share()), (0, 0));
        budget.release(budget.used());
        assert_eq!(budget.share(), (1 << 20) / PART);
    }
}
