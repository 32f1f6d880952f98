//! Prose and comments are at most 110 columns wide; rustfmt sees to code, and wraps no comments.
//!
//! Exempt is what cannot be broken, or would be harder to read: rows of tables, fenced blocks, addresses, and
//! words that are too long themselves (a hash).

use super::{Finding, TrackedFile};

/// Most columns of a line; rustfmt.toml has the same for code.
const COLUMNS: usize = 110;
/// Columns of a word, beyond which it may stand where it is.
const LONG_WORD: usize = 80;

/// The lines of one file that are too wide.
pub(super) fn check(file: &TrackedFile) -> Vec<Finding> {
    let text = file.text.as_deref().unwrap_or_default();
    let wide: Vec<usize> = match file.path.rsplit_once('.').map(|(_, end)| end) {
        Some("rs") => wide(text.lines().map(comment)),
        Some("md") => wide(text.lines().map(|line| Some((0, line)))),
        Some("proto") => wide(text.lines().map(|line| Some((0, line)))),
        _ => return Vec::new(),
    };
    let place = |number: usize| format!("{}:{number}", file.path);
    wide.into_iter()
        .map(|number| Finding::error(place(number), format!("is wider than {COLUMNS} columns")))
        .collect()
}

/// The comment in a line of Rust, and how many columns stand before it.
fn comment(line: &str) -> Option<(usize, &str)> {
    let body = line.trim_start();
    if body.starts_with("//") {
        let body = body.trim_start_matches(['/', '!']);
        return Some((columns(line) - columns(body), body));
    }
    // A comment behind code, unless it is in a string.
    let (code, comment) = line.split_once(" // ")?;
    (code.matches('"').count() % 2 == 0).then(|| (columns(code) + 4, comment))
}

/// The numbers of the lines that are too wide. `None` is a line without prose; it ends a fenced block.
fn wide<'a>(lines: impl Iterator<Item = Option<(usize, &'a str)>>) -> Vec<usize> {
    let mut fenced = false;
    let mut wide = Vec::new();
    for (at, line) in lines.enumerate() {
        let Some((before, body)) = line else {
            fenced = false;
            continue;
        };
        let trimmed = body.trim_start();
        if trimmed.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !trimmed.starts_with('|') && before + without_long_words(body) > COLUMNS {
            wide.push(at + 1);
        }
    }
    wide
}

/// The columns of a line, less those of words that cannot be broken, if it has others.
fn without_long_words(line: &str) -> usize {
    let long = |word: &&str| word.contains("://") || columns(word) > LONG_WORD;
    let long: usize = line.split_whitespace().filter(long).map(columns).sum();
    columns(line) - long
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = TrackedFile { path: path.to_owned(), text: Some(text.to_owned()) };
        check(&file).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wide_prose_is_found() {
        let words = "word ".repeat(22);
        assert_eq!(words.len(), COLUMNS);
        for (path, text) in [
            ("a.md", format!("one\n{words}x")),
            ("a.md", format!("one\n    {words}")),
            ("a.md", format!("```\n{words}\n```\n{words}x")),
            ("a.proto", format!("one\n// {words}")),
            ("a.rs", format!("/// one\n/// {words}")),
            ("a.rs", format!("fn f() {{\n    x(\"a\"); // {words}")),
        ] {
            assert!(!found(path, &text).is_empty(), "{path}: {text}");
        }
        let findings = found("a.rs", &format!("/// one\n/// {words}"));
        assert_eq!(findings, ["error: a.rs:2: is wider than 110 columns"]);
    }

    #[test]
    fn what_may_be_wide() {
        let words = "word ".repeat(22);
        let hash = "ab".repeat(64);
        for (path, text) in [
            ("a.md", words.clone()),
            ("a.md", "ä".repeat(79) + " " + &"ü".repeat(30)),
            ("a.md", format!("| {words} |")),
            ("a.md", format!("```\n{words}x\n```\n")),
            ("a.md", format!("see https://example.org/{hash} for it")),
            ("a.md", format!("`{hash}`")),
            ("a.rs", format!("let x = \"{words}\";")),
            ("a.rs", format!("let x = \"a // {words}\";")),
            ("a.rs", format!("//! | {words} |\n//! ```\n//! {words}\n//! ```\n")),
            ("a.rs", format!("    /// {hash}")),
            ("a.txt", format!("{words}x")),
        ] {
            assert_eq!(found(path, &text), [""; 0], "{path}: {text}");
        }
        let block = format!("//! ```text\nfn f() {{}}\n// {words}");
        assert_eq!(found("a.rs", &block).len(), 1, "a block ends with the comment that it stands in");
    }
}
