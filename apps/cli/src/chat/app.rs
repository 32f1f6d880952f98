//! The state of the full-screen chat: what happens goes in, orders for the driver come out. Pure: no
//! terminal, no client, no clock, so that everything here is tested.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use posthorn_client::conversation::{Cause, ConversationId, Entry, EntryState};
use posthorn_client::engine::{ConversationSummary, Event, SyncState, Unreachable, Waiting};
use posthorn_client::identity::PersonId;

use super::editor::Editor;
use super::exchange::{Happening, Order, Popup};
use super::unread::{Place, first_unread};
use crate::command::wait::elsewhere;
use crate::name;
use crate::plain::plain_line;

/// Entries that are loaded at once.
pub(super) const PAGE: usize = 100;
/// A note disappears after this long, milliseconds.
const NOTE_MS: u64 = 8_000;
/// Alarms that are kept for the screen; all of them stand in `posthorn listen` too.
const ALARMS: usize = 3;
/// The bell rings once in this time, milliseconds, however much comes.
const BELL_MS: u64 = 2_000;

/// How the relay is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Connection {
    Connecting,
    Online,
    /// Why not, and the next try in unix milliseconds.
    Offline {
        reason: String,
        retry_at: u64,
    },
}

/// A line above the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) text: String,
    pub(super) is_problem: bool,
    until: u64,
}

/// What is loaded of a conversation.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In the conversation's order.
    pub(super) entries: Vec<Entry>,
    /// There is nothing older.
    pub(super) complete: bool,
    pub(super) loading: bool,
    /// From here on, entries came while nobody looked.
    pub(super) new_from: Option<Place>,
    /// Up to here, entries were on a screen that somebody looked at.
    pub(super) seen: Option<Place>,
}

/// What was on the screen last, for scrolling.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Geometry {
    /// Rows of the history's window.
    pub(super) height: usize,
    /// Rows that the history has.
    pub(super) total: usize,
    /// The row that says "new".
    pub(super) new_at: Option<usize>,
    /// The first row of the entry that was chosen.
    pub(super) chosen_at: Option<usize>,
    /// Columns of the input.
    pub(super) input_width: usize,
}

/// Whether there is a popup, how far it and the history are scrolled, entries, and rows of the window and of
/// the history.
type Places = (bool, usize, usize, usize, (usize, usize));

/// Everything that is on the screen, and a little more.
#[derive(Debug)]
pub(super) struct App {
    pub(super) me: PersonId,
    pub(super) handle: String,
    pub(super) relay: String,
    pub(super) link: String,
    pub(super) zone: TimeZone,
    pub(super) now: u64,
    pub(super) connection: Connection,
    /// The relay refuses something for now.
    pub(super) waiting: Option<Waiting>,
    /// Other relays that cannot be reached.
    unreachable: Vec<Unreachable>,
    pub(super) conversations: Vec<ConversationSummary>,
    /// Those that were put away, unless they are shown.
    away: Vec<ConversationSummary>,
    shows_away: bool,
    /// What they are called beside each other.
    titles: HashMap<ConversationId, String>,
    pub(super) selected: Option<ConversationId>,
    pub(super) histories: HashMap<ConversationId, History>,
    pub(super) drafts: HashMap<Option<ConversationId>, Editor>,
    pub(super) note: Option<Note>,
    pub(super) alarms: Vec<String>,
    pub(super) popup: Option<Popup>,
    /// Rows of the popup above its window, and how many there can be: the view tells.
    pub(super) popup_scroll: usize,
    pub(super) popup_most: usize,
    pub(super) popup_page: usize,
    /// Rows between the window's end and the history's.
    pub(super) scroll: usize,
    /// New entries came below a window that is scrolled up: it shall not move.
    pub(super) hold: bool,
    /// The window begins at what is new, until somebody moves it or has seen all of it.
    pub(super) from_new: bool,
    /// The row of the entry that was chosen, and whether the window is to go there.
    pub(super) chosen: Option<u64>,
    pub(super) to_chosen: bool,
    pub(super) geometry: Geometry,
    placed: Places,
    pub(super) focused: bool,
    /// When the bell rang last.
    rung: u64,
    /// Everything that the relay has is here: what comes now comes while somebody looks.
    pub(super) caught_up: bool,
    /// What the person asked to open at the start, until the list is there.
    wanted: Option<String>,
}

