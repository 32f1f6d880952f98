//! The journal against power cuts, failing syncs, full disks and damage, on a simulated disk. Every failure
//! prints its seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::compact::{Carried, CompactError, Count, Effort, Liveness};
use super::sim::SimDisk;
use super::*;

const CONFIG: JournalConfig = JournalConfig { segment_bytes: 4096, step_bytes: 1024, open_files: 3 };
const TIME: Time = Time { incarnation: [7; 16], start: 1 };
const PUT: u8 = 1;
const DELETE: u8 = 2;

type Replay = (Journal, Vec<(Location, u8, Vec<u8>)>, Vec<Damage>);

fn open_from(disk: &SimDisk, from: Option<Resume>) -> Result<Replay, OpenError> {
    let (mut records, mut damage) = (Vec::new(), Vec::new());
    let mut visit = |item: Replayed<'_>| match item {
        Replayed::Record { at, kind, payload } => records.push((at, kind, payload.to_vec())),
        Replayed::Damage(bad) => damage.push(bad),
        Replayed::Torn(_) => {}
    };
    let rng = Box::new(StdRng::seed_from_u64(disk.syncs()));
    let journal = Journal::open(Arc::new(disk.clone()), CONFIG, TIME, rng, from, &mut visit)?;
    Ok((journal, records, damage))
}

fn open(disk: &SimDisk) -> Replay {
    open_from(disk, None).expect("start-up never fails after a power cut")
}

fn append(journal: &mut Journal, payloads: &[Vec<u8>]) -> Result<Vec<Location>, BeginError> {
    let mut batch = journal.begin(payloads.iter().map(|payload| Batch::cost(payload.len())).sum())?;
    let places = payloads.iter().map(|payload| batch.push(PUT, &[payload])).collect();
    journal.commit(batch)?;
    Ok(places)
}

fn payloads(rng: &mut StdRng, most: usize) -> Vec<Vec<u8>> {
    let mut one = |_| {
        let mut bytes = vec![0; rng.random_range(0..700)];
        rng.fill(&mut bytes[..]);
        bytes
    };
    (0..most).map(&mut one).collect()
}

/// Checks a replay. Everything that was answered (committed without an error) must be there, in order; of the
/// one batch that was not answered, all or nothing.
fn check(seed: u64, answered: &mut Vec<Vec<u8>>, pending: &[Vec<u8>], replay: &Replay) {
    let (journal, records, damage) = replay;
    assert_eq!(damage, &[], "seed {seed}: a power cut is not damage");
    let found: Vec<_> = records.iter().map(|(_, _, payload)| payload.clone()).collect();
    assert!(
        found.len() >= answered.len(),
        "seed {seed}: {} of {} answered records",
        found.len(),
        answered.len()
    );
    assert!(found[..answered.len()] == answered[..], "seed {seed}: answered records differ");
    let rest = &found[answered.len()..];
    assert!(rest.is_empty() || rest == pending, "seed {seed}: a torn batch was not cut as a whole");
    for (at, _, payload) in records {
        assert_eq!(&journal.reader().read(*at).expect("readable")[..], payload, "seed {seed}");
    }
    *answered = found;
}

#[test]
fn nothing_answered_is_lost_by_power_cuts() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = SimDisk::default();
        let mut answered = Vec::new();
        let mut pending: Vec<Vec<u8>> = Vec::new();
        for _ in 0..rng.random_range(2..6) {
            disk.stop_after(rng.random_range(1..60));
            if let Ok((mut journal, ..)) = open_from(&disk, None) {
                // What was replayed while opening is served: it must never vanish again.
                answered.append(&mut pending);
                let known =
                    open(&disk.restart()).1.into_iter().map(|(_, _, payload)| payload).collect::<Vec<_>>();
                answered = known;
                loop {
                    let most = rng.random_range(1..6);
                    let batch = payloads(&mut rng, most);
                    if append(&mut journal, &batch).is_err() {
                        pending = batch;
                        break;
                    }
                    answered.extend(batch);
                }
                assert!(
                    append(&mut journal, &[vec![1]]).is_err(),
                    "seed {seed}: a failed journal must refuse"
                );
            }
            disk = if rng.random_range(0..4) == 0 { disk.restart() } else { disk.power_cut(&mut rng) };
            // The check opens a copy, because looking must not change the verdict.
            let replay = open(&disk.restart());
            check(seed, &mut answered, &pending, &replay);
            let kept_pending = !pending.is_empty() && answered.ends_with(&pending);
            if kept_pending {
                answered.truncate(answered.len() - pending.len());
            }
        }
    }
}

