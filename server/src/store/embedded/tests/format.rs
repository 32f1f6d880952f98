//! Data folders in released formats, kept beside this file. Whatever changes, they still open and say the
//! same. A new format gets a new folder and a new test; the old ones stay.
//!
//! `version-1/` was written by [`write_version_1`]
//! (`cargo test -p posthorn-server write_version_1 -- --ignored` writes what today's code makes of the same
//! requests into `$POSTHORN_FIXTURE`). Its last segment has no end, as after a kill.

use std::fs;
use std::path::{Path, PathBuf};

use posthorn_proto::PostId;

use super::super::StartError;
use super::super::journal::real::RealDisk;
use super::super::journal::{Batch, Journal, Replayed, Time};
use super::*;
use crate::store::conformance::names::{
    account, device, envelope, expect, handle_of, invite, mailbox, open, post, post_key, read_key, reader_id,
    sized, token, turn_key, turning, upto,
};
use crate::store::conformance::{Fixture, new_mailbox, small_policy};
use crate::store::{Append, NewInvite, OpenReader, ReadRange, StoreError};

const TIME: Time = Time { incarnation: [7; 16], start: 0 };
const ALL: ReadRange = ReadRange { from: 0, to: u64::MAX, bytes: usize::MAX };

/// The path of a kept folder.
pub(super) fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/embedded/tests").join(name)
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("there").map(|entry| entry.expect("readable")) {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = fs::copy(entry.path(), target).expect("copied"),
        }
    }
}

/// The append with the id that its number had when there was no time in ids.
fn of_then(append: Append) -> Append {
    let number = [append.post_id.0[4], append.post_id.0[5]];
    Append { post_id: PostId(std::array::from_fn(|at| if at < 2 { number[at] } else { 7 })), ..append }
}

/// The requests whose records are in `version-1`. (The ids of posts have a time since then.)
async fn fill(f: &mut Fixture) {
    let (one, two) = (f.mailbox(1, &[1, 2]).await, f.mailbox(2, &[1]).await);
    f.mailbox(3, &[1]).await;
    for n in 1..=5 {
        expect(f.store.append(sized(one, n, 0, 40 * usize::from(n))).await);
    }
    expect(f.store.append(turning(post(one, 6, 0), 0, &[3], &[2])).await);
    expect(f.store.append(post(one, 7, 1)).await);
    expect(f.store.advance(upto(one, 1, 3)).await);
    expect(f.store.destroy(mailbox(3), turn_key(0)).await);
    f.clock.pass(600);
    expect(f.store.expire().await);
    f.restart().await;

    let packages = vec![envelope(1, 50), envelope(2, 50), envelope(3, 50)];
    expect(f.store.publish_key_packages(device(1), packages, Some(envelope(9, 60))).await);
    assert_eq!(expect(f.store.take_key_packages(handle_of(1)).await)[0].key_package, envelope(1, 50));
    expect(f.store.publish_card(device(1), 4, envelope(4, 80)).await);
    expect(f.store.mint_invite(NewInvite { hash: invite(7), uses: 2, expires: u64::from(u32::MAX) }).await);
    f.restart().await;

    for n in 1..=3 {
        expect(f.store.append(post(two, n, 0)).await);
    }
    let claim = OpenReader { key: read_key(8), claim: Some(read_key(1)), ..open(two, 1) };
    expect(f.store.open(claim).await);
    expect(f.store.advance(upto(two, 1, 1)).await);
}

#[tokio::test]
#[ignore = "writes a fixture; see the module"]
async fn write_version_1() {
    let engine = OnFolder::new();
    let dir = engine.dir.path().join("data");
    let mut f = Fixture::new(engine).await;
    fill(&mut f).await;
    write_fixture(&dir);
}

/// Writes what is to be kept of a data folder into `$POSTHORN_FIXTURE`.
pub(super) fn write_fixture(dir: &Path) {
    let target =
        PathBuf::from(std::env::var_os("POSTHORN_FIXTURE").expect("POSTHORN_FIXTURE names a folder"));
    for folder in ["journal", "past"] {
        copy(&dir.join(folder), &target.join(folder));
    }
    fs::copy(dir.join("incarnation"), target.join("incarnation")).expect("copied");
    // What was only preallocated need not be kept.
    for entry in fs::read_dir(target.join("journal")).expect("there") {
        let path = entry.expect("readable").path();
        let mut bytes = fs::read(&path).expect("read");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used.next_multiple_of(64) + 64);
        fs::write(&path, bytes).expect("written");
    }
}

