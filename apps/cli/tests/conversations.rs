//! Conversations from their beginning, which may be offline, to their end.

mod common;

use std::path::{Path, PathBuf};

use common::{TestRelay, errors, good, posthorn, run};
use serde_json::Value;

struct Two {
    folder: tempfile::TempDir,
    relay: TestRelay,
}

impl Two {
    /// Alice and Bob.
    fn registered() -> Self {
        let two = Self { folder: tempfile::tempdir().expect("a folder"), relay: TestRelay::start() };
        for handle in ["alice", "bob"] {
            two.relay.register(&two.home(handle), handle);
        }
        two
    }

    fn home(&self, handle: &str) -> PathBuf {
        self.folder.path().join(handle)
    }
}

/// All conversations of somebody, the newest first.
fn conversations(home: &Path) -> Vec<Value> {
    let listed = good(home, &["--json", "conversations"]);
    listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn what_is_begun_offline_is_named_after_whom_it_is_with() {
    let Two { folder, relay } = Two::registered();
    let alice = folder.path().join("alice");
    drop(relay);
    let started = run(&alice, &["start", "bob", "--wait", "1"]);
    assert!(errors(&started).contains("the invitations go out the next time"), "{started:?}");
    let listed = good(&alice, &["conversations"]);
    assert!(listed.contains("  bob [creating]\n          inviting bob\n"), "{listed}");
    assert_eq!(good(&alice, &["history", "bob"]), "-- inviting bob\n");
    let again = run(&alice, &["start", "bob", "--wait", "1"]);
    assert!(errors(&again).contains("the invitations go out the next time"), "{again:?}");
    let [only] = &conversations(&alice)[..] else { panic!("one") };
    assert_eq!(only["adding"], serde_json::json!(["bob"]));
}

#[test]
fn a_start_leads_to_no_conversation_that_is_over() {
    let two = Two::registered();
    let (alice, bob) = (two.home("alice"), two.home("bob"));
    good(&alice, &["start", "bob"]);
    let people = good(&alice, &["people"]);
    assert!(people.starts_with("bob ") && !people.contains('('), "who is begun with is accepted: {people}");
    assert!(good(&bob, &["people"]).contains("their invitations wait until you accept them)"));

    // Nobody is told of a decline.
    good(&bob, &["forget", "alice"]);
    let there = good(&alice, &["start", "bob"]);
    assert!(there.starts_with("There already is bob") && there.contains("it is not accepted yet"), "{there}");
    assert!(there.contains("start bob --again` starts another"), "{there}");
    assert!(good(&alice, &["start", "bob", "--again"]).starts_with("Started bob"));

    let refused = run(&alice, &["--json", "leave", "bob"]);
    assert!(errors(&refused).contains("AMBIGUOUS"), "{refused:?}");
    for one in conversations(&alice) {
        let id = one["id"].as_str().expect("text");
        let refused = run(&alice, &["--json", "leave", id]);
        assert!(errors(&refused).contains("NOT_CONFIRMED"), "{refused:?}");
        let refused = run(&alice, &["leave", id]);
        assert!(errors(&refused).contains("add --yes"), "nobody can be asked here: {refused:?}");
        assert!(good(&alice, &["leave", id, "--yes"]).starts_with("You left bob"));
        assert!(good(&alice, &["history", id]).ends_with("-- you left\n"));
    }
    assert!(good(&alice, &["start", "bob"]).starts_with("Started bob"));

    // Whoever left is not whom one is with.
    let active = |home: &Path, group: Option<&Value>| {
        let is_it =
            |one: &Value| one["state"] == "active" && group.is_none_or(|group| one["group"] == *group);
        conversations(home).into_iter().find(is_it).expect("one is")
    };
    let group = active(&alice, None)["group"].clone();
    good(&bob, &["listen", "--until-settled", "--accept"]);
    let id = active(&bob, Some(&group))["id"].clone();
    good(&bob, &["leave", id.as_str().expect("text"), "--yes"]);
    // The others take out who left, a moment later.
    let is_alone = || active(&alice, None)["members"].as_array().is_some_and(|members| members.len() == 1);
    assert!((0..40).any(|_| is_alone()), "{:?}", conversations(&alice));
    assert!(good(&alice, &["start", "bob"]).starts_with("Started bob"));
}

#[test]
fn what_is_put_away_comes_back_with_something_new() {
    let two = Two::registered();
    let (alice, bob) = (two.home("alice"), two.home("bob"));
    good(&alice, &["start", "bob"]);
    let refused = run(&bob, &["--json", "archive", "alice"]);
    assert!(errors(&refused).contains("NOT_ACTIVE"), "an invitation wants an answer: {refused:?}");
    good(&bob, &["accept", "alice"]);
    good(&bob, &["send", "alice", "hello"]);
    good(&alice, &["history", "bob"]);
    assert!(good(&alice, &["archive", "bob"]).contains("until something new comes"));
    let listed = good(&alice, &["conversations"]);
    assert!(listed.starts_with("(1 put away: ") && listed.lines().count() == 1, "{listed}");
    assert!(good(&alice, &["conversations", "--archived"]).contains("bob"));
    assert_eq!(conversations(&alice)[0]["archived"], true);
    // One's own words and its being read bring nothing back.
    good(&alice, &["send", "bob", "hello yourself"]);
    assert!(good(&bob, &["history", "alice"]).contains("hello yourself"));
    assert!(good(&alice, &["conversations"]).starts_with("(1 put away: "));
    good(&bob, &["send", "alice", "news"]);
    assert!(good(&alice, &["conversations"]).contains("news"));
    good(&alice, &["archive", "bob"]);
    good(&alice, &["leave", "bob", "--yes"]);
    assert!(good(&alice, &["conversations"]).starts_with("(1 put away: "));
    assert!(good(&alice, &["unarchive", "bob"]).contains("listed again"));
    assert!(good(&alice, &["conversations"]).contains("[left]"));
}

/// A flood of lines while the relay is away fills neither the profile nor the memory.
#[test]
fn of_lines_only_so_many_wait() {
    let two = Two::registered();
    let (alice, bob) = (two.home("alice"), two.home("bob"));
    good(&alice, &["start", "bob"]);
    good(&bob, &["accept", "alice"]);
    let Two { folder, relay } = two;
    drop(relay);
    let file = folder.path().join("lines");
    let lines: String = (1..=5000).map(|number| format!("line {number}\n")).collect();
    std::fs::write(&file, lines).expect("writes");
    let input = std::fs::File::open(&file).expect("opens");
    let mut sending = posthorn(&alice, &["send", "bob", "--lines", "--wait", "1"]);
    let sent = sending.stdin(input).output().expect("starts");
    let told = errors(&sent);
    assert!(told.contains("1000 messages are queued") && told.contains("from line 1001 on"), "{told}");
    let status: Value = serde_json::from_str(&good(&alice, &["--json", "status"])).expect("JSON");
    // Beside them may be what the client itself has to say.
    assert!((1000..1010).contains(&status["outbox"].as_u64().expect("a number")), "{status}");
}

/// Lines of a file, some of which can be no message.
#[test]
fn a_bad_line_is_named_and_left_out_when_that_is_asked_for() {
    let two = Two::registered();
    let (alice, bob) = (two.home("alice"), two.home("bob"));
    good(&alice, &["start", "bob"]);
    good(&bob, &["accept", "alice"]);
    let file = two.folder.path().join("lines");
    std::fs::write(&file, [b"first\ncaf\xe9\n", &[b'x'; 70_000][..], b"\nlast\n"].concat()).expect("writes");
    let send = |arguments: &[&str]| {
        let input = std::fs::File::open(&file).expect("opens");
        let words = [&["send", "bob", "--lines"], arguments].concat();
        posthorn(&alice, &words).stdin(input).output().expect("starts")
    };
    let sent = send(&[]);
    assert!(errors(&sent).contains("line 2 is not UTF-8") && sent.status.code() == Some(2), "{sent:?}");
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "sent\n", "what came before it is sent");
    let sent = send(&["--skip-bad"]);
    assert!(sent.status.success(), "{sent:?}");
    let told = errors(&sent);
    assert!(told.contains("line 2 ") && told.contains("line 3 has more than the 65536 bytes"), "{told}");
    let history = good(&bob, &["history", "alice"]);
    assert_eq!((history.matches("first").count(), history.matches("last").count()), (2, 1), "{history}");
}
