//! The rows of a history: days, senders, texts, marks, reactions. Pure.

use posthorn_client::conversation::{Body, Entry, EntryState};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::app::App;
use super::links::{self, Link};
use super::palette::{BOLD, DIM, mark, name_style};
use super::unread::place;
use super::wrap::{fit, wrap};
use crate::clock;
use crate::output::{body_text, is_said, reactions_text, sender as shown_name};

/// Columns of the time, and those kept free at the right for marks.
const TIME: usize = 7;
const MARK: usize = 6;
/// Entries of one sender closer than this stand under one name, milliseconds.
const TOGETHER_MS: u64 = 5 * 60_000;

/// The open conversation, drawn.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) lines: Vec<Line<'static>>,
    /// Which row says "new".
    pub(super) new_at: Option<usize>,
    /// The first row of the entry that was chosen.
    pub(super) chosen_at: Option<usize>,
    /// What can be opened: rows, and columns of them.
    pub(super) links: Vec<Link>,
}

/// All rows of the open conversation, for this many columns.
pub(super) fn rows(app: &App, width: usize) -> Rows {
    let mut rows = Rows::default();
    let Some(history) = app.history() else { return rows };
    let names = history.entries.iter().map(|entry| shown_name(entry).width()).max().unwrap_or(0).clamp(3, 12);
    let Rows { lines, links, new_at, chosen_at } = &mut rows;
    if history.complete && !history.entries.is_empty() {
        lines.push(Line::styled("this is the beginning", DIM).centered());
    }
    let mut before: Option<&Entry> = None;
    for entry in &history.entries {
        let day = clock::day(entry.sent_at, &app.zone);
        let new_day = before.is_none_or(|before| clock::day(before.sent_at, &app.zone) != day);
        if new_day {
            lines.push(rule(&day, width, DIM));
        }
        let is_new = history
            .new_from
            .is_some_and(|new| new <= place(entry) && before.is_none_or(|before| place(before) < new));
        if is_new {
            *new_at = Some(lines.len());
            lines.push(rule("new", width, Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD)));
        }
        if app.chosen == Some(entry.row) {
            *chosen_at = Some(lines.len());
        }
        let follows = !new_day && !is_new && before.is_some_and(|before| belongs(before, entry));
        let text = body_text(&entry.body, &app.me);
        match &entry.body {
            Body::Said(_) => say((lines, links), app, entry, &text, names, width, follows),
            Body::Unreadable(_) => {
                let style = Style::new().fg(Color::Red);
                let text = format!("! {text}");
                lines.extend(wrap(&text, width).into_iter().map(|row| Line::styled(row, style)));
            }
            _ => {
                let text = format!("{} · {text}", clock::time_of_day(entry.sent_at, &app.zone));
                let style = DIM.add_modifier(Modifier::ITALIC);
                lines.extend(wrap(&text, width).into_iter().map(|row| Line::styled(row, style).centered()));
            }
        }
        before = Some(entry);
    }
    rows
}

fn belongs(before: &Entry, entry: &Entry) -> bool {
    is_said(before)
        && is_said(entry)
        && before.author.map(|author| author.person) == entry.author.map(|author| author.person)
        && entry.sent_at.abs_diff(before.sent_at) < TOGETHER_MS
}

/// What somebody said, with its sender, its time and its mark, and the reactions under it.
fn say(
    (rows, links): (&mut Vec<Line<'static>>, &mut Vec<Link>),
    app: &App,
    entry: &Entry,
    text: &str,
    names: usize,
    width: usize,
    follows: bool,
) {
    let margin = TIME + names + 2;
    let room = width.saturating_sub(margin + MARK).max(8);
    let texts = wrap(text, room);
    let last = texts.len() - 1;
    if entry.text().is_some() {
        let begun = rows.len();
        links.extend(links::in_rows(text, &texts).into_iter().map(|link| Link {
            row: begun + link.row,
            columns: margin + link.columns.start..margin + link.columns.end,
            ..link
        }));
    }
    // What is no text is told in words, and those are not the sender's.
    let style = if entry.text().is_some() { Style::new() } else { DIM.add_modifier(Modifier::ITALIC) };
    let chosen = app.chosen == Some(entry.row);
    for (index, text) in texts.into_iter().enumerate() {
        let mut spans = if index == 0 {
            // Every message begins with its time, so that two of one sender never look like one.
            let name = if follows { String::new() } else { fit(&shown_name(entry), names) };
            let pad = " ".repeat(names.saturating_sub(name.width()));
            let (sign, shade) = if chosen { ("▸", BOLD.fg(Color::Yellow)) } else { (" ", DIM) };
            let time = format!("{sign}{} ", clock::time_of_day(entry.sent_at, &app.zone));
            vec![Span::styled(time, shade), Span::styled(format!("{name}{pad}  "), name_style(entry))]
        } else {
            vec![Span::raw(" ".repeat(margin))]
        };
        let gap = width.saturating_sub(margin + text.width() + 5);
        spans.push(Span::styled(text, style));
        if index == last {
            spans.push(Span::raw(" ".repeat(gap)));
            spans.push(mark(entry));
        }
        rows.push(Line::from(spans));
    }
    for row in reactions_text(entry).iter().flat_map(|text| wrap(text, room)) {
        rows.push(Line::from(vec![Span::raw(" ".repeat(margin)), Span::styled(row, DIM)]));
    }
    if let EntryState::Failed(cause) = entry.state {
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