/// Rule 19. The page cache shows the batch whose sync failed. Once it was served after a restart, no power
/// cut may take it away.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_rewritten_before_it_is_served() {
    let mut shown = 0;
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimDisk::default();
        let (mut journal, ..) = open(&disk);
        let first = payloads(&mut rng, 3);
        append(&mut journal, &first).expect("written");
        disk.fail_sync_after(1);
        assert!(matches!(append(&mut journal, &payloads(&mut rng, 2)), Err(BeginError::Fatal(_))));
        assert!(matches!(append(&mut journal, &first), Err(BeginError::Fatal(_))), "no retry");
        let disk = disk.restart();
        let (_, served, _) = open(&disk);
        shown += usize::from(served.len() > first.len());
        let (_, later, _) = open(&disk.power_cut(&mut rng));
        let bytes = |records: &[(Location, u8, Vec<u8>)]| {
            records.iter().map(|record| record.2.clone()).collect::<Vec<_>>()
        };
        assert_eq!(bytes(&later), bytes(&served), "seed {seed}");
    }
    assert!(shown > 0, "the cache must have shown the failed batch, or this test tests nothing");
}

/// The record that a segment may be gone was written, and its sync failed. The next start sees it in the
/// cache, and the power goes somewhere within that start. Nothing is missing. (Starts used to remove the
/// segment before that record was on stable storage.)
#[test]
fn a_segment_is_removed_at_a_start_only_when_that_was_said_for_good() {
    let mut cut_off = 0;
    for (seed, failing, stop) in
        (0..6).flat_map(|seed| (1..6).flat_map(move |n| (1..24).map(move |k| (seed, n, k))))
    {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimDisk::default();
        let (mut journal, ..) = open(&disk);
        let mut keys = Keys::default();
        for _ in 0..40 {
            change(&mut journal, &mut keys, &mut rng).expect("written");
        }
        disk.fail_sync_after(failing);
        while compact(&mut journal, &mut keys, &mut rng).is_ok() {}
        let disk = disk.restart();
        disk.stop_after(stop);
        cut_off += usize::from(open_from(&disk, None).is_err());
        let disk = disk.power_cut(&mut rng);
        let (_, _, damage) = open(&disk);
        assert_eq!(damage, [], "seed {seed}, sync {failing} fails, stopped at {stop}");
        let (_, _, damage) = open(&disk.power_cut(&mut rng));
        assert_eq!(damage, [], "seed {seed}, sync {failing} fails, stopped at {stop}, and once more");
    }
    assert!(cut_off > 100, "{cut_off}");
}

#[test]
fn damage_is_reported_never_served_and_costs_nothing_else() {
    let mut reported = 0;
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimDisk::default();
        let (mut journal, ..) = open(&disk);
        let mut written = Vec::new();
        for _ in 0..12 {
            let batch = payloads(&mut rng, 3);
            let places = append(&mut journal, &batch).expect("written");
            written.extend(places.into_iter().zip(batch));
        }
        let last = journal.position().segment;
        let victim = rng.random_range(1..last);
        let name = segment::name_of(victim);
        let len = journal.segments()[&victim].len as usize;
        disk.flip(&name, rng.random_range(0..len));
        let reader = open(&disk.restart()).0.reader();
        let (_, records, damage) = open(&disk);
        let served: BTreeMap<_, _> = records.iter().map(|(at, _, payload)| (*at, payload)).collect();
        let missing: Vec<_> =
            written.iter().filter(|(at, _)| at.segment < last && !served.contains_key(at)).collect();
        for (at, payload) in &written {
            assert!(
                served.get(at).is_none_or(|found| *found == payload),
                "seed {seed}: served something else"
            );
            if let Ok(bytes) = reader.read(*at) {
                assert_eq!(&bytes[..], payload, "seed {seed}: read something else");
            }
        }
        assert!(missing.len() <= 3, "seed {seed}: one bit took {} records", missing.len());
        assert!(missing.is_empty() || !damage.is_empty(), "seed {seed}: a loss was not reported");
        assert!(damage.iter().all(|bad| bad.segment == victim), "seed {seed}: {damage:?}");
        reported += usize::from(!damage.is_empty());
    }
    assert!(reported > 150, "flips in padding aside, damage must be seen: {reported}");
}

