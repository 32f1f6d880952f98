//! What goes over the line is what `docs/json-rpc.md` says, and what becomes of a guest whose host ends.

use std::collections::BTreeSet;
use std::path::Path;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::message::{self, read_request};
use super::request::{METHODS, Request};
use crate::client::Client;
use crate::conversation::{ConversationId, Entry, MessageId};
use crate::engine::{Account, ConversationSummary, Error, Event, MemberSummary, Person, Relay, SyncState};
use crate::identity::SafetyNumber;
use crate::store::{Database, KdfCost, Location, Passphrase};

const DOCUMENT: &str = include_str!("../../../../docs/json-rpc.md");

/// The examples under each heading that is a name in backticks.
fn examples() -> Vec<(&'static str, Vec<Value>)> {
    let sections = DOCUMENT.split("\n### `").skip(1);
    let read = |block: &str| serde_json::from_str(block).unwrap_or_else(|error| panic!("{block}: {error}"));
    sections
        .map(|section| {
            let (name, rest) = section.split_once('`').expect("a name ends");
            let rest = rest.split("\n## ").next().unwrap_or_default();
            let blocks = rest.split("```json\n").skip(1).filter_map(|block| block.split("```").next());
            (name, blocks.map(read).collect())
        })
        .collect()
}

/// The value is read as the type, which writes the very same.
fn check<T: Serialize + DeserializeOwned>(name: &str, value: &Value) {
    let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(json!(read), *value, "{name}");
}

#[test]
fn every_method_is_described_by_what_is_read_and_written() {
    let examples = examples();
    let described: BTreeSet<&str> =
        examples.iter().map(|(name, _)| *name).filter(|name| *name != "event").collect();
    assert_eq!(described, BTreeSet::from(METHODS));
    for (name, examples) in &examples {
        if *name == "event" {
            let [event] = &examples[..] else { panic!("one example of an event") };
            check::<Event>(name, &event["params"]);
            assert_eq!(event["method"], message::EVENT);
            continue;
        }
        let [asked, answered] = &examples[..] else { panic!("{name}: a request and its answer") };
        let (id, request) = read_request(asked.to_string().as_bytes()).expect("a request");
        assert_eq!(id.as_ref(), Some(&answered["id"]), "{name}");
        assert_eq!(json!(request)["method"], *name);
        assert_eq!(answered["jsonrpc"], "2.0", "{name}");
        let result = &answered["result"];
        match request {
            Request::Account {} => check::<Account>(name, result),
            Request::State {} => check::<SyncState>(name, result),
            Request::Conversations {} => check::<Vec<ConversationSummary>>(name, result),
            Request::People {} => check::<Vec<Person>>(name, result),
            Request::Members { .. } => check::<Vec<MemberSummary>>(name, result),
            Request::History { .. } => check::<Vec<Entry>>(name, result),
            Request::Send { .. } => check::<MessageId>(name, &result["id"]),
            Request::Start { .. } => check::<ConversationId>(name, &result["conversation"]),
            Request::Relays {} => check::<Vec<Relay>>(name, result),
            Request::SafetyNumber { .. } => {
                let number: SafetyNumber =
                    serde_json::from_value(result["digits"].clone()).expect("a number");
                assert_eq!(json!(number.groups().collect::<Vec<_>>()), result["groups"]);
            }
            _ => assert_eq!(*result, Value::Null, "{name}"),
        }
    }
}

/// Serde lists the variants of an enumeration when it is given none of them.
#[test]
fn the_list_of_methods_is_complete() {
    let none = serde_json::from_value::<Request>(json!({"method": "?", "params": {}})).expect_err("none");
    let listed: Vec<_> = none.to_string().split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert_eq!(listed, METHODS);
}

