//! What may happen to this engine: power cuts among concurrent posts, a lost or damaged index, a full disk, a
//! failing sync.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};

use futures_util::FutureExt;
use futures_util::future::join_all;
use parking_lot::Mutex;
use posthorn_proto::MailboxId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::journal::disk::Disk;
use super::super::queue;
use super::*;
use crate::store::conformance::names::{
    CREATE, envelope, expect, mailbox, open, post, sized, token, turn_key, upto,
};
use crate::store::conformance::{Event, Fixture, new_mailbox, small_policy};
use crate::store::paying::create_mailbox;
use crate::store::{ReadRange, StorePolicy, Stored};

pub(super) const ALL: ReadRange = ReadRange { from: 0, to: u64::MAX, bytes: usize::MAX };

/// A store on a simulated disk with mailboxes 1 and 2, which reader 1 reads.
pub(super) async fn on_sim() -> (Fixture, SimDisk) {
    let engine = OnSim::new();
    let disk = engine.disk.clone();
    let f = Fixture::with(engine, small_policy()).await;
    f.mailbox(1, &[1]).await;
    f.mailbox(2, &[1]).await;
    (f, disk)
}

async fn seqs(store: &dyn Store, mailbox: MailboxId) -> Vec<Stored> {
    expect(store.read(mailbox, ALL).await)
}

/// R1, R2 among concurrent posters: wherever the power goes, what was answered is there, in its place, and
/// nothing has holes.
#[tokio::test]
async fn concurrent_posts_survive_power_cuts() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut f, disk) = on_sim().await;
        disk.stop_after(rng.random_range(1..60));
        let store = f.store.clone();
        let posts = (0..200u16).map(|n| {
            let (store, to) = (store.clone(), mailbox(1 + (n % 2) as u8));
            async move { (to, n, store.append(post(to, n, 0)).await) }
        });
        let answers = join_all(posts).await;
        drop(store);
        let heard = f.heard.take();
        f.restart().await;
        for to in [mailbox(1), mailbox(2)] {
            let stored = seqs(&*f.store, to).await;
            assert!(stored.iter().map(|stored| stored.seq).eq(1..=stored.len() as u64), "seed {seed}: holes");
            let answered = answers.iter().filter(|(mailbox, ..)| *mailbox == to);
            for (_, n, seq) in
                answered.filter_map(|(to, n, answer)| answer.as_ref().ok().map(|seq| (to, n, seq)))
            {
                let found = stored.get(*seq as usize - 1).expect("answered, so stored");
                assert_eq!(found.post_id, post(to, *n, 0).post_id, "seed {seed}");
                assert_eq!(f.store.append(post(to, *n, 0)).await, Ok(*seq), "seed {seed}: R4");
            }
            for event in &heard {
                let Event::Appended(at, told) = event else { continue };
                assert!(*at != to || stored.contains(told), "seed {seed}: something was told and then lost");
            }
        }
    }
}

/// Posts are in the order of their first polls, even when tokio would make a busy task pause, and whoever is
/// polled first afterwards. (Posts of one connection used to overtake each other, and to fall behind a turn
/// that was sent after them.)
#[tokio::test]
async fn posts_keep_the_order_in_which_they_were_asked_for() {
    let (f, _) = on_sim().await;
    let mut all: Vec<_> = (1..=300).map(|n| f.store.append(sized(mailbox(1), n, 0, 10))).collect();
    let first: Vec<_> = all.iter_mut().map(|one| one.now_or_never()).collect();
    let mut expected = all.len() as u64;
    for (one, first) in all.into_iter().zip(first).rev() {
        let answer = match first {
            Some(answer) => answer,
            None => one.await,
        };
        assert_eq!(answer, Ok(expected));
        expected -= 1;
    }
}

/// Who does not wait is told in order, once, and not before it is durable; of the end, too, in any order.
/// Where the queue has no room the ticket comes back, untold.
#[tokio::test]
async fn tickets_are_told_once_and_in_order() {
    let (f, disk) = on_sim().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let ask = |to: MailboxId, n: u16| {
        let told = told.clone();
        let ticket = Ticket::new(move |posted| {
            told.lock().push((n, posted));
            None
        });
        let back = f.store.append_soon(post(to, n, 0), ticket);
        back.map(|(_, ticket)| std::mem::forget(ticket)).is_none()
    };
    disk.hold_syncs(true);
    let taken = (1..).take_while(|n| ask(mailbox(1), *n)).count() as u16;
    assert!(taken > 8000 && told.lock().is_empty(), "{taken} are taken, and none is durable");
    disk.hold_syncs(false);
    expect(f.store.append(post(mailbox(2), 1, 0)).await);
    let all = std::mem::take(&mut *told.lock());
    assert_eq!(all[..2], [(1, Ok(1)), (2, Ok(2))]);
    assert!(all.iter().map(|(n, _)| *n).eq(1..=taken), "all of them, in order");

    disk.fail_sync_after(1);
    // Where there is room, so that each needs a sync.
    assert!(ask(mailbox(2), 60_000));
    assert_eq!(f.store.append(post(mailbox(2), 2, 0)).await, Err(StoreError::Stopped));
    assert!(ask(mailbox(2), 60_001), "a store that has stopped takes it to say so");
    while told.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    // In which order depends on where the store was when it ended.
    told.lock().sort_by_key(|(n, _)| *n);
    let stopped = Err(StoreError::Stopped);
    assert_eq!(*told.lock(), [(60_000, stopped), (60_001, stopped)]);
}

