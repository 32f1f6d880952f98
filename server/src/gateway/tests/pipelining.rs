//! A post that waits for the disk holds up nothing else, and posts keep their order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use posthorn_proto::frame::{Request, ServerBody};
use posthorn_proto::{ErrorCode, Limits, Reader, ReaderId};

use super::held::{CAME, GATE, Held, OPENED, Trouble};
use super::support::*;

#[test]
fn requests_overtake_a_post_that_waits_and_posts_keep_their_order() {
    let limits = Limits { requests_in_flight: 4, ..Limits::default() };
    let relay = TestRelay::new(Setup {
        limits,
        wrap: |mailboxes| Arc::new(Held(mailboxes, Trouble::Busy)),
        ..Setup::default()
    });
    let mut client = relay.connect();
    client.create();
    for id in 1..=3 {
        client.send(post(id, b"x"));
    }
    assert_eq!(*CAME.lock(), [1, 2, 3].map(post_id), "in the order sent");
    assert_eq!(client.ask(Request::Ping), ServerBody::Done, "answered at once");
    assert!(client.session.accepts_frames());
    client.send(post(4, b"x"));
    assert!(!client.session.accepts_frames(), "four are unanswered");
    assert_eq!(client.session.unanswered(), 4);
    GATE.add_permits(2);
    client.pump();
    let seqs: Vec<ServerBody> = client.answers.drain(..).map(|(_, body)| body).collect();
    assert_eq!(seqs, [ServerBody::Posted { seq: 1 }, ServerBody::Posted { seq: 2 }]);
    assert!(client.session.accepts_frames());
    drop(client);
    GATE.add_permits(10);
}

/// Whoever may open nothing costs the store's writer nothing. But a turn that waits may admit them.
#[test]
fn an_opening_that_will_be_refused_does_not_reach_the_writer() {
    let relay = TestRelay::new(Setup {
        wrap: |mailboxes| Arc::new(Held(mailboxes, Trouble::Hung)),
        ..Setup::default()
    });
    let mut client = relay.connect();
    client.create();
    let stranger = ReaderId([7; 16]);
    let refused = |client: &mut Client, reader, key| match client.ask(open(reader, key, 1)) {
        ServerBody::Opened(mut results) => results.pop().expect("one").result.expect_err("refused").code,
        other => panic!("not answered: {other:?}"),
    };
    assert_eq!(refused(&mut client, stranger, READ_KEY), Some(ErrorCode::ReaderUnknown));
    assert_eq!(refused(&mut client, READER, [0; 32]), Some(ErrorCode::ReadKeyWrong));
    assert_eq!((OPENED.load(Ordering::Relaxed), relay.context.hub.openings()), (0, 0));
    client.open(1);
    assert_eq!(OPENED.load(Ordering::Relaxed), 1);
    client.send(turning(1, vec![Reader { id: stranger, key_hash: key_hash(READ_KEY) }], vec![]));
    refused(&mut client, stranger, READ_KEY);
    assert_eq!(OPENED.load(Ordering::Relaxed), 2, "the writer knows better");
}
