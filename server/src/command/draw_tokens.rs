//! DrawTokens: lays down creation tokens, of which the store keeps the hashes without the device's name (rule
//! 16).

use posthorn_proto::KeyHash;
use posthorn_proto::frame::ServerBody;

use super::{Call, Reply};

pub(super) async fn draw_tokens(call: Call, hashes: Vec<KeyHash>) -> Reply {
    let device = call.peer.authenticated()?;
    let accepted = call.context.store.draw_tokens(device, hashes).await?;
    Ok(ServerBody::TokensDrawn(accepted))
}
