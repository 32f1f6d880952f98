//! `cargo xtask pty`: the terminal client in real terminals. The last line is `N passed, M failed`.

use std::process::ExitCode;

use clap::Parser;
use posthorn_tests::faults::Tally;
use posthorn_tests::pty::stage::Programs;

/// Plays what people do at terminals.
#[derive(Parser)]
struct Args {
    /// Only cases whose name contains this.
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let beside = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("pty: where are the programs? {error}");
            return ExitCode::FAILURE;
        }
    };
    let programs =
        Programs { posthorn: beside.with_file_name("posthorn"), relay: beside.with_file_name("test-relay") };
    let mut tally = Tally::default();
    posthorn_tests::pty::run(&programs, &args.name, &mut tally).await;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
