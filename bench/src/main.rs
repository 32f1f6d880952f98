//! The measured comparison: `cargo xtask bench`, described in `docs/performance.md`.
//!
//! Reading guide: [`work`] has the workloads, one file each. [`host`] starts the servers that they measure:
//! the relay, the [`mod@limit`] relays (this same program), and the peers that [`peers`] finds. [`wire`] is
//! the clients' side, [`pair`] and [`setup`] have what several workloads need. [`process`] and [`measure`]
//! read what a server used, and [`table`] is what comes out.
//!
//! Invariant: the relay is the program that is shipped, in a process of its own, and driven from outside by
//! its protocol; nothing of it is linked here. A client that counts a message has checked that it is the
//! right one.

mod clock;
mod host;
mod limit;
mod measure;
mod pair;
mod peers;
mod process;
mod setup;
mod table;
mod wire;
mod work;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::host::{Kind, Programs};
use crate::work::{Bench, Workload};

/// The first argument that makes this program a limit relay.
pub(crate) const LIMIT: &str = "limit";

/// Measures the relay beside its limits and, if asked for, its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to run [default: all]
    #[arg(ignore_case = true)]
    workloads: Vec<Workload>,
    /// Use smaller sizes: all workloads take less than ten minutes on two cores
    #[arg(long)]
    quick: bool,
    /// Measure other servers, too; they are installed from the ordinary registries if they are missing
    #[arg(long)]
    peers: bool,
    /// The relay's program [default: posthorn-server beside this one]
    #[arg(long, value_name = "PROGRAM")]
    relay: Option<PathBuf>,
    /// Another build of the relay, measured in turns with it: what did a change bring?
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Started as `posthorn-bench limit ADDRESS [FOLDER]`, this program is a limit relay.
    let words: Vec<String> = std::env::args().collect();
    let outcome = match words.get(1) {
        Some(first) if first == LIMIT => limit(&words[2..]).map(|()| true),
        _ => compare(Arguments::parse()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("posthorn-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn limit(words: &[String]) -> anyhow::Result<()> {
    let address: SocketAddr = words.first().context("an address is missing")?.parse()?;
    limit::relay::run(address, words.get(1).map(std::path::Path::new))
}

/// Runs, prints the table, and returns whether every target was met.
fn compare(arguments: Arguments) -> anyhow::Result<bool> {
    let files = process::raise_file_limit()?;
    let relay = match arguments.relay {
        Some(relay) => relay,
        None => std::env::current_exe()?.with_file_name("posthorn-server"),
    };
    anyhow::ensure!(relay.exists(), "there is no {}: run `cargo build --release` first", relay.display());
    let mut programs =
        Programs { relay, other: arguments.beside, settings: Vec::new(), mosquitto: None, nats: None };
    let (peers, absent) = match arguments.peers {
        true => peers::find(&mut programs),
        false => (Vec::new(), Vec::new()),
    };
    let columns: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| {
            peers.contains(kind)
                || absent.iter().any(|(absent, _)| absent == kind)
                || matches!(kind, Kind::LimitMem | Kind::LimitWal | Kind::Posthorn)
                || (*kind == Kind::Other && programs.other.is_some())
        })
        .collect();
    let mut bench =
        Bench { programs, quick: arguments.quick, files, peers, absent, table: table::Table::default() };
    let workloads = if arguments.workloads.is_empty() { Workload::ALL.to_vec() } else { arguments.workloads };
    // One thread, because the load must leave the other core to the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for workload in workloads {
            bench.run(workload).await;
        }
    });
    let met = bench.table.is_met();
    println!("{}", bench.table.print(&columns));
    println!("{}", if met { "every target was met" } else { "a target was MISSED" });
    Ok(met)
}
