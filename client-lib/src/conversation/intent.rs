//! Intents: changes of a conversation that somebody wants, kept until a commit has made them true. A lost
//! race discards the commit, never the intent (C3).

use posthorn_proto::DeviceId;
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use super::ConversationId;
use crate::identity::IdentityKey;
use crate::store::{StoreError, Transaction, record};

const TABLE: &str = "intent";

/// A change that is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Intent {
    /// These people shall be members.
    Add(Vec<Candidate>),
    /// This identity shall not be a member.
    Remove {
        /// Whose leaves.
        identity: [u8; 32],
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
        identity: [u8; 32],
        /// Its fresh key package.
        key_package: Vec<u8>,
    },
}

/// Somebody to be added, and what was found out about them so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The account.
    pub handle: String,
    /// The identity that a contact link or an earlier meeting names.
    pub identity: Option<[u8; 32]>,
    /// The verified card, encoded; `None` until looked up.
    pub card: Option<Vec<u8>>,
    /// Verified key packages, one per device; empty until taken.
    pub packages: Vec<Package>,
}

/// A key package that was taken from the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Whose.
    pub device: DeviceId,
    /// Encoded.
    pub bytes: Vec<u8>,
}

impl Candidate {
    /// The identity, once it is known.
    pub(crate) fn identity_key(&self) -> Option<IdentityKey> {
        self.identity.as_ref().and_then(|key| IdentityKey::try_from(&key[..]).ok())
    }
}

impl Intent {
    /// Unix milliseconds before which it waits.
    pub(crate) fn not_before(&self) -> u64 {
        match self {
            Self::Remove { not_before, .. } | Self::Update { not_before } => *not_before,
            Self::Add(_) | Self::Readmit { .. } => 0,
        }
    }

    /// Whether everything that a commit needs is known.
    pub(crate) fn resolved(&self) -> bool {
        match self {
            Self::Add(candidates) => candidates.iter().all(|candidate| !candidate.packages.is_empty()),
            _ => true,
        }
    }
}

/// Keeps an intent; returns its row.
pub(crate) fn put_intent(
    tx: &Transaction<'_>,
    id: &ConversationId,
    intent: &Intent,
) -> Result<i64, StoreError> {
    tx.sql()
        .prepare_cached("INSERT INTO intent (conversation, value) VALUES (?1, x'')")?
        .execute([&id.0[..]])?;
    let row = tx.sql().last_insert_rowid();
    update_intent(tx, row, intent)?;
    Ok(row)
}

/// Replaces an intent.
pub(crate) fn update_intent(tx: &Transaction<'_>, row: i64, intent: &Intent) -> Result<(), StoreError> {
    let value = record::seal(tx, TABLE, &row.to_be_bytes(), intent);
    tx.sql().prepare_cached("UPDATE intent SET value = ?2 WHERE row = ?1")?.execute((row, value))?;
    Ok(())
}

/// The intents of a conversation, oldest first.
pub(crate) fn intents(tx: &Transaction<'_>, id: &ConversationId) -> Result<Vec<(i64, Intent)>, StoreError> {
    let mut statement =
        tx.sql().prepare_cached("SELECT row, value FROM intent WHERE conversation = ?1 ORDER BY row")?;
    let rows =
        statement.query_map([&id.0[..]], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
    rows.map(|row| {
        let (row, value) = row?;
        Ok((row, record::open(tx, TABLE, &row.to_be_bytes(), &value)?))
    })
    .collect()
}

/// One intent.
pub(crate) fn get_intent(tx: &Transaction<'_>, row: i64) -> Result<Option<Intent>, StoreError> {
    let value: Option<Vec<u8>> = tx
        .sql()
        .prepare_cached("SELECT value FROM intent WHERE row = ?1")?
        .query_row([row], |row| row.get(0))
        .optional()?;
    value.map(|value| record::open(tx, TABLE, &row.to_be_bytes(), &value)).transpose()
}

/// Forgets an intent.
pub(crate) fn remove_intent(tx: &Transaction<'_>, row: i64) -> Result<(), StoreError> {
    tx.sql().prepare_cached("DELETE FROM intent WHERE row = ?1")?.execute([row])?;
    Ok(())
}

/// Forgets all intents of a conversation.
pub(crate) fn remove_intents(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
    tx.sql().prepare_cached("DELETE FROM intent WHERE conversation = ?1")?.execute([&id.0[..]])?;
    Ok(())
}
