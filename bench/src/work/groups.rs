//! W9: 2,000 groups of five readers, over 600 connections: 500 of members, each in twenty groups, and 100
//! that post to twenty groups each. Every member acknowledges whatever it got at once, as small groups do.
//! Measures an everyday load of 2,000 posts a second, and as many as go.
//!
//! `limit-wal` is told the same acknowledgements and logs them with its next batch.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::paced::{Pacer, SHARES, pace};
use super::saturated::WINDOW;
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter, quantile};
use crate::table::{Row, Target};
use crate::wire::line::Line;
use crate::wire::speaker::{blank, number};

/// Groups, and members of each.
const GROUPS: usize = 2000;
const MEMBERS: usize = 5;
/// Connections of members.
const READING: usize = 500;
/// Connections that post.
const POSTING: usize = 100;
/// Time between two posts of the everyday load.
const GAP: Duration = Duration::from_micros(500);
/// Size of a connection's read buffer, in bytes.
const ROOM: usize = 16 * 1024;
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(35);

/// The clients of one server.
struct Lines {
    members: Vec<Line>,
    /// Posters, which only listen, and what posts on their connections.
    posters: Vec<Line>,
    pacers: Vec<Pacer>,
}

/// How posts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// One each [`GAP`].
    Everyday,
    /// As many as go, with a window of unanswered ones.
    Saturated,
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    // Posts to each group in a round.
    let (rounds, everyday, saturated) = (bench.size(3, 6), bench.size(5, 10), bench.size(10, 30));
    let mut contestants = bench.enter("W9", &[Kind::LimitWal], enter).await?;
    let (mut cpu, mut rate, mut full) = (Rounds::new(), Rounds::new(), Rounds::new());
    let mut latency = [(); 3].map(|()| Rounds::new());
    let turn = async |_, Contestant { host, load }: &mut Contestant<Lines>| {
        let (cost, latencies) = round(host, load, everyday, Pace::Everyday).await?;
        let deliveries = |each: u64| (each as usize * GROUPS * MEMBERS) as f64;
        note(&mut cpu, host.kind, cost.cpu / deliveries(everyday) * 1e5);
        for (rounds, (_, share)) in latency.iter_mut().zip(SHARES) {
            note(rounds, host.kind, quantile(&latencies, share) / 1e3);
        }
        let (cost, _) = round(host, load, saturated, Pace::Saturated).await?;
        note(&mut rate, host.kind, (saturated as usize * GROUPS) as f64 / cost.seconds);
        note(&mut full, host.kind, cost.cpu / deliveries(saturated) * 1e5);
        anyhow::Ok(())
    };
    bench.take_turns("W9", rounds, &mut contestants, turn).await?;
    let times = |most| Target::Times(most, Kind::LimitWal);
    bench.table.push(Row::new("W9", "2,000/s: server CPU s / 100k deliveries", times(1.2)).rounds(&cpu));
    for ((rounds, (name, _)), most) in latency.iter().zip(SHARES).zip([1.5, 1.5, 2.0]) {
        bench.table.push(Row::new("W9", format!("2,000/s: latency {name} ms"), times(most)).rounds(rounds));
    }
    let share = Target::Share(0.9, Kind::LimitWal);
    bench.table.push(Row::new("W9", "saturated: posts/s", share).rounds(&rate));
    let row = Row::new("W9", "saturated: server CPU s / 100k deliveries", Target::None);
    bench.table.push(row.rounds(&full));
    Ok(())
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Lines>> {
    let host = bench.host(kind, GROUPS, MEMBERS).await?;
    // The members of a group are on different connections, and no two connections share all their groups.
    let block = READING / MEMBERS;
    let line_of = |group: usize, member: usize| member * block + (group + member * (group / block)) % block;
    let groups_of = |line: usize| -> Vec<(usize, usize)> {
        let member = line / block;
        (0..GROUPS).filter(|group| line_of(*group, member) == line).map(|group| (group, member)).collect()
    };
    let speakers = (0..READING).map(|line| host.member(&groups_of(line))).collect::<Result<_, _>>()?;
    let members = Line::open_all(&host.door(), speakers, ROOM).await?;
    let topics = |line: usize| (line..GROUPS).step_by(POSTING).collect::<Vec<_>>();
    let speaker = |line: usize| host.rounds_of(&topics(line));
    let speakers = (0..POSTING).map(speaker).collect::<Result<_, _>>()?;
    let posters = Line::open_all(&host.door(), speakers, ROOM).await?;
    let pacer = |(line, poster): (usize, &Line)| {
        let (write, topics) = (poster.socket.sender(), (GROUPS / POSTING) as u64);
        Ok(Pacer { speaker: speaker(line)?, write, sent: 0, topics })
    };
    let pacers = posters.iter().enumerate().map(pacer).collect::<anyhow::Result<_>>()?;
    let mut load = Lines { members, posters, pacers };
    // The first round pays for what is allocated only once.
    round(&host, &mut load, 1, Pace::Saturated).await?;
    Ok(Contestant { host, load })
}

