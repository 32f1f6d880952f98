//! Starting the drills, which live in `tests/src/drill/`.

use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::step::{cargo, root, target_directory};

/// What to play.
#[derive(Debug, Args)]
pub(crate) struct DrillArguments {
    /// Only drills whose name contains this: `cargo xtask drill move`.
    name: Option<String>,
}

/// Builds, and plays the drills. Of the whole workspace, so that what `cargo build --workspace` has built is
/// used.
pub(crate) fn run(arguments: &DrillArguments) -> anyhow::Result<()> {
    must(&mut cargo("build --quiet --workspace --bin drill --bin test-person --bin test-relay"))?;
    let mut drill = Command::new(target_directory()?.join("debug/drill"));
    must(drill.args(&arguments.name).current_dir(root()))
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("it did not pass ({status}); the lines above say why");
    }
    Ok(())
}
