//! What happens in a group's life when nobody misbehaves.

use super::party::{NOW, Party, TALK, gather, info};
use crate::group::{Change, Group, GroupError, KeyPackageKind, PendingJoin, Received};

fn three() -> [Party; 3] {
    let mut parties = ["alice", "bob", "carol"].map(Party::new);
    gather(&mut parties);
    parties
}

fn members(party: &mut Party) -> Vec<(u32, String)> {
    party.talk(|session, _| {
        let members = session.members().expect("members");
        members.iter().map(|member| (member.leaf, member.credential.handle().as_str().to_owned())).collect()
    })
}

#[test]
fn people_meet_and_talk() {
    let [mut alice, mut bob, mut carol] = three();
    let expected: Vec<_> =
        [(0, "alice"), (1, "bob"), (2, "carol")].map(|(leaf, name)| (leaf, name.to_owned())).into();
    for party in [&mut alice, &mut bob, &mut carol] {
        assert_eq!(members(party), expected);
        assert_eq!(party.talk(|session, _| session.info().clone()), info("talk"));
    }
    let message = bob.say(b"hello");
    assert_eq!(alice.hear(&message).expect("decrypts"), ("bob".to_owned(), b"hello".to_vec()));
    assert_eq!(carol.hear(&message).expect("decrypts"), ("bob".to_owned(), b"hello".to_vec()));
    bob.talk(|session, _| assert!(matches!(session.receive(&message, &[]), Ok(Received::OwnMessage))));
}

#[test]
fn next_keys_are_known_before_the_commit_counts() {
    let [mut alice, mut bob, _] = three();
    let staged = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    let next = staged.outcome.keys.expect("we stay");
    let seen = bob.talk(|session, _| {
        let before = session.keys().expect("keys");
        let Ok(Received::Commit(change)) = session.receive(&staged.commit, &[]) else { panic!("a commit") };
        let next = change.outcome().keys.clone().expect("we stay");
        assert_ne!(before.post, next.post);
        assert_ne!(next.post.expose(), next.turn.expose());
        assert_ne!(next.post.expose(), next.envelope.expose());
        session.apply(*change).expect("applies");
        assert_eq!(session.keys().expect("keys").turn, next.turn);
        next
    });
    assert_eq!((next.post, next.turn), (seen.post, seen.turn));
    assert_eq!(next.envelope.expose(), seen.envelope.expose());
    alice.talk(|session, _| {
        assert!(matches!(session.receive(&staged.commit, &[]), Ok(Received::OwnCommit)));
        session.merge_pending().expect("pending");
    });
    let message = alice.say(b"on");
    bob.hear(&message).expect("decrypts");
}

#[test]
fn a_removed_member_is_out_and_its_leaf_free() {
    let [mut alice, mut bob, mut carol] = three();
    let staged = alice.stage(&Change { remove: vec![1], ..Change::default() }).expect("stages");
    assert_eq!(staged.outcome.removed[0].credential.device(), bob.device_id());
    alice.merge();
    bob.talk(|session, me| {
        let Ok(Received::Commit(change)) = session.receive(&staged.commit, &[]) else { panic!("a commit") };
        assert!(change.outcome().keys.is_none());
        session.apply(*change).expect("applies");
        assert!(!session.is_member());
        assert!(matches!(session.keys(), Err(GroupError::Evicted)));
        assert!(matches!(session.encrypt(&me.leaf(), b"x", b""), Err(GroupError::Evicted)));
    });
    carol.follow(&staged.commit).expect("applies");

    // Two newcomers get the free leaf and the next one, as announced.
    let (mut dave, mut erin) = (Party::new("dave"), Party::new("erin"));
    let add = [&mut dave, &mut erin].map(|party| party.offer(&mut carol)).into();
    let staged = carol.stage(&Change { add, ..Change::default() }).expect("stages");
    let announced: Vec<_> = staged
        .outcome
        .added
        .iter()
        .map(|one| (one.leaf, one.credential.handle().as_str().to_owned()))
        .collect();
    assert_eq!(announced, [(1, "dave".to_owned()), (3, "erin".to_owned())]);
    carol.merge();
    alice.talk(|session, _| {
        let Ok(Received::Commit(change)) = session.receive(&staged.commit, &[]) else { panic!("a commit") };
        let announced = change.outcome().added.clone();
        session.apply(*change).expect("applies");
        for member in announced {
            assert_eq!(session.member(member.leaf).expect("in"), member);
        }
    });
    dave.join(staged.welcome.as_ref().expect("two were added")).expect("joins");
    assert_eq!(members(&mut dave), members(&mut alice));
}

