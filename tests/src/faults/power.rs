//! Power: what a real relay does to its files under load is recorded. From the record the folders are made
//! that a disk may hold when the power goes, thousands of them, at any operation. The engine opens each:
//! opening must not fail, everything that had been answered by then must be there, and nothing may be
//! reported as damaged.
//!
//! The next recorded relay (the next *generation*) starts on one of these folders, so that recovery itself is
//! recorded and cut off as well.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use posthorn_server::clock::SystemClock;
use posthorn_server::store::embedded::{EmbeddedConfig, EmbeddedStore};
use posthorn_server::store::{Store as _, Unheard};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::book::{ALWAYS, Book};
use super::image::{Act, Model, Record};
use super::kill::SMALL;
use super::load::{self, Plan};
use super::shim::Shim;
use super::{Run, Tally, millis, now, verify};
use crate::relay::RelayProcess;

/// Images that are made for each moment that is looked at.
const IMAGES: usize = 2;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let (generations, moments) = if run.long { (40, 250) } else { (3, 36) };
    tally.count(&format!("power: seed {}", run.seed), all(run, generations, moments).await);
}

/// What was seen altogether.
#[derive(Debug, Default)]
struct Sums {
    operations: usize,
    images: usize,
    envelopes: usize,
    /// How many images are of moments when these were under way.
    names: usize,
    index: usize,
    slowest: Duration,
}

async fn all(run: &Run, generations: u64, moments: usize) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut sums = Sums::default();
    let work = folder()?;
    let mut base = work.path().join("base-0");
    std::fs::create_dir(&base)?;
    let mut book = None;
    for generation in 0..generations {
        let seed = run.seed.wrapping_mul(100).wrapping_add(generation);
        let recorded = record(run, &base, book.take(), seed)
            .await
            .with_context(|| format!("generation {generation}"))?;
        let next = work.path().join(format!("base-{}", generation + 1));
        let (mut for_images, book_of_it) = (ChaCha20Rng::seed_from_u64(rng.random()), recorded.book.clone());
        let opened = tokio::task::spawn_blocking({
            let (base, next) = (base.clone(), next.clone());
            move || images(&recorded, &base, &next, moments, &mut for_images)
        });
        let seen = opened.await?.with_context(|| format!("generation {generation}"))?;
        sums.operations += seen.operations;
        sums.images += seen.images;
        sums.envelopes += seen.envelopes;
        sums.names += seen.names;
        sums.index += seen.index;
        sums.slowest = sums.slowest.max(seen.slowest);
        std::fs::remove_dir_all(&base)?;
        base = next;
        // Every third generation begins with nothing.
        book = (generation % 3 != 2).then_some(book_of_it);
        if book.is_none() {
            std::fs::remove_dir_all(&base)?;
            std::fs::create_dir(&base)?;
        }
    }
    Ok(format!(
        "{generations} recorded runs, {} operations; {} images opened, {} envelopes compared; {} of them while names changed \
         (segments beginning, emptied, removed), {} while the index was written; slowest opening {} ms",
        sums.operations,
        sums.images,
        sums.envelopes,
        sums.names,
        sums.index,
        millis(sums.slowest)
    ))
}

/// A folder for images, in memory if the machine has one, because nothing here is about its disk.
pub fn folder() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?)
}

/// One recorded run.
struct Recorded {
    record: Record,
    book: Arc<Book>,
    model: Model,
}

async fn record(run: &Run, base: &Path, before: Option<Arc<Book>>, seed: u64) -> anyhow::Result<Recorded> {
    let shim = Shim::new()?;
    let data = folder()?;
    let root = data.path().join("data");
    copy(base, &root)?;
    let book = Arc::new(Book::new(shim.mark()));
    if let Some(before) = before {
        book.begin_with(&before);
    }
    let set = format!("data={}", root.display());
    let options: Vec<&str> = SMALL.iter().copied().chain(["--set", &set]).collect();
    let mut relay = RelayProcess::start(&shim.program(&run.relay, &root), &options).await?;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    if book.pages().shelves.is_empty() {
        load::prepare(&relay.url(), &book, seed).await?;
    } else {
        // The relay may never take back what it says now.
        verify::on_wire(&relay.url(), &book, &mut rng).await?;
    }
    // Syncs are made slower, so that more happens around each.
    shim.slow_syncs(2000)?;
    let plan = Plan { workers: 6, window: 12, lengths: 64..16_000, lag: 12, ..Plan::default() };
    let load = load::start(&relay.url(), &book, &plan, seed);
    // How long this takes does not matter, as long as enough segments were ended.
    let enough = now() + Duration::from_secs(20);
    let segments = |root: &Path| std::fs::read_dir(root.join("journal")).map_or(0, Iterator::count);
    let first = newest_segment(&root)?;
    while newest_segment(&root)? < first + 6 && now() < enough {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(segments(&root) > 0, "the relay has a journal");
    relay.kill().await?;
    load::finish(load).await?;
    let record = Record::read(&shim.record(), &root)?;
    let model = Model::of(base)?;
    Ok(Recorded { record, book, model })
}

fn newest_segment(root: &Path) -> anyhow::Result<u32> {
    let mut newest = 0;
    for entry in std::fs::read_dir(root.join("journal"))? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg"))
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        newest = newest.max(number.unwrap_or(0));
    }
    Ok(newest)
}

