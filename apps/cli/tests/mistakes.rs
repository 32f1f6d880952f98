//! Every mistake on the command line gets one line that says what is wrong or what to do, and a status that
//! is not 0.

mod common;

use std::process::{Command, Output, Stdio};

struct Profile(tempfile::TempDir);

impl Profile {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_posthorn"))
            .arg("--home")
            .arg(self.0.path().join("profile"))
            .args(arguments)
            .env("POSTHORN_PASSPHRASE", "correct horse")
            .stdin(Stdio::null())
            .output()
            .expect("posthorn starts")
    }
}

fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    assert!(output.status.code().is_some_and(|code| code != 101), "it panicked: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn a_mistake_gets_one_line() {
    let profile = Profile::new();
    let mistakes: &[&[&str]] = &[
        &["send", "bob", "hello"],
        &["chat"],
        &["conversations"],
        &["history", "bob"],
        &["card"],
        &["register", "--relay", "http://relay.example", "--handle", "alice"],
        &["register", "--relay", "ws://127.0.0.1:1", "--handle", "Not A Handle"],
        &[
            "register",
            "--relay",
            "ws://127.0.0.1:1",
            "--handle",
            "alice",
            "--passphrase-file",
            "no/such/file",
        ],
        &["start", "posthorn://broken"],
    ];
    for mistake in mistakes {
        let error = error_of(&profile.run(mistake));
        assert_eq!(error.trim_end().lines().count(), 1, "{mistake:?}: {error}");
        assert!(error.trim_end().len() > 10, "{mistake:?}: {error}");
    }
}

#[test]
fn numbers_at_the_edge_are_refused_in_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let relay = common::TestRelay::start();
    relay.register(folder.path(), "alice");
    for mistake in [
        &["listen", "--until-settled", "--for", "18446744073709551615"][..],
        &["send", "bob", "hi", "--wait", "18446744073709551615"],
        &["history", "bob", "--before", "18446744073709551615"],
        &["history", "bob", "--limit", "18446744073709551615"],
        &["history", "bob", "--limit", "-1"],
    ] {
        let output = common::run(folder.path(), mistake);
        assert_eq!(output.status.code(), Some(2), "{mistake:?}: {output:?}");
    }
    // The longest that can be asked for.
    common::good(folder.path(), &["listen", "--until-settled", "--for", "31622400"]);
    let unknown = common::run(folder.path(), &["history", "bob", "--before", "9223372036854775807"]);
    assert!(common::errors(&unknown).contains("no conversation"), "{unknown:?}");
}

#[test]
fn what_is_typed_wrongly_has_a_status_of_its_own() {
    let register = |relay, handle| ["register", "--relay", relay, "--handle", handle];
    for (mistake, code) in [
        (&register("ftp://relay.example", "alice")[..], "BAD_RELAY"),
        (&register("ws://127.0.0.1:1", "Not A Handle"), "BAD_HANDLE"),
        (&["start", "Bob"], "BAD_HANDLE"),
        (&["add", "family", "posthorn://broken"], "BAD_LINK"),
        (&["send", "bob", " \t\n"], "BAD_TEXT"),
    ] {
        let output = Profile::new().run(&[&["--json"], mistake].concat());
        assert_eq!(output.status.code(), Some(2), "{mistake:?}: {output:?}");
        assert!(error_of(&output).contains(code), "{mistake:?}: {output:?}");
    }
}

#[test]
fn with_json_an_error_is_one_object() {
    let error = error_of(&Profile::new().run(&["--json", "conversations"]));
    let error: serde_json::Value = serde_json::from_str(&error).expect("one JSON object");
    assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{error}");
}

#[test]
fn what_is_no_command_is_told_with_the_way_to_help() {
    for mistake in [&["dance"][..], &["send"], &["--no-such-option", "card"]] {
        let error = error_of(&Profile::new().run(mistake));
        assert!(error.starts_with("error:") && error.contains("--help"), "{mistake:?}: {error}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let relay = common::TestRelay::start();
    relay.register(folder.path(), "alice");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = common::posthorn(folder.path(), &["card"]);
    command.stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().expect("posthorn starts").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
