//! DrawTokens: lays down tokens, of which the store keeps the hashes without the device's name (rule 16).

use posthorn_proto::frame::{Refusal, ServerBody, TokenPurpose};
use posthorn_proto::{ErrorCode, KeyHash};

use super::{Call, Reply};

pub(super) async fn draw_tokens(call: Call, purpose: TokenPurpose, hashes: Vec<KeyHash>) -> Reply {
    let device = call.peer.authenticated()?;
    if purpose == TokenPurpose::UploadBlob && call.context.limits.blob_bytes == 0 {
        return Err(Refusal::new(ErrorCode::BadRequest, "this relay keeps no blobs"));
    }
    let accepted = call.context.directory.draw_tokens(device, purpose, hashes).await?;
    Ok(ServerBody::TokensDrawn(accepted))
}
