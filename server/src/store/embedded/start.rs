//! Starting: the index if it is of use, then the journal's tail, or the whole journal; then the threads.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::checkpoint::{Checkpoint, Unusable};
use super::folder::FolderError;
use super::journal::disk::Disk;
use super::journal::{Damage, Journal, JournalConfig, Location, OpenError, Replayed, Resume};
use super::{KIND_MARK, StartError};
use crate::store::StorePolicy;
use crate::store::ledger::{Ledger, Missing, Rebuild, Record};

/// What a start found.
pub(super) struct Started {
    pub(super) ledger: Ledger<Location>,
    pub(super) journal: Journal,
    /// `None`: there is no usable index.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Records replayed, and their bytes.
    pub(super) replayed: u64,
    pub(super) replayed_bytes: u64,
    pub(super) damage: Vec<Damage>,
    pub(super) missing: Vec<Missing>,
}

/// Everything a start needs.
pub(super) struct Ground<'a> {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) index: Option<&'a Path>,
    pub(super) journal: JournalConfig,
    pub(super) policy: StorePolicy,
    pub(super) incarnation: [u8; 16],
}

impl From<FolderError> for StartError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::InUse(path) => Self::InUse(path),
            FolderError::Io(path, error) => Self::Folder(path, error),
        }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Full => Self::Full,
            other => Self::Journal(other.to_string()),
        }
    }
}

impl Ground<'_> {
    /// Makes the ledger again.
    pub(super) fn start(&self, rng: &mut dyn RngCore) -> Result<Started, StartError> {
        if let Some(index) = self.index {
            match self.load(index, rng) {
                Ok(Some((rebuild, checkpoint, resume))) => match self.replay(rebuild, Some(resume), rng) {
                    Ok(started) => return Ok(Started { checkpoint: Some(checkpoint), ..started }),
                    Err(OpenError::Elsewhere(_)) => {
                        tracing::info!("the index is not of this journal's time and is begun anew")
                    }
                    Err(error) => return Err(error.into()),
                },
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the index is of no use and is thrown away"),
            }
        }
        Ok(self.replay(self.rebuild(rng), None, rng)?)
    }

    fn rebuild(&self, rng: &mut dyn RngCore) -> Rebuild<Location> {
        Rebuild::new(self.policy, [rng.next_u64(), rng.next_u64()])
    }

    fn load(
        &self,
        index: &Path,
        rng: &mut dyn RngCore,
    ) -> Result<Option<(Rebuild<Location>, Checkpoint, Resume)>, Unusable> {
        let mut rebuild = self.rebuild(rng);
        let mut import =
            |key: &[u8], value: &[u8]| rebuild.import(key, value).map_err(|_| Unusable::Contradicts("a row is odd"));
        let found = Checkpoint::load(index, &mut import)?;
        Ok(found.map(|(checkpoint, resume)| (rebuild, checkpoint, resume)))
    }

    fn replay(
        &self,
        mut rebuild: Rebuild<Location>,
        from: Option<Resume>,
        rng: &mut dyn RngCore,
    ) -> Result<Started, OpenError> {
        // What the tail changes must be in the next checkpoint.
        rebuild.track();
        let (mut replayed, mut replayed_bytes, mut damage) = (0, 0, Vec::new());
        let mut visit = |item: Replayed<'_>| match item {
            Replayed::Damage(bad) => damage.push(bad),
            Replayed::Record { kind: KIND_MARK, .. } => {}
            Replayed::Record { at, payload, .. } => {
                (replayed, replayed_bytes) = (replayed + 1, replayed_bytes + at.footprint());
                match Record::decode(Bytes::copy_from_slice(payload)) {
                    Ok(record) => rebuild.apply(&record, at),
                    Err(_) => {
                        let Location { segment, offset, len } = at;
                        damage.push(Damage { segment, offset, len, what: "record of an unknown form" });
                    }
                }
            }
        };
        let own = Box::new(StdRng::seed_from_u64(rng.next_u64()));
        let journal = Journal::open(Arc::clone(&self.disk), self.journal, self.incarnation, own, from, &mut visit)?;
        let (ledger, missing) = rebuild.finish();
        Ok(Started { ledger, journal, checkpoint: None, replayed, replayed_bytes, damage, missing })
    }
}

impl Started {
    /// Tells the operator.
    pub(super) fn report(&self) {
        for damage in &self.damage {
            tracing::error!(%damage, "the journal is damaged; the rest is served");
        }
        if !self.missing.is_empty() {
            tracing::error!(envelopes = self.missing.len(), "stored envelopes are lost; they are told as damaged");
        }
        tracing::info!(
            records = self.replayed,
            bytes = self.replayed_bytes,
            from_index = self.checkpoint.is_some(),
            "the journal was replayed"
        );
    }
}

/// A thread could not be started.
pub(super) fn no_thread(error: io::Error) -> StartError {
    StartError::Journal(format!("a thread could not be started: {error}"))
}
