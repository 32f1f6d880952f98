//! The conversation's own row.

use posthorn_proto::{MailboxId, RelayIdentity};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use super::{Cause, ConversationId};
use crate::content::Receipt;
use crate::identity::{RelayAddress, RelayUrl};
use crate::store::{StoreError, Transaction, record};

const TABLE: &str = "conversation";

/// Where a conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationState {
    /// Its mailbox is not yet made.
    Creating,
    /// Open for reading and writing.
    Active,
    /// We said that we leave, and wait to see that said.
    Leaving,
    /// We left.
    Left,
    /// A commit removed us, or the relay says so.
    Removed,
    /// It cannot go on by itself.
    Stopped(Cause),
}

/// What the engine knows of a conversation beside MLS's state. Written by the sync engine only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conversation {
    /// Where it stands.
    pub state: ConversationState,
    /// Its name, "" if it has none; a copy of what the group context says.
    pub name: String,
    /// Its relay.
    pub relay_url: String,
    /// Its relay's key.
    pub relay_identity: RelayIdentity,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// The members' handles, own included; a copy of what MLS says, that outlives it.
    pub members: Vec<String>,
    /// MLS epoch, likewise.
    pub epoch: u64,
    /// What every other member has got and read at least.
    pub everyone: Receipt,
    /// The parcel of our commit that is on its way.
    pub commit_row: Option<i64>,
    /// The token that the mailbox's creation is paid with, while it is being created.
    pub token: Option<[u8; 32]>,
    /// The receipt that we sent last.
    pub receipt_sent: Receipt,
    /// Read up to this seq by our user.
    pub read: u64,
    /// Unix milliseconds at which a receipt of its own is due; 0 = none is.
    pub receipt_due: u64,
}

impl Conversation {
    /// A conversation at a place, about which nothing else is known yet.
    pub(crate) fn new(relay: &RelayAddress, mailbox: MailboxId, state: ConversationState) -> Self {
        Self {
            state,
            name: String::new(),
            relay_url: relay.url.as_str().to_owned(),
            relay_identity: relay.identity,
            mailbox,
            members: Vec::new(),
            epoch: 0,
            everyone: Receipt::default(),
            commit_row: None,
            token: None,
            receipt_sent: Receipt::default(),
            read: 0,
            receipt_due: 0,
        }
    }

    /// Whether it is over for us, so that nothing of it is kept but its history.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, ConversationState::Left | ConversationState::Removed)
    }

    /// Reads a row.
    pub(crate) fn load(tx: &Transaction<'_>, id: &ConversationId) -> Result<Option<Self>, StoreError> {
        let row: Option<Vec<u8>> = tx
            .sql()
            .prepare_cached("SELECT value FROM conversation WHERE id = ?1")?
            .query_row([&id.0[..]], |row| row.get(0))
            .optional()?;
        row.map(|row| record::open(tx, TABLE, &id.0, &row)).transpose()
    }

    /// Reads every row, in order of id.
    pub(crate) fn all(tx: &Transaction<'_>) -> Result<Vec<(ConversationId, Self)>, StoreError> {
        let mut statement = tx.sql().prepare_cached("SELECT id, value FROM conversation ORDER BY id")?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.map(|row| {
            let (id, value) = row?;
            let id = ConversationId::try_from(&id[..]).map_err(|_| StoreError::Damaged(TABLE))?;
            Ok((id, record::open(tx, TABLE, &id.0, &value)?))
        })
        .collect()
    }

    /// Writes the row.
    pub(crate) fn save(&self, tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
        let value = record::seal(tx, TABLE, &id.0, self);
        tx.sql()
            .prepare_cached(
                "INSERT INTO conversation (id, value) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET value = excluded.value",
            )?
            .execute((&id.0[..], value))?;
        Ok(())
    }

    /// Deletes the row; what else there is of the conversation is the caller's to delete.
    pub(crate) fn delete(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
        tx.sql().prepare_cached("DELETE FROM conversation WHERE id = ?1")?.execute([&id.0[..]])?;
        Ok(())
    }

    /// Where its mailbox is.
    pub(crate) fn relay(&self) -> Result<RelayAddress, StoreError> {
        let url = RelayUrl::parse(&self.relay_url).map_err(|_| StoreError::Damaged(TABLE))?;
        Ok(RelayAddress { url, identity: self.relay_identity })
    }
}
