//! `cargo xtask faults`: breaks relays on purpose. The last line is `N passed, M failed`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use posthorn_tests::faults::{
    Run, Tally, blobs, browser, corrupt, descriptors, disk, hostile, kill, memory, power, proxy, soak,
};
use posthorn_tests::relay::beside;

/// Breaks relays on purpose, and looks at what became of what they had answered.
#[derive(Parser)]
struct Args {
    /// Which programs; all if none is named.
    programs: Vec<Program>,
    /// For hours instead of minutes.
    #[arg(long)]
    long: bool,
    /// Of all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the soak lasts.
    #[arg(long)]
    minutes: Option<u64>,
    /// The relay [default: test-relay beside this program]
    #[arg(long)]
    relay: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    /// SIGKILL at random instants under load.
    Kill,
    /// Images of what a disk may hold when the power goes.
    Power,
    /// Full, failing, read-only.
    Disk,
    /// Files that do not open, because descriptors or memory have run out.
    Descriptors,
    /// Calls that fail, because memory, descriptors, buffers or threads have run out.
    Memory,
    /// Damaged files.
    Corrupt,
    /// Kills and a full disk while blobs are put.
    Blobs,
    /// Peers that mean harm, at size.
    Hostile,
    /// Real proxies before the relay.
    Proxy,
    /// A page in real browsers.
    Browser,
    /// A steady load.
    Soak,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let relay = args.relay.map_or_else(|| beside("test-relay"), Ok)?;
    let run = Run { relay, long: args.long, seed: args.seed, minutes: args.minutes };
    let mut tally = Tally::default();
    let wanted = |program| args.programs.is_empty() || args.programs.contains(&program);
    for program in Program::value_variants().iter().copied() {
        if !wanted(program) {
            continue;
        }
        match program {
            Program::Kill => kill::run(&run, &mut tally).await,
            Program::Power => power::run(&run, &mut tally).await,
            Program::Disk => disk::run(&run, &mut tally).await,
            Program::Descriptors => descriptors::run(&run, &mut tally).await,
            Program::Memory => memory::run(&run, &mut tally).await,
            Program::Corrupt => corrupt::run(&run, &mut tally).await,
            Program::Blobs => blobs::run(&run, &mut tally).await,
            Program::Hostile => hostile::run(&run, &mut tally).await,
            Program::Proxy => proxy::run(&run, &mut tally).await,
            Program::Browser => browser::run(&run, &mut tally).await,
            Program::Soak => soak::run(&run, &mut tally).await,
        }
    }
    Ok(tally.end())
}
