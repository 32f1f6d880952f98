//! Destroy: removes a mailbox and all that it holds. The store tells the hub, which tells the readers.

use posthorn_proto::frame::ServerBody;
use posthorn_proto::{MailboxId, TurnKey};

use super::{Call, Reply};

pub(super) async fn destroy(call: Call, mailbox: MailboxId, turn_key: TurnKey) -> Reply {
    call.context.mailboxes.destroy(mailbox, turn_key.hash()).await?;
    Ok(ServerBody::Done)
}
