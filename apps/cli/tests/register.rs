//! `register` after everything that may cut one off: it begins anew, or goes on.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{TestRelay, errors, good, posthorn, run};

fn registering<'a>(relay: &'a TestRelay, handle: &'a str) -> [&'a str; 7] {
    ["register", "--relay", &relay.url, "--handle", handle, "--invite", &relay.invite]
}

#[test]
fn an_empty_file_is_no_profile() {
    let (relay, home) = (TestRelay::start(), tempfile::tempdir().expect("a folder"));
    std::fs::write(home.path().join("posthorn.db"), "").expect("a file");
    let card = run(home.path(), &["--json", "card"]);
    assert!(errors(&card).contains("NO_PROFILE"), "{card:?}");
    good(home.path(), &registering(&relay, "alice"));
    good(home.path(), &["card"]);
}

#[test]
fn whenever_it_is_killed_the_next_one_ends_well() {
    let relay = TestRelay::start();
    // Hashing the passphrase takes some hundred milliseconds: the profile is made after that.
    for (number, delay) in [0, 20, 60, 150, 300, 500].into_iter().enumerate() {
        let home = tempfile::tempdir().expect("a folder");
        let handle = format!("alice{number}");
        let command = registering(&relay, &handle);
        let mut first = posthorn(home.path(), &command);
        first.stdout(Stdio::null()).stderr(Stdio::null());
        let mut first = first.spawn().expect("posthorn starts");
        std::thread::sleep(Duration::from_millis(delay));
        first.kill().expect("it is killed, or has ended");
        first.wait().expect("it ends");
        let second = run(home.path(), &command);
        let over = errors(&second).contains("account already");
        assert!(second.status.success() || over, "after {delay} ms: {second:?}");
        good(home.path(), &["card"]);
    }
}

#[test]
fn a_passphrase_is_the_same_composed_decomposed_and_from_windows() {
    let (relay, folder) = (TestRelay::start(), tempfile::tempdir().expect("a folder"));
    let home = folder.path().join("profile");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.into_os_string().into_string().expect("UTF-8")
    };
    let composed = file("composed", "H\u{1ed9}i b\u{1ea1}n\n");
    let decomposed = file("decomposed", "\u{feff}Ho\u{323}\u{302}i ba\u{323}n\r\n");
    let with = |file: &str, arguments: &[&str]| {
        let mut command = posthorn(&home, arguments);
        command.env_remove("POSTHORN_PASSPHRASE").args(["--passphrase-file", file]);
        command.output().expect("posthorn starts")
    };
    let registered = with(&decomposed, &registering(&relay, "alice"));
    assert!(registered.status.success(), "{registered:?}");
    assert!(errors(&registered).contains("byte order mark"), "{registered:?}");
    for file in [&composed, &decomposed] {
        let card = with(file, &["card"]);
        assert!(card.status.success() && card.stderr.is_empty(), "{card:?}");
    }
    let other = file("other", "Hoi ban\n");
    assert_eq!(with(&other, &["card"]).status.code(), Some(1));
}

/// It used to wait without a word, and for ever.
#[test]
fn a_relay_that_is_full_is_told_with_its_reason() {
    let mut config = posthorn_server::Config::for_tests();
    config.store.accounts = 1;
    let (relay, homes) = (TestRelay::with(config), tempfile::tempdir().expect("a folder"));
    relay.register(&homes.path().join("alice"), "alice");
    let home = homes.path().join("bob");
    common::prepare(&home);
    let bob = run(&home, &[&registering(&relay, "bob")[..], &["--wait", "10"]].concat());
    assert_eq!(bob.status.code(), Some(1), "{bob:?}");
    for part in ["not registered within 10 s", "QUOTA", "accounts", "the same command goes on"] {
        assert!(errors(&bob).contains(part), "{part}: {bob:?}");
    }
}
