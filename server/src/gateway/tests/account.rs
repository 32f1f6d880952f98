//! The account connection: registering, authenticating, and what needs it.

use std::net::IpAddr;

use bytes::Bytes;
use futures_util::FutureExt as _;
use posthorn_proto::auth::Proof;
use posthorn_proto::frame::{PublishCard, PublishKeyPackages, Request, ServerBody};
use posthorn_proto::{ErrorCode, Handle};

use super::support::*;
use crate::config::Rates;
use crate::outbox::Ending;

fn handle(text: &str) -> Handle {
    Handle::parse(text).expect("a handle")
}

#[test]
fn an_invite_makes_an_account_and_both_sides_prove_themselves() {
    let relay = TestRelay::new(Setup { open_registration: false, ..Setup::default() });
    relay.mint("abcd-efgh", 1);
    let mut stranger = relay.connect();
    assert_eq!(code(stranger.register(1, "alice", "wrong")), ErrorCode::InviteInvalid);
    let mut alice = relay.connect();
    let hello = alice.hello();
    let ServerBody::Registered(proof) = alice.ask(registration(&hello, 1, "alice", "ABCD EFGH")) else {
        panic!("not registered")
    };
    account_key(&hello, 1).check_relay(&proof).expect("the relay holds its key");
    let again = alice.ask(registration(&hello, 1, "alice", "abcdefgh"));
    assert!(matches!(again, ServerBody::Registered(_)), "repeating is harmless");
    assert_eq!(code(relay.connect().register(2, "bob", "abcd-efgh")), ErrorCode::InviteInvalid, "used up");

    let mut later = relay.connect();
    let hello = later.hello();
    let key = account_key(&hello, 1);
    let ServerBody::Authenticated(proof) = later.ask(authentication(1, key.device_proof())) else {
        panic!("not authenticated")
    };
    key.check_relay(&proof).expect("the relay holds its key");
    assert!(later.session.device().is_some());
    assert_eq!(code(later.ask(registration(&hello, 2, "bob", "x"))), ErrorCode::BadRequest, "another device");
}

#[test]
fn a_replayed_or_wrong_proof_fails_and_five_end_the_connection() {
    let relay = TestRelay::new(Setup::default());
    let mut alice = relay.connect();
    let hello = alice.hello();
    assert!(matches!(alice.ask(registration(&hello, 1, "alice", "")), ServerBody::Registered(_)));
    let replayed = account_key(&hello, 1).device_proof();
    let mut mallory = relay.connect();
    assert_eq!(mallory.refused(authentication(1, replayed)), ErrorCode::AuthenticationFailed);
    assert_eq!(
        mallory.refused(authentication(9, Proof([0; 32]))),
        ErrorCode::AuthenticationFailed,
        "no such device"
    );
    for _ in 0..3 {
        assert_eq!(mallory.session.ending(), None);
        assert_eq!(mallory.refused(authentication(1, Proof([0; 32]))), ErrorCode::AuthenticationFailed);
    }
    assert_eq!(mallory.session.ending(), Some(Ending::FLOOD));
    assert_eq!(mallory.session.device(), None);
}

#[test]
fn account_requests_need_an_authenticated_device() {
    let relay = TestRelay::new(Setup::default());
    let mut nobody = relay.connect();
    let card = PublishCard { version: 1, card: Bytes::from_static(b"card") };
    let packages = PublishKeyPackages { one_time: vec![], last_resort: None };
    for request in [
        Request::PublishCard(card.clone()),
        Request::PublishKeyPackages(packages),
        Request::creation_tokens(vec![]),
    ] {
        assert_eq!(nobody.refused(request), ErrorCode::Unauthenticated);
    }
    let mut alice = relay.connect();
    alice.register(1, "alice", "");
    assert_eq!(alice.ask(Request::PublishCard(card)), ServerBody::Done);
    let stale = PublishCard { version: 1, card: Bytes::from_static(b"other") };
    assert_eq!(alice.refused(Request::PublishCard(stale)), ErrorCode::CardStale);
    assert!(matches!(alice.ask(Request::LookUp(handle("alice"))), ServerBody::Card(c) if c.version == 1));
    assert_eq!(alice.refused(Request::LookUp(handle("nobody"))), ErrorCode::HandleUnknown);
    assert_eq!(code(relay.connect().register(2, "alice", "")), ErrorCode::HandleTaken);
}

/// Also on a connection that was authenticated before.
#[test]
fn the_device_of_a_removed_account_is_nobodys() {
    let relay = TestRelay::new(Setup::default());
    let (mut alice, mut bob) = (relay.connect(), relay.connect());
    alice.register(1, "alice", "");
    bob.register(2, "bob", "");
    let removed = relay.context.directory.remove_account(handle("alice"));
    assert_eq!(removed.now_or_never(), Some(Ok(())));
    let card = PublishCard { version: 1, card: Bytes::from_static(b"card") };
    for request in [
        Request::PublishCard(card),
        Request::PublishKeyPackages(PublishKeyPackages { one_time: vec![], last_resort: None }),
        Request::LookUp(handle("bob")),
        Request::TakeKeyPackages(handle("bob")),
        Request::creation_tokens(vec![]),
    ] {
        assert_eq!(alice.refused(request), ErrorCode::AuthenticationFailed);
    }
    assert_eq!(bob.refused(Request::LookUp(handle("alice"))), ErrorCode::HandleUnknown);
    assert_eq!(code(relay.connect().register(1, "alice", "")), ErrorCode::AuthenticationFailed);
    assert!(matches!(relay.connect().register(3, "alice", ""), ServerBody::Registered(_)));
}