/// How often a task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// (The relay's main thread, which waits for nothing else, used to wake at the end of every round: two of the
/// context switches that a single message costs.)
#[tokio::test]
async fn a_round_wakes_nobody_who_waits_for_the_end() {
    let (disk, setup) = (SimDisk::default(), Setup::new(small_policy()));
    let store = open_on(&disk, None, &setup);
    let woken = Arc::new(Woken::default());
    let mut failed = Box::pin(store.failed());
    assert!(failed.as_mut().poll(&mut Context::from_waker(&woken.clone().into())).is_pending());
    for _ in 0..3 {
        expect(store.confirm_clock().await);
    }
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    disk.fail_sync_after(1);
    assert_eq!(store.confirm_clock().await, Err(StoreError::Stopped));
    failed.await;
}

/// Nobody learns of what is not on stable storage yet, neither by reading nor by an answer or an event.
#[tokio::test]
async fn nothing_undurable_is_disclosed() {
    let (f, disk) = on_sim().await;
    let (store, to) = (f.store.clone(), mailbox(1));
    expect(store.append(post(to, 1, 0)).await);
    f.heard.take();
    disk.hold_syncs(true);
    let mut append = store.append(post(to, 2, 0));
    assert!((&mut append).now_or_never().is_none());
    // The committer applies before it syncs, and from then on the ledger shows the post.
    while store.stats().envelopes < 2 {
        tokio::task::yield_now().await;
    }
    let mut read = store.read(to, ALL);
    assert!((&mut read).now_or_never().is_none(), "a read that saw the post waits");
    let mut elsewhere = store.signal(mailbox(2), new_mailbox(2, &[]).post_key, envelope(1, 9));
    assert_eq!((&mut elsewhere).now_or_never(), Some(Ok(7)), "other mailboxes do not wait");
    assert!(matches!(f.heard.take()[..], [Event::Signalled(..)]), "and nobody hears of the post");
    assert!((&mut append).now_or_never().is_none());
    disk.hold_syncs(false);
    assert_eq!(append.await, Ok(2));
    assert_eq!(expect(read.await).len(), 2);
    assert_eq!(f.heard.take().len(), 1);
}

/// Rule 19: nothing of the batch is answered, and nothing is taken any more.
#[tokio::test]
async fn a_failed_sync_ends_the_store_and_answers_nothing() {
    let (mut f, disk) = on_sim().await;
    let to = mailbox(1);
    expect(f.store.append(post(to, 1, 0)).await);
    f.heard.take();
    disk.fail_sync_after(1);
    assert_eq!(f.store.append(post(to, 2, 0)).await, Err(StoreError::Stopped));
    assert_eq!(f.store.append(post(to, 2, 0)).await, Err(StoreError::Stopped), "no retry");
    assert_eq!(
        f.store.read(to, ALL).await,
        Err(StoreError::Stopped),
        "what is in memory may not be believed"
    );
    assert_eq!(f.heard.take(), vec![]);
    f.restart().await;
    assert_eq!(seqs(&*f.store, to).await[0].seq, 1);
}

#[tokio::test]
async fn whoever_runs_the_store_hears_of_its_failure() {
    let disk = SimDisk::default();
    let f = Fixture::new(OnFolder::new()).await;
    let setup = Setup { policy: small_policy(), clock: f.clock.clone(), heard: f.heard.clone() };
    let store = open_on(&disk, None, &setup);
    assert!(store.failed().now_or_never().is_none());
    disk.fail_sync_after(1);
    assert!(store.confirm_clock().await.is_err());
    store.failed().await;
}

