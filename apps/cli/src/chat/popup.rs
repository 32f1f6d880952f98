//! What stands over the screen: help, members, the contact link. Scrolls if it is longer than the screen.

use ratatui::Frame;
use ratatui::layout::{Margin, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};
use unicode_width::UnicodeWidthStr as _;

use super::app::App;
use super::exchange::Popup;
use super::palette::DIM;
use super::wrap::wrap;

/// The rows at this size, and whether all is in sight. A picture that does not fit is none, and the size
/// that it needs is told instead.
fn rows(popup: &Popup, width: usize, height: usize) -> (Vec<String>, bool) {
    let across = popup.picture.iter().map(|row| row.width()).max().unwrap_or(0);
    let down = popup.picture.len();
    let fits = across <= width && down <= height;
    let mut rows = if fits { popup.picture.clone() } else { Vec::new() };
    for line in &popup.lines {
        match line.width() <= width {
            true => rows.push(line.clone()),
            false => rows.extend(wrap(line, width.max(1))),
        }
    }
    if !fits {
        // One row more has the keys.
        let needs =
            format!("The QR code needs a window of {across} columns and {} rows: make it larger.", down + 1);
        rows.extend(wrap(&needs, width.max(1)));
    }
    let all = fits && rows.len() <= height;
    (rows, all)
}

/// Draws it, and tells the state how far it scrolls.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let Some(popup) = &app.popup else { return };
    let (columns, lines) = (usize::from(area.width), usize::from(area.height));
    let (framed, fits) = rows(popup, columns.saturating_sub(4), lines.saturating_sub(2));
    // Without a frame there is room for more.
    let bare = !fits;
    let rows = if bare { rows(popup, columns, lines.saturating_sub(1)).0 } else { framed };
    let widest = rows.iter().map(|row| row.width()).max().unwrap_or(0).max(popup.title.width() + 2);
    let width = (widest as u16).saturating_add(4).min(area.width);
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
