//! A relay that is gone for days: what lives there is left, and what waited for it is still of use.

use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{OpenState, Refusal, Request, ServerBody};
use posthorn_proto::{ErrorCode, MailboxId, PostId};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::asking::{
    answers, asked_of, asks_anew, breaks, forgets_requests, help, lapsed, lapsed_of_three, repair, says_where,
};
use super::desk::{Desk, all_opened, at, elsewhere, link, requests, seals, wanted};
use super::members::{PLACE, TALK, three};
use super::relays::{founds, open_here};
use crate::content::Repaired;
use crate::conversation::{Cause, ConversationId, ConversationState, GroupId};
use crate::engine::{Command, Input, Link, LinkId};
use crate::group::{Change, KeyPackageKind, ReaderSecret};
use crate::outbox::{self, Parcel};

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
const AWAY: (ConversationId, MailboxId) = (ConversationId([0x78; 16]), MailboxId([0x67; 16]));

fn post(number: u8) -> PostId {
    PostId([number; 16])
}

fn cause(desk: &mut Desk, group: &GroupId) -> Option<Cause> {
    match desk.state(group) {
        Some(ConversationState::Suspended(why)) => Some(why.cause),
        _ => None,
    }
}

/// For so long the other relay refuses every connection.
fn refused_for(desk: &mut Desk, time: u64) {
    let until = desk.now + time;
    while desk.now < until {
        desk.now += 10 * MINUTE;
        let down: Vec<LinkId> =
            wanted(&desk.tick()).into_iter().filter(|id| id.relay == elsewhere().url).collect();
        for id in down {
            desk.handle(Input::Disconnected(id, "refused".to_owned()));
        }
    }
}

fn repairs(desk: &mut Desk) -> usize {
    let parcels = desk.step(|step| Ok(outbox::all(step.tx, &AWAY.1)?)).0;
    parcels.iter().filter(|(_, parcel)| matches!(parcel, Parcel::Repair { .. })).count()
}

/// Three days are enough if our own relay answers; without that nothing can be told.
#[test]
fn a_relay_that_is_gone_is_left_if_our_own_answers() {
    let group = GroupId(AWAY.0.0);
    let mut bob = open_here();
    founds(&mut bob, AWAY, &elsewhere());
    refused_for(&mut bob, 3 * DAY - 60 * MINUTE);
    assert_eq!(cause(&mut bob, &group), None);
    refused_for(&mut bob, 2 * 60 * MINUTE);
    assert_eq!(cause(&mut bob, &group), Some(Cause::RelayGone));
    refused_for(&mut bob, 10 * MINUTE);
    assert_eq!(repairs(&mut bob), 1, "it goes on at his own relay");

    let mut offline = Desk::new("bob");
    founds(&mut offline, AWAY, &elsewhere());
    refused_for(&mut offline, 5 * DAY);
    assert_eq!(cause(&mut offline, &group), None);
}

/// A relay that was heard in between is not gone.
#[test]
fn a_relay_that_answers_begins_anew() {
    let mut bob = open_here();
    founds(&mut bob, AWAY, &elsewhere());
    refused_for(&mut bob, 2 * DAY);
    assert_eq!(bob.rows("down"), 1);
    bob.connects(&LinkId { relay: elsewhere().url, link: Link::Mailboxes });
    assert_eq!(bob.rows("down"), 0);
}

/// What waits for an inbox is one request of this device; the one that came with a repair says more.
#[test]
fn only_the_latest_request_waits() {
    let (mut mallory, mut bob, _) = three();
    breaks(&mut bob, Cause::Lapsed);
    let first = asks_anew(&mut bob, &mut mallory);
    for _ in 0..30 {
        bob.now += 10 * MINUTE;
        bob.tick();
    }
    bob.step(|step| step.flush());
    let waits = asked_of(&mut bob, &mut mallory);
    assert!(waits.len() == 1 && waits[0].at > first.at, "{waits:?}");

    let (mut mallory, mut bob, _) = three();
    let commit = repair(&mut mallory, (1, Chain([4; 32])), MailboxId([0x88; 16]), false);
    let repaired = Repaired::by(1, 0, &commit);
    let id = bob.find(&TALK).expect("is");
    bob.step(|step| {
        step.talk(&id, |talk| {
            talk.ask_for_help(Some((repaired, commit)), &[])?;
            talk.change().healing.followed = Some((repaired, talk.step.now));
            talk.ask_for_help(None, &[])
        })
    });
    let waits = asked_of(&mut bob, &mut mallory);
    assert!(waits.len() == 1 && waits[0].repair.is_some(), "{waits:?}");
}