/// A full disk refuses posts, keeps serving, still takes what leads to more space, and recovers by itself.
#[tokio::test]
async fn a_full_disk_recovers() {
    let (f, disk) = on_sim().await;
    let (store, to) = (&f.store, mailbox(1));
    disk.set_capacity(Some(disk.used() + 30_000));
    let mut last = 0;
    let refusal = loop {
        match store.append(sized(to, last as u16 + 1, 0, 900)).await {
            Ok(seq) => last = seq,
            Err(error) => break error,
        }
        assert!(last < 200, "the disk never ran full");
    };
    assert_eq!(refusal, StoreError::Unavailable);
    assert_eq!(seqs(&**store, to).await.len() as u64, last, "reads go on");
    assert_eq!(store.append(sized(to, 1, 0, 900)).await, Ok(1), "repeats are answered");
    disk.set_capacity(Some(disk.used() + 20_000));
    expect(store.advance(upto(to, 1, last)).await);
    // The emptied segments come back while posts are tried.
    while store.append(sized(to, 999, 0, 900)).await.is_err() {
        tokio::task::yield_now().await;
    }
    disk.set_capacity(None);
    assert_eq!(store.append(sized(to, 1000, 0, 900)).await, Ok(last + 2));
}

/// Finding M6: a client that asked again while the disk was full used up its day for nothing.
#[tokio::test]
async fn a_draw_that_was_refused_does_not_count() {
    let (f, disk) = on_sim().await;
    let device = crate::store::conformance::names::device(2);
    expect(f.store.register(crate::store::conformance::names::account(2)).await);
    disk.set_capacity(Some(disk.used()));
    let mut id = 0;
    for len in [900, 300, 10] {
        while f.store.append(sized(mailbox(1), id, 0, len)).await.is_ok() {
            id += 1;
        }
    }
    let draw = || f.store.draw_tokens(device, CREATE, (30..50).map(token).collect());
    for _ in 0..2 {
        assert_eq!(draw().await, Err(StoreError::Unavailable));
    }
    disk.set_capacity(None);
    assert_eq!(draw().await, Ok(20), "all that a device may draw in a day");
    let more = f.store.draw_tokens(device, CREATE, vec![token(50)]);
    assert_eq!(more.await, Ok(0), "now it counts");
}

/// Space comes back, even that of many small records which supersede each other.
#[tokio::test]
async fn acknowledged_envelopes_give_their_space_back() {
    let (f, disk) = on_sim().await;
    let (store, to) = (&f.store, mailbox(1));
    let mut most = 0;
    for n in 1..=1500u16 {
        if n == 1450 {
            expect(store.append(f.now(post(mailbox(2), 1, 0))).await);
        }
        let seq = expect(store.append(f.now(sized(to, n, 0, 200))).await);
        expect(store.advance(upto(to, 1, seq)).await);
        most = most.max(disk.used());
        f.clock.pass(60);
        expect(store.expire().await);
    }
    assert!(most < 150_000, "{most} bytes at most, though {} were written", 1500 * 500);
    assert_eq!(seqs(&**store, mailbox(2)).await.len(), 1, "what was not acknowledged is still there");
}

/// All of it comes back, though nobody asks for anything, and the operator's numbers say so. (One segment
/// used to come back with each request, and the numbers were those of the last request.)
#[tokio::test]
async fn space_comes_back_while_nobody_asks_but_the_relay_itself() {
    let (f, disk) = on_sim().await;
    let (store, to) = (&f.store, mailbox(1));
    for n in 1..=120 {
        expect(store.append(sized(to, n, 0, 200)).await);
    }
    // Each request lets upkeep do a step, until there is nothing left to do.
    for _ in 0..200 {
        expect(store.open(open(to, 1)).await);
    }
    let before = disk.used();
    expect(store.advance(upto(to, 1, 120)).await);
    // The relay keeps house every second. What it refuses does not count as work for somebody.
    f.clock.pass(2);
    assert_eq!(store.append(sized(mailbox(99), 1, 0, 1)).await, Err(StoreError::MailboxUnknown));
    expect(store.expire().await);
    comes_back(&**store, &disk, before / 2).await;
}

/// Waits until no more of the disk is taken than that.
async fn comes_back(store: &dyn Store, disk: &SimDisk, bytes: usize) {
    let back = async {
        while disk.used() > bytes || store.stats().disk_bytes > bytes as u64 {
            tokio::task::yield_now().await;
        }
    };
    let came = tokio::time::timeout(std::time::Duration::from_secs(20), back).await;
    assert!(came.is_ok(), "{} bytes are taken, and {bytes} expected", disk.used());
}

/// Of a short post hardly more is needed while it is stored than while it is remembered. (So its space did
/// not come back when it was forgotten, before another segment was begun, and on a full disk none ever was.)
#[tokio::test]
async fn the_space_of_short_posts_comes_back_once_they_are_forgotten() {
    for is_full in [false, true] {
        let (f, disk) = on_sim().await;
        let (store, to) = (&f.store, mailbox(1));
        for n in 1..=400 {
            expect(store.append(sized(to, n, 0, 1)).await);
        }
        expect(store.advance(upto(to, 1, 400)).await);
        let before = disk.used();
        assert!(before > 30_000, "{before}");
        if is_full {
            disk.set_capacity(Some(before + 300));
        }
        f.clock.pass(u64::from(small_policy().fresh_seconds) + 100);
        for _ in 0..4 {
            f.clock.pass(2);
            expect(store.expire().await);
        }
        assert_eq!(store.stats().posts, 0, "they are forgotten");
        comes_back(&**store, &disk, before / 3).await;
    }
}

