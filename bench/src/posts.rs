//! Durable posts: many connections, each with a window of unanswered posts to its own mailbox, nobody reading.

use anyhow::bail;
use clap::Args;
use posthorn_proto::PostId;
use posthorn_proto::frame::ServerBody;
use posthorn_tests::mailbox::BareMailbox;
use posthorn_tests::wire::{Heard, Wire};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;

use crate::{clock, setup};

/// What to post.
#[derive(Debug, Args)]
pub(crate) struct Posts {
    /// Posts altogether.
    #[arg(long, default_value_t = 100_000)]
    posts: usize,
    /// Connections, each posting to a mailbox of its own.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Unanswered posts of one connection.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Bytes of an envelope.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
}

impl Posts {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let mut bench = setup::start().await?;
        let mailboxes = bench.mailboxes(self.connections).await?;
        let wires = bench.connections(self.connections).await?;
        let each = self.posts.div_ceil(self.connections);
        let (processor, begun) = (bench.relay.processor_seconds()?, clock::now());
        let mut posters = JoinSet::new();
        for (wire, mailbox) in wires.into_iter().zip(mailboxes) {
            let seed = bench.rng.next_u64();
            posters.spawn(post(wire, mailbox, each, self.window, self.bytes, seed));
        }
        while let Some(done) = posters.join_next().await {
            done??;
        }
        let (took, processor) = (begun.elapsed().as_secs_f64(), bench.relay.processor_seconds()? - processor);
        let posts = (each * self.connections) as f64;
        println!(
            "posts: {posts} x {} B durable over {} connections, window {}: {:.0} posts/s; relay CPU {:.2} s per 100,000; relay memory {:.1} MiB",
            self.bytes,
            self.connections,
            self.window,
            posts / took,
            processor / posts * 100_000.0,
            bench.relay.memory()? as f64 / 1_048_576.0
        );
        bench.relay.stop().await
    }
}

/// Posts `count` envelopes, keeping up to `window` unanswered, and checks that each is answered by the next seq.
async fn post(
    mut wire: Wire,
    mailbox: BareMailbox,
    count: usize,
    window: usize,
    bytes: usize,
    seed: u64,
) -> anyhow::Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        // Refill when half of the window is free, so that frames leave in packets of several, as busy clients' do.
        if sent < count && sent - answered <= window / 2 {
            while sent < count && sent - answered < window {
                let mut envelope = vec![0; bytes];
                rng.fill_bytes(&mut envelope);
                wire.feed(mailbox.posting(PostId::random(&mut rng), envelope)).await?;
                sent += 1;
            }
            wire.flush().await?;
        }
        match wire.hear().await? {
            Heard::Frame(frame) => match frame.body {
                ServerBody::Posted { seq } if seq as usize == answered + 1 => answered += 1,
                other => bail!("post {} was answered {other:?}", answered + 1),
            },
            Heard::Closed(reason) => bail!("closed: {reason}"),
        }
    }
    Ok(())
}
