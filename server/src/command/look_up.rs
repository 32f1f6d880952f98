//! LookUp: a contact card by handle.

use posthorn_proto::Handle;
use posthorn_proto::frame::{CardAnswer, ServerBody};

use super::{Call, Reply};

pub(super) async fn look_up(call: Call, handle: Handle) -> Reply {
    let device = call.peer.authenticated()?;
    // The operator may have removed the account since.
    call.context.directory.device(device).await?;
    let record = call.context.directory.card(handle).await?;
    Ok(ServerBody::Card(CardAnswer {
        identity_key: record.identity_key,
        version: record.version,
        card: record.card,
    }))
}
