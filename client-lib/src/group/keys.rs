//! The keys of an epoch, from its exporter (RFC 9420 section 8.5).

use openmls::prelude::ExportSecretError;
use posthorn_proto::{KeyHash, PostKey, ReadKey, ReaderId, TurnKey};
use zeroize::Zeroizing;

use super::{GroupError, Place};
use crate::envelope::EnvelopeKey;

const POST_LABEL: &str = "posthorn post key";
const TURN_LABEL: &str = "posthorn turn key";
const ENVELOPE_LABEL: &str = "posthorn envelope key";
const CLAIM_LABEL: &str = "posthorn claim key";

/// What a member of an epoch can do with the conversation's mailbox. A commit is sealed and posted with the
/// keys of the epoch that it ends, and turns the lock to those of the one that it begins.
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
        place: &Place,
        export: impl Fn(&str, &[u8], usize) -> Result<Vec<u8>, ExportSecretError>,
    ) -> Result<Self, GroupError> {
        let context = place.exporter_context();
        let key = |label: &str| exported(&export, label, &context);
        Ok(Self {
            post: PostKey::from_bytes(key(POST_LABEL)?),
            turn: TurnKey::from_bytes(key(TURN_LABEL)?),
            envelope: EnvelopeKey::from_bytes(key(ENVELOPE_LABEL)?),
        })
    }

    /// The hashes of the post and turn keys, as the relay keeps them.
    pub fn lock(&self) -> [KeyHash; 2] {
        [self.post.hash(), self.turn.hash()]
    }
}

/// The one-time key by which a member claims its reader in a mailbox that a commit moved the conversation to:
/// whoever made the mailbox admitted everybody, and nobody needs to be told a key. Every member can work out
/// everybody's; who takes another's seat only griefs its own group, and the other asks for a way back.
pub(super) fn claim_key(
    place: &Place,
    reader: &ReaderId,
    export: impl Fn(&str, &[u8], usize) -> Result<Vec<u8>, ExportSecretError>,
) -> Result<ReadKey, GroupError> {
    let context = [&place.exporter_context()[..], &reader.0].concat();
    exported(&export, CLAIM_LABEL, &context).map(ReadKey::from_bytes)
}

fn exported(
    export: &impl Fn(&str, &[u8], usize) -> Result<Vec<u8>, ExportSecretError>,
    label: &str,
    context: &[u8],
) -> Result<[u8; 32], GroupError> {
    let secret = Zeroizing::new(export(label, context, 32).map_err(GroupError::library)?);
    secret.as_slice().try_into().map_err(GroupError::library)
}

#[cfg(test)]
mod tests {
    use posthorn_proto::{MailboxId, RelayIdentity};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::group::{Place, ReaderSecret};
    use crate::identity::{RelayAddress, RelayUrl};

    /// Rule 4: keys of one mailbox open no other, and no key is another.
    #[test]
    fn keys_are_of_one_mailbox_on_one_relay() {
        let export = |label: &str, context: &[u8], length: usize| {
            assert_eq!(length, 32);
            Ok(Sha256::new().chain_update(label).chain_update([0]).chain_update(context).finalize().to_vec())
        };
        let mut rng: rand_chacha::ChaCha20Rng = rand::SeedableRng::from_seed([1; 32]);
        let url = RelayUrl::parse("ws://127.0.0.1:4100").expect("a URL");
        let here = Place {
            number: 1,
            relay: RelayAddress { url, identity: RelayIdentity([5; 32]) },
            mailbox: MailboxId([6; 16]),
            reader_secret: ReaderSecret::generate(&mut rng),
        };
        let mut there = here.clone();
        there.mailbox = MailboxId([9; 16]);
        let mut elsewhere = here.clone();
        elsewhere.relay.identity.0 = [9; 32];
        let mut seen = std::collections::BTreeSet::new();
        for place in [here, there, elsewhere] {
            let keys = EpochKeys::derive(&place, export).expect("exports");
            seen.extend([*keys.post.expose(), *keys.turn.expose(), *keys.envelope.expose()]);
            for reader in [ReaderId([1; 16]), ReaderId([2; 16])] {
                seen.insert(*claim_key(&place, &reader, export).expect("exports").expose());
            }
        }
        assert_eq!(seen.len(), 15);
    }
}
