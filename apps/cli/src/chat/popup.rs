//! What stands over the screen: help, members, the contact link. Scrolls if it is longer than the screen.

use ratatui::Frame;
use ratatui::layout::{Margin, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};
use unicode_width::UnicodeWidthStr as _;

use super::app::App;
use super::palette::DIM;
use super::wrap::wrap;

/// Draws it, and tells the state how far it scrolls.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let Some(popup) = &app.popup else { return };
    let widest = popup.lines.iter().map(|line| line.width()).max().unwrap_or(0).max(popup.title.width() + 2);
    let broken = |inside: usize| -> Vec<String> {
        let lines = popup.lines.iter();
        lines
            .flat_map(
                |line| if line.width() <= inside { vec![line.clone()] } else { wrap(line, inside.max(1)) },
            )
            .collect()
    };
    let width = (widest as u16).saturating_add(4).min(area.width);
    let mut rows = broken(usize::from(width.saturating_sub(4)));
    // Without a frame there is room for more: a QR code that is cut off is none.
    let bare = rows.len() + 2 > usize::from(area.height);
    if bare {
        rows = broken(usize::from(area.width));
    }
    let height = if bare { area.height } else { rows.len() as u16 + 2 };
    let page = usize::from(height).saturating_sub(if bare { 1 } else { 2 });
    app.popup_page = page;
    app.popup_most = rows.len().saturating_sub(page);
    app.popup_scroll = app.popup_scroll.min(app.popup_most);
    let title = popup.title.clone();
    let text: Vec<Line<'_>> = rows.into_iter().skip(app.popup_scroll).take(page).map(Line::raw).collect();
    if bare {
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(text), Rect { height: page as u16, ..area });
        let keys = match app.popup_most {
            0 => format!(" {title} · any key closes"),
            most => format!(
                " {title} · {} of {most} rows down · ↑ ↓ PgUp PgDn scroll · Esc closes",
                app.popup_scroll
            ),
        };
        let last = Rect { y: area.bottom().saturating_sub(1), height: area.height.min(1), ..area };
        frame.render_widget(Line::styled(keys, DIM), last);
        return;
    }
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered()
        .title(format!(" {title} "))
        .title_bottom(Line::from(" any key closes ").right_aligned());
    frame.render_widget(block, place);
    frame.render_widget(Paragraph::new(text), place.inner(Margin::new(2, 1)));
}
