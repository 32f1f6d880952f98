//! The input line: a text and a cursor, by graphemes as people see them. Pure; knows no keys and no screen.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// A text that is being written. The cursor always stands between two graphemes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Editor {
    text: String,
    /// Byte offset.
    cursor: usize,
}

/// The text as rows of at most some columns, and where the cursor stands among them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) rows: Vec<String>,
    /// Row and column.
    pub(super) cursor: (usize, usize),
}

impl Editor {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces everything; the cursor goes to the end.
    pub(super) fn set(&mut self, text: impl Into<String>) {
        self.text = text.into();
        self.cursor = self.text.len();
    }

    /// The text, leaving nothing.
    pub(super) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Inserts what was typed or pasted. Line ends of all systems become one; other control characters are
    /// left out.
    pub(super) fn insert(&mut self, text: &str) {
        let text: String = text
            .replace("\r\n", "\n")
            .chars()
            .map(|c| match c {
                '\r' => '\n',
                '\t' => ' ',
                c => c,
            })
            .filter(|c| *c == '\n' || !c.is_control())
            .collect();
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
        self.settle();
    }

    /// A combining character may have joined what stood before or after it.
    fn settle(&mut self) {
        let next = self.text.grapheme_indices(true).map(|(at, _)| at).find(|at| *at >= self.cursor);
        self.cursor = next.unwrap_or(self.text.len());
    }

    fn before(&self) -> usize {
        self.text[..self.cursor].grapheme_indices(true).next_back().map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        self.text[self.cursor..].graphemes(true).next().map_or(self.cursor, |g| self.cursor + g.len())
    }

    pub(super) fn left(&mut self) {
        self.cursor = self.before();
    }

    pub(super) fn right(&mut self) {
        self.cursor = self.after();
    }

    pub(super) fn word_left(&mut self) {
        self.cursor = self.word_start();
    }

    fn word_start(&self) -> usize {
        let words = self.text[..self.cursor].unicode_word_indices();
        words.map(|(at, _)| at).next_back().unwrap_or(0)
    }

    pub(super) fn word_right(&mut self) {
        let mut words = self.text[self.cursor..].unicode_word_indices();
        self.cursor = words.next().map_or(self.text.len(), |(at, word)| self.cursor + at + word.len());
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.cursor..].find('\n').map_or(self.text.len(), |at| self.cursor + at)
    }

    pub(super) fn home(&mut self) {
        self.cursor = self.line_start();
    }

    pub(super) fn end(&mut self) {
        self.cursor = self.line_end();
    }

    pub(super) fn backspace(&mut self) {
        self.cut(self.before());
    }

    pub(super) fn delete(&mut self) {
        let after = self.after();
        self.text.replace_range(self.cursor..after, "");
    }

    pub(super) fn delete_word(&mut self) {
        self.cut(self.word_start());
    }

    pub(super) fn delete_to_start(&mut self) {
        self.cut(self.line_start());
    }

    pub(super) fn delete_to_end(&mut self) {
        let end = self.line_end();
        self.text.replace_range(self.cursor..end, "");
    }

    fn cut(&mut self, from: usize) {
        self.text.replace_range(from..self.cursor, "");
        self.cursor = from;
    }

    /// One row up or down at this width; false if there is none.
    pub(super) fn vertical(&mut self, width: usize, down: bool) -> bool {
        let (row, column) = self.layout(width).cursor;
        let Some(target) = (if down { Some(row + 1) } else { row.checked_sub(1) }) else { return false };
        let mut best = None;
        let mut probe = Self { text: self.text.clone(), cursor: 0 };
        // Long texts are rare here, and one pass over the positions is simple.
        for at in self.text.grapheme_indices(true).map(|(at, _)| at).chain([self.text.len()]) {
            probe.cursor = at;
            let place = position(&probe.text[..at], width);
            if place.0 == target && place.1 <= column {
                best = Some(at);
            }
            if place.0 > target {
                break;
            }
        }
        match best {
            Some(at) => {
                self.cursor = at;
                true
            }
            None => false,
        }
    }

    /// The rows at a width, and the cursor's place.
    pub(super) fn layout(&self, width: usize) -> Layout {
        let mut rows = vec![String::new()];
        let mut used = 0;
        for grapheme in self.text.graphemes(true) {
            let wide = grapheme.width();
            if grapheme == "\n" || used + wide > width.max(2) {
                rows.push(String::new());
                used = 0;
            }
            if grapheme != "\n" {
                used += wide;
                if let Some(row) = rows.last_mut() {
                    row.push_str(grapheme);
                }
            }
        }
        let cursor = position(&self.text[..self.cursor], width);
        if cursor.0 == rows.len() {
            rows.push(String::new());
        }
        Layout { rows, cursor }
    }
}

