//! W7: W1p for as long as it takes until as much expires, and is forgotten, as comes. Measures whether what
//! the relay does by itself can be noticed: latency in each window, beside `limit-wal` in the same run.
//!
//! Envelopes and post ids are kept for a minute only, in memory and on disk, where a relay usually keeps the
//! ids for 5 minutes and 72 hours: the rate of forgetting is the same, it only begins sooner. The servers
//! take turns window by window, so the relay forgets during its own windows and between them.

use std::time::Duration;

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::paced::{GAP, Lines, SHARES, connect, round};
use super::saturated::PAIRS;
use crate::host::{Host, Kind, Programs};
use crate::measure::quantile;
use crate::setup;
use crate::table::{Row, Target};

/// How long envelopes and post ids are kept, in seconds, which is the least that the relay allows.
const KEPT: u32 = 60;
/// No window's p99 may be above this, in ms.
const WORST: f64 = 50.0;
/// Time between two messages of the first window, which is to leave much behind to forget.
const BURST: Duration = Duration::from_micros(40);

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (windows, usual) = (bench.size(8, 18), bench.size(30_000, 50_000));
    // In the quick size, what the burst left is forgotten in the last windows.
    let before = bench.size(150_000, 300_000);
    let mut contestants = bench.enter("W7", &[Kind::LimitWal], enter).await?;
    let mut cpu = Rounds::new();
    let mut latency = [(); 3].map(|()| Rounds::new());
    let turn = async |number, contestant: &mut Contestant<Lines>| {
        if number == 0 {
            return round(contestant, before, BURST).await.map(drop);
        }
        let (cost, latencies) = round(contestant, usual, GAP).await?;
        let kind = contestant.host.kind;
        note(&mut cpu, kind, cost.cpu / usual as f64 * 1e5);
        for (rounds, (_, share)) in latency.iter_mut().zip(SHARES) {
            note(rounds, kind, quantile(&latencies, share) / 1e3);
        }
        anyhow::Ok(())
    };
    bench.take_turns("W7", windows + 1, &mut contestants, turn).await?;
    bench.table.push(Row::new("W7", "server CPU s / 100k messages", Target::None).rounds(&cpu));
    let targets = [Target::None, Target::Times(2.0, Kind::LimitWal), Target::Times(3.0, Kind::LimitWal)];
    for ((rounds, (name, _)), target) in latency.iter().zip(SHARES).zip(targets) {
        bench.table.push(Row::new("W7", format!("latency {name} ms, of the windows"), target).rounds(rounds));
    }
    let mut worst = Row::new("W7", "latency p99 ms, worst window", Target::AtMost(WORST));
    for (kind, windows) in &latency[1] {
        worst = worst.with(*kind, windows.iter().copied().fold(0.0, f64::max));
    }
    bench.table.push(worst);
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Lines>> {
    let settings = vec!["store.post_id_seconds=60", "store.post_id_fresh_seconds=60"];
    let programs = Programs { settings, ..bench.programs.clone() };
    let mut host = Host::start(kind, &programs).await?;
    if kind.is_posthorn() {
        host.mailboxes = setup::expiring(&host, PAIRS, 1, KEPT).await?;
    }
    Ok(Contestant { load: connect(&host).await?, host })
}
