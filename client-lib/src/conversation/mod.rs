//! What a conversation is to its member: its record, its messages, its receipts, and what is still wanted of
//! it.
//!
//! Owns the tables `conversation`, `message`, `receipt` and `intent`. Every function works inside the
//! caller's transaction and none of them talks to a relay or to MLS.

mod cause;
mod id;
mod intent;
mod message;
mod record;

pub use cause::Cause;
pub use id::{BadId, ConversationId, MessageId};
pub use intent::{Candidate, Intent, Package};
pub(crate) use intent::{get_intent, intents, put_intent, remove_intent, remove_intents, update_intent};
pub use message::{Body, Message, MessageState, Notice};
pub(crate) use message::{
    NewMessage, fail_message, history, insert_message, last_message, mark_read, message_rows_between,
    newest_seq, receipt_of, set_message_seq, set_receipt, unread_count,
};
pub use record::{Conversation, ConversationState};
