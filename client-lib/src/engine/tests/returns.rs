//! Ways back in, honest and not: held invitations, exchanges of devices, and what they must not end or admit.

use posthorn_proto::chain::Chain;
use posthorn_proto::{MailboxId, PostId, RelayIdentity};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::asking::{answers, asks_anew, help, lapsed, lapsed_of_three, says_where};
use super::desk::{Desk, Made, NOW, alarms, elsewhere, relay, seals, wanted};
use super::members::{PLACE, TALK, commits, reads, refused, removes, three};
use crate::content::{Invitation, Repaired};
use crate::conversation::{Cause, ConversationId, ConversationState, GroupId, Intent};
use crate::engine::{Command, Consent, Link, LinkId};
use crate::group::{Change, Group, KeyPackageKind, Provider, ReaderSecret, UnverifiedKeyPackage};
use crate::identity::{Card, RelayAddress};

fn post(number: u8) -> PostId {
    PostId([number; 16])
}

/// The relay says that this device was removed.
fn evicted(desk: &mut Desk) -> Vec<Cause> {
    let id = desk.find(&TALK).expect("in it");
    let (_, effects) = desk.step(|step| step.suspend_talk(&id, Cause::Evicted, "the relay says so"));
    let mut causes = alarms(&effects);
    causes.extend(alarms(&desk.tick()));
    causes
}

fn cause(desk: &mut Desk) -> Option<Cause> {
    match desk.state(&TALK) {
        Some(ConversationState::Suspended(suspension)) => Some(suspension.cause),
        _ => None,
    }
}

/// Takes bob out and in again, in a group whose others go on; the Welcome.
pub(super) fn exchanged(by: &mut Desk, card: &Card, package: &[u8]) -> Made {
    commits(by, post(0x20), removes("bob"));
    adds(by, card, package)
}

/// Adds somebody to a group, past everything that the engine checks.
fn adds(by: &mut Desk, card: &Card, package: &[u8]) -> Made {
    let scope = by.find(&TALK).unwrap_or(ConversationId(TALK.0));
    by.step(|step| {
        let own = step.own()?;
        let provider = Provider::new(step.tx, Some(scope));
        let mut group = Group::load(&provider, &TALK)?;
        let package = UnverifiedKeyPackage::parse(package).expect("well formed");
        let add = vec![package.verify(&provider, &card.identity(), step.now).expect("good")];
        let staged = group.stage(&own.leaf()?, &Change { add, ..Change::default() }, b"")?;
        group.merge_pending()?;
        Ok(Made { info: group.info().clone(), welcome: staged.welcome.expect("somebody is added") })
    })
    .0
}

/// A member takes this device out and in while it is away: it finds that out, and follows (rule 28).
#[test]
fn who_was_taken_out_and_in_comes_back() {
    let (mut mallory, mut bob, _) = three();
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let first = bob.find(&TALK);
    let made = exchanged(&mut mallory, &card, &package);
    let mut invitation = mallory.invitation(TALK, &made, &card);
    invitation.seq = 3;
    let sealed = mallory.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), [], "it is held as long as we read there");
    assert_eq!(bob.find(&TALK), first);
    assert_eq!(evicted(&mut bob), [Cause::Evicted]);
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!((record.state, record.epoch), (ConversationState::Active, 3));
    assert_ne!(bob.find(&TALK), first, "a conversation of its own (rule 27)");
    assert_eq!(bob.rows("invited"), 0);
}

/// An invitation of bob into the group of that id, which he is a member of, by somebody whom he does not know
/// as one; to the epoch that he is in, or to a later one.
fn other_way_in(by: &mut Desk, bob: &mut Desk, at: &RelayAddress, is_later: bool) -> Invitation {
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let made = if is_later {
        let mut eve = Desk::new("eve");
        let (eves, others) = (eve.package(KeyPackageKind::OneTime), eve.card());
        by.group_at(TALK, at, PLACE, &[(eves, &others)]);
        adds(by, &card, &package)
    } else {
        by.group_at(TALK, at, PLACE, &[(package, &card)])
    };
    let mut invitation = by.invitation(TALK, &made, &card);
    invitation.seq = 3;
    invitation
}

