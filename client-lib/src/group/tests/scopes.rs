//! Conversations of one device do not touch each other, and a group can be kept from one transaction to the
//! next.

use super::party::{HERE, Party, TALK, gather};
use crate::conversation::ConversationId;
use crate::group::{Change, Group, GroupError, OwnLeaf, PendingJoin, Provider, Received};

const ELSEWHERE: ConversationId = ConversationId([0x4f; 16]);

/// Runs `work` in the other conversation.
fn elsewhere<T>(party: &mut Party, work: impl FnOnce(&Provider<'_>, &OwnLeaf<'_>) -> T) -> T {
    let tx = party.db.transaction(&mut party.rng).expect("begins");
    let provider = Provider::new(&tx, Some(ELSEWHERE));
    let result = work(&provider, &party.me.leaf());
    drop(provider);
    tx.commit().expect("commits");
    result
}

fn heard(received: Result<Received, GroupError>) -> (Vec<u8>, Vec<u8>) {
    match received {
        Ok(Received::Message { plaintext, aad, .. }) => (plaintext, aad),
        other => panic!("not a message: {other:?}"),
    }
}

/// Whoever makes a group chooses its id, so a stranger can choose one that we have.
#[test]
fn two_groups_of_one_id_live_side_by_side() {
    let mut parties = ["alice", "bob"].map(Party::new);
    gather(&mut parties);
    let [mut alice, mut bob] = parties;
    let mut mallory = Party::new("mallory");
    mallory.start();
    let add = vec![bob.offer(&mut mallory)];
    let staged = mallory.stage(&Change { add, ..Change::default() }).expect("stages");
    mallory.merge();
    elsewhere(&mut bob, |provider, own| {
        let unknown = Group::load(provider, &TALK);
        assert!(matches!(unknown, Err(GroupError::Unknown)), "{unknown:?}");
        let join = PendingJoin::new(provider, own, &staged.welcome.expect("added")).expect("reads");
        join.finish().map(|_| ()).expect("joins");
    });
    // Each goes on by itself, in the same epoch and in another.
    for _ in 0..2 {
        let (from_alice, from_mallory) = (alice.say(b"here"), mallory.say(b"elsewhere"));
        assert_eq!(bob.hear(&from_alice).expect("decrypts"), ("alice".to_owned(), b"here".to_vec()));
        let other = elsewhere(&mut bob, |provider, _| {
            let mut group = Group::load(provider, &TALK).expect("stored");
            assert!(group.receive(&from_alice, &[]).is_err());
            heard(group.receive(&from_mallory, &[])).0
        });
        assert_eq!(other, b"elsewhere");
        let update = bob.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
        bob.merge();
        alice.follow(&update.commit).expect("applies");
    }
    elsewhere(&mut bob, |provider, _| {
        Group::load(provider, &TALK).expect("stored").delete().expect("deletes")
    });
    let message = alice.say(b"still here");
    bob.hear(&message).expect("decrypts");
}

#[test]
fn a_kept_group_goes_on_and_one_of_a_rollback_is_loaded_anew() {
    let mut parties = ["alice", "bob"].map(Party::new);
    gather(&mut parties);
    let [mut alice, mut bob] = parties;
    let say = |party: &mut Party, kept, text: &[u8], lasts: bool| {
        let tx = party.db.transaction(&mut party.rng).expect("begins");
        let provider = Provider::new(&tx, Some(HERE));
        let mut group = match kept {
            Some(kept) => crate::group::KeptGroup::resume(kept, &provider),
            None => Group::load(&provider, &TALK).expect("stored"),
        };
        let message = group.encrypt(&party.me.leaf(), text, b"").expect("encrypts");
        let kept = group.keep();
        drop(provider);
        if lasts {
            tx.commit().expect("commits");
        }
        (message, kept)
    };
    let (one, kept) = say(&mut alice, None, b"one", true);
    let (two, kept) = say(&mut alice, Some(kept), b"two", true);
    assert_eq!(bob.hear(&one).expect("decrypts").1, b"one");
    assert_eq!(bob.hear(&two).expect("decrypts").1, b"two");
    // What the rollback undid is not in the database; the kept group, which is ahead of it, goes with it.
    let (_, ahead) = say(&mut alice, Some(kept), b"never sent", false);
    drop(ahead);
    let (three, kept) = say(&mut alice, None, b"three", true);
    assert_eq!(bob.hear(&three).expect("decrypts").1, b"three");
    // A kept group is no other than the stored one, members and keys included.
    let tx = alice.db.transaction(&mut alice.rng).expect("begins");
    let provider = Provider::new(&tx, Some(HERE));
    let (kept, stored) = (kept.resume(&provider), Group::load(&provider, &TALK).expect("stored"));
    assert_eq!(kept.members().expect("members"), stored.members().expect("members"));
    assert_eq!(kept.keys().expect("keys").post, stored.keys().expect("keys").post);
    assert_eq!(kept.info(), stored.info());
}

