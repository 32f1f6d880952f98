//! Intents: changes of a conversation that somebody wants, kept until a commit has made them true. A lost
//! race discards the commit, never the intent (C3); but each is about something, and ends with it.

use posthorn_proto::{DeviceId, RelayIdentity};
use serde::{Deserialize, Serialize};

use super::ConversationId;
use crate::identity::{IdentityKey, PersonId, RelayUrl};
use crate::store::table::Queue;
use crate::store::{StoreError, Transaction};

const TABLE: Queue<ConversationId, Intent> = Queue::new("intent");

/// A change that is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Intent {
    /// These people shall be members.
    Add(Vec<Candidate>),
    /// This leaf shall be no member; when it is given to another, the wish is over.
    Remove {
        /// Which.
        leaf: u32,
        /// The key by which its device signs: leaves are given to others.
        signature_key: [u8; 32],
        /// Whose.
        person: PersonId,
        /// Unix milliseconds before which somebody else may do it.
        not_before: u64,
    },
    /// Our own leaf shall be fresh.
    Update {
        /// Unix milliseconds; jittered (rule 23).
        not_before: u64,
    },
    /// A device that could not open its Welcome shall get another.
    Readmit {
        /// Which.
        device: DeviceId,
        /// Whose.
        person: PersonId,
        /// Its fresh key package.
        key_package: Vec<u8>,
    },
    /// The conversation shall go on in a fresh mailbox of this relay.
    Move {
        /// Its URL.
        relay_url: String,
        /// Its key.
        relay_identity: RelayIdentity,
    },
}

/// Somebody to be added, and what was found out about them so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// The account.
    pub(crate) handle: String,
    /// The URL of its relay, if that is not our own.
    pub(crate) relay: Option<String>,
    /// Who a contact link, or the directory earlier, said that is.
    pub(crate) person: Option<PersonId>,
    /// The verified card, encoded; `None` until looked up.
    pub(crate) card: Option<Vec<u8>>,
    /// Verified key packages, one per device; empty until taken.
    pub(crate) packages: Vec<Package>,
}

/// A key package that was taken from the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Package {
    /// Whose.
    pub(crate) device: DeviceId,
    /// Encoded.
    pub(crate) bytes: Vec<u8>,
}

impl Candidate {
    /// Somebody of whom nothing more was found out yet.
    pub(crate) fn new(handle: String, relay: Option<&RelayUrl>, person: Option<PersonId>) -> Self {
        let relay = relay.map(|relay| relay.as_str().to_owned());
        Self { handle, relay, person, card: None, packages: Vec::new() }
    }

    /// Whether this is the account of this name there.
    pub(crate) fn is(&self, handle: &str, relay: Option<&str>) -> bool {
        self.handle == handle && self.relay.as_deref() == relay
    }

    /// The relay to ask about them, if it is not our own.
    pub(crate) fn elsewhere(&self) -> Option<RelayUrl> {
        self.relay.as_ref().and_then(|relay| RelayUrl::parse(relay).ok())
    }

    /// What they are called before it is known who they are.
    pub(crate) fn name(&self) -> String {
        match self.elsewhere() {
            Some(relay) => format!("{}@{}", self.handle, relay.host()),
            None => self.handle.clone(),
        }
    }

    /// The identity, once it is known.
    pub(crate) fn identity_key(&self) -> Option<IdentityKey> {
        self.person.and_then(|person| IdentityKey::try_from(&person.0[..]).ok())
    }
}

impl Intent {
    pub(crate) fn remove(leaf: u32, signature_key: [u8; 32], person: PersonId, not_before: u64) -> Self {
        Self::Remove { leaf, signature_key, person, not_before }
    }

    /// Unix milliseconds before which it waits.
    pub(crate) fn not_before(&self) -> u64 {
        match self {
            Self::Remove { not_before, .. } | Self::Update { not_before } => *not_before,
            Self::Add(_) | Self::Readmit { .. } | Self::Move { .. } => 0,
        }
    }

    /// Whether everything that a commit needs is known.
    pub(crate) fn resolved(&self) -> bool {
        match self {
            Self::Add(candidates) => candidates.iter().all(|candidate| !candidate.packages.is_empty()),
            _ => true,
        }
    }

    pub(crate) fn adds(&self) -> bool {
        matches!(self, Self::Add(_))
    }

    /// What it is about: there is one at most of each kind and subject. Whom to add is asked for each time.
    fn subject(&self) -> Option<Vec<u8>> {
        match self {
            Self::Add(_) => None,
            Self::Remove { leaf, signature_key, .. } => {
                Some([&[2][..], &leaf.to_be_bytes(), signature_key].concat())
            }
            Self::Update { .. } => Some(vec![3]),
            Self::Readmit { device, person, .. } => Some([&[4][..], &device.0, &person.0].concat()),
            Self::Move { .. } => Some(vec![5]),
        }
    }

    /// This wish, where `earlier` was about the same: whichever comes due first.
    fn after(&self, earlier: &Self) -> Self {
        let soonest = self.not_before().min(earlier.not_before());
        match self.clone() {
            Self::Remove { leaf, signature_key, person, .. } => {
                Self::Remove { leaf, signature_key, person, not_before: soonest }
            }
            Self::Update { .. } => Self::Update { not_before: soonest },
            other => other,
        }
    }
}

/// Keeps an intent, in place of one that is about the same; its row.
pub(crate) fn put_intent(
    tx: &Transaction<'_>,
    id: &ConversationId,
    intent: &Intent,
) -> Result<i64, StoreError> {
    let label = intent.subject().map(|subject| TABLE.hidden(tx, &subject));
    let label = label.as_ref().map(|label| &label[..]);
    let known = label.map(|label| TABLE.find(tx, id, label)).transpose()?.flatten();
    match known {
        Some((row, earlier)) => TABLE.update(tx, row, label, &intent.after(&earlier)).map(|()| row),
        None => TABLE.put(tx, id, label, intent),
    }
}

/// Replaces an intent to add.
pub(crate) fn update_intent(tx: &Transaction<'_>, row: i64, intent: &Intent) -> Result<(), StoreError> {
    let label = intent.subject().map(|subject| TABLE.hidden(tx, &subject));
    TABLE.update(tx, row, label.as_ref().map(|label| &label[..]), intent)
}

/// The intents of a conversation, oldest first.
pub(crate) fn intents(tx: &Transaction<'_>, id: &ConversationId) -> Result<Vec<(i64, Intent)>, StoreError> {
    TABLE.oldest(tx, id, usize::MAX)
}

/// One intent.
pub(crate) fn get_intent(tx: &Transaction<'_>, row: i64) -> Result<Option<Intent>, StoreError> {
    TABLE.get(tx, row)
}

/// Forgets an intent.
pub(crate) fn remove_intent(tx: &Transaction<'_>, row: i64) -> Result<(), StoreError> {
    TABLE.remove(tx, row)
}

/// Forgets all intents of a conversation.
pub(crate) fn remove_intents(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
    TABLE.remove_all(tx, id)
}
