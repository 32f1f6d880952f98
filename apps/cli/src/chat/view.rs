//! The screen: state in, cells out. Reads the state; decides nothing but places and colours.

use posthorn_client::conversation::ConversationState;
use posthorn_client::engine::ConversationSummary;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};
use unicode_width::UnicodeWidthStr as _;

use super::app::{App, Connection, Geometry};
use super::palette::{ALARM, BOLD, DIM};
use super::wrap::{fit, wrap, wrap_into};
use super::{entries, invited, links, popup};
use crate::command::wait;
use crate::output::{
    adding_text, body_text, conversation_state, is_said, sender, suspended_text, verified_of,
};
use crate::plain::plain_line;
use crate::{clock, invitation, name};

/// Below this many columns the list of conversations is not shown.
const NARROW: u16 = 64;
/// Rows of a window from which on it has a title over the history, a header, a footer.
const TITLE_FROM: u16 = 5;
const HEADER_FROM: u16 = 6;
const FOOTER_FROM: u16 = 7;
/// Rows that the input may grow to.
const INPUT_ROWS: usize = 6;
/// Rows that alarms and the note may have where there is room for so many; in a large window, half of it.
const NOTE_ROWS: usize = 4;
const PROMPT: &str = "> ";

/// Draws everything, and tells the state what was drawn.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    let list_width = match area.width {
        ..NARROW => 0,
        width => (width / 3).clamp(24, 34),
    };
    let input_width =
        usize::from(area.width.saturating_sub(list_width)).saturating_sub(PROMPT.len() + 1).max(2);
    let input = app.editor().layout(input_width);
    let input_rows = input.rows.len().clamp(1, INPUT_ROWS) as u16;
    // In a window of a few rows, what one reads and writes comes before what is known.
    let line = |rows: u16| Constraint::Length(u16::from(area.height >= rows));
    let [header, body, footer] =
        Layout::vertical([line(HEADER_FROM), Constraint::Min(1), line(FOOTER_FROM)]).areas(area);
    let [list, right] = Layout::horizontal([Constraint::Length(list_width), Constraint::Min(1)]).areas(body);
    // Beside the title, the input and a row of the history.
    let free = usize::from(right.height).saturating_sub(usize::from(input_rows) + 3);
    let notes = notes(app, usize::from(right.width), (free / 2).max(NOTE_ROWS).min(free));
    let [title, history, note_area, input_area] = Layout::vertical([
        line(TITLE_FROM),
        Constraint::Min(1),
        Constraint::Length(notes.len() as u16),
        Constraint::Length(input_rows + 1),
    ])
    .areas(right);
    draw_header(frame, app, header);
    draw_list(frame, app, list);
    draw_title(frame, app, title);
    let columns = usize::from(history.width);
    let rows = match app.current().filter(|current| name::is_invitation(current)) {
        // Whoever invites stands first, and is read first.
        Some(invited) => {
            let lines = invited::rows(app, invited, columns);
            entries::Rows { lines, new_at: Some(0), ..Default::default() }
        }
        None => entries::rows(app, columns),
    };
    app.drawn(Geometry {
        height: usize::from(history.height),
        total: rows.lines.len(),
        new_at: rows.new_at,
        chosen_at: rows.chosen_at,
        input_width,
    });
    draw_history(frame, app, rows, history);
    frame.render_widget(Paragraph::new(notes), note_area);
    draw_input(frame, app, &input, input_area);
    let keys = " Enter send · Tab next conversation · PgUp/PgDn scroll · /help · Ctrl+C quit";
    frame.render_widget(Line::styled(fit(keys, usize::from(footer.width)), DIM), footer);
    popup::draw(frame, app, area);
}

fn draw_header(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let width = usize::from(area.width);
    let left = format!(" Posthorn  {} at {}", app.handle, invitation::relay_name(&app.relay));
    let (text, style) = match &app.connection {
        Connection::Online => match &app.waiting {
            None => ("● online".to_owned(), Style::new().fg(Color::Green)),
            Some(waiting) => {
                let seconds = waiting.until.saturating_sub(app.now).div_ceil(1000);
                let text = format!("● online, told to wait {seconds} s ({})", plain_line(&waiting.code));
                (text, Style::new().fg(Color::Yellow))
            }
        },
        Connection::Connecting => ("○ connecting…".to_owned(), Style::new().fg(Color::Yellow)),
        Connection::Offline { reason, retry_at } => {
            let seconds = retry_at.saturating_sub(app.now).div_ceil(1000);
            let next = if seconds == 0 { "trying…".to_owned() } else { format!("retry in {seconds} s") };
            // Who it is and at which relay stays readable beside it.
            let taken = left.width().min(width / 2) + "○ offline (), ".width() + next.width() + 2;
            let room = width.saturating_sub(taken);
            let why =
                if room < 8 { String::new() } else { format!(" ({})", fit(&short_reason(reason), room)) };
            (format!("○ offline{why}, {next}"), Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD))
        }
    };
    let left = fit(&left, width.saturating_sub(text.width() + 2));
    let gap = width.saturating_sub(left.width() + text.width() + 1);
    let line =
        Line::from(vec![Span::styled(left, BOLD), Span::raw(" ".repeat(gap)), Span::styled(text, style)]);
    frame.render_widget(line, area);
}