/// Opens images of some moments, and keeps one of the last ones for the next generation to start on.
fn images(
    recorded: &Recorded,
    base: &Path,
    next: &Path,
    moments: usize,
    rng: &mut ChaCha20Rng,
) -> anyhow::Result<Sums> {
    let ops = &recorded.record.ops;
    let mut sums = Sums { operations: ops.len(), ..Sums::default() };
    let mut model = Model::of(base)?;
    debug_assert_eq!(model.unsynced(), recorded.model.unsynced());
    let moments = choose(&recorded.record, moments, rng);
    let last = moments.last().copied().context("something was recorded")?;
    for moment in moments {
        model.play(&recorded.record, moment);
        let mark = ops[moment - 1].end;
        let recent = &ops[moment.saturating_sub(6)..moment];
        for image in 0..IMAGES {
            let target = folder()?;
            model.image(target.path(), rng)?;
            if moment == last && image == 0 {
                copy(target.path(), next)?;
                recorded.book.cut(mark);
            }
            let about = || {
                format!(
                    "operation {moment} of {} ({:?} {}), image {image}",
                    ops.len(),
                    ops[moment - 1].act,
                    ops[moment - 1].path
                )
            };
            let begun = now();
            let opened = open(target.path(), &recorded.book, mark);
            let envelopes = opened.map_err(|text| {
                let kept = target.keep();
                anyhow!("{}: {text}; the image is kept in {}", about(), kept.display())
            })?;
            sums.slowest = sums.slowest.max(begun.elapsed());
            sums.images += 1;
            sums.envelopes += envelopes;
            sums.names += usize::from(
                recent.iter().any(|op| matches!(op.act, Act::Rename | Act::Unlink | Act::Create)),
            );
            sums.index += usize::from(recent.iter().any(|op| op.path.starts_with("index")));
        }
    }
    Ok(sums)
}

/// The moments to look at: half of them anywhere, half around changes of names in the journal, which are
/// rare, and are where things go wrong.
fn choose(record: &Record, most: usize, rng: &mut ChaCha20Rng) -> Vec<usize> {
    let len = record.ops.len();
    let names: Vec<usize> = (0..len)
        .filter(|at| {
            let op = &record.ops[*at];
            op.path.starts_with("journal/")
                && matches!(op.act, Act::Rename | Act::Unlink | Act::Create | Act::Cut)
        })
        .collect();
    let mut moments: BTreeSet<usize> = (0..most / 2).map(|_| rng.random_range(1..=len)).collect();
    for _ in 0..most - most / 2 {
        if let Some(at) = names.get(rng.random_range(0..names.len().max(1))) {
            moments.insert((at + rng.random_range(0..5)).clamp(1, len));
        }
    }
    moments.insert(len);
    moments.into_iter().collect()
}

/// Opens an image and compares. Returns how many envelopes were there.
pub fn open(folder: &Path, book: &Book, mark: u64) -> Result<usize, String> {
    let mut config = EmbeddedConfig::new(folder);
    (config.segment_bytes, config.checkpoint_bytes, config.headroom_bytes) = (1 << 20, 1 << 20, 0);
    let clock = Arc::new(SystemClock::start());
    let mut rng = StdRng::seed_from_u64(mark);
    let store = EmbeddedStore::open(&config, clock, Arc::new(Unheard), &mut rng)
        .map_err(|error| error.to_string())?;
    let seen = verify::in_store(&store, book, mark)?;
    match store.stats().damaged {
        0 => Ok(seen.envelopes),
        damaged => {
            let told = std::fs::read_to_string(folder.join("damage")).unwrap_or_default();
            Err(format!("a power cut is reported as {damaged} damages: {}", told.trim()))
        }
    }
}

/// Copies a folder; if it is missing, the copy is empty.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Checks for other programs that everything that was ever answered is in this folder.
pub fn holds_all(folder: &Path, book: &Book) -> Result<usize, String> {
    open(folder, book, ALWAYS)
}