#[test]
fn what_is_not_understood_has_a_code() {
    let refused = |line: &str| {
        let malformed = read_request(line.as_bytes()).expect_err("it is malformed");
        let failure = json!(malformed.failure);
        let codes = (failure["code"].as_i64().unwrap_or_default(), failure["data"]["code"].clone());
        (malformed.id, codes.0, codes.1)
    };
    let with = |rest: &str| format!(r#"{{"jsonrpc": "2.0", "id": 7, {rest}}}"#);
    assert_eq!(refused("{"), (Some(Value::Null), -32700, json!("BAD_JSON")));
    assert_eq!(refused("[]"), (Some(Value::Null), -32600, json!("BAD_REQUEST")));
    assert_eq!(refused(r#"{"id": 7, "method": "state"}"#), (Some(json!(7)), -32600, json!("BAD_REQUEST")));
    assert_eq!(refused(&with(r#""method": "dance""#)), (Some(json!(7)), -32601, json!("UNKNOWN_METHOD")));
    for params in [r#"{}"#, r#"{"conversation": "x"}"#, r#"{"conversation": 1}"#, "7"] {
        let line = with(&format!(r#""method": "members", "params": {params}"#));
        assert_eq!(refused(&line), (Some(json!(7)), -32602, json!("BAD_PARAMS")), "{params}");
    }
    let stray = with(r#""method": "block", "params": {"person": "x", "blocked": true, "why": 1}"#);
    assert_eq!(refused(&stray).1, -32602);
    let (id, request) = read_request(br#"{"jsonrpc": "2.0", "method": "state"}"#).expect("a notification");
    assert_eq!((id, request), (None, Request::State {}));
}

#[test]
fn an_error_is_the_same_at_both_ends() {
    let errors = [
        Error::NoAccount,
        Error::UnknownConversation,
        Error::NotActive("it has ended".to_owned()),
        Error::BadContent("too long".to_owned()),
        Error::UnknownPerson("bob".to_owned()),
        Error::ForeignRelay("wss://far.example".to_owned()),
        Error::Failed { cause: "GAP", reason: "the relay skipped envelopes".to_owned() },
        Error::Refused { code: "RATE_LIMITED".to_owned(), message: "later".to_owned() },
        Error::NotSettled("1 post is to go".to_owned()),
        Error::Stopped,
    ];
    for error in errors {
        let (words, code) = (error.to_string(), error.code());
        let line = message::answer(&json!(1), Err(error.into()));
        let message::Heard::Answer(1, Err(heard)) = message::heard(&line) else { panic!("{words}") };
        assert_eq!((heard.to_string(), heard.code()), (words, code));
    }
}

fn profile(folder: &Path) -> Client {
    let path = folder.join("posthorn.db");
    let database = Database::create(
        Location::File(&path),
        &Passphrase::new("x"),
        KdfCost::CHEAP,
        &mut OsRng.unwrap_err(),
    );
    Client::with_database(database.expect("is made")).expect("runs")
}

#[cfg(unix)]
mod shared {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn attach(folder: &Path) -> Option<Client> {
        let folder = folder.to_owned();
        let attached = tokio::task::spawn_blocking(move || Client::attach(&folder).expect("no error"));
        attached.await.expect("no panic")
    }

    #[tokio::test]
    async fn a_guest_asks_and_hears_what_the_holder_would_say() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(attach(folder.path()).await.is_none(), "nobody is there");
        let holder = profile(folder.path());
        let socket = folder.path().join("posthorn.sock");
        // What a process left that was killed.
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
        assert!(attach(folder.path()).await.is_none(), "nobody listens");
        let share = holder.share(folder.path()).expect("shares");
        let mode = std::fs::metadata(&socket).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let guest = attach(folder.path()).await.expect("somebody is there");
        let mut events = guest.events();
        assert!(guest.account().await.expect("answers").is_none());
        assert!(!guest.state().await.expect("answers").connected);
        let unknown = guest.conversation(ConversationId([7; 16])).members().await;
        assert!(matches!(unknown, Err(Error::UnknownConversation)), "{unknown:?}");
        let settled = guest.settled(Duration::from_millis(10)).await;
        assert!(matches!(settled, Err(Error::NotSettled(_))), "{settled:?}");
        let refused = guest.consent(crate::engine::Consent::Everybody).await;
        assert_eq!(refused.expect_err("it is the holder's").code(), "PROFILE_IN_USE");

        share.end(Duration::from_secs(30)).await;
        assert!(events.next().await.is_none(), "the holder shares no more");
        assert!(matches!(guest.account().await, Err(Error::Stopped)));
        assert!(!socket.exists());
        holder.close().await.expect("closes");
    }

    /// More than may be under way at once, and more guests than are let in at once.
    #[tokio::test]
    async fn guests_wait_for_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let holder = profile(folder.path());
        let share = holder.share(folder.path()).expect("shares");
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..super::super::GUESTS + 8 {
            let folder = folder.path().to_owned();
            asking.spawn(async move {
                let guest = attach(&folder).await.expect("is let in");
                let asks = (0..super::super::IN_FLIGHT + 8).map(|_| guest.state());
                let answers = futures_util::future::join_all(asks).await;
                answers.into_iter().filter(Result::is_ok).count()
            });
        }
        let answered = asking.join_all().await;
        assert!(answered.iter().all(|count| *count == super::super::IN_FLIGHT + 8), "{answered:?}");
        share.end(Duration::from_secs(30)).await;
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_for_a_socket_is_gone_around() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("long".repeat(40));
        std::fs::create_dir(&long).expect("is made");
        let holder = profile(&long);
        let share = holder.share(&long).expect("shares");
        let guest = attach(&long).await.expect("finds it");
        assert!(guest.account().await.expect("answers").is_none());
        drop(share);
        assert!(!long.join("posthorn.sock").exists());
    }

    #[tokio::test]
    async fn a_line_without_end_is_read_no_further() {
        let folder = tempfile::tempdir().expect("a folder");
        let holder = profile(folder.path());
        let (mut near, far) = tokio::io::duplex(1024);
        let (input, output) = tokio::io::split(far);
        let endless = tokio::io::repeat(b'x').take(u64::MAX);
        drop(input);
        holder.serve(endless, output).await.expect("ends");
        let mut told = String::new();
        near.read_to_string(&mut told).await.expect("reads");
        assert!(told.contains("LINE_TOO_LONG"), "{told}");
    }

    /// What is asked before the end of the stream is answered after it.
    #[tokio::test]
    async fn what_was_asked_is_answered_after_the_last_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let holder = profile(folder.path());
        let asked = concat!(
            r#"{"jsonrpc": "2.0", "id": "a", "method": "account"}"#,
            "\n\nno JSON\n",
            r#"{"jsonrpc": "2.0", "method": "state"}"#,
            "\n",
            r#"{"jsonrpc": "2.0", "id": 2, "method": "settled", "params": {"timeout_ms": 1}}"#,
        );
        let mut told = Vec::new();
        holder.serve(asked.as_bytes(), &mut told).await.expect("ends");
        let told = String::from_utf8(told).expect("text");
        let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 3, "{told}");
        let of = |id: Value| lines.iter().find(|line| line["id"] == id).expect("is answered");
        assert_eq!(of(json!("a"))["result"], Value::Null);
        assert_eq!(of(Value::Null)["error"]["data"]["code"], "BAD_JSON");
        assert_eq!(of(json!(2))["error"]["data"]["code"], "NOT_SETTLED");
    }
}
