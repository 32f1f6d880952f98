//! What is new and what is read: where the window begins, and when the senders are told. Part of the pure
//! state.
//!
//! The client library marks a whole conversation at once, so that happens only when its end is on the screen
//! of somebody who looks, and never while the relay is still handing out what came in the meantime.

use posthorn_client::conversation::{Body, Message, Notice};

use super::app::{App, Connection, Geometry};
use super::exchange::Order;

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

impl App {
    /// A new entry; those that are known already change nothing.
    pub(super) fn arrived(&mut self, message: Message) {
        let open = self.selected == Some(message.conversation);
        let watched = open && self.focused && self.caught_up && self.scroll == 0;
        let Some(history) = self.histories.get_mut(&message.conversation) else { return };
        let at = history.messages.partition_point(|known| known.row < message.row);
        if history.messages.get(at).is_some_and(|known| known.row == message.row) {
            return;
        }
        if message.mine {
            history.new_from = None;
        } else if !watched && history.new_from.is_none_or(|new| history.seen.is_some_and(|seen| new <= seen))
        {
            history.new_from = Some(message.row);
        }
        if open {
            if message.mine {
                (self.scroll, self.from_new) = (0, false);
            } else if !watched && self.scroll == 0 {
                self.from_new = true;
            }
            self.hold |= self.scroll > 0;
        }
        history.messages.insert(at, message);
    }

    /// What was drawn, so that scrolling knows its ends, and the window begins at what is new.
    pub(super) fn drawn(&mut self, geometry: Geometry) {
        if self.from_new {
            let new = geometry.new_at.map_or(0, |at| geometry.total - at);
            self.scroll = new.saturating_sub(geometry.height);
        } else if self.hold && geometry.total > self.geometry.total {
            self.scroll += geometry.total - self.geometry.total;
        }
        self.hold = false;
        self.geometry = geometry;
        self.scroll = self.scroll.min(geometry.total.saturating_sub(geometry.height));
    }

    /// The screen is drawn: if it shows the end, and somebody looks, then everything was seen.
    pub(super) fn mark_read(&mut self, orders: &mut Vec<Order>) {
        let selected = self.selected;
        // While the relay hands out what came in the meantime, more may be stored than was drawn.
        let still_coming = !self.caught_up && !matches!(self.connection, Connection::Offline { .. });
        let Some(history) = selected.and_then(|selected| self.histories.get_mut(&selected)) else { return };
        if !self.focused || self.scroll > 0 || self.popup.is_some() || history.loading || still_coming {
            return;
        }
        self.from_new = false;
        history.seen = history.messages.last().map(|message| message.row);
        if let Some(conversation) =
            self.conversations.iter_mut().find(|known| Some(known.id) == selected && known.unread > 0)
        {
            conversation.unread = 0;
            orders.push(Order::MarkRead(conversation.id));
        }
    }
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
