//! Random lists of operations, run on an engine and on the [model](super::model), with restarts in between.
//! Every answer must agree. A list that fails is printed, and can be kept here as a named reproduction.

use std::collections::BTreeMap;

use bytes::Bytes;
use posthorn_proto::KeyHash;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::model::Model;
use super::names::{
    self, CREATE, UPLOAD, account, blob, device, handle_of, holder, invite, mailbox, post_key, read_key,
    reader_id, token, turn_key,
};
use super::{Engine, Fixture, new_mailbox, reproductions};
use crate::store::{
    Advance, Append, BlobView, NewAccount, NewBlob, NewInvite, NewMailbox, OpenReader, OpeningNumber,
    ReadRange, ReaderView, Spent, SpentOn, StoreError, StorePolicy,
};

/// One thing done to a store. Numbers name mailboxes, readers, posts and generations of keys as in [`names`].
/// Acknowledged is by the newest opening, or by one so many `before` it.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Draw {
        device: u8,
        upload: bool,
        tokens: Vec<u8>,
    },
    Create {
        mailbox: u8,
        token: u8,
        readers: Vec<u8>,
        expiry: u32,
    },
    Post {
        mailbox: u8,
        post: u16,
        generation: Gen,
        len: usize,
    },
    /// From now on this number names a post whose id is made so much later than now, in seconds.
    Name {
        post: u16,
        made: i64,
    },
    Turn {
        mailbox: u8,
        post: u16,
        generation: Gen,
        admit: Vec<u8>,
        evict: Vec<u8>,
    },
    Open {
        mailbox: u8,
        reader: u8,
        key: u8,
        claim: Option<u8>,
    },
    Advance {
        mailbox: u8,
        reader: u8,
        seq: u64,
        before: usize,
    },
    Read {
        mailbox: u8,
        from: u64,
        to: u64,
        bytes: usize,
    },
    Signal {
        mailbox: u8,
        generation: Gen,
    },
    Destroy {
        mailbox: u8,
        generation: Gen,
    },
    Pass {
        seconds: u64,
    },
    Expire,
    Mint {
        invite: u8,
        uses: u32,
        seconds: u64,
    },
    Register {
        account: u8,
        invite: Option<u8>,
        variant: bool,
    },
    RemoveAccount {
        account: u8,
    },
    Card {
        device: u8,
        version: u64,
        fill: u8,
    },
    LookUp {
        account: u8,
    },
    Publish {
        device: u8,
        packages: Vec<u8>,
        last_resort: Option<u8>,
    },
    Take {
        account: u8,
    },
    CreateBlob {
        blob: u8,
        token: u8,
        holder: u8,
        length: u64,
        seconds: u32,
    },
    ExtendBlob {
        blob: u8,
        holder: u8,
        seconds: u32,
    },
    DeleteBlob {
        blob: u8,
        holder: u8,
    },
    /// A token is spent on the mailbox or the blob of this number.
    Spend {
        token: u8,
        blob: bool,
        name: u8,
    },
    /// That is made with what the token was last spent as.
    Make {
        token: u8,
        blob: bool,
        name: u8,
    },
    /// The token is given back, as what it was last spent as.
    GiveBack {
        token: u8,
        blob: bool,
        name: u8,
    },
    Restart,
}

/// A generation of keys: mostly the current one, so that operations succeed often enough.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gen {
    Current,
    Fixed(u8),
}