/// What the members of an epoch remember of it is forgotten with the epoch, in a kept group too.
#[test]
fn a_kept_group_forgets_the_members_and_keys_of_an_ended_epoch() {
    let mut parties = ["alice", "bob", "carol"].map(Party::new);
    gather(&mut parties);
    let [mut alice, mut bob, _] = parties;
    let removal = alice.stage(&Change { remove: vec![2], ..Change::default() }).expect("stages");
    bob.talk(|group, _| {
        let (members, keys) = (group.members().expect("members"), group.keys().expect("keys"));
        let Ok(Received::Commit(change)) = group.receive(&removal.commit, &[]) else { panic!("a commit") };
        assert_eq!(group.keys().expect("keys").post, keys.post, "not applied yet");
        group.apply(*change).expect("applies");
        assert_eq!((members.len(), group.members().expect("members").len()), (3, 2));
        assert_ne!(group.keys().expect("keys").post, keys.post);
    });
}

#[test]
fn what_is_signed_beside_a_message_or_commit_arrives() {
    let mut parties = ["alice", "bob"].map(Party::new);
    gather(&mut parties);
    let [mut alice, mut bob] = parties;
    let message = alice.talk(|group, me| group.encrypt(&me.leaf(), b"x", b"slot 7").expect("encrypts"));
    let plain = alice.say(b"y");
    let change = Change { update_self: true, ..Change::default() };
    let staged = alice.talk(|group, me| group.stage(&me.leaf(), &change, b"slot 8").expect("stages"));
    bob.talk(|group, _| {
        let at = message.windows(6).position(|window| window == b"slot 7").expect("in clear");
        let mut bent = message.clone();
        bent[at + 5] = b'9';
        assert!(matches!(group.receive(&bent, &[]), Err(GroupError::Decrypt)));
        assert_eq!(heard(group.receive(&message, &[])), (b"x".to_vec(), b"slot 7".to_vec()));
        assert_eq!(heard(group.receive(&plain, &[])), (b"y".to_vec(), Vec::new()), "not that of before");
        let at = staged.commit.windows(6).position(|window| window == b"slot 8").expect("in clear");
        let mut bent = staged.commit.clone();
        bent[at + 5] = b'9';
        assert!(matches!(group.receive(&bent, &[]), Err(GroupError::Invalid(_))));
        let Ok(Received::Commit(change)) = group.receive(&staged.commit, &[]) else { panic!("a commit") };
        assert_eq!(change.aad(), b"slot 8");
    });
}

/// A client that does not know an extension of the group's does not lose it (rule 32).
#[test]
fn a_reserved_extension_goes_through_the_rename_of_who_does_not_know_it() {
    use super::party::info;
    use crate::group::{About, GroupInfo};
    let mut parties = ["alice", "bob", "carol"].map(Party::new);
    gather(&mut parties);
    let [mut alice, mut bob, mut carol] = parties;
    let others = vec![(0xF004, vec![]), (0xF009, b"of a later version".to_vec())];
    let later = GroupInfo { others: others.clone(), ..info("talk") };
    let staged = alice.stage(&Change { info: Some(later), ..Change::default() }).expect("stages");
    alice.merge();
    bob.follow(&staged.commit).expect("applies");
    carol.follow(&staged.commit).expect("applies");
    let seen = bob.talk(|group, _| group.info().clone());
    let renamed = GroupInfo { about: About { name: "Brücke".to_owned() }, ..seen };
    let staged = bob.stage(&Change { info: Some(renamed), ..Change::default() }).expect("stages");
    bob.merge();
    for party in [&mut alice, &mut carol] {
        party.follow(&staged.commit).expect("applies");
        let info = party.talk(|group, _| group.info().clone());
        assert_eq!((info.about.name.as_str(), &info.others), ("Brücke", &others));
    }
}
