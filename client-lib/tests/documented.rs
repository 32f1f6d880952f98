//! What people are told to look up is there.

use std::collections::BTreeSet;

use posthorn_client::conversation::Cause;

#[test]
fn every_cause_has_its_row_and_every_row_its_cause() {
    let document = include_str!("../../docs/causes.md");
    let rows: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
        .collect();
    let causes: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!(rows, causes);
}
