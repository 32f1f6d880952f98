//! Starts the measured comparison, which lives in `bench/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;

use crate::step::{cargo, root, target_directory};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// w1, w1p, w2, w3, w4, w5, w6, w7, w7m, w8, w9 or w10; several are possible [default: all]
    workloads: Vec<String>,
    /// Use smaller sizes: all workloads take less than ten minutes on two cores
    #[arg(long)]
    quick: bool,
    /// Measure other servers, too; they are installed from the ordinary registries if they are missing
    #[arg(long)]
    peers: bool,
    /// Another build of the relay, measured in turns with this one: what did a change bring?
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<PathBuf>,
}

/// Builds the relay and the load generator with optimization, and runs them. Returns `false` if a target was
/// missed.
pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<bool> {
    let mut build = cargo("build --release --quiet --package posthorn-server --package posthorn-bench");
    anyhow::ensure!(build.status().context("cargo does not start")?.success(), "it does not compile");
    let built = target_directory()?.join("release");
    let mut bench = Command::new(built.join("posthorn-bench"));
    bench.current_dir(root()).args(&arguments.workloads).arg("--relay").arg(built.join("posthorn-server"));
    bench.args(arguments.quick.then_some("--quick")).args(arguments.peers.then_some("--peers"));
    if let Some(beside) = &arguments.beside {
        bench.arg("--beside").arg(std::path::absolute(beside)?);
    }
    Ok(bench.status().context("the load generator does not start")?.success())
}
