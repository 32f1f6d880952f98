//! `cargo xtask drill`: conversations move while people talk. The last line is `N passed, M failed`.

use std::process::ExitCode;

use clap::Parser;
use posthorn_tests::drill;
use posthorn_tests::drill::stage::Programs;
use posthorn_tests::faults::Tally;
use posthorn_tests::relay::beside;

/// Plays drills with real processes.
#[derive(Parser)]
struct Args {
    /// Only drills whose name contains this.
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let programs = Programs { relay: beside("test-relay")?, person: beside("test-person")? };
    let mut tally = Tally::default();
    drill::run(&programs, &args.name, &mut tally).await;
    Ok(tally.end())
}
