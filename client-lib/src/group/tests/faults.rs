//! What happens when something fails: rollbacks, replays, forgeries. The session is always as before, and
//! goes on.

use super::party::{Party, TALK, gather};
use crate::group::{Change, Group, GroupError, KeyPackageKind, PendingJoin, Received};

fn two() -> [Party; 2] {
    let mut parties = ["alice", "bob"].map(Party::new);
    gather(&mut parties);
    parties
}

#[test]
fn after_a_rollback_the_same_message_decrypts_again() {
    let [mut alice, mut bob] = two();
    let (first, second) = (alice.say(b"one"), alice.say(b"two"));
    bob.pretend(|provider, _| {
        let mut session = Group::load(provider, &TALK).expect("stored");
        assert!(matches!(session.receive(&first, &[]), Ok(Received::Message { .. })));
        assert!(matches!(session.receive(&second, &[]), Ok(Received::Message { .. })));
    });
    assert_eq!(bob.hear(&first).expect("decrypts").1, b"one");
    assert_eq!(bob.hear(&second).expect("decrypts").1, b"two");
}

#[test]
fn after_a_rollback_the_same_commit_applies_again() {
    let [mut alice, mut bob] = two();
    let staged = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    bob.pretend(|provider, _| {
        let mut session = Group::load(provider, &TALK).expect("stored");
        let Ok(Received::Commit(change)) = session.receive(&staged.commit, &[]) else { panic!("a commit") };
        session.apply(*change).expect("applies");
        assert_eq!(session.epoch(), 2);
    });
    assert_eq!(bob.talk(|session, _| session.epoch()), 1);
    bob.follow(&staged.commit).expect("applies");
    assert_eq!(bob.talk(|session, _| session.epoch()), 2);
}

#[test]
fn after_a_rollback_a_staged_commit_is_not_pending() {
    let [mut alice, mut bob] = two();
    let change = Change { update_self: true, ..Change::default() };
    alice.pretend(|provider, me| {
        Group::load(provider, &TALK).expect("stored").stage(&me.leaf(), &change, b"").expect("stages");
    });
    let staged = alice.stage(&change).expect("nothing is pending");
    alice.merge();
    bob.follow(&staged.commit).expect("applies");
}

#[test]
fn a_staged_commit_counts_once_and_in_its_own_conversation() {
    use crate::group::GroupId;
    let [mut alice, mut bob] = two();
    let staged = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    bob.act(|provider, me| {
        let mut session = Group::load(provider, &TALK).expect("stored");
        let mut receive = || match session.receive(&staged.commit, &[]) {
            Ok(Received::Commit(change)) => *change,
            other => panic!("not a commit: {other:?}"),
        };
        let (one, two, three) = (receive(), receive(), receive());
        let id = GroupId([1; 16]);
        let info = super::party::info("other");
        let mut other = Group::create(provider, &me.leaf(), id, &info).expect("created");
        assert!(matches!(other.apply(one), Err(GroupError::WrongConversation)));
        session.apply(two).expect("applies");
        assert!(matches!(session.apply(three), Err(GroupError::WrongEpoch { got: 2, ours: 3 })));
    });
}

#[test]
fn a_pending_commit_survives_a_restart() {
    let [mut alice, mut bob] = two();
    let staged = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    // Every `talk` loads the session from the database, as after a crash.
    alice.talk(|session, _| {
        assert!(session.has_pending());
        assert!(matches!(session.receive(&staged.commit, &[]), Ok(Received::OwnCommit)));
        let outcome = session.merge_pending().expect("pending");
        assert_eq!(outcome.keys.expect("stays").turn, staged.outcome.keys.clone().expect("stays").turn);
    });
    bob.follow(&staged.commit).expect("applies");
    let message = bob.say(b"x");
    alice.hear(&message).expect("decrypts");
}

#[test]
fn replays_and_forgeries_change_nothing() {
    let [mut alice, mut bob] = two();
    let (first, second) = (alice.say(b"one"), alice.say(b"two"));
    bob.hear(&first).expect("decrypts");
    let replay = bob.hear(&first);
    assert!(matches!(replay, Err(GroupError::Decrypt)), "{replay:?}");
    // In one transaction: every bent copy is refused, then the true message still decrypts.
    bob.talk(|session, _| {
        for at in [40, second.len() / 2, second.len() - 1] {
            let mut bent = second.clone();
            bent[at] ^= 1;
            let refused = session.receive(&bent, &[]);
            assert!(matches!(refused, Err(GroupError::Decrypt)), "{at}: {refused:?}");
        }
        assert!(matches!(session.receive(&second, &[]), Ok(Received::Message { .. })));
    });
}

