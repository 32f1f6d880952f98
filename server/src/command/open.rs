//! Open: begins delivery from many mailboxes on this connection.
//!
//! The order of steps is what keeps the promises. Listen before asking the store, so that no append is missed
//! between its answer and the first delivery. Take the reader over before reading its cursor for the answer,
//! so that the former opening's acknowledgements cannot move it any more (rule 10). Answer before the first
//! delivery.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{Open, OpenState, Opened, Opening, Refusal, ServerBody};

use super::peer::Asked;
use super::{Call, within};
use crate::live::opening::closing_words;
use crate::live::{OPENING_BYTES, Seat};
use crate::store::{OpenReader, ReaderView};

/// When to ask again if there is no memory for openings, in milliseconds.
const BUSY_MS: u32 = 5000;

pub(super) async fn open(call: Call, asked: Asked, open: Open) {
    // When thousands come back at once, each is served soon or waits with nothing but its request. (Never
    // closed.)
    let _permit = call.context.opens.acquire().await;
    let results = match check(&call, &open) {
        Ok(reserved) => {
            // What will be refused is refused without a seat in the hub and without the store's one writer,
            // unless something before it may have changed that.
            let look_first = call.peer.lets_nobody_in();
            let open_one = |opening| open_one(&call, opening, look_first);
            let results = join_all(open.openings.iter().map(open_one)).await;
            drop(reserved);
            results
        }
        Err(refusal) => {
            asked.answer(Err(refusal));
            return;
        }
    };
    let mut begun = Vec::with_capacity(results.len());
    let mut answer = Vec::with_capacity(results.len());
    for (opening, result) in open.openings.iter().zip(results) {
        let result = result.and_then(|(seat, view)| match seat.opening.ended() {
            Some(code) => Err(Refusal::new(code, closing_words(code))),
            None => Ok((seat, view)),
        });
        let state = result.map(|(seat, view)| {
            begun.push((Arc::clone(&seat.opening), view));
            call.peer.seat(seat);
            state(&call, &view)
        });
        answer.push(Opened { mailbox: opening.mailbox, result: state });
    }
    let answered = asked.answer(Ok(ServerBody::Opened(answer)));
    for (opening, view) in begun {
        opening.begin(&view, &answered);
    }
}

fn check<'a>(call: &'a Call, open: &Open) -> Result<impl Drop + use<'a>, Refusal> {
    within("openings", open.openings.len(), call.context.limits.openings_per_request)?;
    let mut seen = HashSet::with_capacity(open.openings.len());
    if !open.openings.iter().all(|opening| seen.insert(opening.mailbox)) {
        return Err(Refusal::new(ErrorCode::BadRequest, "a mailbox stands twice in one Open"));
    }
    if seen.len() * OPENING_BYTES > call.context.budget.share_of_openings() {
        let message = "the relay has no memory for more openings just now: ask again later";
        return Err(Refusal { retry_after_ms: BUSY_MS, ..Refusal::new(ErrorCode::Busy, message) });
    }
    let most = call.context.limits.openings_per_connection;
    call.peer.reserve_openings(&seen, most as usize).ok_or_else(|| {
        Refusal::new(ErrorCode::TooLarge, format!("at most {most} mailboxes may be open on one connection"))
    })
}

async fn open_one(call: &Call, opening: &Opening, look_first: bool) -> Result<(Seat, ReaderView), Refusal> {
    let hub = &call.context.hub;
    let ask = OpenReader {
        mailbox: opening.mailbox,
        reader: opening.reader,
        key: opening.read_key.hash(),
        claim: opening.claim.as_ref().map(|claim| claim.hash()),
    };
    if look_first {
        call.context.mailboxes.may_open(ask.clone()).await?;
    }
    let outbox = Arc::clone(&call.peer.outbox);
    let seat = hub.listen(opening.mailbox, opening.reader, outbox, opening.credit);
    let mut view = call.context.mailboxes.open(ask.clone()).await?;
    if hub.take_over(&seat.opening) {
        // The displaced opening may have acknowledged since.
        view = call.context.mailboxes.open(ask).await?;
    }
    Ok((seat, view))
}

fn state(call: &Call, view: &ReaderView) -> OpenState {
    OpenState {
        head: view.head,
        oldest: view.oldest,
        cursor: view.cursor,
        post_key_hash: view.post_key,
        turn_key_hash: view.turn_key,
        incarnation: call.context.store.incarnation(),
    }
}
