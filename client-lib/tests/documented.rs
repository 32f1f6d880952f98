//! What people are told to look up is there.

use std::collections::BTreeSet;

use posthorn_client::conversation::Cause;

const DOCUMENT: &str = include_str!("../../docs/causes.md");
/// Where stable names are given: each is the string behind an arrow.
const SOURCES: &[&str] = &[
    include_str!("../src/engine/error.rs"),
    include_str!("../src/envelope/mod.rs"),
    include_str!("../src/group/error.rs"),
    include_str!("../src/group/key_package.rs"),
    include_str!("../src/identity/card.rs"),
    include_str!("../src/inbox/mod.rs"),
    include_str!("../src/store/error.rs"),
];

/// The first column of a document's tables.
fn rows(document: &str) -> BTreeSet<&str> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name).collect()
}

#[test]
fn every_cause_has_its_row_and_every_row_its_cause() {
    let table = DOCUMENT.split("\n## ").find(|section| section.starts_with("Causes")).expect("is there");
    let causes: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!(rows(table), causes);
}

#[test]
fn every_code_of_an_error_has_its_row_and_every_row_its_code() {
    let is_code = |text: &&str| text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let codes = SOURCES.iter().flat_map(|source| source.split("=> \"").skip(1));
    let mut codes: BTreeSet<&str> = codes.filter_map(|rest| rest.split('"').next()).filter(is_code).collect();
    assert!(codes.len() > 50, "{codes:?}");
    codes.extend(Cause::ALL.iter().map(|cause| cause.name()));
    assert_eq!(rows(DOCUMENT), codes);
}
