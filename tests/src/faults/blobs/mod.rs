//! Blobs: SIGKILL at random instants while many parts are being put, power cuts, a disk that runs full or
//! fails to sync; and the same with an S3 server, which is killed as well. Every part that was answered reads
//! back, what was not answered can be put again, what was deleted stays deleted, and nothing is left that
//! belongs to no blob.
//!
//! [`book`] has what was asked and the rules, [`power`] the images of cut disks, [`s3`] the other machine.

mod book;
mod power;
mod s3;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;

use self::book::{Book, Expected, compare, draw, on_disk, strays, thin_out, work};
use super::kill::SMALL;
use super::shim::{ENOSPC, Shim};
use super::{Run, Tally, now};
use crate::http::{BareBlob, Http};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

/// How many put at once.
const WORKERS: u64 = 8;
/// Largest blob that they put, bytes.
const LARGEST: u64 = 3_500_000;
/// So many blobs are kept from one cycle to the next, so that a long run does not only compare.
const KEPT: usize = 100;
/// How long the relay may take to remove what belongs to nobody after a start, which is when it looks.
const SWEPT: Duration = PATIENCE;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let cycles = if run.long { 200 } else { 8 };
    let name = format!("blobs: {cycles} kills, seed {}", run.seed);
    tally.count(&name, kills(run, cycles).await);
    let (generations, moments) = if run.long { (20, 400) } else { (3, 40) };
    let name = format!("blobs: power, seed {}", run.seed);
    tally.count(&name, power::cuts(run, generations, moments).await);
    tally.count("blobs: the disk is full", full(run).await);
    tally.count("blobs: a sync fails", unsynced(run).await);
    s3::run(run, tally).await;
}

/// Waits until nothing is on the disk that belongs to nobody.
async fn swept(data: &Path, book: &Book) -> anyhow::Result<()> {
    let begun = now();
    loop {
        let (blobs, arriving) = on_disk(data)?;
        let strays = strays(blobs, book);
        if strays.is_empty() && arriving == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < SWEPT, "{strays:?} belong to nobody, and {arriving} files are arriving");
        // No event tells what another process does to a disk.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Many who put, get and delete at once, until what is expected ends them.
async fn crowd(
    run: &Run,
    relay: &RelayProcess,
    book: &Arc<Book>,
    cycle: u64,
    expected: Expected,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let seed = run.seed.wrapping_mul(1000) + cycle * WORKERS + worker;
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let tokens = draw(relay, &format!("w{cycle}x{worker}"), &mut rng).await?;
        workers.spawn(work(relay.address(), Arc::clone(book), tokens, seed, LARGEST, expected));
    }
    Ok(workers)
}

async fn kills(run: &Run, cycles: u64) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), SMALL).await?;
    let book = Arc::new(Book::default());
    let (mut compared, mut thinned) = (0, 0);
    for cycle in 1..=cycles {
        let context = || format!("kill {cycle} of {cycles}");
        let workers = crowd(run, &relay, &book, cycle, Expected::End).await.with_context(context)?;
        // How long this sleeps is the fault that is injected; nothing is waited for.
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..700_000))).await;
        relay.kill().await?;
        for ended in workers.join_all().await {
            ended.with_context(context)?;
        }
        relay.restart().await.with_context(context)?;
        swept(relay.data(), &book).await.with_context(context)?;
        compared += compare(relay.address(), &book).await.with_context(context)?;
        thinned += thin_out(relay.address(), &book, KEPT).await.with_context(context)?;
    }
    relay.stop().await?;
    Ok(format!("{} blobs, {compared} parts compared", book.pages().len() + thinned))
}

/// A relay under the shim, with a blob of three parts of which the first is put.
struct Shimmed {
    shim: Shim,
    relay: RelayProcess,
    blob: BareBlob,
    http: Http,
    /// Holds the data.
    folder: tempfile::TempDir,
}

impl Shimmed {
    async fn start(run: &Run) -> anyhow::Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
        let (shim, folder) = (Shim::new()?, tempfile::tempdir()?);
        let data = folder.path().join("data");
        let set = format!("data={}", data.display());
        let options: Vec<&str> = SMALL.iter().copied().chain(["--set", &set]).collect();
        let relay = RelayProcess::start(&shim.program(&run.relay, &data), &options).await?;
        let tokens = draw(&relay, "alice", &mut rng).await?;
        let mut http = Http::connect(relay.address()).await?;
        let blob = BareBlob::new(3 << 20, &mut rng);
        ensure!(blob.create(&mut http, &tokens[0]).await?.status == 201, "it is created");
        ensure!(blob.put(&mut http, 0).await?.status == 201, "it is put");
        Ok(Self { shim, relay, blob, http, folder })
    }

    /// Everything can be put and read, and nothing is left over.
    async fn is_well(&mut self) -> anyhow::Result<()> {
        let Self { blob, http, folder, .. } = self;
        for part in 0..3 {
            let put = blob.put(http, part).await?;
            ensure!(put.status == 201, "part {part} can be put: {}", put.words());
            ensure!(blob.get(http, part).await?.body == blob.bytes(part), "part {part} is another");
        }
        let (_, arriving) = on_disk(&folder.path().join("data"))?;
        ensure!(arriving == 0, "{arriving} files of parts that were refused");
        self.relay.stop().await
    }
}

async fn full(run: &Run) -> anyhow::Result<String> {
    let mut it = Shimmed::start(run).await?;
    it.shim.fail_writes(ENOSPC)?;
    for _ in 0..20 {
        let put = it.blob.put(&mut it.http, 1).await?;
        ensure!(put.status == 503 && put.words().contains("STORE_UNAVAILABLE"), "{}", put.words());
    }
    let got = it.blob.get(&mut it.http, 0).await?;
    ensure!(got.body == it.blob.bytes(0), "it is read all the same: {}", got.status);
    it.shim.fail_writes(0)?;
    it.is_well().await?;
    Ok("parts are refused with STORE_UNAVAILABLE, others are read, and all can be put afterwards".to_owned())
}

/// Of a sync that fails nobody knows what it lost, and the next may succeed (rule 19). A file is thrown away.
/// A folder cannot be, so no part is taken any more.
async fn unsynced(run: &Run) -> anyhow::Result<String> {
    let mut it = Shimmed::start(run).await?;
    it.shim.fail_sync_in(1)?;
    let put = it.blob.put(&mut it.http, 1).await?;
    ensure!(put.status == 500, "its file was not synced: {}", put.words());
    let head = it.blob.get(&mut it.http, 1).await?;
    ensure!(head.status == 404, "so it is nowhere: {}", head.words());
    let put = it.blob.put(&mut it.http, 1).await?;
    ensure!(put.status == 201, "and is put anew: {}", put.words());
    it.shim.fail_folder_sync_in(1)?;
    for _ in 0..3 {
        let put = it.blob.put(&mut it.http, 2).await?;
        ensure!(put.status == 500, "its name was not synced, and never will be for sure: {}", put.words());
    }
    let health = it.http.ask("GET", "/health", &[], b"").await?;
    ensure!(health.words().contains("\"blobs_refused\":true"), "{}", health.words());
    ensure!(it.blob.get(&mut it.http, 0).await?.body == it.blob.bytes(0), "others are read");
    it.relay.stop().await?;
    it.relay.restart().await?;
    it.http = Http::connect(it.relay.address()).await?;
    it.is_well().await?;
    Ok("what was not synced is not stored, and after a folder nothing is until the next start".to_owned())
}