fn index_of(dir: &Path) -> std::path::PathBuf {
    dir.join("data").join("index")
}

/// The index is a shortcut: without it, and with any damage to it, the store is the same.
#[tokio::test]
async fn the_index_may_be_lost_or_damaged() {
    let engine = OnFolder::new();
    let dir = engine.dir.path().to_owned();
    let mut f = Fixture::with(engine, small_policy()).await;
    let (one, two) = (f.mailbox(1, &[1]).await, f.mailbox(2, &[1]).await);
    for n in 1..=60 {
        expect(f.store.append(sized(one, n, 0, 300)).await);
        expect(f.store.append(sized(two, n, 0, 300)).await);
    }
    expect(f.store.advance(upto(one, 1, 30)).await);
    let before = (seqs(&*f.store, one).await, seqs(&*f.store, two).await, f.store.stats());
    let mut rng = StdRng::seed_from_u64(4);
    for round in 0..12 {
        f.store = Arc::new(Unplugged {
            store: open_on(&SimDisk::default(), None, &setup_of(&f)),
            disks: Default::default(),
        });
        let index = index_of(&dir);
        let newest = fs::read_to_string(index.join("newest")).expect("a checkpoint was finished");
        let file = index.join(newest).join("db");
        match round % 4 {
            0 => fs::remove_dir_all(&index).expect("there is an index"),
            1 => {
                let len = fs::metadata(&file).expect("sled's file").len();
                let file = fs::OpenOptions::new().write(true).open(file).expect("writable");
                file.set_len(rng.random_range(0..len)).expect("cut");
            }
            2 => {
                let mut bytes = fs::read(&file).expect("sled's file");
                (0..200).for_each(|_| bytes[rng.random_range(0..9000)] ^= 1 << rng.random_range(0..8));
                fs::write(file, bytes).expect("damaged");
            }
            _ => {}
        }
        f.restart().await;
        let after = (seqs(&*f.store, one).await, seqs(&*f.store, two).await, f.store.stats());
        assert_eq!((&after.0, &after.1), (&before.0, &before.1), "round {round}");
        assert_eq!(after.2.posts, before.2.posts);
        assert_eq!(expect(f.store.open(open(one, 1)).await).cursor, 30);
    }
}

fn setup_of(f: &Fixture) -> Setup {
    Setup { policy: small_policy(), clock: f.clock.clone(), heard: f.heard.clone() }
}

/// R10: one-time packages are discarded, the last-resort package stays, and the incarnation is another one.
#[tokio::test]
async fn a_restored_store_gets_a_new_life_without_one_time_key_packages() {
    let engine = OnFolder::new();
    let dir = engine.dir.path().join("data");
    let mut f = Fixture::with(engine, small_policy()).await;
    f.mailbox(1, &[1]).await;
    expect(f.store.append(post(mailbox(1), 1, 0)).await);
    let device = crate::store::conformance::names::device(1);
    let stock = f.store.publish_key_packages(device, vec!["a".into(), "b".into()], Some("last".into())).await;
    assert_eq!(expect(stock).one_time, 2);
    let old = f.store.incarnation();
    expect(f.store.close().await);
    f.store = Arc::new(Unplugged {
        store: open_on(&SimDisk::default(), None, &setup_of(&f)),
        disks: Default::default(),
    });
    let (config, clock) = (config(&dir, &setup_of(&f)), f.clock.clone());
    let renewed = tokio::task::spawn_blocking(move || {
        EmbeddedStore::renew_incarnation(&config, clock, &mut StdRng::seed_from_u64(77)).expect("renewed")
    });
    let renewed = renewed.await.expect("it ran");
    assert_ne!(renewed, old);
    f.restart().await;
    assert_eq!(f.store.incarnation(), renewed);
    let stock = expect(f.store.publish_key_packages(device, vec![], None).await);
    assert_eq!(stock.one_time, 0);
    assert!(stock.last_resort_since > 0);
    assert_eq!(seqs(&*f.store, mailbox(1)).await.len(), 1, "envelopes stay");
    assert_eq!(f.store.destroy(mailbox(1), turn_key(0)).await, Ok(()));
    assert_eq!(token(1), new_mailbox(1, &[]).token);
}

#[tokio::test]
async fn a_store_that_was_renewed_while_it_ran_stays_the_new_one() {
    let mut f = Fixture::with(OnFolder::new(), small_policy()).await;
    let next = posthorn_proto::Incarnation([0x5a; 16]);
    expect(f.store.renew(next).await);
    f.restart().await;
    assert_eq!(f.store.incarnation(), next);
}

