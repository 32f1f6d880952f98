//! What is new and what is read: where the window begins, and when the senders are told. Part of the pure
//! state.
//!
//! The client library marks a whole conversation at once, so that happens only when its end is on the screen
//! of somebody who looks, and never while the relay is still handing out what came in the meantime.

use posthorn_client::conversation::Message;

use super::app::{App, Connection, Geometry};
use super::exchange::Order;

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
