//! The workloads, one file each. What a workload measures, and why, is said at the head of its file.
//!
//! Owns which servers take part, and sees to it that nothing runs for ever.

mod arena;
mod blobs;
mod fan_out;
mod forgetting;
mod groups;
mod growth;
mod idle;
mod offline;
mod paced;
mod remembering;
mod saturated;
mod single;
mod storm;

use std::future::Future;
use std::time::Duration;

use crate::host::{Host, Kind, Programs};
use crate::setup;
use crate::table::Table;

/// How long a workload may take before it counts as failed: quick, full, and what each peer may add.
const PATIENCE: [Duration; 3] =
    [Duration::from_secs(150), Duration::from_secs(1800), Duration::from_secs(120)];
/// What W7m may take beyond that in its full size: it is an hour and more of posts.
const HOURS: Duration = Duration::from_secs(2 * 3600);

/// What can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// 100 online pairs, saturated.
    W1,
    /// The same at 5,000 messages a second.
    W1p,
    /// Posting while the readers are offline, then draining.
    W2,
    /// One poster, 1,000 readers.
    W3,
    /// Memory and speed of many idle connections.
    W4,
    /// Every device comes back at once.
    W5,
    /// Growth to millions of envelopes and mailboxes.
    W6,
    /// W1p while as much expires and is forgotten as comes.
    W7,
    /// Twenty million posts whose ids are remembered.
    W7m,
    /// W1p beside blobs that are put and got.
    W8,
    /// 2,000 small groups, everybody of whom acknowledges everything at once.
    W9,
    /// One pair, one message at a time.
    W10,
}

impl Workload {
    pub(crate) const ALL: [Self; 12] = [
        Self::W1,
        Self::W1p,
        Self::W2,
        Self::W3,
        Self::W4,
        Self::W5,
        Self::W6,
        Self::W7,
        Self::W7m,
        Self::W8,
        Self::W9,
        Self::W10,
    ];
}

/// A run of workloads, and what it measured.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
    /// How many files this process, and each server, may have open.
    pub(crate) files: u64,
    /// The peers that were asked for and are there, and below why others are not.
    pub(crate) peers: Vec<Kind>,
    pub(crate) absent: Vec<(Kind, String)>,
    pub(crate) table: Table,
}

impl Bench {
    /// Runs one workload. A failure goes into the table, too.
    pub(crate) async fn run(&mut self, workload: Workload) {
        let name = format!("{workload:?}");
        eprintln!("{name} ...");
        let begun = crate::clock::now();
        let patience = PATIENCE[usize::from(!self.quick)] + PATIENCE[2] * self.peers.len() as u32;
        let done = match workload {
            Workload::W1 => bounded(patience, saturated::run(self)).await,
            Workload::W1p => bounded(patience, paced::run(self)).await,
            Workload::W2 => bounded(patience, offline::run(self)).await,
            Workload::W3 => bounded(patience, fan_out::run(self)).await,
            Workload::W4 => bounded(patience, idle::run(self)).await,
            Workload::W5 => bounded(patience, storm::run(self)).await,
            Workload::W6 => bounded(patience, growth::run(self)).await,
            Workload::W7 => bounded(patience, forgetting::run(self)).await,
            Workload::W7m => bounded(patience + HOURS, remembering::run(self)).await,
            Workload::W8 => bounded(patience, blobs::run(self)).await,
            Workload::W9 => bounded(patience, groups::run(self)).await,
            Workload::W10 => bounded(patience, single::run(self)).await,
        };
        if let Err(error) = done {
            self.table.failed(&name, &error);
        }
        eprintln!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }

    /// The full size, or the quick one if the run is to be quick.
    fn size<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The servers of a workload: limits, then the peers that take part, then Posthorn.
    fn kinds(&mut self, workload: &'static str, limits: &[Kind]) -> Vec<Kind> {
        for (kind, reason) in &self.absent {
            self.table.not_run(workload, *kind, reason.clone());
        }
        let mut kinds = limits.to_vec();
        kinds.extend(&self.peers);
        kinds.extend(self.programs.other.is_some().then_some(Kind::Other));
        kinds.push(Kind::Posthorn);
        kinds
    }

    /// Starts a server and gets it ready for `topics` topics with this many readers each.
    async fn host(&self, kind: Kind, topics: usize, readers: usize) -> anyhow::Result<Host> {
        let mut host = Host::start(kind, &self.programs).await?;
        if kind.is_posthorn() {
            host.mailboxes = setup::mailboxes(&host, topics, readers).await?;
        }
        Ok(host)
    }
}

async fn bounded<T>(patience: Duration, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done,
        Err(_) => anyhow::bail!("not done after {} s", patience.as_secs()),
    }
}
