//! Serves openings that fell behind from the store, as fast as there is room.
//!
//! Owns nothing: it moves envelopes from the store to one connection's outbox, one batch at a time, and the
//! openings that wait take turns. At most one of these runs per connection, and over the whole relay only a
//! bounded number read at the same time, so that their memory is bounded too.

use std::sync::Arc;

use posthorn_proto::MailboxId;
use tokio::sync::Semaphore;

use super::opening::Opening;
use crate::outbox::Outbox;
use crate::store::{Mailboxes, StoreError};

/// Most envelopes that are read at once, in bytes; one larger envelope may exceed it.
const BATCH_BYTES: usize = 64 * 1024;

/// Serves the openings that are behind, until all have caught up or the outbox is full enough. Reads while
/// it holds a permit of `reads`.
pub(crate) async fn catch_up(
    mailboxes: &dyn Mailboxes,
    reads: &Semaphore,
    outbox: &Outbox,
    find: impl Fn(&MailboxId) -> Option<Arc<Opening>> + Send,
) {
    // The semaphore is never closed; if it were, there would be nothing left to serve.
    let Ok(_permit) = reads.acquire().await else { return };
    while let Some((mailbox, room)) = outbox.take_behind() {
        let Some(opening) = find(&mailbox) else { continue };
        let Some(range) = opening.wants(room.min(BATCH_BYTES)) else { continue };
        match mailboxes.read(mailbox, range).await {
            Ok(batch) => opening.fill(range, &batch),
            // What is damaged is lost: its reader is told so, and gets the rest. (Only the first envelope of
            // a range is reported as damaged.)
            Err(StoreError::Damaged) => opening.skip(range.from),
            // Of a destroyed mailbox the hub tells the opening too; ending twice is the same as once.
            Err(error) => opening.end(error.code(), false),
        }
    }
}
