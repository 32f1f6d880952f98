//! PublishCard: replaces the contact card of the device's account.

use posthorn_proto::frame::{PublishCard, ServerBody};

use super::{Call, Reply, within};

pub(super) async fn publish_card(call: Call, publish: PublishCard) -> Reply {
    let device = call.peer.authenticated()?;
    within("card in bytes", publish.card.len(), call.context.limits.card_bytes)?;
    call.context.directory.publish_card(device, publish.version, publish.card).await?;
    Ok(ServerBody::Done)
}
