//! Kill: SIGKILL at random instants under load, and while the relay starts. After each kill the relay starts,
//! in bounded time; everything that was answered is there, in order, intact, once; and what is asked again
//! gets the same answer.
//!
//! A kill says nothing about the disk, because the page cache survives it; that is for
//! [`power`](super::power).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::book::Book;
use super::load::{self, Plan};
use super::{Run, Tally, millis, now, verify};
use crate::relay::{RelayProcess, RelayProgram};

/// Options that make everything happen often: segments end, are emptied and removed, and checkpoints are
/// written.
pub const SMALL: &[&str] = &[
    "--no-rates",
    "--open-registration",
    "--set",
    "connections.total=20000",
    "--set",
    "store.segment_bytes=1048576",
    "--set",
    "store.checkpoint_bytes=1048576",
    "--set",
    "store.headroom_bytes=0",
];

/// How long a start may take, on a busy machine and without optimization, when there are only some MiB to
/// replay.
const START: Duration = Duration::from_secs(15);

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let cycles = if run.long { 520 } else { 24 };
    let name = format!("kill: {cycles} kills, seed {}", run.seed);
    tally.count(&name, cycle(run, cycles).await);
}

async fn cycle(run: &Run, cycles: u32) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), SMALL).await?;
    let book = Arc::new(Book::default());
    load::prepare(&relay.url(), &book, run.seed).await?;
    let (mut slowest, mut starts, mut total) = (Duration::ZERO, 0, verify::Seen::default());
    for cycle in 1..=cycles {
        let context = || format!("kill {cycle} of {cycles}");
        let plan =
            Plan { window: rng.random_range(1..64), workers: rng.random_range(2..12), ..Plan::default() };
        let load = load::start(&relay.url(), &book, &plan, run.seed + u64::from(cycle));
        // How long this sleeps is the fault that is injected; nothing is waited for.
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..700_000))).await;
        relay.kill().await?;
        load::finish(load).await.with_context(context)?;
        // Now and then the next kill hits the relay while it starts.
        while rng.random_range(0..4) == 0 {
            starts += 1;
            let moment = Duration::from_micros(rng.random_range(0..150_000));
            if let Ok(started) = tokio::time::timeout(moment, relay.restart()).await {
                started.with_context(context)?;
            }
            relay.kill().await?;
        }
        let begun = now();
        relay.restart().await.with_context(context)?;
        let took = begun.elapsed();
        anyhow::ensure!(took < START, "{}: the start took {} ms", context(), millis(took));
        slowest = slowest.max(took);
        let seen = verify::on_wire(&relay.url(), &book, &mut rng).await.with_context(context)?;
        total.envelopes += seen.envelopes;
        total.again += seen.again;
    }
    relay.stop().await?;
    let pages = book.pages();
    let posts: usize = pages.shelves.iter().map(|shelf| shelf.posts.len()).sum();
    Ok(format!(
        "{posts} posts to {} mailboxes, {} accounts; {} envelopes compared, {} posts asked again; {starts} kills during a start; \
         slowest start {} ms",
        pages.shelves.len(),
        pages.accounts.len(),
        total.envelopes,
        total.again,
        millis(slowest)
    ))
}
