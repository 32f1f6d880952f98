//! Attacks of a hostile reading: what strangers, contacts and an app's arguments cost.

use posthorn_proto::frame::{Request, ServerBody};
use posthorn_proto::{DeviceId, MailboxId, PostId};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::desk::{Desk, Made, alarms, elsewhere, info, link, relay, requests, wanted};
use super::members::{PLACE, TALK, three};
use super::returns::exchanged;
use crate::content::{Said, Text};
use crate::conversation::{Cause, ConversationState, GroupId};
use crate::engine::inbox::strangers::{ALARMS, CONVERSATIONS};
use crate::engine::{Command, Effect, Event, Input, Link, Reply, people};
use crate::group::KeyPackageKind;
use crate::identity::{Card, UnverifiedCard};
use crate::people::pin;

fn post(number: u16) -> PostId {
    let mut id = [9; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    PostId(id)
}

/// A Welcome that is none: nobody's key package is needed for it.
fn rubbish(mailbox: MailboxId) -> Made {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    Made { info: info(&mut rng, &relay(), mailbox), welcome: vec![7; 99] }
}

/// Leaves as many invitations with such Welcomes as conversations may begin in a day.
fn floods(by: &mut Desk, bob: &mut Desk, card: &Card) {
    let made = rubbish(MailboxId([0x55; 16]));
    for number in 0..CONVERSATIONS as u16 {
        let invitation = by.invitation(GroupId([0x44; 16]), &made, card);
        let sealed = by.sealed(&invitation, card, post(number));
        bob.takes(post(number), sealed);
    }
}

/// What cannot be joined has begun no conversation.
#[test]
fn rubbish_keeps_nobody_else_from_beginning() {
    let (mut mallory, mut carol, mut bob) = (Desk::new("mallory"), Desk::new("carol"), Desk::new("bob"));
    let card = bob.card();
    floods(&mut mallory, &mut bob, &card);
    assert_eq!(bob.rows("conversation"), 0);
    let package = bob.package(KeyPackageKind::OneTime);
    let made = carol.group(TALK, PLACE, &[(package, &card)]);
    let invitation = carol.invitation(TALK, &made, &card);
    let sealed = carol.sealed(&invitation, &card, post(9999));
    bob.takes(post(9999), sealed);
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active), "an honest invitation is followed");
}

/// Likewise of one contact that was accepted once, and of what the person accepts by hand.
#[test]
fn rubbish_of_a_contact_keeps_the_person_from_accepting_nothing() {
    let (mut mallory, mut carol, mut bob) = (Desk::new("mallory"), Desk::new("carol"), Desk::cautious("bob"));
    let (card, person) = (bob.card(), mallory.person());
    bob.step(|step| Ok(people::accept(step.tx, &person)?));
    floods(&mut mallory, &mut bob, &card);
    let package = bob.package(KeyPackageKind::OneTime);
    let made = carol.group(TALK, PLACE, &[(package, &card)]);
    let invitation = carol.invitation(TALK, &made, &card);
    let sealed = carol.sealed(&invitation, &card, post(9999));
    bob.takes(post(9999), sealed);
    let id = bob.find(&TALK).expect("it waits");
    let accepted = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply });
    assert!(accepted.is_ok(), "{accepted:?}");
}

/// The way back in of rule 28 is not a stranger's to close.
#[test]
fn rubbish_closes_no_way_back() {
    let (mut mallory, mut bob, _) = three();
    let mut eve = Desk::new("eve");
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let made = exchanged(&mut mallory, &card, &package);
    let mut invitation = mallory.invitation(TALK, &made, &card);
    invitation.seq = 3;
    let sealed = mallory.sealed(&invitation, &card, post(9998));
    assert_eq!(bob.takes(post(9998), sealed), [], "it is held as long as we read there");
    floods(&mut eve, &mut bob, &card);
    let id = bob.find(&TALK).expect("in it");
    bob.step(|step| step.suspend_talk(&id, Cause::Evicted, "the relay says so"));
    bob.tick();
    let is_back = bob.state(&TALK) == Some(ConversationState::Active);
    // Or at least tomorrow.
    bob.now += 25 * 3600 * 1000;
    bob.step(|step| {
        step.live.held_dirty = true;
        Ok(())
    });
    bob.tick();
    let is_back_tomorrow = bob.state(&TALK) == Some(ConversationState::Active);
    assert!(is_back || is_back_tomorrow, "{:?}, held: {}", bob.state(&TALK), bob.rows("invited"));
}

