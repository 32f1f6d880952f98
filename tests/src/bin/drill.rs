//! `cargo xtask drill`: conversations move while people talk. The last line is `N passed, M failed`.

use std::process::ExitCode;

use clap::Parser;
use posthorn_tests::drill;
use posthorn_tests::drill::stage::Programs;
use posthorn_tests::faults::Tally;

/// Plays drills with real processes.
#[derive(Parser)]
struct Args {
    /// Only drills whose name contains this.
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let beside = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("drill: where are the programs? {error}");
            return ExitCode::FAILURE;
        }
    };
    let programs =
        Programs { relay: beside.with_file_name("test-relay"), person: beside.with_file_name("test-person") };
    let mut tally = Tally::default();
    drill::run(&programs, &args.name, &mut tally).await;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
