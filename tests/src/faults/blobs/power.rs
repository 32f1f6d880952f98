//! Power: what a relay does to its disk while parts are put is recorded, and from that the folders are made
//! that the disk may hold when the power goes. Every part that was answered by then is there and whole,
//! whatever has a name is whole, and a relay that starts there removes what belongs to nobody. The next run
//! that is recorded starts on one of these folders.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;

use super::book::{Book, Expected, Pages, compare, draw, judge, work};
use super::{Run, now, swept};
use crate::faults::image::{Act, Model, Record};
use crate::faults::kill::SMALL;
use crate::faults::power::{copy, folder};
use crate::faults::shim::Shim;
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

/// How many put at once.
const WORKERS: u64 = 4;
/// Largest blob, bytes: most have one part, some two.
const LARGEST: u64 = 1_300_000;
/// So many parts are answered in each run.
const PARTS: usize = 30;
/// Images of each moment.
const IMAGES: usize = 2;
/// A relay starts on one of so many.
const STARTED: usize = 20;

pub(super) async fn cuts(run: &Run, generations: u64, moments: usize) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let bases = folder()?;
    let (mut images, mut parts) = (0, 0);
    let mut pages = Pages::new();
    let mut base = bases.path().join("0");
    std::fs::create_dir(&base)?;
    for generation in 1..=generations {
        let context = || format!("generation {generation}");
        let (record, book) = record(run, &base, pages, rng.random()).await.with_context(context)?;
        let next = bases.path().join(generation.to_string());
        let mut model = Model::of(&base)?;
        let mut mark = 0;
        for moment in choose(&record, moments, &mut rng) {
            model.play(&record, moment);
            mark = record.ops[moment - 1].end;
            for _ in 0..IMAGES {
                let image = folder()?;
                model.image(image.path(), &mut rng)?;
                let op = &record.ops[moment - 1];
                let about = || format!("after operation {moment} ({:?} {})", op.act, op.path);
                let judged = judge(image.path(), &book.cut(mark)).with_context(about);
                let judged = match judged {
                    Ok(compared) if images % STARTED == 0 => {
                        let started = restarted(run, image.path(), Book::new(book.cut(mark), || 0)).await;
                        started.map(|()| compared).with_context(about)
                    }
                    judged => judged,
                };
                match judged {
                    Ok(compared) => parts += compared,
                    Err(error) => bail!("{error:#}; the image is kept in {}", image.keep().display()),
                }
                images += 1;
            }
        }
        // The last moment's folder is used again: by a relay, and by the next that is recorded.
        model.image(&next, &mut rng)?;
        pages = book.cut(mark);
        std::fs::remove_dir_all(&base)?;
        base = next;
        restarted(run, &base, Book::new(pages.clone(), || 0)).await.with_context(context)?;
    }
    Ok(format!("{generations} recorded runs, {images} images, {parts} parts compared"))
}

/// Records a relay that begins on this folder, while parts are put.
async fn record(run: &Run, base: &Path, before: Pages, seed: u64) -> anyhow::Result<(Record, Arc<Book>)> {
    let shim = Shim::new()?;
    let data = folder()?;
    let root = data.path().join("data");
    copy(base, &root)?;
    let book = Arc::new(Book::new(before, shim.mark()));
    let set = format!("data={}", root.display());
    let options: Vec<&str> = SMALL.iter().copied().chain(["--set", &set]).collect();
    let mut relay = RelayProcess::start(&shim.program(&run.relay, &root), &options).await?;
    // More happens around each then.
    shim.slow_syncs(2000)?;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut workers = JoinSet::new();
    let (begun, had) = (now(), book.answered());
    for worker in 0..WORKERS {
        let tokens = draw(&relay, &format!("w{}", rng.random::<u32>()), &mut rng).await?;
        workers.spawn(work(
            relay.address(),
            Arc::clone(&book),
            tokens,
            seed ^ worker,
            LARGEST,
            Expected::End,
        ));
    }
    while book.answered() < had + PARTS {
        ensure!(begun.elapsed() < 4 * PATIENCE, "only {} parts were answered", book.answered() - had);
        // How long this takes does not matter.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    relay.kill().await?;
    for ended in workers.join_all().await {
        ended?;
    }
    Ok((Record::read(&shim.record(), &root)?, book))
}

/// A third of the moments anywhere, the others right behind what decides about parts.
fn choose(record: &Record, most: usize, rng: &mut ChaCha20Rng) -> Vec<usize> {
    let decides = |act| matches!(act, Act::Rename | Act::SyncEnd | Act::DirEnd | Act::MakeDir | Act::Unlink);
    let len = record.ops.len();
    let of_parts: Vec<usize> = (0..len)
        .filter(|at| record.ops[*at].path.starts_with("blobs") && decides(record.ops[*at].act))
        .collect();
    let mut moments: Vec<usize> = (0..most)
        .map(|nth| match of_parts.get(rng.random_range(0..of_parts.len().max(1))) {
            Some(at) if nth % 3 > 0 => (at + rng.random_range(1..4)).min(len),
            _ => rng.random_range(1..=len),
        })
        .collect();
    moments.sort_unstable();
    moments.dedup();
    moments
}

/// A relay that starts on a copy of the folder serves what was answered, and removes what belongs to nobody.
async fn restarted(run: &Run, base: &Path, book: Book) -> anyhow::Result<()> {
    let data = folder()?;
    let root = data.path().join("data");
    copy(base, &root)?;
    let set = format!("data={}", root.display());
    let options: Vec<&str> = SMALL.iter().copied().chain(["--set", &set]).collect();
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), &options).await?;
    compare(relay.address(), &book).await?;
    relay.kill().await?;
    // It looks when it starts; what compare has found to be gone may have been there before.
    relay.restart().await?;
    swept(&root, &book).await?;
    relay.stop().await
}
