//! What the tour says: its narration, the checks, and the tables.

use std::io::Write as _;

use textwrap::wrap;
use unicode_truncate::UnicodeTruncateStr as _;
use unicode_width::UnicodeWidthStr as _;

use crate::stored::Envelope;

/// Columns that everything fits into.
const WIDTH: usize = 100;
/// Columns of what a person read, beside what the relay stored.
const READ: usize = 44;
/// Bytes of an envelope that are shown.
const HEX_BYTES: usize = 19;

/// What shells say of a program whose reader went away: 128 and SIGPIPE.
const READER_GONE: i32 = 141;

/// Prints a line; a reader that went away (`| head`) is a reason to stop in silence. The processes end with
/// their pipes, or as children that nobody waits for.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(READER_GONE);
    }
}

/// As much of a text as fits, with an ellipsis if some is missing.
fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    format!("{}…", text.unicode_truncate(width.saturating_sub(1)).0)
}

/// A text on one line.
fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ⏎ ")
}

/// Says something, wrapped.
pub(super) fn tell(text: &str) {
    wrap(text, WIDTH).iter().for_each(|row| line(row));
}

/// Begins an act.
pub(super) fn act(number: usize, title: &str) {
    line("");
    let text = format!("== {number}. {title} ");
    line(&format!("{text}{}", "=".repeat(WIDTH.saturating_sub(text.width()))));
}

/// One thing that must be so.
#[derive(Debug)]
struct Check {
    what: String,
    passed: bool,
    detail: String,
}

/// The checks so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    checks: Vec<Check>,
}

impl Report {
    /// Notes a check; `detail` is what was seen, or why it failed.
    pub(super) fn check(&mut self, what: &str, passed: bool, detail: impl Into<String>) {
        self.checks.push(Check { what: what.to_owned(), passed, detail: one_line(&detail.into()) });
    }

    /// Prints the table of checks; true if all passed.
    pub(super) fn conclude(&self) -> bool {
        line("");
        let title = "== Checks ";
        line(&format!("{title}{}", "=".repeat(WIDTH - title.len())));
        for check in &self.checks {
            let sign = if check.passed { '✓' } else { '✗' };
            let rest = WIDTH.saturating_sub(check.what.width() + 6);
            match (check.detail.is_empty(), check.passed) {
                (true, _) => line(&format!(" {sign} {}", check.what)),
                (false, true) => line(&format!(" {sign} {}: {}", check.what, fit(&check.detail, rest))),
                // A failure is told in full.
                (false, false) => {
                    line(&format!(" {sign} {}:", check.what));
                    wrap(&check.detail, WIDTH - 4).iter().for_each(|row| line(&format!("    {row}")));
                }
            }
        }
        let passed = self.checks.iter().filter(|check| check.passed).count();
        let failed = self.checks.len() - passed;
        line("");
        line(&format!("{passed} passed, {failed} failed"));
        failed == 0
    }
}

/// An entry that a person read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) seq: u64,
    pub(super) sender: String,
    pub(super) text: String,
}

/// What a person read and what the relay stored for it, side by side.
pub(super) fn side_by_side(person: &str, read: &[&Read], stored: impl Fn(u64) -> Option<Envelope>) {
    line("");
    let left = format!("seq  what {person} read");
    line(&format!("{} │ what the relay stored: bytes, and the first of them", padded(&left, READ + 5)));
    line(&format!("{}─┼─{}", "─".repeat(READ + 5), "─".repeat(WIDTH - READ - 8)));
    read.iter().for_each(|entry| line(&row(entry, stored(entry.seq).as_ref())));
}

fn row(entry: &Read, stored: Option<&Envelope>) -> String {
    let text = one_line(&format!("{}: {}", entry.sender, entry.text));
    let left = format!("{:>3}  {}", entry.seq, padded(&fit(&text, READ), READ));
    let right = match stored {
        Some(envelope) => format!("{:>5}  {}…", envelope.bytes.len(), hex(&envelope.bytes)),
        None => "(not kept)".to_owned(),
    };
    format!("{left} │ {right}")
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&bytes[..bytes.len().min(HEX_BYTES)])
}

/// Padded to a width in columns.
fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_tables_fit() {
        assert_eq!(padded("日本", 6), "日本  ");
        let read = Read { seq: 999, sender: "anna".into(), text: "日本語".repeat(30) };
        let stored = Envelope { turned: false, bytes: vec![7; 65_536] };
        assert_eq!(row(&read, Some(&stored)).width(), 98);
        assert!(row(&read, None).width() < WIDTH);
    }

    #[test]
    fn one_failure_fails_all() {
        let mut report = Report::default();
        report.check("one", true, "");
        assert!(report.conclude());
        report.check("two", false, "because");
        assert!(!report.conclude());
    }
}
