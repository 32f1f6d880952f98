//! Starts the fault programs, which live in `tests/src/faults/`.

use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::step::{cargo, root, target_directory};

/// What to break, and for how long.
#[derive(Debug, Args)]
pub(crate) struct FaultArguments {
    /// Which programs to run; all if none is named.
    programs: Vec<Program>,
    /// Run as CI does, all programs in some minutes; this is the default.
    #[arg(long, conflicts_with = "long")]
    short: bool,
    /// Run for hours; the soak alone takes one.
    #[arg(long)]
    long: bool,
    /// The seed of everything random; it is printed, and replays a failure.
    #[arg(long)]
    seed: Option<u64>,
    /// How long the soak lasts.
    #[arg(long)]
    minutes: Option<u64>,
    /// Break the optimized relay.
    #[arg(long)]
    release: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Program {
    /// SIGKILL at random instants under load.
    Kill,
    /// The folders that a disk may hold when the power goes.
    Power,
    /// A disk that is full, fails, or can only be read.
    Disk,
    /// Files that do not open, because descriptors or memory have run out.
    Descriptors,
    /// Calls that fail, because memory, descriptors, buffers or threads have run out.
    Memory,
    /// Damaged files.
    Corrupt,
    /// Kills and a full disk while blobs are put.
    Blobs,
    /// Peers that mean harm, in large numbers.
    Hostile,
    /// Real proxies before the relay.
    Proxy,
    /// A page in real browsers.
    Browser,
    /// A steady load.
    Soak,
}

/// Builds and runs the programs. It builds the whole workspace, so that what `cargo build --workspace` has
/// built is used.
pub(crate) fn run(arguments: &FaultArguments) -> anyhow::Result<()> {
    let mut build = cargo("build --quiet --workspace --bin faults --bin test-relay");
    build.args(arguments.release.then_some("--release"));
    must(&mut build)?;
    let profile = if arguments.release { "release" } else { "debug" };
    let mut faults = Command::new(target_directory()?.join(profile).join("faults"));
    for program in &arguments.programs {
        let name = program.to_possible_value().context("every program has a name")?;
        faults.arg(name.get_name());
    }
    faults.args(arguments.long.then_some("--long"));
    for (flag, number) in [("--seed", arguments.seed), ("--minutes", arguments.minutes)] {
        faults.args(number.map(|number| [flag.to_owned(), number.to_string()]).into_iter().flatten());
    }
    must(faults.current_dir(root()))
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("it did not pass ({status}); the lines above say why, and with which seed");
    }
    Ok(())
}
