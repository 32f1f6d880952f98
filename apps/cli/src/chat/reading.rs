//! What is new and what is read: where the window begins, and when the senders are told. Part of the pure
//! state.
//!
//! Read is what stood on the screen of somebody who looks, up to its end, and nothing while the relay is
//! still handing out what came in the meantime.

use posthorn_client::conversation::Entry;

use super::app::{App, Connection, Geometry};
use super::exchange::Order;
use super::unread::place;
use crate::name;

impl App {
    /// A new entry; one that is known already is shown as it is now.
    pub(super) fn arrived(&mut self, entry: Entry) {
        let open = self.selected == Some(entry.conversation);
        let watched = open && self.focused && self.caught_up && self.scroll == 0;
        let Some(history) = self.histories.get_mut(&entry.conversation) else { return };
        if history.entries.iter().any(|known| known.row == entry.row) {
            return self.changed(entry);
        }
        let at = place(&entry);
        if entry.mine {
            history.new_from = None;
        } else if !watched && history.new_from.is_none_or(|new| history.seen.is_some_and(|seen| new <= seen))
        {
            history.new_from = Some(at);
        }
        if open {
            if entry.mine {
                (self.scroll, self.from_new) = (0, false);
            } else if !watched && self.scroll == 0 {
                self.from_new = true;
            }
            self.hold |= self.scroll > 0;
        }
        let index = history.entries.partition_point(|known| place(known) < at);
        history.entries.insert(index, entry);
    }

    /// An entry is shown differently from now on. What was queued may have got its place.
    pub(super) fn changed(&mut self, entry: Entry) {
        let Some(history) = self.histories.get_mut(&entry.conversation) else { return };
        let Some(known) = history.entries.iter_mut().find(|known| known.row == entry.row) else { return };
        self.hold |= self.scroll > 0 && self.selected == Some(entry.conversation);
        *known = entry;
        history.entries.sort_by_key(place);
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
        if let Some(at) = geometry.chosen_at.filter(|_| std::mem::take(&mut self.to_chosen)) {
            // Between the first row of the window and its last.
            let highest = geometry.total.saturating_sub(at);
            self.scroll =
                self.scroll.clamp(highest.saturating_sub(geometry.height), highest.saturating_sub(1));
        }
        self.scroll = self.scroll.min(geometry.total.saturating_sub(geometry.height));
    }

    /// The screen is drawn: if it shows the end, and somebody looks, then everything was seen.
    pub(super) fn mark_read(&mut self, orders: &mut Vec<Order>) {
        let selected = self.selected;
        let invited = self.current().is_some_and(name::is_invitation);
        // While the relay hands out what came in the meantime, more may be stored than was drawn.
        let still_coming = !self.caught_up && !matches!(self.connection, Connection::Offline { .. });
        let Some(history) = selected.and_then(|selected| self.histories.get_mut(&selected)) else { return };
        if !self.focused || self.scroll > 0 || self.popup.is_some() || history.loading || still_coming {
            return;
        }
        // Of an invitation the beginning stays in sight, however small the window becomes.
        self.from_new &= invited;
        // What came after this was drawn stands before what is still queued.
        let Some(last) = history.entries.iter().rfind(|entry| entry.place.is_some()) else { return };
        history.seen = Some(place(last));
        if let Some(conversation) =
            self.conversations.iter_mut().find(|known| Some(known.id) == selected && known.unread > 0)
        {
            conversation.unread = 0;
            orders.push(Order::MarkRead { conversation: conversation.id, up_to: last.row });
        }
    }
}