/// R10, without being told: a journal and an incarnation of different times were not left by one relay.
#[tokio::test]
async fn a_folder_that_was_restored_in_part_is_noticed_and_dealt_with_once() {
    let device = crate::store::conformance::names::device(1);
    for (what, restored) in [("journal", true), ("incarnation", true), ("", false)] {
        let (engine, backup) = (OnFolder::new(), quick_dir());
        let dir = engine.dir.path().join("data");
        let mut f = Fixture::with(engine, small_policy()).await;
        f.mailbox(1, &[1]).await;
        expect(f.store.publish_key_packages(device, vec!["a".into()], Some("last".into())).await);
        let aside = async |f: &mut Fixture| {
            f.store = Arc::new(Unplugged {
                store: open_on(&SimDisk::default(), None, &setup_of(f)),
                disks: Default::default(),
            });
        };
        aside(&mut f).await;
        super::format::copy(&dir, &backup.path().join("data"));
        for _ in 0..2 {
            f.restart().await;
        }
        let before = f.store.incarnation();
        expect(f.store.append(post(mailbox(1), 1, 0)).await);
        aside(&mut f).await;
        let old = backup.path().join("data").join(what);
        match what {
            "journal" => {
                fs::remove_dir_all(dir.join(what)).expect("there");
                super::format::copy(&old, &dir.join(what));
            }
            "incarnation" => _ = fs::copy(&old, dir.join(what)).expect("copied"),
            _ => {}
        }
        f.restart().await;
        let after = f.store.incarnation();
        assert_eq!(after != before, restored, "{what}");
        let stock = expect(f.store.publish_key_packages(device, vec!["b".into()], None).await);
        assert_eq!(stock.one_time, if restored { 1 } else { 2 }, "{what}");
        f.restart().await;
        assert_eq!(f.store.incarnation(), after, "{what}: once");
        let stock = expect(f.store.publish_key_packages(device, vec![], None).await);
        assert_eq!(stock.one_time, if restored { 1 } else { 2 }, "{what}: once");
    }
}

/// What cannot be read is not taken for missing.
#[tokio::test]
async fn an_unreadable_file_refuses_the_start() {
    for name in ["incarnation", "damage"] {
        let dir = quick_dir();
        let config = EmbeddedConfig::new(dir.path());
        let start = || {
            let setup = Setup::new(small_policy());
            EmbeddedStore::open(&config, setup.clock, setup.heard, &mut StdRng::seed_from_u64(1))
        };
        drop(start().expect("opens"));
        let path = dir.path().join(name);
        let _ = fs::rename(&path, dir.path().join("aside"));
        fs::create_dir(&path).expect("a folder cannot be read, whoever asks");
        let error = start().err().expect("refused").to_string();
        assert!(error.contains("cannot be read") && error.contains(name), "{error}");
        fs::remove_dir(&path).expect("there");
        let _ = fs::rename(dir.path().join("aside"), &path);
        start().expect("as before");
    }
}

