//! LookUp: a contact card by handle, for devices with an account here and, if the directory is open, for
//! strangers.

use posthorn_proto::Handle;
use posthorn_proto::frame::{CardAnswer, ServerBody};

use super::asker::Asker;
use super::{Call, Reply};

pub(super) async fn look_up(call: Call, handle: Handle) -> Reply {
    Asker::of(&call).await?.pay_for_look_up(&call)?;
    let record = call.context.directory.card(handle).await?;
    Ok(ServerBody::Card(CardAnswer {
        identity_key: record.identity_key,
        version: record.version,
        card: record.card,
    }))
}
