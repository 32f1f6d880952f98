//! What somebody is about to read stays where it is until then, although nothing needs it any more: also on a
//! full disk, where segments are emptied in another way.

use bytes::Bytes;
use futures_util::FutureExt;

use super::faults::{ALL, on_sim};
use super::*;
use crate::store::conformance::names::{device, expect, handle_of, mailbox, open, sized, turn_key, upto};

/// What is so long has a segment to itself.
const LONG: usize = 4000;

/// Lets upkeep do whatever it can: each request allows it a step.
async fn settle(store: &dyn Store) {
    for _ in 0..100 {
        expect(store.open(open(mailbox(1), 1)).await);
    }
}

/// Leaves so little space that nothing can be emptied beside what else is written.
async fn fill(store: &dyn Store, disk: &SimDisk) {
    // Now the current segment is another than that of what is long.
    expect(store.append(sized(mailbox(1), 999, 0, 900)).await);
    settle(store).await;
    disk.set_capacity(Some(disk.used()));
    let mut n = 1000;
    for len in [900, 300, 10] {
        while store.append(sized(mailbox(1), n, 0, len)).await.is_ok() {
            n += 1;
        }
    }
}

/// Runs a test in which nothing is read from the disk until the sender is dropped: the only thread that reads
/// is busy.
fn while_no_one_reads<F: Future<Output = ()>>(test: impl FnOnce(std::sync::mpsc::SyncSender<()>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    let (free, busy) = std::sync::mpsc::sync_channel::<()>(1);
    runtime.expect("a runtime").block_on(async {
        drop(tokio::task::spawn_blocking(move || busy.recv()));
        test(free).await;
    });
}

/// A key package that was handed out is read by whoever asked, not by the committer, and stays where it is
/// until then, although nothing needs it any more.
#[test]
fn a_key_package_stays_until_whoever_asked_has_read_it() {
    while_no_one_reads(async |free| {
        let (f, disk) = on_sim().await;
        let (store, to) = (&f.store, mailbox(1));
        let package = Bytes::from_static(b"the only copy of a key package");
        expect(store.publish_key_packages(device(1), vec![package.clone()], None).await);
        // Once it is taken nothing copies it any more: it is there as long as its segment is.
        let is_there = || !disk.find(&package).is_empty();
        let mut taking = store.take_key_packages(handle_of(1));
        assert!((&mut taking).now_or_never().is_none(), "it is asked for");
        let mut next = 0;
        let mut churn = async |rounds: u16| {
            for _ in 0..rounds {
                next += 1;
                let seq = expect(store.append(sized(to, next, 0, 400)).await);
                expect(store.advance(upto(to, 1, seq)).await);
            }
            // The relay keeps house every second.
            for _ in 0..20 {
                f.clock.pass(1);
                expect(store.expire().await);
            }
        };
        churn(300).await;
        assert!(is_there(), "its segment was emptied, but somebody is about to read from it");
        drop(free);
        let taken = expect(taking.await);
        assert_eq!((taken.len(), &taken[0].key_package), (1, &package));
        churn(20).await;
        assert!(!is_there(), "now it may go");
    });
}

/// (On a full disk it used to go at once, and the package was lost to everybody.)
#[tokio::test]
async fn a_key_package_stays_on_a_full_disk_too() {
    let (f, disk) = on_sim().await;
    let package = Bytes::from(vec![5; LONG]);
    expect(f.store.publish_key_packages(device(1), vec![package.clone()], None).await);
    fill(&*f.store, &disk).await;
    // Enough for taking it, and for a batch that remembers it, but for nothing that shares a batch.
    disk.set_capacity(Some(disk.used() + 120));
    let mut taking = f.store.take_key_packages(handle_of(1));
    assert!((&mut taking).now_or_never().is_none(), "it is asked for");
    settle(&*f.store).await;
    let taken = expect(taking.await);
    assert_eq!((taken.len(), &taken[0].key_package), (1, &package));
    settle(&*f.store).await;
    assert!(disk.find(&package).is_empty(), "now it may go");
}

/// (On a full disk it was told as lost.)
#[test]
fn an_envelope_stays_until_whoever_asked_has_read_it() {
    for full in [false, true] {
        while_no_one_reads(async |free| {
            let (f, disk) = on_sim().await;
            let long = sized(mailbox(2), 1, 0, LONG);
            expect(f.store.append(long.clone()).await);
            if full {
                fill(&*f.store, &disk).await;
            }
            let mut reading = f.store.read(mailbox(2), ALL);
            assert!((&mut reading).now_or_never().is_none(), "it is asked for");
            expect(f.store.destroy(mailbox(2), turn_key(0)).await);
            settle(&*f.store).await;
            drop(free);
            let read = expect(reading.await);
            assert_eq!((read.len(), &read[0].envelope), (1, &long.envelope), "full: {full}");
            settle(&*f.store).await;
            assert!(disk.find(&long.envelope).is_empty(), "full: {full}: now it may go");
            assert_eq!(f.store.stats().damaged, 0);
        });
    }
}