/// Whatever a stranger makes happen on a screen is counted.
#[test]
fn one_who_asks_again_and_again_is_told_seldom() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::cautious("bob"));
    let card = bob.card();
    let made = rubbish(PLACE);
    let mut told = 0;
    for number in 0..4 * ALARMS as u16 {
        let invitation = mallory.invitation(TALK, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(number));
        let effects = bob.finds(post(number), sealed);
        told += effects.iter().filter(|e| matches!(e, Effect::Event(Event::Invited { .. }))).count();
    }
    assert!(told <= ALARMS as usize, "{told} times on one day");
}

/// Rule 25: of one person at most 8 conversations a day begin without being asked about, whatever their
/// groups are called.
#[test]
fn a_groups_id_is_no_way_around_the_bound() {
    let mut bob = Desk::new("bob");
    bob.tick();
    let card = bob.card();
    let mut followed = 0;
    for number in 1..=16u8 {
        let mut mallory = Desk::new("mallory");
        let package = bob.package(KeyPackageKind::OneTime);
        let made = mallory.group(TALK, MailboxId([number + 100; 16]), &[(package, &card)]);
        let invitation = mallory.invitation(TALK, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(number.into()));
        let effects = bob.finds(post(number.into()), sealed);
        followed += wanted(&effects).len();
    }
    assert!(followed <= 8, "{followed} connections to conversations that nobody asked for");
}

/// Somebody else's group of that id says nothing about a group.
#[test]
fn a_group_of_the_same_id_keeps_nobody_out() {
    let (mut mallory, mut carol, mut bob) = (Desk::new("mallory"), Desk::new("carol"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::LastResort));
    for (number, by, mailbox) in [(1, &mut mallory, MailboxId([0x55; 16])), (2, &mut carol, PLACE)] {
        let made = by.group(TALK, mailbox, &[(package.clone(), &card)]);
        let invitation = by.invitation(TALK, &made, &card);
        let sealed = by.sealed(&invitation, &card, post(number));
        bob.takes(post(number), sealed);
    }
    assert!(bob.reading(&PLACE).is_some(), "carol's invitation is followed, too");
}

/// No argument of a call makes the database fail.
#[test]
fn any_row_can_be_named() {
    let (_, mut bob, _) = three();
    let conversation = bob.find(&TALK).expect("in it");
    let command = Command::MarkRead { conversation, up_to: Some(u64::MAX), reply: Reply::ignore() };
    let handled = bob.engine.handle([Input::Command(command)], bob.now);
    assert!(handled.is_ok(), "{:?}", handled.err());
}

/// A person makes as many devices as they like: what is kept of one person has a bound.
#[test]
fn what_is_kept_of_one_person_has_a_bound() {
    let mut bob = Desk::new("bob");
    for number in 0..200u8 {
        let mut eve = Desk::made("eve", &relay(), |profile| profile.borrow_device_id(DeviceId([number; 16])));
        let (credential, inbox) = eve
            .step(|step| {
                let own = step.own()?;
                Ok((own.leaf()?.credential.clone(), own.leaf()?.inbox.clone()))
            })
            .0;
        bob.step(|step| Ok(people::meet_member(step.tx, &credential, Some(&inbox))?));
    }
    let query = "SELECT MAX(LENGTH(value)) FROM contact";
    let size = bob.step(|step| Ok(step.tx.sql().query_row(query, [], |row| row.get::<_, u64>(0))?)).0;
    assert!(size <= 64 * 1024, "{size} bytes in one row, read and written with each commit");
}

/// Rule 26: whoever says to be alice of another relay, which nobody asked, is not shown as the alice whom the
/// directory named here.
#[test]
fn a_name_of_another_relay_is_not_a_name_that_is_known_here() {
    let mut bob = Desk::cautious("bob");
    let (card, alice) = (bob.card(), Desk::new("alice").person());
    let handle = posthorn_proto::Handle::parse("alice").expect("a handle");
    bob.step(|step| Ok(pin::pin(step.tx, &relay().identity, &handle, &alice)?));
    let mut mallory = Desk::made("mallory", &elsewhere(), |profile| profile.borrow_handle("alice"));
    let package = bob.package(KeyPackageKind::OneTime);
    let made = mallory.group_at(TALK, &relay(), PLACE, &[(package, &card)]);
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    let effects = bob.finds(post(1), sealed);
    let inviter = effects.iter().find_map(|effect| match effect {
        Effect::Event(Event::Invited { inviter, .. }) => Some(inviter.clone()),
        _ => None,
    });
    let inviter = inviter.expect("told");
    assert_ne!(inviter.person, alice);
    assert_ne!(inviter.handle, "alice", "known: {:?}", inviter.known);
}