/// A damaged envelope is never served, and everything else is.
#[tokio::test]
async fn a_damaged_envelope_is_told_and_its_neighbours_are_served() {
    let (f, disk) = on_sim().await;
    let (store, to) = (&f.store, mailbox(1));
    for n in 1..=9 {
        expect(store.append(sized(to, n, 0, 500)).await);
    }
    let names = disk.find(&sized(to, 5, 0, 500).post_id.0);
    assert!(!names.is_empty(), "the post is somewhere");
    names.iter().for_each(|(name, at)| disk.flip(name, at + 100));
    let first = expect(store.read(to, ALL).await);
    assert_eq!(first.iter().map(|stored| stored.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(store.read(to, ReadRange { from: 5, ..ALL }).await, Err(StoreError::Damaged));
    assert_eq!(expect(store.read(to, ReadRange { from: 6, ..ALL }).await).len(), 4);
}

/// The operator hears of a disk that hangs.
#[tokio::test]
async fn a_disk_that_hangs_is_told() {
    let (f, disk) = on_sim().await;
    f.clock.pass(1000);
    assert_eq!(f.store.stats().stalled_seconds, 0, "nobody has asked for long, so nobody waits");
    disk.hold_syncs(true);
    let mut append = f.store.append(post(mailbox(1), 1, 0));
    assert!((&mut append).now_or_never().is_none());
    f.clock.pass(7);
    assert_eq!(f.store.stats().stalled_seconds, 7);
    disk.hold_syncs(false);
    expect(append.await);
    assert_eq!(f.store.stats().stalled_seconds, 0);
}

/// Also what no start has come across, because the index said what stands there; and the operator sees it
/// before it is given up.
#[tokio::test]
async fn damage_that_nobody_has_seen_yet_is_forgotten_too() {
    let engine = OnFolder::new();
    let dir = engine.dir.path().join("data");
    let mut f = Fixture::with(engine, small_policy()).await;
    f.mailbox(1, &[1]).await;
    expect(f.store.register(crate::store::conformance::names::account(9)).await);
    for n in 1..=20 {
        expect(f.store.append(sized(mailbox(1), n, 0, 500)).await);
    }
    f.restart().await;
    f.store = Arc::new(Unplugged {
        store: open_on(&SimDisk::default(), None, &setup_of(&f)),
        disks: Default::default(),
    });
    let name = sized(mailbox(1), 7, 0, 500).post_id.0;
    let flip = |what: &[u8], behind: usize| {
        let entries = fs::read_dir(dir.join("journal")).expect("there");
        let at = |path: &std::path::PathBuf| {
            fs::read(path).expect("read").windows(what.len()).position(|it| it == what)
        };
        let mut paths = entries.map(|entry| entry.expect("read").path());
        let (path, at) =
            paths.find_map(|path| Some((at(&path)?, path))).map(|(at, path)| (path, at)).expect("somewhere");
        let mut bytes = fs::read(&path).expect("read");
        bytes[at + behind] ^= 1;
        fs::write(&path, bytes).expect("written");
        path
    };
    flip(&[9; 32], 5);
    let damaged = flip(&name, 100);
    let (config, clock) = (config(&dir, &setup_of(&f)), f.clock.clone());
    let forget = || {
        let store = EmbeddedStore::examine(&config, clock, &mut StdRng::seed_from_u64(5)).expect("opens");
        let lost = store.damage();
        assert!(damaged.exists() && lost.iter().any(|line| line.starts_with("envelope 7 of")), "{lost:?}");
        store.forget_damage().expect("forgotten");
        assert_eq!(store.damage().len(), 0);
    };
    std::thread::scope(|scope| scope.spawn(forget).join().expect("it ran"));
    assert!(!damaged.exists());
    f.restart().await;
    let first = seqs(&*f.store, mailbox(1)).await;
    assert!(first.iter().map(|stored| stored.seq).eq(1..=6), "{}", first.len());
    assert_eq!(expect(f.store.read(mailbox(1), ReadRange { from: 8, ..ALL }).await).len(), 13);
    assert_eq!(f.store.stats().damaged, 0);
    let device = crate::store::conformance::names::device(9);
    let gone = f.store.device(device).await.expect_err("what only the index said is not served");
    assert_eq!(gone, StoreError::DeviceUnknown);
}

/// `forget-damage` began a new incarnation over what a reader had come across long before, and the file named
/// it twice: with its length, and with another one.
#[tokio::test]
async fn damage_that_a_reader_has_noted_is_known_to_who_reads_everything() {
    let engine = OnFolder::new();
    let dir = engine.dir.path().join("data");
    let mut f = Fixture::with(engine, small_policy()).await;
    f.mailbox(1, &[1]).await;
    let all: Vec<_> = (1..=9).map(|n| f.store.append(sized(mailbox(1), n, 0, 500))).collect();
    assert!(join_all(all).await.iter().all(Result::is_ok));
    f.restart().await;
    let (name, entries) = (sized(mailbox(1), 5, 0, 500).post_id.0, fs::read_dir(dir.join("journal")));
    for path in entries.expect("there").map(|entry| entry.expect("read").path()) {
        let mut bytes = fs::read(&path).expect("read");
        if let Some(at) = bytes.windows(name.len()).position(|it| it == name) {
            bytes[at + 100] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
    }
    let lost = f.store.read(mailbox(1), ReadRange { from: 5, ..ALL }).await;
    assert_eq!(lost, Err(StoreError::Damaged));
    let incarnation = f.store.incarnation();
    f.store = Arc::new(Unplugged {
        store: open_on(&SimDisk::default(), None, &setup_of(&f)),
        disks: Default::default(),
    });
    let (config, clock) = (config(&dir, &setup_of(&f)), f.clock.clone());
    let examine = || EmbeddedStore::examine(&config, clock, &mut StdRng::seed_from_u64(5)).expect("opens");
    let store = std::thread::scope(|scope| scope.spawn(examine).join().expect("it ran"));
    // Upkeep may have come across it, too, and says so of the segment.
    let told = store.damage();
    assert_eq!(told.iter().filter(|line| line.starts_with("record at")).count(), 1, "{told:?}");
    assert!(told.iter().any(|line| line.starts_with("envelope 5 of")), "{told:?}");
    assert_eq!(store.incarnation(), incarnation, "nothing new is lost");
}

/// Finding M6: a damaged segment was kept for ever. Whatever is readable of it stays, and of what is lost
/// nobody but its reader hears again.
#[tokio::test]
async fn damage_can_be_forgotten() {
    let disk = SimDisk::default();
    let setup = Setup::new(small_policy());
    // A start after damage waits for its own first command, which no thread of a runtime may.
    let on = |disk: &SimDisk| {
        std::thread::scope(|scope| scope.spawn(|| open_on(disk, None, &setup)).join().expect("it ran"))
    };
    let store = on(&disk);
    let device = crate::store::conformance::names::device(1);
    expect(store.register(crate::store::conformance::names::account(1)).await);
    expect(store.draw_tokens(device, CREATE, vec![token(1)]).await);
    expect(create_mailbox(&store, &store, new_mailbox(1, &[1])).await);
    for n in 1..=40 {
        expect(store.append(sized(mailbox(1), n, 0, 500)).await);
    }
    drop(store);
    let place = |n| disk.find(&sized(mailbox(1), n, 0, 500).post_id.0).pop().expect("it is somewhere");
    let (damaged, at) = place(5);
    disk.flip(&damaged, at + 100);
    let lost = place(25).0;
    disk.unlink(&lost).expect("it is there");

    let seqs = async |store: &EmbeddedStore| {
        let (mut all, mut from) = (Vec::new(), 1);
        while from <= 40 {
            let read = store.read(mailbox(1), ReadRange { from, ..ALL }).await;
            let read = read.map(|stored| stored.iter().map(|stored| stored.seq).collect::<Vec<_>>());
            from = read.as_ref().map_or(from, |seqs| *seqs.last().expect("some")) + 1;
            all.extend(read.unwrap_or_default());
        }
        all
    };
    let store = on(&disk);
    let readable = seqs(&store).await;
    assert!(readable.len() < 39 && !readable.contains(&5) && !readable.contains(&25), "{readable:?}");
    assert!(readable.contains(&4) && readable.contains(&6), "its neighbours are readable");
    let told = store.damage();
    assert!(told.iter().any(|line| line.contains("missing")), "{told:?}");
    std::thread::scope(|scope| scope.spawn(|| store.forget_damage()).join().expect("it ran"))
        .expect("given up");
    assert_eq!(store.stats().damaged, 0);
    assert!(disk.find(&sized(mailbox(1), 5, 0, 500).post_id.0).is_empty(), "nothing of it is left");
    assert_eq!(seqs(&store).await, readable);
    drop(store);
    for disk in [disk.clone(), disk.power_cut(&mut StdRng::seed_from_u64(9))] {
        let store = on(&disk);
        assert_eq!(seqs(&store).await, readable);
        let told = store.damage();
        assert!(told.iter().all(|line| line.starts_with("envelope")), "no segment is missed: {told:?}");
    }
}

/// Acknowledgements that nobody waits for: a thousand cost what one does, and each counts within two seconds,
/// before its reader opens the mailbox again, and before the end.
#[tokio::test]
async fn acknowledgements_that_nobody_waits_for_count_together() {
    let engine = OnFolder::new();
    let mut f = Fixture::with(engine, small_policy()).await;
    let to = f.mailbox(1, &[1, 2]).await;
    for n in 1..=40 {
        expect(f.store.append(sized(to, n, 0, 100)).await);
    }
    // Takes what there is, so that the next are not taken by chance.
    f.clock.pass(5);
    expect(f.store.expire().await);
    (1..=10).for_each(|seq| f.store.advance_soon(upto(to, 1, seq)));
    assert_eq!(expect(f.store.open(open(to, 1)).await).cursor, 10, "the reader's own view has it");
    for seq in 1..=20 {
        f.store.advance_soon(upto(to, 1, seq));
        f.store.advance_soon(upto(to, 2, seq));
    }
    assert_eq!(f.store.stats().envelopes, 40, "not yet");
    f.clock.pass(2);
    expect(f.store.expire().await);
    expect(f.store.expire().await);
    assert_eq!(f.store.stats().envelopes, 20);
    f.store.advance_soon(upto(to, 1, 30));
    f.store.advance_soon(upto(to, 2, 30));
    f.store.advance_soon(upto(to, 9, 30));
    f.store.advance_soon(upto(mailbox(7), 1, 30));
    f.restart().await;
    assert_eq!(f.store.stats().envelopes, 10, "a clean end loses none");
    let (f, disk) = on_sim().await;
    expect(f.store.append(post(mailbox(1), 1, 0)).await);
    expect(f.store.append(post(mailbox(2), 1, 0)).await);
    f.clock.pass(2);
    expect(f.store.expire().await);
    f.store.advance_soon(upto(mailbox(2), 1, 1));
    expect(f.store.destroy(mailbox(2), turn_key(0)).await);
    f.tokens(5).await;
    expect(f.create(crate::store::NewMailbox { token: token(5), ..new_mailbox(2, &[1]) }).await);
    expect(f.store.append(post(mailbox(2), 1, 0)).await);
    assert_eq!(expect(f.store.open(open(mailbox(2), 1)).await).cursor, 0, "it was of another mailbox");
    let before = disk.syncs();
    (0..1000).for_each(|_| f.store.advance_soon(upto(mailbox(1), 1, 1)));
    f.clock.pass(2);
    expect(f.store.expire().await);
    expect(f.store.expire().await);
    assert_eq!(seqs(&*f.store, mailbox(1)).await, []);
    assert!(disk.syncs() < before + 20, "{} syncs for one cursor", disk.syncs() - before);
}

/// How many records of each kind the journal holds.
fn records_by_kind(disk: &SimDisk) -> std::collections::BTreeMap<u8, usize> {
    let mut kinds = std::collections::BTreeMap::new();
    let mut visit = |item: super::super::journal::Replayed<'_>| {
        if let super::super::journal::Replayed::Record { kind: 1, payload, .. } = item {
            *kinds.entry(payload[1]).or_default() += 1;
        }
    };
    let time = super::super::journal::Time { incarnation: [1; 16], start: 1 };
    let rng = Box::new(StdRng::seed_from_u64(1));
    super::super::journal::Journal::open(Arc::new(disk.restart()), SMALL, time, rng, None, &mut visit)
        .expect("opens");
    kinds
}

/// Finding M4: each time that emptying a segment was interrupted, what had been carried was carried again,
/// and all copies counted as needed for ever.
#[tokio::test]
async fn an_interrupted_emptying_multiplies_nothing() {
    let mut disk = SimDisk::default();
    let mut rng = StdRng::seed_from_u64(8);
    let policy = StorePolicy { accounts: 100, tokens: 1000, mailboxes: 100, readers: 1000, ..small_policy() };
    let setup = Setup::new(policy);
    let store = open_on(&disk, None, &setup);
    for n in 1..=30 {
        expect(store.register(crate::store::conformance::names::account(n)).await);
        let device = crate::store::conformance::names::device(n);
        expect(store.draw_tokens(device, CREATE, vec![token(n)]).await);
        expect(create_mailbox(&store, &store, new_mailbox(n, &[1])).await);
        for post in 1..=4 {
            expect(store.append(sized(mailbox(n), post, 0, 60)).await);
        }
        expect(store.advance(upto(mailbox(n), 1, 4)).await);
    }
    drop(store);
    let mut counts = Vec::new();
    for round in 0..60u16 {
        let store = open_on(&disk, None, &setup);
        for n in 0..8 {
            let post = sized(mailbox(1 + (n % 3) as u8), 100 + round * 8 + n, 0, 150);
            let seq = expect(store.append(post).await);
            expect(store.advance(upto(mailbox(1 + (n % 3) as u8), 1, seq)).await);
        }
        if round % 2 == 0 {
            disk.stop_after(1);
            drop(store);
            disk = disk.power_cut(&mut rng);
        } else {
            drop(store);
        }
        counts.push(records_by_kind(&disk));
    }
    // Kinds of records: registrations; creations, and the snapshots in their place; spent tokens, and the
    // creations that say it, too. Posts and what remembers them. While a segment is being emptied, what was
    // carried stands there twice, and with lives as short as these that may last; what is multiplied is more
    // with each of them.
    let fewest = |kinds: &[u8]| {
        let of = |there: &std::collections::BTreeMap<u8, usize>| -> usize {
            kinds.iter().filter_map(|kind| there.get(kind)).sum()
        };
        counts[40..].iter().map(of).min().expect("rounds")
    };
    for kinds in [&[30][..], &[2, 17], &[2, 41]] {
        assert!(fewest(kinds) < 40, "30 accounts and mailboxes, and {kinds:?} stand there: {counts:?}");
    }
    assert!(fewest(&[30]) >= 30 && fewest(&[2, 17]) >= 30, "none is missing: {counts:?}");
    // A post may stand there beside its mark while its segment is being emptied.
    let twice = |(round, there): (usize, &std::collections::BTreeMap<u8, usize>)| {
        let of = |kind| there.get(&kind).copied().unwrap_or(0);
        (of(10) + of(11)).saturating_sub(30 * 4 + 8 * (round + 1))
    };
    let fewest = counts.iter().enumerate().skip(40).map(twice).min();
    assert!(fewest < Some(120), "as much as a segment may hold, {fewest:?}: {counts:?}");
}

/// A command that took more room than the smallest queue has would wait for ever, and everybody behind it.
#[test]
fn no_command_needs_more_room_than_there_is() {
    let forget = crate::store::ledger::Forget { mailbox: mailbox(1), life: 1, to: 1 };
    let command =
        crate::store::ledger::Command::Forget { posts: vec![forget; 20_000], passed: Default::default() };
    assert!(queue::units_of(&command) as usize <= queue::LEAST_ROOM);
}
