//! Runs one step after the other, each visible and timed, until one fails.
//!
//! Owns this program's clock. Never hides a step's output, and never goes on after a failure.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// The checkout that this program was built from.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// A cargo command in the checkout, by the same cargo that runs this program.
pub(crate) fn cargo(arguments: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments.split_whitespace()).current_dir(root());
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let metadata = metadata("--no-deps")?;
    let path = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(path.into())
}

/// `cargo metadata`, parsed.
pub(crate) fn metadata(arguments: &str) -> anyhow::Result<serde_json::Value> {
    let output = cargo(&format!("metadata --format-version 1 {arguments}"))
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!("cargo metadata {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// Times the steps of one run.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// Runs a program as a step. `advice` is what to do when it fails.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        advice: &str,
        command: &mut Command,
    ) -> anyhow::Result<()> {
        let line = shown(command);
        self.call(name, advice, || {
            println!("$ {line}");
            let status =
                command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {line}"))?;
            if !status.success() {
                bail!("`{line}`: {status}");
            }
            Ok(())
        })
    }

    /// Runs a function as a step.
    pub(crate) fn call(
        &mut self,
        name: &'static str,
        advice: &str,
        step: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        println!("\n=== {name}");
        let begun = now();
        let outcome = step();
        let took = begun.elapsed();
        self.done.push((name, took));
        println!(
            "=== {name}: {} in {:.1} s",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            took.as_secs_f64()
        );
        std::io::stdout().flush()?;
        outcome.with_context(|| format!("step `{name}` failed. What to do: {advice}"))
    }

    /// Prints what each step took.
    pub(crate) fn summary(&self) {
        println!("\nall {} steps passed", self.done.len());
        for (name, took) in &self.done {
            println!("{:8.1} s  {name}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        println!("{:8.1} s  together", total.as_secs_f64());
    }
}

#[allow(clippy::disallowed_methods, reason = "this program's only clock: how long a step took")]
fn now() -> Instant {
    Instant::now()
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