fn ops() -> impl Strategy<Value = Op> {
    let mailbox = || 1..3u8;
    let who = || 1..6u8;
    let generation = || prop_oneof![4 => Just(Gen::Current), 1 => (0..4u8).prop_map(Gen::Fixed)];
    let names = |max: usize| vec(1..7u8, 0..=max);
    prop_oneof![
        2 => (1..3u8, any::<bool>(), vec(1..12u8, 0..6))
            .prop_map(|(device, upload, tokens)| Op::Draw { device, upload, tokens }),
        2 => (1..4u8, 1..12u8, 1..3u8, prop_oneof![Just(0u64), Just(900)], 1..40_000u32)
            .prop_map(|(blob, token, holder, length, seconds)| Op::CreateBlob { blob, token, holder, length, seconds }),
        2 => (1..4u8, 1..3u8, 1..100_000u32)
            .prop_map(|(blob, holder, seconds)| Op::ExtendBlob { blob, holder, seconds }),
        1 => (1..4u8, 1..3u8).prop_map(|(blob, holder)| Op::DeleteBlob { blob, holder }),
        3 => (mailbox(), 1..12u8, names(4), prop_oneof![Just(500u32), Just(20_000)])
            .prop_map(|(mailbox, token, readers, expiry)| Op::Create { mailbox, token, readers, expiry }),
        10 => (mailbox(), 0..30u16, generation(), prop_oneof![Just(1usize), Just(300), Just(700)])
            .prop_map(|(mailbox, post, generation, len)| Op::Post { mailbox, post, generation, len }),
        4 => (0..30u16, prop_oneof![4 => Just(0i64), 2 => -600..600i64, 1 => -20_000..20_000i64])
            .prop_map(|(post, made)| Op::Name { post, made }),
        5 => (mailbox(), 0..30u16, generation(), names(2), names(2))
            .prop_map(|(mailbox, post, generation, admit, evict)| Op::Turn { mailbox, post, generation, admit, evict }),
        4 => (mailbox(), who(), 1..8u8, proptest::option::of(1..8u8))
            .prop_map(|(mailbox, reader, key, claim)| Op::Open { mailbox, reader, key, claim }),
        9 => (mailbox(), who(), prop_oneof![5 => 0..12u64, 1 => Just(u64::MAX)], prop_oneof![4 => Just(0usize), 1 => 1..3usize])
            .prop_map(|(mailbox, reader, seq, before)| Op::Advance { mailbox, reader, seq, before }),
        3 => (mailbox(), 0..12u64, prop_oneof![0..12u64, Just(u64::MAX)], prop_oneof![Just(0usize), Just(900), Just(99_999)])
            .prop_map(|(mailbox, from, to, bytes)| Op::Read { mailbox, from, to, bytes }),
        1 => (mailbox(), generation()).prop_map(|(mailbox, generation)| Op::Signal { mailbox, generation }),
        1 => (mailbox(), generation()).prop_map(|(mailbox, generation)| Op::Destroy { mailbox, generation }),
        4 => prop_oneof![6 => 1..400u64, 2 => 5_000..12_000u64, 1 => 50_000..300_000u64]
            .prop_map(|seconds| Op::Pass { seconds }),
        4 => Just(Op::Expire),
        1 => (1..3u8, 0..3u32, 100..100_000u64).prop_map(|(invite, uses, seconds)| Op::Mint { invite, uses, seconds }),
        2 => (1..4u8, proptest::option::of(1..3u8), any::<bool>())
            .prop_map(|(account, invite, variant)| Op::Register { account, invite, variant }),
        1 => (2..4u8).prop_map(|account| Op::RemoveAccount { account }),
        1 => (1..4u8, 0..4u64, 0..3u8).prop_map(|(device, version, fill)| Op::Card { device, version, fill }),
        1 => (1..4u8).prop_map(|account| Op::LookUp { account }),
        2 => (1..3u8, vec(1..9u8, 0..5), proptest::option::of(1..4u8))
            .prop_map(|(device, packages, last_resort)| Op::Publish { device, packages, last_resort }),
        2 => (1..4u8).prop_map(|account| Op::Take { account }),
        2 => (1..12u8, any::<bool>(), 1..3u8).prop_map(|(token, blob, name)| Op::Spend { token, blob, name }),
        2 => (1..12u8, any::<bool>(), 1..3u8).prop_map(|(token, blob, name)| Op::Make { token, blob, name }),
        2 => (1..12u8, any::<bool>(), 1..3u8).prop_map(|(token, blob, name)| Op::GiveBack { token, blob, name }),
        3 => Just(Op::Restart),
    ]
}

