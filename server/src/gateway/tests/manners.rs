//! Bad input, limits and rates: a code or a closed connection, never growth (R7, R9).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use posthorn_proto::frame::{Open, Opening, Request, ServerBody, Signal};
use posthorn_proto::{ErrorCode, Limits, MailboxId, PostId, PostKey, ReadKey, Reader, ReaderId};

use super::support::*;
use crate::config::Rates;
use crate::outbox::{ANSWER_BYTES, Ending};
use crate::store::Clock as _;

#[test]
fn hello_comes_first_and_says_what_is_accepted() {
    let relay = TestRelay::new(Setup::default());
    let (mut first, mut second) = (relay.connect(), relay.connect());
    let (one, two) = (first.hello(), second.hello());
    assert_eq!((one.version, one.limits), (1, Limits::default()));
    assert_eq!(one.challenge.relay_identity, relay.context.identity());
    assert_eq!(one.challenge.ephemeral, two.challenge.ephemeral);
    assert_ne!(one.challenge.nonce, two.challenge.nonce);
    assert_eq!(first.ask(Request::Ping), ServerBody::Done);
}

/// The machine's clock was set back: a post with an id of the time that is told is taken all the same.
#[test]
fn hello_tells_the_time_by_which_ids_are_judged() {
    let relay = TestRelay::new(Setup::default());
    relay.connect().create();
    relay.pass(3_600_000);
    assert_eq!(relay.connect().hello().time, 1_800_003_600);
    relay.clock.1.store(48 * 3600, Ordering::Relaxed);
    relay.pass(60_000);
    let mut client = relay.connect();
    let time = client.hello().time;
    assert_eq!(time, 1_800_003_660, "the relay does not believe such a step");
    let Request::Post(mut new) = post(1, b"envelope") else { unreachable!("it is a post") };
    new.post_id = PostId::at(time, [1; 12]);
    assert_eq!(client.ask(Request::Post(new)), ServerBody::Posted { seq: 1 });
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    let relay = TestRelay::new(Setup::default());
    let mut client = relay.connect();
    client.send_bytes(Bytes::from_static(b"\x08\x07\x52\x0a\x0a"));
    assert_eq!(client.session.ending(), Some(Ending::BAD_FRAME));
    client.send(Request::Ping);
    client.pump();
    assert!(client.answers.is_empty(), "nothing is done after that");
}

#[test]
fn bad_requests_are_answered_until_they_are_too_many() {
    let rates = Rates { bad_requests_per_minute: 10, ..Rates::off() };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut client = relay.connect();
    // Close of a mailbox with a name of three bytes, request 7.
    let bad = Bytes::from_static(b"\x08\x07\x7a\x05\x0a\x03\x01\x02\x03");
    for _ in 0..10 {
        client.send_bytes(bad.clone());
        client.pump();
        let (number, body) = client.answers.pop_front().expect("an answer");
        assert_eq!((number, code(body)), (7, ErrorCode::BadRequest));
    }
    assert_eq!(client.session.ending(), None);
    client.send_bytes(bad);
    assert_eq!(client.session.ending(), Some(Ending::FLOOD));
}

#[test]
fn announced_limits_are_kept() {
    let limits = Limits {
        envelope_bytes: 4096,
        signal_bytes: 256,
        openings_per_request: 2,
        openings_per_connection: 3,
        readers_per_mailbox: 2,
        ..Limits::default()
    };
    let relay = TestRelay::new(Setup { limits, ..Setup::default() });
    let mut client = relay.connect();
    client.create();
    assert_eq!(client.refused(post(1, &[0; 4097])), ErrorCode::TooLarge);
    assert!(matches!(client.ask(post(1, &[0; 4096])), ServerBody::Posted { seq: 1 }));
    let open = |names: &[u8]| {
        let opening = |name: &u8| Opening {
            mailbox: MailboxId([*name; 16]),
            reader: READER,
            read_key: ReadKey::from_bytes(READ_KEY),
            claim: None,
            credit: 1,
        };
        Request::Open(Open { openings: names.iter().map(opening).collect() })
    };
    assert_eq!(client.refused(open(&[1, 2, 3])), ErrorCode::TooLarge);
    assert_eq!(client.refused(open(&[1, 1])), ErrorCode::BadRequest);
    let ServerBody::Opened(results) = client.ask(open(&[0xaa, 1])) else { panic!("answered") };
    assert!(results[0].result.is_ok());
    let refusal = results[1].result.as_ref().expect_err("there is no such mailbox");
    assert_eq!(refusal.code, Some(ErrorCode::MailboxUnknown));
    assert_eq!(relay.context.hub.openings(), 1, "a refused opening listens no more");
}

#[test]
fn an_open_that_is_too_large_takes_no_room() {
    let limits = Limits { openings_per_connection: 1, ..Limits::default() };
    let relay = TestRelay::new(Setup { limits, ..Setup::default() });
    let mut client = relay.connect();
    client.create();
    let Request::Open(one) = open(READER, READ_KEY, 1) else { panic!("it opens") };
    let other = Opening { mailbox: MailboxId([1; 16]), ..one.openings[0].clone() };
    let both = Request::Open(Open { openings: vec![one.openings[0].clone(), other] });
    assert_eq!(client.refused(both), ErrorCode::TooLarge);
    let ServerBody::Opened(results) = client.ask(Request::Open(one)) else { panic!("answered") };
    assert!(results[0].result.is_ok(), "{results:?}");
}

