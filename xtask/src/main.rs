//! The project's own commands, run as `cargo xtask <command>`.
//!
//! Reading guide: [`ci`] is the list of steps that a change must pass, and [`step`] runs them one after the
//! other; [`tidy`] holds the house rules that a program can check; [`sim`] starts the simulation and the long
//! kill loop, [`faults`] what breaks relays on purpose, [`conformance`] the suites of others, [`pty`] the
//! cases at real terminals, [`mod@bench`] the measured comparison, [`face`] the list of what the client
//! library shows to apps.
//!
//! Invariant: a check lives in the crate that it checks, or in `tests/`. What is here only starts checks, or
//! looks at source text and at the graph of dependencies. It links no code of the product, so that it builds
//! in seconds.

mod bench;
mod ci;
mod conformance;
mod drill;
mod face;
mod faults;
mod pty;
mod sim;
mod step;
mod tidy;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use conformance::Outcome;

/// Posthorn's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs everything that a change must pass: exactly what `.ci/run` runs.
    Ci {
        /// Run only formatting, lints, house rules and tests.
        #[arg(long)]
        quick: bool,
    },
    /// Runs the deterministic simulation; its last line is `N passed, M failed`.
    Sim(sim::SimArguments),
    /// Kills relay and clients with SIGKILL in a loop while they talk, and compares the histories.
    Kill {
        /// How often to kill each side.
        #[arg(long, default_value_t = 200)]
        kills: u32,
    },
    /// Measures the relay beside its limits and its peers; exit status 1 if a target is missed.
    Bench(bench::BenchArguments),
    /// Breaks relays on purpose: kills, power cuts, disks, damage, attacks, a soak; its last line is
    /// `N passed, M failed`.
    Faults(faults::FaultArguments),
    /// Plays suites that others wrote; its last line is `N passed, M failed`. Exit status 2 if something is
    /// missing here.
    Conformance(conformance::ConformanceArguments),
    /// Plays what people do at real terminals with the real client; its last line is `N passed, M failed`.
    Pty(pty::PtyArguments),
    /// Moves a conversation while people talk and are killed; its last line is `N passed, M failed`.
    Drill(drill::DrillArguments),
    /// Compares what the client library shows to apps with `client-lib/public-items.txt`, or writes that.
    Face(face::FaceArguments),
    /// Checks the house rules that a program can check.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Ci { quick } => ci::run(quick),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Kill { kills } => sim::kill(kills),
        Command::Bench(arguments) => match bench::run(&arguments) {
            Ok(true) => Ok(()),
            // The table says which target was missed.
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Faults(arguments) => faults::run(&arguments),
        Command::Conformance(arguments) => match conformance::run(&arguments) {
            Ok(Outcome::Played(0)) => Ok(()),
            // The lines above name them.
            Ok(Outcome::Played(_)) => return ExitCode::FAILURE,
            Ok(Outcome::Missing(what)) => {
                eprintln!("xtask: {what}");
                return ExitCode::from(2);
            }
            Err(error) => Err(error),
        },
        Command::Drill(arguments) => drill::run(&arguments),
        Command::Pty(arguments) => pty::run(&arguments),
        Command::Face(arguments) => face::run(&arguments),
        Command::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The names of this program's commands, for the rule that documents name no others.
fn commands() -> Vec<String> {
    Arguments::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}
