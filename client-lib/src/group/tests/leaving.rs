//! Leaving by proposal: whoever leaves signs for it, and any other member commits it.

use openmls_traits::OpenMlsProvider as _;

use super::party::{Party, TALK};
use super::refusals::{leaf, raw_commit, raw_group, three};
use crate::group::{Change, Group, GroupError, Received, Refusal, Staged};

fn wish(party: &mut Party) -> Vec<u8> {
    party.talk(|group, me| group.propose_leave(&me.leaf(), b"slot").expect("proposes"))
}

fn commit(party: &mut Party, wish: &[u8]) -> Result<Staged, GroupError> {
    party.stage(&Change { leaves: vec![wish.to_vec()], ..Change::default() })
}

#[test]
fn who_leaves_is_committed_by_another_and_everybody_reads_it() {
    let [mut alice, mut bob, mut carol] = three();
    let wish = wish(&mut bob);
    // Nothing stays behind that keeps anybody from sending.
    for party in [&mut alice, &mut carol] {
        let leaver = party.talk(|group, _| group.check_leave(&wish).expect("bob's"));
        assert_eq!((leaver.leaf, leaver.credential.device()), (1, bob.device_id()));
    }
    let (from_alice, from_bob) = (alice.say(b"a"), bob.say(b"b"));
    carol.hear(&from_alice).expect("decrypts");
    carol.hear(&from_bob).expect("decrypts");

    let staged = commit(&mut alice, &wish).expect("stages");
    assert_eq!(staged.outcome.removed.iter().map(|gone| gone.leaf).collect::<Vec<_>>(), [1]);
    assert_eq!(staged.outcome.committer.leaf, 0);
    let meanwhile = alice.say(b"meanwhile");
    carol.hear(&meanwhile).expect("decrypts");
    for party in [&mut bob, &mut carol] {
        party.talk(|group, _| {
            let received = group.receive(&staged.commit, std::slice::from_ref(&wish));
            let Ok(Received::Commit(change)) = received else { panic!("a commit: {received:?}") };
            assert_eq!(change.outcome().removed, staged.outcome.removed);
            group.apply(*change).expect("applies");
        });
    }
    alice.merge();
    assert!(!bob.talk(|group, _| group.is_member()));
    let message = carol.say(b"without bob");
    assert_eq!(alice.hear(&message).expect("decrypts").1, b"without bob");
    let message = alice.say(b"indeed");
    carol.hear(&message).expect("decrypts");
}

#[test]
fn a_lost_race_leaves_no_proposal_behind() {
    let [mut alice, mut bob, mut carol] = three();
    let wish = wish(&mut bob);
    commit(&mut alice, &wish).expect("stages");
    alice.talk(|group, _| group.clear_pending().expect("clears"));
    let message = alice.say(b"x");
    carol.hear(&message).expect("decrypts");
    // Looked at and dropped, or refused for what stands beside it: the same.
    let staged = commit(&mut carol, &wish).expect("stages");
    alice.talk(|group, me| {
        let received = group.receive(&staged.commit, std::slice::from_ref(&wish));
        assert!(matches!(received, Ok(Received::Commit(_))), "{received:?}");
        drop(received);
        group.encrypt(&me.leaf(), b"y", b"").expect("encrypts");
    });
    // The next epoch is another's; the wish ends with its own.
    let update = bob.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    bob.merge();
    for party in [&mut alice, &mut carol] {
        party.follow(&update.commit).expect("applies");
        let refused = party.talk(|group, _| group.check_leave(&wish));
        assert!(matches!(refused, Err(GroupError::Invalid(_))), "{refused:?}");
        let refused = commit(party, &wish);
        assert!(matches!(refused, Err(GroupError::Invalid(_))), "{refused:?}");
        assert!(!party.talk(|group, _| group.has_pending()));
    }
    let message = alice.say(b"on");
    carol.hear(&message).expect("decrypts");
    bob.hear(&message).expect("decrypts");
}

