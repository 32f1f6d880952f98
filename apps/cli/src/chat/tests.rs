//! The chat's state and screen, without terminal and client.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use posthorn_client::conversation::{Body, Cause, ConversationId, Message, MessageState, Notice};
use posthorn_client::sync::{Account, ConversationSummary, Event, SyncState};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::app::{App, Connection, PAGE};
use super::exchange::{Happening, Order, Popup};
use super::view;
use crate::name::tests::conversation;
use crate::output::tests::message;

const NOW: u64 = 1_795_392_180_000;

fn app() -> App {
    let account = Account {
        handle: "ann".into(),
        relay: "ws://127.0.0.1:4100".into(),
        identity_key: [1; 32],
        device: [2; 16],
        link: "posthorn+ws://ann@127.0.0.1:4100/?k=abc".into(),
        registered: true,
    };
    App::new(&account, TimeZone::UTC, NOW, None)
}

fn online() -> Happening {
    Happening::State(SyncState { connected: true, caught_up: true, registered: true, ..SyncState::default() })
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
        assert_eq!(key(app, KeyCode::Char(c)), []);
    }
}

fn enter(app: &mut App, text: &str) -> Vec<Order> {
    type_in(app, text);
    key(app, KeyCode::Enter)
}

fn in_conversation(byte: u8, mut entry: Message) -> Message {
    entry.conversation = ConversationId([byte; 16]);
    entry
}

fn said(byte: u8, row: u64, sender: &str, text: &str, state: MessageState) -> Message {
    in_conversation(byte, message(row, sender, Body::Text(text.into()), state))
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
    family.unread = 2;
    family.last = Some(said(7, 7, "cleo", "Bis später!", MessageState::Received));
    let mut bob = conversation(8, "", &["ann", "bob"]);
    bob.unread = 3;
    bob.last = Some(said(8, 1, "bob", "did you see\nthis?", MessageState::Received));
    app.on(online());
    let orders = app.on(Happening::Conversations(vec![family, bob]));
    assert_eq!(
        orders,
        [Order::Redraw, Order::LoadHistory { conversation: ConversationId([7; 16]), before: None }]
    );
    let notice = Body::Notice(Notice::Added { by: "ann".into(), who: vec!["cleo".into()] });
    let orders = app.on(Happening::History {
        conversation: ConversationId([7; 16]),
        before: None,
        messages: vec![
            in_conversation(7, message(1, "ann", notice, MessageState::Sent)),
            said(7, 2, "ann", "Hallo zusammen 😀 日本語", MessageState::Read),
            said(
                7,
                3,
                "ann",
                "a text that is long enough to need more than one row of the window that it is shown in",
                MessageState::Delivered,
            ),
            said(7, 4, "bob", "one\ntwo", MessageState::Received),
            in_conversation(
                7,
                message(5, "", Body::Unreadable(Cause::MessageUnreadable), MessageState::Received),
            ),
            said(7, 6, "cleo", "\u{1b}[31mred?", MessageState::Received),
            said(7, 7, "cleo", "Bis später!", MessageState::Received),
        ],
    });
    assert_eq!(orders, [], "nothing is read before it is shown");
    assert_eq!(
        draw(&mut app, 90, 24).1,
        [Order::MarkRead(ConversationId([7; 16]))],
        "what is looked at is read"
    );
    app
}

#[test]
fn an_empty_screen_says_how_to_begin() {
    insta::assert_snapshot!(shown(&mut app(), 80, 12));
}

#[test]
fn a_busy_screen() {
    let mut app = busy();
    app.on(Happening::Client(Event::Message(said(7, 8, "ann", "on its way", MessageState::Queued))));
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
    assert_eq!(enter(&mut app, "/members"), [Order::ShowMembers(conversation)]);
    assert_eq!(enter(&mut app, "/verify"), [], "three members: whom?");
    assert_eq!(enter(&mut app, "/verify bob"), [Order::ShowSafetyNumber("bob".into())]);
    assert!(
        matches!(&enter(&mut app, "/new dan --name Work")[..], [Order::Start { name, .. }] if name == "Work")
    );
    assert!(matches!(&enter(&mut app, "/add dan")[..], [Order::Add { .. }]));
    assert_eq!(enter(&mut app, "/add bob"), [], "a member");
    assert!(app.note.as_ref().is_some_and(|note| note.text.starts_with("bob is a member already")));
    assert_eq!(enter(&mut app, "/quit"), [Order::Quit]);
    assert_eq!(enter(&mut app, "/nope"), []);
    assert_eq!(app.editor().text(), "/nope", "a mistake can be corrected");
}

#[test]
fn what_comes_while_nobody_looks_is_marked_as_new_and_not_as_read() {
    let mut app = busy();
    app.on(Happening::Focus(false));
    let orders = app.on(Happening::Client(Event::Message(said(7, 8, "bob", "psst", MessageState::Received))));
    assert_eq!(orders, [Order::LoadConversations]);
    app.on(Happening::Client(Event::Message(said(7, 9, "bob", "hey", MessageState::Received))));
    assert_eq!(
        app.history().and_then(|history| history.new_from),
        Some(8),
        "what was read is not new any more"
    );
    let mut list = app.conversations.clone();
    list[0].unread = 2;
    assert_eq!(app.on(Happening::Conversations(list)), []);
    assert_eq!(draw(&mut app, 80, 24).1, []);
    assert_eq!(app.on(Happening::Focus(true)), []);
    assert_eq!(draw(&mut app, 80, 24).1, [Order::MarkRead(ConversationId([7; 16]))]);
    app.on(Happening::Client(Event::Message(said(7, 10, "ann", "yes?", MessageState::Queued))));
    assert_eq!(app.history().and_then(|history| history.new_from), None, "who answers has seen it");
}

