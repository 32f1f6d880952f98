//! A post that waits for the disk holds up nothing else, and posts keep their order.

use std::sync::Arc;

use posthorn_proto::frame::{Request, ServerBody};
use posthorn_proto::{Limits, PostId};

use super::held::{CAME, GATE, Held, Trouble};
use super::support::*;

#[test]
fn requests_overtake_a_post_that_waits_and_posts_keep_their_order() {
    let limits = Limits { requests_in_flight: 4, ..Limits::default() };
    let relay = TestRelay::new(Setup {
        limits,
        wrap: |store| Arc::new(Held(store, Trouble::Busy)),
        ..Setup::default()
    });
    let mut client = relay.connect();
    client.create();
    for id in 1..=3 {
        client.send(post(id, b"x"));
    }
    assert_eq!(*CAME.lock(), [PostId([1; 16]), PostId([2; 16]), PostId([3; 16])], "in the order sent");
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