/// Whichever segment is lost, the next start says so, and so does every later one.
#[test]
fn a_lost_segment_is_missed() {
    for closed in [false, true] {
        let disk = SimDisk::default();
        let (mut journal, ..) = open(&disk);
        let mut rng = StdRng::seed_from_u64(7);
        while journal.segments().len() < 6 {
            append(&mut journal, &payloads(&mut rng, 2)).expect("written");
        }
        if closed {
            journal.close().expect("closed");
        }
        let all: Vec<u32> = journal.segments().keys().copied().collect();
        for lost in all {
            let disk = disk.restart();
            disk.unlink(&segment::name_of(lost)).expect("it was there");
            let (journal, records, damage) = open(&disk);
            let is_missed = |damage: &[Damage]| damage.iter().any(|bad| (bad.segment, bad.len) == (lost, 0));
            assert!(is_missed(&damage), "segment {lost}, closed {closed}: {damage:?}");
            assert!(records.iter().all(|(at, ..)| at.segment != lost));
            drop(journal);
            assert!(is_missed(&open(&disk).2), "segment {lost}, closed {closed}, the next start");
        }
    }
}

/// A segment from a backup, put back after it was removed, must not bring back what is gone.
#[test]
fn a_removed_segment_that_is_back_is_left_alone() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    let (mut keys, mut rng) = (Keys::default(), StdRng::seed_from_u64(8));
    while journal.segments().len() < 5 {
        change(&mut journal, &mut keys, &mut rng).expect("written");
    }
    let name = segment::name_of(1);
    let backup = segment::load(disk.open(&name).expect("there").as_ref(), u64::MAX).expect("read");
    keys.segments = journal.segments().keys().copied().collect();
    keys.emptying = 1;
    let mut work = journal.start_compaction(1).expect("intact");
    while !journal.carry_alone(&mut work, &mut keys).expect("space") {}
    journal.unlink(1).expect("removed");
    let back = disk.create(&name).expect("it is gone");
    back.write_at(&backup, 0).expect("written");
    // If the power goes between the record of a removal and the removal, the segment is there, too, and is
    // removed now.
    let (journal, _, damage) = open(&disk);
    assert_eq!((damage, disk.list().expect("listed").contains(&name)), (vec![], false));
    drop(journal);
    // That start has recorded it again; the next one has no reason to.
    drop(open(&disk));
    disk.create(&name).expect("it is gone").write_at(&backup, 0).expect("written");
    let (_, records, damage) = open(&disk);
    assert!(records.iter().all(|(at, ..)| at.segment != 1));
    assert_eq!((damage.len(), damage[0].segment), (1, 1), "{damage:?}");
}

/// raft-engine loses the whole last file to one flipped bit in its header. Here nothing is lost.
#[test]
fn a_damaged_header_of_the_last_segment_costs_no_record() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    let batches: Vec<_> = (0..4u8).map(|n| vec![vec![n; 100]]).collect();
    for batch in &batches {
        append(&mut journal, batch).expect("written");
    }
    disk.flip(&segment::name_of(1), 20);
    let (_, records, damage) = open(&disk);
    assert_eq!(records.len(), 4);
    assert_eq!(damage[0].what, "segment header");
}

