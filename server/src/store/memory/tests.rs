//! The conformance suite on the memory engine, twice: restarted from its journal as it was written, and from
//! one as compaction and checkpoints would leave it, which is what the embedded engine has to cope with.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::codec::{Parser, Writer};
use crate::store::conformance::{Engine, Opening, Setup, conformance};
use crate::store::ledger::{Keep, Place, RowKey};

/// The memory engine under test; its durable state is an image.
struct InMemory {
    rng: StdRng,
    last: Option<Arc<MemoryStore>>,
}

impl InMemory {
    fn new() -> Self {
        Self { rng: StdRng::seed_from_u64(1), last: None }
    }
}

impl Engine for InMemory {
    fn open<'a>(&'a mut self, setup: &'a Setup) -> Opening<'a> {
        let (policy, clock, heard) = (setup.policy, setup.clock.clone(), setup.heard.clone());
        let store = match self.last.take().and_then(|last| last.image()) {
            None => MemoryStore::restartable(policy, clock, heard, &mut self.rng),
            Some(image) => MemoryStore::reopen(image, policy, clock, heard, &mut self.rng),
        };
        let store = Arc::new(store);
        self.last = Some(store.clone());
        Box::pin(std::future::ready(store as Arc<dyn Store>))
    }
}

conformance!(InMemory::new());

mod compacted {
    use super::*;

    conformance!(Compacted::new());
}

/// So that bodies can stand in checkpoint rows.
impl Place for Body {
    fn put(&self, out: &mut Vec<u8>) {
        Writer(out).turn(self.turn.as_deref()).fixed(&self.bytes);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let mut p = Parser::new(Bytes::copy_from_slice(input));
        let turn = p.turn().ok()?;
        Some(Self { bytes: p.rest(), turn })
    }
}

