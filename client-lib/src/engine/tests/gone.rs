//! A relay that is gone for days: what lives there is left, and what waited for it is still of use.

use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{OpenState, Refusal, Request, ServerBody};
use posthorn_proto::{ErrorCode, MailboxId, PostId};

use super::asking::{answers, asked_of, asks_anew, breaks, forgets_requests, help, repair};
use super::desk::{Desk, all_opened, at, elsewhere, link, requests, seals, wanted};
use super::members::{TALK, three};
use super::relays::{delivery, founds, lost, open_here};
use crate::content::Repaired;
use crate::conversation::{Cause, ConversationId, ConversationState, GroupId};
use crate::engine::{Input, Link, LinkId};
use crate::group::KeyPackageKind;
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

/// Nobody at a relay that is gone can make it true that bob leaves.
#[test]
fn what_is_being_left_at_a_relay_that_is_gone_is_left() {
    let mut bob = open_here();
    founds(&mut bob, AWAY, &elsewhere());
    bob.step(|step| {
        step.talk(&AWAY.0, |talk| {
            talk.change().state = ConversationState::Leaving;
            Ok(())
        })
    });
    refused_for(&mut bob, 3 * DAY + 60 * MINUTE);
    assert_eq!(bob.state(&GroupId(AWAY.0.0)), Some(ConversationState::Left));
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

/// What was left in this device's inbox has expired.
fn lapses(desk: &mut Desk) {
    let id = link(Link::Inbox);
    let sent = desk.connects(&id);
    let state = OpenState { oldest: 8, ..at(9, 0) };
    desk.frames(&id, vec![all_opened(&requests(&sent, &id), |_| state)]);
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
    lapses(&mut bob);
    let asked = asks_anew(&mut bob, &mut mallory);
    assert_eq!((asked.stays, asked.led_by, asked.epoch), (true, None, 0), "who is here need do nothing");
    answers(&mut mallory, &mut bob, &asked, Some(there), 7);
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!((record.epoch, record.healing.led_by()), (3, Some(there)));
}

/// So may have what was damaged there, told or not. However often, bob says where he is.
#[test]
fn a_hole_in_an_inbox_loses_touch() {
    for told in [false, true] {
        let (mut mallory, mut bob, _) = three();
        let (id, mailbox) = (link(Link::Inbox), bob.profile().private_inbox.mailbox);
        let sent = bob.connects(&id);
        bob.frames(&id, vec![all_opened(&requests(&sent, &id), |_| at(200, 0))]);
        for hole in 1..20 {
            let damaged = if told { vec![lost(mailbox, 2 * hole - 1)] } else { vec![] };
            bob.frames(&id, [damaged, vec![delivery(mailbox, 2 * hole, 1)]].concat());
            bob.now += 15_000;
            bob.tick();
        }
        bob.step(|step| step.flush());
        let asked = asked_of(&mut bob, &mut mallory).pop().expect("he says where he is");
        assert_eq!((asked.stays, asked.epoch), (true, 0), "{told}");
    }
}

/// A relay that was started on a wrong folder has lost inboxes, too: nobody moves within two minutes.
#[test]
fn who_lost_an_inbox_repairs_no_earlier() {
    for inbox_first in [true, false] {
        let (_, mut bob, _) = three();
        if inbox_first {
            lapses(&mut bob);
        }
        breaks(&mut bob, Cause::MailboxGone);
        if !inbox_first {
            lapses(&mut bob);
        }
        bob.now += 110_000;
        bob.tick();
        assert_eq!(bob.conversation(&TALK).expect("is").commit_row, None, "{inbox_first}");
        bob.now += 100_000;
        bob.tick();
        assert!(bob.conversation(&TALK).expect("is").commit_row.is_some(), "{inbox_first}");
    }
}

/// Bob could not go on in the conversation either, and the first to take him back in is one who was left
/// behind, too: he still looks for the others.
#[test]
fn whoever_was_away_for_too_long_is_not_sure_by_one_answer() {
    for order in [true, false] {
        let (mut mallory, mut bob, _) = three();
        if order {
            breaks(&mut bob, Cause::Lapsed);
        }
        lapses(&mut bob);
        if !order {
            breaks(&mut bob, Cause::Lapsed);
        }
        let asked = asks_anew(&mut bob, &mut mallory);
        assert!(!asked.stays && asked.epoch == 0);
        answers(&mut mallory, &mut bob, &asked, None, 7);
        assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
        let asked = asks_anew(&mut bob, &mut mallory);
        assert!(asked.stays && !asked.key_package.is_empty(), "{order}");
    }
}

/// What was asked for is over with the conversation: an answer begins nothing.
#[test]
fn who_has_left_is_not_taken_back_in() {
    let (mut mallory, mut bob, _) = three();
    breaks(&mut bob, Cause::Lapsed);
    let asked = asks_anew(&mut bob, &mut mallory);
    let id = bob.find(&TALK).expect("is");
    bob.step(|step| step.talk(&id, |talk| talk.end(ConversationState::Left)));
    answers(&mut mallory, &mut bob, &asked, None, 7);
    let states: Vec<_> = bob.all(&TALK).into_iter().map(|(_, record)| record.state).collect();
    assert_eq!(states, [ConversationState::Left]);
}
