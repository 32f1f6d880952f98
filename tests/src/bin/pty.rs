//! `cargo xtask pty`: the terminal client in real terminals. The last line is `N passed, M failed`.

use std::process::ExitCode;

use clap::Parser;
use posthorn_tests::faults::Tally;
use posthorn_tests::pty::stage::Programs;
use posthorn_tests::relay::beside;

/// Plays what people do at terminals.
#[derive(Parser)]
struct Args {
    /// Only cases whose name contains this.
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let programs = Programs { posthorn: beside("posthorn")?, relay: beside("test-relay")? };
    let mut tally = Tally::default();
    posthorn_tests::pty::run(&programs, &args.name, &mut tally).await;
    Ok(tally.end())
}