/// Bounds so small that lists of operations reach all of them.
fn tiny_policy() -> StorePolicy {
    StorePolicy {
        total_bytes: 6_000,
        mailboxes: 8,
        readers: 9,
        accounts: 2,
        readers_per_mailbox: 4,
        post_id_seconds: u32::MAX,
        fresh_seconds: 400,
        unopened_seconds: 2 * 86_400,
        key_packages_per_device: 3,
        tokens_per_device: 5,
        upload_tokens_per_device: 4,
        tokens: 8,
        blobs: 2,
        blob_bytes: 1500,
        late_seconds: 0,
    }
}

fn package(n: u8) -> Bytes {
    names::envelope(n, 40)
}

/// Whether two answers are alike: they are equal, except that the words about a bad turn do not matter.
fn alike<T: PartialEq + std::fmt::Debug>(
    real: Result<T, StoreError>,
    model: Result<T, StoreError>,
) -> Result<(), String> {
    match (&real, &model) {
        (Err(StoreError::BadTurn(_)), Err(StoreError::BadTurn(_))) => Ok(()),
        _ if real == model => Ok(()),
        _ => Err(format!("the store answers {real:?}, the model {model:?}")),
    }
}

/// An engine and its model side by side.
struct Pair {
    fixture: Fixture,
    model: Model,
    /// The current generation of each mailbox's keys.
    generations: [u8; 4],
    /// The numbers of the openings of each mailbox and reader, in order.
    openings: BTreeMap<(u8, u8), Vec<OpeningNumber>>,
    /// What each token was last spent as on each thing: the store's word, and the number of the spending.
    spent: BTreeMap<(u8, SpentOn), (Spent, u64)>,
    /// When the id of each post was made, unix seconds; of others when they are first posted.
    made: BTreeMap<u16, u64>,
}

impl Pair {
    /// Opens on both sides. The number is the store's, and is kept.
    async fn open(&mut self, m: u8, reader: u8, key: u8, claim: Option<u8>) -> Result<(), String> {
        let claim = claim.map(read_key);
        let open = OpenReader { mailbox: mailbox(m), reader: reader_id(reader), key: read_key(key), claim };
        let answer = self.model.open(&open);
        let view = self.fixture.store.open(open).await;
        if let Ok(view) = view {
            let numbers = self.openings.entry((m, reader)).or_default();
            if numbers.last().is_some_and(|last| *last >= view.opening) {
                return Err(format!("opening {:?} comes behind {numbers:?}", view.opening));
            }
            numbers.push(view.opening);
        }
        alike(view.map(|view| ReaderView { opening: OpeningNumber::default(), ..view }), answer)
    }

    async fn advance(&mut self, m: u8, reader: u8, seq: u64, before: usize) -> Result<(), String> {
        if !self.openings.contains_key(&(m, reader)) {
            self.open(m, reader, reader, None).await?;
        }
        let numbers = self.openings.get(&(m, reader));
        let opening = numbers.and_then(|all| all.iter().rev().nth(before).copied()).unwrap_or_default();
        let to = Advance { opening, ..names::upto(mailbox(m), reader, seq) };
        let answer = self.model.advance(to);
        alike(self.fixture.store.advance(to).await, answer)
    }

    /// Spends on both sides. Two spendings are the same for the store if they are one for the model.
    async fn spend(&mut self, n: u8, on: SpentOn) -> Result<(), String> {
        let (real, answer) = (self.fixture.store.spend(token(n), on).await, self.model.spend(token(n), on));
        if let (Ok(spent), Ok(number)) = (real, answer)
            && let Some((former, known)) = self.spent.insert((n, on), (spent, number))
            && (former == spent) != (known == number)
        {
            return Err(format!("spent as {former:?} first, then as {spent:?}"));
        }
        alike(real.map(drop), answer.map(drop))
    }