impl App {
    pub(super) fn new(
        account: &posthorn_client::engine::Account,
        zone: TimeZone,
        now: u64,
        wanted: Option<String>,
    ) -> Self {
        Self {
            me: account.person,
            handle: account.handle.clone(),
            relay: account.relay.clone(),
            link: account.link.clone(),
            zone,
            now,
            connection: Connection::Connecting,
            waiting: None,
            unreachable: Vec::new(),
            conversations: Vec::new(),
            away: Vec::new(),
            shows_away: false,
            titles: HashMap::new(),
            selected: None,
            histories: HashMap::new(),
            drafts: HashMap::new(),
            note: None,
            alarms: Vec::new(),
            popup: None,
            popup_scroll: 0,
            popup_most: 0,
            popup_page: 0,
            scroll: 0,
            hold: false,
            from_new: true,
            chosen: None,
            to_chosen: false,
            geometry: Geometry::default(),
            placed: Places::default(),
            focused: true,
            rung: 0,
            caught_up: false,
            wanted,
        }
    }

    /// The one way in. Orders come out without repeats.
    pub(super) fn on(&mut self, happening: Happening) -> Vec<Order> {
        let mut orders = Vec::new();
        match happening {
            Happening::Key(key) => self.key(key, &mut orders),
            Happening::Paste(text) => self.editor().insert(&text),
            Happening::Focus(focused) => self.focused = focused,
            Happening::Resize => orders.push(Order::Redraw),
            Happening::Time(now) => self.time(now, &mut orders),
            Happening::Client(event) => self.event(event, &mut orders),
            Happening::Conversations(list) => self.list(list, &mut orders),
            Happening::History { conversation, before, entries } => {
                self.loaded(conversation, before, entries)
            }
            Happening::State(state) => self.state(state),
            Happening::Drawn => self.mark_read(&mut orders),
            Happening::Started(id) => {
                let is_new = !self.conversations.iter().chain(&self.away).any(|known| known.id == id);
                self.take_out(id, &mut orders);
                self.note = None;
                if is_new {
                    self.tell("invited: what you write is read as soon as the invitation is accepted");
                }
                orders.push(Order::LoadConversations);
                self.select(id, &mut orders);
            }
            Happening::Joined(id) => {
                self.note = None;
                // What was shown was the invitation.
                self.histories.remove(&id);
                orders.push(Order::LoadConversations);
                if self.selected == Some(id) {
                    self.selected = None;
                }
                self.select(id, &mut orders);
            }
            Happening::Done(text) => self.tell(text),
            Happening::Problem(text) => self.complain(text),
            Happening::NotSent { conversation, text, problem } => {
                let draft = self.drafts.entry(Some(conversation)).or_default();
                if draft.is_empty() {
                    draft.set(text);
                }
                self.complain(problem);
            }
            Happening::Show(popup) => self.open(popup),
        }
        // Compared with what was so after the last happening: how many rows there are is known once they are
        // drawn.
        let places = self.places();
        let moved = std::mem::replace(&mut self.placed, places) != places;
        if moved && self.has_doubtful_signs() && !orders.contains(&Order::Redraw) {
            orders.push(Order::Redraw);
        }
        orders
    }

    /// Whatever makes text move on the screen.
    fn places(&self) -> Places {
        let entries = self.history().map_or(0, |history| history.entries.len());
        let rows = (self.geometry.height, self.geometry.total);
        (self.popup.is_some(), self.popup_scroll, self.scroll, entries, rows)
    }

    /// Terminals do not agree how wide flags and joined signs are; what moves away may leave pieces of them.
    fn has_doubtful_signs(&self) -> bool {
        let doubtful = |c: char| matches!(c, '\u{1f1e6}'..='\u{1f1ff}' | '\u{200d}' | '\u{fe0f}');
        let is_doubtful = |entry: &Entry| {
            entry.text().is_some_and(|text| text.contains(doubtful))
                || entry.reactions().any(|(_, emoji)| emoji.contains(doubtful))
        };
        self.history().is_some_and(|history| history.entries.iter().any(is_doubtful))
    }

    /// Shows something over everything, from its beginning.
    pub(super) fn open(&mut self, popup: Popup) {
        (self.popup, self.popup_scroll) = (Some(popup), 0);
    }