#[test]
fn a_message_is_shown_once_and_its_mark_follows() {
    let mut app = busy();
    let sent = said(7, 9, "ann", "once", MessageState::Queued);
    app.on(Happening::Client(Event::Message(sent.clone())));
    app.on(Happening::Client(Event::Message(sent.clone())));
    let state = |app: &App| -> Vec<MessageState> {
        let history = app.history().expect("loaded");
        history.messages.iter().filter(|message| message.row == 9).map(|message| message.state).collect()
    };
    assert_eq!(state(&app), [MessageState::Queued]);
    let (conversation, id) = (sent.conversation, sent.id);
    app.on(Happening::Client(Event::MessageState { conversation, id, state: MessageState::Delivered }));
    assert_eq!(state(&app), [MessageState::Delivered]);
}

#[test]
fn scrolling_loads_what_is_older_and_holds_still() {
    let mut app = busy();
    let conversation = ConversationId([7; 16]);
    let page = |from: u64| {
        (from..from + PAGE as u64).map(|row| said(7, row, "bob", "x", MessageState::Received)).collect()
    };
    app.on(Happening::History { conversation, before: None, messages: page(1000) });
    screen(&mut app, 80, 24);
    let mut orders = Vec::new();
    for _ in 0..12 {
        orders.extend(key(&mut app, KeyCode::PageUp));
        screen(&mut app, 80, 24);
    }
    assert_eq!(orders, [Order::LoadHistory { conversation, before: Some(1000) }], "asked for once");
    app.on(Happening::History { conversation, before: Some(1000), messages: page(900) });
    assert_eq!(app.history().map(|history| history.messages.len()), Some(2 * PAGE));
    screen(&mut app, 80, 24);
    let (scroll, total) = (app.scroll, app.geometry.total);
    app.on(Happening::Client(Event::Message(said(7, 2000, "bob", "new", MessageState::Received))));
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
    let reason = "cannot reach ws://127.0.0.1:4100: IO error: Connection refused (os error 111)".into();
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
    bob.unread = unread;
    app.on(Happening::Conversations(vec![bob]));
    let messages = (1..=entries)
        .map(|row| said(8, row, "bob", &format!("line {row}"), MessageState::Received))
        .collect();
    app.on(Happening::History { conversation: ConversationId([8; 16]), before: None, messages });
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
    assert_eq!(orders, [Order::MarkRead(ConversationId([8; 16]))]);
}

#[test]
fn what_the_relay_kept_is_new_although_somebody_looks() {
    let mut app = coming_back(3, 0);
    draw(&mut app, 80, 24);
    let kept = |row: u64| Event::Message(said(8, row, "bob", &format!("kept {row}"), MessageState::Received));
    for row in 4..40 {
        app.on(Happening::Client(kept(row)));
        draw(&mut app, 80, 24);
    }
    let mut list = app.conversations.clone();
    list[0].unread = 36;
    app.on(Happening::Conversations(list));
    app.on(online());
    let (text, orders) = draw(&mut app, 80, 24);
    let rows: Vec<&str> = text.lines().collect();
    assert!(rows[2].contains("─ new ─") && rows[3].contains("kept 4"), "{text}");
    assert_eq!(orders, []);
    key(&mut app, KeyCode::Esc);
    assert_eq!(draw(&mut app, 80, 24).1, [Order::MarkRead(ConversationId([8; 16]))]);
    app.on(Happening::Client(kept(40)));
    let (text, _) = draw(&mut app, 80, 24);
    assert!(text.contains("kept 40"), "from now on the window follows: {text}");
}

#[test]
fn messages_of_one_sender_do_not_run_together() {
    let mut app = app();
    app.on(Happening::Conversations(vec![conversation(8, "", &["ann", "bob"])]));
    let messages = (1..=3)
        .map(|row| Message {
            sent_at: NOW,
            ..said(8, row, "bob", &format!("part {row}"), MessageState::Received)
        })
        .collect();
    app.on(Happening::History { conversation: ConversationId([8; 16]), before: None, messages });
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
    assert_eq!(app.popup_most, 0);
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
        let messages = vec![said(8, 1, "bob", &format!("a{sign}b"), MessageState::Received)];
        app.on(Happening::History { conversation: ConversationId([8; 16]), before: None, messages });
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
    let flag = said(8, 61, "bob", "flag 🇩🇪", MessageState::Received);
    assert!(app.on(Happening::Client(Event::Message(flag))).contains(&Order::Redraw));
    screen(&mut app, 80, 24);
    assert_eq!(key(&mut app, KeyCode::Down), [Order::Redraw]);
    assert_eq!(key(&mut app, KeyCode::F(1)), [Order::Redraw]);
    assert_eq!(key(&mut app, KeyCode::Esc), [Order::Redraw]);
    assert_eq!(key(&mut app, KeyCode::Char('x')), []);
}
