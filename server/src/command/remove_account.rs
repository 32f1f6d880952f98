//! RemoveAccount: removes the account of the device that asks, for good.

use posthorn_proto::frame::ServerBody;

use super::{Call, Reply};

pub(super) async fn remove_account(call: Call) -> Reply {
    let directory = &call.context.directory;
    let account = directory.device(call.peer.authenticated()?).await?.handle;
    directory.remove_account(account).await?;
    Ok(ServerBody::Done)
}