/// Who was added behind what this device has read is no member that it knows, and may invite it back all the
/// same: that waits until the relay says that the device was removed, and is then asked about like any other.
#[test]
fn who_came_in_later_may_invite_back() {
    for is_cautious in [false, true] {
        let (_, mut bob, _) = three();
        let (mut dave, card) = (Desk::new("dave"), bob.card());
        let invitation = other_way_in(&mut dave, &mut bob, &relay(), true);
        let sealed = dave.sealed(&invitation, &card, post(1));
        assert_eq!(bob.takes(post(1), sealed), []);
        assert_eq!(bob.rows("invited"), 1, "it waits");
        assert_eq!(bob.state(&TALK), Some(ConversationState::Active), "and touches nothing");
        if is_cautious {
            bob.engine.live.promised.consent = Consent::Ask;
        }
        let there = bob.find(&TALK).expect("in it");
        assert_eq!(evicted(&mut bob), [Cause::Evicted]);
        if is_cautious {
            let all = bob.all(&TALK);
            assert!(matches!(all.iter().find(|(id, _)| *id == there), Some((_, old)) if old.is_read()));
            let (id, _) = all.into_iter().find(|(id, _)| *id != there).expect("the person is asked");
            bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply })
                .expect("it leads back");
        }
        let states: Vec<_> = bob.all(&TALK).into_iter().map(|(_, record)| record.state).collect();
        assert!(states.contains(&ConversationState::Active), "{states:?}");
        assert!(states.contains(&ConversationState::Removed), "{states:?}");
    }
}

/// What leads to no later epoch, or opens nothing, ends nothing.
#[test]
fn an_earlier_epoch_is_no_way_back() {
    for (is_later, is_rubbish) in [(false, false), (true, true)] {
        let (_, mut bob, _) = three();
        let (mut dave, card) = (Desk::new("dave"), bob.card());
        let mut invitation = other_way_in(&mut dave, &mut bob, &relay(), is_later);
        if is_rubbish {
            invitation.welcome = vec![7; 99];
        }
        let sealed = dave.sealed(&invitation, &card, post(1));
        assert_eq!(bob.takes(post(1), sealed), []);
        evicted(&mut bob);
        let states: Vec<_> = bob.all(&TALK).into_iter().map(|(_, record)| record.state).collect();
        assert!(matches!(states[..], [ConversationState::Suspended(_)]), "{states:?}");
    }
}

/// A group of the same id and mailbox at another relay is no way back: the device would connect to where
/// nobody consented to.
#[test]
fn another_relay_is_no_way_back() {
    let (_, mut bob, _) = three();
    let (mut dave, card) = (Desk::new("dave"), bob.card());
    let invitation = other_way_in(&mut dave, &mut bob, &elsewhere(), true);
    let sealed = dave.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), []);
    assert_eq!(evicted(&mut bob), [Cause::Evicted]);
    assert_eq!(cause(&mut bob), Some(Cause::Evicted), "it is not followed");
    assert_eq!(bob.rows("invited"), 1, "and waits until nothing is read there");
}

/// Whoever wished to leave, and is added anew after the others saw to that, is asked like anybody.
#[test]
fn who_left_is_asked_before_coming_back() {
    let (mut mallory, mut bob, _) = three();
    bob.engine.live.promised.consent = Consent::Ask;
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let there = bob.find(&TALK).expect("in it");
    let made = exchanged(&mut mallory, &card, &package);
    let mut invitation = mallory.invitation(TALK, &made, &card);
    invitation.seq = 3;
    let sealed = mallory.sealed(&invitation, &card, post(1));
    bob.asks(|reply| Command::Leave(there, reply));
    assert_eq!(bob.takes(post(1), sealed), []);
    assert_eq!(evicted(&mut bob), [Cause::Evicted]);
    assert_eq!(cause(&mut bob), Some(Cause::Evicted), "two words end nothing");
    let (id, record) = bob.all(&TALK).into_iter().find(|(id, _)| *id != there).expect("it is told");
    assert_eq!(record.state, ConversationState::Invited);
    bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply }).expect("comes back");
    let all = bob.all(&TALK);
    let state_of = |id| all.iter().find(|(one, _)| *one == id).map(|(_, record)| record.state.clone());
    assert_eq!(state_of(there), Some(ConversationState::Left));
    assert_eq!(state_of(id), Some(ConversationState::Active));
}

