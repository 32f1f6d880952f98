//! Messages as a person sees them, and the receipts from which their marks are computed.

use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use super::{Cause, ConversationId, MessageId};
use crate::content::Receipt;
use crate::store::{StoreError, Transaction, record};

const TABLE: &str = "message";
const RECEIPT_TABLE: &str = "receipt";

/// One entry of a conversation's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its place in the local history: grows, never reused.
    pub row: u64,
    /// Its name.
    pub id: MessageId,
    /// Where.
    pub conversation: ConversationId,
    /// The sender's handle; "" for what nobody said.
    pub sender: String,
    /// Whether this account sent it.
    pub mine: bool,
    /// What.
    pub body: Body,
    /// Unix milliseconds by the sender's clock.
    pub sent_at: u64,
    /// How far it got.
    pub state: MessageState,
    /// Its place in the mailbox; `None` while it is queued.
    pub seq: Option<u64>,
}

/// What an entry shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Words.
    Text(String),
    /// Something happened to the conversation.
    Notice(Notice),
    /// Something came that cannot be shown.
    Unreadable(Cause),
}

/// What can happen to a conversation. Names are handles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Somebody added somebody.
    Added {
        /// Who.
        by: String,
        /// Whom.
        who: Vec<String>,
    },
    /// Somebody removed somebody.
    Removed {
        /// Who.
        by: String,
        /// Whom.
        who: Vec<String>,
    },
    /// We were invited.
    Joined {
        /// By whom.
        by: String,
    },
    /// Somebody said that they leave.
    Left {
        /// Who.
        who: String,
    },
}

/// How far a message got (C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// In our outbox.
    Queued,
    /// On the relay's stable storage.
    Sent,
    /// Every other member's device has it.
    Delivered,
    /// Every other member has seen it.
    Read,
    /// It came from somebody else.
    Received,
    /// It will not be sent.
    Failed(Cause),
}

/// What the row's sealed value holds; the rest stands in columns or is computed.
#[derive(Serialize, Deserialize)]
struct Record {
    id: MessageId,
    sender: String,
    mine: bool,
    body: Body,
    sent_at: u64,
    failed: Option<Cause>,
}

/// An entry to be inserted.
pub(crate) struct NewMessage<'a> {
    pub(crate) id: MessageId,
    /// The sender's identity key, by which repeats are recognised; any bytes for notices.
    pub(crate) sender_key: &'a [u8],
    pub(crate) sender: String,
    pub(crate) mine: bool,
    pub(crate) body: Body,
    pub(crate) sent_at: u64,
    pub(crate) seq: Option<u64>,
    pub(crate) unread: bool,
}

/// Inserts an entry; `None` if it is a repeat of one that is there.
pub(crate) fn insert_message(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    new: NewMessage<'_>,
) -> Result<Option<Message>, StoreError> {
    let name = tx.hidden_name(TABLE, &[new.sender_key, &new.id.0].concat());
    let inserted = tx
        .sql()
        .prepare_cached(
            "INSERT INTO message (conversation, name, seq, unread, value) VALUES (?1, ?2, ?3, ?4, x'') ON CONFLICT DO NOTHING",
        )?
        .execute((&conversation.0[..], &name[..], new.seq, new.unread))?;
    if inserted == 0 {
        return Ok(None);
    }
    let row = tx.sql().last_insert_rowid();
    let record = Record {
        id: new.id,
        sender: new.sender,
        mine: new.mine,
        body: new.body,
        sent_at: new.sent_at,
        failed: None,
    };
    let value = record::seal(tx, TABLE, &row.to_be_bytes(), &record);
    tx.sql().prepare_cached("UPDATE message SET value = ?2 WHERE row = ?1")?.execute((row, value))?;
    Ok(Some(record.into_message(row, *conversation, new.seq, &Receipt::default())))
}

/// Notes where our own message was stored. Returns it if that is news.
pub(crate) fn set_message_seq(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    sender_key: &[u8],
    id: &MessageId,
    seq: u64,
) -> Result<bool, StoreError> {
    let name = tx.hidden_name(TABLE, &[sender_key, &id.0].concat());
    let changed = tx
        .sql()
        .prepare_cached(
            "UPDATE message SET seq = ?3 WHERE conversation = ?1 AND name = ?2 AND seq IS NOT ?3",
        )?
        .execute((&conversation.0[..], &name[..], seq))?;
    Ok(changed > 0)
}

