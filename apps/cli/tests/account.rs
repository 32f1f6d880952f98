//! The end of an account.

mod common;

use common::{TestRelay, errors, good, run};

#[test]
fn who_removes_their_account_leaves_and_the_name_is_free() {
    let relay = TestRelay::start();
    let folder = tempfile::tempdir().expect("a folder");
    let home = |name: &str| folder.path().join(name);
    let (alice, bob) = (home("alice"), home("bob"));
    relay.register(&alice, "alice");
    relay.register(&bob, "bob");
    good(&bob, &["start", "alice"]);
    good(&alice, &["accept", "bob"]);
    good(&alice, &["send", "bob", "farewell"]);
    let unsure = run(&alice, &["--json", "delete-account"]);
    assert!(errors(&unsure).contains("NOT_CONFIRMED"), "{unsure:?}");
    good(&alice, &["send", "bob", "once more"]);

    let removed = run(&alice, &["delete-account", "--yes"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(errors(&removed), "", "nothing is wrong about it");
    let history = good(&bob, &["history", "alice"]);
    assert!(history.contains("once more") && history.contains("alice left"), "{history}");
    assert!(good(&alice, &["history", "bob"]).contains("farewell"), "the history stays");

    // Somebody else takes the name, and is not taken for her.
    relay.register(&home("other"), "alice");
    let refused = run(&bob, &["--json", "start", "alice", "--again"]);
    assert!(
        errors(&refused).contains("CANNOT_ADD") && errors(&refused).contains("another key"),
        "{refused:?}"
    );
    // Unless whoever was deceived so compares their number, and says so.
    let people = good(&bob, &["people"]);
    let new = people.lines().find(|line| line.starts_with("alice#")).expect("told apart");
    let new = new.split_whitespace().next().expect("a name");
    good(&bob, &["verify", new, "--mark"]);
    assert!(good(&bob, &["start", "alice", "--again"]).starts_with("Started alice"));
}