/// Where the next character after `before` would stand.
fn position(before: &str, width: usize) -> (usize, usize) {
    let (mut row, mut column) = (0, 0);
    for grapheme in before.graphemes(true) {
        let wide = grapheme.width();
        if grapheme == "\n" {
            (row, column) = (row + 1, 0);
        } else if column + wide > width.max(2) {
            (row, column) = (row + 1, wide);
        } else {
            column += wide;
        }
    }
    // The cursor needs a column of its own.
    if column >= width.max(2) { (row + 1, 0) } else { (row, column) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn editor(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(text);
        editor
    }

    #[test]
    fn people_see_graphemes() {
        let mut family = editor("a👩‍👩‍👧é");
        family.insert("\u{301}");
        family.backspace();
        assert_eq!(family.text(), "a👩‍👩‍👧");
        family.left();
        family.delete();
        assert_eq!(family.text(), "a");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let layout = editor("日本語").layout(4);
        assert_eq!(layout, Layout { rows: vec!["日本".into(), "語".into()], cursor: (1, 2) });
        let layout = editor("日本").layout(4);
        assert_eq!(layout, Layout { rows: vec!["日本".into(), String::new()], cursor: (1, 0) });
    }

    #[test]
    fn a_paste_keeps_its_lines_and_loses_its_controls() {
        let mut pasted = editor("one\r\ntwo\rthree\t\u{1b}[31m");
        assert_eq!(pasted.text(), "one\ntwo\nthree [31m");
        assert!(pasted.vertical(80, false));
        pasted.home();
        pasted.delete_to_end();
        assert_eq!(pasted.text(), "one\n\nthree [31m");
        assert!(pasted.vertical(80, false));
        assert!(!pasted.vertical(80, false), "the first row");
    }

    #[test]
    fn words_go_at_once() {
        let mut words = editor("hello big, world");
        words.delete_word();
        assert_eq!(words.text(), "hello big, ");
        words.word_left();
        words.delete_to_start();
        assert_eq!(words.text(), "big, ");
        words.word_right();
        words.insert("gest");
        assert_eq!(words.text(), "biggest, ");
        assert_eq!(words.take(), "biggest, ");
        assert!(words.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn whatever_is_pressed_the_cursor_stands_in_the_text(
            text in "[a-zé日👩\u{200d}\u{301} \n]{0,30}",
            keys in proptest::collection::vec(0u8..12, 0..40),
            width in 1usize..12,
        ) {
            let mut editor = editor(&text);
            for key in keys {
                match key {
                    0 => editor.left(),
                    1 => editor.right(),
                    2 => editor.word_left(),
                    3 => editor.word_right(),
                    4 => editor.home(),
                    5 => editor.end(),
                    6 => editor.backspace(),
                    7 => editor.delete(),
                    8 => editor.delete_word(),
                    9 => drop(editor.vertical(width, true)),
                    10 => drop(editor.vertical(width, false)),
                    _ => editor.insert("x\u{301}日"),
                }
                prop_assert!(editor.text().is_char_boundary(editor.cursor));
                let layout = editor.layout(width);
                prop_assert!(layout.cursor.0 < layout.rows.len());
                prop_assert!(layout.rows.iter().all(|row| row.width() <= width.max(2) || row.graphemes(true).count() == 1));
            }
        }
    }
}
