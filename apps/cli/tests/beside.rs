//! One process has the profile, and others ask it: each command is done, and once.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use common::{POSTHORN, TestRelay, errors, good, posthorn, run};
use serde_json::{Value, json};

/// Alice and Bob, in a conversation.
struct Two {
    _folder: tempfile::TempDir,
    alice: PathBuf,
    bob: PathBuf,
    relay: TestRelay,
}

impl Two {
    fn talking() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (alice, bob) = (folder.path().join("alice"), folder.path().join("bob"));
        let relay = TestRelay::start();
        relay.register(&alice, "alice");
        relay.register(&bob, "bob");
        good(&alice, &["start", "bob"]);
        good(&bob, &["accept", "alice"]);
        Self { _folder: folder, alice, bob, relay }
    }

    /// What Bob read, sorted.
    fn heard_by_bob(&self) -> Vec<String> {
        let history = good(&self.bob, &["--json", "history", "alice"]);
        let entries = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut texts: Vec<String> =
            entries.filter_map(|entry| Some(entry["said"]["text"].as_str()?.to_owned())).collect();
        texts.sort();
        texts
    }
}

/// A process that has a profile, ended with the test.
struct Holder {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Holder {
    /// Runs a command, and waits until its profile is shared.
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut command = posthorn(home, arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("posthorn starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let socket = home.join("posthorn.sock");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().expect("is ours").is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { child, lines }
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("a line").expect("UTF-8");
        serde_json::from_str(&line).expect("JSON")
    }

    fn input(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("piped")
    }

    fn ask(&mut self, request: &Value) {
        writeln!(self.input(), "{request}").expect("it reads");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends texts at once, each by a process of its own, and does something when the first has been sent; all
/// must go well.
fn all_at_once(home: &Path, texts: &[String], then: impl FnOnce()) {
    let send = |text: &String| {
        let mut command = posthorn(home, &["send", "bob", text, "--wait", "120"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("posthorn starts")
    };
    let mut then = Some(then);
    for child in texts.iter().map(send).collect::<Vec<Child>>() {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        if let Some(then) = then.take() {
            then();
        }
    }
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:02}")).collect()
}

#[test]
fn commands_are_done_beside_a_holder_without_a_passphrase() {
    let two = Two::talking();
    let mut listening = Holder::start(&two.alice, &["--json", "listen"]);
    let ask = |arguments: &[&str]| {
        let mut command = posthorn(&two.alice, arguments);
        command.env_remove("POSTHORN_PASSPHRASE");
        let output = command.output().expect("posthorn starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(ask(&["send", "bob", "hello"]), "sent\n");
    while listening.line()["said"]["text"] != "hello" {}
    assert!(ask(&["history", "bob"]).contains("you: hello"));
    assert!(ask(&["members", "bob"]).contains("(you)"));
    assert!(ask(&["conversations"]).contains("you: hello"));
    assert!(ask(&["status"]).contains("alice"));
    assert!(ask(&["verify", "bob"]).contains("Safety number of alice and bob"));
    assert!(ask(&["people"]).contains("bob"));
    assert!(ask(&["start", "bob", "--name", "Weekend"]).starts_with("Started Weekend"));
    assert!(ask(&["leave", "Weekend", "--yes"]).starts_with("You left Weekend"));
    assert!(ask(&["forget", "Weekend"]).starts_with("Weekend is forgotten"));
    let unknown = run(&two.alice, &["--json", "send", "carol", "hello"]);
    assert!(errors(&unknown).contains("UNKNOWN_CONVERSATION"), "{unknown:?}");
    // That needs the profile alone, and does not wait.
    let refused = run(&two.alice, &["--json", "passphrase"]);
    assert!(errors(&refused).contains("PROFILE_IN_USE"), "{refused:?}");
    assert_eq!(two.heard_by_bob(), ["hello"]);
}

#[test]
fn twenty_at_once_are_all_sent_once() {
    let two = Two::talking();
    let listening = Holder::start(&two.alice, &["listen"]);
    let texts = texts(20);
    all_at_once(&two.alice, &texts, || {});
    drop(listening);
    assert_eq!(two.heard_by_bob(), texts);
}

/// Killed in the middle, and each text stands there once: whoever got no answer asks again under the same id.
#[test]
fn a_holder_that_is_killed_takes_nothing_with_it() {
    let two = Two::talking();
    let listening = Holder::start(&two.alice, &["listen"]);
    let texts = texts(8);
    all_at_once(&two.alice, &texts, || drop(listening));
    assert!(two.alice.join("posthorn.sock").exists(), "it was killed");
    assert_eq!(two.heard_by_bob(), texts);
    good(&two.alice, &["send", "bob", "after"]);
}

/// Sends lines as they are taken. Returns how often that was told to be done.
fn send_lines(home: &Path, lines: Vec<String>) -> usize {
    let mut sending = posthorn(home, &["send", "bob", "--lines"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("posthorn starts");
    let mut input = sending.stdin.take().expect("piped");
    let writing = std::thread::spawn(move || {
        for line in lines {
            writeln!(input, "{line}").expect("it reads");
        }
    });
    let output = sending.wait_with_output().expect("it ends");
    writing.join().expect("all is written");
    assert!(output.status.success(), "{}", errors(&output));
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| *line == "sent").count()
}

#[test]
fn lines_are_sent_in_their_order_beside_a_holder() {
    let two = Two::talking();
    let _listening = Holder::start(&two.alice, &["listen"]);
    let texts = texts(200);
    assert_eq!(send_lines(&two.alice, texts.clone()), 200);
    let history = good(&two.bob, &["history", "alice", "--limit", "1000"]);
    let read: Vec<&str> = history.lines().filter_map(|line| line.split("alice: ").nth(1)).collect();
    assert_eq!(read, texts);
}

/// (When a line was ready while the client looked for what it had missed, it never found it, and said after
/// half a minute that messages were queued which the relay had long taken.)
#[test]
fn of_many_lines_each_is_told_to_be_sent() {
    let two = Two::talking();
    assert_eq!(send_lines(&two.alice, texts(2500)), 2500);
}

/// A backup is made by whoever has the profile, and no passphrase is asked for.
#[test]
fn a_backup_is_made_beside_a_process_that_has_the_profile() {
    let two = Two::talking();
    let holder = Holder::start(&two.alice, &["daemon"]);
    let (kept, other) = (two.alice.with_file_name("kept"), two.alice.with_file_name("other"));
    let kept = kept.to_str().expect("UTF-8");
    let backup = posthorn(&two.alice, &["--json", "backup", kept]).env_remove("POSTHORN_PASSPHRASE").output();
    let backup = backup.expect("starts");
    assert!(backup.status.success(), "{backup:?}");
    drop(holder);
    good(&other, &["restore", kept]);
    let card = |home: &Path| good(home, &["--json", "card"]);
    assert_eq!(card(&other), card(&two.alice));
}

#[test]
fn a_daemon_is_asked_on_its_input_and_ends_with_it() {
    let two = Two::talking();
    let mut daemon = Holder::start(&two.alice, &["daemon"]);
    let ask = |id: u32, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    daemon.ask(&ask(1, "subscribe", json!({})));
    daemon.ask(&ask(2, "conversations", json!({})));
    let answer = |daemon: &mut Holder, id: u32| {
        std::iter::from_fn(|| Some(daemon.line())).find(|line| line["id"] == id).expect("is answered")
    };
    assert_eq!(answer(&mut daemon, 1)["result"], Value::Null);
    let conversation = answer(&mut daemon, 2)["result"][0]["id"].clone();
    let said = json!({"conversation": conversation, "said": {"kind": "text", "text": "from a program"}});
    daemon.ask(&ask(3, "send", said));
    let id = answer(&mut daemon, 3)["result"]["id"].clone();
    let is_sent = |line: &Value| line["params"]["event"] == "changed" && line["params"]["id"] == id;
    std::iter::from_fn(|| Some(daemon.line())).find(is_sent).expect("is sent");
    // At the same time, by the socket.
    assert_eq!(good(&two.alice, &["send", "bob", "from the shell"]), "sent\n");
    drop(daemon.child.stdin.take());
    assert!(daemon.child.wait().expect("it ends").success());
    assert_eq!(two.heard_by_bob(), ["from a program", "from the shell"]);
}

/// The bot of the documentation, in a group, with real processes.
#[test]
fn a_bot_answers_in_a_group() {
    let two = Two::talking();
    let bot = two.alice.with_file_name("bot");
    two.relay.register(&bot, "faq");
    let mut python = Command::new("python3");
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bot.py"));
    python.args(["--posthorn", POSTHORN, "--home"]).arg(&bot).env("POSTHORN_PASSPHRASE", "correct horse");
    python.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("python3 is needed for this test");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "faq answers; ctrl-c ends it");
    let _running = Holder { child, lines };

    good(&two.alice, &["start", "bob", "faq", "--name", "Office"]);
    let mut listening = Holder::start(&two.alice, &["--json", "listen"]);
    for question in ["is anybody there?", "!hours", "!why"] {
        good(&two.alice, &["send", "Office", question]);
    }
    let mut answers = BTreeSet::new();
    while answers.len() < 2 {
        let event = listening.line();
        if event["event"] == "entry" && event["handle"] == "faq" && event["said"]["kind"] == "text" {
            answers.insert(event["said"]["text"].as_str().expect("text").to_owned());
        }
    }
    let expected = ["I know !hours, !where.", "We are open from nine to five."];
    assert_eq!(answers, expected.map(str::to_owned).into());
}
