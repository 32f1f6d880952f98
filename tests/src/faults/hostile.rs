//! Hostile: peers that mean harm, in large numbers. What each of them is answered is tested one by one in
//! `tests/tests/hostile.rs`; what matters here is that the relay stays small and that nobody else notices.
//!
//! The attackers share two cores with the relay and with the bystander whom they disturb. So a slow answer is
//! measured again, and one that takes less than [`NOTICED`] is not held against the relay.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::frame::{Request, ServerBody};
use posthorn_proto::{PostKey, ReadKey};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::{Run, Tally, millis, now};
use crate::mailbox::{BareDevice, BareMailbox, post_id};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::Wire;

/// What the relay may take while nobody attacks, in bytes. What it may take more for each connection of the
/// attackers follows.
const MEMORY: u64 = 160 << 20;
/// The same for a connection whose outbox is full to its bound (`connections.outbox_bytes`) and which has as
/// much in other buffers, in bytes: one that floods has full buffers in both directions.
const FULL_CONNECTION: u64 = 1200 << 10;
/// The same for a connection that has not said anything sensible yet, in bytes.
const MERE_CONNECTION: u64 = 24 << 10;
/// How long an answer may take without counting as disturbed, however fast it was in the calm.
const NOTICED: Duration = Duration::from_millis(120);
/// How often a slow answer is measured before it counts.
const TRIES: u32 = 4;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let mut stage = match Stage::set(run).await {
        Ok(stage) => stage,
        Err(error) => return tally.count("hostile: a relay to attack", Err(error)),
    };
    for attack in [
        Attack::Deaf,
        Attack::NeverAcknowledges,
        Attack::HalfOpen,
        Attack::Slowloris,
        Attack::Giants,
        Attack::Floods,
        Attack::WrongKeys,
    ] {
        let size = attack.size(run.long);
        let outcome = stage.suffer(attack, size, if run.long { 20 } else { 1 }).await;
        tally.count(&format!("hostile: {size} {attack:?}"), outcome);
    }
    if let Err(error) = stage.relay.stop().await {
        tally.count("hostile: the relay stops politely afterwards", Err(error));
    }
}

/// What is done to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Readers with endless credit that read nothing.
    Deaf,
    /// Readers that take everything and acknowledge nothing.
    NeverAcknowledges,
    /// Connections that begin a handshake and say no more.
    HalfOpen,
    /// Handshakes of one byte at a time.
    Slowloris,
    /// Messages beyond the limit, and headers that promise a terabyte.
    Giants,
    /// Requests without end, whose answers nobody reads.
    Floods,
    /// Posts and openings with wrong keys, as fast as they are answered.
    WrongKeys,
}

impl Attack {
    fn size(self, long: bool) -> usize {
        let (short, longer) = match self {
            Self::Deaf | Self::NeverAcknowledges => (24, 100),
            Self::HalfOpen => (3000, 10_000),
            Self::Slowloris => (400, 4000),
            Self::Giants => (24, 200),
            Self::Floods => (12, 60),
            Self::WrongKeys => (8, 40),
        };
        if long { longer } else { short }
    }

    fn bound(self, size: usize) -> u64 {
        let each = match self {
            Self::HalfOpen | Self::Slowloris => MERE_CONNECTION,
            _ => FULL_CONNECTION,
        };
        MEMORY + size as u64 * each
    }
}

/// A relay, and what everybody needs to attack it.
struct Stage {
    relay: RelayProcess,
    device: BareDevice,
    account: Wire,
    rng: ChaCha20Rng,
    /// How long an answer took in the latest calm.
    calm: Duration,
    bystander: Bystander,
}

/// Somebody who posts and reads, and measures how long that takes.
struct Bystander {
    mailbox: BareMailbox,
    poster: Wire,
    reader: Wire,
}