#[test]
fn the_info_changes_by_commit_only() {
    let [mut alice, mut bob, _] = three();
    let renamed = info("Brücke");
    let staged = alice.stage(&Change { info: Some(renamed.clone()), ..Change::default() }).expect("stages");
    alice.merge();
    bob.follow(&staged.commit).expect("applies");
    for party in [&mut alice, &mut bob] {
        assert_eq!(party.talk(|session, _| session.info().clone()), renamed);
    }
}

#[test]
fn of_two_commits_the_first_counts_and_the_other_is_made_anew() {
    let [mut alice, mut bob, mut carol] = three();
    let change = Change { update_self: true, ..Change::default() };
    let winner = alice.stage(&change).expect("stages");
    let loser = bob.stage(&change).expect("stages");
    assert!(matches!(bob.stage(&change), Err(GroupError::Pending)));

    alice.merge();
    bob.follow(&winner.commit).expect("the winner counts, though ours was pending");
    bob.talk(|session, _| assert!(!session.has_pending()));
    carol.follow(&winner.commit).expect("applies");
    for party in [&mut alice, &mut carol] {
        let stale = party.follow(&loser.commit);
        assert!(matches!(stale, Err(GroupError::WrongEpoch { got: 1, ours: 2 })), "{stale:?}");
    }
    let again = bob.stage(&change).expect("stages");
    bob.merge();
    carol.follow(&again.commit).expect("applies");
    alice.follow(&again.commit).expect("applies");
    let message = carol.say(b"still together");
    alice.hear(&message).expect("decrypts");
    bob.hear(&message).expect("decrypts");
}

#[test]
fn a_message_goes_out_while_a_commit_is_pending() {
    let [mut alice, mut bob, _] = three();
    alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    let message = alice.say(b"meanwhile");
    bob.hear(&message).expect("decrypts");
    alice.talk(|session, _| {
        session.clear_pending().expect("clears");
        assert!(matches!(session.merge_pending(), Err(GroupError::NotPending)));
    });
}

#[test]
fn the_last_resort_serves_twice_and_says_so() {
    let (mut alice, mut bob) = (Party::new("alice"), Party::new("bob"));
    let package = bob.key_package(KeyPackageKind::LastResort);
    for _ in 0..2 {
        alice.act(|provider, _| {
            if let Ok(old) = Group::load(provider, &TALK) {
                old.delete().expect("deletes");
            }
        });
        alice.start();
        let verified = alice.verified(&package, &bob);
        assert!(verified.is_last_resort());
        let staged = alice.stage(&Change { add: vec![verified], ..Change::default() }).expect("stages");
        alice.merge();
        bob.act(|provider, me| {
            let join = PendingJoin::new(provider, &me.leaf(), staged.welcome.as_ref().expect("added"))
                .expect("joins");
            assert!(join.by_last_resort());
            let group = join.finish().expect("joins");
            group.delete().expect("deletes");
        });
    }
}

#[test]
fn a_key_package_serves_once_and_a_dropped_join_costs_nothing() {
    let (mut alice, mut bob) = (Party::new("alice"), Party::new("bob"));
    alice.start();
    let package = bob.key_package(KeyPackageKind::OneTime);
    let add = vec![alice.verified(&package, &bob)];
    let staged = alice.stage(&Change { add, ..Change::default() }).expect("stages");
    let welcome = staged.welcome.expect("added");
    alice.merge();
    bob.act(|provider, me| {
        let join = PendingJoin::new(provider, &me.leaf(), &welcome).expect("reads");
        assert_eq!(join.inviter().expect("a member").credential.handle().as_str(), "alice");
        assert_eq!((join.id(), join.epoch(), join.by_last_resort()), (TALK, 1, false));
        assert_eq!(join.members().len(), 2);
        assert_eq!(join.keys().post, staged.outcome.keys.as_ref().expect("stays").post);
    });
    bob.act(|provider, _| assert!(matches!(Group::load(provider, &TALK), Err(GroupError::Unknown))));
    bob.join(&welcome).expect("the key package is still there");
    assert!(matches!(bob.join(&welcome), Err(GroupError::NoKeyPackage)));
    let message = bob.say(b"in");
    alice.hear(&message).expect("decrypts");
}

