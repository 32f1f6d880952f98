//! Openings: order, credit, ends (design, rules 1, 10, 11; promises R2, R3, R7).

use std::sync::Arc;

use bytes::Bytes;
use posthorn_proto::frame::{Ack, Open, Opening, Request, ServerBody, Signal};
use posthorn_proto::{ErrorCode, MailboxId, PostKey, ReadKey, Reader, ReaderId, TurnKey};
use proptest::prelude::*;

use super::held::{Held, Trouble};
use super::support::*;
use crate::live::OPENING_BYTES;

fn with_mailbox() -> (TestRelay, Client) {
    let relay = TestRelay::new(Setup::default());
    let mut poster = relay.connect();
    poster.create();
    (relay, poster)
}

fn ack(seq: u64, credit: u32) -> Request {
    Request::Ack(Ack { mailbox: MAILBOX, seq, credit })
}

#[test]
fn the_answer_comes_before_the_first_delivery_and_credit_is_exact() {
    let (relay, mut poster) = with_mailbox();
    for id in 1..=5 {
        assert_eq!(poster.post(id), u64::from(id));
    }
    let mut reader = relay.connect();
    reader.hello();
    reader.send(open(READER, READ_KEY, 2));
    reader.work();
    assert!(reader.take_one());
    assert!(matches!(reader.answers.pop_front(), Some((1, ServerBody::Opened(_)))), "first the answer");
    assert_eq!(reader.delivered(), [1, 2], "two were asked for");
    reader.ack(1, 1);
    assert_eq!(reader.delivered(), [3]);
    reader.ack(3, 10);
    assert_eq!(reader.delivered(), [4, 5]);
    poster.post(6);
    assert_eq!(reader.delivered(), [6], "live, within the credit of 10");
    assert_eq!(reader.ask(ack(6, 0)), ServerBody::Done);
    drop(reader);
    let state = relay.connect().open(0);
    assert_eq!((state.head, state.cursor), (6, 6));
}

#[test]
fn the_cursor_of_unanswered_acks_is_kept() {
    let (relay, mut poster) = with_mailbox();
    let mut reader = relay.connect();
    reader.open(100);
    for id in 1..=5 {
        poster.post(id);
        assert_eq!(reader.delivered(), [u64::from(id)]);
        reader.ack(u64::from(id), 0);
    }
    drop(reader);
    assert_eq!(relay.connect().open(0).cursor, 5);
}

#[test]
fn the_latest_opening_of_a_reader_wins() {
    let (relay, mut poster) = with_mailbox();
    let (mut first, mut second) = (relay.connect(), relay.connect());
    first.open(10);
    poster.post(1);
    assert_eq!(first.delivered(), [1]);
    let wrong = second.ask(open(READER, [0; 32], 10));
    assert!(
        matches!(&wrong, ServerBody::Opened(r) if r[0].result.as_ref().is_err_and(|e| e.code == Some(ErrorCode::ReadKeyWrong)))
    );
    poster.post(2);
    assert_eq!(first.delivered(), [2], "who has not the key displaces nobody");

    assert_eq!(second.open(10).cursor, 0);
    assert_eq!(first.closed(), Some(ErrorCode::OpenedElsewhere));
    assert_eq!(second.delivered(), [1, 2]);
    assert_eq!(first.refused(ack(2, 0)), ErrorCode::OpenedElsewhere);
    first.ack(2, 0);
    assert_eq!(first.closed(), None, "it was told once");
    drop(second);
    assert_eq!(relay.connect().open(0).cursor, 0, "the refused acks moved nothing");
    poster.post(3);
    assert!(first.delivered().is_empty());
}

/// Finding M7: displaced openings were kept, outside of the budget.
#[test]
fn of_an_opening_that_ended_only_the_reason_is_kept() {
    let (relay, _poster) = with_mailbox();
    let held = || relay.context.budget.used();
    let (mut first, mut second) = (relay.connect(), relay.connect());
    let before = held();
    first.open(10);
    assert_eq!(held(), before + OPENING_BYTES);
    second.open(10);
    assert_eq!(first.closed(), Some(ErrorCode::OpenedElsewhere));
    assert_eq!(held(), before + OPENING_BYTES, "the second one's alone");
    assert_eq!(first.refused(ack(0, 1)), ErrorCode::OpenedElsewhere);
    assert_eq!(first.refused(Request::Close(MAILBOX)), ErrorCode::NotOpen);
    assert_eq!(first.refused(ack(0, 1)), ErrorCode::NotOpen);
    drop((first, second));
    assert_eq!(held(), before);
}