    fn state(&mut self, state: SyncState) {
        self.caught_up = state.connected && state.caught_up;
        self.waiting = state.waiting;
        self.unreachable = state.unreachable;
        match (state.connected, &self.connection) {
            (true, _) => self.connection = Connection::Online,
            (false, Connection::Online) => self.connection = Connection::Connecting,
            (false, _) => {}
        }
    }

    pub(super) fn editor(&mut self) -> &mut Editor {
        self.drafts.entry(self.selected).or_default()
    }

    pub(super) fn current(&self) -> Option<&ConversationSummary> {
        self.conversations.iter().find(|conversation| Some(conversation.id) == self.selected)
    }

    /// The relay of the open conversation, if it is another than ours and cannot be reached.
    pub(super) fn not_there(&self) -> Option<&Unreachable> {
        let current = self.current()?;
        self.unreachable.iter().find(|away| name::needs(current, &away.relay))
    }

    pub(super) fn title(&self, conversation: &ConversationSummary) -> String {
        let known = self.titles.get(&conversation.id).cloned();
        known.unwrap_or_else(|| name::title(conversation, &self.me))
    }

    pub(super) fn history(&self) -> Option<&History> {
        self.histories.get(&self.selected?)
    }

    pub(super) fn tell(&mut self, text: impl Into<String>) {
        self.note = Some(Note { text: text.into(), is_problem: false, until: self.now + NOTE_MS });
    }

    pub(super) fn complain(&mut self, text: impl Into<String>) {
        self.note = Some(Note { text: text.into(), is_problem: true, until: self.now + 2 * NOTE_MS });
    }

    fn time(&mut self, now: u64, orders: &mut Vec<Order>) {
        self.now = now;
        // Being connected has steps that no event tells of.
        if self.connection != Connection::Online || !self.caught_up {
            orders.push(Order::AskOnline);
        }
        if self.note.as_ref().is_some_and(|note| note.until <= now) {
            self.note = None;
        }
        if self.waiting.as_ref().is_some_and(|waiting| waiting.until <= now) {
            self.waiting = None;
            orders.push(Order::AskOnline);
        }
    }

    fn event(&mut self, event: Event, orders: &mut Vec<Order>) {
        match event {
            Event::Connected => orders.push(Order::AskOnline),
            Event::Disconnected { reason, retry_in_ms } => {
                self.connection = Connection::Offline { reason, retry_at: self.now + retry_in_ms };
                self.caught_up = false;
            }
            Event::Relay { relay, unreachable } => {
                let lives_there = |known: &ConversationSummary| name::needs(known, &relay);
                // Of the open one it is said for as long as it is so.
                let is_shown = unreachable.is_some() && self.current().is_some_and(lives_there);
                if !is_shown && self.conversations.iter().any(lives_there) {
                    self.tell(elsewhere(&relay, &unreachable));
                }
                orders.push(Order::AskOnline);
            }
            Event::Entry(entry) => {
                if !entry.mine && entry.said().is_some() {
                    self.ring(orders);
                }
                self.arrived(*entry);
                orders.push(Order::LoadConversations);
                if !self.caught_up {
                    orders.push(Order::AskOnline);
                }
            }
            Event::Changed(entry) => {
                if let EntryState::Failed(cause) = entry.state
                    && !self.is_failed(&entry)
                {
                    self.complain(format!("a message was not sent ({cause})"));
                }
                self.changed(*entry);
            }
            Event::Invited { inviter, .. } => {
                self.ring(orders);
                // Whoever has it before them need not be told.
                if self.selected.is_some() {
                    self.tell(format!("{} invites you: /accept opens the invitation", inviter.handle));
                }
                orders.push(Order::LoadConversations);
            }
            Event::Waiting(waiting) => self.waiting = Some(waiting),
            Event::Missed { .. } => {
                orders.extend([Order::LoadConversations, Order::AskOnline]);
                // What is not on the screen is loaded when it is opened.
                self.histories.retain(|id, _| Some(*id) == self.selected);
                orders.extend(
                    self.selected.map(|conversation| Order::LoadHistory { conversation, before: None }),
                );
            }
            Event::Conversation { .. } => orders.push(Order::LoadConversations),
            Event::Alarm { conversation, cause, text, .. } => {
                let place = self.conversations.iter().find(|known| Some(known.id) == conversation);
                let place = place.map_or_else(String::new, |known| format!(" in {}", self.title(known)));
                orders.push(Order::LoadConversations);
                // Who is removed cannot read the commit that says so: this is how one learns of it, and
                // nothing is wrong.
                if cause == Cause::Evicted {
                    return self.tell(format!("you were removed{place}"));
                }
                self.alarms.push(format!("{cause}{place}: {}", plain_line(&text)));
                if self.alarms.len() > ALARMS {
                    self.alarms.remove(0);
                }
            }
            _ => {}
        }
    }

