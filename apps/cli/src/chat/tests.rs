//! The chat's state and screen, without terminal and client.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use posthorn_client::conversation::{
    Body, Cause, ConversationId, ConversationState, Entry, EntryState, Notice, Suspension, Unreadable,
};
use posthorn_client::engine::{Account, ConversationSummary, Event, SyncState, Waiting};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::app::{App, Connection, PAGE};
use super::exchange::{Happening, Order, Popup};
use super::view;
use crate::name::tests::{begun_offline, conversation, id_of, invitation};
use crate::output::tests::{entry, named, reacted, text};

const NOW: u64 = 1_795_392_180_000;

fn app() -> App {
    let account = json!({"handle": "ann", "relay": "ws://127.0.0.1:4100", "person": id_of("ann"),
        "device": "aibaeaqcaibaeaqcaibaeaqcai", "link": "posthorn+ws://ann@127.0.0.1:4100/?k=abc", "registered": true});
    let account: Account = serde_json::from_value(account).expect("an account");
    App::new(&account, TimeZone::UTC, NOW, None)
}

/// The sync's state, as the engine tells it: connected and caught up, and what the relay makes it wait for.
fn state(waiting: Option<Waiting>) -> Happening {
    let state = json!({"connected": true, "caught_up": true, "outbox": 0, "intents": 0, "registered": true,
        "waiting": waiting, "unreachable": []});
    Happening::State(serde_json::from_value::<SyncState>(state).expect("a state"))
}

fn online() -> Happening {
    state(None)
}

/// Draws, as the driver does after everything that happens.
fn draw(app: &mut App, width: u16, height: u16) -> (String, Vec<Order>) {
    let text = shown(app, width, height);
    (text, app.on(Happening::Drawn))
}

fn press(app: &mut App, code: KeyCode, modifiers: KeyModifiers) -> Vec<Order> {
    app.on(Happening::Key(KeyEvent::new(code, modifiers)))
}

fn key(app: &mut App, code: KeyCode) -> Vec<Order> {
    press(app, code, KeyModifiers::NONE)
}

fn type_in(app: &mut App, text: &str) {
    for c in text.chars() {
        assert!(key(app, KeyCode::Char(c)).iter().all(|order| *order == Order::Redraw));
    }
}

fn enter(app: &mut App, text: &str) -> Vec<Order> {
    type_in(app, text);
    key(app, KeyCode::Enter)
}

fn in_conversation(byte: u8, mut entry: Entry) -> Entry {
    entry.conversation = ConversationId([byte; 16]);
    entry
}

fn said(byte: u8, row: u64, sender: &str, words: &str, state: EntryState) -> Entry {
    in_conversation(byte, entry(row, sender, text(words), state))
}

fn new(entry: Entry) -> Happening {
    Happening::Client(Event::Entry(Box::new(entry)))
}

fn changed(entry: Entry) -> Happening {
    Happening::Client(Event::Changed(Box::new(entry)))
}

fn read(byte: u8, up_to: u64) -> Order {
    Order::MarkRead { conversation: ConversationId([byte; 16]), up_to }
}

fn screen(app: &mut App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test terminal");
    terminal.draw(|frame| view::draw(frame, app)).expect("drawing into memory");
    terminal
}

fn shown(app: &mut App, width: u16, height: u16) -> String {
    screen(app, width, height).backend().to_string()
}

/// Two conversations, the first open and with a history of every kind of entry.
fn busy() -> App {
    let mut app = app();
    let mut family = conversation(7, "Família 👩‍👩‍👧", &["ann", "bob", "cleo"]);
    (family.unread, family.first_unread) = (2, Some(6));
    family.last = Some(said(7, 7, "cleo", "Bis später!", EntryState::Received));
    let mut bob = conversation(8, "", &["ann", "bob"]);
    bob.unread = 3;
    bob.last = Some(said(8, 1, "bob", "did you see\nthis?", EntryState::Received));
    app.on(online());
    let orders = app.on(Happening::Conversations(vec![family, bob]));
    assert_eq!(
        orders,
        [Order::Redraw, Order::LoadHistory { conversation: ConversationId([7; 16]), before: None }]
    );
    let notice = Body::Notice(Notice::Added { by: named("ann"), who: vec![named("cleo")] });
    let run = Unreadable { cause: Cause::MessageUnreadable, count: 1, to: 5 };
    let orders = app.on(Happening::History {
        conversation: ConversationId([7; 16]),
        before: None,
        entries: vec![
            in_conversation(7, entry(1, "ann", notice, EntryState::Sent)),
            said(7, 2, "ann", "Hallo zusammen 😀 日本語", EntryState::Read),
            said(
                7,
                3,
                "ann",
                "a text that is long enough to need more than one row of the window that it is shown in",
                EntryState::Delivered,
            ),
            said(7, 4, "bob", "one\ntwo", EntryState::Received),
            in_conversation(7, entry(5, "", Body::Unreadable(run), EntryState::Received)),
            said(7, 6, "cleo", "\u{1b}[31mred?", EntryState::Received),
            said(7, 7, "cleo", "Bis später!", EntryState::Received),
        ],
    });
    assert_eq!(orders, [], "nothing is read before it is shown");
    assert_eq!(draw(&mut app, 90, 24).1, [read(7, 7)], "what is looked at is read");
    app
}

#[test]
fn an_empty_screen_says_how_to_begin() {
    insta::assert_snapshot!(shown(&mut app(), 80, 12));
}

#[test]
fn a_busy_screen() {
    let mut app = busy();
    app.on(new(said(7, 8, "ann", "on its way", EntryState::Queued)));
    insta::assert_snapshot!(shown(&mut app, 90, 24));
}

