use rand::Rng;

use super::super::journal::sim::SimDisk;
use super::*;

const NOW: u64 = 1_700_000_000;
const MAILBOX: MailboxId = MailboxId([1; 16]);

fn bounds(entries: usize) -> Bounds {
    Bounds { seconds: 12_000, bytes: 1 << 30, entries }
}

fn open(disk: &SimDisk, bounds: Bounds) -> PastIds {
    PastIds::open(Arc::new(disk.clone()), bounds, &mut StdRng::seed_from_u64(4)).expect("opens")
}

/// Post `n`, made then.
fn past(n: u64, made: u64) -> Past {
    let random = std::array::from_fn(|at| (n >> (at % 8 * 8)) as u8);
    let post_id = PostId::at(made, random);
    Past { mailbox: MAILBOX, life: 3, seq: n, post_id, fingerprint: [n as u8; 16] }
}

fn look(ids: &PastIds, post: &Past) -> Option<Known> {
    match ids.search(&post.mailbox, post.life, &post.post_id) {
        Search::Over(known) => known,
        Search::In(slices) => {
            ids.find(&slices, &post.mailbox, post.life, &post.post_id).expect("can be read")
        }
    }
}

/// How many slices there are, and entries in memory.
fn counts(ids: &PastIds) -> (usize, usize) {
    let state = ids.state.lock();
    (state.slices.len(), state.recent.entries.len())
}

fn is_found(ids: &PastIds, post: &Past) -> bool {
    match look(ids, post) {
        Some(known) => {
            assert_eq!(known, (post.seq, post.fingerprint), "never another");
            true
        }
        None => false,
    }
}

/// Writes so many posts in batches of different sizes.
fn fill(ids: &PastIds, count: u64) -> Vec<Past> {
    let all: Vec<Past> = (1..=count).map(|n| past(n, NOW + n / 10)).collect();
    let (mut rest, mut size) = (&all[..], 1);
    while !rest.is_empty() {
        let (batch, more) = rest.split_at(size.min(rest.len()));
        ids.write(batch, NOW + 400 + batch[0].seq / 10).expect("written");
        (rest, size) = (more, size * 3 % 97 + 1);
    }
    all
}

#[test]
fn what_was_written_is_found_and_nothing_else() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(1000));
    assert_eq!((ids.newest(), ids.numbers()), (0, (0, 0)));
    let all = fill(&ids, 5_500);
    for ids in [ids, open(&disk.restart(), bounds(1000))] {
        assert!(counts(&ids).0 >= 5 && counts(&ids).1 > 0);
        let newest = NOW + 400 + 550;
        assert!((newest - 10..=newest).contains(&ids.newest()) && ids.numbers().0 == 0);
        for post in &all {
            assert!(is_found(&ids, post), "{post:?}");
            let elsewhere = Past { mailbox: MailboxId([2; 16]), ..post.clone() };
            let later = Past { life: 4, ..post.clone() };
            let other = past(post.seq + 100_000, post.post_id.seconds());
            assert!([elsewhere, later, other].iter().all(|post| !is_found(&ids, post)), "{post:?}");
        }
    }
}

/// However many entries a slice has, finding one reads little of it.
#[test]
fn a_search_reads_a_few_pages() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(40_000));
    let all: Vec<Past> = (1..=40_000).map(|n| past(n, NOW)).collect();
    ids.write(&all, NOW).expect("written");
    assert_eq!(counts(&ids), (1, 0));
    let before = disk.bytes_read();
    assert!(all.iter().step_by(40).all(|post| is_found(&ids, post)));
    let pages = (disk.bytes_read() - before) / 4096;
    assert!(pages < 3 * 1000, "{pages} pages for 1000 posts");
}

/// Wherever the power goes: what had been written is found, and writing goes on.
#[test]
fn power_cuts_lose_nothing() {
    let mut rng = StdRng::seed_from_u64(1);
    for stop in 1..150 {
        let mut disk = SimDisk::default();
        let (mut n, mut written): (u64, Vec<Past>) = (0, Vec::new());
        for round in 0..3 {
            let ids = open(&disk, bounds(20));
            disk.stop_after(if round == 1 { stop } else { stop + 7 });
            for _ in 0..12 {
                let batch: Vec<Past> = (0..rng.random_range(1..9)).map(|more| past(n + more, NOW)).collect();
                n += batch.len() as u64;
                match ids.write(&batch, NOW + n) {
                    Ok(()) => written.extend(batch),
                    Err(_) => break,
                }
            }
            drop(ids);
            disk = disk.power_cut(&mut rng);
            let ids = open(&disk, bounds(20));
            let lost: Vec<_> = written.iter().filter(|post| !is_found(&ids, post)).collect();
            assert!(lost.is_empty(), "stopped at {stop}, round {round}: {lost:?}");
            assert!(written.is_empty() || ids.newest() > NOW);
            assert_eq!(ids.numbers().0, 0, "nothing was given up");
        }
    }
}