    /// Entries that nobody has seen yet.
    pub(super) fn unread(&self) -> u64 {
        self.conversations.iter().map(|known| known.unread).sum()
    }

    /// Something came that somebody who looks elsewhere wants to hear of.
    fn ring(&mut self, orders: &mut Vec<Order>) {
        if !self.focused && self.now >= self.rung + BELL_MS && !orders.contains(&Order::Ring) {
            self.rung = self.now;
            orders.push(Order::Ring);
        }
    }

    /// Whether it is known already that an entry will not be sent.
    fn is_failed(&self, entry: &Entry) -> bool {
        let known = self.histories.get(&entry.conversation).map(|history| &history.entries);
        let known = known.into_iter().flatten().find(|known| known.row == entry.row);
        known.is_some_and(|known| matches!(known.state, EntryState::Failed(_)))
    }

    fn list(&mut self, list: Vec<ConversationSummary>, orders: &mut Vec<Order>) {
        self.titles = name::titles(&list, &self.me);
        let wanted = self
            .wanted
            .take()
            .map(|wanted| name::find(&list, &self.me, &wanted).map(|found| (found.id, found.archived)));
        self.shows_away |= matches!(wanted, Some(Ok((_, true))));
        let known: Vec<ConversationId> = list.iter().map(|known| known.id).collect();
        let shows_away = self.shows_away;
        let (list, away) = list.into_iter().partition(|known| shows_away || !known.archived);
        self.away = away;
        let at = self.conversations.iter().position(|known| Some(known.id) == self.selected);
        self.conversations = list;
        let is_there = |id: &ConversationId| self.conversations.iter().any(|known| known.id == *id);
        // What was forgotten, here or because of a block, leaves nothing behind; what stood beside it is
        // opened.
        if at.is_some() && !self.selected.is_some_and(|selected| is_there(&selected)) {
            self.histories.retain(|id, _| known.contains(id));
            let gone = self.selected.filter(|gone| !known.contains(gone));
            let draft = gone.and_then(|gone| self.drafts.remove(&Some(gone)));
            self.drafts.retain(|id, _| id.is_none_or(|id| known.contains(&id)));
            self.selected = None;
            let next = at.map_or(0, |at| at.min(self.conversations.len().saturating_sub(1)));
            if let Some(next) = self.conversations.get(next).map(|known| known.id) {
                self.select(next, orders);
            } else {
                orders.push(Order::Redraw);
            }
            // A command is typed to this program; it goes on although what was begun could not be.
            let is_command = |draft: &Editor| draft.text().starts_with('/');
            if let Some(command) = draft.filter(is_command).filter(|_| self.editor().is_empty()) {
                *self.editor() = command;
            }
        }
        match wanted {
            Some(Ok((id, _))) => return self.select(id, orders),
            Some(Err(problem)) => self.complain(problem.message()),
            None => {}
        }
        if self.selected.is_none()
            && let Some(first) = self.conversations.first().map(|conversation| conversation.id)
        {
            // What was typed before there was a conversation is not lost.
            if let Some(draft) = self.drafts.remove(&None) {
                self.drafts.entry(Some(first)).or_insert(draft);
            }
            self.select(first, orders);
        }
    }

    /// Those that were put away stand in the list, too, or not any more.
    pub(super) fn show_archived(&mut self, orders: &mut Vec<Order>) {
        self.shows_away = !self.shows_away;
        match (self.shows_away, self.away.is_empty()) {
            (true, true) => self.tell("nothing is put away: /archive does that"),
            (true, false) => self.tell("those that are put away stand in the list, too"),
            (false, _) => self.tell("those that are put away are not listed"),
        }
        orders.push(Order::LoadConversations);
    }

    /// Whoever opens one that was put away wants to see it.
    fn take_out(&mut self, id: ConversationId, orders: &mut Vec<Order>) {
        if let Some(at) = self.away.iter().position(|known| known.id == id) {
            self.conversations.push(self.away.remove(at));
            orders.push(Order::Archive { conversation: id, archived: false });
        }
    }