#[test]
fn trouble_is_seen() {
    let mut app = busy();
    app.on(Happening::Client(Event::Disconnected { reason: "refused".into(), retry_in_ms: 3_500 }));
    let alarm = Event::Alarm {
        conversation: Some(ConversationId([8; 16])),
        cause: Cause::ChainMismatch,
        seq: Some(4),
        text: "the relay showed different histories".into(),
    };
    app.on(Happening::Client(alarm));
    app.on(Happening::Problem("bob cannot be added: no such account".into()));
    insta::assert_snapshot!(shown(&mut app, 90, 16));
    key(&mut app, KeyCode::Esc);
    assert!(app.note.is_none() && !app.alarms.is_empty(), "the nearest first");
    key(&mut app, KeyCode::Esc);
    assert!(app.alarms.is_empty());
}

#[test]
fn several_invitations_of_one_person_are_told_apart() {
    let mut app = app();
    let invited = |byte: u8, row: u64| {
        let notice = Body::Notice(Notice::Invited { by: named("bob") });
        let mut invited = invitation(byte, "bob", "ws://127.0.0.1:4100");
        invited.last = Some(in_conversation(byte, entry(row, "", notice, EntryState::Received)));
        invited.unread = 1;
        invited
    };
    app.on(Happening::Conversations(vec![invited(8, 9), invited(9, 4)]));
    let (screen, _) = draw(&mut app, 90, 16);
    assert!(screen.contains("invites you, 00:12") && screen.contains("invites you, 00:07"), "{screen}");
}

#[test]
fn what_is_begun_offline_is_named_after_whom_it_is_with() {
    let mut app = app();
    app.on(Happening::Conversations(vec![begun_offline(9, "eve")]));
    let (screen, _) = draw(&mut app, 80, 12);
    assert!(
        !screen.contains("only you") && screen.contains(" eve · being made… · inviting eve "),
        "{screen}"
    );
    assert_eq!(enter(&mut app, "/new eve"), [], "it is there already");
    assert!(app.note.is_some_and(|note| note.text.contains("this is your conversation with eve")));
}

#[test]
fn narrow_and_tiny_screens_do_not_panic() {
    let mut app = busy();
    insta::assert_snapshot!(shown(&mut app, 40, 14));
    key(&mut app, KeyCode::F(1));
    for (width, height) in [(1, 1), (2, 2), (5, 3), (10, 4), (64, 2), (200, 60)] {
        screen(&mut app, width, height);
    }
    app.on(Happening::Paste("wide 日本語 ".repeat(80)));
    key(&mut app, KeyCode::Esc);
    for (width, height) in [(1, 1), (3, 2), (7, 5), (64, 6), (300, 100)] {
        screen(&mut app, width, height);
    }
}

#[test]
fn help_lists_keys_and_commands() {
    let mut app = busy();
    assert_eq!(enter(&mut app, "/help"), []);
    insta::assert_snapshot!(shown(&mut app, 100, 28));
    key(&mut app, KeyCode::Char('x'));
    assert_eq!(app.popup, None, "any key closes");
    assert!(app.editor().is_empty(), "and is not typed");
}

#[test]
fn what_is_typed_is_sent_and_comes_back_if_it_was_not() {
    let mut app = busy();
    let conversation = ConversationId([7; 16]);
    app.on(Happening::Paste("two\r\nlines".into()));
    press(&mut app, KeyCode::Enter, KeyModifiers::ALT);
    type_in(&mut app, "three");
    let text = "two\nlines\nthree".to_owned();
    assert_eq!(key(&mut app, KeyCode::Enter), [Order::Send { conversation, text: text.clone() }]);
    assert!(app.editor().is_empty());
    app.on(Happening::NotSent { conversation, text: text.clone(), problem: "too long".into() });
    assert_eq!(app.editor().text(), text);
    assert!(app.note.as_ref().is_some_and(|note| note.is_problem));
    app.editor().set("");
    assert_eq!(enter(&mut app, "//etc"), [Order::Send { conversation, text: "/etc".into() }]);
    assert_eq!(enter(&mut app, "   "), [], "nothing is not sent");
}

#[test]
fn drafts_stay_with_their_conversation() {
    let mut app = busy();
    type_in(&mut app, "for the family");
    let orders = key(&mut app, KeyCode::Tab);
    let load = Order::LoadHistory { conversation: ConversationId([8; 16]), before: None };
    assert_eq!(orders, [Order::Redraw, load], "nothing of the other one stays on the screen");
    assert!(app.editor().is_empty());
    key(&mut app, KeyCode::BackTab);
    assert_eq!(app.editor().text(), "for the family");
}

#[test]
fn commands_become_orders() {
    let mut app = busy();
    let conversation = ConversationId([7; 16]);
    assert_eq!(enter(&mut app, "/remove bob"), [Order::Remove { conversation, handle: "bob".into() }]);
    assert_eq!(enter(&mut app, "/leave"), [], "asks first");
    assert_eq!(enter(&mut app, "/leave yes"), [Order::Leave(conversation)]);
    assert_eq!(enter(&mut app, "/move"), [], "the others would follow");
    assert!(app.note.as_ref().is_some_and(|note| note.text.contains("/move yes")), "{:?}", app.note);
    assert_eq!(enter(&mut app, "/move yes"), [Order::Move(conversation)]);
    assert_eq!(enter(&mut app, "/members"), [Order::ShowMembers(conversation)]);
    assert_eq!(enter(&mut app, "/verify"), [], "three members: whom?");
    assert_eq!(enter(&mut app, "/verify bob"), [Order::ShowSafetyNumber("bob".into())]);
    assert!(
        matches!(&enter(&mut app, "/new dan --name Work")[..], [Order::Start { name, .. }] if name == "Work")
    );
    assert!(matches!(&enter(&mut app, "/add dan")[..], [Order::Add { .. }]));
    assert_eq!(enter(&mut app, "/add bob"), [], "a member");
    assert!(app.note.as_ref().is_some_and(|note| note.text.starts_with("bob is a member already")));
    let block = |who: &str, blocked| Order::Block { who: who.into(), blocked };
    assert_eq!(enter(&mut app, "/block bob"), [block("bob", true)]);
    assert_eq!(enter(&mut app, "/unblock @bob"), [block("bob", false)]);
    assert_eq!(enter(&mut app, "/people"), [Order::ShowPeople]);
    assert_eq!(enter(&mut app, "/accept"), [], "this is no invitation");
    assert_eq!(enter(&mut app, "/forget yes"), [], "one has to leave first");
    assert_eq!(enter(&mut app, "/quit"), [Order::Quit]);
    assert_eq!(enter(&mut app, "/nope"), []);
    assert_eq!(app.editor().text(), "/nope", "a mistake can be corrected");
}