/// A torn batch whose envelope holds what looks like a batch of the same journal.
#[test]
fn bytes_inside_an_envelope_never_become_records() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    append(&mut journal, &[vec![1; 10]]).expect("written");
    // A poster may know everything but the marker.
    let own = Ident { segment: 1, marker: 0 };
    let header = format::BatchHeader { number: 9, body_len: 0, count: 0, flags: 0, body_crc: 0 };
    let fake: Vec<u8> = (0..60u32).flat_map(|at| header.encode(own, 200 + 40 * at)).collect();
    append(&mut journal, &[fake]).expect("written");
    let at = journal.position().offset as usize - 100;
    disk.flip(&segment::name_of(1), at);
    assert_eq!(journal.position().segment, 1);
    let (_, records, damage) = open(&disk);
    assert_eq!((records.len(), damage), (1, vec![]), "the tail is cut, nothing in it is believed");
}

#[test]
fn a_full_disk_refuses_before_anything_is_decided_and_recovers() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    disk.set_capacity(Some(20_000));
    let mut written = Vec::new();
    let mut seed = StdRng::seed_from_u64(1);
    loop {
        let batch = payloads(&mut seed, 3);
        match append(&mut journal, &batch) {
            Ok(_) => written.extend(batch),
            Err(BeginError::Later(_)) => break,
            Err(BeginError::Fatal(fatal)) => panic!("{fatal}"),
        }
    }
    assert!(disk.used() <= 20_000);
    assert!(matches!(append(&mut journal, &[vec![0; 3000]]), Err(BeginError::Later(_))), "still full");
    disk.set_capacity(None);
    let more = payloads(&mut seed, 20);
    append(&mut journal, &more).expect("space is back");
    written.extend(more);
    let found: Vec<_> = open(&disk.power_cut(&mut seed)).1.into_iter().map(|record| record.2).collect();
    assert_eq!(found, written);
}

/// A segment that cannot get its name, or cannot be removed, for want of memory is waited for.
#[test]
fn names_that_cannot_be_changed_for_now_are_waited_for() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    let (mut written, mut seed) = (Vec::new(), StdRng::seed_from_u64(1));
    let first = journal.position().segment;
    for starved in [true, false, true, false] {
        disk.starve(starved);
        let begun = journal.position().segment;
        loop {
            let batch = payloads(&mut seed, 3);
            match append(&mut journal, &batch) {
                Ok(_) => written.extend(batch),
                Err(BeginError::Later(_)) => break assert!(starved),
                Err(BeginError::Fatal(fatal)) => panic!("{fatal}"),
            }
            if journal.position().segment > begun {
                break assert!(!starved);
            }
        }
    }
    let found: Vec<_> = open(&disk.power_cut(&mut seed)).1.into_iter().map(|record| record.2).collect();
    assert_eq!(found, written);
    journal.say_removed(first).expect("said");
    disk.starve(true);
    assert!(matches!(journal.unlink(first), Err(BeginError::Later(_))), "not now");
    disk.starve(false);
    journal.unlink(first).expect("now");
}

#[test]
fn a_clean_end_leaves_nothing_to_rewrite_and_replay_starts_where_asked() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    append(&mut journal, &[vec![1; 50]]).expect("written");
    let middle = Resume { position: journal.position(), stamp: 0 };
    let places = append(&mut journal, &[vec![2; 50]]).expect("written");
    journal.close().expect("sealed");
    let (journal, records, _) = open_from(&disk, Some(middle)).expect("opened");
    assert_eq!(records, [(places[0], PUT, vec![2; 50])], "at its old place, and not what was before");
    let position = Position { segment: journal.position().segment + 1, offset: 0 };
    let beyond = Resume { position, stamp: 0 };
    assert!(matches!(open_from(&disk.restart(), Some(beyond)), Err(OpenError::Short(_))), "its end is lost");
}

