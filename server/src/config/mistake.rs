//! Mistakes in a configuration, each in one line: what is wrong, with which key, where it stands, and what
//! may be meant.

use figment::error::{Kind, OneOf};

use super::KEYS;

const LIST: &str = ": write a list, such as [\"127.0.0.1\", \"172.16.0.0/12\"]";

/// What is wrong, with which key, and where it stands.
pub(super) fn in_one_line(error: &figment::Error) -> String {
    let words = match &error.kind {
        Kind::UnknownField(found, siblings) => unknown(found, siblings, &error.path),
        // figment puts quotes around the quotes of its list.
        Kind::UnknownVariant(found, known) => format!("there is no `{found}`: write {}", OneOf(known)),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {}, expected {}", without_types(&found.to_string()), without_types(expected))
        }
        kind => without_picture(&kind.to_string()),
    };
    let hint = match &error.path[..] {
        [only] if only == "listen" => {
            ": write an IP address and a port, such as 127.0.0.1:4100 or [::]:4100 (names such as localhost are not looked up)"
        }
        [only] if only == "trusted_proxies" => LIST,
        [rates, exempt] if rates == "rates" && exempt == "exempt" => LIST,
        _ => "",
    };
    let key = if error.path.is_empty() { String::new() } else { format!("{}: ", error.path.join(".")) };
    let metadata = error.metadata.as_ref();
    let place = match metadata.and_then(|metadata| metadata.source.as_ref()) {
        Some(figment::Source::File(file)) => format!(" (in {})", file.display()),
        _ if metadata.is_some_and(|metadata| metadata.name.contains("environment")) => {
            " (in the environment)".to_owned()
        }
        _ => String::new(),
    };
    format!("{key}{words}{hint}{place}")
}

/// What stands there or should, without the names of Rust's types.
fn without_types(words: &str) -> String {
    match words {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        _ => ["unsigned int ", "signed int ", "float "].iter().fold(words.to_owned(), |words, of_type| {
            words.strip_prefix(of_type).map_or(words.clone(), |value| format!("the number {value}"))
        }),
    }
}

/// TOML's parser draws the line with a mark below it, which one line has no room for: it leaves where that
/// is, and what is wrong.
fn without_picture(text: &str) -> String {
    let is_drawn =
        |line: &&str| line.trim_start().trim_start_matches(char::is_numeric).trim_start().starts_with('|');
    let lines = text.lines().filter(|line| !is_drawn(line)).map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(": ")
}

/// There is no such key; which one is near, or where it stands.
fn unknown(found: &str, siblings: &[&str], path: &[String]) -> String {
    let parent = path
        .split_last()
        .map_or_else(String::new, |(_, parent)| parent.iter().map(|p| format!("{p}.")).collect());
    let near = siblings.iter().map(|sibling| (distance(found, sibling), sibling)).min();
    let elsewhere =
        || KEYS.iter().find(|key| key.name.rsplit('.').next() == Some(found)).map(|key| key.name.to_owned());
    let meant = match near {
        Some((distance, sibling)) if distance <= 1 + found.len() / 4 => Some(format!("{parent}{sibling}")),
        _ => elsewhere(),
    };
    match meant {
        Some(meant) => format!("there is no such key; did you mean {meant}?"),
        None => "there is no such key; docs/configuration.md lists all of them".to_owned(),
    }
}

/// Levenshtein's, in bytes: keys are ASCII.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let cost = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn values_are_described_without_the_names_of_types() {
        let dir = tempfile::tempdir().expect("temp dir");
        let told = |key: &str, value: &str| {
            let flags = vec![(key.to_owned(), value.to_owned())];
            let sources = Sources { file: None, flags };
            Config::load(&sources, dir.path().to_owned()).expect_err("wrong").to_string()
        };
        let number = "expected a whole number";
        for (value, found) in [("-5", "the number `-5`"), ("1.5", "the number `1.5`"), ("x", "string \"x\"")]
        {
            let expected = format!("limits.idle_seconds: found {found}, {number}");
            assert_eq!(told("limits.idle_seconds", value), expected);
        }
        assert_eq!(
            told("open_registration", "5"),
            "open_registration: found the number `5`, expected true or false"
        );
    }

    #[test]
    fn what_may_be_meant_is_told() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let told = unknown("idle_second", &["frame_bytes", "idle_seconds"], &path("limits.idle_second"));
        assert_eq!(told, "there is no such key; did you mean limits.idle_seconds?");
        let told = unknown("limit", &["listen", "limits", "log"], &path("limit"));
        assert_eq!(told, "there is no such key; did you mean limits?");
        let told = unknown("idle_seconds", &["listen", "limits"], &path("idle_seconds"));
        assert_eq!(told, "there is no such key; did you mean limits.idle_seconds?");
        assert!(unknown("colour", &["listen", "limits"], &path("colour")).contains("docs/configuration.md"));
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }
}
