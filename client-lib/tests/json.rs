//! `docs/json.md` says what the library writes and reads, to the letter.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_client::content::{Change, Kind};
use posthorn_client::conversation::{Entry, Notice, Unreadable};
use posthorn_client::engine::{Account, ConversationSummary, Event, MemberSummary, Person, SyncState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/json.md");
/// What is told apart by name has an example of each: these names, at the end of a heading.
const VARIANTS: &[(&str, &[&str])] = &[
    (
        "Event",
        &[
            "connected",
            "disconnected",
            "relay",
            "entry",
            "changed",
            "conversation",
            "invited",
            "waiting",
            "missed",
            "alarm",
        ],
    ),
    ("Notice", &["invited", "joined", "added", "removed", "left", "returned", "moved", "repaired", "back"]),
    ("Kind", &["text", "custom", "unknown"]),
];

/// Every example, by its heading.
fn examples() -> BTreeMap<&'static str, Value> {
    let mut examples = BTreeMap::new();
    for section in DOCUMENT.split("\n### ").skip(1) {
        let (name, rest) = section.split_once('\n').expect("a heading ends");
        let rest = rest.split("\n## ").next().unwrap_or_default();
        let Some((_, block)) = rest.split_once("```json\n") else { continue };
        let block = block.split("```").next().unwrap_or_default();
        let value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(examples.insert(name, value).is_none(), "{name} is there twice");
    }
    examples
}

/// The example is read as the type, which writes the very same: a field more or less would show.
fn check<T: Serialize + DeserializeOwned>(name: &str, example: &Value) {
    let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&read).expect(name), *example, "{name}");
}

/// The names of all fields in a value.
fn fields(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(members) => {
            members.iter().flat_map(|(name, value)| fields(value).into_iter().chain([name.clone()])).collect()
        }
        Value::Array(values) => values.iter().flat_map(fields).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_example_is_what_the_library_writes_and_reads() {
    for (name, example) in examples() {
        match name.split(',').next().unwrap_or_default() {
            "Account" => check::<Account>(name, &example),
            "Change" => check::<Change>(name, &example),
            "ConversationSummary" => check::<ConversationSummary>(name, &example),
            "Entry" => check::<Entry>(name, &example),
            "Event" => check::<Event>(name, &example),
            "Kind" => check::<Kind>(name, &example),
            "MemberSummary" => check::<MemberSummary>(name, &example),
            "Notice" => check::<Notice>(name, &example),
            "Person" => check::<Person>(name, &example),
            "SyncState" => check::<SyncState>(name, &example),
            "Unreadable" => check::<Unreadable>(name, &example),
            _ => panic!("{name} names no type"),
        }
    }
}

#[test]
fn everything_that_is_told_apart_has_its_example() {
    let examples = examples();
    for (of, variants) in VARIANTS {
        for variant in *variants {
            let name = format!("{of}, {variant}");
            let example = examples.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no example"));
            let tag = example.get("event").or_else(|| example.get("kind")).and_then(Value::as_str);
            assert!(tag == Some(*variant) || example.get(*variant).is_some(), "{name}: {example}");
        }
    }
}

#[test]
fn every_field_is_described() {
    let text = DOCUMENT.split("```").step_by(2);
    let described: BTreeSet<&str> = text.flat_map(|text| text.split('`').skip(1).step_by(2)).collect();
    for (name, example) in examples() {
        for field in fields(&example) {
            assert!(described.contains(field.as_str()), "{name}: the field {field} has no words");
        }
    }
}
