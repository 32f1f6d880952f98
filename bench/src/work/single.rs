//! W10: one pair, one message at a time: the next is posted once the last was answered. Nothing can be shared
//! among messages then, so this is what waking somebody, a sync and an answer cost by themselves.

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::saturated::ROUND;
use crate::clock;
use crate::host::Kind;
use crate::measure::{Cost, Meter};
use crate::pair::{Load, Pairs};
use crate::table::{Row, Target};

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (rounds, each) = (bench.size(3, 7), bench.size(2000, 4000));
    let mut contestants = bench.enter("W10", &[Kind::LimitMem, Kind::LimitWal], enter).await?;
    let (mut cpu, mut calls, mut took) = (Rounds::new(), Rounds::new(), Rounds::new());
    let turn = async |_, contestant: &mut Contestant<Pairs>| {
        let (posts, cost) = round(contestant, each).await?;
        let kind = contestant.host.kind;
        note(&mut cpu, kind, cost.cpu / posts as f64 * 1e5);
        note(&mut calls, kind, cost.writes as f64 / posts as f64);
        note(&mut took, kind, cost.seconds / posts as f64 * 1e3);
        anyhow::Ok(())
    };
    bench.take_turns("W10", rounds, &mut contestants, turn).await?;
    let times = Target::Times(1.3, Kind::LimitWal);
    bench.table.push(Row::new("W10", "server CPU s / 100k messages", times).rounds(&cpu));
    bench.table.push(Row::new("W10", "write calls / message", Target::AtMost(3.0)).rounds(&calls));
    bench.table.push(Row::new("W10", "ms / message", Target::None).rounds(&took));
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Pairs>> {
    let host = bench.host(kind, 1, 1).await?;
    let load = Pairs::connect(&host, 1, true, 0).await?;
    let mut contestant = Contestant { host, load };
    // The first round pays for what is allocated only once.
    round(&mut contestant, 300).await?;
    Ok(contestant)
}

async fn round(contestant: &mut Contestant<Pairs>, each: u64) -> anyhow::Result<(u64, Cost)> {
    let meter = Meter::start(&contestant.host)?;
    let load = Load { each, window: 1, until: clock::now() + ROUND };
    let posts = contestant.load.run(load).await?;
    Ok((posts, meter.stop(&contestant.host)?))
}
