//! People of two relays, each with the program that people use.

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use common::{TestRelay, errors, good, posthorn, run};
use serde_json::Value;

/// Two relays, and a folder for the profiles.
struct Two {
    here: TestRelay,
    there: TestRelay,
    folder: tempfile::TempDir,
}

impl Two {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { here: TestRelay::start(), there: TestRelay::start(), folder }
    }

    fn at(&self, relay: &TestRelay, handle: &str) -> PathBuf {
        let home = self.folder.path().join(handle);
        relay.register(&home, handle);
        home
    }
}

/// How somebody of a relay is called elsewhere.
fn full(handle: &str, relay: &TestRelay) -> String {
    format!("{handle}@{}", relay.url.trim_start_matches("ws://"))
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).expect("JSON")
}

fn read_all(home: &std::path::Path) {
    good(home, &["listen", "--until-settled"]);
}

#[test]
fn people_of_two_relays_talk_and_are_told_which_relay_they_wait_for() {
    let two = Two::start();
    let (anna, carl) = (two.at(&two.here, "anna"), two.at(&two.there, "carl"));
    let name = full("carl", &two.there);
    let nobody = run(&anna, &["start", &full("nobody", &two.there), "--json"]);
    assert!(errors(&nobody).contains("CANNOT_ADD"), "{nobody:?}");
    assert!(good(&anna, &["start", &name]).contains(&name), "it is said which relay's carl it is");
    read_all(&carl);
    let refused = run(&carl, &["accept", "anna"]);
    assert!(errors(&refused).contains("--foreign-relay"), "{refused:?}");
    good(&carl, &["accept", "anna", "--foreign-relay"]);
    good(&anna, &["send", "carl", "hello over there"]);
    assert!(good(&carl, &["history", "anna"]).contains("hello over there"));
    good(&carl, &["send", "anna", "hello over here"]);
    read_all(&anna);
    let history = good(&anna, &["history", &name]);
    assert!(history.contains(&format!("{name}: hello over here")), "{history}");
    // Each knows which relays they use.
    let listed = good(&carl, &["relay", "list", "--json"]);
    let listed: Vec<Value> = listed.lines().map(json).collect();
    let seen: Vec<_> = listed.iter().map(|known| (known["relay"].as_str(), known["own"].as_bool())).collect();
    assert_eq!(seen, [(Some(&*two.there.url), Some(true)), (Some(&*two.here.url), Some(false))]);

    // The relay that the conversation lives at dies: it is named, and nothing else is said to be away.
    let Two { here, there: _there, folder: _folder } = two;
    let away = here.url.clone();
    drop(here);
    let sent = run(&carl, &["send", "anna", "are you there?", "--wait", "5"]);
    let told = errors(&sent);
    assert!(!sent.status.success() && told.contains(&away) && told.contains("queued"), "{told}");
    let moved = run(&carl, &["move", "anna", "--wait", "5"]);
    let told = errors(&moved);
    let named = format!("{} cannot be reached", away.trim_start_matches("ws://"));
    assert!(!moved.status.success() && told.contains(&named), "{told}");
    // What is shown of it may not be all.
    let shown = run(&carl, &["history", "anna"]);
    let told = errors(&shown);
    assert!(
        shown.status.success() && told.contains(&named) && told.contains("what the profile has"),
        "{told}"
    );
    read_all(&carl);
    let state = json(&good(&carl, &["status", "--json"]));
    let is_well = (&state["connected"], &state["caught_up"]);
    assert_eq!(is_well, (&Value::Bool(true), &Value::Bool(true)), "{state}");
}

#[test]
fn who_has_never_used_the_relay_that_a_conversation_moves_to_is_asked() {
    let two = Two::start();
    let (anna, bob) = (two.at(&two.here, "anna"), two.at(&two.here, "bob"));
    let carl = two.at(&two.there, "carl");
    good(&anna, &["start", "bob", &full("carl", &two.there), "--name", "Trio"]);
    good(&bob, &["accept", "anna"]);
    read_all(&carl);
    good(&carl, &["accept", "anna", "--foreign-relay"]);
    good(&anna, &["send", "Trio", "shall we move?"]);
    read_all(&bob);
    good(&carl, &["move", "Trio"]);
    read_all(&bob);
    let listed = json(&good(&bob, &["conversations", "--json"]));
    assert_eq!(listed["state"]["suspended"]["cause"], "FOREIGN_RELAY", "{listed}");
    let shown = good(&bob, &["conversations"]);
    assert!(shown.contains("accept") && shown.contains("--foreign-relay"), "what to type: {shown}");
    let refused = run(&bob, &["accept", "Trio"]);
    assert!(errors(&refused).contains("--foreign-relay"), "{refused:?}");
    let kept = run(&bob, &["send", "Trio", "wait for me", "--wait", "1"]);
    let told = errors(&kept);
    assert!(told.contains("accept") && told.contains("do not send it again"), "{told}");
    // What is kept is nowhere said to be sent.
    let reacted = run(&bob, &["react", "Trio", "last", "👍"]);
    let told = errors(&reacted);
    assert!(!reacted.status.success() && told.contains("accept") && told.contains("kept"), "{reacted:?}");
    let status = good(&bob, &["status"]);
    assert!(status.contains("1 of them cannot go on") && status.contains("2 kept"), "{status}");
    let status = json(&good(&bob, &["status", "--json"]));
    assert_eq!((&status["suspended"], &status["kept"]), (&1.into(), &2.into()), "{status}");
    let heard = good(&bob, &["listen", "--until-settled"]);
    assert!(heard.contains("!! FOREIGN_RELAY [Trio]: waiting: it moved to"), "{heard}");
    told_before_the_first_line(&bob);
    good(&bob, &["accept", "Trio", "--foreign-relay"]);
    read_all(&bob);
    read_all(&anna);
    for home in [&anna, &carl] {
        let history = good(home, &["history", "Trio"]);
        assert!(history.contains("wait for me"), "{history}");
    }
}

/// Whoever types line after line is told before they have typed the first.
fn told_before_the_first_line(home: &std::path::Path) {
    let mut send = posthorn(home, &["send", "Trio", "--lines"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut told = BufReader::new(send.stderr.take().expect("piped")).lines();
    let first = told.next().expect("told at once").expect("UTF-8");
    assert!(first.contains("waiting: it moved to") && first.contains("accept"), "{first}");
    drop(send.stdin.take());
    assert!(send.wait().expect("it ends").success(), "nothing was typed");
}

#[test]
fn relays_are_named_and_proxies_checked() {
    let two = Two::start();
    let anna = two.at(&two.here, "anna");
    let refused = run(&anna, &["start", "bob@ws://10.255.255.1:9", "--json"]);
    assert!(errors(&refused).contains("PLAIN_RELAY"), "{refused:?}");
    for wrong in ["socks4://127.0.0.1:1", "127.0.0.1:9050"] {
        let refused = run(&anna, &["relay", "proxy", &two.here.url, wrong, "--json"]);
        assert!(errors(&refused).contains("BAD_PROXY"), "{refused:?}");
        assert_eq!(refused.status.code(), Some(2));
    }
    good(&anna, &["relay", "use", "wss://relay.example"]);
    good(&anna, &["relay", "proxy", "wss://relay.example", "socks5://127.0.0.1:9"]);
    let listed = good(&anna, &["relay", "list"]);
    let shown = listed.contains("wss://relay.example") && listed.contains("through socks5://127.0.0.1:9");
    assert!(shown, "{listed}");
    good(&anna, &["relay", "proxy", "wss://relay.example", "default"]);
    assert!(!good(&anna, &["relay", "list"]).contains("socks5"));
}
