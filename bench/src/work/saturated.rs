//! W1: 100 pairs of a poster and a reader, both online. Each poster keeps 16 posts unanswered.
//!
//! The servers run side by side and take turns, round by round, so that whatever else the machine does
//! affects all of them. The ratio is the median of the rounds' ratios.

use std::time::Duration;

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use crate::clock;
use crate::host::Kind;
use crate::measure::{Cost, Meter};
use crate::pair::{Load, Pairs};
use crate::table::{Row, Target};

/// Pairs of a poster and a reader.
pub(super) const PAIRS: usize = 100;
/// Unanswered posts of one poster.
pub(super) const WINDOW: u64 = 16;
/// Longest time that a server posts in one round, which only a slow peer needs.
pub(super) const ROUND: Duration = Duration::from_secs(5);

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (rounds, each) = (bench.size(3, 7), bench.size(1500, 4000));
    let mut contestants = bench.enter("W1", &[Kind::LimitMem, Kind::LimitWal], enter).await?;
    let (mut cpu, mut rate, mut written) = (Rounds::new(), Rounds::new(), Rounds::new());
    let turn = async |_, contestant: &mut Contestant<Pairs>| {
        let (posts, cost) = round(contestant, each).await?;
        let kind = contestant.host.kind;
        note(&mut cpu, kind, cost.cpu / posts as f64 * 1e5);
        note(&mut rate, kind, posts as f64 / cost.seconds);
        note(&mut written, kind, cost.written as f64 / posts as f64);
        anyhow::Ok(())
    };
    bench.take_turns("W1", rounds, &mut contestants, turn).await?;
    let times = Target::Times(2.2, Kind::LimitWal);
    bench.table.push(Row::new("W1", "server CPU s / 100k messages", times).rounds(&cpu));
    bench.table.push(Row::new("W1", "messages/s", Target::AtLeast(150_000.0)).rounds(&rate));
    // A quarter more than an envelope.
    bench.table.push(Row::new("W1", "bytes written / message", Target::AtMost(1280.0)).rounds(&written));
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Pairs>> {
    let host = bench.host(kind, PAIRS, 1).await?;
    let load = Pairs::connect(&host, PAIRS, true, 0).await?;
    let mut contestant = Contestant { host, load };
    // The first round pays for what is allocated only once.
    round(&mut contestant, 300).await?;
    Ok(contestant)
}

async fn round(contestant: &mut Contestant<Pairs>, each: u64) -> anyhow::Result<(u64, Cost)> {
    let meter = Meter::start(&contestant.host)?;
    let load = Load { each, window: WINDOW, until: clock::now() + ROUND };
    let posts = contestant.load.run(load).await?;
    Ok((posts, meter.stop(&contestant.host)?))
}
