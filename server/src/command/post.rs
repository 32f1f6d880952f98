//! Post: appends an envelope, and turns the lock if the post carries a turn. Answered once durable (R1).

use std::task::Waker;

use posthorn_proto::frame::{Post, Refusal, ServerBody};

use super::peer::Asked;
use super::{Call, Work, within};
use crate::store::{Append, Ticket};

/// The store answers by itself. There is work left only if it has no room just now.
pub(super) fn post(call: Call, asked: Asked, post: Post) -> Option<Work> {
    let append = match check(&call, post) {
        Ok(append) => append,
        Err(refusal) => {
            asked.answer(Err(refusal));
            return None;
        }
    };
    let ticket = Ticket::new(move |posted| {
        asked.answer_from_afar(posted.map(|seq| ServerBody::Posted { seq }).map_err(Refusal::from))
    });
    let (append, ticket) = call.context.mailboxes.append_soon(append, ticket)?;
    Some(Box::pin(async move {
        let posted = call.context.mailboxes.append(append).await;
        // Not needed where the driver asks itself, but it has taken the waker.
        ticket.tell(posted).into_iter().for_each(Waker::wake);
    }))
}

fn check(call: &Call, post: Post) -> Result<Append, Refusal> {
    let limits = &call.context.limits;
    within("envelope in bytes", post.envelope.len(), limits.envelope_bytes)?;
    if let Some(turn) = &post.turn {
        within("readers admitted", turn.turn.admit.len(), limits.readers_per_mailbox)?;
        within("readers evicted", turn.turn.evict.len(), limits.readers_per_mailbox)?;
    }
    let post_key = post.post_key.hash();
    let turn = post.turn.map(|request| (request.key.hash(), request.turn));
    let (mailbox, post_id, envelope) = (post.mailbox, post.post_id, post.envelope);
    let append = Append { mailbox, post_id, post_key, envelope, turn, fingerprint: Default::default() };
    Ok(append.with_fingerprint())
}