    async fn step_of_token(&mut self, op: &Op) -> Result<(), String> {
        let (Op::Spend { token: n, blob: is_blob, name }
        | Op::Make { token: n, blob: is_blob, name }
        | Op::GiveBack { token: n, blob: is_blob, name }) = op
        else {
            return Err(format!("not about a token: {op:?}"));
        };
        let on = if *is_blob { SpentOn::Blob(blob(*name)) } else { SpentOn::Mailbox(mailbox(*name)) };
        let Some((spent, number)) = self.spent.get(&(*n, on)).copied() else {
            return self.spend(*n, on).await;
        };
        let (store, model) = (self.fixture.store.clone(), &mut self.model);
        match (op, on) {
            (Op::Spend { .. }, _) => self.spend(*n, on).await,
            (Op::GiveBack { .. }, _) => {
                model.give_back(token(*n), on, number);
                alike(store.give_back(spent).await, Ok(()))
            }
            (_, SpentOn::Mailbox(_)) => {
                let new =
                    NewMailbox { token: token(*n), expiry: 500, quota: 4_000, ..new_mailbox(*name, &[1]) };
                let answer = model.make(new.clone(), number);
                if answer == Ok(()) && model.check_post_key(new.mailbox, post_key(0)).is_ok() {
                    self.generations[usize::from(*name)] = 0;
                }
                alike(store.create(new, spent).await, answer)
            }
            (_, SpentOn::Blob(blob)) => {
                let new = NewBlob { blob, token: token(*n), holder: holder(1), length: 0, seconds: 5_000 };
                let answer = model.make_blob(new, number);
                let view = |view: BlobView| BlobView { life: 0, ..view };
                alike(store.create_blob(new, spent).await.map(view), answer)
            }
        }
    }

    fn generation(&self, mailbox: u8, generation: Gen) -> u8 {
        match generation {
            Gen::Current => self.generations[usize::from(mailbox)],
            Gen::Fixed(n) => n,
        }
    }

    /// The append with the id that its number has.
    fn named(&mut self, append: Append, post: u16) -> Append {
        names::at(append, *self.made.entry(post).or_insert(self.model.now))
    }

