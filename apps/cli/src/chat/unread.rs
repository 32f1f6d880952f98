//! Where what is new begins. Pure.
//!
//! What counts as unread is the client library's rule, repeated here because a summary tells how many there
//! are and not which: this is the one place that repeats it.

use posthorn_client::conversation::{Body, Message, Notice};

/// Entries beyond the unread ones that are loaded with them, so that what is new does not stand alone.
const BEFORE_NEW: usize = 20;
/// Unread entries that are loaded at once, at most.
const MOST_AT_ONCE: usize = 5_000;

/// The row of the oldest unread entry, of which there are so many; the oldest that is loaded if it is further
/// up.
pub(super) fn first_unread(messages: &[Message], unread: u64) -> Option<u64> {
    // What the database counts: what others said, and the invitation.
    let counts = |message: &&Message| {
        !message.mine
            && matches!(
                &message.body,
                Body::Text(_) | Body::Unreadable(_) | Body::Notice(Notice::Joined { .. })
            )
    };
    let nth = usize::try_from(unread.checked_sub(1)?).ok()?;
    messages.iter().rev().filter(counts).nth(nth).or(messages.first()).map(|message| message.row)
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
    use posthorn_client::conversation::MessageState;

    use super::*;
    use crate::output::tests::message;

    #[test]
    fn own_messages_and_notices_are_not_counted_as_unread() {
        let text = |row, state| message(row, "bob", Body::Text("x".into()), state);
        let left = Body::Notice(Notice::Left { who: "cleo".into() });
        let messages = [
            text(1, MessageState::Received),
            text(2, MessageState::Received),
            text(3, MessageState::Sent),
            message(4, "cleo", left, MessageState::Received),
            text(5, MessageState::Received),
        ];
        assert_eq!(first_unread(&messages, 0), None);
        assert_eq!(first_unread(&messages, 1), Some(5));
        assert_eq!(first_unread(&messages, 2), Some(2));
        assert_eq!(first_unread(&messages, 99), Some(1), "further up than what is loaded");
        assert_eq!((page(3, 100), page(300, 100), page(u64::MAX, 100)), (100, 320, 5_000));
    }
}