/// What cannot be written is told, and leaves no hole in what is written later.
#[test]
fn a_failed_write_is_made_up_for() {
    for nth in 1..8 {
        let disk = SimDisk::default();
        let ids = open(&disk, bounds(10));
        disk.fail_sync_after(nth);
        let mut written = Vec::new();
        for n in 0..30 {
            let batch = [past(2 * n, NOW), past(2 * n + 1, NOW)];
            if ids.write(&batch, NOW + n).is_err() {
                ids.write(&batch, NOW + n).expect("only once");
            }
            written.extend(batch);
        }
        let mut rng = StdRng::seed_from_u64(nth);
        for disk in [disk.restart(), disk.power_cut(&mut rng)] {
            let ids = open(&disk, bounds(10));
            assert!(written.iter().all(|post| is_found(&ids, post)), "the {nth}. sync");
        }
    }
}

/// A page that is damaged costs its slice, never an answer that is wrong, and never the relay.
#[test]
fn damage_costs_what_is_in_it() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(300));
    let all: Vec<Past> = (1..=1000).map(|n| past(n, NOW + n)).collect();
    all.chunks(100).for_each(|batch| ids.write(batch, NOW + batch[0].seq).expect("written"));
    let second = ids.state.lock().slices[1].clone();
    drop(ids);
    let name = slice::name(second.number);
    for offset in (0..second.header.bytes() as usize).step_by(97) {
        let disk = disk.restart();
        disk.flip(&name, offset);
        let ids = open(&disk, bounds(300));
        let found = all.iter().filter(|post| is_found(&ids, post)).count();
        assert!((700..1000).contains(&found), "byte {offset}: {found} are found");
        assert_eq!(all.iter().filter(|post| is_found(&ids, post)).count(), 700, "it is not asked again");
        let (since, _) = ids.numbers();
        assert!(since >= second.header.begun, "byte {offset}: {since}");
        ids.write(&[past(5000, NOW)], NOW + 5000).expect("it goes on");
    }
    // One that is missing.
    let gone = disk.restart();
    gone.unlink(&name).expect("there");
    let ids = open(&gone, bounds(300));
    assert_eq!(all.iter().filter(|post| is_found(&ids, post)).count(), 700);
    assert!(ids.numbers().0 > second.header.begun);
    // One that goes while it is used.
    let ids = open(&disk, bounds(300));
    disk.unlink(&slice::name(1)).expect("there");
    assert!(!is_found(&ids, &all[0]));
}

#[test]
fn what_is_over_goes_and_so_does_what_is_too_much() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(50));
    let all: Vec<Past> = (0..1000).map(|n| past(n, NOW + n)).collect();
    for batch in all.chunks(10) {
        ids.write(batch, NOW + batch[0].seq).expect("written");
        assert!(!ids.is_untidy(NOW + batch[0].seq));
    }
    // The time of the first half has passed.
    let then = NOW + 12_000 + 500;
    assert!(ids.is_untidy(then));
    ids.tidy(then).expect("tidied");
    assert!(!ids.is_untidy(then));
    let found = all.iter().filter(|post| is_found(&ids, post)).count();
    assert!((500..=550).contains(&found), "{found}");
    assert!(all[500..].iter().all(|post| is_found(&ids, post)));
    let (since, bytes) = ids.numbers();
    assert!((NOW + 440..=NOW + 500).contains(&since), "{}", since - NOW);
    assert!(bytes as usize >= disk.used() - 4096 && disk.used() < 11 * 3 * 4096, "{}", disk.used());
    // There is room for less.
    let bounds = Bounds { bytes: 5 * 8192, ..bounds(50) };
    let ids = open(&disk.restart(), bounds);
    ids.tidy(then).expect("tidied");
    let left: Vec<_> = all.iter().filter(|post| is_found(&ids, post)).map(|post| post.seq).collect();
    assert!((200..=260).contains(&left.len()) && left.ends_with(&[998, 999]), "{left:?}");
    // Few entries become a slice in time, so that they can go.
    let disk = SimDisk::default();
    let ids = open(&disk, bounds);
    ids.write(&all[..1], NOW).expect("written");
    ids.tidy(NOW + 1000).expect("tidied");
    assert_eq!((counts(&ids), is_found(&ids, &all[0])), ((1, 0), true));
    ids.tidy(NOW + 12_000).expect("tidied");
    assert_eq!((is_found(&ids, &all[0]), ids.numbers(), disk.used()), (false, (NOW, 0), 0));
    ids.write(&all[1..2], NOW + 12_000).expect("written");
    ids.tidy(NOW + 13_000).expect("it is a slice now");
    disk.unlink(&slice::name(2)).expect("there");
    ids.tidy(NOW + 24_000).expect("that one is missing stops nothing");
    assert_eq!((counts(&ids), ids.numbers().0), ((0, 0), NOW + 12_000));
    ids.write(&all[1..2], NOW + 24_000).expect("written");
    ids.clear().expect("cleared");
    assert_eq!((is_found(&ids, &all[1]), disk.used()), (false, 0));
}

/// Health was told only once the disk had answered, and by a thread that serves connections.
#[test]
fn numbers_are_told_while_the_disk_hangs() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(1000));
    ids.write(&[past(1, NOW)], NOW + 400).expect("written");
    let before = ids.numbers();
    disk.hold_syncs(true);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| ids.write(&[past(2, NOW)], NOW + 400));
        while ids.state.try_lock().is_some() && !writing.is_finished() {
            std::thread::yield_now();
        }
        let told = ids.numbers();
        disk.hold_syncs(false);
        writing.join().expect("no panic").expect("written");
        assert_eq!(told, before);
    });
    assert!(ids.numbers().1 > before.1);
}
