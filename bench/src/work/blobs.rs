//! W8: W1p beside blobs: first nothing else moves, then blobs are put, then they are got. Measures what the
//! messages notice of it, how fast blobs move, and what memory that takes.
//!
//! Beside `limit-wal` the same bytes are written by a program that has nothing else to do: into files of
//! 1 MiB each, synced, renamed and synced again, and read back. So that column says what this disk gives, and
//! what it costs messages that share it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use posthorn_proto::limits::BLOB_PART_BYTES;
use posthorn_proto::{BlobId, Token};
use tempfile::TempDir;

use super::Bench;
use super::arena::Contestant;
use super::paced::{GAP, Lines, connect, round};
use super::saturated::PAIRS;
use crate::clock;
use crate::host::Kind;
use crate::measure::quantile;
use crate::setup;
use crate::table::{Row, Target};
use crate::wire::blob::Courier;

/// So many transfers are under way at once.
const LANES: usize = 8;
/// Messages of one round: it is looked after each whether all blobs have moved.
const ROUND: usize = 5_000;
/// Most memory that moving blobs may take, MiB.
const MEMORY: f64 = 48.0;

/// What is moved.
#[derive(Clone, Copy)]
struct Freight {
    blobs: usize,
    /// Of each, 1 MiB each.
    parts: u32,
}

/// What moving it takes.
#[derive(Clone)]
enum Road {
    /// The relay.
    Relay { address: std::net::SocketAddr, tokens: Arc<Vec<Token>> },
    /// A folder.
    Disk(Arc<TempDir>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Put,
    Got,
}

impl Freight {
    fn mebibytes(self) -> f64 {
        self.blobs as f64 * f64::from(self.parts)
    }
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let freight = bench.size(Freight { blobs: 16, parts: 16 }, Freight { blobs: 64, parts: 64 });
    let mut contestants = bench.enter("W8", &[Kind::LimitWal], enter).await?;
    let mut quiet = Row::new("W8", "latency p99 ms, no blobs", Target::None);
    let mut memory = Row::new("W8", "blobs' memory MiB, at most", Target::AtMost(MEMORY));
    let times = Target::Times(2.0, Kind::LimitWal);
    let mut rows = [(Way::Put, "put"), (Way::Got, "got")].map(|(way, word)| {
        let p99 = Row::new("W8", format!("latency p99 ms, blobs are {word}"), times);
        (way, p99, Row::new("W8", format!("blobs {word}, MiB/s"), Target::None))
    });
    for contestant in &mut contestants {
        let kind = contestant.host.kind;
        round(contestant, ROUND, GAP).await?;
        let (_, latencies) = round(contestant, bench.size(30_000, 50_000), GAP).await?;
        quiet.set(kind, quantile(&latencies, 0.99) / 1e3);
        let before = contestant.host.process.memory()?;
        let road = road(contestant, freight.blobs).await?;
        for (way, p99, speed) in &mut rows {
            let (seconds, latencies) = beside(contestant, road.clone(), freight, *way).await?;
            p99.set(kind, quantile(&latencies, 0.99) / 1e3);
            speed.set(kind, freight.mebibytes() / seconds);
        }
        if kind.is_posthorn() {
            let peak = contestant.host.process.peak_memory()?;
            memory.set(kind, peak.saturating_sub(before) as f64 / f64::from(1 << 20));
        }
    }
    bench.table.push(quiet);
    for (_, p99, speed) in rows {
        bench.table.push(p99);
        bench.table.push(speed);
    }
    bench.table.push(memory);
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Lines>> {
    let host = bench.host(kind, PAIRS, 1).await?;
    Ok(Contestant { load: connect(&host).await?, host })
}

async fn road(contestant: &Contestant<Lines>, blobs: usize) -> anyhow::Result<Road> {
    let host = &contestant.host;
    if !host.kind.is_posthorn() {
        return Ok(Road::Disk(Arc::new(tempfile::Builder::new().prefix("bench").tempdir()?)));
    }
    let tokens = Arc::new(setup::upload_tokens(host, blobs).await?);
    Ok(Road::Relay { address: host.door().address, tokens })
}

/// Moves everything one way while messages go on. Returns how long that took, in seconds, and the sorted
/// latencies of the messages.
async fn beside(
    contestant: &mut Contestant<Lines>,
    road: Road,
    freight: Freight,
    way: Way,
) -> anyhow::Result<(f64, Vec<u32>)> {
    // Off the thread that measures.
    let moving = tokio::task::spawn_blocking(move || {
        let begun = clock::now();
        road.carry(freight, way)?;
        anyhow::Ok(begun.elapsed().as_secs_f64())
    });
    let mut latencies = Vec::new();
    while latencies.is_empty() || !moving.is_finished() {
        latencies.append(&mut round(contestant, ROUND, GAP).await?.1);
    }
    latencies.sort_unstable();
    Ok((moving.await??, latencies))
}

impl Road {
    fn carry(self, freight: Freight, way: Way) -> anyhow::Result<()> {
        let part: Arc<[u8]> = (0..BLOB_PART_BYTES).map(|at| (at * 31 / 7) as u8).collect();
        let next = Arc::new(AtomicUsize::new(0));
        match self {
            Self::Relay { address, tokens } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let mut lanes = tokio::task::JoinSet::new();
                    for _ in 0..LANES {
                        let (part, next, tokens) = (part.clone(), next.clone(), tokens.clone());
                        lanes.spawn(async move {
                            let mut courier = Courier::connect(address).await?;
                            loop {
                                let number = next.fetch_add(1, Ordering::Relaxed);
                                let Some(token) = tokens.get(number) else { return anyhow::Ok(()) };
                                let blob = BlobId([number as u8; 16]);
                                match way {
                                    Way::Put => courier.put(blob, token, freight.parts, &part).await?,
                                    Way::Got => courier.get(blob, freight.parts, &part).await?,
                                }
                            }
                        });
                    }
                    lanes.join_all().await.into_iter().collect()
                })
            }
            Self::Disk(folder) => std::thread::scope(|scope| {
                let lanes: Vec<_> = (0..LANES)
                    .map(|_| {
                        scope.spawn(|| {
                            while let number = next.fetch_add(1, Ordering::Relaxed)
                                && number < freight.blobs
                            {
                                on_disk(folder.path(), number, freight.parts, &part, way)?;
                            }
                            anyhow::Ok(())
                        })
                    })
                    .collect();
                lanes.into_iter().try_for_each(|lane| lane.join().expect("it does not panic"))
            }),
        }
    }
}

/// Writes the parts of a blob durably, or reads them.
fn on_disk(folder: &Path, number: usize, parts: u32, part: &[u8], way: Way) -> anyhow::Result<()> {
    let blob = folder.join(number.to_string());
    if way == Way::Put {
        fs::create_dir(&blob)?;
    }
    let mut read = Vec::with_capacity(part.len());
    for name in 0..parts {
        let path = blob.join(name.to_string());
        if way == Way::Got {
            read.clear();
            File::open(&path)?.read_to_end(&mut read)?;
            ensure!(read == part, "a part is another");
            continue;
        }
        let arriving = blob.join("arriving");
        let mut file = File::create(&arriving)?;
        for chunk in part.chunks(64 * 1024) {
            file.write_all(chunk)?;
        }
        file.sync_all()?;
        fs::rename(&arriving, &path)?;
        File::open(&blob)?.sync_all()?;
    }
    Ok(())
}
