//! W6: what changes as the store grows tenfold again and again: appending, reading from the beginning,
//! starting after SIGKILL, and memory for each stored envelope; then memory for each of many idle mailboxes.
//!
//! Nobody acknowledges, so everything that is posted stays. Rates are reported, but what is judged is
//! processor time, which a busy machine disturbs less.

use tokio::task::JoinSet;

use super::Bench;
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter};
use crate::pair::ROOM;
use crate::setup;
use crate::table::{Row, Target};
use crate::wire::line::Line;
use crate::wire::posthorn::{Poster, Reader};
use crate::wire::speaker::{blank, number};

/// Mailboxes that get posts in turns.
const MAILBOXES: usize = 1000;
/// Connections that post, each to its share of the mailboxes.
const POSTERS: usize = 50;
/// Unanswered posts of each connection: one in each of its mailboxes.
const WINDOW: u64 = (MAILBOXES / POSTERS) as u64;
/// Most mailboxes that are read to measure catching up.
const READ: usize = 100;
/// Most envelopes that are read.
const ENVELOPES: usize = 100_000;

/// What was measured at one size.
struct Decade {
    envelopes: u64,
    append: Cost,
    appended: u64,
    read: Cost,
    were_read: u64,
    /// Seconds from the start of the process until it listens, after SIGKILL.
    start: f64,
    /// Resident bytes at rest, before the kill or after the start, whichever is more.
    memory: u64,
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut host = bench.host(Kind::Posthorn, MAILBOXES, 1).await?;
    let (mut decades, mut there) = (Vec::<Decade>::new(), 0);
    for envelopes in [10_000, 100_000, 1_000_000, 10_000_000u64] {
        if envelopes > bench.size(1_000_000, 10_000_000) {
            break;
        }
        // What is measured is the last stretch of each decade, when the store has nothing else to do.
        let measured = (envelopes / 2).min(200_000);
        append(&host, there, envelopes - measured - there).await?;
        let meter = Meter::start(&host)?;
        append(&host, envelopes - measured, measured).await?;
        let cost = meter.stop(&host)?;
        there = envelopes;
        let meter = Meter::start(&host)?;
        let were_read = read(&host, envelopes).await?;
        let read = meter.stop(&host)?;
        let memory = host.process.memory_at_rest().await?;
        host.process.kill()?;
        let start = host.restart().await?.as_secs_f64();
        let memory = memory.max(host.process.memory_at_rest().await?);
        eprintln!(
            "  {envelopes} envelopes: append {:.0}/s, read {:.0}/s, start {start:.2} s, RSS {} MiB",
            measured as f64 / cost.seconds,
            were_read as f64 / read.seconds,
            memory >> 20
        );
        decades.push(Decade { envelopes, append: cost, appended: measured, read, were_read, start, memory });
    }
    // After all those kills, everything is still there, once and in order.
    read(&host, there).await?;
    tell(bench, &decades);
    drop(host);
    mailboxes(bench).await
}

fn tell(bench: &mut Bench, decades: &[Decade]) {
    let mut row = |figure: String, target, value| {
        bench.table.push(Row::new("W6", figure, target).with(Kind::Posthorn, value));
    };
    let append_cpu = |decade: &Decade| decade.append.cpu / decade.appended as f64 * 1e5;
    let read_cpu = |decade: &Decade| decade.read.cpu / decade.were_read as f64 * 1e5;
    for decade in decades {
        let size = power(decade.envelopes);
        row(format!("append/s at {size}"), Target::None, decade.appended as f64 / decade.append.seconds);
        row(format!("append CPU s / 100k at {size}"), Target::None, append_cpu(decade));
        row(
            format!("catch-up envelopes/s at {size}"),
            Target::None,
            decade.were_read as f64 / decade.read.seconds,
        );
        let target = match decade.envelopes {
            1_000_000 => Target::AtMost(3.0),
            10_000_000 => Target::AtMost(15.0),
            _ => Target::None,
        };
        row(format!("start after SIGKILL, s, at {size}"), target, decade.start);
    }
    // The smallest decade is too short to be measured well in ticks of 10 ms, so the second one is the base.
    let [first, base, .., last] = decades else { return };
    let sizes = format!("{} : {}", power(last.envelopes), power(base.envelopes));
    row(format!("append CPU, {sizes}"), Target::AtMost(1.5), append_cpu(last) / append_cpu(base));
    row(format!("catch-up CPU, {sizes}"), Target::AtMost(1.5), read_cpu(last) / read_cpu(base));
    let each = last.memory.saturating_sub(first.memory) as f64 / (last.envelopes - first.envelopes) as f64;
    row("RAM bytes / retained envelope".into(), Target::AtMost(100.0), each);
}