#[test]
fn what_comes_while_nobody_looks_is_marked_as_new_and_not_as_read() {
    let mut app = busy();
    app.on(Happening::Focus(false));
    let orders = app.on(new(said(7, 8, "bob", "psst", EntryState::Received)));
    assert_eq!(orders, [Order::Ring, Order::LoadConversations]);
    app.on(new(said(7, 9, "bob", "hey", EntryState::Received)));
    assert_eq!(
        app.history().and_then(|history| history.new_from),
        Some((1, 8, 8)),
        "what was read is not new any more"
    );
    let mut list = app.conversations.clone();
    (list[0].unread, list[0].first_unread) = (2, Some(8));
    assert_eq!(app.on(Happening::Conversations(list)), []);
    assert_eq!(draw(&mut app, 80, 24).1, []);
    assert_eq!(app.on(Happening::Focus(true)), []);
    assert_eq!(draw(&mut app, 80, 24).1, [read(7, 9)]);
    app.on(new(said(7, 10, "ann", "yes?", EntryState::Queued)));
    assert_eq!(app.history().and_then(|history| history.new_from), None, "who answers has seen it");
}

#[test]
fn the_bell_rings_for_who_looks_elsewhere_and_not_for_each_of_many() {
    let mut app = busy();
    let rings = |app: &mut App, entry| app.on(new(entry)).contains(&Order::Ring);
    assert!(!rings(&mut app, said(8, 2, "bob", "hi", EntryState::Received)), "somebody looks");
    app.on(Happening::Focus(false));
    assert!(!rings(&mut app, said(8, 3, "ann", "by another command", EntryState::Sent)));
    assert!(rings(&mut app, said(8, 4, "bob", "hi", EntryState::Received)));
    assert!(!rings(&mut app, said(8, 5, "bob", "hi again", EntryState::Received)));
    app.on(Happening::Time(NOW + 2_000));
    assert!(rings(&mut app, said(7, 8, "cleo", "and here", EntryState::Received)));
    assert_eq!(app.unread(), 3, "as the list says");
}

#[test]
fn who_is_verified_is_marked_where_no_name_can_be() {
    let mut app = app();
    let mut list = vec![conversation(8, "", &["ann", "bob"])];
    app.on(Happening::Conversations(list.clone()));
    assert!(!shown(&mut app, 60, 12).contains("verified"));
    list[0].members[1].verified = true;
    app.on(Happening::Conversations(list.clone()));
    assert!(shown(&mut app, 60, 12).contains(" ✓ verified "));
    list[0] =
        conversation(8, "Trip with a name that is very long and says ✓ verified", &["ann", "bob", "cleo"]);
    list[0].members[1].verified = true;
    app.on(Happening::Conversations(list));
    let screen = shown(&mut app, 60, 12);
    assert!(screen.contains(" ✓ 1 of 2 verified ") && !screen.contains(" ✓ verified "), "{screen}");
    let verify = Order::Verify { who: "bob".into(), verified: true };
    assert_eq!(enter(&mut app, "/verify bob --mark"), [verify]);
}

#[test]
fn what_is_put_away_leaves_the_list_and_comes_back() {
    let mut app = app();
    let id = |byte: u8| ConversationId([byte; 16]);
    let mut list = vec![conversation(7, "Trip", &["ann", "cleo"]), conversation(8, "", &["ann", "bob"])];
    app.on(Happening::Conversations(list.clone()));
    assert_eq!(enter(&mut app, "/archive"), [Order::Archive { conversation: id(7), archived: true }]);
    type_in(&mut app, "a draft");
    list[0].archived = true;
    app.on(Happening::Conversations(list.clone()));
    assert_eq!(app.selected, Some(id(8)), "what stood beside it is opened");
    assert!(!shown(&mut app, 80, 12).contains("Trip"));
    assert_eq!(enter(&mut app, "/archived"), [Order::LoadConversations]);
    app.on(Happening::Conversations(list.clone()));
    let screen = shown(&mut app, 80, 12);
    assert!(screen.contains("Trip") && screen.contains("[put away]"), "{screen}");
    assert_eq!(enter(&mut app, "/archived"), [Order::LoadConversations]);
    app.on(Happening::Conversations(list.clone()));
    // Whoever begins it again has it back.
    let orders = app.on(Happening::Started(id(7)));
    assert!(orders.contains(&Order::Archive { conversation: id(7), archived: false }), "{orders:?}");
    list[0].archived = false;
    app.on(Happening::Conversations(list));
    assert_eq!(app.selected, Some(id(7)));
    assert_eq!(app.editor().text(), "a draft", "what was written there is kept");
}