impl Stage {
    async fn set(run: &Run) -> anyhow::Result<Self> {
        // Rates are limited as usual, because that is part of the defence.
        let options = ["--open-registration", "--set", "connections.total=20000"];
        let relay = RelayProcess::start(&RelayProgram::new(&run.relay), &options).await?;
        let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
        let device = BareDevice::new(&mut rng);
        let mut account = relay.connect().await?;
        device.register(&mut account, "stage", "").await?;
        let token = device.draw(&mut account, 1, &mut rng).await?.remove(0);
        let mailbox = BareMailbox::new(&mut rng);
        let (mut poster, mut reader) = (relay.connect().await?, relay.connect().await?);
        mailbox.create(&mut poster, token).await?;
        mailbox.open(&mut reader, 1 << 30).await?;
        let bystander = Bystander { mailbox, poster, reader };
        Ok(Self { relay, device, account, rng, calm: Duration::ZERO, bystander })
    }

    async fn mailbox(&mut self) -> anyhow::Result<BareMailbox> {
        let token = self.device.draw(&mut self.account, 1, &mut self.rng).await?.remove(0);
        let mailbox = BareMailbox::new(&mut self.rng);
        let mut wire = self.relay.connect().await?;
        mailbox.create(&mut wire, token).await?;
        Ok(mailbox)
    }

    async fn suffer(&mut self, attack: Attack, size: usize, seconds: u64) -> anyhow::Result<String> {
        // A device draws only so many tokens a day.
        self.device = BareDevice::new(&mut self.rng);
        self.account = self.relay.connect().await?;
        self.device.register(&mut self.account, &format!("{attack:?}").to_lowercase(), "").await?;
        let time = Duration::from_secs(seconds);
        self.calm = self.bystander.p99(time, &mut self.rng).await?;
        let mailbox = self.mailbox().await?;
        let mut attackers = self.attack(attack, size, &mailbox).await?;
        let allowed = (self.calm * 2).max(NOTICED);
        let (mut best, mut most) = (Duration::MAX, 0);
        for _ in 0..TRIES {
            best = best
                .min(self.bystander.p99(time, &mut self.rng).await.context("somebody else is not served")?);
            most = most.max(self.relay.memory()?);
            if best <= allowed {
                break;
            }
        }
        self.relay.alive()?;
        let working = attackers.len();
        attackers.shutdown().await;
        let said = self.relay.said();
        ensure!(!said.contains("panicked"), "{said}");
        let bound = attack.bound(size);
        ensure!(most <= bound, "{most} bytes of memory, {bound} are allowed");
        ensure!(
            best <= allowed,
            "p99 of somebody else: {} ms, in the calm {} ms",
            millis(best),
            millis(self.calm)
        );
        Ok(format!(
            "p99 of somebody else {} ms (calm {} ms), memory {} MiB of {}; {working} attackers until the end",
            millis(best),
            millis(self.calm),
            most >> 20,
            bound >> 20
        ))
    }

    /// Starts an attack, and returns once it is under way.
    async fn attack(
        &mut self,
        attack: Attack,
        size: usize,
        mailbox: &BareMailbox,
    ) -> anyhow::Result<JoinSet<()>> {
        let mut all = JoinSet::new();
        let (url, address) = (self.relay.url(), self.relay.address());
        match attack {
            Attack::Deaf | Attack::NeverAcknowledges => {
                for _ in 0..size {
                    // Each has a mailbox of its own, or else the latest would take the reader over.
                    let own = self.mailbox().await?;
                    let (mut reader, mut poster) = (Wire::connect(&url).await?, Wire::connect(&url).await?);
                    own.open(&mut reader, u32::MAX).await?;
                    let mut rng = ChaCha20Rng::seed_from_u64(self.rng.next_u64());
                    all.spawn(async move {
                        // Until the mailbox is full.
                        while own.append(&mut poster, post_id(&mut rng), vec![7; 60_000]).await.is_ok() {
                            if attack == Attack::NeverAcknowledges && reader.pushed().await.is_err() {
                                return;
                            }
                            // This is fast enough to fill a window of memory, and the disk is not the target.
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        std::future::pending::<()>().await;
                        drop(reader);
                    });
                }
            }
            Attack::HalfOpen => {
                let mut streams = Vec::new();
                for _ in 0..size {
                    streams.push(begun(address).await?);
                }
                all.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(streams);
                });
            }
            Attack::Slowloris => {
                for _ in 0..size {
                    let mut stream = TcpStream::connect(address).await?;
                    all.spawn(async move {
                        let request =
                            b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
                        for byte in request.iter().cycle() {
                            if stream.write_all(&[*byte]).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(300)).await;
                        }
                    });
                }
            }
            Attack::Giants => {
                for n in 0..size {
                    let url = url.clone();
                    all.spawn(async move {
                        while match n % 3 {
                            0 => giant(&url).await,
                            1 => promised_giant(address).await,
                            _ => pinging_giant(address).await,
                        }
                        .is_ok()
                        {}
                    });
                }
            }
            Attack::Floods => {
                for _ in 0..size {
                    let mut wire = Wire::connect(&url).await?;
                    all.spawn(async move { while wire.feed(Request::Ping).await.is_ok() {} });
                }
            }
            Attack::WrongKeys => {
                for n in 0..size {
                    let (url, mailbox) = (url.clone(), mailbox.clone());
                    all.spawn(wrong_keys(url, mailbox, n as u64));
                }
            }
        }
        Ok(all)
    }
}

