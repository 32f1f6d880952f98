//! Numbers of promises and rules: whatever is used anywhere stands in `docs/design.md`, once, and the house
//! rules in `CONTRIBUTING.md`.

use std::collections::BTreeSet;
use std::fmt;

use super::{Finding, TrackedFile};

const DESIGN: &str = "docs/design.md";
const HOUSE: &str = "CONTRIBUTING.md";
/// The tests below name numbers that do not exist.
const OWN: &str = "xtask/src/tidy/numbers.rs";
/// Files that people write and that may name a number.
const READ: &[&str] = &[".rs", ".md", ".proto", ".sql", ".toml", ".sh", ".yml", ".c"];

/// What the project refers to by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    /// A promise of the relay: R6.
    Relay(u32),
    /// A promise of the client library: C1.
    Client(u32),
    /// A rule of the design's fine print.
    Rule(u32),
    /// A house rule.
    House(u32),
}

impl Number {
    fn document(self) -> &'static str {
        if matches!(self, Self::House(_)) { HOUSE } else { DESIGN }
    }

    /// The one before it, which must be there too.
    fn before(self) -> Option<Self> {
        let before = |n: u32| n.checked_sub(1).filter(|n| *n > 0);
        match self {
            Self::Relay(n) => before(n).map(Self::Relay),
            Self::Client(n) => before(n).map(Self::Client),
            Self::Rule(n) => before(n).map(Self::Rule),
            Self::House(n) => before(n).map(Self::House),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(n) => write!(f, "R{n}"),
            Self::Client(n) => write!(f, "C{n}"),
            Self::Rule(n) => write!(f, "rule {n}"),
            Self::House(n) => write!(f, "house rule {n}"),
        }
    }
}

/// Every number that a file uses is defined, and what is defined has neither holes nor repeats.
pub(super) fn check(files: &[TrackedFile]) -> Vec<Finding> {
    let text_of = |path: &str| {
        let file = files.iter().find(|file| file.path == path);
        file.and_then(|file| file.text.as_deref()).unwrap_or_default()
    };
    let (mut defined, mut findings) = (BTreeSet::new(), Vec::new());
    for (path, numbers) in [(DESIGN, in_headings(text_of(DESIGN))), (HOUSE, in_list(text_of(HOUSE)))] {
        if numbers.is_empty() {
            findings.push(Finding::error(path, "defines no numbers"));
        }
        for (line, number) in numbers {
            if !defined.insert(number) {
                findings.push(Finding::error(format!("{path}:{line}"), format!("{number} is there twice")));
            }
        }
    }
    let missing = defined.iter().filter_map(|number| number.before()).filter(|n| !defined.contains(n));
    findings.extend(missing.map(|n| Finding::error(n.document(), format!("{n} is missing before the next"))));
    let read = |path: &str| path != OWN && READ.iter().any(|end| path.ends_with(end));
    for file in files.iter().filter(|file| read(&file.path)) {
        for (line, number) in used(&file.path, file.text.as_deref().unwrap_or_default()) {
            if !defined.contains(&number) {
                let text = format!("{number} is not in {}", number.document());
                findings.push(Finding::error(format!("{}:{line}", file.path), text));
            }
        }
    }
    findings
}

/// Headings `R6`, `C1` and `Rule 11`, with their lines.
fn in_headings(text: &str) -> Vec<(usize, Number)> {
    let headings = text.lines().enumerate().filter(|(_, line)| line.starts_with('#'));
    headings
        .filter_map(|(at, line)| {
            let title = line.trim_start_matches('#').trim();
            let rule = title.strip_prefix("Rule ").and_then(|n| n.parse().ok()).map(Number::Rule);
            Some((at + 1, rule.or_else(|| promise(title))?))
        })
        .collect()
}

/// The numbered list under the heading "House rules", with its lines.
fn in_list(text: &str) -> Vec<(usize, Number)> {
    let lines = text.lines().enumerate().skip_while(|(_, line)| *line != "## House rules").skip(1);
    lines
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter_map(|(at, line)| Some((at + 1, Number::House(line.split_once(". ")?.0.parse().ok()?))))
        .collect()
}