#[test]
fn a_message_is_copied_as_it_is_shown() {
    let mut app = busy();
    let copied = |app: &mut App| press(app, KeyCode::Char('y'), KeyModifiers::CONTROL);
    assert_eq!(copied(&mut app), [Order::Copy("Bis später!".to_owned())]);
    press(&mut app, KeyCode::Up, KeyModifiers::CONTROL);
    press(&mut app, KeyCode::Up, KeyModifiers::CONTROL);
    assert_eq!(copied(&mut app), [Order::Copy("␛[31mred?".to_owned())]);
}

#[test]
fn a_message_is_shown_once_and_its_mark_follows() {
    let mut app = busy();
    let queued = said(7, 9, "ann", "once", EntryState::Queued);
    app.on(new(queued.clone()));
    app.on(new(queued.clone()));
    let state = |app: &App| -> Vec<EntryState> {
        let history = app.history().expect("loaded");
        history.entries.iter().filter(|entry| entry.row == 9).map(|entry| entry.state).collect()
    };
    assert_eq!(state(&app), [EntryState::Queued]);
    // Another one is on the relay before it.
    app.on(new(said(7, 10, "bob", "first", EntryState::Received)));
    let rows = |app: &App| -> Vec<u64> {
        app.history().expect("loaded").entries.iter().map(|entry| entry.row).rev().take(2).collect()
    };
    assert_eq!(rows(&app), [9, 10], "what is queued stands behind everything");
    let mut sent = queued;
    (sent.state, sent.place, sent.seq) = (EntryState::Delivered, Some(1), Some(12));
    app.on(changed(sent.clone()));
    assert_eq!(state(&app), [EntryState::Delivered]);
    app.on(new(said(7, 13, "bob", "then", EntryState::Received)));
    assert_eq!(rows(&app), [13, 9], "where the relay put it");
    sent.state = EntryState::Failed(Cause::Left);
    app.on(changed(sent));
    assert!(app.note.as_ref().is_some_and(|note| note.text == "a message was not sent (LEFT)"));
}

#[test]
fn scrolling_loads_what_is_older_and_holds_still() {
    let mut app = busy();
    let conversation = ConversationId([7; 16]);
    let page = |from: u64| {
        (from..from + PAGE as u64).map(|row| said(7, row, "bob", "x", EntryState::Received)).collect()
    };
    app.on(Happening::History { conversation, before: None, entries: page(1000) });
    screen(&mut app, 80, 24);
    let mut orders = Vec::new();
    for _ in 0..12 {
        orders.extend(key(&mut app, KeyCode::PageUp));
        screen(&mut app, 80, 24);
    }
    assert_eq!(orders, [Order::LoadHistory { conversation, before: Some(1000) }], "asked for once");
    app.on(Happening::History { conversation, before: Some(1000), entries: page(900) });
    assert_eq!(app.history().map(|history| history.entries.len()), Some(2 * PAGE));
    screen(&mut app, 80, 24);
    let (scroll, total) = (app.scroll, app.geometry.total);
    app.on(new(said(7, 2000, "bob", "new", EntryState::Received)));
    screen(&mut app, 80, 24);
    assert_eq!(app.scroll - scroll, app.geometry.total - total, "the window stands still");
    assert!(app.history().is_some_and(|history| history.new_from.is_some()));
    key(&mut app, KeyCode::Esc);
    assert_eq!(app.scroll, 0);
}

#[test]
fn the_state_of_the_connection_is_told() {
    let mut app = app();
    assert_eq!(app.on(Happening::Client(Event::Connected)), [Order::AskOnline]);
    app.on(online());
    assert_eq!(app.connection, Connection::Online);
    app.on(Happening::Client(Event::Disconnected { reason: "gone".into(), retry_in_ms: 2_000 }));
    assert!(shown(&mut app, 80, 8).contains("○ offline (gone), retry in 2 s"));
    assert_eq!(app.on(Happening::Time(NOW + 1_500)), [Order::AskOnline], "until it is up");
    assert!(shown(&mut app, 80, 8).contains("retry in 1 s"));
    let reason = "Connection refused".into();
    app.on(Happening::Client(Event::Disconnected { reason, retry_in_ms: 12_000 }));
    let header = shown(&mut app, 80, 8);
    assert!(
        header.contains("ann at 127.0.0.1:4100 ")
            && header.contains("○ offline (connection refused), retry in 12 s")
    );
    app.on(Happening::State(SyncState::default()));
    assert!(matches!(app.connection, Connection::Offline { .. }), "not up yet");
}

#[test]
fn being_removed_is_news_and_no_alarm() {
    let mut app = busy();
    let conversation = Some(ConversationId([8; 16]));
    let orders = app.on(Happening::Client(Event::Alarm {
        conversation,
        cause: Cause::Evicted,
        seq: None,
        text: String::new(),
    }));
    assert_eq!(orders, [Order::LoadConversations]);
    assert!(app.alarms.is_empty());
    assert!(app.note.as_ref().is_some_and(|note| note.text == "you were removed in bob" && !note.is_problem));
}

#[test]
fn what_was_typed_before_the_first_conversation_is_kept() {
    let mut app = app();
    type_in(&mut app, "hello");
    let list: Vec<ConversationSummary> = vec![conversation(8, "", &["ann", "bob"])];
    app.on(Happening::Conversations(list));
    assert_eq!(app.editor().text(), "hello");
}

#[test]
fn a_started_conversation_is_opened() {
    let mut app = busy();
    let id = ConversationId([9; 16]);
    let orders = app.on(Happening::Started(id));
    assert_eq!(
        orders,
        [Order::LoadConversations, Order::Redraw, Order::LoadHistory { conversation: id, before: None }]
    );
    assert_eq!(app.selected, Some(id));
}

#[test]
fn a_popup_stands_over_everything() {
    let mut app = busy();
    let lines = vec!["12345  67890".to_owned()];
    app.on(Happening::Show(Popup::of_text("Safety number", lines)));
    assert!(shown(&mut app, 80, 20).contains("12345  67890"));
    assert_eq!(
        press(&mut app, KeyCode::Char('c'), KeyModifiers::CONTROL),
        [Order::Quit],
        "ctrl-c always works"
    );
}

