//! Starting the cases that sit at real terminals, which live in `tests/src/pty/`.

use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::step::{cargo, root, target_directory};

/// What to play.
#[derive(Debug, Args)]
pub(crate) struct PtyArguments {
    /// Only cases whose name contains this: `cargo xtask pty window`.
    name: Option<String>,
}

/// Builds, and plays the cases. Of the whole workspace, so that what `cargo build --workspace` has built is
/// used.
pub(crate) fn run(arguments: &PtyArguments) -> anyhow::Result<()> {
    must(&mut cargo("build --quiet --workspace --bin pty --bin posthorn --bin test-relay"))?;
    must(&mut cases(arguments.name.as_deref())?)
}

/// The program with the cases, as it was built last.
pub(crate) fn cases(name: Option<&str>) -> anyhow::Result<Command> {
    let mut cases = Command::new(target_directory()?.join("debug/pty"));
    cases.args(name).current_dir(root());
    Ok(cases)
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("it did not pass ({status}); the lines above say why");
    }
    Ok(())
}