#[test]
fn openings_take_memory_that_is_there() {
    let relay = TestRelay::new(Setup { memory_bytes: 2 * 16 * 16 * OPENING_BYTES, ..Setup::default() });
    let opening = |name: u8| Opening {
        mailbox: MailboxId([name; 16]),
        reader: READER,
        read_key: ReadKey::from_bytes(READ_KEY),
        claim: None,
        credit: 1,
    };
    let openings = |count: u8| Request::Open(Open { openings: (0..count).map(opening).collect() });
    let mut client = relay.connect();
    assert_eq!(client.refused(openings(17)), ErrorCode::Busy);
    assert!(matches!(client.ask(openings(8)), ServerBody::Opened(_)));
    // What messages hold, however much, is not what openings have.
    relay.context.budget.charge(usize::MAX / 2);
    assert_eq!(client.refused(openings(17)), ErrorCode::Busy);
    assert!(matches!(client.ask(openings(16)), ServerBody::Opened(_)));
    relay.context.budget.release(usize::MAX / 2);
}

#[test]
fn opening_again_on_the_same_connection_begins_again() {
    let (relay, mut poster) = with_mailbox();
    let mut reader = relay.connect();
    reader.open(10);
    poster.post(1);
    assert_eq!(reader.delivered(), [1]);
    reader.open(10);
    assert_eq!(reader.delivered(), [1], "not acknowledged yet");
    assert_eq!(reader.closed(), None, "it knows from its own request");
    poster.post(2);
    assert_eq!(reader.delivered(), [2], "once");
}

#[test]
fn an_evicted_reader_gets_what_it_is_owed_and_then_the_end() {
    let (relay, mut poster) = with_mailbox();
    let mut evicted = relay.connect();
    evicted.open(1);
    let mut staying = relay.connect();
    staying.open_as(OTHER, READ_KEY, 10);
    poster.post(1);
    poster.post(2);
    assert!(matches!(poster.ask(turning(3, vec![], vec![READER])), ServerBody::Posted { seq: 3 }));
    poster.post(4);
    assert_eq!(evicted.delivered(), [1]);
    assert_eq!(evicted.closed(), None, "two more are owed, for which there is no credit");
    evicted.ack(1, 10);
    assert_eq!(evicted.delivered(), [2, 3]);
    assert_eq!(evicted.closed(), Some(ErrorCode::ReaderUnknown));
    assert_eq!(staying.delivered(), [1, 2, 3, 4]);
    let admitted = Reader { id: ReaderId([7; 16]), key_hash: key_hash([7; 32]) };
    assert!(matches!(poster.ask(turning(5, vec![admitted], vec![])), ServerBody::Posted { seq: 5 }));
    let mut newcomer = relay.connect();
    assert_eq!(newcomer.open_as(ReaderId([7; 16]), [7; 32], 10).cursor, 5);
    poster.post(6);
    assert_eq!(newcomer.delivered(), [6]);
}

#[test]
fn a_destroyed_mailbox_closes_its_openings() {
    let (relay, mut poster) = with_mailbox();
    let mut reader = relay.connect();
    reader.open(10);
    let wrong = Request::Destroy { mailbox: MAILBOX, turn_key: TurnKey::from_bytes([0; 32]) };
    assert_eq!(poster.refused(wrong), ErrorCode::KeyTurned);
    let right = Request::Destroy { mailbox: MAILBOX, turn_key: TurnKey::from_bytes(TURN_KEY) };
    assert_eq!(poster.ask(right), ServerBody::Done);
    assert_eq!(reader.closed(), Some(ErrorCode::MailboxUnknown));
    assert_eq!(poster.refused(post(1, b"x")), ErrorCode::MailboxUnknown);
    assert_eq!(relay.context.hub.openings(), 0);
}

#[test]
fn only_what_is_there_can_be_acknowledged() {
    let (relay, mut poster) = with_mailbox();
    let mut reader = relay.connect();
    assert_eq!(reader.refused(ack(0, 1)), ErrorCode::NotOpen);
    reader.open(1);
    poster.post(1);
    poster.post(2);
    assert_eq!(reader.delivered(), [1]);
    assert_eq!(reader.refused(ack(3, 1)), ErrorCode::BadRequest);
    assert!(reader.delivered().is_empty(), "a refused ack gives no credit");
    reader.ack(3, 1);
    assert_eq!(reader.closed(), Some(ErrorCode::BadRequest));
    reader.send_as(0, Request::Ack(Ack { mailbox: MailboxId([1; 16]), seq: 0, credit: 0 }));
    assert_eq!(reader.closed(), Some(ErrorCode::NotOpen));
    assert_eq!(relay.connect().open(0).cursor, 0);
}