/// Compaction drops a tombstone once no older segment holds its victim. An earlier checkpoint may still hold
/// it.
#[test]
fn what_is_remembered_from_before_a_dropped_tombstone_is_refused() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    let (mut keys, mut rng) = (Keys::default(), StdRng::seed_from_u64(5));
    let mut resumes = Vec::new();
    for step in 1..100 {
        journal.stamp(step);
        resumes.push(Resume { position: journal.position(), stamp: step });
        change(&mut journal, &mut keys, &mut rng).expect("written");
    }
    let oldest = *journal.segments().keys().next().expect("there are some");
    (keys.emptying, keys.segments) = (oldest, journal.segments().keys().copied().collect());
    let mut work = journal.start_compaction(oldest).expect("intact");
    while !journal.carry_alone(&mut work, &mut keys).expect("space") {}
    journal.unlink(oldest).expect("removed");
    let buried = journal.segments().values().next().expect("there are some").stamp;
    assert!(buried > 1);
    for resume in resumes {
        let opened = open_from(&disk.restart(), Some(resume));
        assert_eq!(opened.is_ok(), resume.stamp >= buried, "{resume:?}, buried {buried}");
    }
}

#[test]
fn starting_again_and_again_takes_no_space() {
    let disk = SimDisk::default();
    append(&mut open(&disk).0, &[vec![1; 50]]).expect("written");
    for _ in 0..5 {
        assert_eq!(open(&disk).1.len(), 1);
    }
    let used = disk.used();
    for _ in 0..20 {
        assert_eq!(open(&disk).1.len(), 1);
    }
    assert!(disk.used() <= used, "{} > {used}", disk.used());
}

/// A store of numbered keys: the smallest owner that needs all of rule 18.
#[derive(Default, Debug, Clone, PartialEq)]
struct Keys {
    live: BTreeMap<u8, (u64, Location)>,
    /// The deleted keys: version, place, and the newest segment that may hold a victim.
    dead: BTreeMap<u8, (u64, Location, u32)>,
    segments: Vec<u32>,
    emptying: u32,
}

fn payload_of(key: u8, version: u64, newest: u32, filler: usize) -> Vec<u8> {
    let mut out = vec![key];
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&newest.to_le_bytes());
    out.resize(13 + filler, key);
    out
}

fn parse(payload: &[u8]) -> (u8, u64, u32) {
    let version = u64::from_le_bytes(payload[1..9].try_into().expect("eight"));
    (payload[0], version, u32::from_le_bytes(payload[9..13].try_into().expect("four")))
}

impl Keys {
    fn version(&self, key: u8) -> u64 {
        let live = self.live.get(&key).map_or(0, |entry| entry.0);
        live.max(self.dead.get(&key).map_or(0, |entry| entry.0))
    }

    /// Applies a record, idempotently by version.
    fn apply(&mut self, at: Location, kind: u8, payload: &[u8]) {
        let (key, version, newest) = parse(payload);
        if version < self.version(key) {
            return;
        }
        if kind == PUT {
            self.dead.remove(&key);
            self.live.insert(key, (version, at));
        } else {
            self.live.remove(&key);
            self.dead.insert(key, (version, at, newest));
        }
    }

    fn needs_tombstone(&self, newest: u32) -> bool {
        self.segments.iter().any(|segment| *segment <= newest && *segment != self.emptying)
    }
}

impl Liveness for Keys {
    fn cost(&mut self, at: Location, kind: u8, payload: &Bytes) -> usize {
        let (key, _, newest) = parse(payload);
        let copy = match kind {
            PUT => self.live.get(&key).is_some_and(|entry| entry.1 == at),
            _ => self.dead.get(&key).is_some_and(|entry| entry.1 == at) && self.needs_tombstone(newest),
        };
        if copy { Batch::cost(payload.len()) } else { 0 }
    }

    fn carry(
        &mut self,
        from: Location,
        kind: u8,
        payload: &Bytes,
        put: &mut dyn FnMut(u8, &[u8]) -> Location,
    ) {
        let to = put(kind, payload);
        self.live.values_mut().filter(|entry| entry.1 == from).for_each(|entry| entry.1 = to);
        self.dead.values_mut().filter(|entry| entry.1 == from).for_each(|entry| entry.1 = to);
    }
}

fn change(journal: &mut Journal, keys: &mut Keys, rng: &mut StdRng) -> Result<(), BeginError> {
    let key = rng.random_range(0..12);
    let (kind, filler) =
        if rng.random_range(0..3) == 0 { (DELETE, 0) } else { (PUT, rng.random_range(0..900)) };
    let mut batch = journal.begin(Batch::cost(13 + filler))?;
    let payload = payload_of(key, keys.version(key) + 1, batch.ident.segment, filler);
    let at = batch.push(kind, &[&payload]);
    journal.commit(batch)?;
    keys.apply(at, kind, &payload);
    Ok(())
}

