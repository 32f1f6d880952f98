use rand::Rng;

use super::super::journal::sim::SimDisk;
use super::*;

const NOW: u64 = 1_700_000_000;
const MAILBOX: MailboxId = MailboxId([1; 16]);

fn bounds(entries: usize) -> Bounds {
    Bounds { seconds: 12_000, fresh: 300, bytes: 1 << 30, entries }
}

/// Opened by a ledger that knows nothing of it.
fn open(disk: &SimDisk, bounds: Bounds) -> PastIds {
    open_known(disk, bounds, Passed::default())
}

fn open_known(disk: &SimDisk, bounds: Bounds, known: Passed) -> PastIds {
    PastIds::open(Arc::new(disk.clone()), bounds, known, &mut StdRng::seed_from_u64(4)).expect("opens")
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
    assert_eq!((ids.passed().at, ids.numbers()), (0, (0, 0)));
    let all = fill(&ids, 5_500);
    let bytes = ids.numbers().1;
    for ids in [ids, open(&disk.restart(), bounds(1000))] {
        assert!(counts(&ids).0 >= 5 && counts(&ids).1 > 0);
        assert_eq!(ids.numbers().1, bytes, "what a start has found counts");
        let newest = NOW + 400 + 550;
        assert!((newest - 10..=newest).contains(&ids.passed().at) && ids.numbers().0 == 0);
        assert_eq!((ids.passed().made, ids.made()), (NOW + 550, NOW + 550));
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
        let mut known = Passed::default();
        for round in 0..3 {
            let ids = open_known(&disk, bounds(20), known);
            disk.stop_after(if round == 1 { stop } else { stop + 7 });
            for _ in 0..12 {
                let batch: Vec<Past> = (0..rng.random_range(1..9)).map(|more| past(n + more, NOW)).collect();
                n += batch.len() as u64;
                match ids.write(&batch, NOW + n) {
                    Ok(passed) => {
                        written.extend(batch);
                        known = passed;
                    }
                    Err(_) => break,
                }
            }
            drop(ids);
            disk = disk.power_cut(&mut rng);
            let ids = open_known(&disk, bounds(20), known);
            let lost: Vec<_> = written.iter().filter(|post| !is_found(&ids, post)).collect();
            assert!(lost.is_empty(), "stopped at {stop}, round {round}: {lost:?}");
            assert!(written.is_empty() || ids.passed().at > NOW);
            assert_eq!(ids.numbers().0, 0, "nothing is missing: stopped at {stop}, round {round}");
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
    all.chunks(100).for_each(|batch| _ = ids.write(batch, NOW + batch[0].seq).expect("written"));
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

/// What was lost stays lost, although it could be read by now: whoever was told so relies on it.
#[test]
fn what_is_lost_stays_lost() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(100));
    let all: Vec<Past> = (1..=350).map(|n| past(n, NOW + n)).collect();
    all.chunks(50).for_each(|batch| _ = ids.write(batch, NOW + 400 + batch[0].seq).expect("written"));
    let (known, name) = (ids.passed(), slice::name(2));
    disk.flip(&name, 5000);
    while ids.numbers().0 == 0 {
        all.iter().for_each(|post| _ = is_found(&ids, post));
    }
    let since = ids.numbers().0;
    assert!(all.iter().filter(|post| !is_found(&ids, post)).count() == 100 && since >= NOW + 600);
    for known in [known, ids.passed()] {
        let ids = open_known(&disk.restart(), bounds(100), known);
        assert_eq!(all.iter().filter(|post| !is_found(&ids, post)).count(), 100);
        assert_eq!(ids.numbers().0, since);
    }
}

/// A disk that does not answer takes nothing away: the look-up is refused, and finds it later.
#[test]
fn what_cannot_be_read_is_not_lost() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(100));
    let all: Vec<Past> = (1..=250).map(|n| past(n, NOW + n)).collect();
    ids.write(&all[..100], NOW + 500).expect("written");
    ids.write(&all[100..], NOW + 600).expect("written");
    disk.fail_reads(true);
    let Search::In(slices) = ids.search(&MAILBOX, 3, &all[0].post_id) else { panic!("it is on the disk") };
    assert!(ids.find(&slices, &MAILBOX, 3, &all[0].post_id).is_err());
    let opened =
        PastIds::open(Arc::new(disk.clone()), bounds(100), ids.passed(), &mut StdRng::seed_from_u64(4));
    let error = opened.err().expect("neither is it given up by a start").to_string();
    assert!(error.starts_with("0000000001.ids cannot be read") && error.contains("remove it"), "{error}");
    disk.fail_reads(false);
    assert!(all.iter().all(|post| is_found(&ids, post)));
    assert_eq!((counts(&ids).0, ids.numbers().0), (2, 0));
}

