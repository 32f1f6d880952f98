//! Blobs: SIGKILL at random instants while many parts are being put, and a disk that runs full meanwhile.
//! Every part that was answered reads back, what was not answered can be put again, what was deleted stays
//! deleted, and nothing is left on the disk that belongs to no blob.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use posthorn_proto::frame::{Request, ServerBody, TokenPurpose};
use posthorn_proto::{BlobId, Token};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;

use super::kill::SMALL;
use super::shim::{ENOSPC, Shim};
use super::{Run, Tally, now};
use crate::http::{BareBlob, Http, hex};
use crate::mailbox::BareDevice;
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::{PATIENCE, Wire};

/// How many put at once.
const WORKERS: u64 = 8;
/// Tokens of each device, of which each cycle has one.
const TOKENS: u8 = 100;
/// So many blobs are kept from one cycle to the next, so that a long run does not only compare.
const KEPT: usize = 100;
/// How long the relay may take to remove what belongs to nobody after a start, which is when it looks.
const SWEPT: Duration = PATIENCE;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let cycles = if run.long { 200 } else { 8 };
    let name = format!("blobs: {cycles} kills, seed {}", run.seed);
    tally.count(&name, kills(run, cycles).await);
    tally.count("blobs: the disk is full", full(run).await);
}

/// What was answered, and what was asked for.
#[derive(Debug, Default)]
struct Book(Mutex<BTreeMap<BlobId, Page>>);

#[derive(Debug, Clone)]
struct Page {
    blob: BareBlob,
    /// Answered.
    parts: BTreeSet<u32>,
    /// Whether it was asked to be deleted, and whether that was answered.
    deleting: bool,
    deleted: bool,
}

impl Book {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<BlobId, Page>) -> T) -> T {
        change(&mut self.0.lock().expect("nobody panics with it"))
    }

    fn note(&self, blob: BlobId, change: impl FnOnce(&mut Page)) {
        self.with(|pages| pages.get_mut(&blob).map(change));
    }

    fn pages(&self) -> Vec<Page> {
        self.with(|pages| pages.values().cloned().collect())
    }
}

/// A device's upload tokens.
async fn draw(relay: &RelayProcess, name: &str, rng: &mut ChaCha20Rng) -> anyhow::Result<Vec<Token>> {
    let mut wire = Wire::connect(&relay.url()).await?;
    let device = BareDevice::new(rng);
    device.register(&mut wire, name, "").await?;
    let tokens: Vec<Token> = (0..TOKENS).map(|_| Token::random(rng)).collect();
    let hashes = tokens.iter().map(Token::hash).collect();
    match wire.ask(Request::DrawTokens { purpose: TokenPurpose::UploadBlob, hashes }).await? {
        ServerBody::TokensDrawn(accepted) if accepted == u32::from(TOKENS) => Ok(tokens),
        other => anyhow::bail!("drawing: {other:?}"),
    }
}

/// Creates blobs, puts their parts in any order and deletes some, until the relay is gone.
async fn work(address: SocketAddr, book: Arc<Book>, tokens: Vec<Token>, seed: u64) -> anyhow::Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let Ok(mut http) = Http::connect(address).await else { return Ok(()) };
    for token in tokens {
        let blob = BareBlob::new(rng.random_range(1..3_500_000), &mut rng);
        let Ok(created) = blob.create(&mut http, &token).await else { return Ok(()) };
        ensure!(created.status == 201, "creating: {}", created.words());
        let page = Page { blob: blob.clone(), parts: BTreeSet::new(), deleting: false, deleted: false };
        book.with(|pages| pages.insert(blob.id, page));
        let mut parts: Vec<u32> = (0..blob.parts()).collect();
        while !parts.is_empty() {
            let part = parts.swap_remove(rng.random_range(0..parts.len()));
            let Ok(put) = blob.put(&mut http, part).await else { return Ok(()) };
            ensure!(put.status == 201, "putting: {}", put.words());
            book.note(blob.id, |page| {
                page.parts.insert(part);
            });
        }
        if rng.random_range(0..3) == 0 {
            book.note(blob.id, |page| page.deleting = true);
            let Ok(deleted) = blob.delete(&mut http).await else { return Ok(()) };
            ensure!(deleted.status == 204, "deleting: {}", deleted.words());
            book.note(blob.id, |page| page.deleted = true);
        }
    }
    Ok(())
}

/// Compares what the relay has with what it answered; returns how many parts it compared. What is missing of
/// a blob is put.
async fn compare(address: SocketAddr, book: &Book) -> anyhow::Result<u64> {
    let mut http = Http::connect(address).await?;
    let mut compared = 0;
    for page in book.pages() {
        let Page { blob, parts, deleting, deleted } = page;
        let gone = http.ask("HEAD", &blob.path(), &[], b"").await?.head.contains("BLOB_UNKNOWN");
        ensure!(gone || !deleted, "{} was deleted", hex(&blob.id.0));
        ensure!(!gone || deleting, "{} was created, and is not there", hex(&blob.id.0));
        if gone {
            book.note(blob.id, |page| page.deleted = true);
            continue;
        }
        for part in 0..blob.parts() {
            let got = blob.get(&mut http, part).await?;
            if parts.contains(&part) || got.status == 200 {
                ensure!(got.status == 200, "part {part} was answered: {}", got.words());
                ensure!(got.body == blob.bytes(part), "part {part} of {} is another", hex(&blob.id.0));
                compared += 1;
            }
            if !parts.contains(&part) {
                let put = blob.put(&mut http, part).await?;
                ensure!(put.status == 201, "putting part {part} again: {}", put.words());
                book.note(blob.id, |page| {
                    page.parts.insert(part);
                });
            }
        }
    }
    Ok(compared)
}

