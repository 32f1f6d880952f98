//! The keys of an epoch, from its exporter (RFC 9420 section 8.5).

use openmls::prelude::ExportSecretError;
use posthorn_proto::{PostKey, TurnKey};
use zeroize::Zeroizing;

use super::{GroupInfo, SessionError};
use crate::envelope::EnvelopeKey;

const POST_LABEL: &str = "posthorn post key";
const TURN_LABEL: &str = "posthorn turn key";
const ENVELOPE_LABEL: &str = "posthorn envelope key";

/// What a member of an epoch can do with the conversation's mailbox. A commit is sealed and posted with the keys of the
/// epoch that it ends, and turns the lock to those of the one that it begins.
#[derive(Debug, Clone)]
pub struct EpochKeys {
    /// Opens the mailbox for posts.
    pub post: PostKey,
    /// Turns its lock.
    pub turn: TurnKey,
    /// Seals its envelopes.
    pub envelope: EnvelopeKey,
}

impl EpochKeys {
    /// `export` is the epoch's exporter: (label, context, length).
    pub(super) fn derive(
        info: &GroupInfo,
        export: impl Fn(&str, &[u8], usize) -> Result<Vec<u8>, ExportSecretError>,
    ) -> Result<Self, SessionError> {
        let context = info.exporter_context();
        let key = |label: &str| -> Result<[u8; 32], SessionError> {
            let secret = Zeroizing::new(export(label, &context, 32).map_err(SessionError::library)?);
            secret.as_slice().try_into().map_err(SessionError::library)
        };
        Ok(Self {
            post: PostKey::from_bytes(key(POST_LABEL)?),
            turn: TurnKey::from_bytes(key(TURN_LABEL)?),
            envelope: EnvelopeKey::from_bytes(key(ENVELOPE_LABEL)?),
        })
    }
}