/// `R6` or `C1` and nothing else.
fn promise(word: &str) -> Option<Number> {
    let make = match word.as_bytes().first()? {
        b'R' => Number::Relay,
        b'C' => Number::Client,
        _ => return None,
    };
    let digits = &word[1..];
    let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (plain && !digits.starts_with('0')).then(|| digits.parse().ok().map(make))?
}

/// Every number that the text of a file uses, with its line.
fn used(path: &str, text: &str) -> Vec<(usize, Number)> {
    let words = words(path, text);
    let mut found = Vec::new();
    for (at, (line, word)) in words.iter().enumerate() {
        let before = at.checked_sub(1).is_some_and(|before| is_byte(words[before].1));
        let after =
            words.get(at + 1).is_some_and(|(_, next)| is_byte(next.trim_end_matches([',', '.', ')'])));
        // `C3 A9` are two bytes.
        if !(before || after && is_byte(word)) {
            found.extend(promises(word).map(|number| (*line, number)));
        }
        found.extend(rules(&words, at).into_iter().map(|number| (*line, number)));
    }
    found
}

fn is_byte(word: &str) -> bool {
    word.len() == 2 && word.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// The promises in one word, such as both in `R1..R10`. What is part of a longer name is none (`x-R6`,
/// `C1.txt`).
fn promises(word: &str) -> impl Iterator<Item = Number> + '_ {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let starts = word.char_indices().filter(move |(at, c)| {
        (*c == 'R' || *c == 'C') && !word[..*at].chars().next_back().is_some_and(part_of_name)
    });
    starts.filter_map(move |(at, _)| {
        let end = word[at..].find(|c| !part_of_name(c)).map_or(word.len(), |length| at + length);
        let (mut before, mut after) = (word[..at].chars().rev(), word[end..].chars());
        let joined = |c: Option<char>, next: Option<char>| {
            c.is_some_and(|c| "-.=\\".contains(c)) && next.is_some_and(char::is_alphanumeric)
        };
        let named = joined(before.next(), before.next()) || joined(after.next(), after.next());
        promise(&word[at..end]).filter(|_| !named)
    })
}

/// The rules that are named from the word "rule" or "rules" on: `rule 7`, `rules 5, 7 and 9`, `rules 18 to
/// 20`.
fn rules(words: &[(usize, &str)], at: usize) -> Vec<Number> {
    let bare = |word: &str| word.trim_start_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let many = match bare(words[at].1).as_str() {
        "rule" => false,
        "rules" => true,
        _ => return Vec::new(),
    };
    let house = at.checked_sub(1).is_some_and(|before| bare(words[before].1) == "house");
    let make = if house { Number::House } else { Number::Rule };
    let (mut numbers, mut range) = (Vec::<u32>::new(), false);
    for (_, word) in &words[at + 1..] {
        match *word {
            "and" | "or" if many && !numbers.is_empty() => continue,
            "to" if many && !numbers.is_empty() => {
                range = true;
                continue;
            }
            _ => {}
        }
        let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        let (digits, rest) = word.split_at(digits);
        let (Ok(number), true) = (digits.parse(), ends_a_number(rest)) else { break };
        let from = numbers.last().copied().filter(|_| range).unwrap_or(number);
        numbers.extend(if range { from + 1..=number } else { number..=number });
        range = false;
        if !many || !(rest.is_empty() || rest == ",") {
            break;
        }
    }
    numbers.into_iter().map(make).collect()
}

/// Whether a number is over before `rest`, so that `1.5`, `4x` and `10:30` are none.
fn ends_a_number(rest: &str) -> bool {
    let mut rest = rest.chars();
    match rest.next() {
        None => true,
        Some('\'' | '’') => true,
        Some(c) => !c.is_alphanumeric() && c != '%' && !rest.next().is_some_and(char::is_alphanumeric),
    }
}

