//! One process per profile: others wait their turn, for as long as they were told to.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{TestRelay, errors, good, posthorn, run};
use posthorn_client::store::{Database, Location, Passphrase};

/// Opens a profile as any other process would.
fn open(home: &Path, passphrase: &str) -> Option<Database> {
    Database::open(Location::File(&home.join("posthorn.db")), &Passphrase::new(passphrase)).ok()
}

#[test]
fn four_at_once_take_turns() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (alice, bob) = (folder.path().join("alice"), folder.path().join("bob"));
    let relay = TestRelay::start();
    relay.register(&alice, "alice");
    relay.register(&bob, "bob");
    good(&alice, &["start", "bob"]);
    let send = |number: u32| {
        let text = number.to_string();
        let mut command: Command = posthorn(&alice, &["send", "bob", &text, "--wait", "60"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("posthorn starts")
    };
    let sending: Vec<_> = (1..=4).map(send).collect();
    for send in sending {
        let output = send.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(good(&alice, &["history", "bob"]).matches("you: ").count(), 4);

    let held = open(&alice, "correct horse").expect("it is closed");
    let refused = run(&alice, &["--json", "send", "bob", "hello", "--wait", "0"]);
    assert!(errors(&refused).contains("PROFILE_IN_USE"), "{refused:?}");
    drop(held);
    good(&alice, &["send", "bob", "hello"]);
}

#[test]
fn a_passphrase_is_changed_and_a_short_one_is_warned_of() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (home, file) = (folder.path().join("alice"), folder.path().join("new"));
    TestRelay::start().register(&home, "alice");
    let change = |new: &str| -> Output {
        std::fs::write(&file, new).expect("it is ours");
        run(&home, &["--json", "passphrase", "--new-passphrase-file", &file.to_string_lossy()])
    };
    assert!(errors(&change("")).contains("EMPTY_PASSPHRASE"));
    assert!(open(&home, "correct horse").is_some(), "nothing was changed");
    let changed = change("seven77");
    assert!(changed.status.success(), "{changed:?}");
    assert!(errors(&changed).contains("fewer than 8 characters"), "{changed:?}");
    assert!(open(&home, "correct horse").is_none() && open(&home, "seven77").is_some());
    let refused = run(&home, &["--json", "card"]);
    assert!(errors(&refused).contains("WRONG_PASSPHRASE"), "{refused:?}");
}
