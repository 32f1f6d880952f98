//! W2: posting while all readers are offline, then draining: what storing costs, and what reading it back costs.
//!
//! Posts go in rounds in turns with `limit-wal`, which stores but never reads back: the drain has a target of its own.

use std::collections::BTreeMap;

use super::Bench;
use super::saturated::{PAIRS, ROUND, WINDOW};
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter};
use crate::pair::{Load, Pairs, ROOM};
use crate::table::{Row, Target};
use crate::wire::line::Line;

struct Contestant {
    host: Host,
    pairs: Pairs,
    posts: u64,
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut contestants = Vec::new();
    for kind in bench.kinds("W2", &[Kind::LimitWal]) {
        match enter(bench, kind).await {
            Ok(contestant) => contestants.push(contestant),
            Err(error) => bench.peer_failed("W2", kind, error)?,
        }
    }
    let (mut post, mut rate, mut written) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for _ in 0..bench.size(3, 5) {
        for contestant in &mut contestants {
            let meter = Meter::start(&contestant.host)?;
            let load = Load { each: bench.size(1000, 3000), window: WINDOW, until: clock::now() + ROUND };
            let posts = contestant.pairs.run(load).await?;
            let cost = meter.stop(&contestant.host)?;
            contestant.posts += posts;
            let list =
                |map: &mut BTreeMap<Kind, Vec<f64>>, value| map.entry(contestant.host.kind).or_default().push(value);
            list(&mut post, cost.cpu / posts as f64 * 1e5);
            list(&mut rate, posts as f64 / cost.seconds);
            list(&mut written, cost.written as f64 / posts as f64);
        }
    }
    let times = Target::Times(1.3, Kind::LimitWal);
    bench.table.push(Row::new("W2", "post: server CPU s / 100k", times).rounds(&post));
    bench.table.push(Row::new("W2", "post: messages/s", Target::None).rounds(&rate));
    bench.table.push(Row::new("W2", "post: bytes written / message", Target::None).rounds(&written));

    let mut drain = Row::new("W2", "drain: server CPU s / 100k", Target::AtMost(0.30));
    let mut speed = Row::new("W2", "drain: messages/s", Target::None);
    for contestant in contestants {
        let (kind, posts) = (contestant.host.kind, contestant.posts);
        if kind == Kind::LimitWal {
            continue;
        }
        match drained(contestant).await {
            Ok(cost) => {
                drain = drain.with(kind, cost.cpu / posts as f64 * 1e5);
                speed = speed.with(kind, posts as f64 / cost.seconds);
            }
            Err(error) => bench.peer_failed("W2", kind, error)?,
        }
    }
    bench.table.push(drain);
    bench.table.push(speed);
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant> {
    let host = bench.host(kind, PAIRS, 1).await?;
    if matches!(kind, Kind::Mosquitto | Kind::Nats | Kind::NatsAlways) {
        // Their readers must have been there once, or nothing is kept for them.
        for index in 0..PAIRS {
            Line::open(&host.door(), host.reader(index, 0, true), ROOM).await?.close().await?;
        }
    }
    let mut pairs = Pairs::connect(&host, PAIRS, false, 0).await?;
    let warm = Load { each: 100, window: WINDOW, until: clock::now() + ROUND };
    let posts = pairs.run(warm).await?;
    Ok(Contestant { host, pairs, posts })
}

/// All readers come and read everything.
async fn drained(contestant: Contestant) -> anyhow::Result<Cost> {
    let Contestant { host, pairs, .. } = contestant;
    let counts: Vec<u64> = pairs.counts();
    let meter = Meter::start(&host)?;
    let mut readers = tokio::task::JoinSet::new();
    for (index, count) in counts.into_iter().enumerate() {
        let (door, speaker) = (host.door(), host.reader(index, 0, true));
        readers.spawn(async move {
            let mut line = Line::open(&door, speaker, ROOM).await?;
            line.receive(count).await?;
            line.close().await
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    meter.stop(&host)
}
