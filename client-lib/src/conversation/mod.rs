//! What a conversation is to its member: its record, its history, its receipts, and what is still wanted of
//! it.
//!
//! Owns the tables `conversation`, `entry`, `receipt`, `intent`, `invited` and `heard`. Every function works
//! inside the caller's transaction and none of them talks to a relay or to MLS.

mod cause;
mod entry;
pub(crate) mod healing;
pub(crate) mod heard;
pub(crate) mod history;
mod id;
mod intent;
pub(crate) mod invited;
mod receipt;
mod record;

pub use cause::Cause;
pub use entry::{Body, Entry, EntryState, Notice, Unreadable};
pub(crate) use history::NewEntry;
pub use id::{BadId, ConversationId, GroupId, MessageId};
pub(crate) use intent::{
    Candidate, Intent, Package, get_intent, intents, put_intent, remove_intent, remove_intents, update_intent,
};
pub(crate) use receipt::{receipt_of, set_receipt};
pub(crate) use record::{Away, BACK_WITHIN, Conversation, Leaver, is_out_for_good};
pub use record::{ConversationState, Suspension};

use crate::store::{StoreError, Transaction};

/// Forgets everything of a conversation but what MLS and the outbox keep.
pub(crate) fn forget(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
    history::forget(tx, id)?;
    receipt::forget(tx, id)?;
    remove_intents(tx, id)?;
    invited::remove_invited(tx, id)?;
    heard::forget_heard(tx, id)?;
    Conversation::delete(tx, id)
}
