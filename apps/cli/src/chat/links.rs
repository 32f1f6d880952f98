//! Links in messages that a terminal can open (OSC 8). Pure.
//!
//! Only http and https, and only where what is opened is, letter for letter, what stands on the screen: no
//! link leads elsewhere than it says.

use std::num::NonZeroU16;
use std::ops::Range;

use ratatui::buffer::{Buffer, CellDiffOption};
use ratatui::layout::Position;
use ratatui::style::Modifier;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// Longer ones are left alone: each row that a link goes over has all of it.
const MOST_BYTES: usize = 1_000;
const BEFORE: &[char] = &['(', '[', '{', '<', '"', '\''];
const AFTER: &[char] = &['.', ',', ':', ';', '!', '?', '"', '\''];

/// The part of a link that stands in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) row: usize,
    /// Columns of that row.
    pub(super) columns: Range<usize>,
    pub(super) url: String,
}

/// Where the links of a text stand in the rows that it was wrapped into.
pub(super) fn in_rows(text: &str, rows: &[String]) -> Vec<Link> {
    let found = find(text);
    let mut links: Vec<Link> = Vec::new();
    let mut rest = text.char_indices();
    for (row, shown) in rows.iter().enumerate().filter(|_| !found.is_empty()) {
        let mut column = 0;
        for sign in shown.graphemes(true) {
            // The rows have all of the text in its order, but for blanks.
            let at = sign.chars().map(|c| rest.find(|(_, there)| *there == c)).min().flatten();
            let width = sign.width();
            let inside = at.and_then(|(at, _)| found.iter().find(|range| range.contains(&at)));
            if let Some(range) = inside {
                let url = &text[range.clone()];
                match links.last_mut() {
                    Some(last) if last.row == row && last.columns.end == column && last.url == url => {
                        last.columns.end += width;
                    }
                    _ => links.push(Link { row, columns: column..column + width, url: url.to_owned() }),
                }
            }
            column += width;
        }
    }
    links
}

/// Addresses in a text, without the punctuation around them.
fn find(text: &str) -> Vec<Range<usize>> {
    let start_of = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    let words = text.split_whitespace().map(|word| word.trim_start_matches(BEFORE));
    let links = words.filter(|word| {
        let scheme = ["https://", "http://"].into_iter();
        let mut begun = scheme.filter(|scheme| {
            word.get(..scheme.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(scheme))
        });
        // Whatever is beyond ASCII would have to be encoded, and could look like something else.
        word.bytes().all(|byte| byte.is_ascii_graphic())
            && begun.next().is_some_and(|scheme| {
                word[scheme.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '[')
            })
    });
    let ranges = links.map(|word| start_of(word)..start_of(word) + without_end(word).len());
    ranges.filter(|range| range.len() <= MOST_BYTES).collect()
}

/// What closes a sentence or a bracket that was opened before the link does not belong to it.
fn without_end(mut word: &str) -> &str {
    loop {
        let pair = match word.chars().last() {
            Some(last) if AFTER.contains(&last) => None,
            Some(')') => Some(('(', ')')),
            Some(']') => Some(('[', ']')),
            Some('}') => Some(('{', '}')),
            Some('>') => Some(('<', '>')),
            _ => return word,
        };
        if pair.is_some_and(|(open, close)| word.matches(open).count() >= word.matches(close).count()) {
            return word;
        }
        word = &word[..word.len() - 1];
    }
}

/// Makes a stretch of cells a link. It is drawn as one cell that is so wide, so that none of it is ever drawn
/// without its end; the line under it tells it from everything else that could stand there.
pub(super) fn draw(buffer: &mut Buffer, at: Position, link: &Link) {
    let Ok(width) = u16::try_from(link.columns.len()) else { return };
    let cells = (at.x..at.x.saturating_add(width)).map(|x| Position::new(x, at.y));
    let mut text = String::new();
    for cell in cells {
        let Some(cell) = buffer.cell_mut(cell) else { return };
        cell.modifier.insert(Modifier::UNDERLINED);
        text.push_str(cell.symbol());
    }
    if let (Some(first), Some(width)) = (buffer.cell_mut(at), NonZeroU16::new(width)) {
        first.set_symbol(&format!("\x1b]8;;{}\x1b\\{text}\x1b]8;;\x1b\\", link.url));
        first.diff_option = CellDiffOption::ForcedWidth(width);
    }
}

#[cfg(test)]
mod tests {
    use super::super::wrap::wrap;
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        find(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn links_are_found_without_what_stands_around_them() {
        assert_eq!(
            found("see https://example.org/a?b=c#d, or (http://x.org)."),
            ["https://example.org/a?b=c#d", "http://x.org"]
        );
        assert_eq!(found("<HTTPS://X.org/a_(b)>"), ["HTTPS://X.org/a_(b)"]);
        assert_eq!(found("http://[::1]:80/ http://[::1]"), ["http://[::1]:80/", "http://[::1]"]);
    }

    #[test]
    fn nothing_else_is_a_link() {
        for text in [
            "file:///etc/passwd",
            "javascript:alert(1)",
            "posthorn://ann@x.org/?k=abc",
            "https://",
            "https://.",
            "https:// x.org",
            "xhttps://x.org",
            // Both would be shown as something else than what is opened.
            "https://ex\u{e4}mple.org",
            "https://example.org\u{2215}evil",
            "https://x.org/\u{1b}]8;;",
        ] {
            assert_eq!(found(text), [] as [&str; 0], "{text:?}");
        }
        assert_eq!(found(&format!("https://x.org/{}", "a".repeat(MOST_BYTES))), [] as [&str; 0]);
    }

    #[test]
    fn a_link_over_several_rows_is_one_link() {
        let text = "日本 look: https://example.org/a/long/path now\nhttp://x.org";
        let rows = wrap(text, 20);
        let links = in_rows(text, &rows);
        let shown: Vec<String> = links
            .iter()
            .map(|link| {
                let cells = rows[link.row].graphemes(true).flat_map(|sign| {
                    std::iter::once(sign).chain(std::iter::repeat_n("", sign.width().saturating_sub(1)))
                });
                cells.skip(link.columns.start).take(link.columns.len()).collect()
            })
            .collect();
        let (last, long) = shown.split_last().expect("links");
        assert_eq!(
            (long.concat().as_str(), last.as_str()),
            ("https://example.org/a/long/path", "http://x.org")
        );
        assert!(long.len() > 1, "{shown:?}");
        assert!(links[..long.len()].iter().all(|link| link.url == "https://example.org/a/long/path"));
    }

    #[test]
    fn a_link_is_drawn_whole_and_is_seen() {
        let mut buffer = Buffer::with_lines(["a http://x.org b"]);
        let link = Link { row: 0, columns: 2..14, url: "http://x.org".to_owned() };
        draw(&mut buffer, Position::new(2, 0), &link);
        let drawn = Buffer::empty(buffer.area)
            .diff(&buffer)
            .iter()
            .map(|(_, _, cell)| cell.symbol())
            .collect::<String>();
        assert_eq!(drawn.replace(' ', ""), "a\x1b]8;;http://x.org\x1b\\http://x.org\x1b]8;;\x1b\\b");
        // The same letters without a link are other cells.
        let plain = Buffer::with_lines(["a http://x.org b"]);
        assert_eq!(buffer.diff(&plain).len(), 12);
    }
}
