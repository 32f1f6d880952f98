//! Ack: moves the reader's cursor and gives credit.
//!
//! Most acks want no answer. The store notes them, and makes the latest of each reader count once a second,
//! so that however many come, each reader costs at most one record a second.

use std::sync::Arc;

use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{Ack, Refusal, ServerBody};

use super::peer::Asked;
use super::{Call, Work};
use crate::live::opening::{Opening, closing_words};
use crate::store::{Advance, StoreError};

pub(super) fn ack(call: Call, asked: Asked, ack: Ack) -> Option<Work> {
    let opening = call.peer.opening(&ack.mailbox);
    let taken = match &opening {
        None => Err(call.peer.ended(&ack.mailbox).unwrap_or(ErrorCode::NotOpen)),
        Some(opening) => opening.acknowledge(ack.seq, ack.credit),
    };
    match (opening, taken) {
        (Some(opening), Ok(to)) if asked.wants_answer() => Some(Box::pin(async move {
            let reply = advance(&call, &opening, to).await;
            asked.answer(reply.map(|()| ServerBody::Done).map_err(Refusal::from));
        })),
        (Some(_), Ok(to)) => {
            call.context.mailboxes.advance_soon(to);
            None
        }
        (opening, Err(code)) => {
            refuse(&call, asked, ack, opening, code);
            None
        }
        (None, Ok(_)) => None,
    }
}

async fn advance(call: &Call, opening: &Opening, to: Advance) -> Result<(), StoreError> {
    match call.context.mailboxes.advance(to).await {
        // The store forgets the cursor of an evicted reader, which may still be reading what it is owed.
        Err(StoreError::ReaderUnknown) if opening.is_evicted() => Ok(()),
        // Another opening took over where this relay could not see it.
        Err(error @ StoreError::OpenedElsewhere) => {
            opening.end(error.code(), false);
            Err(error)
        }
        result => result,
    }
}

fn refuse(call: &Call, asked: Asked, ack: Ack, opening: Option<Arc<Opening>>, code: ErrorCode) {
    if asked.wants_answer() {
        asked.answer(Err(Refusal::new(code, closing_words(code))));
        return;
    }
    match opening {
        // Ends it and says so, unless it has ended already: then the client was told.
        Some(opening) => opening.end(code, false),
        None if code == ErrorCode::NotOpen => call.peer.push_closed(ack.mailbox, code),
        None => {}
    }
}