#[test]
fn who_read_more_than_the_cursor_says_goes_on_behind_it() {
    let (relay, mut poster) = with_mailbox();
    for id in 1..=100 {
        poster.post(id);
    }
    // It acknowledged 90 in another life of the relay, which was killed before that counted.
    let mut reader = relay.connect();
    assert_eq!(reader.open(10).cursor, 0);
    reader.ack(90, 0);
    reader.ack(90, 5);
    let delivered = reader.delivered();
    assert_eq!(delivered, (1..=10).chain(91..=95).collect::<Vec<_>>());
    assert_eq!(relay.connect().open(0).cursor, 90);
}

#[test]
fn a_closed_opening_delivers_no_more() {
    let (relay, mut poster) = with_mailbox();
    let mut reader = relay.connect();
    assert_eq!(reader.refused(Request::Close(MAILBOX)), ErrorCode::NotOpen);
    reader.open(10);
    assert_eq!(reader.ask(Request::Close(MAILBOX)), ServerBody::Done);
    poster.post(1);
    assert!(reader.delivered().is_empty());
    assert_eq!(relay.context.hub.openings(), 0);
    reader.open(10);
    drop(reader);
    assert_eq!(relay.context.hub.openings(), 0, "a connection takes its openings along");
}

#[test]
fn a_one_time_key_is_replaced_at_the_first_open() {
    let (relay, _poster) = with_mailbox();
    let claiming = |key: u8| {
        let (read_key, claim) = (ReadKey::from_bytes([key; 32]), Some(ReadKey::from_bytes(READ_KEY)));
        Request::Open(Open {
            openings: vec![Opening { mailbox: MAILBOX, reader: READER, read_key, claim, credit: 1 }],
        })
    };
    let opened = |body| match body {
        ServerBody::Opened(mut results) => results.pop().expect("one").result.map_err(|refusal| refusal.code),
        other => panic!("not opened: {other:?}"),
    };
    let mut reader = relay.connect();
    assert!(opened(reader.ask(claiming(7))).is_ok());
    assert!(opened(reader.ask(claiming(7))).is_ok(), "repeating is harmless");
    assert_eq!(opened(reader.ask(claiming(8))).err(), Some(Some(ErrorCode::ReadKeyWrong)), "one time");
}

#[test]
fn signals_reach_whoever_is_there() {
    let (relay, mut poster) = with_mailbox();
    let mut reader = relay.connect();
    reader.open(0);
    reader.hello();
    let signal = |key, payload: &[u8]| {
        let payload = Bytes::copy_from_slice(payload);
        Request::Signal(Signal { mailbox: MAILBOX, post_key: PostKey::from_bytes(key), payload })
    };
    assert_eq!(poster.refused(signal([0; 32], b"x")), ErrorCode::KeyTurned);
    assert_eq!(poster.ask(signal(POST_KEY, b"typing")), ServerBody::Done);
    reader.pump();
    let expected = ServerBody::Signalled { mailbox: MAILBOX, payload: Bytes::from_static(b"typing") };
    assert_eq!(reader.pushed.pop_front(), Some(expected), "even without credit");
    for _ in 0..100 {
        poster.ask(signal(POST_KEY, &[1; 4096]));
    }
    reader.pump();
    assert!(
        (10..20).contains(&reader.pushed.len()),
        "what does not fit into 64 KiB is lost: {}",
        reader.pushed.len()
    );
}