/// A request that waited for a relay for longer than one counts is of the time when the relay is back.
#[test]
fn a_request_that_waited_for_days_is_made_anew() {
    let (mut mallory, mut bob, _) = three();
    forgets_requests(&mut bob);
    breaks(&mut bob, Cause::Lapsed);
    let asked = asks_anew(&mut bob, &mut mallory);
    bob.now += 20 * DAY;
    let id = link(Link::Post);
    let mut effects = bob.connects(&id);
    for _ in 0..8 {
        let posts: Vec<u64> = requests(&effects, &id)
            .into_iter()
            .filter(|frame| matches!(frame.body, Request::Post(_)))
            .map(|frame| frame.request)
            .collect();
        let refusal = Refusal { time: bob.now / 1000, ..Refusal::new(ErrorCode::PostIdTime, "old") };
        effects = Vec::new();
        for request in posts {
            effects.extend(bob.answers(&id, request, ServerBody::Error(refusal.clone())));
        }
    }
    let waits = asked_of(&mut bob, &mut mallory);
    assert!(waits.len() == 1 && waits[0].at >= asked.at + 19 * DAY, "{waits:?}");
}

/// A repair out of the epoch where somebody still is leads on, however long ago it was made. Any other
/// request of weeks ago is a repeat.
#[test]
fn an_old_repair_leads_on_whoever_is_still_there() {
    for with_repair in [true, false] {
        let (mut mallory, mut bob, _) = three();
        let (card, there) = (bob.card(), MailboxId([0x88; 16]));
        let commit = repair(&mut mallory, (1, Chain([4; 32])), there, true);
        let old = bob.now - 40 * DAY;
        let package = mallory.package(KeyPackageKind::OneTime);
        let data = help(&mut mallory, old, 1, package, Some(commit).filter(|_| with_repair));
        bob.takes(post(5), seals(&data, &card, post(5)));
        breaks(&mut bob, Cause::MailboxGone);
        let followed = bob.conversation(&TALK).expect("is").mailbox == there;
        assert_eq!((followed, bob.rows("heard")), (with_repair, u64::from(with_repair)));
    }
}

/// Whoever renews its keys has been there before, and hears what was asked before that.
#[test]
fn an_own_update_makes_no_request_old() {
    let (mut mallory, mut bob, _) = three();
    let (card, id) = (bob.card(), bob.find(&TALK).expect("is"));
    bob.now += MINUTE;
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
    assert_eq!(cause(&mut bob, &TALK), Some(Cause::ForeignRelay));
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
    assert_eq!(cause(&mut bob, &TALK), Some(Cause::ForeignRelay));
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

/// What was left in bob's inbox has expired, and may have said where the others went. He says to all where
/// he is; whoever is elsewhere takes him in there, in whatever epoch.
#[test]
fn whoever_was_away_for_too_long_is_taken_in_where_the_others_went() {
    let there = Repaired { epoch: 1, leaf: 2, hash: [7; 32] };
    let (mut mallory, mut bob, _) = three();
    let id = bob.find(&TALK).expect("is");
    bob.step(|step| {
        step.talk(&id, |talk| {
            talk.change().epoch = 9;
            Ok(())
        })
    });
    let sent = bob.connects(&link(Link::Inbox));
    let state = OpenState { oldest: 8, ..at(9, 0) };
    bob.frames(&link(Link::Inbox), vec![all_opened(&requests(&sent, &link(Link::Inbox)), |_| state)]);
    let asked = asks_anew(&mut bob, &mut mallory);
    assert_eq!((asked.stays, asked.led_by, asked.epoch), (true, None, 0), "who is here need do nothing");
    answers(&mut mallory, &mut bob, &asked, Some(there), 7);
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!((record.epoch, record.healing.led_by()), (3, Some(there)));
}