/// Its device asks: the name is free for somebody else, the device id for nobody.
#[test]
fn an_account_is_removed_by_its_device() {
    let relay = TestRelay::new(Setup::default());
    let (mut alice, mut bob) = (relay.connect(), relay.connect());
    assert_eq!(relay.connect().refused(Request::RemoveAccount), ErrorCode::Unauthenticated);
    alice.register(1, "alice", "");
    bob.register(2, "bob", "");
    assert_eq!(alice.ask(Request::RemoveAccount), ServerBody::Done);
    assert_eq!(alice.refused(Request::RemoveAccount), ErrorCode::AuthenticationFailed);
    assert_eq!(bob.refused(Request::LookUp(handle("alice"))), ErrorCode::HandleUnknown);
    assert!(matches!(bob.ask(Request::LookUp(handle("bob"))), ServerBody::Card(_)), "nobody else's");
    assert_eq!(code(relay.connect().register(1, "alice", "")), ErrorCode::AuthenticationFailed);
    assert!(matches!(relay.connect().register(3, "alice", ""), ServerBody::Registered(_)));
}

fn publish(client: &mut Client, one_time: &[&'static [u8]]) -> ServerBody {
    client.ask(Request::PublishKeyPackages(PublishKeyPackages {
        one_time: one_time.iter().map(|package| Bytes::from_static(package)).collect(),
        last_resort: Some(Bytes::from_static(b"last")),
    }))
}

#[test]
fn takes_are_limited_by_asker_and_by_target() {
    let rates = Rates {
        takes_per_asker_per_hour: 5,
        takes_per_target_per_hour: 4,
        takes_per_asker_and_target_per_hour: 3,
        ..Rates::off()
    };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut alice = relay.connect();
    alice.register(1, "alice", "");
    assert!(matches!(publish(&mut alice, &[b"one"]), ServerBody::KeyPackageStock { one_time: 1, .. }));
    let take = || Request::TakeKeyPackages(handle("alice"));
    let (mut bob, mut carol) = (relay.connect(), relay.connect());
    bob.register(2, "bob", "");
    carol.register(3, "carol", "");
    let ServerBody::KeyPackages(first) = bob.ask(take()) else { panic!("taken") };
    assert!(!first[0].last_resort);
    let ServerBody::KeyPackages(second) = bob.ask(take()) else { panic!("taken") };
    assert!(second[0].last_resort);
    bob.ask(take());
    let ServerBody::Error(refusal) = bob.ask(take()) else { panic!("one asker has three") };
    assert_eq!(refusal.code, Some(ErrorCode::RateLimited));
    assert_eq!(refusal.retry_after_ms, 1_200_000, "the next in a third of an hour");
    assert!(matches!(carol.ask(take()), ServerBody::KeyPackages(_)), "what one asks does not stop another");
    assert_eq!(carol.refused(take()), ErrorCode::RateLimited, "the target grants four to all");
    relay.pass(3_600_000);
    assert!(matches!(bob.ask(take()), ServerBody::KeyPackages(_)));
}

#[test]
fn registrations_are_limited_by_address() {
    let rates = Rates { registrations_per_address_per_hour: 1, ..Rates::off() };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let register = |from: Option<&str>, device: u8| {
        let address = from.map(|text| text.parse::<IpAddr>().expect("address"));
        relay.connect_from(address).register(device, &format!("user{device}"), "")
    };
    for (device, address) in [(1, "192.0.2.1"), (2, "192.0.2.2"), (3, "127.0.0.1"), (4, "2001:db8::1")] {
        assert!(matches!(register(Some(address), device), ServerBody::Registered(_)), "{address}");
        assert_eq!(code(register(Some(address), 9)), ErrorCode::RateLimited, "{address}");
    }
    assert_eq!(code(register(Some("2001:db8::2"), 9)), ErrorCode::RateLimited, "the same /64");
    for device in 5..8 {
        assert!(matches!(register(None, device), ServerBody::Registered(_)), "exempt");
    }
}

#[test]
fn names_without_an_account_use_up_nothing_but_the_askers_own() {
    let rates = Rates {
        takes_per_asker_per_hour: 3,
        takes_per_target_per_hour: 9,
        takes_per_asker_and_target_per_hour: 9,
        ..Rates::off()
    };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut bob = relay.connect();
    bob.register(2, "bob", "");
    for n in 0..3 {
        let take = Request::TakeKeyPackages(handle(&format!("nobody{n}")));
        assert_eq!(bob.refused(take), ErrorCode::HandleUnknown);
    }
    assert_eq!(bob.refused(Request::TakeKeyPackages(handle("nobody3"))), ErrorCode::RateLimited);
    assert_eq!(relay.context.rates.takes_of_target.len(), 0, "nothing is remembered of who is nobody");
    assert_eq!(relay.context.rates.takes_by_asker_of_target.len(), 0);
}

/// What people of other relays ask: without an account, from this address.
fn stranger(relay: &TestRelay, address: &str) -> Client {
    relay.connect_from(Some(address.parse().expect("an address")))
}

#[test]
fn the_directory_tells_strangers_what_it_tells_anybody() {
    let relay = TestRelay::new(Setup::default());
    let (mut alice, mut bob) = (relay.connect(), relay.connect());
    alice.register(1, "alice", "");
    bob.register(2, "bob", "");
    publish(&mut alice, &[b"one", b"two"]);
    alice.ask(Request::PublishCard(PublishCard { version: 1, card: Bytes::from_static(b"card") }));
    let mut stranger = relay.connect();
    let (look_up, take) = (Request::LookUp(handle("alice")), Request::TakeKeyPackages(handle("alice")));
    assert_eq!(stranger.ask(look_up.clone()), bob.ask(look_up));
    let packages = |answer| match answer {
        ServerBody::KeyPackages(packages) => {
            packages.into_iter().map(|package| package.key_package).collect()
        }
        other => panic!("{other:?}"),
    };
    let taken: [Vec<Bytes>; 2] = [packages(stranger.ask(take.clone())), packages(bob.ask(take))];
    assert_eq!(taken, [[Bytes::from_static(b"one")], [Bytes::from_static(b"two")]]);
    for request in [Request::LookUp(handle("nobody")), Request::TakeKeyPackages(handle("nobody"))] {
        assert_eq!(stranger.refused(request.clone()), bob.refused(request));
    }
}

#[test]
fn a_closed_directory_says_that_an_account_is_needed() {
    let relay = TestRelay::new(Setup { open_directory: false, ..Setup::default() });
    let mut alice = relay.connect();
    alice.register(1, "alice", "");
    let mut stranger = relay.connect();
    for name in ["alice", "nobody"] {
        for request in [Request::LookUp(handle(name)), Request::TakeKeyPackages(handle(name))] {
            assert_eq!(stranger.refused(request), ErrorCode::AccountNeeded);
        }
    }
    assert!(matches!(alice.ask(Request::LookUp(handle("alice"))), ServerBody::Card(_)));
}

#[test]
fn strangers_are_limited_by_address() {
    let rates = Rates { strangers_per_address_per_hour: 2, ..Rates::off() };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let mut alice = relay.connect();
    alice.register(1, "alice", "");
    publish(&mut alice, &[]);
    let look_up = || Request::LookUp(handle("alice"));
    let mut first = stranger(&relay, "2001:db8::1");
    assert!(matches!(first.ask(look_up()), ServerBody::Card(_)));
    assert!(matches!(first.ask(Request::TakeKeyPackages(handle("alice"))), ServerBody::KeyPackages(_)));
    let mut neighbour = stranger(&relay, "2001:db8::2");
    for request in [look_up(), Request::LookUp(handle("nobody")), Request::TakeKeyPackages(handle("nobody"))]
    {
        assert_eq!(neighbour.refused(request), ErrorCode::RateLimited);
    }
    assert!(matches!(stranger(&relay, "2001:db8:1::1").ask(look_up()), ServerBody::Card(_)));
    for _ in 0..9 {
        assert!(matches!(alice.ask(look_up()), ServerBody::Card(_)), "devices pay as for any request");
    }
    relay.pass(1_800_000);
    assert!(matches!(neighbour.ask(look_up()), ServerBody::Card(_)));
}

#[test]
fn strangers_cannot_use_up_what_a_target_grants_to_everybody() {
    let rates = Rates {
        takes_per_target_per_hour: 3,
        takes_by_strangers_per_target_per_hour: 2,
        takes_per_asker_and_target_per_hour: 1,
        ..Rates::off()
    };
    let relay = TestRelay::new(Setup { rates, ..Setup::default() });
    let (mut alice, mut bob) = (relay.connect(), relay.connect());
    alice.register(1, "alice", "");
    bob.register(2, "bob", "");
    publish(&mut alice, &[]);
    let take = || Request::TakeKeyPackages(handle("alice"));
    let mut first = stranger(&relay, "192.0.2.1");
    assert!(matches!(first.ask(take()), ServerBody::KeyPackages(_)));
    assert_eq!(first.refused(take()), ErrorCode::RateLimited, "one from each address");
    assert!(matches!(stranger(&relay, "192.0.2.2").ask(take()), ServerBody::KeyPackages(_)));
    for address in 3..9 {
        let mut next = stranger(&relay, &format!("192.0.2.{address}"));
        assert_eq!(next.refused(take()), ErrorCode::RateLimited, "two for all strangers");
    }
    assert!(matches!(bob.ask(take()), ServerBody::KeyPackages(_)), "the third is for who is known");
}