#[test]
fn what_is_no_message_of_ours_is_told_apart() {
    let [mut alice, mut bob] = two();
    let [mut carol, mut dave] = ["carol", "dave"].map(Party::new);
    let message = alice.say(b"x");
    let package = carol.key_package(KeyPackageKind::OneTime);
    let add = vec![carol.offer(&mut alice)];
    let welcome = alice.stage(&Change { add, ..Change::default() }).expect("stages").welcome.expect("added");
    for junk in [&b""[..], b"junk", &[0; 300], &message[..message.len() - 1], &package, &welcome] {
        let refused = bob.talk(|session, _| session.receive(junk, &[]));
        assert!(matches!(refused, Err(GroupError::Malformed)), "{refused:?}");
    }
    let long = vec![0; 17 * 1024 * 1024];
    assert!(matches!(bob.talk(|session, _| session.receive(&long, &[])), Err(GroupError::Malformed)));
    for junk in [&b""[..], b"junk", &message, &package] {
        let refused = dave.act(|provider, me| PendingJoin::new(provider, &me.leaf(), junk).map(|_| ()));
        assert!(matches!(refused, Err(GroupError::Malformed)), "{refused:?}");
    }
    let refused = dave.act(|provider, me| PendingJoin::new(provider, &me.leaf(), &welcome).map(|_| ()));
    assert!(matches!(refused, Err(GroupError::NoKeyPackage)), "{refused:?}");
}

#[test]
fn a_bent_welcome_does_not_use_up_the_key_package() {
    let (mut alice, mut bob) = (Party::new("alice"), Party::new("bob"));
    alice.start();
    let add = vec![bob.offer(&mut alice)];
    let welcome = alice.stage(&Change { add, ..Change::default() }).expect("stages").welcome.expect("added");
    let mut bent = welcome.clone();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    let refused = bob.join(&bent);
    assert!(matches!(refused, Err(GroupError::Invalid(_))), "{refused:?}");
    bob.join(&welcome).expect("the key package is still there");
}

#[test]
fn what_the_caller_gets_wrong_is_told() {
    let [mut alice, _] = two();
    let refused = alice.stage(&Change::default());
    assert!(matches!(refused, Err(GroupError::Empty)), "{refused:?}");
    let refused = alice.stage(&Change { remove: vec![7], ..Change::default() });
    assert!(matches!(refused, Err(GroupError::NoMember(7))), "{refused:?}");
    let refused = alice.stage(&Change { remove: vec![0], ..Change::default() });
    assert!(matches!(refused, Err(GroupError::Invalid(_))), "nobody can remove itself: {refused:?}");
    alice.act(|provider, me| {
        let again = Group::create(provider, &me.leaf(), TALK, &super::party::info("again"));
        assert!(matches!(again, Err(GroupError::Invalid(_))));
    });
    assert_eq!(alice.talk(|session, _| (session.epoch(), session.has_pending())), (1, false));
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    let run = || {
        let [mut alice, mut bob] = two();
        let staged = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
        bob.follow(&staged.commit).expect("applies");
        (staged.commit, bob.say(b"x"), bob.key_package(KeyPackageKind::OneTime))
    };
    assert_eq!(run(), run());
}

#[test]
fn debug_hides_secrets() {
    let [mut alice, _] = two();
    let shown = alice.talk(|session, me| {
        let keys = session.keys().expect("keys");
        let secrets = [*keys.post.expose(), *keys.turn.expose(), *keys.envelope.expose()];
        let shown = format!("{:?} {:?} {:?} {:?}", session, keys, session.info(), me.leaf());
        for secret in secrets {
            assert!(!shown.contains(&format!("{:?}", &secret[..4])[1..]));
        }
        shown
    });
    for hidden in ["PostKey(secret)", "TurnKey(secret)", "EnvelopeKey(secret)", "ReaderSecret(secret)"] {
        assert!(shown.contains(hidden), "{shown}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// A commit stands in clear inside the envelope, so here every byte is looked at by the decoder.
    #[test]
    fn no_bent_commit_counts(at in 0usize..1 << 16, bit in 0u8..8) {
        thread_local! {
            static SCENE: std::cell::RefCell<(Party, Vec<u8>)> = std::cell::RefCell::new({
                let [mut alice, bob] = two();
                let change = Change { update_self: true, ..Change::default() };
                (bob, alice.stage(&change).expect("stages").commit)
            });
        }
        SCENE.with_borrow_mut(|(bob, commit)| {
            let mut bent = commit.clone();
            let at = at % bent.len();
            bent[at] ^= 1 << bit;
            let refused = bob.talk(|session, _| session.receive(&bent, &[]).map(|_| session.epoch()));
            assert!(refused.is_err(), "byte {at}, bit {bit}: {refused:?}");
        });
    }
}
