//! End-to-end latency: from the call that posts to the delivery on another connection, through the relay's fsync.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use posthorn_proto::PostId;
use posthorn_proto::frame::ServerBody;
use posthorn_tests::mailbox::BareMailbox;
use posthorn_tests::wire::Wire;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::{clock, setup};

/// What to send.
#[derive(Debug, Args)]
pub(crate) struct Latency {
    /// Pairs of a poster and a reader.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Messages of each pair.
    #[arg(long, default_value_t = 250)]
    messages: usize,
    /// Messages per second of each pair.
    #[arg(long, default_value_t = 10)]
    rate: u32,
    /// Bytes of an envelope.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
}

impl Latency {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let mut bench = setup::start().await?;
        let mailboxes = bench.mailboxes(self.pairs).await?;
        let mut pairs = JoinSet::new();
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let (poster, reader) = (bench.relay.connect().await?, bench.relay.connect().await?);
            let pace = Duration::from_secs(1) / self.rate;
            // Spread over the interval, so that the pairs do not post at the same instant.
            let offset = pace * index as u32 / self.pairs as u32;
            pairs.spawn(pair(poster, reader, mailbox, self.messages, self.bytes, pace, offset));
        }
        let mut latencies = Vec::new();
        while let Some(pair) = pairs.join_next().await {
            latencies.extend(pair??);
        }
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        println!(
            "latency: {} messages x {} B of {} pairs at {}/s each: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
            latencies.len(),
            self.bytes,
            self.pairs,
            self.rate,
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
        bench.relay.stop().await
    }
}

async fn pair(
    mut poster: Wire,
    mut reader: Wire,
    mailbox: BareMailbox,
    messages: usize,
    bytes: usize,
    pace: Duration,
    offset: Duration,
) -> anyhow::Result<Vec<Duration>> {
    mailbox.open(&mut reader, messages as u32).await?;
    let (posted, mut times) = tokio::sync::mpsc::channel::<Instant>(messages);
    let posting = async {
        let mut rng = ChaCha20Rng::from_os_rng();
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::from_std(clock::now() + offset), pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..messages {
            ticks.tick().await;
            posted.send(clock::now()).await?;
            mailbox.append(&mut poster, PostId::random(&mut rng), vec![1; bytes]).await?;
        }
        anyhow::Ok(())
    };
    let reading = async {
        let mut latencies = Vec::with_capacity(messages);
        while latencies.len() < messages {
            let ServerBody::Delivery(delivery) = reader.pushed().await? else { bail!("not a delivery") };
            let arrived = clock::now();
            anyhow::ensure!(delivery.seq as usize == latencies.len() + 1, "seq {} out of order", delivery.seq);
            let Some(posted) = times.recv().await else { bail!("delivered before it was posted") };
            latencies.push(arrived - posted);
        }
        Ok(latencies)
    };
    let ((), latencies) = tokio::try_join!(posting, reading)?;
    Ok(latencies)
}