/// Posts `each` to every group, and waits until all members have them. Returns what it cost, and the sorted
/// latencies in microseconds.
async fn round(host: &Host, load: &mut Lines, each: u64, how: Pace) -> anyhow::Result<(Cost, Vec<u32>)> {
    let meter = Meter::start(host)?;
    let mut members = JoinSet::new();
    for mut line in load.members.drain(..) {
        line.heard.timed = how == Pace::Everyday;
        members.spawn(async move {
            // As many groups as it is in, and as many posts to each.
            let target = line.heard.delivered + each * (GROUPS * MEMBERS / READING) as u64;
            line.receive(target).await?;
            anyhow::Ok(line)
        });
    }
    let all = async {
        match how {
            Pace::Everyday => load.everyday(each).await?,
            Pace::Saturated => load.saturated(each).await?,
        }
        while let Some(line) = members.join_next().await {
            load.members.push(line??);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.map_err(|_| anyhow::anyhow!("a round takes too long"))??;
    let mut latencies: Vec<u32> =
        load.members.iter_mut().flat_map(|line| std::mem::take(&mut line.heard.latencies)).collect();
    latencies.sort_unstable();
    Ok((meter.stop(host)?, latencies))
}

impl Lines {
    async fn everyday(&mut self, each: u64) -> anyhow::Result<()> {
        let pacers = std::mem::take(&mut self.pacers);
        let pacing = tokio::task::spawn_blocking(move || pace(pacers, each as usize * GROUPS, GAP));
        let mut posters = JoinSet::new();
        for (at, mut line) in self.posters.drain(..).enumerate() {
            posters.spawn(async move {
                let target = line.heard.answered + each * (GROUPS / POSTING) as u64;
                while line.heard.answered < target {
                    line.listen().await?;
                }
                anyhow::Ok((at, line))
            });
        }
        let mut lines = Vec::new();
        while let Some(line) = posters.join_next().await {
            lines.push(line??);
        }
        // Each pacer writes to the poster's connection that has its place.
        lines.sort_by_key(|(at, _)| *at);
        self.posters = lines.into_iter().map(|(_, line)| line).collect();
        self.pacers = pacing.await??;
        Ok(())
    }

    async fn saturated(&mut self, each: u64) -> anyhow::Result<()> {
        let mut posters = JoinSet::new();
        for (mut line, mut pacer) in self.posters.drain(..).zip(self.pacers.drain(..)) {
            posters.spawn(async move {
                let target = pacer.sent + each * pacer.topics;
                let mut payload = blank();
                while line.heard.answered < target {
                    let more = target.min(line.heard.answered + WINDOW).saturating_sub(pacer.sent);
                    for _ in 0..more {
                        number(&mut payload, pacer.sent / pacer.topics, clock::nanos());
                        pacer.speaker.post(&payload, &mut line.socket.out);
                        pacer.sent += 1;
                    }
                    line.socket.flush().await?;
                    line.listen().await?;
                }
                anyhow::Ok((line, pacer))
            });
        }
        while let Some(pair) = posters.join_next().await {
            let (line, pacer) = pair??;
            self.posters.push(line);
            self.pacers.push(pacer);
        }
        Ok(())
    }
}