/// Whatever of it goes is noticed, and told as the time from which on posts are known.
#[test]
fn what_is_missing_is_noticed() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(10));
    let all: Vec<Past> = (1..=36).map(|n| past(n, NOW + n)).collect();
    all.chunks(4).for_each(|batch| _ = ids.write(batch, NOW + 400 + batch[0].seq).expect("written"));
    let known = ids.passed();
    let at = NOW + 400 + 33;
    let whole = Passed { made: NOW + 36, at, since: 0, first: 1, number: 4, entries: 0 };
    assert_eq!(known, whole);
    let more = past(100, NOW + 400);
    let known = ids.write(std::slice::from_ref(&more), at + 10).expect("written");
    assert_eq!(known, Passed { at: at + 10, number: 4, entries: 1, ..whole });
    assert_eq!(known.made, NOW + 36, "an id that is not old says nothing");
    let (names, log) = ([1, 2, 3].map(slice::name), log::name(4));
    let [first, second, third] = &names;
    for (gone, since) in [
        (vec![], 0),
        (vec![first], NOW + 400 + 13),
        (vec![second], NOW + 400 + 25),
        (vec![third], at + 10),
        (vec![&log], at + 10),
        (vec![third, &log], at + 10),
        (vec![first, second, third, &log], at + 10),
    ] {
        let disk = disk.restart();
        gone.iter().for_each(|name| disk.unlink(name).expect("there"));
        let mut known = known;
        for round in 0..3 {
            let ids = open_known(&disk, bounds(10), known);
            assert_eq!(ids.numbers().0, since, "{gone:?}, round {round}");
            assert_eq!(ids.passed().made, known.made, "what was here is not new");
            let next = past(200 + round, NOW + 40 + round);
            known = ids.write(std::slice::from_ref(&next), at + 1000 + round).expect("it goes on");
            assert!(is_found(&ids, &next) && known.made == NOW + 40 + round && known.since == since);
        }
    }
}

/// The end of the log alone.
#[test]
fn a_log_that_is_short_is_noticed() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(100));
    let before = ids.write(&[past(1, NOW)], NOW + 400).expect("written");
    let short = disk.restart();
    let known = ids.write(&[past(2, NOW + 1), past(3, NOW + 1)], NOW + 500).expect("written");
    assert_eq!(open_known(&short, bounds(100), before).numbers().0, 0);
    let ids = open_known(&short, bounds(100), known);
    assert_eq!(ids.numbers().0, NOW + 500);
    assert!(is_found(&ids, &past(1, NOW)) && !is_found(&ids, &past(2, NOW + 1)));
    // Nothing is missing where the ledger knows of less: it will say it again.
    assert_eq!(open_known(&disk, bounds(100), before).numbers().0, 0);
}

/// What came before and was not forgotten comes again: it is here once, however often.
#[test]
fn what_comes_again_takes_no_room() {
    let disk = SimDisk::default();
    let ids = open(&disk, bounds(100));
    let all: Vec<Past> = (1..=60).map(|n| past(n, NOW)).collect();
    let first = ids.write(&all, NOW + 400).expect("written");
    let (bytes, syncs) = (disk.used(), disk.syncs());
    for later in 1..50 {
        assert_eq!(ids.write(&all, NOW + 400 + later).expect("written"), first);
    }
    assert_eq!((disk.used(), disk.syncs()), (bytes, syncs));
    ids.write(&[all, vec![past(61, NOW)]].concat(), NOW + 500).expect("written");
    assert_eq!((counts(&ids), disk.syncs()), ((0, 61), syncs + 1));
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
    let passed = ids.clear(NOW + 25_000).expect("cleared");
    assert_eq!((is_found(&ids, &all[1]), disk.used()), (false, 0));
    assert_eq!((passed.made, passed.since), (NOW + 1, NOW + 25_000), "what was here is not new");
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