/// A conversation that is opened with so many of its entries unread.
fn coming_back(entries: u64, unread: u64) -> App {
    let mut app = app();
    let mut bob = conversation(8, "", &["ann", "bob"]);
    (bob.unread, bob.first_unread) = (unread, (unread > 0).then_some(entries + 1 - unread));
    app.on(Happening::Conversations(vec![bob]));
    let messages =
        (1..=entries).map(|row| said(8, row, "bob", &format!("line {row}"), EntryState::Received)).collect();
    app.on(Happening::History { conversation: ConversationId([8; 16]), before: None, entries: messages });
    app
}

#[test]
fn who_comes_back_sees_where_the_new_ones_begin() {
    let mut app = coming_back(60, 40);
    app.on(online());
    let (text, orders) = draw(&mut app, 80, 24);
    let rows: Vec<&str> = text.lines().collect();
    assert!(rows[2].contains("─ new ─"), "the window begins there: {text}");
    assert!(rows[3].contains("line 21"), "{text}");
    assert_eq!(orders, [], "the end was not on the screen");
    assert!(!app.conversations.is_empty() && app.conversations[0].unread == 40);
    key(&mut app, KeyCode::PageDown);
    assert_eq!(draw(&mut app, 80, 24).1, []);
    key(&mut app, KeyCode::PageDown);
    let (text, orders) = draw(&mut app, 80, 24);
    assert!(text.contains("line 60"), "{text}");
    assert_eq!(orders, [read(8, 60)]);
}

#[test]
fn what_the_relay_kept_is_new_although_somebody_looks() {
    let mut app = coming_back(3, 0);
    draw(&mut app, 80, 24);
    let kept = |row: u64| said(8, row, "bob", &format!("kept {row}"), EntryState::Received);
    for row in 4..40 {
        app.on(new(kept(row)));
        draw(&mut app, 80, 24);
    }
    let mut list = app.conversations.clone();
    (list[0].unread, list[0].first_unread) = (36, Some(4));
    app.on(Happening::Conversations(list));
    app.on(online());
    let (text, orders) = draw(&mut app, 80, 24);
    let rows: Vec<&str> = text.lines().collect();
    assert!(rows[2].contains("─ new ─") && rows[3].contains("kept 4"), "{text}");
    assert_eq!(orders, []);
    key(&mut app, KeyCode::Esc);
    assert_eq!(draw(&mut app, 80, 24).1, [read(8, 39)]);
    app.on(new(kept(40)));
    let (text, _) = draw(&mut app, 80, 24);
    assert!(text.contains("kept 40"), "from now on the window follows: {text}");
}

#[test]
fn messages_of_one_sender_do_not_run_together() {
    let mut app = app();
    app.on(Happening::Conversations(vec![conversation(8, "", &["ann", "bob"])]));
    let messages = (1..=3)
        .map(|row| {
            let mut part = said(8, row, "bob", &format!("part {row}"), EntryState::Received);
            part.sent_at = NOW;
            part
        })
        .collect();
    app.on(Happening::History { conversation: ConversationId([8; 16]), before: None, entries: messages });
    let text = shown(&mut app, 80, 24);
    assert_eq!(text.matches("00:03 bob  part 1").count(), 1, "{text}");
    assert_eq!(text.matches("00:03      part").count(), 2, "{text}");
}

#[test]
fn the_help_and_the_qr_code_fit_on_the_smallest_common_screen() {
    let mut app = busy();
    app.link = format!("posthorn+ws://ann@127.0.0.1:4100/?k={}", "a".repeat(52));
    enter(&mut app, "/card");
    let text = shown(&mut app, 80, 24);
    let code = crate::qr::lines(&app.link).expect("a code");
    assert!(code.iter().all(|row| text.contains(row.trim_end())), "{text}");
    key(&mut app, KeyCode::End);
    let text = shown(&mut app, 80, 24);
    assert!(text.contains("posthorn+ws://ann@"), "the link is below: {text}");
    key(&mut app, KeyCode::Esc);
    key(&mut app, KeyCode::F(1));
    insta::assert_snapshot!(shown(&mut app, 80, 24));
}

#[test]
fn a_qr_code_that_does_not_fit_is_not_shown_in_pieces() {
    let mut app = busy();
    app.link = format!("posthorn+ws://ann@127.0.0.1:4100/?k={}", "a".repeat(52));
    enter(&mut app, "/card");
    for (width, height) in [(40, 10), (80, 15)] {
        let text = shown(&mut app, width, height);
        assert!(text.contains("QR code needs") && !text.contains('▀'), "{text}");
        assert!(text.contains("posthorn+ws://ann@"), "the link is there: {text}");
    }
}

#[test]
fn the_smallest_window_has_an_input() {
    let mut app = busy();
    type_in(&mut app, "hello");
    for height in [3, 5, 6, 10] {
        let text = shown(&mut app, 20, height);
        assert!(text.contains("> hello"), "{height} rows: {text}");
    }
}

#[test]
fn a_popup_that_is_longer_than_the_screen_scrolls() {
    let mut app = busy();
    let lines = (0..30).map(|row| format!("row {row};")).collect();
    app.on(Happening::Show(Popup::of_text("Members", lines)));
    let text = shown(&mut app, 80, 24);
    assert!(text.contains("row 0;") && text.contains("scroll") && !text.contains("row 29;"), "{text}");
    key(&mut app, KeyCode::End);
    assert!(shown(&mut app, 80, 24).contains("row 29;"));
    key(&mut app, KeyCode::Up);
    key(&mut app, KeyCode::PageUp);
    assert!(shown(&mut app, 80, 24).contains("row 0;"));
    key(&mut app, KeyCode::Char('x'));
    assert_eq!(app.popup, None);
}

