//! What may happen between asking the store and answering the client. Real relays have the threads for it;
//! tests of a single session do not.

use std::sync::Arc;

use bytes::Bytes;
use posthorn_proto::frame::{ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, KeyHash, MailboxId, PostId, ReaderId, Turn};

use super::Hub;
use crate::outbox::{Answered, Outbox};
use crate::store::{OpeningNumber, Published as _, ReadRange, ReaderView, Standing, StoreError, Stored};

const MAILBOX: MailboxId = MailboxId([1; 16]);
const READER: ReaderId = ReaderId([2; 16]);

fn stored(seq: u64, evict: &[ReaderId]) -> Stored {
    let hash = KeyHash([0; 32]);
    let turn = Turn { post_key_hash: hash, turn_key_hash: hash, admit: vec![], evict: evict.to_vec() };
    let turn = (!evict.is_empty()).then(|| Arc::new(turn));
    Stored { seq, post_id: PostId([seq as u8; 16]), envelope: Bytes::from_static(b"x"), turn }
}

fn view(head: u64, until: Option<u64>) -> ReaderView {
    let hash = KeyHash([0; 32]);
    let opening = OpeningNumber(1);
    ReaderView { opening, head, oldest: 1, cursor: 0, until, post_key: hash, turn_key: hash }
}

fn pushed(outbox: &Outbox) -> Option<ServerBody> {
    outbox.pop().map(|bytes| ServerFrame::decode(bytes).expect("a frame").body)
}

fn closed(outbox: &Outbox) -> Option<ErrorCode> {
    match pushed(outbox)? {
        ServerBody::Closed { reason, .. } => reason.code,
        other => panic!("not a closing: {other:?}"),
    }
}

#[test]
fn appends_around_the_stores_answer_are_neither_early_nor_lost() {
    let (hub, outbox) = (Hub::new(), Arc::new(Outbox::in_test(10_000)));
    let seat = hub.listen(MAILBOX, READER, outbox.clone(), 10);
    hub.appended(&MAILBOX, &stored(1, &[]));
    // The store saw one append; another comes before the client has its answer.
    assert!(!hub.take_over(&seat.opening));
    hub.appended(&MAILBOX, &stored(2, &[]));
    assert!(outbox.is_empty(), "nothing before the answer");
    seat.opening.begin(&view(1, None), &Answered::in_test());
    assert_eq!(outbox.take_behind(), Some((MAILBOX, 10_000)));
    assert_eq!(seat.opening.wants(500), Some(ReadRange { from: 1, to: 2, bytes: 500 }));
    seat.opening.fill(ReadRange { from: 1, to: 2, bytes: 500 }, &[stored(1, &[]), stored(2, &[])]);
    hub.appended(&MAILBOX, &stored(3, &[]));
    for seq in 1..=3 {
        assert!(matches!(pushed(&outbox), Some(ServerBody::Delivery(d)) if d.seq == seq));
    }
}

#[test]
fn an_end_between_answer_and_beginning_is_told() {
    let (hub, outbox) = (Hub::new(), Arc::new(Outbox::in_test(10_000)));
    let first = hub.listen(MAILBOX, READER, outbox.clone(), 10);
    hub.take_over(&first.opening);
    let second = hub.listen(MAILBOX, READER, Arc::new(Outbox::in_test(10_000)), 10);
    assert!(hub.take_over(&second.opening), "the first is displaced though it is not live yet");
    assert!(outbox.is_empty(), "its answer is still to come");
    first.opening.begin(&view(0, None), &Answered::in_test());
    assert_eq!(closed(&outbox), Some(ErrorCode::OpenedElsewhere));
    hub.appended(&MAILBOX, &stored(1, &[]));
    assert!(outbox.is_empty());

    let third = hub.listen(MAILBOX, READER, outbox.clone(), 10);
    hub.take_over(&third.opening);
    hub.destroyed(&MAILBOX);
    assert_eq!(third.opening.ended(), Some(ErrorCode::MailboxUnknown));
    assert!(outbox.is_empty(), "the answer says it");
}

#[test]
fn an_eviction_that_the_store_has_not_told_of_counts_and_an_older_one_does_not() {
    let evicting = stored(2, &[READER]);
    let (hub, outbox) = (Hub::new(), Arc::new(Outbox::in_test(10_000)));
    let seat = hub.listen(MAILBOX, READER, outbox.clone(), 10);
    hub.take_over(&seat.opening);
    hub.appended(&MAILBOX, &evicting);
    seat.opening.begin(&view(1, None), &Answered::in_test());
    assert_eq!(seat.opening.wants(500), Some(ReadRange { from: 1, to: 2, bytes: 500 }));
    seat.opening.fill(ReadRange { from: 1, to: 2, bytes: 500 }, &[stored(1, &[]), evicting.clone()]);
    assert!(matches!(pushed(&outbox), Some(ServerBody::Delivery(_))));
    assert!(matches!(pushed(&outbox), Some(ServerBody::Delivery(_))));
    assert_eq!(closed(&outbox), Some(ErrorCode::ReaderUnknown));

    // Evicted and admitted again before the store was asked: the news of the eviction is out of date.
    let seat = hub.listen(MAILBOX, READER, outbox.clone(), 10);
    hub.appended(&MAILBOX, &stored(3, &[READER]));
    hub.take_over(&seat.opening);
    seat.opening.begin(&ReaderView { cursor: 4, ..view(4, None) }, &Answered::in_test());
    hub.appended(&MAILBOX, &stored(5, &[]));
    assert!(matches!(pushed(&outbox), Some(ServerBody::Delivery(d)) if d.seq == 5));
}