#[test]
fn who_comes_back_gives_up_its_old_group_first() {
    let [mut alice, mut bob, mut carol] = three();
    let package = bob.key_package(KeyPackageKind::OneTime);
    let change = Change { remove: vec![1], add: vec![alice.verified(&package, &bob)], ..Change::default() };
    let staged = alice.stage(&change).expect("stages");
    alice.merge();
    carol.follow(&staged.commit).expect("applies");
    bob.act(|provider, me| {
        let welcome = staged.welcome.as_ref().expect("added");
        // In the same conversation no Welcome puts a group in the place of another.
        let refused = PendingJoin::new(provider, &me.leaf(), welcome);
        assert!(matches!(refused, Err(GroupError::Invalid(_))), "{refused:?}");
        let old = Group::load(provider, &TALK).expect("still there");
        assert_eq!(old.epoch(), 1);
        old.delete().expect("deletes");
        let join = PendingJoin::new(provider, &me.leaf(), welcome).expect("reads");
        join.finish().map(|_| ()).expect("joins");
    });
    let message = bob.say(b"back");
    alice.hear(&message).expect("decrypts");
    carol.hear(&message).expect("decrypts");
}

#[test]
fn deleting_a_session_leaves_no_row() {
    let [mut alice, mut bob, _] = three();
    alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    for party in [&mut alice, &mut bob] {
        party.act(|provider, _| Group::load(provider, &TALK).expect("stored").delete().expect("deletes"));
        let rows: i64 = party
            .db
            .view()
            .sql()
            .query_row("SELECT count(*) FROM mls", [], |row| row.get(0))
            .expect("counts");
        assert_eq!(rows, 0);
    }
}

#[test]
fn time_is_judged_by_who_adds_and_by_nobody_else() {
    use crate::group::{KeyPackageError, LIFETIME_SECONDS, UnverifiedKeyPackage};
    let mut alice = Party::new("alice");
    let mut bob = Party::new("bob");
    let package = bob.key_package(KeyPackageKind::OneTime);
    let (bob, carol) = (bob.me.credential.identity(), Party::new("carol").me.credential.identity());
    let end = NOW + LIFETIME_SECONDS * 1000;
    for (now, good) in [(NOW, true), (end - 1000, true), (end, false), (NOW - 3_601_000, false)] {
        let verdict = alice.act(|provider, _| {
            UnverifiedKeyPackage::parse(&package).expect("well formed").verify(provider, &bob, now)
        });
        match verdict {
            Ok(_) => assert!(good, "{now}"),
            Err(error) => assert_eq!((error, good), (KeyPackageError::Lifetime, false), "{now}"),
        }
    }
    let swapped = alice.act(|provider, _| {
        UnverifiedKeyPackage::parse(&package).expect("well formed").verify(provider, &carol, NOW)
    });
    assert_eq!(swapped.err(), Some(KeyPackageError::WrongIdentity));
}

#[test]
fn the_private_inbox_shows_with_the_first_own_commit_and_not_before() {
    let [mut alice, mut bob, _] = three();
    let inbox =
        |party: &mut Party, leaf: u32| party.talk(|session, _| session.member(leaf).expect("in").inbox);
    assert_eq!(inbox(&mut bob, 0), Some(alice.me.inbox.clone()), "who creates a group names its inbox");
    assert_eq!(inbox(&mut alice, 1), None, "who was added by a key package does not yet");
    let staged = bob.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    let merged = bob.talk(|session, _| session.merge_pending().expect("pending"));
    assert_eq!(merged.committer.inbox, Some(bob.me.inbox.clone()));
    alice.follow(&staged.commit).expect("applies");
    assert_eq!(inbox(&mut alice, 1), Some(bob.me.inbox.clone()));
    // Any commit with a path carries the inbox as it is now.
    bob.me.inbox.mailbox = posthorn_proto::MailboxId([0xee; 16]);
    let staged = bob.stage(&Change { remove: vec![2], ..Change::default() }).expect("stages");
    alice.follow(&staged.commit).expect("applies");
    assert_eq!(inbox(&mut alice, 1), Some(bob.me.inbox.clone()));
    assert_eq!(
        alice.talk(|session, _| session.member(1)).expect("in").reader,
        staged.outcome.committer.reader
    );
}
