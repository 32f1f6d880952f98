//! The relay's proof of its identity, on whatever connection.

use posthorn_proto::auth::{Challenge, Proof};
use posthorn_proto::frame::{ProveRelay, Request, ServerBody};
use posthorn_proto::proof::RelayCheck;
use posthorn_proto::{ErrorCode, RelayIdentity};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::support::*;
use crate::config::Rates;

fn question(check: &RelayCheck) -> Request {
    Request::ProveRelay(ProveRelay { ephemeral: check.ephemeral() })
}

fn proven(client: &mut Client, check: &RelayCheck) -> Proof {
    match client.ask(question(check)) {
        ServerBody::RelayProven(proof) => proof,
        other => panic!("not proven: {other:?}"),
    }
}

#[test]
fn a_relay_proves_itself_to_strangers_and_to_devices() {
    let relay = TestRelay::new(Setup::default());
    let mut rng = StdRng::from_seed([8; 32]);
    let mut stranger = relay.connect();
    let hello = stranger.hello();
    let check = RelayCheck::new(&mut rng);
    let proof = proven(&mut stranger, &check);
    check.verify(&hello.challenge, &proof).expect("the relay holds its key");
    assert_eq!(stranger.session.device(), None);

    let impostor = Challenge { relay_identity: RelayIdentity([9; 32]), ..hello.challenge };
    check.verify(&impostor, &proof).expect_err("another relay's identity");
    let mut other = relay.connect();
    let greeting = other.hello();
    check.verify(&greeting.challenge, &proof).expect_err("a proof is good for one connection");
    check.verify(&hello.challenge, &proven(&mut other, &check)).expect_err("and for no other");

    assert!(matches!(other.ask(registration(&greeting, 1, "alice", "")), ServerBody::Registered(_)));
    let check = RelayCheck::new(&mut rng);
    check.verify(&greeting.challenge, &proven(&mut other, &check)).expect("authenticated or not");
}

#[test]
fn a_low_order_point_is_refused() {
    let relay = TestRelay::new(Setup::default());
    let mut client = relay.connect();
    let low = Request::ProveRelay(ProveRelay { ephemeral: [0; 32] });
    assert_eq!(client.refused(low), ErrorCode::BadRequest);
    assert_eq!(client.ask(Request::Ping), ServerBody::Done, "the connection goes on");
}

#[test]
fn a_connection_gets_eight_proofs() {
    let relay = TestRelay::new(Setup::default());
    let mut client = relay.connect();
    let check = RelayCheck::new(&mut StdRng::from_seed([8; 32]));
    let low = Request::ProveRelay(ProveRelay { ephemeral: [0; 32] });
    assert_eq!(client.refused(low), ErrorCode::BadRequest, "it is counted, too");
    for _ in 1..8 {
        proven(&mut client, &check);
    }
    for _ in 0..2 {
        assert_eq!(client.refused(question(&check)), ErrorCode::RateLimited);
    }
    relay.pass(86_400_000);
    assert_eq!(client.refused(question(&check)), ErrorCode::RateLimited, "time does not help");
    assert_eq!(client.ask(Request::Ping), ServerBody::Done);
    proven(&mut relay.connect(), &check);
}

#[test]
fn proofs_take_part_in_the_rate() {
    let rates = Rates { requests_per_second: 1, requests_burst: 2, ..Rates::off() };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut client = relay.connect();
    let check = RelayCheck::new(&mut StdRng::from_seed([8; 32]));
    proven(&mut client, &check);
    proven(&mut client, &check);
    let ServerBody::Error(refusal) = client.ask(question(&check)) else { panic!("refused") };
    assert_eq!((refusal.code, refusal.retry_after_ms), (Some(ErrorCode::RateLimited), 1000));
}
