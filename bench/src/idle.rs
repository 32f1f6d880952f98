//! Memory per idle connection: what the relay's resident memory grows by when many clients just sit there.

use clap::Args;

use crate::setup;

/// How many.
#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// Connections; each needs a file descriptor here and one at the relay.
    #[arg(long, default_value_t = 2000)]
    connections: usize,
}

impl Idle {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let mut bench = setup::start().await?;
        // The first ones pay for what is allocated once.
        let _warm = bench.connections(50).await?;
        let before = bench.relay.memory()?;
        let wires = bench.connections(self.connections).await?;
        let grown = bench.relay.memory()?.saturating_sub(before) as f64;
        println!(
            "idle: {} connections (hello received): {:.1} KiB each; relay memory {:.1} MiB",
            wires.len(),
            grown / 1024.0 / wires.len() as f64,
            bench.relay.memory()? as f64 / 1_048_576.0
        );
        drop(wires);
        bench.relay.stop().await
    }
}
