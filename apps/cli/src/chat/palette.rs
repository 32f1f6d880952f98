//! Colours and signs. Pure, and below everything that draws.

use posthorn_client::conversation::{Entry, EntryState};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const ALARM: Style = Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD);
/// Names have these; they differ well on dark and on light grounds.
const COLOURS: [Color; 6] =
    [Color::Green, Color::Magenta, Color::Blue, Color::Cyan, Color::Yellow, Color::LightRed];

/// The colour of who says it: always the same for one person.
pub(super) fn name_style(entry: &Entry) -> Style {
    if entry.mine {
        return BOLD;
    }
    let key = entry.author.map_or([0; 32], |author| author.person.0);
    let sum = key.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    BOLD.fg(COLOURS[sum % COLOURS.len()])
}

/// The sign for how far an entry got, in at most four columns.
pub(super) fn mark(entry: &Entry) -> Span<'static> {
    match entry.state {
        EntryState::Queued => Span::styled("…", DIM),
        EntryState::Sent => Span::styled("✓", DIM),
        EntryState::Delivered => Span::styled("✓✓", DIM),
        EntryState::Read => Span::styled("read", Style::new().fg(Color::Cyan)),
        EntryState::Failed(_) => Span::styled("✗", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)),
        _ => Span::raw(""),
    }
}
