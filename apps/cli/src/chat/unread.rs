//! The order of entries, and where what is new begins. Pure.

use posthorn_client::conversation::Entry;

/// Entries beyond the unread ones that are loaded with them, so that what is new does not stand alone.
const BEFORE_NEW: usize = 20;
/// Unread entries that are loaded at once, at most.
const MOST_AT_ONCE: usize = 5_000;

/// Where an entry stands among the others: by the conversation's order, what is queued behind everything.
pub(super) type Place = (u32, u64, u64);

pub(super) fn place(entry: &Entry) -> Place {
    (entry.place.unwrap_or(u32::MAX), entry.seq.unwrap_or(u64::MAX), entry.row)
}

/// Where the oldest unread entry stands, whose row this is; the oldest that is loaded if it is further up.
pub(super) fn first_unread(entries: &[Entry], row: u64) -> Option<Place> {
    entries.iter().find(|entry| entry.row == row).or(entries.first()).map(place)
}

/// How many of the newest entries are loaded for a conversation with so many unread ones.
pub(super) fn page(unread: u64, least: usize) -> usize {
    usize::try_from(unread)
        .unwrap_or(MOST_AT_ONCE)
        .saturating_add(BEFORE_NEW)
        .clamp(least, MOST_AT_ONCE.max(least))
}

#[cfg(test)]
mod tests {
    use posthorn_client::conversation::EntryState;

    use super::*;
    use crate::output::tests::{entry, text};

    #[test]
    fn what_is_new_begins_at_its_row_or_at_the_oldest_that_is_loaded() {
        let received = |row| entry(row, "bob", text("x"), EntryState::Received);
        let entries = [received(3), received(4), received(5)];
        assert_eq!(first_unread(&entries, 4), Some(place(&entries[1])));
        assert_eq!(first_unread(&entries, 1), Some(place(&entries[0])), "further up than what is loaded");
        assert_eq!(first_unread(&[], 1), None);
        assert_eq!((page(3, 100), page(300, 100), page(u64::MAX, 100)), (100, 320, 5_000));
    }

    #[test]
    fn what_is_queued_stands_behind_everything() {
        let queued = entry(1, "ann", text("x"), EntryState::Queued);
        let received = entry(2, "bob", text("x"), EntryState::Received);
        assert!(place(&queued) > place(&received));
    }
}
