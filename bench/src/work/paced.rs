//! W1p: the same pairs at 5,000 messages a second altogether, one every 200 microseconds. Measures what a
//! message costs that is not part of a batch, and how long it takes from the moment when it was due to its
//! delivery.
//!
//! A thread of its own keeps time, because the runtime's timers tick in milliseconds. When it is late, that
//! counts as latency, for all servers alike.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinSet;

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::saturated::PAIRS;
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter, quantile, sync_seconds};
use crate::pair::ROOM;
use crate::table::{Row, Target};
use crate::wire::line::Line;
use crate::wire::speaker::{Speaker, blank, number};

/// Time between two messages.
pub(super) const GAP: Duration = Duration::from_micros(200);

/// The clients of one server.
pub(super) struct Lines {
    /// Posters, which only listen here, and readers.
    lines: Vec<Line>,
    pacers: Vec<Pacer>,
}

/// What the thread needs that posts when it is time.
pub(super) struct Pacer {
    pub(super) speaker: Box<dyn Speaker>,
    pub(super) write: Arc<OwnedWriteHalf>,
    pub(super) sent: u64,
    /// How many topics it posts to in turns, each of which numbers its payloads for itself.
    pub(super) topics: u64,
}

/// The figures of all rounds.
#[derive(Default)]
struct Figures {
    cpu: Rounds,
    /// In the order of [`SHARES`].
    latency: [Rounds; 3],
    /// How long one sync took just before each round, in ms.
    sync: Vec<f64>,
}

pub(super) const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (rounds, usual) = (bench.size(3, 6), bench.size(15_000, 50_000));
    let mut contestants = bench.enter("W1p", &[Kind::LimitMem, Kind::LimitWal], enter).await?;
    let mut figures = Figures::default();
    let turn = async |number, contestant: &mut Contestant<Lines>| {
        // The first round is a warm-up.
        let messages = if number == 0 { 5_000 } else { usual };
        let sync = sync_seconds()? * 1e3;
        let (cost, latencies) = round(contestant, messages, GAP).await?;
        if number == 0 {
            return Ok(());
        }
        let kind = contestant.host.kind;
        note(&mut figures.cpu, kind, cost.cpu / messages as f64 * 1e5);
        for (rounds, (_, share)) in figures.latency.iter_mut().zip(SHARES) {
            note(rounds, kind, quantile(&latencies, share) / 1e3);
        }
        figures.sync.push(sync);
        anyhow::Ok(())
    };
    bench.take_turns("W1p", rounds, &mut contestants, turn).await?;
    figures.tell(bench);
    Ok(())
}

impl Figures {
    fn tell(self, bench: &mut Bench) {
        let times = Target::Times(1.3, Kind::LimitWal);
        bench.table.push(Row::new("W1p", "server CPU s / 100k messages", times).rounds(&self.cpu));
        let sync = crate::measure::median(self.sync);
        for (map, (name, share)) in self.latency.iter().zip(SHARES) {
            let target = if share == 0.5 { Target::AtMost(sync + 1.0) } else { Target::None };
            bench.table.push(Row::new("W1p", format!("latency {name} ms"), target).rounds(map));
        }
        let sync = Row::new("W1p", "one fsync ms, on this disk now", Target::None).with(Kind::LimitWal, sync);
        bench.table.push(sync);
    }
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Lines>> {
    let host = bench.host(kind, PAIRS, 1).await?;
    Ok(Contestant { load: connect(&host).await?, host })
}

/// The pairs' clients.
pub(super) async fn connect(host: &Host) -> anyhow::Result<Lines> {
    let speakers = (0..PAIRS).map(|index| host.poster(index, 0)).collect();
    let mut lines = Line::open_all(&host.door(), speakers, ROOM).await?;
    let pacers = lines.iter().enumerate().map(|(index, poster)| Pacer {
        speaker: host.poster(index, 0),
        write: poster.socket.sender(),
        sent: 0,
        topics: 1,
    });
    let pacers = pacers.collect();
    let speakers = (0..PAIRS).map(|index| host.reader(index, 0, false)).collect();
    for mut reader in Line::open_all(&host.door(), speakers, ROOM).await? {
        reader.heard.timed = true;
        lines.push(reader);
    }
    Ok(Lines { lines, pacers })
}

/// Runs one round, with a message each `gap`. Returns what it cost, and the sorted latencies in microseconds.
pub(super) async fn round(
    contestant: &mut Contestant<Lines>,
    messages: usize,
    gap: Duration,
) -> anyhow::Result<(Cost, Vec<u32>)> {
    let meter = Meter::start(&contestant.host)?;
    let each = (messages / PAIRS) as u64;
    let mut tasks = JoinSet::new();
    for mut line in contestant.load.lines.drain(..) {
        tasks.spawn(async move {
            let target = line.heard.answered.max(line.heard.delivered) + each;
            // A poster waits for answers, a reader for deliveries.
            while line.heard.answered.max(line.heard.delivered) < target {
                line.listen().await?;
            }
            line.acknowledge().await?;
            anyhow::Ok(line)
        });
    }
    let pacers = std::mem::take(&mut contestant.load.pacers);
    let pacing = tokio::task::spawn_blocking(move || pace(pacers, messages, gap));
    let limit = gap * messages as u32 * 4 + Duration::from_secs(5);
    let mut latencies = Vec::with_capacity(messages);
    let all = async {
        while let Some(line) = tasks.join_next().await {
            let mut line = line??;
            latencies.append(&mut line.heard.latencies);
            contestant.load.lines.push(line);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(limit, all)
        .await
        .map_err(|_| anyhow::anyhow!("a message each {gap:?} is too many"))??;
    contestant.load.pacers = pacing.await??;
    latencies.sort_unstable();
    Ok((meter.stop(&contestant.host)?, latencies))
}

/// Posts one message after the other, each when it is due.
pub(super) fn pace(mut pacers: Vec<Pacer>, messages: usize, gap: Duration) -> anyhow::Result<Vec<Pacer>> {
    let (mut payload, mut out) = (blank(), Vec::new());
    let start = clock::nanos() + 1_000_000;
    for message in 0..messages {
        let due = start + gap.as_nanos() as u64 * message as u64;
        let early = due.saturating_sub(clock::nanos());
        if early > 0 {
            std::thread::sleep(Duration::from_nanos(early));
        }
        let at = message % pacers.len();
        let pacer = &mut pacers[at];
        number(&mut payload, pacer.sent / pacer.topics, due);
        out.clear();
        pacer.speaker.post(&payload, &mut out);
        pacer.sent += 1;
        let mut written = 0;
        while written < out.len() {
            match pacer.write.try_write(&out[written..]) {
                Ok(some) => written += some,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(pacers)
}