/// The relay's word and a stranger's, or a Welcome that does not open, end nothing.
#[test]
fn a_word_of_the_relay_and_an_invitation_end_nothing() {
    let (mut mallory, mut bob, mut carol) = three();
    let mut eve = Desk::new("eve");
    let (card, first) = (bob.card(), bob.find(&TALK));
    let package = bob.package(KeyPackageKind::OneTime);
    let elsewhere = eve.group(GroupId([0x33; 16]), PLACE, &[(package, &card)]);
    // By a stranger who made it up, by one with another group there, and by a member whose Welcome is
    // rubbish.
    let made = Made { info: elsewhere.info.clone(), welcome: vec![7; 99] };
    for (number, (by, group)) in
        [(&mut eve, TALK), (&mut carol, TALK), (&mut mallory, GroupId([0x33; 16]))].into_iter().enumerate()
    {
        let mut invitation = by.invitation(group, &made, &card);
        invitation.seq = 1 << 53;
        let sealed = by.sealed(&invitation, &card, post(number as u8 + 1));
        bob.takes(post(number as u8 + 1), sealed);
    }
    evicted(&mut bob);
    assert_eq!((bob.find(&TALK), cause(&mut bob)), (first, Some(Cause::Evicted)));
    // The relay was wrong, and is right again.
    let id = first.expect("in it");
    bob.step(|step| {
        step.talk_known(&id, |talk| {
            talk.resume();
            Ok(())
        })
    });
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
    bob.does(|reply| Command::Members(id, reply)).expect("the group is there");
}

/// A device that asks to be exchanged and is then removed is not let in again by whoever comes late.
#[test]
fn who_is_removed_is_not_exchanged() {
    let (mut mallory, mut bob, mut carol) = three();
    let card = bob.card();
    let sealed = seals(&refused(&mut carol).encode(), &card, post(9));
    bob.takes(post(9), sealed);
    let exchanges = |bob: &mut Desk| {
        bob.intents(&TALK).iter().filter(|intent| matches!(intent, Intent::Readmit { .. })).count()
    };
    assert_eq!(exchanges(&mut bob), 1);
    let (commit, turn) = commits(&mut mallory, post(2), removes("carol"));
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)), (None, vec![]));
    assert_eq!(exchanges(&mut bob), 0);
}

/// One person begins few conversations in a day unasked; more wait. What is suspended holds no connection.
#[test]
fn one_contact_does_not_use_up_the_connections() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    bob.tick();
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::LastResort));
    for number in 1..12 {
        let (group, mailbox) = (GroupId([number; 16]), MailboxId([number + 100; 16]));
        let made = mallory.group(group, mailbox, &[(package.clone(), &card)]);
        let invitation = mallory.invitation(group, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(number));
        let effects = bob.finds(post(number), sealed);
        let follows = number <= 8;
        assert_eq!(wanted(&effects).len(), usize::from(follows), "{number}");
    }
    let id = bob.find(&GroupId([1; 16])).expect("followed");
    let apart = LinkId { relay: relay().url, link: Link::Apart(id) };
    bob.step(|step| step.suspend_talk(&id, Cause::MailboxGone, "there is none"));
    bob.tick();
    assert!(!bob.engine.live.links.contains_key(&apart));
    bob.now += 60_000;
    assert!(wanted(&bob.tick()).contains(&apart), "it is looked at again");
}

/// An address that is in use has one key here: nobody's invitation cuts this device off from a relay.
#[test]
fn an_address_keeps_its_key() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::LastResort));
    let there = elsewhere();
    let group = GroupId([1; 16]);
    let made = mallory.group_at(group, &there, MailboxId([101; 16]), &[(package.clone(), &card)]);
    let sealed = mallory.invitation(group, &made, &card);
    let sealed = mallory.sealed(&sealed, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), []);
    let id = bob.find(&group).expect("it waits, for the relay is not in use");
    bob.does(|reply| Command::Accept { conversation: id, foreign_relay: true, reply }).expect("is followed");
    for (number, url) in [(2, there.url.clone()), (3, relay().url)] {
        let group = GroupId([number; 16]);
        let place = RelayAddress { url, identity: RelayIdentity([9; 32]) };
        let made =
            mallory.group_at(group, &place, MailboxId([number + 100; 16]), &[(package.clone(), &card)]);
        let invitation = mallory.invitation(group, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(number));
        assert_eq!(bob.takes(post(number), sealed), [Cause::BadInvitation]);
        assert_eq!(bob.find(&group), None);
    }
}