#[tokio::test]
async fn version_1_opens() {
    let engine = OnFolder::new();
    let dir = engine.dir.path().join("data");
    copy(&kept("version-1"), &dir);
    let segments = fs::read_dir(dir.join("journal")).expect("the fixture is there").count();
    assert_eq!(segments, 3);
    let f = Fixture::with(engine, small_policy()).await;
    f.clock.pass(600);
    let (store, one, two) = (&f.store, mailbox(1), mailbox(2));
    let line = fs::read_to_string(kept("version-1").join("incarnation")).expect("the fixture is there");
    let name = data_encoding::HEXLOWER.encode(&store.incarnation().0);
    assert!(line.contains(&name), "the incarnation stays: {line} {name}");
    assert_eq!(store.stats().mailboxes, 2);

    assert_eq!(f.stored(one).await, [4, 5, 6, 7]);
    let stored = expect(store.read(one, ALL).await);
    assert_eq!(stored[0].envelope, envelope(4, 160));
    assert!(stored[2].turn.as_ref().is_some_and(|turn| turn.admit[0].id == reader_id(3)));
    assert_eq!(f.view(one, 1).await, Ok((7, 4, 3, None)));
    assert_eq!(f.view(one, 2).await, Ok((7, 4, 0, Some(6))), "evicted by the turn");
    assert_eq!(f.view(one, 3).await, Ok((7, 4, 6, None)), "admitted by the turn");
    assert_eq!(store.append(of_then(sized(one, 2, 0, 80))).await, Ok(2), "remembered though trimmed");
    assert_eq!(store.append(of_then(sized(one, 2, 0, 81))).await, Err(StoreError::PostIdReused));
    assert_eq!(store.append(post(one, 8, 0)).await, Err(StoreError::KeyTurned));
    assert_eq!(store.append(post(one, 8, 1)).await, Ok(8));

    assert_eq!(f.stored(two).await, [2, 3]);
    assert_eq!(store.open(open(two, 1)).await, Err(StoreError::ReadKeyWrong), "the key was claimed");
    let view = expect(store.open(OpenReader { key: read_key(8), ..open(two, 1) }).await);
    assert_eq!((view.head, view.cursor, view.post_key), (3, 1, post_key(0)));
    assert_eq!(store.append(post(mailbox(3), 1, 0)).await, Err(StoreError::MailboxUnknown), "destroyed");
    assert_eq!(f.create(new_mailbox(3, &[1])).await, Err(StoreError::TokenUnknown), "its token is spent");

    assert_eq!(expect(store.device(device(1)).await).device_key, account(1).device_key);
    let card = expect(store.card(handle_of(1)).await);
    assert_eq!((card.version, card.card), (4, envelope(4, 80)));
    let taken = expect(store.take_key_packages(handle_of(1)).await);
    assert_eq!(taken[0].key_package, envelope(2, 50), "the first was given out before");
    let invited = crate::store::NewAccount { invite: Some(invite(7)), ..account(2) };
    assert_eq!(store.register(invited).await, Ok(()));
    assert_eq!(f.create(crate::store::NewMailbox { token: token(4), ..new_mailbox(4, &[1]) }).await, Ok(()));

    // Ids without a time are of no time that is now: they leave memory like others, and are recognised.
    let old = of_then(sized(one, 9, 0, 80));
    assert!(matches!(store.append(old.clone()).await, Err(StoreError::PostIdTime { .. })));
    f.clock.pass(10_000);
    expect(store.expire().await);
    assert_eq!(store.stats().posts, 0);
    for n in 1..=5 {
        let again = of_then(sized(one, n, 0, 40 * usize::from(n)));
        assert_eq!(store.append(again).await, Ok(u64::from(n)));
    }
    assert!(matches!(store.append(old).await, Err(StoreError::PostIdTime { .. })));
}

/// A folder of version 1 to which a later version added something.
fn of_tomorrow(dir: &Path, kind: u8, payload: &[u8]) {
    copy(&kept("version-1"), dir);
    let disk = Arc::new(RealDisk::open(&dir.join("journal")).expect("there"));
    let rng = Box::new(StdRng::seed_from_u64(5));
    let mut journal =
        Journal::open(disk, JournalConfig::default(), TIME, rng, None, &mut |_| ()).expect("opens");
    let mut batch = journal.begin(Batch::cost(payload.len())).expect("there is room");
    batch.push(kind, &[payload]);
    journal.commit(batch).expect("written");
}

fn start(dir: &Path) -> Result<EmbeddedStore, StartError> {
    let setup = Setup::new(small_policy());
    EmbeddedStore::open(&config(dir, &setup), setup.clock, setup.heard, &mut StdRng::seed_from_u64(7))
}

/// Finding H4: were it taken for damage, the relay would go on without a turn or an eviction that is
/// recorded.
#[tokio::test]
async fn what_a_later_version_wrote_refuses_the_start_and_stays() {
    // A ledger record of a kind and of a format that there are not yet, and a kind of journal record.
    for (kind, payload) in [(1, &[1, 19, 1, 1][..]), (1, &[2, 1, 1, 1]), (3, &[])] {
        let dir = quick_dir();
        of_tomorrow(dir.path(), kind, payload);
        for _ in 0..2 {
            let error = start(dir.path()).err().expect("refused").to_string();
            assert!(error.contains("a later version wrote it"), "{kind} {payload:?}: {error}");
            assert!(!dir.path().join("damage").exists());
        }
        // The later version still finds all of it.
        let disk = Arc::new(RealDisk::open(&dir.path().join("journal")).expect("there"));
        let mut found = false;
        let mut visit = |item: Replayed<'_>| match item {
            Replayed::Record { kind: is, payload: bytes, .. } => found |= (is, bytes) == (kind, payload),
            other => assert!(matches!(other, Replayed::Torn(_)), "{other:?}"),
        };
        let rng = Box::new(StdRng::seed_from_u64(5));
        Journal::open(disk, JournalConfig::default(), TIME, rng, None, &mut visit).expect("opens");
        assert!(found);
    }
}

#[tokio::test]
async fn what_may_be_ignored_is() {
    let dir = quick_dir();
    of_tomorrow(dir.path(), 200, b"for others");
    let store = start(dir.path()).expect("opens");
    assert_eq!(store.stats().mailboxes, 2);
}
