//! Serving openings that fell behind, from the store, as room allows.
//!
//! Owns nothing: it moves envelopes from the store to one connection's outbox, one batch at a time, in turns
//! between the openings that wait. At most one of these runs per connection, and a bounded number reads over
//! the whole relay, so that their memory is bounded too.

use std::sync::Arc;

use posthorn_proto::MailboxId;

use super::opening::Opening;
use crate::command::Context;
use crate::gateway::outbox::Outbox;
use crate::store::StoreError;

/// Most bytes of envelopes read at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Serves the openings that are behind until all have caught up or the outbox is full enough.
pub(crate) async fn catch_up(
    context: &Context,
    outbox: &Outbox,
    find: impl Fn(&MailboxId) -> Option<Arc<Opening>> + Send,
) {
    // Never closed: an error means that nothing is left to serve.
    let Ok(_permit) = context.reads.acquire().await else { return };
    while let Some((mailbox, room)) = outbox.take_behind() {
        let Some(opening) = find(&mailbox) else { continue };
        let Some(range) = opening.wants(room.min(BATCH_BYTES)) else { continue };
        match context.store.read(mailbox, range).await {
            Ok(batch) => opening.fill(range, &batch),
            // What is damaged is lost: its reader is told, and gets the rest. (Only the first of a range can
            // be.)
            Err(StoreError::Damaged) => opening.skip(range.from),
            // A destroyed mailbox is told by the hub too; to end twice is to end once.
            Err(error) => opening.end(error.code(), false),
        }
    }
}