#[test]
fn the_way_down_covers_no_text_and_a_resize_draws_everything_anew() {
    let mut app = coming_back(60, 0);
    screen(&mut app, 80, 24);
    key(&mut app, KeyCode::PageUp);
    let text = shown(&mut app, 80, 24);
    let row = text.lines().find(|row| row.contains("more rows")).expect("told");
    assert!(row.contains("───") && !row.contains("line"), "{text}");
    assert_eq!(app.on(Happening::Resize), [Order::Redraw]);
}

#[test]
fn flags_and_families_are_counted_as_terminals_show_them() {
    use unicode_width::UnicodeWidthStr as _;
    for sign in ["🇩🇪", "👩‍👩‍👧", "👍🏽", "❤️", "日"] {
        assert_eq!(sign.width(), 2, "{sign}");
        let mut app = app();
        app.on(Happening::Conversations(vec![conversation(8, "", &["ann", "bob"])]));
        let messages = vec![said(8, 1, "bob", &format!("a{sign}b"), EntryState::Received)];
        app.on(Happening::History { conversation: ConversationId([8; 16]), before: None, entries: messages });
        let terminal = screen(&mut app, 80, 24);
        let cells: Vec<&str> =
            terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
        let at = cells.iter().position(|cell| *cell == sign).expect("in one cell");
        assert_eq!((cells[at - 1], cells[at + 2]), ("a", "b"), "{sign}");
    }
}

#[test]
fn new_with_somebody_opens_the_conversation_that_there_is() {
    let mut app = busy();
    let orders = enter(&mut app, "/new bob");
    let load = Order::LoadHistory { conversation: ConversationId([8; 16]), before: None };
    assert_eq!(orders, [Order::Redraw, load]);
    assert_eq!(app.selected, Some(ConversationId([8; 16])));
    assert!(app.note.as_ref().is_some_and(|note| note.text.contains("/new bob --again")));
    for another in ["/new bob --again", "/new bob --name Work", "/new bob cleo"] {
        assert!(matches!(&enter(&mut app, another)[..], [Order::Start { .. }]), "{another}");
    }
}

#[test]
fn flags_that_move_leave_no_pieces() {
    let mut app = coming_back(60, 0);
    screen(&mut app, 80, 24);
    assert_eq!(key(&mut app, KeyCode::PageUp), [], "nothing doubtful, nothing flickers");
    let flag = said(8, 61, "bob", "flag 🇩🇪", EntryState::Received);
    assert!(app.on(new(flag)).contains(&Order::Redraw));
    screen(&mut app, 80, 24);
    assert_eq!(key(&mut app, KeyCode::Down), [Order::Redraw]);
    assert_eq!(key(&mut app, KeyCode::F(1)), [Order::Redraw]);
    assert_eq!(key(&mut app, KeyCode::Esc), [Order::Redraw]);
    assert_eq!(key(&mut app, KeyCode::Char('x')), []);
    // The input grows by a row, and everything above it goes up.
    draw(&mut app, 80, 24);
    press(&mut app, KeyCode::Enter, KeyModifiers::ALT);
    assert!(draw(&mut app, 80, 24).1.contains(&Order::Redraw));
    assert!(!draw(&mut app, 80, 24).1.contains(&Order::Redraw), "once");
}

/// An invitation stands in the list, alone, and is opened.
fn invited(relay: &str) -> App {
    let mut app = app();
    app.on(online());
    let mut bob = invitation(9, "bob", relay);
    (bob.unread, bob.first_unread) = (1, Some(1));
    app.on(Happening::Conversations(vec![bob]));
    let notice = entry(1, "", Body::Notice(Notice::Invited { by: named("bob") }), EntryState::Received);
    let conversation = ConversationId([9; 16]);
    app.on(Happening::History { conversation, before: None, entries: vec![in_conversation(9, notice)] });
    app
}

#[test]
fn an_invitation_says_who_invites_and_how_to_answer() {
    let mut app = invited("ws://127.0.0.1:4100");
    let (text, orders) = draw(&mut app, 90, 16);
    insta::assert_snapshot!(text);
    assert_eq!(orders, [read(9, 1)], "it was seen; nobody is told");
    let conversation = ConversationId([9; 16]);
    assert_eq!(enter(&mut app, "hello"), [], "nothing is said before it is answered");
    assert_eq!(app.editor().text(), "hello");
    app.editor().set("");
    assert_eq!(enter(&mut app, "/leave yes"), []);
    assert_eq!(enter(&mut app, "/react 👍"), []);
    assert!(app.note.as_ref().is_some_and(|note| note.text.contains("answer the invitation first")));
    assert_eq!(enter(&mut app, "/decline"), [Order::Forget(conversation)]);
    let who = id_of("bob").to_string();
    assert_eq!(enter(&mut app, "/block"), [Order::Block { who, blocked: true }]);
    assert_eq!(enter(&mut app, "/accept"), [Order::Accept { conversation, foreign_relay: false }]);
    let orders = app.on(Happening::Joined(conversation));
    let load = Order::LoadHistory { conversation, before: None };
    assert_eq!(orders, [Order::LoadConversations, Order::Redraw, load], "what was shown was the invitation");
    app.on(Happening::Conversations(vec![conversation_with_bob(9)]));
    assert!(shown(&mut app, 80, 12).contains("Write a message"));
}

fn conversation_with_bob(byte: u8) -> ConversationSummary {
    conversation(byte, "", &["ann", "bob"])
}