#[test]
fn a_slow_reader_costs_its_outbox_and_nobody_else() {
    let (relay, mut poster) = with_mailbox();
    let (mut slow, mut quick) = (relay.connect(), relay.connect());
    slow.open(u32::MAX);
    quick.open_as(OTHER, READ_KEY, u32::MAX);
    let envelope = vec![7; 10_000];
    for id in 1..=60 {
        assert!(matches!(poster.ask(post(id, &envelope)), ServerBody::Posted { .. }));
        slow.work();
        assert_eq!(quick.delivered(), [u64::from(id)]);
    }
    let mut waiting = 0;
    while slow.take_one() {
        waiting += 1;
    }
    assert!((5..8).contains(&waiting), "64 KiB hold six of these: {waiting}");
    let rest = slow.delivered();
    assert_eq!(rest, (1..=60).collect::<Vec<_>>(), "it catches up from the store");
    poster.post(61);
    assert_eq!(slow.delivered(), [61]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However posts, credit, taking and reconnecting interleave: the seqs of an opening have no holes,
    /// credit is never exceeded, and with enough of it everything arrives.
    #[test]
    fn deliveries_have_no_holes(steps in proptest::collection::vec((0u8..6, 0u32..4), 1..80)) {
        let (relay, mut poster) = with_mailbox();
        let mut reader = relay.connect();
        let (mut credit, mut expected, mut posts) = (3u64, 1u64, 0u64);
        reader.open(3);
        let check = |seqs: Vec<u64>, expected: &mut u64, credit: &mut u64| {
            for seq in seqs {
                assert_eq!(seq, *expected);
                *expected += 1;
                assert!(*credit > 0, "more than the credit");
                *credit -= 1;
            }
        };
        for (step, number) in steps {
            match step {
                0 | 1 => {
                    posts += 1;
                    let body = vec![1; 100 + 9000 * number as usize];
                    assert!(matches!(poster.ask(post(posts as u8, &body)), ServerBody::Posted { .. }));
                    reader.work();
                }
                2 => { reader.take_one(); }
                3 => check(reader.delivered(), &mut expected, &mut credit),
                4 => {
                    check(reader.delivered(), &mut expected, &mut credit);
                    reader.ack(expected - 1, number);
                    credit += u64::from(number);
                }
                _ => {
                    reader = relay.connect();
                    let cursor = reader.open(number).cursor;
                    (credit, expected) = (number.into(), cursor + 1);
                }
            }
        }
        reader.ack(0, 1000);
        credit += 1000;
        check(reader.delivered(), &mut expected, &mut credit);
        prop_assert_eq!(expected, posts + 1);
    }
}

/// Readers that take nothing, and a budget that is much less than they could hold.
#[test]
fn what_all_clients_hold_is_bounded_and_those_who_take_are_served() {
    const BUDGET: usize = 1 << 20;
    let relay = TestRelay::new(Setup { memory_bytes: BUDGET, outbox_bytes: 256 * 1024, ..Setup::default() });
    let mut poster = relay.connect();
    poster.create();
    let readers = (0..110u8).map(|n| ReaderId([100 + n; 16]));
    let admit = readers.clone().map(|id| Reader { id, key_hash: key_hash(READ_KEY) }).collect();
    assert!(matches!(poster.ask(turning(1, admit, vec![])), ServerBody::Posted { seq: 1 }));
    let mut deaf: Vec<_> = readers
        .map(|id| {
            let mut client = relay.connect();
            client.open_as(id, READ_KEY, 1_000_000);
            client
        })
        .collect();
    let mut hearing = relay.connect();
    hearing.open(1_000_000);
    assert_eq!(hearing.delivered(), [1]);
    for id in 2..=200u8 {
        assert!(matches!(poster.ask(post(id, &[id; 8000])), ServerBody::Posted { .. }));
        assert_eq!(hearing.delivered(), [u64::from(id)], "it is served at once");
        deaf.iter_mut().for_each(Client::work);
        assert!(relay.context.budget.used() <= BUDGET, "{} bytes are held", relay.context.budget.used());
    }
    assert!(relay.context.budget.is_short(), "or this has shown nothing");
    // Nothing is lost to them: who reads at last gets all, in order.
    assert!(deaf[7].delivered().into_iter().eq(2..=200));
    drop((deaf, hearing, poster));
    assert_eq!(relay.context.budget.used(), 0, "all is given back");
}

#[test]
fn a_lost_envelope_is_told_and_passed_over() {
    let relay = TestRelay::new(Setup {
        wrap: |mailboxes| Arc::new(Held(mailboxes, Trouble::Lost(2))),
        ..Setup::default()
    });
    let mut poster = relay.connect();
    poster.create();
    for id in 1..=4 {
        poster.post(id);
    }
    let mut reader = relay.connect();
    reader.open(3);
    assert_eq!(reader.delivered(), [1, 3, 4], "a lost one takes no credit");
    let lost = reader.pushed.iter().find_map(|body| match body {
        ServerBody::Lost { mailbox, seq, reason } => Some((*mailbox, *seq, reason.code)),
        _ => None,
    });
    assert_eq!(lost, Some((MAILBOX, 2, Some(ErrorCode::Damaged))));
    assert_eq!(reader.ask(ack(4, 0)), ServerBody::Done);
    assert_eq!(relay.connect().open(0).cursor, 4);
}