fn power(envelopes: u64) -> String {
    format!("10^{}", envelopes.ilog10())
}

/// Posts `count` envelopes to all mailboxes in turns, where `before` are already.
async fn append(host: &Host, before: u64, count: u64) -> anyhow::Result<()> {
    let (each_before, each) = (before / MAILBOXES as u64, count / MAILBOXES as u64);
    let share = MAILBOXES / POSTERS;
    let mut posters = JoinSet::new();
    for (name, chunk) in host.mailboxes.chunks(share).enumerate() {
        let (door, chunk) = (host.door(), chunk.to_vec());
        // Makes post ids that differ from all earlier ones.
        let name = before << 16 | name as u64;
        posters.spawn(async move {
            let total = each * chunk.len() as u64;
            let share = chunk.len() as u64;
            let mut line = Line::open(&door, Box::new(Poster::new(chunk, each_before, name)), ROOM).await?;
            let (mut payload, mut sent) = (blank(), 0);
            while line.heard.answered < total {
                while sent < total.min(line.heard.answered + WINDOW) {
                    // Payloads are numbered within each mailbox.
                    number(&mut payload, each_before + sent / share, 0);
                    line.post(&payload);
                    sent += 1;
                }
                line.socket.flush().await?;
                line.listen().await?;
            }
            line.close().await
        });
    }
    while let Some(poster) = posters.join_next().await {
        poster??;
    }
    Ok(())
}

/// Reads some mailboxes from the beginning, and returns how many envelopes there were.
async fn read(host: &Host, envelopes: u64) -> anyhow::Result<u64> {
    let each = envelopes as usize / MAILBOXES;
    let mailboxes = READ.min(MAILBOXES);
    let each = each.min(ENVELOPES / mailboxes) as u64;
    let mut readers = JoinSet::new();
    for mailbox in host.mailboxes.iter().step_by(MAILBOXES / mailboxes) {
        let (door, speaker) = (host.door(), Reader::new(*mailbox, 0).only_reads(each as u32));
        readers.spawn(async move {
            let mut line = Line::open(&door, Box::new(speaker), ROOM).await?;
            line.receive(each).await?;
            // Nothing was acknowledged, so the next reader starts at the beginning again.
            drop(line);
            anyhow::Ok(())
        });
    }
    let mut count = 0;
    while let Some(reader) = readers.join_next().await {
        reader??;
        count += each;
    }
    Ok(count)
}

/// Measures the memory of empty mailboxes that nobody has open.
async fn mailboxes(bench: &mut Bench) -> anyhow::Result<()> {
    let count = bench.size(200_000, 1_000_000);
    let mut host = bench.host(Kind::Posthorn, 1000, 1).await?;
    let before = host.process.memory_at_rest().await?;
    let begun = clock::now();
    setup::mailboxes(&host, count, 1).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = host.process.memory_at_rest().await?;
    host.process.kill()?;
    let start = host.restart().await?.as_secs_f64();
    let restarted = host.process.memory_at_rest().await?;
    eprintln!(
        "  {count} mailboxes: RSS {} MiB before, {} MiB then, {} MiB after the start",
        before >> 20,
        after >> 20,
        restarted >> 20
    );
    let each = after.max(restarted).saturating_sub(before) as f64 / count as f64;
    let mut row = |figure: String, target, value| {
        bench.table.push(Row::new("W6", figure, target).with(Kind::Posthorn, value));
    };
    row(format!("RAM bytes / idle mailbox, of {count}"), Target::AtMost(400.0), each);
    row(format!("start after SIGKILL, s, {count} mailboxes"), Target::None, start);
    row("mailboxes created/s".into(), Target::None, count as f64 / seconds);
    Ok(())
}