fn compact(journal: &mut Journal, keys: &mut Keys, rng: &mut StdRng) -> Result<(), CompactError> {
    let others: Vec<u32> =
        journal.segments().keys().copied().filter(|n| *n != journal.position().segment).collect();
    if others.is_empty() {
        return Ok(());
    }
    keys.emptying = others[rng.random_range(0..others.len())];
    keys.segments = journal.segments().keys().copied().collect();
    let mut work = journal.start_compaction(keys.emptying)?;
    if rng.random() {
        while !journal.carry_alone(&mut work, keys)? {}
        return Ok(journal.unlink(keys.emptying)?);
    }
    // The copies ride with one change, and so may the record that the segment may be gone.
    let (mut carried, mut least, mut changed) = (Carried::More, 0, false);
    while carried != Carried::All {
        let change = (!changed && rng.random()).then(|| (rng.random_range(0..12), rng.random_range(0..900)));
        let filler = change.map_or(0, |(_, filler)| Batch::cost(13 + filler));
        let mut batch = journal.begin(filler + journal.carrying_room(0, least))?;
        if let Some((key, filler)) = change {
            let payload = payload_of(key, keys.version(key) + 1, batch.ident.segment, filler);
            let at = batch.push(PUT, &[&payload]);
            keys.apply(at, PUT, &payload);
            changed = true;
        }
        carried = journal.carry(&mut work, keys, &mut batch, Effort::beside(0, 0))?;
        least = if let Carried::NoRoom(needed) = carried { needed } else { 0 };
        journal.commit(batch)?;
    }
    Ok(journal.unlink(keys.emptying)?)
}

/// Rule 18: whatever is compacted in whatever order, and wherever the power goes, nothing live is lost and
/// nothing deleted returns.
#[test]
fn compaction_neither_loses_nor_revives() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = SimDisk::default();
        let mut known: BTreeMap<u8, u64> = BTreeMap::new();
        for _ in 0..4 {
            let (mut journal, records, damage) = open(&disk);
            assert_eq!(damage, [], "seed {seed}");
            let mut keys = Keys::default();
            records.iter().for_each(|(at, kind, payload)| keys.apply(*at, *kind, payload));
            for key in 0..12 {
                let (now, then) =
                    (keys.live.get(&key).map_or(0, |entry| entry.0), known.get(&key).copied().unwrap_or(0));
                assert!(now == then, "seed {seed}: key {key} is at {now}, was at {then}");
            }
            disk.stop_after(rng.random_range(20..200));
            loop {
                let before = keys.clone();
                let result = match rng.random_range(0..5) {
                    0 => compact(&mut journal, &mut keys, &mut rng).is_ok(),
                    _ => change(&mut journal, &mut keys, &mut rng).is_ok(),
                };
                if !result {
                    keys.live = before.live.iter().map(|(key, entry)| (*key, *entry)).collect();
                    break;
                }
            }
            disk = disk.power_cut(&mut rng);
            // The change in flight may or may not have landed; both are right. Take what is there, if it is
            // only that one change away.
            let mut found = Keys::default();
            open(&disk.restart()).1.iter().for_each(|(at, kind, payload)| found.apply(*at, *kind, payload));
            let versions = |keys: &Keys| {
                keys.live.iter().map(|(key, entry)| (*key, entry.0)).collect::<BTreeMap<_, _>>()
            };
            let (want, have) = (versions(&keys), versions(&found));
            let differ = (0..12).filter(|key| want.get(key) != have.get(key)).count();
            assert!(differ <= 1, "seed {seed}: {differ} keys changed: {want:?} {have:?}");
            known = have;
        }
    }
}

