//! What is lost of the posts that left memory, and what else may go wrong there: a repeat is recognised or
//! refused, and never appended again (R4).

use super::super::journal::disk::Disk;
use super::*;
use crate::store::conformance::names::{expect, mailbox, post, sized, upto};
use crate::store::conformance::{Fixture, START, small_policy};
use crate::store::{Clock as _, StorePolicy};

/// How long an id is that of a new post, in seconds (`small_policy`).
const FRESH: u64 = 10_000;
const POSTS: u16 = 12;

/// A store whose posts in mailbox 1, made a second apart, have all left memory: two slices, and a log with
/// two of them. And its disks, that of the past last.
async fn passed() -> (Fixture, [SimDisk; 2]) {
    let engine = OnSim::new();
    let disks = [engine.disk.clone(), engine.past.clone()];
    let f = Fixture::with(engine, small_policy()).await;
    let m = f.mailbox(1, &[1]).await;
    for n in 0..POSTS {
        let new = f.now(post(m, n, 0));
        expect(f.store.append(new).await);
        f.clock.pass(1);
    }
    expect(f.store.advance(upto(m, 1, POSTS.into())).await);
    // So that they leave one at a time.
    f.clock.pass(FRESH - u64::from(POSTS));
    for _ in 0..POSTS {
        expect(f.store.expire().await);
        f.clock.pass(1);
    }
    assert_eq!(f.store.stats().posts, 0);
    (f, disks)
}

/// The `n`-th of those posts again.
fn repeat(n: u16) -> Append {
    crate::store::conformance::names::at(post(mailbox(1), n, 0), START + u64::from(n))
}

/// A store on what is left of these disks, where ids may be much older than before.
fn reopen(f: &Fixture, disks: &[SimDisk; 2]) -> EmbeddedStore {
    let policy = StorePolicy { fresh_seconds: 3 * FRESH as u32, ..small_policy() };
    let setup = Setup { policy, clock: f.clock.clone(), heard: f.heard.clone() };
    open_with((&disks[0], &disks[1]), None, &setup)
}

#[tokio::test]
async fn whatever_is_lost_nothing_is_appended_twice() {
    let (f, disks) = passed().await;
    let now = f.clock.unix_seconds();
    let names = disks[1].list().expect("listed");
    assert_eq!(names, ["0000000001.ids", "0000000002.ids", "0000000003.log"]);
    for lost in 0..1 << names.len() {
        let disks = disks.each_ref().map(SimDisk::restart);
        for (at, name) in names.iter().enumerate() {
            if lost >> at & 1 == 1 {
                disks[1].unlink(name).expect("there");
            }
        }
        for round in 0..2 {
            let store = reopen(&f, &disks);
            let since = store.stats().past_since;
            assert_eq!(since > 0, lost > 0, "{lost:b}, round {round}: since {since}");
            for n in 0..POSTS {
                let is_lost = lost >> (n / 5) & 1 == 1;
                let expected =
                    if is_lost { Err(StoreError::PostIdTime { now }) } else { Ok(u64::from(n) + 1) };
                assert_eq!(store.append(repeat(n)).await, expected, "{lost:b}, round {round}, post {n}");
                assert!(!is_lost || START + u64::from(n) < since, "{lost:b}: it is told since when");
            }
            expect(store.expire().await);
        }
    }
}

/// Even if neither the files nor the checkpoint is there.
#[tokio::test]
async fn another_life_takes_no_old_id_for_a_new_one() {
    let (f, disks) = passed().await;
    let now = f.clock.unix_seconds();
    drop(f.store.clone());
    let disks = disks.each_ref().map(SimDisk::restart);
    let policy = StorePolicy { fresh_seconds: 3 * FRESH as u32, ..small_policy() };
    let setup = Setup { policy, clock: f.clock.clone(), heard: f.heard.clone() };
    for restored in [true, false] {
        let opened = {
            let (disks, setup) = (disks.each_ref().map(SimDisk::clone), setup.clone());
            std::thread::spawn(move || open_as((&disks[0], &disks[1]), None, restored, &setup))
        };
        let store = opened.join().expect("it ran");
        for n in 0..POSTS {
            assert_eq!(store.append(repeat(n)).await, Err(StoreError::PostIdTime { now }), "{restored}");
        }
        assert_eq!(store.stats().past_since, now, "{restored}");
    }
}

/// A disk that gives no answer loses nothing: whoever asks is told to come again.
#[tokio::test]
async fn what_cannot_be_read_for_now_is_asked_for_again() {
    let (f, disks) = passed().await;
    disks[1].fail_reads(true);
    assert_eq!(f.store.append(repeat(0)).await, Err(StoreError::Unavailable));
    assert_eq!(f.store.append(repeat(POSTS - 1)).await, Ok(POSTS.into()), "that one is held in memory");
    disks[1].fail_reads(false);
    assert_eq!(f.store.append(repeat(0)).await, Ok(1));
    assert_eq!(f.store.append(sized(mailbox(1), 0, 0, 7)).await, Err(StoreError::PostIdReused));
    assert_eq!(f.store.stats().past_since, 0);
}
