//! W4: 10,000 and 19,000 idle connections with three open mailboxes each. Measures the server's resident
//! memory for one of them, and how fast they are made (TCP, WebSocket, and all three mailboxes opened).
//!
//! In many places a process may have no more than 20,000 descriptors; 19,000 leaves room for the rest.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Bench;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter};
use crate::table::{Row, Target};
use crate::wire::line::Line;

/// Connections before the first measurement, which pay for what is allocated only once.
const WARM: usize = 100;
/// How many connections there are at each measurement.
const STEPS: [usize; 2] = [10_000, 19_000];
/// Mailboxes that each connection opens.
const OPEN: usize = 3;
/// Connections that are made at the same time.
const AT_ONCE: usize = 64;
/// How long to wait before memory is read, so that the server has done what it puts off.
const SETTLING: Duration = Duration::from_millis(1500);

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let steps: Vec<usize> = STEPS.into_iter().filter(|step| (step + 500) as u64 <= bench.files).collect();
    anyhow::ensure!(!steps.is_empty(), "the limit of open files ({}) is too low", bench.files);
    let mut memory: Vec<Row> = steps
        .iter()
        .map(|step| Row::new("W4", format!("RSS KiB / connection, {step}"), Target::AtMost(5.0)))
        .collect();
    let mut rate = Row::new("W4", "connects/s, three mailboxes opened", Target::AtLeast(5000.0));
    let mut cpu = Row::new("W4", "server CPU us / connect", Target::None);
    for kind in bench.kinds("W4", &[Kind::LimitMem]) {
        match measure(bench, kind, &steps).await {
            Ok(figures) => {
                let first = figures[0].1;
                rate = rate.with(kind, steps[0] as f64 / first.seconds);
                cpu = cpu.with(kind, first.cpu / steps[0] as f64 * 1e6);
                memory = memory
                    .into_iter()
                    .zip(figures)
                    .map(|(row, (each, _))| row.with(kind, each / 1024.0))
                    .collect();
            }
            Err(error) => bench.peer_failed("W4", kind, error)?,
        }
    }
    memory.into_iter().for_each(|row| bench.table.push(row));
    bench.table.push(rate);
    bench.table.push(cpu);
    Ok(())
}

/// Measures, for each step, the bytes for one connection, and what connecting cost.
async fn measure(bench: &Bench, kind: Kind, steps: &[usize]) -> anyhow::Result<Vec<(f64, Cost)>> {
    let most = WARM + steps.iter().copied().max().unwrap_or(0);
    let host = Arc::new(bench.host(kind, most * OPEN, 1).await?);
    let mut lines = connect(&host, 0, WARM).await?;
    tokio::time::sleep(SETTLING).await;
    let before = host.process.memory()?;
    let mut figures = Vec::new();
    for step in steps {
        let meter = Meter::start(&host)?;
        let made = lines.len();
        lines.extend(connect(&host, made, WARM + step - made).await?);
        let cost = meter.stop(&host)?;
        tokio::time::sleep(SETTLING).await;
        figures.push((host.process.memory()?.saturating_sub(before) as f64 / *step as f64, cost));
    }
    Ok(figures)
}

/// Makes `count` connections, of which the first has the number `first`.
async fn connect(host: &Arc<Host>, first: usize, count: usize) -> anyhow::Result<Vec<Line>> {
    let next = Arc::new(AtomicUsize::new(first));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (host, next) = (Arc::clone(host), Arc::clone(&next));
        workers.spawn(async move {
            let mut lines = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= first + count {
                    return anyhow::Ok(lines);
                }
                let mut door = host.door();
                // One loopback address has ports for 28,000 connections, some of which linger after their
                // end.
                door.from = Some(Ipv4Addr::new(127, 0, 0, 2 + (number % 8) as u8));
                let speaker = host.idle(number, number * OPEN..(number + 1) * OPEN);
                let mut line = Line::open(&door, speaker, 4096).await?;
                line.socket.shrink();
                lines.push(line);
            }
        });
    }
    let mut lines = Vec::with_capacity(count);
    while let Some(made) = workers.join_next().await {
        lines.extend(made??);
    }
    Ok(lines)
}
