//! What is lost of the posts that left memory, and what else may go wrong there: a repeat is recognised or
//! refused, and never appended again (R4).

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;

use super::super::journal::disk::Disk;
use super::*;
use crate::store::conformance::names::{CREATE, account, expect, mailbox, post, sized, token, upto};
use crate::store::conformance::{Fixture, ManualClock, START, new_mailbox, small_policy};
use crate::store::paying::create_mailbox;
use crate::store::{Clock, StorePolicy};

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

thread_local! {
    /// What happens when this thread looks at the clock next.
    static NEXT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// A clock at which something may happen in the moment when somebody looks.
#[derive(Debug)]
struct Interrupting(Arc<ManualClock>);

impl Clock for Interrupting {
    fn unix_seconds(&self) -> u64 {
        self.0.unix_seconds()
    }

    fn monotonic_seconds(&self) -> u64 {
        if let Some(happen) = NEXT.take() {
            happen();
        }
        self.0.monotonic_seconds()
    }
}

/// In the moment between the look at the id, which may be new as yet, and the asking, the post leaves memory.
/// (It used to be answered `PostIdTime`, although it was there.)
#[test]
fn a_repeat_is_recognised_at_the_moment_when_its_post_leaves_memory() {
    let setup = Setup::new(small_policy());
    let (disks, m) = (<[SimDisk; 2]>::default(), mailbox(1));
    let clock = Arc::new(Interrupting(setup.clock.clone()));
    let store = Arc::new(open_by((&disks[0], &disks[1]), None, false, &setup, clock));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        expect(store.register(account(1)).await);
        expect(store.draw_tokens(account(1).device, CREATE, vec![token(1)]).await);
        expect(create_mailbox(&*store, &*store, new_mailbox(1, &[1])).await);
        expect(store.append(post(m, 1, 0)).await);
        expect(store.advance(upto(m, 1, 1)).await);
        setup.clock.pass(FRESH - 1);
        expect(store.expire().await);
        let (posts, time) = (store.stats().posts, store.posts_time());
        assert_eq!((posts, time), (1, START + FRESH - 1), "new for one second more");
    });
    let (begin, begun) = mpsc::sync_channel(1);
    let (forgot, forgotten) = mpsc::sync_channel(1);
    let forgetting = store.clone();
    let expiry = thread::spawn(move || {
        begun.recv().expect("told to");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        expect(runtime.block_on(forgetting.expire()));
        let _ = forgot.send(());
    });
    let (asking, passing) = (store.clone(), setup.clock.clone());
    NEXT.set(Some(Box::new(move || {
        passing.pass(1);
        begin.send(()).expect("it waits");
        // Until the post is forgotten, or its forgetting waits for this one.
        while forgotten.try_recv().is_err() && asking.forgetting.try_read().is_some() {
            thread::yield_now();
        }
    })));
    let (tell, told) = mpsc::sync_channel(1);
    let ticket = Ticket::new(move |posted| {
        tell.send(posted).expect("somebody hears");
        None
    });
    assert!(store.append_soon(post(m, 1, 0), ticket).is_none(), "there is room");
    assert_eq!(told.recv(), Ok(Ok(1)));
    expiry.join().expect("it ran");
    assert_eq!(store.stats().posts, 0, "it did leave");
    assert_eq!(runtime.block_on(store.append(post(m, 1, 0))), Ok(1));
}