#[test]
fn an_invitation_to_another_relay_is_asked_about_twice() {
    let mut app = invited("wss://far.example");
    insta::assert_snapshot!(draw(&mut app, 90, 16).0);
    assert_eq!(enter(&mut app, "/accept"), []);
    assert!(
        app.note.as_ref().is_some_and(|note| note.text.contains("far.example, which you do not use yet"))
    );
    let conversation = ConversationId([9; 16]);
    assert_eq!(enter(&mut app, "/accept yes"), [Order::Accept { conversation, foreign_relay: true }]);
}

#[test]
fn an_invitation_that_comes_is_news_and_opens_by_new() {
    let mut app = busy();
    let conversation = ConversationId([9; 16]);
    let inviter = crate::name::tests::someone("dan");
    let relay = "ws://127.0.0.1:4100".to_owned();
    let event = Event::Invited { conversation, inviter, relay: relay.clone(), foreign_relay: false };
    assert_eq!(app.on(Happening::Client(event)), [Order::LoadConversations]);
    assert!(app.note.as_ref().is_some_and(|note| note.text.starts_with("dan invites you")));
    let mut list = app.conversations.clone();
    list.push(invitation(9, "dan", &relay));
    app.on(Happening::Conversations(list));
    assert!(shown(&mut app, 90, 24).contains("invites you  "), "it stands in the list");
    assert!(!enter(&mut app, "/accept").iter().any(|order| matches!(order, Order::Accept { .. })));
    assert_eq!(app.selected, Some(conversation), "it is shown before it is answered");
    key(&mut app, KeyCode::Tab);
    enter(&mut app, "/new dan");
    assert_eq!(app.selected, Some(conversation), "who is invited need not invite");
}

#[test]
fn what_was_forgotten_goes_away_and_what_stood_beside_it_is_opened() {
    let mut app = busy();
    key(&mut app, KeyCode::Tab);
    assert_eq!(app.selected, Some(ConversationId([8; 16])));
    type_in(&mut app, "a draft");
    let rest = vec![app.conversations[0].clone()];
    assert_eq!(app.on(Happening::Conversations(rest)), [Order::Redraw]);
    assert_eq!(app.selected, Some(ConversationId([7; 16])));
    assert!(app.editor().is_empty(), "its draft is gone with it");
    app.on(Happening::Conversations(Vec::new()));
    assert_eq!(app.selected, None);
    assert!(shown(&mut app, 80, 12).contains("No conversations yet"));
}

#[test]
fn reactions_stand_under_what_they_are_about() {
    let mut app = busy();
    let conversation = ConversationId([7; 16]);
    let target = |app: &App, row: u64| {
        let entries = &app.history().expect("loaded").entries;
        entries.iter().find(|entry| entry.row == row).and_then(Entry::target).expect("said")
    };
    let newest = target(&app, 7);
    let react = |target, emoji: &str| [Order::React { conversation, target, emoji: emoji.into() }];
    assert_eq!(enter(&mut app, "/react 👍"), react(newest, "👍"), "the newest of the others");
    assert_eq!(enter(&mut app, "/react"), [], "there is none to take back");
    let later = said(7, 7, "cleo", "Bis später!", EntryState::Received);
    app.on(changed(reacted(reacted(later, "ann", "👍"), "bob", "👍")));
    assert_eq!(enter(&mut app, "/react"), react(newest, ""));
    for _ in 0..3 {
        press(&mut app, KeyCode::Up, KeyModifiers::CONTROL);
    }
    assert_eq!(app.chosen, Some(4), "over what cannot be read, which nobody said");
    let four = said(7, 4, "bob", "one\ntwo", EntryState::Received);
    app.on(changed(reacted(four, "cleo", "❤️")));
    insta::assert_snapshot!(shown(&mut app, 90, 24));
    let fourth = target(&app, 4);
    assert_eq!(enter(&mut app, "/react <3"), react(fourth, "❤️"));
    assert_eq!(app.chosen, None);
    press(&mut app, KeyCode::Up, KeyModifiers::CONTROL);
    app.note = None;
    key(&mut app, KeyCode::Esc);
    assert_eq!(app.chosen, None);
}

#[test]
fn a_chosen_entry_is_scrolled_to() {
    let mut app = coming_back(60, 0);
    app.on(online());
    draw(&mut app, 80, 24);
    for _ in 0..40 {
        press(&mut app, KeyCode::Up, KeyModifiers::CONTROL);
        assert!(shown(&mut app, 80, 24).contains('▸'));
    }
    assert!(shown(&mut app, 80, 24).contains("line 21"));
    for _ in 0..40 {
        press(&mut app, KeyCode::Down, KeyModifiers::CONTROL);
    }
    assert_eq!((app.chosen, app.scroll), (None, 0), "back at the end");
}

#[test]
fn a_suspended_conversation_says_why_and_what_becomes_of_what_is_written() {
    let mut app = busy();
    let mut list = app.conversations.clone();
    let why = Suspension { cause: Cause::MailboxGone, since: NOW, seq: 7, chain: [0; 32], leaving: false };
    list[0].state = ConversationState::Suspended(why);
    app.on(Happening::Conversations(list));
    let text = shown(&mut app, 90, 24);
    assert!(text.contains("[suspended: MAILBOX_GONE]"), "{text}");
    assert!(text.contains("the relay no longer has it") && text.contains("is kept until it"), "{text}");
    assert!(matches!(&enter(&mut app, "later")[..], [Order::Send { .. }]));
    // Where waiting may not help, it says what does, as docs/causes.md.
    let mut list = app.conversations.clone();
    let cause = Cause::RelayChanged;
    list[0].state = ConversationState::Suspended(Suspension {
        cause,
        since: NOW,
        seq: 7,
        chain: [0; 32],
        leaving: false,
    });
    app.on(Happening::Conversations(list));
    let text = shown(&mut app, 90, 24);
    assert!(text.contains("start another: /new NAME") && text.contains("--again"), "{text}");
}