/// Deletes all but some; returns how many.
async fn thin_out(address: SocketAddr, book: &Book) -> anyhow::Result<usize> {
    let mut http = Http::connect(address).await?;
    let surplus: Vec<Page> = book.pages().into_iter().skip(KEPT).collect();
    for page in &surplus {
        if !page.deleted {
            let deleted = page.blob.delete(&mut http).await?;
            ensure!(deleted.status == 204, "deleting: {}", deleted.words());
        }
        book.with(|pages| pages.remove(&page.blob.id));
    }
    Ok(surplus.len())
}

/// The names of the folders of blobs on the disk, and how many files are arriving.
fn on_disk(data: &Path) -> anyhow::Result<(BTreeSet<String>, usize)> {
    let (mut blobs, mut arriving) = (BTreeSet::new(), 0);
    for shelf in std::fs::read_dir(data.join("blobs"))? {
        let shelf = shelf?;
        for entry in std::fs::read_dir(shelf.path())? {
            match shelf.file_name() == "incoming" {
                true => arriving += 1,
                false => {
                    blobs.insert(entry?.file_name().to_string_lossy().into_owned());
                }
            }
        }
    }
    Ok((blobs, arriving))
}

/// Waits until nothing is on the disk that belongs to nobody.
async fn swept(data: &Path, book: &Book) -> anyhow::Result<()> {
    let begun = now();
    loop {
        let there: BTreeSet<String> =
            book.pages().iter().filter(|page| !page.deleted).map(|page| hex(&page.blob.id.0)).collect();
        let (blobs, arriving) = on_disk(data)?;
        let is_stray = |name: &&String| !name.split_once('-').is_some_and(|(id, _)| there.contains(id));
        let strays: Vec<&String> = blobs.iter().filter(is_stray).collect();
        if strays.is_empty() && arriving == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < SWEPT, "{strays:?} belong to nobody, and {arriving} files are arriving");
        // No event tells what another process does to a disk.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn kills(run: &Run, cycles: u64) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), SMALL).await?;
    let book = Arc::new(Book::default());
    let (mut compared, mut thinned) = (0, 0);
    for cycle in 1..=cycles {
        let context = || format!("kill {cycle} of {cycles}");
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let name = format!("w{cycle}x{worker}");
            let tokens = draw(&relay, &name, &mut rng).await.with_context(context)?;
            let seed = run.seed.wrapping_mul(1000) + cycle * WORKERS + worker;
            workers.spawn(work(relay.address(), Arc::clone(&book), tokens, seed));
        }
        // How long this sleeps is the fault that is injected; nothing is waited for.
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..700_000))).await;
        relay.kill().await?;
        for ended in workers.join_all().await {
            ended.with_context(context)?;
        }
        relay.restart().await.with_context(context)?;
        swept(relay.data(), &book).await.with_context(context)?;
        compared += compare(relay.address(), &book).await.with_context(context)?;
        thinned += thin_out(relay.address(), &book).await.with_context(context)?;
    }
    relay.stop().await?;
    let pages = book.pages();
    Ok(format!("{} blobs, {compared} parts compared", pages.len() + thinned))
}

async fn full(run: &Run) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let shim = Shim::new()?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let set = format!("data={}", data.display());
    let options: Vec<&str> = SMALL.iter().copied().chain(["--set", &set]).collect();
    let mut relay = RelayProcess::start(&shim.program(&run.relay, &data), &options).await?;
    let tokens = draw(&relay, "alice", &mut rng).await?;
    let mut http = Http::connect(relay.address()).await?;
    let blob = BareBlob::new(3 << 20, &mut rng);
    ensure!(blob.create(&mut http, &tokens[0]).await?.status == 201, "it is created");
    ensure!(blob.put(&mut http, 0).await?.status == 201, "it is put");
    shim.fail_writes(ENOSPC)?;
    for _ in 0..20 {
        let put = blob.put(&mut http, 1).await?;
        ensure!(put.status == 503 && put.words().contains("STORE_UNAVAILABLE"), "{}", put.words());
    }
    let got = blob.get(&mut http, 0).await?;
    ensure!(got.body == blob.bytes(0), "it is read all the same: {}", got.status);
    shim.fail_writes(0)?;
    for part in 0..3 {
        let put = blob.put(&mut http, part).await?;
        ensure!(put.status == 201, "there is room again: {}", put.words());
        ensure!(blob.get(&mut http, part).await?.body == blob.bytes(part), "part {part} is another");
    }
    let (_, arriving) = on_disk(&data)?;
    ensure!(arriving == 0, "{arriving} files of parts that were refused");
    relay.stop().await?;
    Ok("parts are refused with STORE_UNAVAILABLE, others are read, and all can be put afterwards".to_owned())
}
