//! The rows of a history: days, senders, texts, marks. Pure.

use posthorn_client::conversation::{Body, Message, MessageState};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::app::App;
use super::palette::{DIM, mark, name_style};
use super::wrap::{fit, wrap};
use crate::clock;
use crate::output::{body_text, sender as shown_name};
use crate::plain::plain;

/// Columns of the time, and those kept free at the right for marks.
const TIME: usize = 7;
const MARK: usize = 6;
/// Entries of one sender closer than this stand under one name, milliseconds.
const TOGETHER_MS: u64 = 5 * 60_000;
/// All rows of the open conversation, for this many columns, and which of them says "new".
pub(super) fn rows(app: &App, width: usize) -> (Vec<Line<'static>>, Option<usize>) {
    let mut new_at = None;
    let Some(history) = app.history() else { return (Vec::new(), None) };
    let names =
        history.messages.iter().map(|message| shown_name(message).width()).max().unwrap_or(0).clamp(3, 12);
    let mut rows = Vec::new();
    if history.complete && !history.messages.is_empty() {
        rows.push(Line::styled("this is the beginning", DIM).centered());
    }
    let mut before: Option<&Message> = None;
    for message in &history.messages {
        let day = clock::day(message.sent_at, &app.zone);
        let new_day = before.is_none_or(|before| clock::day(before.sent_at, &app.zone) != day);
        if new_day {
            rows.push(rule(&day, width, DIM));
        }
        let is_new = history
            .new_from
            .is_some_and(|new| new <= message.row && before.is_none_or(|before| before.row < new));
        if is_new {
            new_at = Some(rows.len());
            rows.push(rule("new", width, Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD)));
        }
        let follows = !new_day && !is_new && before.is_some_and(|before| belongs(before, message));
        match &message.body {
            Body::Text(text) => say(&mut rows, app, message, text, names, width, follows),
            Body::Notice(_) => {
                let text = format!(
                    "{} · {}",
                    clock::time_of_day(message.sent_at, &app.zone),
                    body_text(&message.body, &app.me)
                );
                rows.extend(
                    wrap(&text, width)
                        .into_iter()
                        .map(|row| Line::styled(row, DIM.add_modifier(Modifier::ITALIC)).centered()),
                );
            }
            Body::Unreadable(_) => {
                let text = format!("! {}", body_text(&message.body, &app.me));
                rows.extend(
                    wrap(&text, width).into_iter().map(|row| Line::styled(row, Style::new().fg(Color::Red))),
                );
            }
        }
        before = Some(message);
    }
    (rows, new_at)
}

fn belongs(before: &Message, message: &Message) -> bool {
    matches!((&before.body, &message.body), (Body::Text(_), Body::Text(_)))
        && before.sender == message.sender
        && message.sent_at.abs_diff(before.sent_at) < TOGETHER_MS
}

/// A text with its sender, its time and its mark.
fn say(
    rows: &mut Vec<Line<'static>>,
    app: &App,
    message: &Message,
    text: &str,
    names: usize,
    width: usize,
    follows: bool,
) {
    let margin = TIME + names + 2;
    let texts = wrap(&plain(text), width.saturating_sub(margin + MARK).max(8));
    let last = texts.len() - 1;
    for (index, text) in texts.into_iter().enumerate() {
        let mut spans = if index == 0 {
            // Every message begins with its time, so that two of one sender never look like one.
            let name = if follows { String::new() } else { fit(&shown_name(message), names) };
            let pad = " ".repeat(names.saturating_sub(name.width()));
            let time = format!(" {} ", clock::time_of_day(message.sent_at, &app.zone));
            vec![Span::styled(time, DIM), Span::styled(format!("{name}{pad}  "), name_style(message))]
        } else {
            vec![Span::raw(" ".repeat(margin))]
        };
        let gap = width.saturating_sub(margin + text.width() + 5);
        spans.push(Span::raw(text));
        if index == last {
            spans.push(Span::raw(" ".repeat(gap)));
            spans.push(mark(message));
        }
        rows.push(Line::from(spans));
    }
    if let MessageState::Failed(cause) = message.state {
        let text = format!("{}not sent: {cause}", " ".repeat(margin));
        rows.push(Line::styled(text, Style::new().fg(Color::Red)));
    }
}

/// A word between two lines.
fn rule(text: &str, width: usize, style: Style) -> Line<'static> {
    let text = format!(" {} ", fit(text, width.saturating_sub(4)));
    let free = width.saturating_sub(text.width());
    Line::styled(format!("{}{text}{}", "─".repeat(free / 2), "─".repeat(free - free / 2)), style)
}