/// An engine that fell behind tells nobody of what it missed; whoever has something open catches up.
#[test]
fn openings_catch_up_with_a_store_that_went_on_from_a_later_state() {
    let live = |hub: &Arc<Hub>, mailbox, n, opening| {
        let outbox = Arc::new(Outbox::in_test(10_000));
        let seat = hub.listen(mailbox, ReaderId([n; 16]), outbox.clone(), 100);
        hub.take_over(&seat.opening);
        let opening = OpeningNumber(opening);
        seat.opening.begin(&ReaderView { opening, cursor: 3, ..view(3, None) }, &Answered::in_test());
        (seat, outbox)
    };
    let (hub, gone) = (Hub::new(), MailboxId([9; 16]));
    let (reads, behind) = live(&hub, MAILBOX, 1, 5);
    let (evicted, until) = live(&hub, MAILBOX, 2, 5);
    let (_displaced, elsewhere) = live(&hub, MAILBOX, 3, 5);
    let (_over, unknown) = live(&hub, gone, 1, 5);
    let asked = hub.listen(MAILBOX, ReaderId([4; 16]), Arc::new(Outbox::in_test(10_000)), 100);
    hub.resynced(&|mailbox, reader| {
        let standing = Standing { head: 9, until: None, opening: OpeningNumber(5) };
        match reader.0[0] {
            _ if *mailbox == gone => Err(StoreError::MailboxUnknown),
            2 => Ok(Standing { until: Some(6), ..standing }),
            3 => Ok(Standing { opening: OpeningNumber(8), ..standing }),
            _ => Ok(standing),
        }
    });
    assert_eq!(behind.take_behind(), Some((MAILBOX, 10_000)));
    assert_eq!(reads.opening.wants(500), Some(ReadRange { from: 4, to: 9, bytes: 500 }));
    reads
        .opening
        .fill(ReadRange { from: 4, to: 9, bytes: 500 }, &(4..=9).map(|n| stored(n, &[])).collect::<Vec<_>>());
    hub.appended(&MAILBOX, &stored(10, &[]));
    for seq in 4..=10 {
        assert!(matches!(pushed(&behind), Some(ServerBody::Delivery(d)) if d.seq == seq));
    }
    assert_eq!(evicted.opening.wants(500), Some(ReadRange { from: 4, to: 6, bytes: 500 }));
    assert!(until.is_empty(), "what came behind its eviction is not for it");
    assert_eq!(closed(&elsewhere), Some(ErrorCode::OpenedElsewhere));
    assert_eq!(closed(&unknown), Some(ErrorCode::MailboxUnknown));
    assert_eq!(asked.opening.ended(), None, "who has only asked is answered by the store");
}

#[test]
fn what_expired_while_a_reader_was_behind_is_jumped_over() {
    let (hub, outbox) = (Hub::new(), Arc::new(Outbox::in_test(10_000)));
    let seat = hub.listen(MAILBOX, READER, outbox.clone(), 3);
    hub.take_over(&seat.opening);
    seat.opening.begin(&view(9, None), &Answered::in_test());
    let range = seat.opening.wants(500).expect("behind");
    assert_eq!((range.from, range.to), (1, 3), "as far as the credit goes");
    seat.opening.fill(range, &[]);
    let range = seat.opening.wants(500).expect("still behind");
    assert_eq!((range.from, range.to), (4, 6));
    seat.opening.fill(range, &[stored(6, &[])]);
    assert!(matches!(pushed(&outbox), Some(ServerBody::Delivery(d)) if d.seq == 6));
    assert_eq!(
        seat.opening.wants(500).map(|range| (range.from, range.to)),
        Some((7, 8)),
        "no credit was lost"
    );
}

/// A lost segment may have held thousands of one mailbox: they wait for room like what they stand for.
#[test]
fn what_is_lost_is_told_as_there_is_room() {
    let (hub, outbox) = (Hub::new(), Arc::new(Outbox::in_test(1000)));
    let seat = hub.listen(MAILBOX, READER, outbox.clone(), 1000);
    hub.take_over(&seat.opening);
    seat.opening.begin(&view(500, None), &Answered::in_test());
    let mut told = Vec::new();
    while told.len() < 500 {
        while outbox.take_behind().is_some()
            && let Some(range) = seat.opening.wants(1)
        {
            seat.opening.skip(range.from);
        }
        let before = told.len();
        while let Some(body) = pushed(&outbox) {
            let ServerBody::Lost { seq, .. } = body else { panic!("not lost: {body:?}") };
            told.push(seq);
        }
        assert!((1..10).contains(&(told.len() - before)), "{} at once", told.len() - before);
    }
    assert!(told.into_iter().eq(1..=500), "each once, in order");
}