    async fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Draw { .. }
            | Op::Mint { .. }
            | Op::Register { .. }
            | Op::RemoveAccount { .. }
            | Op::Card { .. }
            | Op::LookUp { .. }
            | Op::Publish { .. }
            | Op::Take { .. } => self.step_of_directory(op).await?,
            Op::CreateBlob { .. } | Op::ExtendBlob { .. } | Op::DeleteBlob { .. } => {
                self.step_of_blob(op).await?
            }
            Op::Spend { .. } | Op::Make { .. } | Op::GiveBack { .. } => self.step_of_token(op).await?,
            Op::Name { post, made } => {
                self.made.insert(*post, self.model.now.saturating_add_signed(*made));
            }
            Op::Pass { seconds } => {
                self.fixture.clock.pass(*seconds);
                self.model.now += seconds;
            }
            Op::Expire => {
                alike(self.fixture.store.expire().await, Ok(()))?;
                self.model.expire();
            }
            Op::Restart => {
                self.fixture.restart().await;
                self.model.restart();
                // A list may let more than a week pass without a record, as if the relay had been off.
                if self.fixture.store.stats().expiry_paused {
                    alike(self.fixture.store.confirm_clock().await, Ok(()))?;
                }
            }
            _ => self.step_of_mailbox(op).await?,
        }
        let stats = self.fixture.store.stats();
        let stats = crate::store::Stats { disk_bytes: 0, past_bytes: 0, past_since: 0, ..stats };
        if stats == self.model.stats() {
            return Ok(());
        }
        Err(format!("the store counts {stats:?}, the model {:?}", self.model.stats()))
    }

    async fn step_of_mailbox(&mut self, op: &Op) -> Result<(), String> {
        let (store, model) = (self.fixture.store.clone(), &mut self.model);
        match op {
            Op::Create { mailbox, token: paid, readers, expiry } => {
                let mut new = new_mailbox(*mailbox, readers);
                new = NewMailbox { token: token(*paid), expiry: *expiry, quota: 4_000, ..new };
                let answer = model.create(new.clone());
                if answer == Ok(()) && model.check_post_key(new.mailbox, post_key(0)).is_ok() {
                    self.generations[usize::from(*mailbox)] = 0;
                }
                alike(self.fixture.create(new).await, answer)
            }
            Op::Post { mailbox: m, post, generation, len } => {
                let append = names::sized(mailbox(*m), *post, self.generation(*m, *generation), *len);
                let append = self.named(append, *post);
                let answer = self.model.append(append.clone());
                alike(store.append(append).await, answer)
            }
            Op::Turn { mailbox: m, post, generation, admit, evict } => {
                let generation = self.generation(*m, *generation);
                let append =
                    names::turning(names::post(mailbox(*m), *post, generation), generation, admit, evict);
                let append = self.named(append, *post);
                let answer = self.model.append(append.clone());
                if self.model.check_post_key(mailbox(*m), post_key(generation + 1)).is_ok() {
                    self.generations[usize::from(*m)] = generation + 1;
                }
                alike(store.append(append).await, answer)
            }
            Op::Open { mailbox: m, reader, key, claim } => self.open(*m, *reader, *key, *claim).await,
            Op::Advance { mailbox: m, reader, seq, before } => self.advance(*m, *reader, *seq, *before).await,
            Op::Read { mailbox: m, from, to, bytes } => {
                let range = ReadRange { from: *from, to: *to, bytes: *bytes };
                alike(store.read(mailbox(*m), range).await, model.read(mailbox(*m), range))
            }
            Op::Signal { mailbox: m, generation } => {
                let key = post_key(self.generation(*m, *generation));
                let answer = self.model.check_post_key(mailbox(*m), key);
                alike(store.signal(mailbox(*m), key, package(1)).await.map(drop), answer)
            }
            Op::Destroy { mailbox: m, generation } => {
                let key = turn_key(self.generation(*m, *generation));
                let answer = self.model.destroy(mailbox(*m), key);
                alike(store.destroy(mailbox(*m), key).await, answer)
            }
            other => Err(format!("not about a mailbox: {other:?}")),
        }
    }

    async fn step_of_directory(&mut self, op: &Op) -> Result<(), String> {
        let (store, model) = (self.fixture.store.clone(), &mut self.model);
        match op {
            Op::Draw { device: n, upload, tokens } => {
                let purpose = if *upload { UPLOAD } else { CREATE };
                let hashes: Vec<KeyHash> = tokens.iter().map(|n| token(*n)).collect();
                let answer = model.draw_tokens(device(*n), purpose, hashes.clone());
                alike(store.draw_tokens(device(*n), purpose, hashes).await, answer)
            }
            Op::Mint { invite: n, uses, seconds } => {
                let new = NewInvite { hash: invite(*n), uses: *uses, expires: model.now + seconds };
                model.mint_invite(new);
                alike(store.mint_invite(new).await, Ok(()))
            }
            Op::Register { account: n, invite: by, variant } => {
                let name = n + u8::from(*variant) * 100;
                let (identity_key, device) = ([name; 32], device(name));
                let new = NewAccount { invite: by.map(invite), identity_key, device, ..account(*n) };
                let answer = model.register(new.clone());
                alike(store.register(new).await, answer)
            }
            Op::RemoveAccount { account } => {
                let answer = model.remove_account(&handle_of(*account));
                alike(store.remove_account(handle_of(*account)).await, answer)
            }
            Op::Card { device: n, version, fill } => {
                let card = names::envelope(*fill, 30);
                let answer = model.publish_card(device(*n), *version, card.clone());
                alike(store.publish_card(device(*n), *version, card).await, answer)
            }
            Op::LookUp { account } => {
                alike(store.card(handle_of(*account)).await, model.card(&handle_of(*account)))
            }
            Op::Publish { device: n, packages, last_resort } => {
                let (packages, last): (Vec<_>, _) =
                    (packages.iter().map(|n| package(*n)).collect(), last_resort.map(|n| package(n + 100)));
                let answer = model.publish_key_packages(device(*n), packages.clone(), last.clone());
                alike(store.publish_key_packages(device(*n), packages, last).await, answer)
            }
            Op::Take { account } => {
                let answer = model.take_key_packages(&handle_of(*account));
                alike(store.take_key_packages(handle_of(*account)).await, answer)
            }
            other => Err(format!("not about the directory: {other:?}")),
        }
    }

    async fn step_of_blob(&mut self, op: &Op) -> Result<(), String> {
        let (store, model) = (self.fixture.store.clone(), &mut self.model);
        let view = |view: BlobView| BlobView { life: 0, ..view };
        match op {
            Op::CreateBlob { blob: n, token: paid, holder: by, length, seconds } => {
                let (length, seconds) = (*length, *seconds);
                let new =
                    NewBlob { blob: blob(*n), token: token(*paid), holder: holder(*by), length, seconds };
                let answer = model.create_blob(new);
                alike(self.fixture.create_blob(new).await.map(view), answer)
            }
            Op::ExtendBlob { blob: n, holder: by, seconds } => {
                let answer = model.extend_blob(blob(*n), holder(*by), *seconds);
                alike(store.extend_blob(blob(*n), holder(*by), *seconds).await.map(view), answer)
            }
            Op::DeleteBlob { blob: n, holder: by } => {
                let answer = model.delete_blob(blob(*n), holder(*by));
                alike(store.delete_blob(blob(*n), holder(*by)).await, answer)
            }
            other => Err(format!("not about a blob: {other:?}")),
        }
    }

    /// Compares everything that can be seen from outside.
    async fn look(&mut self) -> Result<(), String> {
        for m in 1..3 {
            self.step(&Op::Read { mailbox: m, from: 0, to: u64::MAX, bytes: usize::MAX }).await?;
            for reader in 1..7 {
                for key in 1..8 {
                    self.step(&Op::Open { mailbox: m, reader, key, claim: None }).await?;
                }
            }
        }
        for n in 1..4 {
            let there = self.fixture.store.blob(blob(n)).await;
            alike(there.map(|view| BlobView { life: 0, ..view }), self.model.blob(blob(n)))?;
        }
        for account in 1..4 {
            self.step(&Op::LookUp { account }).await?;
        }
        for (token, is_blob) in (1..12).flat_map(|token| [(token, false), (token, true)]) {
            self.step(&Op::Spend { token, blob: is_blob, name: 1 }).await?;
        }
        Ok(())
    }
}

