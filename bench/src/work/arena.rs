//! Servers that take turns under the same load.
//!
//! Owns the order: all are started first, and then each has its turn in every round, so that whatever else
//! the machine does affects all of them. A peer that fails or takes too long is taken out; if a limit or
//! Posthorn fails, the workload ends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Bench, bounded};
use crate::host::{Host, Kind};

/// How long a server may take to get ready, or for a round, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(40);

/// A server with its load.
pub(super) struct Contestant<L> {
    pub(super) host: Host,
    pub(super) load: L,
}

/// A figure of each server in each round.
pub(super) type Rounds = BTreeMap<Kind, Vec<f64>>;

impl Bench {
    /// Gets all servers of a workload ready.
    pub(super) async fn enter<L>(
        &mut self,
        workload: &'static str,
        limits: &[Kind],
        enter: impl AsyncFn(&Bench, Kind) -> anyhow::Result<Contestant<L>>,
    ) -> anyhow::Result<Vec<Contestant<L>>> {
        let mut contestants = Vec::new();
        for kind in self.kinds(workload, limits) {
            match bounded(PATIENCE, enter(self, kind)).await {
                Ok(contestant) => contestants.push(contestant),
                Err(error) => self.peer_failed(workload, kind, error)?,
            }
        }
        Ok(contestants)
    }

    /// Gives each a turn in every round, and takes out those that fail.
    pub(super) async fn take_turns<L>(
        &mut self,
        workload: &'static str,
        rounds: usize,
        contestants: &mut Vec<Contestant<L>>,
        mut turn: impl AsyncFnMut(usize, &mut Contestant<L>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for round in 0..rounds {
            let mut at = 0;
            while at < contestants.len() {
                match bounded(PATIENCE, turn(round, &mut contestants[at])).await {
                    Ok(()) => at += 1,
                    Err(error) => {
                        let kind = contestants.remove(at).host.kind;
                        self.peer_failed(workload, kind, error)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reports a peer that fails as not run; if a limit or Posthorn fails, that is the workload's failure.
    pub(super) fn peer_failed(
        &mut self,
        workload: &'static str,
        kind: Kind,
        error: anyhow::Error,
    ) -> anyhow::Result<()> {
        if !matches!(kind, Kind::Mosquitto | Kind::Nats | Kind::NatsAlways) {
            return Err(error.context(kind.name()));
        }
        self.table.not_run(workload, kind, format!("{error:#}"));
        Ok(())
    }
}

/// Adds a figure of one round.
pub(super) fn note(rounds: &mut Rounds, kind: Kind, value: f64) {
    rounds.entry(kind).or_default().push(value);
}
