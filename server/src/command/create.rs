//! Create: a new mailbox, paid for by a token that some device drew earlier (rule 16).

use posthorn_proto::frame::{Create, ServerBody};

use super::{Call, Reply, too_large, within};
use crate::store::NewMailbox;
use crate::store::paying::create_mailbox;

pub(super) async fn create(call: Call, create: Create) -> Reply {
    let limits = &call.context.limits;
    within("readers", create.readers.len(), limits.readers_per_mailbox)?;
    if create.expiry > limits.expiry_seconds {
        return Err(too_large("expiry in seconds", create.expiry.into(), limits.expiry_seconds.into()));
    }
    if create.quota > limits.mailbox_bytes {
        return Err(too_large("quota in bytes", create.quota, limits.mailbox_bytes));
    }
    let quota = if create.quota == 0 { limits.mailbox_bytes } else { create.quota };
    let new = NewMailbox {
        mailbox: create.mailbox,
        token: create.token.hash(),
        post_key: create.post_key_hash,
        turn_key: create.turn_key_hash,
        readers: create.readers,
        expiry: create.expiry,
        quota,
    };
    create_mailbox(&*call.context.directory, &*call.context.mailboxes, new).await?;
    Ok(ServerBody::Created)
}
