//! The relay is killed: what is told, and how long one waits.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const POSTHORN: &str = env!("CARGO_BIN_EXE_posthorn");

fn posthorn(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(POSTHORN);
    command.arg("--home").arg(home).args(arguments);
    command
        .env("POSTHORN_PASSPHRASE", "correct horse")
        .env("POSTHORN_TEST_CHEAP_KDF", "1")
        .stdin(Stdio::null());
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    posthorn(home, arguments).output().expect("posthorn starts")
}

fn good(home: &Path, arguments: &[&str]) -> String {
    let output = run(home, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The tour's relay; killed when dropped.
struct Relay {
    child: Child,
    url: String,
    invite: String,
}

impl Relay {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(POSTHORN);
        command.arg("demo-relay").arg("--data").arg(data).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the relay starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("its address");
        let told: serde_json::Value = serde_json::from_str(&first).expect("JSON");
        let text = |key: &str| told[key].as_str().expect("a text").to_owned();
        Self { url: text("url"), invite: text("invite"), child }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn who_waits_for_a_dead_relay_is_told_so_and_not_kept_longer_than_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (alice, bob) = (folder.path().join("alice"), folder.path().join("bob"));
    let relay = Relay::start(&folder.path().join("relay"));
    let uninvited = run(&alice, &["--json", "register", "--relay", &relay.url, "--handle", "alice"]);
    assert!(errors(&uninvited).contains("INVITE_NEEDED"), "{uninvited:?}");
    for (home, handle) in [(&alice, "alice"), (&bob, "bob")] {
        let told =
            good(home, &["register", "--relay", &relay.url, "--handle", handle, "--invite", &relay.invite]);
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
