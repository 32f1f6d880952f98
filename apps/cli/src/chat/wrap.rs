//! Breaking text into rows for the history. Pure.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// The text as rows of at most `width` columns, broken between words where that is possible.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2);
    let mut rows = Vec::new();
    for paragraph in text.split('\n') {
        let mut row = String::new();
        let mut used = 0;
        for word in words(paragraph) {
            let wide = word.width();
            if used + wide <= width {
                row.push_str(word);
                used += wide;
            } else if word.trim().is_empty() {
                // The space at which a row breaks is not shown.
                rows.push(std::mem::take(&mut row));
                used = 0;
            } else {
                // A word that fits into a row of its own begins one; a longer one fills what is left.
                if wide <= width {
                    rows.push(std::mem::take(&mut row).trim_end().to_owned());
                    used = 0;
                }
                for grapheme in word.graphemes(true) {
                    if used + grapheme.width() > width {
                        rows.push(std::mem::take(&mut row));
                        used = 0;
                    }
                    row.push_str(grapheme);
                    used += grapheme.width();
                }
            }
        }
        rows.push(row);
    }
    rows
}

/// Likewise, but no more than so many rows, with an ellipsis if some of it is missing.
pub(crate) fn wrap_into(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut rows = wrap(text, width);
    if rows.len() > most {
        rows.truncate(most);
        if let Some(last) = rows.last_mut() {
            *last = fit(&format!("{last} …"), width.max(2));
        }
    }
    rows
}

/// Stretches of spaces and of everything else, in turn.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest.find(|c: char| c.is_whitespace() != first.is_whitespace()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

/// As much of the text as fits into `width` columns, with an ellipsis if some is missing.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut fitted = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        if used + grapheme.width() + 1 > width {
            break;
        }
        fitted.push_str(grapheme);
        used += grapheme.width();
    }
    if width > 0 {
        fitted.push('…');
    }
    fitted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_break_between_words() {
        assert_eq!(wrap("the quick brown fox", 10), ["the quick", "brown fox"]);
        assert_eq!(wrap("say /new (now)", 8), ["say /new", "(now)"]);
        assert_eq!(wrap("one\n\ntwo", 10), ["one", "", "two"]);
        assert_eq!(wrap("", 10), [""]);
    }

    #[test]
    fn what_has_no_spaces_breaks_anywhere() {
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("日本語日本語", 5), ["日本", "語日", "本語"]);
    }

    #[test]
    fn what_does_not_fit_is_cut_by_columns() {
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("abcd", 0), "");
    }

    #[test]
    fn what_has_more_rows_than_there_is_room_ends_with_an_ellipsis() {
        assert_eq!(wrap_into("the quick brown fox", 10, 2), ["the quick", "brown fox"]);
        assert_eq!(wrap_into("the quick brown fox", 12, 1), ["the quick …"]);
        assert_eq!(wrap_into("the quick brown fox", 9, 1), ["the quic…"]);
        assert!(wrap_into("fox", 10, 0).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn no_row_is_too_wide_and_no_letter_is_lost(text in "[a-z日👩é,. \n]{0,120}", width in 2usize..20) {
            let rows = wrap(&text, width);
            prop_assert!(rows.iter().all(|row| row.width() <= width));
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&rows.concat()), letters(&text));
        }
    }
}
