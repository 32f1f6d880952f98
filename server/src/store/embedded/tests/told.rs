//! What the operator is told by a start, and what not.

use std::fs;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::Time;
use super::super::damage::{Known, envelope};
use super::super::start::{Ground, Started};
use super::*;
use crate::heard::heard_of;
use crate::store::conformance::names::{account, mailbox};
use crate::store::conformance::small_policy;
use crate::store::ledger::Missing;

/// Every start told of lost envelopes, long after the operator had dealt with them.
#[test]
fn what_is_forgotten_is_no_error_any_more() {
    let dir = quick_dir();
    let ground = Ground {
        disk: Arc::new(SimDisk::default()),
        index: None,
        journal: SMALL,
        policy: small_policy(),
        time: Time { incarnation: [9; 16], start: 1 },
    };
    let started = ground.start(&mut StdRng::seed_from_u64(1)).expect("starts");
    let missing = (1..=3).map(|seq| Missing { mailbox: mailbox(1), seq }).collect();
    let mut started = Started { missing, ..started };
    let known = Known::of(Some(dir.path())).expect("readable");
    let report = |started: &Started, known: &Known| heard_of(|| started.report(known));
    let told = report(&started, &known);
    assert!(told.contains("ERROR") && told.contains("envelopes=3") && told.contains("stands in"), "{told}");
    let more = heard_of(|| known.found("another".to_owned()));
    assert!(!more.contains("stands in"), "that was told: {more}");
    known.add(started.losses()).expect("written");
    assert!(report(&started, &known).contains("ERROR"), "it is known, and not dealt with");
    known.forget().expect("written");
    let known = Known::of(Some(dir.path())).expect("readable");
    let told = report(&started, &known);
    assert!(!told.contains("ERROR") && told.contains("INFO") && told.contains("forgotten=3"), "{told}");
    started.missing.push(Missing { mailbox: mailbox(1), seq: 4 });
    assert!(!known.knows([envelope(&started.missing[3])].iter()));
    let told = report(&started, &known);
    assert!(told.contains("envelopes=1") && told.contains("forgotten=3"), "only what is new: {told}");
}

/// A new incarnation has its reason in the same line; to who has asked for it, it is no error.
#[test]
fn a_new_incarnation_is_told_with_its_reason() {
    let (dir, setup) = (quick_dir(), Setup::new(small_policy()));
    let (path, config) = (dir.path().join("data"), config(dir.path().join("data"), &setup));
    let rng = || StdRng::seed_from_u64(1);
    let start = || {
        let told = heard_of(|| {
            drop(EmbeddedStore::open(&config, setup.clock.clone(), setup.heard.clone(), &mut rng()));
        });
        told.lines().find(|line| line.contains("new incarnation")).unwrap_or_default().to_owned()
    };
    assert_eq!(start(), "", "an empty store becomes no other");
    let store = EmbeddedStore::open(&config, setup.clock.clone(), setup.heard.clone(), &mut rng());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(store.expect("opens").register(account(1))).expect("something is in the journal");
    assert_eq!(start(), "", "nothing has happened");
    let is_error = |line: String, why: &str| assert!(line.contains("ERROR") && line.ends_with(why), "{line}");
    fs::remove_file(path.join("incarnation")).expect("there");
    is_error(start(), "packages: incarnation is missing");
    fs::write(path.join("incarnation"), "posthorn incarnation 1 0001").expect("written");
    is_error(start(), "packages: incarnation cannot be understood");
    let old = fs::read(path.join("incarnation")).expect("there");
    assert_eq!((start(), start()), (String::new(), String::new()));
    fs::write(path.join("incarnation"), old).expect("written");
    is_error(start(), "packages: the journal ends at start 7, incarnation names 5");
    let told = heard_of(|| {
        EmbeddedStore::renew_incarnation(&config, setup.clock.clone(), &mut rng()).expect("renewed");
    });
    let line = told.lines().find(|line| line.contains("new incarnation")).expect("told");
    assert!(line.contains("INFO") && line.ends_with("packages: restored, as the operator says"), "{line}");
    assert!(!told.contains("ERROR"), "{told}");
}

/// Whoever may not open a file is told which, and what to do. (A folder in its place cannot be opened,
/// whoever asks; these tests may run as root.)
#[test]
fn a_start_says_what_it_cannot_read() {
    let (dir, setup) = (quick_dir(), Setup::new(small_policy()));
    let (path, config) = (dir.path().join("data"), config(dir.path().join("data"), &setup));
    let open = || {
        let rng = &mut StdRng::seed_from_u64(1);
        EmbeddedStore::open(&config, setup.clock.clone(), setup.heard.clone(), rng).map(drop)
    };
    open().expect("opens");
    let _ = fs::remove_dir_all(path.join("index"));
    fs::write(path.join("index"), "").expect("a file is no folder");
    let told = heard_of(|| open().expect("the index is only a shortcut"));
    assert!(told.contains("WARN") && told.contains("index cannot be read"), "{told}");
    let entries = fs::read_dir(path.join("journal")).expect("there");
    let last = entries.map(|entry| entry.expect("readable").path()).max().expect("a segment");
    fs::rename(&last, dir.path().join("aside")).expect("moved");
    fs::create_dir(&last).expect("made");
    let told = open().expect_err("refused").to_string();
    assert!(told.contains(last.to_str().expect("a name")) && told.contains("start again"), "{told}");
    fs::remove_dir(&last).expect("empty");
    fs::rename(dir.path().join("aside"), &last).expect("moved");
    open().expect("as before");
}

/// Who began empty there would take a mount that failed for a relay that has lost everything.
#[test]
fn a_journal_that_is_gone_refuses_the_start() {
    let (dir, setup) = (quick_dir(), Setup::new(small_policy()));
    let (path, config) = (dir.path().join("data"), config(dir.path().join("data"), &setup));
    let open = || {
        let rng = &mut StdRng::seed_from_u64(1);
        EmbeddedStore::open(&config, setup.clock.clone(), setup.heard.clone(), rng)
            .map(|store| store.incarnation())
    };
    let before = open().expect("opens");
    fs::rename(path.join("journal"), dir.path().join("aside")).expect("moved");
    for _ in 0..2 {
        let told = open().expect_err("refused").to_string();
        assert!(told.contains("journal holds no segment") && told.contains("backup"), "{told}");
    }
    fs::remove_dir(path.join("journal")).expect("nothing was written there");
    fs::rename(dir.path().join("aside"), path.join("journal")).expect("moved back");
    assert_eq!(open().expect("opens"), before);
    fs::remove_dir_all(path.join("journal")).expect("there");
    fs::remove_file(path.join("incarnation")).expect("there");
    open().expect("as the message says");
}
