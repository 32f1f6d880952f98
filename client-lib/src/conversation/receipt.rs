//! What each member's device has got and read, in each mailbox of the conversation (rules 22 and 34).

use super::ConversationId;
use crate::content::{Author, Receipt};
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<Vec<u8>, Receipt> = Table::new("receipt");

/// Seqs of two mailboxes have nothing to do with each other, so that each has receipts of its own.
fn key(tx: &Transaction<'_>, conversation: &ConversationId, device: &Author, place: u32) -> Vec<u8> {
    let name = [&device.person.0[..], &device.device.0, &place.to_be_bytes()].concat();
    [&conversation.0[..], &TABLE.hidden(tx, &name)].concat()
}

/// Notes a device's receipt; cumulative, so it only grows. Whether it did.
pub(crate) fn set_receipt(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    device: &Author,
    place: u32,
    receipt: Receipt,
) -> Result<bool, StoreError> {
    let key = key(tx, conversation, device, place);
    let old = TABLE.get(tx, &key)?.unwrap_or_default();
    let new = Receipt { delivered: receipt.delivered.max(old.delivered), read: receipt.read.max(old.read) };
    if new == old {
        return Ok(false);
    }
    TABLE.put(tx, &key, &new).map(|()| true)
}

/// A device's receipt; the default if it sent none.
pub(crate) fn receipt_of(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    device: &Author,
    place: u32,
) -> Result<Receipt, StoreError> {
    Ok(TABLE.get(tx, &key(tx, conversation, device, place))?.unwrap_or_default())
}

/// Forgets those of a conversation.
pub(super) fn forget(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<(), StoreError> {
    TABLE.remove_prefixed(tx, &conversation.0)
}
