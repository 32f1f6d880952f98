//! Colours and signs. Pure, and below everything that draws.

use posthorn_client::conversation::{Message, MessageState};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const ALARM: Style = Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD);
/// Names have these; they differ well on dark and on light grounds.
const COLOURS: [Color; 6] =
    [Color::Green, Color::Magenta, Color::Blue, Color::Cyan, Color::Yellow, Color::LightRed];

/// The colour of who says it: always the same for one person.
pub(super) fn name_style(message: &Message) -> Style {
    if message.mine {
        return Style::new().add_modifier(Modifier::BOLD);
    }
    let hash = message
        .sender
        .bytes()
        .fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
    Style::new().fg(COLOURS[hash % COLOURS.len()]).add_modifier(Modifier::BOLD)
}

/// The sign for how far a message got, in at most four columns.
pub(super) fn mark(message: &Message) -> Span<'static> {
    match message.state {
        MessageState::Queued => Span::styled("…", DIM),
        MessageState::Sent => Span::styled("✓", DIM),
        MessageState::Delivered => Span::styled("✓✓", DIM),
        MessageState::Read => Span::styled("read", Style::new().fg(Color::Cyan)),
        MessageState::Failed(_) => {
            Span::styled("✗", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD))
        }
        MessageState::Received => Span::raw(""),
    }
}