/// Runs a list on an engine; the error names the operation that went wrong.
fn run(engine: Box<dyn Engine>, ops: &[Op]) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let fixture = Fixture::boxed(engine, tiny_policy()).await;
        let model = Model::new(tiny_policy());
        let mut pair = Pair {
            fixture,
            model,
            generations: [0; 4],
            openings: BTreeMap::new(),
            spent: BTreeMap::new(),
            made: BTreeMap::new(),
        };
        let begin = [
            Op::Register { account: 1, invite: None, variant: false },
            Op::Draw { device: 1, upload: false, tokens: vec![1, 2, 3, 4] },
            Op::Create { mailbox: 1, token: 1, readers: vec![1, 2], expiry: 500 },
            Op::Create { mailbox: 2, token: 2, readers: vec![1, 3, 4], expiry: 20_000 },
        ];
        for (n, op) in begin.iter().chain(ops).enumerate() {
            pair.step(op).await.map_err(|error| format!("operation {n}, {op:?}: {error}"))?;
        }
        for when in ["at the end", "after a last restart"] {
            pair.look().await.map_err(|error| format!("{when}: {error}"))?;
            pair.step(&Op::Restart).await.map_err(|error| format!("{when}: {error}"))?;
        }
        Ok(())
    })
}

/// Runs random lists; `POSTHORN_CASES` sets how many.
pub(crate) fn random(engine: impl Fn() -> Box<dyn Engine>) {
    let cases = std::env::var("POSTHORN_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&vec(ops(), 1..120), |ops| {
        run(engine(), &ops).map_err(|error| TestCaseError::fail(format!("{error}\n")))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Runs the lists that once failed.
pub(crate) fn reproductions(engine: impl Fn() -> Box<dyn Engine>) {
    for (name, ops) in reproductions::named() {
        if let Err(error) = run(engine(), &ops) {
            panic!("{name}: {error}");
        }
    }
}
