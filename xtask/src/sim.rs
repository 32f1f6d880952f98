//! Starts the simulation and the long kill loop, which live in `tests/`.

use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::step::{cargo, root};

/// What to simulate.
#[derive(Debug, Args)]
pub(crate) struct SimArguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
    /// The first seed; replays the schedule of a seed exactly.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How many rounds of three concurrent commits to play beside the seeds, once.
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: u32,
    /// `plain`: people while much goes wrong; `hostile`: a siege by all who mean harm, and a member who says
    /// anything at all inside of the encryption; `repair`: what does not pass by itself; `gone`: a relay that
    /// is gone for days.
    #[arg(long, default_value = "plain")]
    pub(crate) profile: String,
    /// With `--profile repair`: nobody can be asked for help, so that a seed has to fail to pass.
    #[arg(long)]
    pub(crate) helpless: bool,
}

impl SimArguments {
    /// Adds these arguments to the command that starts the simulation.
    pub(crate) fn give<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.args(["--seeds", &self.seeds.to_string(), "--rounds", &self.rounds.to_string()]);
        command.args(["--profile", &self.profile]);
        if self.helpless {
            command.arg("--helpless");
        }
        if let Some(seed) = self.seed {
            command.args(["--seed", &seed.to_string()]);
        }
        command
    }
}

/// Runs the simulation with optimization, which makes thousands of seeds cheap.
pub(crate) fn run(arguments: &SimArguments) -> anyhow::Result<()> {
    let build = "run --release --quiet --package posthorn-tests --features fuzzing --bin sim --";
    finish(arguments.give(&mut cargo(build)))
}

/// Runs the kill loop of `tests/tests/kill.rs` with more kills than in `cargo test`. It builds the whole
/// workspace, so that what `cargo test --workspace` has built is used: for one package alone, cargo would
/// build dependencies with other features.
pub(crate) fn kill(kills: u32) -> anyhow::Result<()> {
    finish(
        cargo("test --workspace --test kill -- --nocapture --test-threads 1")
            .env("POSTHORN_KILLS", kills.to_string()),
    )
}

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let status = command.current_dir(root()).status().context("cargo does not start")?;
    if !status.success() {
        bail!("it did not pass ({status}); the lines above say why and how to replay it");
    }
    Ok(())
}
