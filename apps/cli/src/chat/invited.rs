//! An invitation, opened: who invites, where the conversation lives, and how to answer. Pure.

use posthorn_client::engine::ConversationSummary;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use super::app::App;
use super::palette::{BOLD, DIM};
use super::wrap::wrap;
use crate::invitation;

/// Its rows, for this many columns.
pub(super) fn rows(app: &App, invited: &ConversationSummary, width: usize) -> Vec<Line<'static>> {
    let foreign = invited.foreign_relay;
    let inviter = invitation::inviter(invited);
    let mut lines = Vec::new();
    let mut say = |text: &str, style: Style| {
        let rows = wrap(text, width.saturating_sub(4));
        lines.extend(rows.into_iter().map(|row| Line::styled(format!("  {row}"), style)));
    };
    say(&format!("{inviter} invites you to a conversation."), BOLD);
    say("", DIM);
    if let Some(person) = &invited.inviter {
        say(&invitation::trust(person), Style::new());
    }
    let style = if foreign { Style::new().fg(Color::Yellow) } else { Style::new() };
    say(&invitation::place(invited, &app.relay), style);
    say(&format!("{inviter} does not see that you read this."), DIM);
    say("", DIM);
    let (accept, join) =
        if foreign { ("/accept yes", "join, and use that relay") } else { ("/accept", "join") };
    for (command, what) in [
        (accept, join.to_owned()),
        ("/decline", format!("forget it; {inviter} is not told")),
        ("/block", format!("forget it, and whatever {inviter} invites you to")),
    ] {
        let what = wrap(&what, width.saturating_sub(16));
        for (index, row) in what.into_iter().enumerate() {
            let command = if index == 0 { command } else { "" };
            lines.push(Line::from(vec![Span::styled(format!("  {command:<13}"), BOLD), Span::raw(row)]));
        }
    }
    lines
}
