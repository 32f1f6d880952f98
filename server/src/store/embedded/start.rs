//! Starting: first the index, if it is of use, and the journal's tail, or else the whole journal; then the
//! threads.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::checkpoint::Unusable;
use super::damage::{Known, envelope, stretch};
use super::folder::FolderError;
use super::index::Index;
use super::journal::disk::{Disk, is_full};
use super::journal::{Damage, Journal, JournalConfig, Location, OpenError, Position, Replayed, Resume, Time};
use super::{KIND_MARK, MAY_BE_IGNORED, StartError, read_record};
use crate::store::StorePolicy;
use crate::store::ledger::{Ledger, Missing, Rebuild};

/// The only kind of damage that is certain to cost no record.
const HEADER: &str = "segment header";

/// What a start found.
pub(super) struct Started {
    pub(super) ledger: Ledger<Location>,
    pub(super) journal: Journal,
    /// `None` where there is no place for one.
    pub(super) index: Option<Index>,
    /// The torn end of the journal, if one was cut.
    pub(super) torn: Option<Damage>,
    /// How many records were replayed, and below how many bytes they have.
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
    pub(super) time: Time,
}

impl From<FolderError> for StartError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::InUse(path) => Self::InUse(path),
            FolderError::Io(_, error) if is_full(&error) => Self::Full,
            FolderError::Io(path, error) => Self::Folder(path, error),
            other @ (FolderError::Foreign(_) | FolderError::Unreadable(..)) => {
                Self::Journal(other.to_string())
            }
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
    /// Rebuilds the ledger.
    pub(super) fn start(&self, rng: &mut dyn RngCore) -> Result<Started, StartError> {
        let mut index = self.index.map(Index::at);
        let loaded = index.as_mut().and_then(|index| self.load(index, rng));
        let mut short = None;
        if let Some((rebuild, resume)) = loaded {
            match self.replay(rebuild, Some(resume), rng) {
                Ok(started) => return Ok(Started { index, ..started }),
                Err(OpenError::Elsewhere(_)) => {
                    tracing::info!("the index is not of this journal's time and is begun anew");
                }
                Err(OpenError::Short(Resume { position, .. })) => short = Some(position),
                Err(error) => return Err(error.into()),
            }
            index.as_mut().into_iter().for_each(Index::clear);
        }
        let mut started = self.replay(self.rebuild(rng), None, rng)?;
        if let Some(Position { segment, offset }) = short {
            // The index was written only once the journal had reached that place, durably.
            started.damage.push(Damage { segment, offset, len: 0, what: "end of the journal" });
        }
        Ok(Started { index, ..started })
    }

    fn rebuild(&self, rng: &mut dyn RngCore) -> Rebuild<Location> {
        Rebuild::new(self.policy, [rng.next_u64(), rng.next_u64()])
    }

    /// What the newest checkpoint that is of use says, if there is one.
    fn load(&self, index: &mut Index, rng: &mut dyn RngCore) -> Option<(Rebuild<Location>, Resume)> {
        index.candidates().into_iter().find_map(|turn| {
            let mut rebuild = self.rebuild(rng);
            let mut import = |key: &[u8], value: &[u8]| {
                rebuild.import(key, value).map_err(|_| Unusable::Contradicts("a row is odd"))
            };
            match index.load(turn, &mut import) {
                Ok(resume) => Some((rebuild, resume)),
                Err(error) => {
                    tracing::warn!(%error, "a part of the index is of no use");
                    None
                }
            }
        })
    }

    fn replay(
        &self,
        mut rebuild: Rebuild<Location>,
        from: Option<Resume>,
        rng: &mut dyn RngCore,
    ) -> Result<Started, OpenError> {
        // What the tail changes must be in the next checkpoint.
        rebuild.track();
        let (mut replayed, mut replayed_bytes, mut damage, mut torn) = (0, 0, Vec::new(), None);
        let mut newer = None;
        let mut visit = |item: Replayed<'_>| match item {
            Replayed::Damage(bad) => damage.push(bad),
            Replayed::Torn(end) => torn = Some(end),
            Replayed::Record { kind: KIND_MARK | MAY_BE_IGNORED.., .. } => {}
            Replayed::Record { at, kind, payload } => {
                (replayed, replayed_bytes) = (replayed + 1, replayed_bytes + at.footprint());
                match read_record(kind, Bytes::copy_from_slice(payload)) {
                    Some(record) => rebuild.apply(&record, at),
                    None => newer = newer.or(Some(at)),
                }
            }
        };
        let own = Box::new(StdRng::seed_from_u64(rng.next_u64()));
        let journal = Journal::open(Arc::clone(&self.disk), self.journal, self.time, own, from, &mut visit)?;
        if let Some(at) = newer {
            return Err(OpenError::Newer(at));
        }
        let (ledger, missing) =
            rebuild.finish_where(&|place| journal.segments().contains_key(&place.segment));
        Ok(Started { ledger, journal, index: None, torn, replayed, replayed_bytes, damage, missing })
    }
}

impl Started {
    /// The lines for stretches in which any record may have stood: a turn, or that a package was given out.
    pub(super) fn unknown_losses(&self) -> Vec<String> {
        self.damage.iter().filter(|damage| damage.what != HEADER).map(stretch).collect()
    }

    /// The lines for everything that is lost.
    pub(super) fn losses(&self) -> Vec<String> {
        self.damage.iter().map(stretch).chain(self.missing.iter().map(envelope)).collect()
    }

    /// Tells the operator, in the log. Of what was forgotten nobody has to hear at every start.
    pub(super) fn report(&self, known: &Known) {
        let damage = known.not_forgotten(&self.damage, stretch);
        let missing = known.not_forgotten(&self.missing, envelope);
        for damage in &damage {
            tracing::error!(%damage, "the journal is damaged; the rest is served");
        }
        if !missing.is_empty() {
            let envelopes = missing.len();
            tracing::error!(envelopes, "stored envelopes are lost; their readers see a gap");
        }
        if !damage.is_empty() || !missing.is_empty() {
            known.point_there();
        }
        let forgotten = self.damage.len() + self.missing.len() - damage.len() - missing.len();
        if forgotten > 0 {
            tracing::info!(forgotten, "damage that was forgotten is as it was; nothing has to be done");
        }
        if let Some(torn) = &self.torn {
            tracing::info!(%torn, "the relay was stopped while it wrote; what nobody was answered for was cut off");
        }
        // A new store, or one that was closed well, has nothing to tell.
        if self.replayed > 0 {
            tracing::info!(
                records = self.replayed,
                bytes = self.replayed_bytes,
                from_index = self.index.as_ref().is_some_and(Index::is_whole),
                "the journal was replayed"
            );
        }
    }
}

/// A thread could not be started.
pub(super) fn no_thread(error: io::Error) -> StartError {
    StartError::Journal(format!("a thread could not be started: {error}"))
}