#[test]
fn what_is_no_wish_to_leave_of_a_member_is_refused() {
    let [mut alice, mut bob, _] = three();
    let wish = wish(&mut bob);
    // Of another group of the same id.
    let mut others = ["eve", "frank"].map(Party::new);
    super::party::gather(&mut others);
    let foreign = others[1].talk(|group, me| group.propose_leave(&me.leaf(), b"").expect("proposes"));
    let refused = alice.talk(|group, _| group.check_leave(&foreign));
    assert!(matches!(refused, Err(GroupError::Invalid(_))), "{refused:?}");
    // Mallory asks for somebody else's removal, by a proposal of her own.
    let removal = bob.act(|provider, me| {
        let mut group = raw_group(provider);
        let proposed =
            group.propose_remove_member(provider, &me.leaf(), openmls::prelude::LeafNodeIndex::new(2));
        let bytes = proposed.expect("proposes").0.to_bytes().expect("bytes");
        group.clear_pending_proposals(provider.storage()).expect("clears");
        bytes
    });
    let refused = alice.talk(|group, _| group.check_leave(&removal));
    assert!(matches!(refused, Err(GroupError::Refused(Refusal::Proposal))), "{refused:?}");
    // Any bent byte: of the sender, the epoch, the signature. Junk; a message; a commit.
    for at in 0..wish.len() {
        let mut bent = wish.clone();
        bent[at] ^= 1;
        let refused = alice.talk(|group, _| group.check_leave(&bent));
        assert!(refused.is_err(), "{at}: {refused:?}");
    }
    let update = bob.stage(&Change { update_self: true, ..Change::default() }).expect("stages").commit;
    for junk in [&b""[..], b"junk", &bob.say(b"x"), &update] {
        let refused = alice.talk(|group, _| group.check_leave(junk));
        assert!(refused.is_err(), "{refused:?}");
    }
    let message = alice.say(b"still here");
    bob.hear(&message).expect("decrypts");
}

/// A commit is judged with what its reader has: without the wish it is none, and nothing else changes.
#[test]
fn a_commit_to_a_wish_that_its_reader_lacks_is_refused() {
    let [mut alice, mut bob, mut carol] = three();
    let wish = wish(&mut bob);
    let staged = commit(&mut alice, &wish).expect("stages");
    carol.talk(|group, me| {
        let refused = group.receive(&staged.commit, &[]);
        assert!(matches!(refused, Err(GroupError::Invalid(_))), "{refused:?}");
        assert_eq!((group.epoch(), group.has_pending()), (1, false));
        group.encrypt(&me.leaf(), b"x", b"").expect("encrypts");
        // Once it is there, the same commit counts.
        let received = group.receive(&staged.commit, std::slice::from_ref(&wish));
        let Ok(Received::Commit(change)) = received else { panic!("a commit: {received:?}") };
        group.apply(*change).expect("applies");
    });
    // A bad one beside it is told, and stays without effect.
    alice.merge();
    let message = carol.say(b"on");
    alice.hear(&message).expect("decrypts");
}

/// Only wishes to leave may be committed for others: a commit by reference to any other proposal is refused.
#[test]
fn nobody_commits_what_another_proposes_but_its_leaving() {
    let mut parties = three();
    let removal = parties[2].act(|provider, me| {
        let mut group = raw_group(provider);
        let leaf = openmls::prelude::LeafNodeIndex::new(0);
        let bytes = group.propose_remove_member(provider, &me.leaf(), leaf).expect("proposes").0;
        group.clear_pending_proposals(provider.storage()).expect("clears");
        bytes.to_bytes().expect("bytes")
    });
    let staged = commit(&mut parties[1], &removal);
    assert!(matches!(staged, Err(GroupError::Refused(Refusal::Proposal))), "{staged:?}");
    let (bytes, _) = raw_commit(&mut parties[1], |builder, me| builder.leaf_node_parameters(leaf(me)));
    parties[0].talk(|group, _| {
        let refused = group.receive(&bytes, std::slice::from_ref(&removal));
        assert!(matches!(refused, Err(GroupError::Refused(Refusal::Proposal))), "{refused:?}");
        assert_eq!(group.epoch(), 1);
    });
    let stored = parties[0].act(|provider, _| Group::load(provider, &TALK).expect("stored").epoch());
    assert_eq!(stored, 1);
}