/// Begins a handshake that is never finished.
async fn begun(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgr").await?;
    Ok(stream)
}

/// A message beyond the limit.
async fn giant(url: &str) -> anyhow::Result<()> {
    let mut wire = Wire::connect(url).await?;
    let limit = wire.hello().limits.frame_bytes as usize;
    let _ = wire.send_raw(Message::Binary(vec![0; limit + 1].into())).await;
    Ok(())
}

/// A header that promises a terabyte.
async fn promised_giant(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = upgraded(address).await?;
    stream.write_all(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await?;
    let mut rest = Vec::new();
    // The relay closes the connection.
    let _ = stream.read_to_end(&mut rest).await;
    Ok(())
}

/// The largest fragment of a message that never ends, and pings to make it last. The relay must not wait for
/// longer than it says, or all that these have sent is held for ever.
async fn pinging_giant(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = upgraded(address).await?;
    stream.write_all(&[0x02, 0xff, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]).await?;
    stream.write_all(&vec![0; 7 << 16]).await?;
    let (mut read, mut write) = stream.split();
    let pings = async {
        while write.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = pings => {}
        _ = read.read_to_end(&mut rest) => {}
    }
    Ok(())
}

/// A connection on which WebSocket is spoken.
async fn upgraded(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: posthorn.v1\r\n\r\n";
    stream.write_all(head).await?;
    Ok(stream)
}

/// Presents wrong keys again and again, on a new connection whenever the relay has had enough.
async fn wrong_keys(url: String, mailbox: BareMailbox, seed: u64) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    while let Ok(mut wire) = Wire::connect(&url).await {
        loop {
            let stranger = BareMailbox {
                post_key: PostKey::random(&mut rng),
                read_key: ReadKey::random(&mut rng),
                ..mailbox.clone()
            };
            let post = wire.ask(stranger.posting(post_id(&mut rng), "x")).await;
            let open = wire.ask(stranger.opening(1)).await;
            if post.is_err() || open.is_err() {
                break;
            }
        }
    }
}

impl Bystander {
    /// The 99th percentile of the time from a post to its delivery on another connection.
    async fn p99(&mut self, time: Duration, rng: &mut ChaCha20Rng) -> anyhow::Result<Duration> {
        let mut all = Vec::new();
        let begun = now();
        // A hundred a second, which is below the rate that a connection is allowed.
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while begun.elapsed() < time || all.len() < 100 {
            ticks.tick().await;
            let id = post_id(rng);
            let sent = now();
            let seq = self.mailbox.append(&mut self.poster, id, vec![1; 256]).await?;
            match self.reader.pushed().await? {
                ServerBody::Delivery(delivery) if delivery.post_id == id => {
                    ensure!(delivery.seq == seq, "another seq")
                }
                other => bail!("{other:?}"),
            }
            all.push(sent.elapsed());
            if seq % 100 == 0 {
                match self.reader.ask(self.mailbox.acknowledgement(seq, 0)).await? {
                    ServerBody::Done => {}
                    other => bail!("acknowledging: {other:?}"),
                }
            }
        }
        all.sort_unstable();
        Ok(all[(all.len() * 99).div_ceil(100) - 1])
    }
}