/// Bounds that no test sets.
fn other_policy() -> StorePolicy {
    StorePolicy {
        total_bytes: 1,
        mailboxes: 1,
        accounts: 1,
        readers: 1,
        readers_per_mailbox: 1,
        post_id_seconds: 1,
        unopened_seconds: 1,
        key_packages_per_device: 1,
        tokens_per_device: 1,
        tokens: 1,
        late_seconds: 7,
        ..StorePolicy::default()
    }
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A journal in which records have moved, and a checkpoint of some moment. Each restart removes some
/// stretches of the journal as compaction does, and starts from the whole journal, or from the checkpoint and
/// the tail. All ways must lead to the same state.
struct Compacted {
    rng: StdRng,
    last: Option<Arc<MemoryStore>>,
    /// The physical journal, encoded; `None` where a record's segment was removed.
    journal: Vec<Option<Vec<u8>>>,
    /// For each record, the version of the newest when it was written: what a segment that begins there would
    /// store as its floor.
    floors: Vec<u64>,
    /// How many records of the store's own journal are in `journal` already.
    known: usize,
    /// Checkpoint rows, and the length of the journal at their time.
    checkpoint: (Rows, usize),
    /// Rows that are kept up to date only by what the ledger says has changed.
    followed: Rows,
}

impl Compacted {
    fn new() -> Self {
        Self {
            rng: StdRng::seed_from_u64(2),
            last: None,
            journal: Vec::new(),
            floors: Vec::new(),
            known: 0,
            checkpoint: (Rows::new(), 0),
            followed: Rows::new(),
        }
    }

    fn write(&mut self, record: &Record, floor: u64) -> u32 {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        self.journal.push(Some(bytes));
        self.floors.push(floor);
        self.journal.len() as u32 - 1
    }

    fn record(&self, at: usize) -> Option<Record> {
        let bytes = self.journal[at].clone()?;
        Some(Record::decode(bytes.into()).expect("what was encoded decodes"))
    }

    /// The ledger that the rows and the journal behind them make.
    fn rebuild<L: Clone + PartialEq>(
        &self,
        mut rebuild: Rebuild<L>,
        from: usize,
        place: impl Fn(usize, &Record) -> L,
    ) -> Ledger<L> {
        for at in from..self.journal.len() {
            if let Some(record) = self.record(at) {
                rebuild.apply(&record, place(at, &record));
            }
        }
        let (ledger, missing) = rebuild.finish();
        assert_eq!(missing, [], "compaction lost an envelope");
        ledger
    }

    /// Removes one stretch of the journal that lies before the checkpoint.
    fn compact(&mut self, setup: &Setup) {
        let end = self.rng.random_range(0..=self.checkpoint.1);
        let begin = self.rng.random_range(0..=end);
        let mut ledger: Ledger<u32> = self.rebuild(Rebuild::new(setup.policy, [5, 6]), 0, |at, _| at as u32);
        let remains = |at: &usize| self.journal[*at].is_some() && !(begin..end).contains(at);
        let oldest = (0..self.journal.len()).find(remains);
        let floor = oldest.map_or(ledger.version(), |at| self.floors[at]);
        for at in begin..end {
            let Some(record) = self.record(at) else { continue };
            let Keep { copy, write } = ledger.keep(&record, &(at as u32), floor);
            for record in write.iter().chain(copy.then_some(&record)) {
                let place = self.write(record, ledger.version());
                ledger.apply(record, place, &mut |_, _| ());
            }
            self.journal[at] = None;
        }
    }

    /// Takes over what the store wrote, and checks that no row has changed that the ledger does not name.
    fn end(&mut self, last: &MemoryStore) -> Rows {
        let mut state = last.state.lock();
        let new = state.journal.as_ref().map_or(&[][..], |journal| &journal[self.known..]).to_vec();
        let mut newest = self.floors.last().copied().unwrap_or(0);
        for record in &new {
            self.write(record, newest);
            newest = newest.max(record.version);
        }
        for key in state.ledger.take_dirty().into_keys() {
            match state.ledger.export(&key) {
                Some(value) => self.followed.insert(key.bytes(), value),
                None => self.followed.remove(&key.bytes()),
            };
        }
        let rows = rows(&state.ledger);
        assert_same(&imported(&self.followed), &rows, "the ledger did not say that a row changed");
        rows
    }
}

/// Asserts that a command may be decided as often as one likes: the same comes of it, and nothing changes.
pub(super) fn decide_twice(ledger: &Ledger<Body>, command: &Command, now: Now) {
    let few = ledger.stats().posts < 50;
    let before = few.then(|| rows(ledger));
    let decide = || ledger.decide(command.clone(), now);
    assert_eq!(decide(), decide(), "the second decision is another");
    if let Some(before) = before {
        assert_same(&before, &rows(ledger), "deciding changed the state");
    }
}

fn rows(ledger: &Ledger<Body>) -> Rows {
    ledger.rows().filter_map(|key| Some((key.bytes(), ledger.export(&key)?))).collect()
}

/// The rows of the ledger that these rows make. They may differ: a trimmed envelope still stands in its
/// chunk, where its mailbox hides it.
fn imported(from: &Rows) -> Rows {
    let mut rebuild = Rebuild::new(StorePolicy::default(), [7, 8]);
    for (key, value) in from {
        rebuild.import(key, value).expect("an exported row can be imported");
    }
    let (ledger, missing) = rebuild.finish();
    assert_eq!(missing, [], "rows lost an envelope");
    rows(&ledger)
}

/// Asserts that rows are the same, and shows only those that differ.
fn assert_same(left: &Rows, right: &Rows, why: &str) {
    let differ: Vec<_> = left.iter().filter(|(key, value)| right.get(*key) != Some(value)).collect();
    let more: Vec<_> = right.iter().filter(|(key, value)| left.get(*key) != Some(value)).collect();
    assert!(differ.is_empty() && more.is_empty(), "{why}:\nleft  {differ:?}\nright {more:?}");
}

/// Rows without what compaction and checkpoints may change: when a mailbox was last stated, and the day
/// before which tokens are void, which is dropped with the last of them.
fn essence(rows: &Rows) -> Rows {
    let mut rows = rows.clone();
    for (key, value) in &mut rows {
        let mut p = Parser::new(Bytes::copy_from_slice(value));
        let number = |p: &mut Parser| p.number().expect("rows begin with numbers");
        if *key == RowKey::Meta.bytes() {
            *value = format!("{:?}", [(); 5].map(|()| number(&mut p))).into();
        } else if key[0] == 2 {
            let [_, life, version, _] = [number(&mut p), number(&mut p), number(&mut p), number(&mut p)];
            *value = [format!("{life} {version} ").as_bytes(), &p.rest()].concat();
        }
    }
    rows
}

impl Engine for Compacted {
    fn open<'a>(&'a mut self, setup: &'a Setup) -> Opening<'a> {
        let before = self.last.take().map(|last| {
            let state = last.state.lock();
            let life = (last.incarnation(), state.past.clone(), state.starts + 1);
            drop(state);
            (self.end(&last), life)
        });
        for _ in 0..self.rng.random_range(0..4) {
            self.compact(setup);
        }
        let body_at = |_: usize, record: &Record| body(record);
        let whole = self.rebuild(Rebuild::new(setup.policy, [1, 2]), 0, body_at);
        let elsewhere = self.rebuild(Rebuild::new(other_policy(), [1, 2]), 0, body_at);
        assert_same(&rows(&whole), &rows(&elsewhere), "what records mean depends on the configuration");
        let mut from_rows = Rebuild::new(setup.policy, [3, 4]);
        for (key, value) in &self.checkpoint.0 {
            from_rows.import(key, value).expect("an exported row can be imported");
        }
        from_rows.track();
        let mut tail = self.rebuild(from_rows, self.checkpoint.1, body_at);
        let mut followed = self.checkpoint.0.clone();
        for key in tail.take_dirty().into_keys() {
            match tail.export(&key) {
                Some(value) => followed.insert(key.bytes(), value),
                None => followed.remove(&key.bytes()),
            };
        }
        assert_same(&imported(&followed), &rows(&tail), "replaying the tail did not say that a row changed");
        let essential = essence(&rows(&whole));
        assert_same(&essential, &essence(&rows(&tail)), "the whole journal and the checkpoint differ");
        if let Some((before, _)) = &before {
            assert_same(&essential, &essence(before), "a restart changed the state");
        }
        let mut ledger = if self.rng.random() { whole } else { tail };
        ledger.track();
        ledger.take_dirty();
        self.followed = rows(&ledger);
        if self.rng.random() {
            self.checkpoint = (self.followed.clone(), self.journal.len());
        }
        let journal: Vec<_> = (0..self.journal.len()).filter_map(|at| self.record(at)).collect();
        self.known = journal.len();
        let life = before.map(|(_, life)| life);
        let life = life.unwrap_or_else(|| (Incarnation::random(&mut self.rng), Remembered::new(), 1));
        let (clock, heard) = (setup.clock.clone(), setup.heard.clone());
        let store = Arc::new(MemoryStore::with(ledger, Some(journal), life, setup.policy, clock, heard));
        self.last = Some(store.clone());
        Box::pin(std::future::ready(store as Arc<dyn Store>))
    }
}
