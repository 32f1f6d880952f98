//! Forgetting damage, because the operator says so: what is readable of damaged segments is carried forward,
//! they go, and what was lost with them counts as dealt with.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::CryptoRng;
use tokio::sync::oneshot;

use super::committer::Committer;
use super::journal::compact::CompactError;
use super::journal::{BeginError, Fatal};
use super::queue::{Ask, Asker, Request};
use super::upkeep::Owner;
use super::{EmbeddedConfig, EmbeddedStore, Site, StartError};
use crate::store::{Clock, StoreError, Unheard};

impl Committer {
    /// Gives up what is damaged. If there is no space for what has to be carried, what was done stays done.
    pub(super) fn forget_damage(&mut self) -> Result<Result<(), StoreError>, Fatal> {
        for segment in self.journal.damaged() {
            self.journal.stamp(self.shared.ledger.read().version());
            let mut owner = Owner::new(&self.journal, &self.shared, segment);
            let given_up = self.journal.give_up(segment, &mut owner);
            self.shared.publish(self.shared.ledger.read().version(), self.journal.position());
            match given_up {
                Ok(()) => {}
                Err(CompactError::Fatal(fatal)) => return Err(fatal),
                Err(error) => {
                    tracing::error!(%error, "a damaged segment is kept");
                    return Ok(Err(StoreError::Unavailable));
                }
            }
        }
        match self.journal.forget_lost() {
            Ok(()) => Ok(Ok(())),
            Err(BeginError::Later(error)) => {
                tracing::error!(%error, "lost segments are still missed");
                Ok(Err(StoreError::Unavailable))
            }
            Err(BeginError::Fatal(fatal)) => Err(fatal),
        }
    }
}

impl EmbeddedStore {
    /// Opens a store for an operator who wants to know all that is lost: whether or not any start has come
    /// across it. The relay must not be running. What a start does about damage is done.
    pub fn examine(
        config: &EmbeddedConfig,
        clock: Arc<dyn Clock>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, StartError> {
        // Without the index the whole journal is read, and whatever is damaged is found.
        let site = Site { index: None, ..Site::of(config, rng)? };
        Self::open_at(site, config, config.journal(), clock, Arc::new(Unheard), rng)
    }

    /// What is lost, in a line each, as in the file `damage`.
    pub fn damage(&self) -> BTreeSet<String> {
        self.shared.damage.lines()
    }

    /// For an operator who has read what is lost and wants to hear no more of it: carries forward what is
    /// readable of damaged segments, removes them, and counts what was lost as dealt with. Envelopes that are
    /// lost are still told to their readers. The store must not serve anybody yet, since nobody who reads is
    /// waited for. If this fails, it may be repeated.
    pub fn forget_damage(&self) -> Result<(), StartError> {
        // What only the index says would be served until the index is lost, with what was built on it.
        self.folder.as_ref().map_or(Ok(()), |folder| folder.remove_index())?;
        self.give_up().map_err(StartError::Forgetting)
    }

    fn give_up(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Stopped)?;
        let request = Request { ask: Ask::ForgetDamage, asker: Asker::Waits(reply), units: 0 };
        queue.try_send(request).map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(StoreError::Stopped))?;
        self.shared.damage.forget().map_err(|_| StoreError::Unavailable)
    }
}
