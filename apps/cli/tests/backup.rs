//! A profile that is lost comes back from its backup.

mod common;

use common::{TestRelay, errors, good, posthorn, run};

#[test]
fn a_lost_profile_comes_back_and_goes_on() {
    let relay = TestRelay::start();
    let folder = tempfile::tempdir().expect("a folder");
    let home = |name: &str| folder.path().join(name);
    let (alice, bob, kept) = (home("alice"), home("bob"), home("alice.posthorn"));
    let file = kept.to_str().expect("UTF-8");
    relay.register(&alice, "alice");
    relay.register(&bob, "bob");
    good(&bob, &["start", "alice"]);
    good(&alice, &["accept", "bob"]);
    for one in [&bob, &alice, &bob, &alice] {
        good(one, &["listen", "--until-settled"]);
    }
    assert!(good(&alice, &["backup", file]).contains("is in"));
    good(&bob, &["send", "alice", "are you there?"]);

    // The folder is gone; there is nothing but the file.
    std::fs::rename(&alice, home("gone")).expect("renames");
    let wrong = posthorn(&alice, &["--json", "restore", file]).env("POSTHORN_PASSPHRASE", "guessed").output();
    assert!(errors(&wrong.expect("starts")).contains("WRONG_PASSPHRASE"));
    good(&alice, &["restore", file]);
    assert!(errors(&run(&alice, &["--json", "restore", file])).contains("STORE_EXISTS"));
    assert!(good(&alice, &["history", "bob"]).contains("are you there?"));
    good(&alice, &["send", "bob", "here I am again"]);
    assert!(good(&bob, &["history", "alice"]).contains("here I am again"));
}