#[test]
fn emptied_segments_give_their_space_back() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    let (mut keys, mut rng) = (Keys::default(), StdRng::seed_from_u64(5));
    for _ in 0..300 {
        change(&mut journal, &mut keys, &mut rng).expect("written");
    }
    let before = disk.used();
    while journal.segments().len() > 6 {
        compact(&mut journal, &mut keys, &mut rng).expect("compacted");
    }
    assert!(disk.used() * 2 < before, "{} of {before}", disk.used());
    assert!(disk.used() <= 7 * 4096 + 2048);
}

/// Counts how often it is asked. Needs everything.
#[derive(Default)]
struct Asked {
    records: usize,
    bytes: usize,
}

impl Liveness for Asked {
    fn cost(&mut self, _: Location, _: u8, payload: &Bytes) -> usize {
        (self.records, self.bytes) = (self.records + 1, self.bytes + payload.len());
        Batch::cost(payload.len())
    }

    fn carry(&mut self, _: Location, kind: u8, payload: &Bytes, put: &mut dyn FnMut(u8, &[u8]) -> Location) {
        put(kind, payload);
    }
}

/// How far a segment was emptied is believed only while every copy is whole.
#[test]
fn where_a_copy_is_damaged_all_is_carried_again() {
    for is_damaged in [false, true] {
        let disk = SimDisk::default();
        let config = JournalConfig { segment_bytes: 1 << 20, step_bytes: 1 << 20, open_files: 3 };
        let reopen = |disk: &SimDisk| {
            let rng = Box::new(StdRng::seed_from_u64(1));
            Journal::open(Arc::new(disk.clone()), config, TIME, rng, None, &mut |_| ()).expect("opens")
        };
        let mut journal = reopen(&disk);
        let mut batch = journal.begin(700 * Batch::cost(12)).expect("space");
        let segment = batch.segment();
        for n in 0..700 {
            batch.push(PUT, &[format!("record {n:05}").as_bytes()]);
        }
        journal.commit(batch).expect("written");
        let mut batch = journal.begin(1 << 20).expect("the next segment");
        let mut work = journal.start_compaction(segment).expect("there");
        let effort = Effort::beside(0, 0);
        let carried = journal.carry(&mut work, &mut Asked::default(), &mut batch, effort).expect("carries");
        assert_eq!(carried, Carried::More);
        journal.commit(batch).expect("written");
        let mut later = journal.begin(Batch::cost(5)).expect("space");
        later.push(PUT, &[b"later"]);
        journal.commit(later).expect("written");
        if is_damaged {
            let copies = disk.find(b"record 00007");
            let (name, at) = copies.iter().max().expect("two");
            disk.flip(name, at + 9);
        }
        let disk = disk.restart();
        let mut journal = reopen(&disk);
        let work = journal.start_compaction(segment).expect("there");
        let (mut count, mut asked) = (Count::of(work), Asked::default());
        while !journal.count(&mut count, &mut asked, effort).expect("intact") {}
        assert_eq!(asked.records == 700, is_damaged, "{} records are looked at", asked.records);
    }
}

/// Of each record something short is needed.
struct Shortened;

impl Liveness for Shortened {
    fn cost(&mut self, _: Location, _: u8, _: &Bytes) -> usize {
        70
    }

    fn carry(&mut self, _: Location, kind: u8, _: &Bytes, put: &mut dyn FnMut(u8, &[u8]) -> Location) {
        put(kind, &[7; 58]);
    }
}