/// A relay whose clock was ten years ahead while a card was published: when it is right again, whoever
/// published can be looked up, and can invite.
#[test]
fn a_relays_clock_that_was_wrong_cuts_nobody_off() {
    let account = link(Link::Account);
    let mut bob = Desk::made("bob", &relay(), |profile| profile.card_due = true);
    bob.skew = 10 * 365 * 24 * 3600 * 1000;
    let mut versions = Vec::new();
    for _ in 0..2 {
        let sent = bob.authenticates();
        let published = requests(&sent, &account).into_iter().find_map(|frame| match frame.body {
            Request::PublishCard(card) => Some((frame.request, card.version)),
            _ => None,
        });
        if let Some((request, version)) = published {
            versions.push(version);
            bob.answers(&account, request, ServerBody::Done);
        }
        bob.handle(Input::Disconnected(account.clone(), "the relay is put right".to_owned()));
        bob.skew = 0;
        bob.now += 24 * 3600 * 1000;
        // The next card, a month later, say.
        bob.step(|step| step.change_profile(|profile| profile.card_due = true));
    }
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "a relay takes no lower one: {versions:?}");
    let card = UnverifiedCard::new(bob.card().encoded()).expect("fits").verify(None, bob.now);
    assert!(card.is_ok(), "{:?}", card.err());
    assert_eq!(alarms(&bob.tick()), []);
}

/// An engine that takes its inputs with care (after a death, or a failure of the disk) commits each by
/// itself: what was kept is answered, also when a later one of the same batch fails.
#[test]
fn what_was_kept_with_care_is_answered() {
    let (_, mut bob, _) = three();
    let conversation = bob.find(&TALK).expect("in it");
    bob.engine.live.careful = 64;
    let queued = bob.rows("outbox");
    let (sender, answer) = std::sync::mpsc::sync_channel(1);
    let reply = Reply::new(move |result| drop(sender.send(result)));
    let said = Said::new(Text::new("once")).expect("fits");
    let send = Command::Send { conversation, id: None, said, reply };
    // Stands for a disk that is full again.
    bob.step(|step| Ok(step.tx.sql().execute_batch("ALTER TABLE blocked RENAME TO away")?));
    let fails = Command::People(Reply::ignore());
    let effects = bob.engine.handle([Input::Command(send), Input::Command(fails)], bob.now);
    for effect in effects.expect("the first was kept") {
        if let Effect::Answer(answer) = effect {
            answer.give();
        }
    }
    assert_eq!(bob.engine.wake_at(), Some(0), "the failure is told at once");
    assert!(bob.engine.handle([], bob.now).expect_err("and then").is_fatal());
    let mut bob = bob.reopened();
    let is_kept = bob.rows("outbox") > queued;
    assert_eq!(is_kept, answer.try_recv().is_ok(), "kept: {is_kept}; whoever asked was told that it was not");
}

/// What the app said and what it was promised outlive a failure of the database, if they are durable.
#[test]
fn what_is_promised_outlives_a_failure() {
    let mut bob = Desk::new("bob");
    let start = |again| {
        let handle = posthorn_proto::Handle::parse("carol").expect("a handle");
        move |reply| {
            let members = vec![crate::engine::Who::Handle(handle)];
            Command::Start { id: None, name: "team".to_owned(), members, again, reply }
        }
    };
    let (kept, _) = bob.asks(start(true));
    bob.engine.live.promised.consent = crate::engine::Consent::Everybody;
    // One that the failing transaction would have kept.
    let (sender, lost) = std::sync::mpsc::sync_channel::<Result<(), _>>(1);
    let waiter = crate::engine::live::Waiter::Done(Reply::new(move |result| drop(sender.send(result))));
    bob.engine.live.promised.waiters.insert(99, vec![waiter]);
    let bob = bob.after_failure();
    assert_eq!(bob.engine.live.promised.consent, crate::engine::Consent::Everybody);
    assert_eq!(bob.engine.live.promised.waiters.len(), 1);
    assert!(lost.recv_timeout(std::time::Duration::ZERO).is_err(), "it was not taken");
    assert_eq!(kept.try_recv().err(), Some(std::sync::mpsc::TryRecvError::Empty), "it goes on");
}