/// A clock that is at 1970 when the device starts loses nothing that waits.
#[test]
fn what_is_held_is_not_held_against_a_clock() {
    let (mut mallory, mut bob, _) = three();
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    mallory.step(|step| step.change_profile(|profile| profile.card_version = NOW));
    let made = exchanged(&mut mallory, &card, &package);
    let mut invitation = mallory.invitation(TALK, &made, &card);
    (invitation.seq, invitation.chain) = (3, Chain([5; 32]));
    let sealed = mallory.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), []);
    bob.now = 1;
    let mut bob = bob.reopened();
    bob.tick();
    assert_eq!(bob.rows("invited"), 1);
}

/// Whoever renews its keys has been there before, and hears what was asked before that.
#[test]
fn an_own_update_makes_no_request_old() {
    let (mut mallory, mut bob, _) = three();
    let (card, id) = (bob.card(), bob.find(&TALK).expect("is"));
    bob.now += 60_000;
    let now = bob.now;
    bob.step(|step| {
        step.talk(&id, |talk| {
            talk.change().leaf_since = now;
            Ok(())
        })
    });
    let data = help(&mut mallory, now - 1_000, 1, vec![1], None);
    bob.takes(post(5), seals(&data, &card, post(5)));
    assert_eq!(bob.rows("heard"), 1);
}

/// Nobody makes this device connect to a relay that the person has not agreed to, and nobody is lost by that.
#[test]
fn a_way_back_to_a_relay_that_is_not_used_waits_for_consent() {
    let (mut mallory, mut bob, asked, repaired) = lapsed(false);
    mallory.in_group(&TALK, |group, own, _| {
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        let secret = ReaderSecret::generate(&mut rng);
        let info = Some(group.info().moved(elsewhere(), MailboxId([0x99; 16]), secret));
        group.stage(own, &Change { info, ..Change::default() }, b"")?;
        group.merge_pending()
    });
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    assert_eq!(cause(&mut bob), Some(Cause::ForeignRelay));
    assert!(wanted(&bob.tick()).iter().all(|id| id.relay != elsewhere().url), "not even a connection");
    let conversation = bob.find(&TALK).expect("is");
    bob.does(|reply| Command::Accept { conversation, foreign_relay: true, reply }).expect("agreed");
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!((record.state, record.mailbox), (ConversationState::Active, MailboxId([0x99; 16])));
}

/// The first to answer a lapsed device leads it to a relay that it does not use, with whatever epoch: until
/// the person agrees, another answer is followed as well.
#[test]
fn what_waits_for_consent_keeps_no_other_answer_out() {
    let (mut mallory, mut bob, mut carol, asked, repaired) = lapsed_of_three(false);
    for number in [0x98, 0x99] {
        mallory.in_group(&TALK, |group, own, _| {
            let secret = ReaderSecret::generate(&mut ChaCha20Rng::from_seed([number; 32]));
            let info = Some(group.info().moved(elsewhere(), MailboxId([number; 16]), secret));
            group.stage(own, &Change { info, ..Change::default() }, b"")?;
            group.merge_pending()
        });
    }
    let later = asks_anew(&mut bob, &mut mallory);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    assert_eq!(cause(&mut bob), Some(Cause::ForeignRelay));
    let forked = bob.conversation(&TALK).expect("is").epoch;
    answers(&mut carol, &mut bob, &later, Some(repaired), 8);
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!((record.state, record.mailbox), (ConversationState::Active, PLACE));
    assert!(record.epoch < forked, "{} {forked}", record.epoch);
}

/// Two say to be elsewhere, and somebody takes bob back to where he was all the same: he asks on.
#[test]
fn a_way_back_to_where_it_was_ends_no_way_on() {
    let there = Repaired { epoch: 7, leaf: 2, hash: [7; 32] };
    let (mut mallory, mut bob, mut carol) = three();
    says_where(&mut mallory, &mut bob, Some(there), 6);
    says_where(&mut carol, &mut bob, Some(there), 7);
    let asked = asks_anew(&mut bob, &mut mallory);
    answers(&mut mallory, &mut bob, &asked, None, 8);
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!(record.epoch, 3);
    assert_eq!(record.healing.lost_to.map(|(to, _)| to), Some(there));
}