/// Who is patient waits until hardly anything else is needed than what is left of a segment's own records,
/// but goes on with what is begun.
#[test]
fn the_patient_leave_alone_what_will_be_worth_more() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    let records = append(&mut journal, &vec![vec![7; 600]; 5]).expect("written");
    append(&mut journal, &[vec![7; 2000]]).expect("the next segment");
    records.iter().for_each(|at| journal.note_live(*at));
    let (first, none) = (records[0].segment, BTreeSet::new());
    let worst = |journal: &Journal| [false, true].map(|patient| journal.worst_segment(patient, &none));
    assert_eq!(worst(&journal), [None, None], "all of it is needed");
    records[..3].iter().for_each(|at| journal.note_dead(*at, 70));
    assert_eq!(worst(&journal), [Some(first), None], "the others may go soon, too");
    journal.carried.insert(first, 100);
    assert_eq!(worst(&journal), [Some(first), Some(first)], "it is begun");
    journal.carried.clear();
    records[3..].iter().for_each(|at| journal.note_dead(*at, 70));
    assert_eq!(worst(&journal), [Some(first), Some(first)], "all have left something");
    // Counting finds the same.
    let noted = journal.segments()[&first];
    let mut count = Count::of(journal.start_compaction(first).expect("there"));
    while !journal.count(&mut count, &mut Shortened, Effort::beside(0, 0)).expect("intact") {}
    let counted = journal.segments()[&first];
    assert_eq!((counted.live, counted.leftover), (350, 350));
    assert_eq!((noted.live, noted.leftover), (350, 350));
    // Until it is counted again, what a record leads to counts as well, as a turn does to a statement of all
    // readers.
    journal.note_needed(records[0], 1300);
    assert_eq!(worst(&journal), [Some(first), None]);
    // Of short records nearly all is left: it is not worth carrying before it is forgotten.
    records.iter().for_each(|at| journal.note_live(*at));
    records.iter().for_each(|at| journal.note_dead(*at, 600));
    assert_eq!(worst(&journal), [None, None]);
}

/// However long a segment is, and a batch in it, a step looks at a bounded part of it, and reads one.
#[test]
fn a_step_is_bounded() {
    let config = JournalConfig { segment_bytes: 8 << 20, step_bytes: 1 << 20, open_files: 3 };
    for (count, len) in [(100_000, 20), (3_000, 1_000), (20, 200_000)] {
        let disk = SimDisk::default();
        let rng = Box::new(StdRng::seed_from_u64(1));
        let mut journal =
            Journal::open(Arc::new(disk.clone()), config, TIME, rng, None, &mut |_| ()).expect("opens");
        let mut batch = journal.begin(count * Batch::cost(len)).expect("space");
        let segment = batch.segment();
        for _ in 0..count {
            batch.push(PUT, &[&vec![7; len]]);
        }
        journal.commit(batch).expect("written");
        journal.begin(8 << 20).expect("the next segment");
        let most = (513, (128 << 10) + len);
        let work = journal.start_compaction(segment).expect("there");
        let (mut counted, mut steps, mut all) = (Count::of(work), 0, 0);
        loop {
            let mut asked = Asked::default();
            let read = disk.bytes_read();
            let done = journal.count(&mut counted, &mut asked, Effort::beside(0, 0)).expect("intact");
            assert!(asked.records <= most.0 && asked.bytes <= most.1, "{} records", asked.records);
            let read = disk.bytes_read() - read;
            assert!(read <= 2 * most.1 + (64 << 10), "{read} bytes read in a step, of {count} x {len}");
            (all, steps) = (all + asked.records, steps + 1);
            if done {
                break;
            }
        }
        let usage = journal.segments()[&segment];
        assert_eq!((all, usage.live, usage.leftover), (count, (count * Batch::cost(len)) as u64, 0));
        assert!(steps > 10, "{steps}");
    }
}

/// A lost segment may be put back, and then what it holds must still find what buries it.
#[test]
fn while_segments_are_lost_nothing_counts_as_buried_for_good() {
    let disk = SimDisk::default();
    let (mut journal, ..) = open(&disk);
    for stamp in 1..60 {
        journal.stamp(stamp);
        append(&mut journal, &[vec![7; 600]]).expect("written");
    }
    let (first, second) = {
        let mut numbers = journal.segments().keys();
        (*numbers.next().expect("many"), *numbers.next().expect("many"))
    };
    assert!(journal.floor_without(first) > 0);
    drop(journal);
    disk.unlink(&name_of(second)).expect("there");
    let (mut journal, _, damage) = open(&disk);
    assert!(damage.iter().any(|damage| damage.segment == second));
    assert_eq!(journal.floor_without(first), 0);
    journal.forget_lost().expect("written");
    assert!(journal.floor_without(first) > 0);
    drop(journal);
    let (.., damage) = open(&disk);
    assert!(damage.iter().all(|damage| damage.segment != second), "{damage:?}");
}
