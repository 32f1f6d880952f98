//! Post: appends an envelope, and turns the lock if the post carries a turn. Answered once durable (R1).

use posthorn_proto::chain::Fingerprint;
use posthorn_proto::frame::{Post, ServerBody};
use posthorn_proto::turn::TurnHash;

use super::{Call, Reply, within};
use crate::store::Append;

pub(super) async fn post(call: Call, post: Post) -> Reply {
    let limits = &call.context.limits;
    within("envelope in bytes", post.envelope.len(), limits.envelope_bytes)?;
    if let Some(turn) = &post.turn {
        within("readers admitted", turn.turn.admit.len(), limits.readers_per_mailbox)?;
        within("readers evicted", turn.turn.evict.len(), limits.readers_per_mailbox)?;
    }
    let post_key = post.post_key.hash();
    let turn = post.turn.map(|request| (request.key.hash(), request.turn));
    let turn_hash = TurnHash::of(turn.as_ref().map(|(_, turn)| turn));
    let fingerprint =
        Fingerprint::of(&post_key, turn.as_ref().map(|(key, _)| key), &turn_hash, &post.envelope);
    let append = Append {
        mailbox: post.mailbox,
        post_id: post.post_id,
        post_key,
        envelope: post.envelope,
        turn,
        fingerprint,
    };
    let seq = call.context.store.append(append).await?;
    Ok(ServerBody::Posted { seq })
}
