//! The relay is killed: what is told, and how long one waits.

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{POSTHORN, TestRelay, errors, good, posthorn, prepare, run};

#[test]
fn who_waits_for_a_dead_relay_is_told_so_and_not_kept_longer_than_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (alice, bob) = (folder.path().join("alice"), folder.path().join("bob"));
    let relay = TestRelay::start();
    prepare(&alice);
    let uninvited = run(&alice, &["--json", "register", "--relay", &relay.url, "--handle", "alice"]);
    assert!(errors(&uninvited).contains("INVITE_NEEDED"), "{uninvited:?}");
    for (home, handle) in [(&alice, "alice"), (&bob, "bob")] {
        let told = relay.register(home, handle);
        let next = format!("`{POSTHORN} --home {} chat`", home.display());
        assert!(told.contains(&next), "it can be typed as it stands: {told}");
    }
    good(&alice, &["start", "bob"]);
    let twice = run(&alice, &["--json", "add", "bob", "bob"]);
    assert!(errors(&twice).contains("ALREADY_MEMBER"), "{twice:?}");
    drop(relay);

    let send = run(&alice, &["send", "bob", "hello", "--wait", "2"]);
    let told = errors(&send);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((send.status.code(), lines.len()), (Some(1), 2), "{told}");
    assert!(lines[0].contains("queued") && lines[0].contains("2 s") && lines[0].contains("--wait"), "{told}");
    assert!(lines[1].contains("queued") && lines[1].contains("do not send it again"), "{told}");
    let json = run(&alice, &["--json", "send", "bob", "hello", "--wait", "1"]);
    assert_eq!(errors(&json).lines().count(), 1, "programs get one object: {json:?}");
    let history = good(&alice, &["history", "bob"]);
    assert_eq!(history.matches("you: hello  …").count(), 2, "{history}");
    listening_ends_in_time(&alice);
    interrupted(&alice);
}

fn listening_ends_in_time(home: &Path) {
    let mut timeout = Command::new("timeout");
    timeout.arg("3").arg(POSTHORN).arg("--home").arg(home).args(["listen", "--until-settled", "--for", "1"]);
    timeout.env("POSTHORN_PASSPHRASE", "correct horse").stdin(Stdio::null());
    let output = timeout.output().expect("timeout(1) is there");
    assert_eq!(output.status.code(), Some(1), "124 would say that it went on: {output:?}");
    assert!(errors(&output).contains("cannot be reached"), "{output:?}");
}

fn interrupted(home: &Path) {
    let mut send = posthorn(home, &["send", "bob", "later", "--wait", "60"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut told = BufReader::new(send.stderr.take().expect("piped")).lines();
    let first = told.next().expect("told at once").expect("UTF-8");
    assert!(first.contains("ctrl-c"), "{first}");
    let kill =
        Command::new("kill").args(["-INT", &send.id().to_string()]).status().expect("kill(1) is there");
    assert!(kill.success());
    let last = told.next().expect("told at the end").expect("UTF-8");
    assert!(last.contains("the message is queued"), "{last}");
    assert_eq!(send.wait().expect("it ends").code(), Some(130));
}