/// What is wrong with the connection in a few words: without the relay's name, which stands beside it.
fn short_reason(reason: &str) -> String {
    let reason = plain_line(reason);
    let mut letters = reason.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Two rows for each conversation: name with time or count, and the newest entry.
fn draw_list(frame: &mut Frame<'_>, app: &App, area: Rect) {
    if area.width == 0 {
        return;
    }
    let block = Block::new().borders(Borders::RIGHT | Borders::TOP).border_style(DIM);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let shown = usize::from(inner.height / 2).max(1);
    let at = app.conversations.iter().position(|known| Some(known.id) == app.selected).unwrap_or(0);
    let first = (at + 1).saturating_sub(shown);
    let width = usize::from(inner.width);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for conversation in app.conversations.iter().skip(first).take(shown) {
        let selected = Some(conversation.id) == app.selected;
        let base = if selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let (right, right_style) = match (&conversation.last, conversation.unread) {
            (_, unread) if unread > 0 => (format!("({unread}) "), BOLD.fg(Color::Yellow)),
            (Some(last), _) => (format!("{} ", clock::short(last.sent_at, app.now, &app.zone)), DIM),
            (None, _) => (String::new(), DIM),
        };
        let title = fit(&format!(" {}", app.title(conversation)), width.saturating_sub(right.width() + 1));
        let gap = " ".repeat(width.saturating_sub(title.width() + right.width()));
        let title_style = if conversation.unread > 0 { base.patch(BOLD) } else { base };
        lines.push(Line::from(vec![
            Span::styled(title, title_style),
            Span::styled(gap, base),
            Span::styled(right, base.patch(right_style)),
        ]));
        lines.push(Line::styled(fit(&format!(" {}", last_line(app, conversation)), width), DIM));
    }
    if lines.is_empty() {
        lines.extend(
            wrap("No conversations yet. /new HANDLE starts one.", width.saturating_sub(2))
                .into_iter()
                .map(|row| Line::styled(format!(" {row}"), DIM)),
        );
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn last_line(app: &App, conversation: &ConversationSummary) -> String {
    if name::is_invitation(conversation) {
        let came = conversation.last.as_ref().map(|last| clock::short(last.sent_at, app.now, &app.zone));
        return came.map_or_else(|| "invites you".to_owned(), |came| format!("invites you, {came}"));
    }
    if conversation.archived {
        return "[put away]".to_owned();
    }
    if let Some(state) = conversation_state(&conversation.state) {
        return format!("[{state}]");
    }
    let Some(last) = &conversation.last else { return String::new() };
    let text = plain_line(&body_text(&last.body, &app.me));
    match is_said(last) && (last.mine || conversation.members.len() > 2) {
        true => format!("{}: {text}", sender(last)),
        false => text,
    }
}

fn draw_title(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let block = Block::new().borders(Borders::TOP).border_style(DIM);
    let width = usize::from(area.width);
    let others = app.current().map(|current| name::others(current, &app.me)).unwrap_or_default();
    let verified = verified_of(&others).map(|text| format!(" ✓ {text} ")).unwrap_or_default();
    let line = match app.current() {
        None => String::new(),
        Some(current) => {
            let title = app.title(current);
            let state = match &current.state {
                ConversationState::Invited => " · an invitation".to_owned(),
                ConversationState::Creating => " · being made…".to_owned(),
                ConversationState::Leaving => " · leaving…".to_owned(),
                ConversationState::Left => " · you left".to_owned(),
                ConversationState::Removed => " · you were removed".to_owned(),
                ConversationState::Suspended(why) => format!(" · suspended: {}", why.cause),
                _ => String::new(),
            };
            let members = if current.members.len() > 2 || !current.name.is_empty() {
                format!(" · {}", plain_line(&name::handles(&current.members)))
            } else {
                String::new()
            };
            let adding = adding_text(&current.adding).map(|text| format!(" · {text}")).unwrap_or_default();
            format!(" {title}{state}{members}{adding} ")
        }
    };
    // In a place and a colour that no name of a conversation can take.
    let mark = Line::styled(verified.clone(), Style::new().fg(Color::Green)).right_aligned();
    let room = width.saturating_sub(verified.width());
    frame.render_widget(block.title(Line::styled(fit(&line, room), BOLD)).title(mark), area);
}

fn draw_history(frame: &mut Frame<'_>, app: &App, rows: entries::Rows, area: Rect) {
    let entries::Rows { lines: rows, links, .. } = rows;
    let height = usize::from(area.height);
    let end = rows.len() - app.scroll.min(rows.len());
    let start = end.saturating_sub(height);
    // A short history stands at the bottom, beside the input.
    let top = area.height.saturating_sub((end - start) as u16);
    let area = Rect { y: area.y + top, height: area.height - top, ..area };
    frame.render_widget(Paragraph::new(rows[start..end].to_vec()), area);
    // What stands over a part of a link would not be seen.
    for link in links.iter().filter(|link| (start..end).contains(&link.row) && app.popup.is_none()) {
        let x = area.x.saturating_add(link.columns.start as u16);
        if link.columns.end <= usize::from(area.width) {
            links::draw(frame.buffer_mut(), Position::new(x, area.y + (link.row - start) as u16), link);
        }
    }
}

/// What stands over the input, in at most so many rows: why the open conversation does not go on for now,
/// alarms, and the note. Where there is no room for all, the note comes first, for it answers what was typed,
/// and of alarms there are the newest, cut to a row.
fn notes(app: &App, width: usize, room: usize) -> Vec<Line<'static>> {
    let wrapped = |text: &str, rows: usize| wrap_into(text, width.saturating_sub(2), rows);
    let typed = ("/new NAME --again", "/accept yes");
    let suspended = |current| suspended_text(current, typed, (app.now, &app.zone));
    let not_there = || {
        let there = app.not_there()?;
        Some(format!("{}: what you write waits for it", wait::away(&there.relay, &there.reason)))
    };
    let note = app.note.as_ref().map(|note| wrapped(&plain_line(&note.text), room)).unwrap_or_default();
    let room = room - note.len();
    let why = app.current().and_then(suspended).or_else(not_there);
    let why = why.map(|why| wrapped(&why, room)).unwrap_or_default();
    let room = room - why.len();
    let alarms = app.alarms.iter().map(|text| format!("! {text}"));
    let mut rows: Vec<String> = alarms.clone().flat_map(|text| wrapped(&text, usize::MAX)).collect();
    if rows.len() > room {
        let first = app.alarms.len().saturating_sub(room);
        rows = alarms.skip(first).map(|text| fit(&text, width.saturating_sub(2))).collect();
    }
    let filled = |row: String| {
        let pad = " ".repeat(width.saturating_sub(row.width() + 1));
        Line::styled(format!(" {row}{pad}"), ALARM)
    };
    let is_problem = app.note.as_ref().is_some_and(|note| note.is_problem);
    let colour = |colour| move |row: String| Line::styled(format!(" {row}"), Style::new().fg(colour));
    let why = why.into_iter().map(colour(Color::Yellow));
    let note = note.into_iter().map(colour(if is_problem { Color::Red } else { Color::Cyan }));
    why.chain(rows.into_iter().map(filled)).chain(note).collect()
}

fn draw_input(frame: &mut Frame<'_>, app: &App, input: &super::editor::Layout, area: Rect) {
    let mut block = Block::new().borders(Borders::TOP).border_style(DIM);
    if app.scroll > 0 {
        // On the line between history and input, where it covers nothing.
        let text = format!(" ↓ {} more rows · Esc ", app.scroll);
        block =
            block.title(Line::styled(text, Style::new().add_modifier(Modifier::REVERSED)).right_aligned());
    }
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if inner.height == 0 {
        return;
    }
    // The row of the cursor is always visible.
    let first = (input.cursor.0 + 1).saturating_sub(usize::from(inner.height));
    let open = app.current().is_none_or(name::is_live);
    let empty = input.rows.len() == 1 && input.rows[0].is_empty();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, row) in input.rows.iter().enumerate().skip(first).take(usize::from(inner.height)) {
        let prompt = if index == 0 { PROMPT } else { "  " };
        let text = match (empty, app.selected) {
            (true, Some(_)) if app.current().is_some_and(name::is_invitation) => {
                Span::styled("/accept, /decline or /block", DIM)
            }
            (true, Some(_)) if !open => {
                Span::styled("This conversation has ended for you. /new starts one", DIM)
            }
            (true, Some(_)) => Span::styled("Write a message, or /help", DIM),
            (true, None) => Span::styled("/new HANDLE starts a conversation", DIM),
            (false, _) => Span::raw(row.clone()),
        };
        lines.push(Line::from(vec![Span::styled(prompt, BOLD), text]));
    }
    frame.render_widget(Paragraph::new(lines), inner);
    if app.popup.is_none() {
        let x = inner.x + PROMPT.len() as u16 + input.cursor.1 as u16;
        let y = inner.y + (input.cursor.0 - first) as u16;
        frame.set_cursor_position(Position::new(x.min(inner.right().saturating_sub(1)), y));
    }
}