#[test]
fn a_conversation_that_moved_to_a_relay_that_is_not_used_says_what_to_type() {
    let mut app = busy();
    let mut list = app.conversations.clone();
    let why = Suspension { cause: Cause::ForeignRelay, since: NOW, seq: 0, chain: [0; 32], leaving: false };
    list[0].state = ConversationState::Suspended(why);
    list[0].relay = "wss://far.example".to_owned();
    let conversation = list[0].id;
    app.on(Happening::Conversations(list));
    for (width, height) in [(80, 24), (40, 10)] {
        let text = shown(&mut app, width, height);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("far.example") && text.contains("/accept yes"), "{text}");
    }
    assert_eq!(enter(&mut app, "/accept"), [], "not without a word");
    let note = app.note.as_ref().expect("what to type");
    assert!(note.text.starts_with("go on at far.example") && note.text.contains("/accept yes"), "{note:?}");
    let follow = Order::Accept { conversation, foreign_relay: true };
    assert_eq!(enter(&mut app, "/accept yes"), [follow]);
}

#[test]
fn what_the_relay_makes_us_wait_for_stands_above() {
    let mut app = busy();
    let waiting = json!({"code": "RATE_LIMITED", "text": "too many", "until": NOW + 12_000});
    let waiting: Waiting = serde_json::from_value(waiting).expect("a wait");
    app.on(Happening::Client(Event::Waiting(waiting.clone())));
    assert!(shown(&mut app, 90, 12).contains("● online, told to wait 12 s (RATE_LIMITED)"));
    assert_eq!(app.on(Happening::Time(NOW + 12_000)), [Order::AskOnline]);
    assert!(shown(&mut app, 90, 12).contains("● online "));
    app.on(state(Some(waiting)));
    assert!(app.waiting.is_some());
}

#[test]
fn a_relay_of_a_conversation_that_cannot_be_reached_is_told_while_it_is_so() {
    let mut app = busy();
    let mut list = app.conversations.clone();
    list[0].relay = "wss://far.example".to_owned();
    app.on(Happening::Conversations(list));
    let unreachable = json!([{"relay": "wss://far.example", "reason": "Connection refused"}]);
    let state = json!({"connected": true, "caught_up": true, "outbox": 0, "intents": 0, "registered": true,
        "waiting": null, "unreachable": unreachable});
    app.on(Happening::State(serde_json::from_value(state).expect("a state")));
    app.on(Happening::Time(NOW + 3_600_000));
    let told = "far.example cannot be reached";
    for (width, height) in [(80, 24), (40, 10)] {
        let screen = shown(&mut app, width, height);
        assert!(screen.contains(told) && screen.contains("● online"), "{screen}");
    }
    // So it is where somebody of there is being added.
    let mut list = app.conversations.clone();
    (list[0].relay, list[0].adding) = (app.relay.clone(), vec!["dora@far.example".to_owned()]);
    app.on(Happening::Conversations(list));
    assert!(shown(&mut app, 80, 24).contains(told));
    // It is no matter of the other conversation's.
    key(&mut app, KeyCode::Tab);
    assert!(!shown(&mut app, 80, 24).contains(told));
    key(&mut app, KeyCode::BackTab);
    app.on(online());
    assert!(!shown(&mut app, 80, 24).contains(told));
}

#[test]
fn what_answers_a_command_has_room_before_alarms() {
    let mut app = busy();
    for number in 1..=2 {
        let alarm = json!({"event": "alarm", "conversation": null, "cause": "GAP", "seq": null,
            "text": format!("a text of alarm {number} that needs more than one row of a small window")});
        app.on(Happening::Client(serde_json::from_value(alarm).expect("an alarm")));
    }
    let problem =
        "ws://10.0.0.1:9 is without TLS, and whoever is on the way there sees what a relay sees: say so";
    app.on(Happening::Problem(problem.to_owned()));
    let small = shown(&mut app, 40, 10);
    assert!(small.contains("say so") && small.contains("! GAP: a text of alarm 2"), "{small}");
    let large = shown(&mut app, 80, 24);
    for text in ["alarm 1", "alarm 2", "small window", "say so"] {
        assert!(large.contains(text), "{large}");
    }
}

#[test]
fn a_command_that_is_typed_outlives_the_conversation_that_was_open() {
    let mut app = busy();
    let list = app.conversations.clone();
    for (typed, kept) in [("/new do", "/new do"), ("a secret for one", "")] {
        let mut begun = list.clone();
        begun.insert(0, conversation(5, "", &["ann"]));
        app.on(Happening::Conversations(begun));
        app.on(Happening::Started(ConversationId([5; 16])));
        type_in(&mut app, typed);
        app.on(Happening::Conversations(list.clone()));
        assert_eq!(app.editor().text(), kept);
        app.editor().take();
    }
}

#[test]
fn an_invitation_is_read_from_its_beginning() {
    let mut app = invited("wss://far.example");
    for (width, height) in [(90, 24), (40, 10)] {
        assert!(draw(&mut app, width, height).0.contains("bob invites you"));
    }
    assert!(shown(&mut app, 40, 10).contains("more rows"));
    key(&mut app, KeyCode::Esc);
    assert!(shown(&mut app, 40, 10).contains("/block"));
}

#[test]
fn after_missed_events_everything_is_looked_at_again() {
    let mut app = busy();
    key(&mut app, KeyCode::Tab);
    let conversation = ConversationId([8; 16]);
    let orders = app.on(Happening::Client(Event::Missed { events: 7 }));
    let load = Order::LoadHistory { conversation, before: None };
    assert_eq!(orders, [Order::LoadConversations, Order::AskOnline, load]);
    assert!(!app.histories.contains_key(&ConversationId([7; 16])), "loaded when it is opened");
}