    fn loaded(&mut self, conversation: ConversationId, before: Option<u64>, entries: Vec<Entry>) {
        let known = self.conversations.iter().find(|known| known.id == conversation);
        let unread = known.filter(|known| known.unread > 0).and_then(|known| known.first_unread);
        let history = self.histories.entry(conversation).or_default();
        history.loading = false;
        history.complete = entries.len() < PAGE;
        match before {
            Some(_) => {
                let is_new = |entry: &Entry| !history.entries.iter().any(|known| known.row == entry.row);
                let older: Vec<Entry> = entries.into_iter().filter(is_new).collect();
                history.entries.splice(0..0, older);
            }
            None => {
                if let Some(row) = unread {
                    history.new_from = first_unread(&entries, row);
                }
                history.entries = entries;
            }
        }
    }

    /// Opens a conversation.
    pub(super) fn select(&mut self, id: ConversationId, orders: &mut Vec<Order>) {
        if self.selected == Some(id) {
            return;
        }
        if let Some(left) = self.selected.and_then(|left| self.histories.get_mut(&left)) {
            left.new_from = None;
        }
        self.selected = Some(id);
        // A terminal may have shown a sign wider or narrower than was counted: nothing of it stays behind.
        orders.push(Order::Redraw);
        (self.scroll, self.hold, self.from_new, self.chosen) = (0, false, true, None);
        let history = self.histories.entry(id).or_default();
        if history.entries.is_empty() && !history.loading {
            history.loading = true;
            orders.push(Order::LoadHistory { conversation: id, before: None });
        }
    }

    /// The conversation `steps` further down the list, around its ends.
    pub(super) fn step(&mut self, steps: isize, orders: &mut Vec<Order>) {
        let count = self.conversations.len() as isize;
        if count == 0 {
            return;
        }
        let at = self.conversations.iter().position(|conversation| Some(conversation.id) == self.selected);
        let next = at.map_or(0, |at| (at as isize + steps).rem_euclid(count)) as usize;
        self.select(self.conversations[next].id, orders);
    }

    /// Moves the window up (or down, if negative), and asks for older entries when their place comes near.
    pub(super) fn scroll_by(&mut self, rows: isize, orders: &mut Vec<Order>) {
        let most = self.geometry.total.saturating_sub(self.geometry.height);
        self.scroll = self.scroll.saturating_add_signed(rows).min(most);
        self.from_new = false;
        let near_top = self.scroll + 2 * self.geometry.height >= self.geometry.total;
        let Some(conversation) = self.selected else { return };
        let Some(history) = self.histories.get_mut(&conversation) else { return };
        if rows > 0 && near_top && !history.complete && !history.loading {
            history.loading = true;
            let before = history.entries.first().map(|entry| entry.row);
            orders.push(Order::LoadHistory { conversation, before });
        }
    }

    /// Chooses the entry `steps` further down among those that somebody said; from the end at first, and
    /// beyond it none.
    pub(super) fn choose(&mut self, steps: isize, orders: &mut Vec<Order>) {
        let Some(history) = self.history() else { return };
        let said: Vec<u64> =
            history.entries.iter().filter(|entry| entry.said().is_some()).map(|entry| entry.row).collect();
        let at = said.iter().position(|row| Some(*row) == self.chosen).unwrap_or(said.len());
        let to = at.saturating_add_signed(steps);
        self.chosen = said.get(to).copied();
        (self.to_chosen, self.from_new) = (true, false);
        if self.chosen.is_none() {
            self.scroll = 0;
        }
        if to == 0 {
            // Older ones may have to be loaded.
            self.scroll_by(1, orders);
        }
    }

    /// The entry that a reaction is meant for: the chosen one, else the newest of the others; to take one
    /// back, the newest that has one of ours.
    pub(super) fn to_react_to(&self, takes_back: bool) -> Option<&Entry> {
        let entries = &self.history()?.entries;
        let newest = |wanted: &dyn Fn(&Entry) -> bool| {
            entries.iter().rev().find(|entry| entry.target().is_some() && wanted(entry))
        };
        match (self.chosen, takes_back) {
            (Some(row), _) => newest(&|entry| entry.row == row),
            (None, true) => newest(&|entry| entry.reactions().any(|(change, _)| change.mine)),
            (None, false) => newest(&|entry| !entry.mine).or_else(|| newest(&|_| true)),
        }
    }
}
