//! W5: the relay was restarted, and every device comes back at the same moment. Each opens its 200 mailboxes
//! in one request and reads what waits there, one envelope in each.
//!
//! A client is *served* once all of its mailboxes are opened and everything that waited has come. All clients
//! begin to connect at once, without the jitter that the protocol asks of them. The relay serves them in
//! turns: some have to wait for theirs, but once a client has its first answer, the rest must come quickly.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{bail, ensure};
use posthorn_proto::MailboxId;
use posthorn_proto::frame::ServerBody;
use tokio::task::JoinSet;

use super::Bench;
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::Meter;
use crate::pair::ROOM;
use crate::table::{Row, Target};
use crate::wire::line::Line;
use crate::wire::posthorn::{self, Fast, Poster, check_opened, decode, fast, open, reader};
use crate::wire::socket::{Door, Socket, message};
use crate::wire::speaker::{blank, number, word};

/// Mailboxes of one device.
const MAILBOXES: usize = 200;
/// Connections that put the backlog there.
const POSTERS: usize = 50;
/// Unanswered posts of each of those connections.
const WINDOW: u64 = 64;

/// When a client got how far with being served.
struct Times {
    connected: Instant,
    /// When the first answer or envelope of its mailboxes came.
    begun: Instant,
    served: Instant,
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let devices = bench.size(1000, 5000);
    let mut host = bench.host(Kind::Posthorn, devices * MAILBOXES, 1).await?;
    fill(&host).await?;
    host.process.stop().await?;
    host.restart().await?;
    let (before, meter, begun) = (host.process.memory()?, Meter::start(&host)?, clock::now());
    let mut clients = JoinSet::new();
    for device in 0..devices {
        let mut door = host.door();
        door.from = Some(Ipv4Addr::new(127, 0, 0, 2 + (device % 8) as u8));
        let mailboxes: Arc<[MailboxId]> = host.mailboxes[device * MAILBOXES..(device + 1) * MAILBOXES].into();
        clients.spawn(come_back(door, mailboxes));
    }
    let (mut longest, mut waited, mut last, mut first, mut sockets) =
        (0.0f64, 0.0f64, begun, f64::MAX, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (times, socket) = client??;
        longest = longest.max((times.served - times.begun).as_secs_f64());
        waited = waited.max((times.served - times.connected).as_secs_f64());
        first = first.min((times.served - begun).as_secs_f64());
        last = last.max(times.served);
        sockets.push(socket);
    }
    let cost = meter.stop(&host)?;
    let (total, peak) = ((last - begun).as_secs_f64(), host.process.peak_memory()?);
    let mut tell = |figure: String, target, value| {
        bench.table.push(Row::new("W5", figure, target).with(Kind::Posthorn, value));
    };
    // The target is for 5,000 devices; for fewer, time is proportionally shorter.
    let most = 20.0 * devices as f64 / 5000.0;
    tell(format!("s until all of {devices} are served"), Target::AtMost(most), total);
    tell("longest s of a client, first answer to served".into(), Target::AtMost(2.0), longest);
    tell("longest s of a client, connected to served".into(), Target::None, waited);
    tell("s until the first is served".into(), Target::None, first);
    tell("server CPU ms / device".into(), Target::None, cost.cpu / devices as f64 * 1e3);
    let most = (before + peak_allowance(devices)) as f64 / 1_048_576.0;
    tell("peak RSS MiB".into(), Target::AtMost(most), peak as f64 / 1_048_576.0);
    tell("RSS MiB before".into(), Target::None, before as f64 / 1_048_576.0);
    Ok(())
}

/// How many bytes the storm may take beside what was there: for each device its connection, its openings and
/// half a full outbox.
fn peak_allowance(devices: usize) -> u64 {
    devices as u64 * (5 + 256 + MAILBOXES as u64 / 2) * 1024
}

/// Puts one envelope into each mailbox. Its payload has the mailbox's index among those of its poster.
async fn fill(host: &Host) -> anyhow::Result<()> {
    let mut posters = JoinSet::new();
    for (name, chunk) in host.mailboxes.chunks(host.mailboxes.len().div_ceil(POSTERS)).enumerate() {
        let (door, chunk) = (host.door(), chunk.to_vec());
        posters.spawn(async move {
            let count = chunk.len() as u64;
            let mut line = Line::open(&door, Box::new(Poster::new(chunk, 0, name as u64)), ROOM).await?;
            let (mut payload, mut sent) = (blank(), 0);
            while line.heard.answered < count {
                while sent < count.min(line.heard.answered + WINDOW) {
                    number(&mut payload, sent % MAILBOXES as u64, 0);
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

async fn come_back(door: Door, mailboxes: Arc<[MailboxId]>) -> anyhow::Result<(Times, Socket)> {
    let mut socket = Socket::connect(&door, 16 * 1024).await?;
    let connected = clock::now();
    message(
        &mut socket.out,
        &open(1, mailboxes.iter().map(|mailbox| (*mailbox, reader(0))), posthorn::CREDIT),
    );
    socket.flush().await?;
    let mut missing: HashMap<MailboxId, u64> = mailboxes.iter().copied().zip(0..).collect();
    let (mut opened, mut begun) = (false, None);
    while !opened || !missing.is_empty() {
        socket.fill().await?;
        while let Some(range) = socket.next()? {
            let bytes = socket.bytes(range).0;
            match fast(bytes) {
                Some(Fast::Delivery { mailbox, seq: 1, envelope }) => {
                    begun.get_or_insert_with(clock::now);
                    let Some(index) = missing.remove(&mailbox) else {
                        bail!("delivered twice, or never asked for")
                    };
                    ensure!(word(envelope, 0) == index, "envelope {} of mailbox {index}", word(envelope, 0));
                }
                _ => match decode(bytes)?.body {
                    ServerBody::Hello(_) => {}
                    ServerBody::Opened(results) => {
                        check_opened(&results)?;
                        begun.get_or_insert_with(clock::now);
                        opened = true;
                    }
                    other => bail!("a device that came back was told {other:?}"),
                },
            }
        }
    }
    let served = clock::now();
    socket.shrink();
    Ok((Times { connected, begun: begun.unwrap_or(connected), served }, socket))
}
