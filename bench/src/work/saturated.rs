//! W1: 100 pairs of a poster and a reader, both online; each poster keeps 16 posts unanswered.
//!
//! The servers run side by side and take turns, round by round, so that whatever else the machine does meets all of them;
//! the ratio is the median of the rounds' ratios.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Bench;
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter};
use crate::pair::{Load, Pairs};
use crate::table::{Row, Target};

/// Pairs of a poster and a reader.
pub(super) const PAIRS: usize = 100;
/// Unanswered posts of one poster.
pub(super) const WINDOW: u64 = 16;
/// A slow peer posts for this long in a round.
pub(super) const ROUND: Duration = Duration::from_secs(5);

/// One server with its load.
struct Contestant {
    host: Host,
    pairs: Pairs,
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut contestants = Vec::new();
    for kind in bench.kinds("W1", &[Kind::LimitMem, Kind::LimitWal]) {
        match enter(bench, kind).await {
            Ok(contestant) => contestants.push(contestant),
            Err(error) => bench.peer_failed("W1", kind, error)?,
        }
    }
    let (mut cpu, mut rate, mut written) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut failed = Vec::new();
    for _ in 0..bench.size(3, 7) {
        for contestant in &mut contestants {
            let kind = contestant.host.kind;
            if failed.contains(&kind) {
                continue;
            }
            match round(contestant, bench.size(1500, 4000)).await {
                Ok((posts, cost)) => {
                    let list = |map: &mut BTreeMap<Kind, Vec<f64>>, value| map.entry(kind).or_default().push(value);
                    list(&mut cpu, cost.cpu / posts as f64 * 1e5);
                    list(&mut rate, posts as f64 / cost.seconds);
                    list(&mut written, cost.written as f64 / posts as f64);
                }
                Err(error) => {
                    bench.peer_failed("W1", kind, error)?;
                    failed.push(kind);
                }
            }
        }
    }
    let times = Target::Times(1.3, Kind::LimitWal);
    bench.table.push(Row::new("W1", "server CPU s / 100k messages", times).rounds(&cpu));
    bench.table.push(Row::new("W1", "messages/s", Target::AtLeast(100_000.0)).rounds(&rate));
    bench.table.push(Row::new("W1", "bytes written / message", Target::None).rounds(&written));
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant> {
    let host = bench.host(kind, PAIRS, 1).await?;
    let pairs = Pairs::connect(&host, PAIRS, true, 0).await?;
    let mut contestant = Contestant { host, pairs };
    // The first round pays for what is allocated once.
    round(&mut contestant, 300).await?;
    Ok(contestant)
}

async fn round(contestant: &mut Contestant, each: u64) -> anyhow::Result<(u64, Cost)> {
    let meter = Meter::start(&contestant.host)?;
    let load = Load { each, window: WINDOW, until: clock::now() + ROUND };
    let posts = tokio::time::timeout(ROUND * 6, contestant.pairs.run(load)).await??;
    Ok((posts, meter.stop(&contestant.host)?))
}
