//! W3: one poster, one mailbox, 1,000 online readers. Measures the server's processor time for one delivery,
//! and whether what is written to disk depends on the size of the group.
//!
//! Readers acknowledge each hundredth envelope, as in W1. When bytes are compared, they do not, because the
//! envelopes are what is compared; an acknowledgement is a state of each reader's own, and its cost has a row
//! of its own.

use posthorn_proto::frame::ServerBody;
use tokio::task::JoinSet;

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::saturated::WINDOW;
use crate::clock;
use crate::host::{Host, Kind};
use crate::measure::{Cost, Meter};
use crate::setup;
use crate::table::{Row, Target};
use crate::wire::line::Line;
use crate::wire::posthorn;
use crate::wire::socket::message;
use crate::wire::speaker::{Speaker, blank, number};

/// Readers of the large group.
const READERS: usize = 1000;
/// Readers of the small group, for the comparison of bytes.
const FEW: usize = 10;
/// Size of the read buffer of one of many readers, in bytes.
const ROOM: usize = 16 * 1024;

/// A poster and its readers.
struct Group {
    poster: Line,
    readers: Vec<Line>,
    sent: u64,
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (rounds, posts) = (bench.size(3, 5), bench.size(200, 1000));
    let mut contestants = bench.enter("W3", &[Kind::LimitMem, Kind::LimitWal], enter).await?;
    let (mut each, mut rate, mut written) = (Rounds::new(), Rounds::new(), Rounds::new());
    let turn = async |_, Contestant { host, load }: &mut Contestant<Group>| {
        let cost = round(host, load, posts).await?;
        let deliveries = (posts as usize * READERS) as f64;
        note(&mut each, host.kind, cost.cpu / deliveries * 1e6);
        note(&mut rate, host.kind, deliveries / cost.seconds);
        note(&mut written, host.kind, cost.written as f64 / posts as f64);
        anyhow::Ok(())
    };
    bench.take_turns("W3", rounds, &mut contestants, turn).await?;
    let times = Target::Times(1.0, Kind::LimitWal);
    bench.table.push(Row::new("W3", "server CPU us / delivery", times).rounds(&each));
    bench.table.push(Row::new("W3", "deliveries/s", Target::None).rounds(&rate));
    bench.table.push(Row::new("W3", "bytes written / post, with all acks", Target::None).rounds(&written));
    drop(contestants);
    bytes(bench, posts).await
}

async fn enter(bench: &Bench, kind: Kind) -> anyhow::Result<Contestant<Group>> {
    let host = bench.host(kind, 1, READERS).await?;
    let speakers = (0..READERS).map(|reader| host.listener(0, reader)).collect();
    let mut load = Group::gather(&host, 0, speakers).await?;
    round(&host, &mut load, 30).await?;
    Ok(Contestant { host, load })
}

impl Group {
    async fn gather(host: &Host, index: usize, speakers: Vec<Box<dyn Speaker>>) -> anyhow::Result<Self> {
        let readers = Line::open_all(&host.door(), speakers, ROOM).await?;
        let poster = Line::open(&host.door(), host.poster(index, 0), ROOM).await?;
        Ok(Self { poster, readers, sent: 0 })
    }

    /// Posts, and waits until every reader has everything.
    async fn run(&mut self, posts: u64) -> anyhow::Result<()> {
        let target = self.sent + posts;
        let mut tasks = JoinSet::new();
        for mut reader in self.readers.drain(..) {
            tasks.spawn(async move {
                reader.receive(target).await?;
                anyhow::Ok(reader)
            });
        }
        let mut payload = blank();
        while self.poster.heard.answered < target {
            let more = target.min(self.poster.heard.answered + WINDOW).saturating_sub(self.sent);
            for _ in 0..more {
                number(&mut payload, self.sent, clock::nanos());
                self.poster.post(&payload);
                self.sent += 1;
            }
            self.poster.socket.flush().await?;
            self.poster.listen().await?;
        }
        while let Some(reader) = tasks.join_next().await {
            self.readers.push(reader??);
        }
        Ok(())
    }
}

async fn round(host: &Host, group: &mut Group, posts: u64) -> anyhow::Result<Cost> {
    let meter = Meter::start(host)?;
    group.run(posts).await?;
    meter.stop(host)
}

/// Posts the same to a small and to a large group on one relay, without acknowledgements in between.
async fn bytes(bench: &mut Bench, posts: u64) -> anyhow::Result<()> {
    let mut host = bench.host(Kind::Posthorn, 1, FEW).await?;
    host.mailboxes.extend(setup::mailboxes(&host, 1, READERS).await?);
    let mut written = Vec::new();
    let mut acks = 0.0;
    for (index, size) in [FEW, READERS].into_iter().enumerate() {
        let speakers = (0..size).map(|reader| -> Box<dyn Speaker> {
            Box::new(posthorn::Reader::new(host.mailboxes[index], reader).only_reads(posts as u32 * 2))
        });
        let mut group = Group::gather(&host, index, speakers.collect()).await?;
        group.run(posts / 4).await?;
        written.push(round(&host, &mut group, posts).await?.written as f64 / posts as f64);
        let meter = Meter::start(&host)?;
        // All of them at once, as after a post to everybody.
        for reader in &mut group.readers {
            message(&mut reader.socket.out, &posthorn::lasting_ack(2, host.mailboxes[index], group.sent));
            reader.socket.flush().await?;
        }
        for reader in &mut group.readers {
            let answer = posthorn::hear(&mut reader.socket).await?;
            anyhow::ensure!(answer == ServerBody::Done, "an acknowledgement was answered {answer:?}");
        }
        acks = meter.stop(&host)?.written as f64 / size as f64;
    }
    let figure = format!("bytes written / post, {READERS} readers : {FEW} readers");
    let row = Row::new("W3", figure, Target::AtMost(1.5)).with(Kind::Posthorn, written[1] / written[0]);
    bench.table.push(row);
    let row = Row::new("W3", format!("bytes written / post, {READERS} readers"), Target::None);
    bench.table.push(row.with(Kind::Posthorn, written[1]));
    bench
        .table
        .push(Row::new("W3", "bytes written / acknowledgement", Target::None).with(Kind::Posthorn, acks));
    Ok(())
}