/// Notes that a queued message of ours will not be sent. Returns whether it was there.
pub(crate) fn fail_message(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    sender_key: &[u8],
    id: &MessageId,
    cause: Cause,
) -> Result<bool, StoreError> {
    let name = tx.hidden_name(TABLE, &[sender_key, &id.0].concat());
    let found: Option<(i64, Vec<u8>)> = tx
        .sql()
        .prepare_cached(
            "SELECT row, value FROM message WHERE conversation = ?1 AND name = ?2 AND seq IS NULL",
        )?
        .query_row((&conversation.0[..], &name[..]), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((row, value)) = found else { return Ok(false) };
    let mut record: Record = record::open(tx, TABLE, &row.to_be_bytes(), &value)?;
    record.failed = Some(cause);
    let value = record::seal(tx, TABLE, &row.to_be_bytes(), &record);
    tx.sql().prepare_cached("UPDATE message SET value = ?2 WHERE row = ?1")?.execute((row, value))?;
    Ok(true)
}

/// Entries before a row (or the newest), oldest first. `everyone` is what all other members got and read at
/// least.
pub(crate) fn history(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    before: Option<u64>,
    limit: usize,
    everyone: &Receipt,
) -> Result<Vec<Message>, StoreError> {
    let mut messages = select(
        tx,
        conversation,
        "SELECT row, seq, value FROM message WHERE conversation = ?1 AND row < ?2 ORDER BY row DESC LIMIT ?3",
        (&conversation.0[..], before.map_or(i64::MAX, |row| row as i64), limit as i64),
        everyone,
    )?;
    messages.reverse();
    Ok(messages)
}

/// The newest entry.
pub(crate) fn last_message(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    everyone: &Receipt,
) -> Result<Option<Message>, StoreError> {
    Ok(history(tx, conversation, None, 1, everyone)?.pop())
}

/// Our own entries whose seq is in `(after, up_to]`: those whose mark a receipt changes.
pub(crate) fn message_rows_between(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    after: u64,
    up_to: u64,
    everyone: &Receipt,
) -> Result<Vec<Message>, StoreError> {
    let mut messages = select(
        tx,
        conversation,
        "SELECT row, seq, value FROM message WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
        (&conversation.0[..], after as i64, up_to as i64),
        everyone,
    )?;
    messages.retain(|message| message.mine && matches!(message.body, Body::Text(_)));
    Ok(messages)
}

/// How many entries were not seen yet.
pub(crate) fn unread_count(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<u64, StoreError> {
    let count: i64 = tx
        .sql()
        .prepare_cached("SELECT COUNT(*) FROM message WHERE conversation = ?1 AND unread = 1")?
        .query_row([&conversation.0[..]], |row| row.get(0))?;
    Ok(count as u64)
}

/// Everything was seen.
pub(crate) fn mark_read(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<bool, StoreError> {
    let changed = tx
        .sql()
        .prepare_cached("UPDATE message SET unread = 0 WHERE conversation = ?1 AND unread = 1")?
        .execute([&conversation.0[..]])?;
    Ok(changed > 0)
}

/// The newest seq of an entry; what "read" means when everything was seen.
pub(crate) fn newest_seq(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<u64, StoreError> {
    let seq: Option<i64> = tx
        .sql()
        .prepare_cached("SELECT MAX(seq) FROM message WHERE conversation = ?1")?
        .query_row([&conversation.0[..]], |row| row.get(0))?;
    Ok(seq.unwrap_or(0) as u64)
}

/// Notes a member device's receipt; cumulative, so it only grows.
pub(crate) fn set_receipt(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    device: &[u8],
    receipt: Receipt,
) -> Result<(), StoreError> {
    let name = tx.hidden_name(RECEIPT_TABLE, device);
    let old = load_receipt(tx, conversation, &name)?;
    let new = Receipt { delivered: receipt.delivered.max(old.delivered), read: receipt.read.max(old.read) };
    if new == old {
        return Ok(());
    }
    let value = record::seal(tx, RECEIPT_TABLE, &receipt_key(conversation, &name), &new);
    tx.sql()
        .prepare_cached(
            "INSERT INTO receipt (conversation, name, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (conversation, name) DO UPDATE SET value = excluded.value",
        )?
        .execute((&conversation.0[..], &name[..], value))?;
    Ok(())
}

/// A member device's receipt; the default if it sent none.
pub(crate) fn receipt_of(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    device: &[u8],
) -> Result<Receipt, StoreError> {
    load_receipt(tx, conversation, &tx.hidden_name(RECEIPT_TABLE, device))
}

fn load_receipt(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    name: &[u8; 32],
) -> Result<Receipt, StoreError> {
    let value: Option<Vec<u8>> = tx
        .sql()
        .prepare_cached("SELECT value FROM receipt WHERE conversation = ?1 AND name = ?2")?
        .query_row((&conversation.0[..], &name[..]), |row| row.get(0))
        .optional()?;
    let key = receipt_key(conversation, name);
    Ok(value.map(|value| record::open(tx, RECEIPT_TABLE, &key, &value)).transpose()?.unwrap_or_default())
}

fn receipt_key(conversation: &ConversationId, name: &[u8; 32]) -> Vec<u8> {
    [&conversation.0[..], name].concat()
}

fn select(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    query: &str,
    params: impl rusqlite::Params,
    everyone: &Receipt,
) -> Result<Vec<Message>, StoreError> {
    let mut statement = tx.sql().prepare_cached(query)?;
    let rows = statement.query_map(params, |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Vec<u8>>(2)?))
    })?;
    rows.map(|row| {
        let (row, seq, value) = row?;
        let record: Record = record::open(tx, TABLE, &row.to_be_bytes(), &value)?;
        Ok(record.into_message(row, *conversation, seq.map(|seq| seq as u64), everyone))
    })
    .collect()
}

impl Record {
    fn into_message(
        self,
        row: i64,
        conversation: ConversationId,
        seq: Option<u64>,
        everyone: &Receipt,
    ) -> Message {
        let state = match (self.failed, self.mine, seq) {
            (Some(cause), ..) => MessageState::Failed(cause),
            (None, false, _) => MessageState::Received,
            (None, true, None) => MessageState::Queued,
            (None, true, Some(seq)) if seq <= everyone.read => MessageState::Read,
            (None, true, Some(seq)) if seq <= everyone.delivered => MessageState::Delivered,
            (None, true, Some(_)) => MessageState::Sent,
        };
        Message {
            row: row as u64,
            id: self.id,
            conversation,
            sender: self.sender,
            mine: self.mine,
            body: self.body,
            sent_at: self.sent_at,
            state,
            seq,
        }
    }
}