/// The words that people read, with their lines: of Rust the comments and the strings, of others everything.
/// An empty word stands where one text ends, so that nothing is read across it.
fn words<'a>(path: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let mut words = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let is_comment = trimmed.starts_with("//");
        if path.ends_with(".rs") && !is_comment {
            words.push((at + 1, ""));
            for literal in line.split('"').skip(1).step_by(2) {
                words.extend(literal.split_whitespace().map(|word| (at + 1, word)));
                words.push((at + 1, ""));
            }
            let comment = line.split_once(" // ").map(|(_, comment)| comment).unwrap_or_default();
            words.extend(comment.split_whitespace().map(|word| (at + 1, word)));
            continue;
        }
        let body = trimmed.trim_start_matches(['/', '!', '#', '>', '*', '-']);
        if body.trim().is_empty() {
            words.push((at + 1, ""));
        }
        words.extend(body.split_whitespace().map(|word| (at + 1, word)));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::Number::{Client, House, Relay, Rule};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<Number> {
        used(path, text).into_iter().map(|(_, number)| number).collect()
    }

    #[test]
    fn numbers_in_use_are_found() {
        for (text, numbers) in [
            ("// no unbounded queue (R6)", vec![Relay(6)]),
            ("/// R1, R2 among others: `C1`.", vec![Relay(1), Relay(2), Client(1)]),
            ("//! promises R1..R10", vec![Relay(1), Relay(10)]),
            ("//! by C1, 10 times", vec![Client(1)]),
            ("/// kept (fine print, rule 4).", vec![Rule(4)]),
            ("/// Rule 19. The page cache", vec![Rule(19)]),
            ("// by rule 7's clock", vec![Rule(7)]),
            ("//! (rules 7, 8, 10 and 11)", vec![Rule(7), Rule(8), Rule(10), Rule(11)]),
            ("/// Rules 5 and 18 to 20 hold", vec![Rule(5), Rule(18), Rule(19), Rule(20)]),
            ("//! (design, rules 1, 10, 11; promises R2)", vec![Rule(1), Rule(10), Rule(11), Relay(2)]),
            ("/// quota and reserve (rule\n/// 5), expiry", vec![Rule(5)]),
            ("    wrong(\"it is kept (rule 11)\"); // and R6", vec![Rule(11), Relay(6)]),
            ("    // house rule 7", vec![House(7)]),
        ] {
            assert_eq!(found("a.rs", text), numbers, "{text}");
        }
        assert_eq!(found("docs/a.md", "| [2, 3](x) | sim, rule 13 | R9 |"), [Rule(13), Relay(9)]);
        assert_eq!(found("clippy.toml", "reason = \"a parameter (house rule 7)\""), [House(7)]);
    }

    #[test]
    fn what_only_looks_like_a_number_is_none() {
        for text in [
            "// C0 control characters, 0xC9, C12x, C123, RC4, x-R61 and R61.txt",
            "// in UTF-8 C9 80, then E2 C9",
            "let C9 = f::<R77>();",
            "// house rules; the rules; a rule. 7 others",
            "// a rule 7x, rules 1.5 and rule 5%",
            "// this is the rule\n\n// 99 others",
            "// rule\nlet x = 99;",
        ] {
            assert_eq!(found("a.rs", text), [], "{text}");
        }
        assert_eq!(found("a.rs", "// rule 3, 99 times"), [Rule(3)], "one rule has one number");
    }

    fn files(design: &str, code: &str) -> Vec<TrackedFile> {
        let file =
            |path: &str, text: &str| TrackedFile { path: path.to_owned(), text: Some(text.to_owned()) };
        let house = "## House rules\n\n1. **One.** With 2. inside\n2. **Two.**\n\n## Next\n\n9. no\n";
        vec![file(DESIGN, design), file(HOUSE, house), file("a.rs", code)]
    }

    #[test]
    fn each_number_stands_in_its_document() {
        let design = "### R1\n\n### R2\n\n### C1\n\n#### Rule 1\n\n#### Rule 2\n";
        assert_eq!(check(&files(design, "// R1, C1, rules 1 and 2, house rule 2")), []);
        for (text, problem) in [
            ("// as R3 says", "R3 is not in docs/design.md"),
            ("// as C2 says", "C2 is not in docs/design.md"),
            ("// by rule 3", "rule 3 is not in docs/design.md"),
            ("// by house rule 3", "house rule 3 is not in CONTRIBUTING.md"),
        ] {
            let findings = check(&files(design, text));
            assert_eq!(findings, [Finding::error("a.rs:1", problem)], "{text}");
        }
        for (design, problem) in [
            ("### R1\n### C1\n### Rule 1\n### R1\n", "R1 is there twice"),
            ("### R1\n### R3\n### C1\n### Rule 1\n", "R2 is missing before the next"),
            ("nothing", "defines no numbers"),
        ] {
            let findings = check(&files(design, ""));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].to_string().ends_with(problem), "{}", findings[0]);
        }
    }
}
