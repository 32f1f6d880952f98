//! What keys do. Part of the pure state.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use posthorn_client::conversation::{ConversationId, Entry};
use posthorn_client::engine::Who;

use super::app::App;
use super::exchange::{Order, Popup};
use super::slash::{self, Slash};
use crate::plain::plain;
use crate::{invitation, name, qr};

/// The keys, for the help.
const KEYS: &[(&str, &str)] = &[
    ("Enter; Alt+Enter, Ctrl+J", "send; a new line in the message"),
    ("Tab, Shift+Tab", "next, previous conversation (also Ctrl+N, Ctrl+P)"),
    ("PgUp PgDn, Ctrl+Home End", "scroll (also arrows, wheel); to the first, the last"),
    ("Ctrl+Up, Ctrl+Down", "choose a message, for /react; Ctrl+Y copies it"),
    ("Ctrl+A E; Ctrl+W U K", "to the line's start, end; delete a word, to either"),
    ("Esc", "close, dismiss notes and alarms, go to the end"),
    ("Ctrl+L, Ctrl+Z", "draw anew; back to the shell until fg"),
];

/// What is said where an invitation has to be answered before anything else.
const ANSWER_FIRST: &str = "answer the invitation first: /accept, /decline or /block";

impl App {
    pub(super) fn key(&mut self, key: KeyEvent, orders: &mut Vec<Order>) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Char('c' | 'q') if control => orders.push(Order::Quit),
            KeyCode::Char('l') if control => orders.push(Order::Redraw),
            KeyCode::Char('z') if control => orders.push(Order::Suspend),
            KeyCode::Char('y') if control => self.copy(orders),
            KeyCode::Esc => self.escape(),
            code if self.popup.is_some() => self.popup_key(code),
            KeyCode::F(1) => self.help(),
            KeyCode::Tab => self.step(1, orders),
            KeyCode::BackTab => self.step(-1, orders),
            KeyCode::Char('n') if control => self.step(1, orders),
            KeyCode::Char('p') if control => self.step(-1, orders),
            KeyCode::Up if control => self.choose(-1, orders),
            KeyCode::Down if control => self.choose(1, orders),
            KeyCode::Down if alt => self.step(1, orders),
            KeyCode::Up if alt => self.step(-1, orders),
            KeyCode::PageUp => self.scroll_by(self.page(), orders),
            KeyCode::PageDown => self.scroll_by(-self.page(), orders),
            KeyCode::Home if control => self.scroll_by(isize::MAX, orders),
            KeyCode::End if control => self.scroll_by(isize::MIN, orders),
            KeyCode::Up | KeyCode::Down => self.vertical(key.code == KeyCode::Down, orders),
            KeyCode::Enter if alt || key.modifiers.contains(KeyModifiers::SHIFT) => {
                self.editor().insert("\n")
            }
            KeyCode::Char('j') if control => self.editor().insert("\n"),
            KeyCode::Enter => self.enter(orders),
            _ => self.edit(key, control, alt),
        }
    }

    /// Copies the message that was chosen, else the newest, as it is shown.
    fn copy(&mut self, orders: &mut Vec<Order>) {
        let texts = self.history().into_iter().flat_map(|history| history.entries.iter().rev());
        let wanted = |entry: &&Entry| self.chosen.is_none_or(|row| row == entry.row);
        match texts.filter(wanted).find_map(Entry::text).map(plain) {
            Some(text) => {
                self.tell("copied, if this terminal lets programs do that");
                orders.push(Order::Copy(text));
            }
            None => self.complain("there is no text here to copy"),
        }
    }

    /// A popup that is longer than the screen scrolls; every other key closes it.
    fn popup_key(&mut self, code: KeyCode) {
        let page = self.popup_page.max(1);
        let place = self.popup_scroll;
        let to = match code {
            _ if self.popup_most == 0 => None,
            KeyCode::Up => Some(place.saturating_sub(1)),
            KeyCode::Down => Some(place + 1),
            KeyCode::PageUp => Some(place.saturating_sub(page)),
            KeyCode::PageDown | KeyCode::Char(' ') => Some(place + page),
            KeyCode::Home => Some(0),
            KeyCode::End => Some(self.popup_most),
            _ => None,
        };
        match to {
            Some(to) => self.popup_scroll = to.min(self.popup_most),
            None => self.popup = None,
        }
    }

    fn page(&self) -> isize {
        self.geometry.height.saturating_sub(1).max(1) as isize
    }

    /// In a text of several rows the cursor moves, else the history does: that is also what a mouse wheel
    /// sends.
    fn vertical(&mut self, down: bool, orders: &mut Vec<Order>) {
        let width = self.geometry.input_width;
        let several = self.editor().layout(width).rows.len() > 1;
        if !(several && self.editor().vertical(width, down)) {
            self.scroll_by(if down { -1 } else { 1 }, orders);
        }
    }

    fn edit(&mut self, key: KeyEvent, control: bool, alt: bool) {
        let editor = self.editor();
        match key.code {
            KeyCode::Char('a') if control => editor.home(),
            KeyCode::Char('e') if control => editor.end(),
            KeyCode::Char('u') if control => editor.delete_to_start(),
            KeyCode::Char('k') if control => editor.delete_to_end(),
            KeyCode::Char('w') if control => editor.delete_word(),
            KeyCode::Backspace if alt || control => editor.delete_word(),
            KeyCode::Char('b') if alt => editor.word_left(),
            KeyCode::Char('f') if alt => editor.word_right(),
            // AltGr arrives as both at once, and makes letters.
            KeyCode::Char(c) if control == alt => editor.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Left if control || alt => editor.word_left(),
            KeyCode::Right if control || alt => editor.word_right(),
            KeyCode::Left => editor.left(),
            KeyCode::Right => editor.right(),
            KeyCode::Home => editor.home(),
            KeyCode::End => editor.end(),
            KeyCode::Backspace => editor.backspace(),
            KeyCode::Delete => editor.delete(),
            _ => {}
        }
    }

    /// The nearest thing that can be closed is closed.
    fn escape(&mut self) {
        if self.popup.take().is_some() || self.note.take().is_some() || self.chosen.take().is_some() {
            return;
        }
        if self.alarms.is_empty() {
            (self.scroll, self.from_new) = (0, false);
        } else {
            self.alarms.clear();
        }
    }

    fn enter(&mut self, orders: &mut Vec<Order>) {
        let text = self.editor().text().to_owned();
        if text.trim().is_empty() {
            return;
        }
        if text.starts_with('/') && !text.starts_with("//") {
            match slash::parse(&text) {
                Ok(command) => {
                    self.editor().take();
                    self.obey(command, orders);
                }
                Err(problem) => self.complain(problem),
            }
            return;
        }
        let Some(conversation) = self.selected else {
            self.complain("there is no conversation to write to: /new HANDLE starts one");
            return;
        };
        if self.current().is_some_and(name::is_invitation) {
            return self.complain(ANSWER_FIRST);
        }
        let text = self.editor().take();
        let text = if text.starts_with("//") { text[1..].to_owned() } else { text };
        orders.push(Order::Send { conversation, text });
    }

    fn obey(&mut self, command: Slash, orders: &mut Vec<Order>) {
        match command {
            Slash::New { members, name, again } => {
                if let (false, true, [Who::Handle(handle)]) = (again, name.is_empty(), &members[..])
                    && let Some(known) = name::alone_with(&self.conversations, &self.me, handle.as_str())
                {
                    let (id, invites) = (known.id, name::is_invitation(known));
                    self.select(id, orders);
                    if invites {
                        return self.tell(format!("{handle} has invited you already: /accept joins"));
                    }
                    let another = format!("/new {handle} --again, or /new {handle} --name NAME");
                    return self
                        .tell(format!("this is your conversation with {handle}; {another} starts another"));
                }
                self.tell("inviting…");
                orders.push(Order::Start { members, name: name::meant(&name), again });
            }
            Slash::Help => self.help(),
            Slash::ShowArchived => self.show_archived(orders),
            Slash::Card => self.card(),
            Slash::Quit => orders.push(Order::Quit),
            Slash::People => orders.push(Order::ShowPeople),
            Slash::Block(Some(who)) => orders.push(Order::Block { who, blocked: true }),
            Slash::Unblock(who) => orders.push(Order::Block { who, blocked: false }),
            Slash::Verify(Some(handle)) => orders.push(Order::ShowSafetyNumber(handle)),
            Slash::Mark { who: Some(who), verified } => orders.push(Order::Verify { who, verified }),
            _ => match self.selected {
                Some(conversation) => self.obey_here(command, conversation, orders),
                None => self.complain("open a conversation first: /new HANDLE starts one"),
            },
        }
    }

    /// Answers to the open invitation, or to something that has ended.
    fn answer(&mut self, command: &Slash, conversation: ConversationId, orders: &mut Vec<Order>) {
        let Some(current) = self.current() else { return };
        let (invited, ended) = (name::is_invitation(current), current.state.has_ended());
        let moved = name::awaits_consent(current);
        let (title, foreign) = (self.title(current), current.foreign_relay);
        let inviter = current.inviter.as_ref().map(|person| person.person.to_string());
        match command {
            Slash::Accept { sure: false } if moved || (invited && foreign) => {
                let (relay, what) =
                    (invitation::relay_name(&current.relay), if moved { "go on" } else { "join" });
                self.tell(format!("{what} at {relay}, which you do not use yet? Type /accept yes"));
            }
            Slash::Accept { .. } if moved || invited => {
                self.tell("coming in…");
                orders.push(Order::Accept { conversation, foreign_relay: moved || foreign });
            }
            Slash::Decline | Slash::Forget { .. } if invited => orders.push(Order::Forget(conversation)),
            Slash::Block(None) if invited => {
                orders.extend(inviter.map(|who| Order::Block { who, blocked: true }));
            }
            Slash::Forget { sure: true } if ended => orders.push(Order::Forget(conversation)),
            Slash::Forget { sure: false } if ended => {
                self.tell(format!("forget {title} with its history? Type /forget yes"));
            }
            Slash::Forget { .. } => self.complain("you are still in it: /leave first"),
            Slash::Block(None) => self.complain("/block whom? Say it: /block HANDLE"),
            Slash::Accept { .. } | Slash::Decline => {
                // Nobody answers what they have not seen.
                match self.conversations.iter().find(|known| name::is_invitation(known)).map(|known| known.id)
                {
                    Some(id) => {
                        self.select(id, orders);
                        self.tell("this is the invitation that waits: /accept joins, /decline forgets it");
                    }
                    None => self.complain("there is no invitation that waits"),
                }
            }
            _ => {}
        }
    }

    /// Puts a sign beside an entry, or takes it back.
    fn react(&mut self, emoji: String, conversation: ConversationId, orders: &mut Vec<Order>) {
        match self.to_react_to(emoji.is_empty()).and_then(Entry::target) {
            Some(target) => {
                self.chosen = None;
                orders.push(Order::React { conversation, target, emoji });
            }
            None if emoji.is_empty() => {
                self.complain("you have no reaction here to take back: /react 👍 puts one")
            }
            None => self.complain("there is no message yet to react to"),
        }
    }

    /// The safety number of the only other member, or a mark on it.
    fn verify_the_other(&mut self, mark: Option<bool>, orders: &mut Vec<Order>) {
        let others = self.current().map(|current| name::others(current, &self.me)).unwrap_or_default();
        match (&others[..], mark) {
            ([only], Some(verified)) => {
                orders.push(Order::Verify { who: only.person.to_string(), verified });
            }
            ([only], None) => orders.push(Order::ShowSafetyNumber(only.person.to_string())),
            _ => self.complain(format!("/verify whom? {}", name::handles(others))),
        }
    }

    /// Commands that are about the open conversation.
    fn obey_here(&mut self, command: Slash, conversation: ConversationId, orders: &mut Vec<Order>) {
        let is_about_members = matches!(
            command,
            Slash::Add(_)
                | Slash::Remove(_)
                | Slash::Leave { .. }
                | Slash::Move { .. }
                | Slash::Members
                | Slash::React(_)
                | Slash::Archive(_)
        );
        if is_about_members && self.current().is_some_and(name::is_invitation) {
            return self.complain(ANSWER_FIRST);
        }
        match command {
            Slash::Add(members) => {
                if let Some(Err(problem)) =
                    self.current().map(|current| name::none_is_member(&members, current))
                {
                    return self.complain(problem.message());
                }
                self.tell("adding…");
                orders.push(Order::Add { conversation, members });
            }
            Slash::Remove(handle) => {
                self.tell(format!("removing {handle}…"));
                orders.push(Order::Remove { conversation, handle });
            }
            Slash::Leave { sure: true } => {
                self.tell("leaving…");
                orders.push(Order::Leave(conversation));
            }
            Slash::Leave { sure: false } => {
                let title = self.current().map(|current| self.title(current)).unwrap_or_default();
                self.tell(format!("leave {title}? Type /leave yes"));
            }
            Slash::Move { sure: true } => {
                self.tell("moving…");
                orders.push(Order::Move(conversation));
            }
            Slash::Move { sure: false } => {
                let relay = invitation::relay_name(&self.relay);
                self.tell(format!("let it go on at {relay}, for everybody in it? Type /move yes"));
            }
            Slash::Archive(archived) => {
                self.tell(match archived {
                    true => "put away: /archived shows it, and what is new brings it back",
                    false => "it is listed again",
                });
                orders.push(Order::Archive { conversation, archived });
            }
            Slash::Members => orders.push(Order::ShowMembers(conversation)),
            Slash::Verify(None) => self.verify_the_other(None, orders),
            Slash::Mark { who: None, verified } => self.verify_the_other(Some(verified), orders),
            Slash::React(emoji) => self.react(emoji, conversation, orders),
            Slash::Accept { .. } | Slash::Decline | Slash::Forget { .. } | Slash::Block(None) => {
                self.answer(&command, conversation, orders);
            }
            Slash::New { .. }
            | Slash::Verify(Some(_))
            | Slash::Mark { .. }
            | Slash::Block(Some(_))
            | Slash::Unblock(_)
            | Slash::People
            | Slash::ShowArchived
            | Slash::Card
            | Slash::Help
            | Slash::Quit => {}
        }
    }

    fn help(&mut self) {
        let row = |(left, right): &(&str, &str)| format!("{left:<24} {right}");
        let mut lines: Vec<String> = KEYS.iter().map(row).collect();
        lines.push(String::new());
        lines.extend(slash::COMMANDS.iter().map(row));
        lines.push(String::new());
        lines.push("… queued   ✓ on the relay   ✓✓ on the others' devices   read".to_owned());
        self.open(Popup::of_text("Help", lines));
    }

    fn card(&mut self) {
        let picture = qr::lines(&self.link).unwrap_or_default();
        let lines = vec![self.link.clone()];
        self.open(Popup { title: "My contact link".to_owned(), lines, picture });
    }
}
