//! Load on a real relay process, and what it costs: `cargo run --release -p posthorn-bench -- posts|latency|idle`.
//!
//! Reading guide: [`setup`] starts the relay (this same program, so that one build serves both) and makes mailboxes;
//! [`posts`], [`latency`] and [`idle`] are one measurement each, and print one line of figures.
//!
//! Invariant: nothing here is a test. Figures are printed, never judged: what is too slow depends on the machine.

mod clock;
mod idle;
mod latency;
mod posts;
mod setup;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures a relay.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Durable posts per second, and the relay's processor time per 100,000 posts.
    Posts(posts::Posts),
    /// Time from a post to its delivery on another connection.
    Latency(latency::Latency),
    /// The relay's memory per idle connection.
    Idle(idle::Idle),
}

fn main() -> ExitCode {
    // Started as `posthorn-bench relay ...`, this program is the relay that it measures.
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    if arguments.next().is_some_and(|first| first == setup::RELAY) {
        return posthorn_server::cli_main(program.into_iter().chain(arguments));
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("posthorn-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.measurement {
            Measurement::Posts(posts) => posts.run().await,
            Measurement::Latency(latency) => latency.run().await,
            Measurement::Idle(idle) => idle.run().await,
        }
    })
}
