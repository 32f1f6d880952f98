//! W2: posting while all readers are offline, then draining. Measures what storing costs, and what reading it
//! back costs.
//!
//! Posting takes turns with `limit-wal`, which stores but never reads back, so draining has a target of its
//! own.

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::saturated::{PAIRS, ROUND, WINDOW};
use crate::clock;
use crate::host::Kind;
use crate::measure::{Cost, Meter};
use crate::pair::{Load, Pairs, ROOM};
use crate::table::{Row, Target};
use crate::wire::line::Line;

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (rounds, each) = (bench.size(3, 5), bench.size(1000, 3000));
    let mut contestants = bench.enter("W2", &[Kind::LimitWal], enter).await?;
    let (mut post, mut rate, mut written) = (Rounds::new(), Rounds::new(), Rounds::new());
    let turn = async |_, contestant: &mut Contestant<Pairs>| {
        let (kind, meter) = (contestant.host.kind, Meter::start(&contestant.host)?);
        let load = Load { each, window: WINDOW, until: clock::now() + ROUND };
        let posts = contestant.load.run(load).await? as f64;
        let cost = meter.stop(&contestant.host)?;
        note(&mut post, kind, cost.cpu / posts * 1e5);
        note(&mut rate, kind, posts / cost.seconds);
        note(&mut written, kind, cost.written as f64 / posts);
        anyhow::Ok(())
    };
    bench.take_turns("W2", rounds, &mut contestants, turn).await?;
    let times = Target::Times(2.5, Kind::LimitWal);
    bench.table.push(Row::new("W2", "post: server CPU s / 100k", times).rounds(&post));
    bench.table.push(Row::new("W2", "post: messages/s", Target::None).rounds(&rate));
    bench.table.push(Row::new("W2", "post: bytes written / message", Target::None).rounds(&written));

    contestants.retain(|contestant| contestant.host.kind != Kind::LimitWal);
    let (mut cpu, mut rate) = (Rounds::new(), Rounds::new());
    let turn = async |_, contestant: &mut Contestant<Pairs>| {
        let kind = contestant.host.kind;
        let posts = contestant.load.counts().iter().sum::<u64>() as f64;
        let cost = drained(contestant).await?;
        note(&mut cpu, kind, cost.cpu / posts * 1e5);
        note(&mut rate, kind, posts / cost.seconds);
        anyhow::Ok(())
    };
    bench.take_turns("W2", 1, &mut contestants, turn).await?;
    bench.table.push(Row::new("W2", "drain: server CPU s / 100k", Target::AtMost(0.25)).rounds(&cpu));
    bench.table.push(Row::new("W2", "drain: messages/s", Target::None).rounds(&rate));
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Pairs>> {
    let host = bench.host(kind, PAIRS, 1).await?;
    if matches!(kind, Kind::Mosquitto | Kind::Nats | Kind::NatsAlways) {
        // Readers must have been there once, or nothing is kept for them.
        let speakers = (0..PAIRS).map(|index| host.reader(index, 0, true)).collect();
        for line in Line::open_all(&host.door(), speakers, ROOM).await? {
            line.close().await?;
        }
    }
    let mut load = Pairs::connect(&host, PAIRS, false, 0).await?;
    let warm = Load { each: 100, window: WINDOW, until: clock::now() + ROUND };
    load.run(warm).await?;
    Ok(Contestant { host, load })
}

/// Lets all readers come and read everything.
async fn drained(contestant: &Contestant<Pairs>) -> anyhow::Result<Cost> {
    let Contestant { host, load } = contestant;
    let counts = load.counts();
    let meter = Meter::start(host)?;
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
    meter.stop(host)
}