#[test]
fn requests_above_the_rate_are_told_when_to_come_back() {
    let rates = Rates { requests_per_second: 10, requests_burst: 5, ..Rates::off() };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut client = relay.connect();
    for _ in 0..5 {
        assert_eq!(client.ask(Request::Ping), ServerBody::Done);
    }
    let ServerBody::Error(refusal) = client.ask(Request::Ping) else { panic!("refused") };
    assert_eq!((refusal.code, refusal.retry_after_ms), (Some(ErrorCode::RateLimited), 100));
    relay.pass(100);
    assert_eq!(client.ask(Request::Ping), ServerBody::Done);
    for _ in 0..4 {
        client.ack(0, 0);
    }
    assert_eq!(client.session.ending(), None, "acks may go into debt");
    for _ in 0..4 {
        client.ack(0, 0);
    }
    assert_eq!(client.session.ending(), Some(Ending::FLOOD), "to an end");
}

/// How many requests are left of a burst, found out by using it up.
fn left(client: &mut Client) -> u32 {
    let mut count = 0;
    while client.ask(Request::Ping) == ServerBody::Done {
        count += 1;
    }
    count
}

/// Forty who listen to the mailbox, to which this client admits them.
fn listeners(relay: &TestRelay, client: &mut Client) -> Vec<Client> {
    let listen = |n: u8| {
        let mut listener = relay.connect();
        let reader = Reader { id: ReaderId([100 + n; 16]), key_hash: key_hash(READ_KEY) };
        let Request::Post(mut post) = turning(100 + n, vec![reader], vec![]) else { unreachable!("it is") };
        post.post_id = PostId::at(relay.clock.unix_seconds(), [100 + n; 12]);
        client.ask(Request::Post(post));
        relay.pass(20_000);
        listener.open_as(reader.id, READ_KEY, 0);
        listener
    };
    (0..40).map(listen).collect()
}

fn signal() -> Request {
    let payload = Bytes::from_static(b"typing");
    Request::Signal(Signal { mailbox: MAILBOX, post_key: PostKey::from_bytes(POST_KEY), payload })
}

/// Finding M2: an opening cost a sixteenth of a post, and bytes and listeners nothing.
#[test]
fn a_request_costs_what_it_costs() {
    let rates = Rates { requests_per_second: 10, requests_burst: 100, ..Rates::off() };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut client = relay.connect();
    client.create();
    relay.pass(20_000);
    let opening = |name: u8| Opening {
        mailbox: MailboxId([name; 16]),
        reader: READER,
        read_key: ReadKey::from_bytes(READ_KEY),
        claim: None,
        credit: 1,
    };
    client.ask(Request::Open(Open { openings: (1..=40).map(opening).collect() }));
    assert_eq!(left(&mut client), 100 - 41);
    relay.pass(20_000);
    client.ask(post(1, &[0; 100_000]));
    assert_eq!(left(&mut client), 100 - 7);
    relay.pass(20_000);
    let _listeners = listeners(&relay, &mut client);
    assert_eq!(client.ask(signal()), ServerBody::Done);
    assert_eq!(left(&mut client), 100 - 1 - 40 / 8);
}

/// What a signal cost more was charged to the address only if the next request had a number and was within
/// the connection's own rate.
#[test]
fn an_address_pays_for_signals_whatever_comes_next() {
    let rates = Rates {
        requests_per_second: 10,
        requests_burst: 100,
        requests_per_address_per_second: 50,
        ..Rates::off()
    };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let address = Some("192.0.2.1".parse().expect("an address"));
    let left_of_address = || (0..3).map(|_| left(&mut relay.connect_from(address))).sum::<u32>();
    let mut client = relay.connect_from(address);
    client.create();
    let _listeners = listeners(&relay, &mut client);
    assert_eq!(client.ask(signal()), ServerBody::Done);
    client.ack(0, 0);
    assert_eq!(left_of_address(), 200 - 1 - 40 / 8);
    relay.pass(20_000);
    for _ in 0..99 {
        assert_eq!(client.ask(Request::Ping), ServerBody::Done);
    }
    assert_eq!(client.ask(signal()), ServerBody::Done);
    assert_eq!(client.refused(Request::Ping), ErrorCode::RateLimited);
    assert_eq!(left_of_address(), 200 - 100 - 40 / 8);
}

#[test]
fn who_does_not_take_its_answers_is_not_asked_for_more() {
    let relay = TestRelay::new(Setup::default());
    let mut client = relay.connect();
    client.create();
    let mut asked = 0;
    while client.session.accepts_frames() {
        client.send(Request::Ping);
        asked += 1;
        assert!(asked < 100_000, "there is an end");
    }
    assert!(client.session.outbox().answer_bytes() <= ANSWER_BYTES + 1024);
    client.pump();
    assert!(client.session.accepts_frames());
    // Acks without number that are refused fill the same room.
    while client.session.accepts_frames() {
        client.send_as(
            0,
            Request::Ack(posthorn_proto::frame::Ack { mailbox: MailboxId([1; 16]), seq: 0, credit: 0 }),
        );
        asked += 1;
        assert!(asked < 100_000, "there is an end");
    }
}

#[test]
fn a_stopping_relay_refuses_new_requests() {
    let relay = TestRelay::new(Setup::default());
    let mut client = relay.connect();
    client.create();
    client.open(10);
    client.post(1);
    relay.context.drain();
    client.session.going_away(500);
    assert_eq!(client.refused(post(2, b"x")), ErrorCode::ShuttingDown);
    client.ack(1, 0);
    client.pump();
    assert!(client.pushed.contains(&ServerBody::GoingAway { reconnect_after_ms: 500 }));
    let state = relay.connect().session;
    drop(state);
}
