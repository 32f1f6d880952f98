//! Strangers: they know a contact link, have an account of their own, and can take key packages and leave
//! anything in the public inbox.

use posthorn_proto::frame::{ClientFrame, OpenState, Opening, Request};
use posthorn_proto::{MailboxId, PostId};

use super::desk::{
    Desk, Made, alarms, all_opened, at, elsewhere, link, on_the_wire, relay, requests, seals, wanted,
};
use super::members::{PLACE, TALK};
use crate::content::{Invitation, Said, Text};
use crate::conversation::{Cause, ConversationState, GroupId, Intent};
use crate::engine::account::profile;
use crate::engine::inbox::strangers::{ALARMS, ANSWERS, CONVERSATIONS};
use crate::engine::mailbox::reading::Purpose;
use crate::engine::people;
use crate::engine::{Command, Effect, Event, Input, Known, Link, LinkId, Who};
use crate::group::{KeyPackage, KeyPackageKind, Provider};
use crate::identity::{Card, RelayAddress, RelayUrl};
use crate::people::pin;

fn post(number: u16) -> PostId {
    let mut id = [9; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    PostId(id)
}

/// Mallory's group with bob in it, and bob.
fn invited(kind: KeyPackageKind, mailbox: MailboxId) -> (Desk, Desk, Made) {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(kind));
    let made = mallory.group(TALK, mailbox, &[(package, &card)]);
    (mallory, bob, made)
}

/// Bob, who asks before he follows an invitation, and one that lies in his inbox.
fn asked_at(place: &RelayAddress) -> (Desk, Desk, Vec<u8>) {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::cautious("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let made = mallory.group_at(TALK, place, PLACE, &[(package, &card)]);
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    (mallory, bob, sealed)
}

#[test]
fn an_honest_invitation_is_followed() {
    let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), []);
    let id = bob.find(&TALK).expect("joined");
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
    assert_eq!(bob.reading(&PLACE).map(|reading| reading.purpose), Some(Purpose::Conversation(id)));
}

/// Whoever begins one with somebody while theirs cannot go on is led there, and what is said is kept in it.
#[test]
fn no_second_conversation_begins_while_one_is_suspended() {
    let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    bob.takes(post(1), sealed);
    let id = bob.find(&TALK).expect("joined");
    bob.step(|step| step.suspend_talk(&id, Cause::MailboxGone, "gone"));
    let members = vec![Who::Person(mallory.person())];
    let start = |reply| Command::Start { id: None, name: String::new(), members, again: false, reply };
    assert_eq!(bob.does(start).expect("it is there"), id);
    let said = Said::new(Text::new("wait for me")).expect("fits");
    bob.does(|reply| Command::Send { conversation: id, id: None, said, reply }).expect("kept");
    let list = bob.does(Command::Conversations).expect("a list");
    assert_eq!((list.len(), list[0].queued), (1, 1));
    // No change is made of it, and the words say why, and what is done.
    let person = mallory.person();
    let refused = bob.does(|reply| Command::Remove { conversation: id, person, reply });
    let words = refused.expect_err("it is suspended").to_string();
    assert!(words.contains("MAILBOX_GONE") && words.contains("another mailbox"), "{words}");
}

/// Finding 2: until the person accepts, nothing goes on a wire; accepting makes one connection, for this
/// conversation alone (finding 3).
#[test]
fn a_strangers_invitation_waits_for_the_person() {
    let (mut mallory, mut bob, sealed) = asked_at(&relay());
    bob.tick();
    let effects = bob.finds(post(1), sealed);
    assert_eq!((on_the_wire(&effects), alarms(&effects)), (vec![], vec![]));
    let told = |effect: &Effect| matches!(effect, Effect::Event(Event::Invited { foreign_relay: false, .. }));
    assert!(effects.iter().any(told), "{effects:?}");
    let id = bob.find(&TALK).expect("it waits");
    assert_eq!((bob.state(&TALK), bob.reading(&PLACE).is_some()), (Some(ConversationState::Invited), false));
    assert_eq!(bob.rows("outbox"), 0);
    // Not after a day, not after a restart either, but for the account's own connections.
    let mut bob = bob.reopened();
    bob.now += 24 * 3600 * 1000;
    let own = [Link::Account, Link::Mailboxes, Link::Inbox].map(|link| LinkId { relay: relay().url, link });
    assert_eq!(wanted(&bob.tick()), own);
    let (answer, effects) =
        bob.asks(|reply| Command::Accept { conversation: id, foreign_relay: false, reply });
    answer.try_recv().expect("at once").expect("it is followed");
    assert_eq!(wanted(&effects), [LinkId { relay: relay().url, link: Link::Apart(id) }]);
    assert_eq!((bob.find(&TALK), bob.state(&TALK)), (Some(id), Some(ConversationState::Active)));
    let person = mallory.person();
    assert!(bob.step(|step| Ok(people::load(step.tx, &person)?)).0.expect("met").accepted);
    // A caller that did not hear it asks again.
    bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply }).expect("is");
    // Mallory is known now: the next is followed.
    mallory.now = bob.now;
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let group = GroupId([0x78; 16]);
    let made = mallory.group(group, MailboxId([0x67; 16]), &[(package, &card)]);
    let invitation = mallory.invitation(group, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(2));
    assert_eq!(bob.takes(post(2), sealed), []);
    assert_eq!(bob.state(&group), Some(ConversationState::Active));
}

/// What cannot be followed is answered as that: where another Welcome is needed, that is asked for and the
/// invitation is gone. However many strangers began something today, what the person accepts is followed.
#[test]
fn accepting_what_cannot_be_followed_says_so() {
    for forgotten in [false, true] {
        let (_, mut bob, sealed) = asked_at(&relay());
        bob.tick();
        bob.finds(post(1), sealed);
        let id = bob.find(&TALK).expect("it waits");
        bob.step(|step| {
            if forgotten {
                // The key package's secret is lost.
                step.tx.sql().execute("DELETE FROM mls", [])?;
            }
            while step.strangers(|today| &mut today.conversations, CONVERSATIONS)? {}
            Ok(())
        });
        let accepted = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply });
        match forgotten {
            true => assert_eq!(accepted.expect_err("it cannot be").code(), "WELCOME_UNREADABLE"),
            false => accepted.expect("it is the person's own wish"),
        }
        assert_eq!((bob.find(&TALK).is_some(), bob.rows("invited")), (!forgotten, 0));
    }
}

#[test]
fn what_is_declined_leaves_nothing() {
    for block in [false, true] {
        let (mut mallory, mut bob, sealed) = asked_at(&relay());
        bob.tick();
        bob.finds(post(1), sealed.clone());
        let id = bob.find(&TALK).expect("it waits");
        let person = mallory.person();
        let (answer, effects) = match block {
            false => bob.asks(|reply| Command::Forget(id, reply)),
            true => bob.asks(|reply| Command::Block { person, blocked: true, reply }),
        };
        answer.try_recv().expect("at once").expect("done");
        assert_eq!(on_the_wire(&effects), [] as [String; 0]);
        assert_eq!([bob.rows("conversation"), bob.rows("invited"), bob.rows("entry")], [0; 3]);
        let accepted = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: true, reply });
        assert_eq!(accepted.expect_err("it is gone").code(), "UNKNOWN_CONVERSATION");
        let effects = bob.finds(post(1), sealed);
        assert_eq!(on_the_wire(&effects), [] as [String; 0]);
        assert_eq!(bob.find(&TALK).is_some(), !block, "who is blocked is not heard");
    }
}

/// Finding 2: an SSRF and a beacon: a relay that is not in use needs its own consent, and when the person has
/// left nothing wants it any more, also after a restart.
#[test]
fn a_foreign_relay_is_met_by_consent_and_left_for_good() {
    let (_, mut bob, sealed) = asked_at(&elsewhere());
    bob.engine.live.promised.consent = crate::engine::Consent::Everybody;
    bob.tick();
    let effects = bob.finds(post(1), sealed);
    assert_eq!(on_the_wire(&effects), [] as [String; 0], "everybody is not every relay");
    let told = |effect: &Effect| matches!(effect, Effect::Event(Event::Invited { foreign_relay: true, .. }));
    assert!(effects.iter().any(told));
    let id = bob.find(&TALK).expect("it waits");
    let accepted = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply });
    assert_eq!(accepted.expect_err("not without").code(), "FOREIGN_RELAY");
    assert_eq!(bob.state(&TALK), Some(ConversationState::Invited));
    let (answer, effects) =
        bob.asks(|reply| Command::Accept { conversation: id, foreign_relay: true, reply });
    answer.try_recv().expect("at once").expect("it is followed");
    let there = LinkId { relay: elsewhere().url, link: Link::Apart(id) };
    assert_eq!(wanted(&effects), std::slice::from_ref(&there));
    // Out again: suspended, so that it ends at once.
    bob.step(|step| step.suspend_talk(&id, Cause::MailboxGone, "gone"));
    let (answer, effects) = bob.asks(|reply| Command::Leave(id, reply));
    answer.try_recv().expect("at once").expect("left");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Disconnect(link) if *link == there)));
    assert!(!bob.engine.live.links.contains_key(&there));
    let mut bob = bob.reopened();
    bob.now += 24 * 3600 * 1000;
    assert!(wanted(&bob.tick()).iter().all(|link| link.relay == relay().url));
}

/// Finding 16: whoever names a relay that we know under another address does not make us go there.
#[test]
fn a_relay_that_is_known_keeps_its_address() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    bob.tick();
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let url = RelayUrl::parse("ws://192.168.1.1:80").expect("a URL");
    let place = RelayAddress { url, ..relay() };
    let made = mallory.group_at(TALK, &place, PLACE, &[(package, &card)]);
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    let effects = bob.finds(post(1), sealed);
    let id = bob.find(&TALK).expect("followed");
    assert_eq!(wanted(&effects), [LinkId { relay: relay().url, link: Link::Apart(id) }]);
}

/// Findings 4 and 22: an invitation that waits names the mailbox of a conversation that was joined since.
/// Declining it touches nothing of that, and accepting is refused.
#[test]
fn an_invitation_to_where_we_are_touches_nothing() {
    let (mut alice, mut bob) = (Desk::new("alice"), Desk::cautious("bob"));
    let mut mallory = Desk::new("mallory");
    let card = bob.card();
    let mut ids = Vec::new();
    for (number, desk, group) in [(1, &mut mallory, GroupId([1; 16])), (2, &mut alice, TALK)] {
        let package = bob.package(KeyPackageKind::OneTime);
        let made = desk.group(group, PLACE, &[(package, &card)]);
        let invitation = desk.invitation(group, &made, &card);
        let sealed = desk.sealed(&invitation, &card, post(number));
        assert_eq!(bob.takes(post(number), sealed), []);
        ids.push(bob.find(&group).expect("it waits"));
    }
    bob.does(|reply| Command::Accept { conversation: ids[1], foreign_relay: false, reply }).expect("joined");
    let before = bob.reading(&PLACE).expect("reads it").read_key();
    let twice = bob.does(|reply| Command::Accept { conversation: ids[0], foreign_relay: false, reply });
    assert_eq!(twice.expect_err("it is taken").code(), "BAD_INVITATION");
    let active = bob.does(|reply| Command::Forget(ids[1], reply));
    assert_eq!(active.expect_err("the others would speak to nobody").code(), "STILL_IN");
    bob.does(|reply| Command::Forget(ids[0], reply)).expect("forgotten");
    let reading = bob.reading(&PLACE).expect("still reads it");
    assert_eq!((reading.purpose, reading.read_key()), (Purpose::Conversation(ids[1]), before));
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
}

/// Finding 5: a stranger who calls himself like somebody whom the directory named, or like nobody yet.
#[test]
fn a_name_is_what_the_directory_said_or_a_claim() {
    for (pinned, known) in [(false, Known::Claimed), (true, Known::Contradicted)] {
        let (mut mallory, mut bob, sealed) = asked_at(&relay());
        let (person, other) = (mallory.person(), Desk::new("alice").person());
        if pinned {
            let handle = posthorn_proto::Handle::parse("mallory").expect("a handle");
            bob.step(|step| Ok(pin::pin(step.tx, &relay().identity, &handle, &other)?));
        }
        let effects = bob.finds(post(1), sealed);
        let inviter = effects.iter().find_map(|effect| match effect {
            Effect::Event(Event::Invited { inviter, .. }) => Some(inviter.clone()),
            _ => None,
        });
        let inviter = inviter.expect("told");
        assert_eq!((inviter.person, inviter.known), (person, known));
        assert_eq!(inviter.handle != "mallory", pinned, "{}", inviter.handle);
        // The pin is nobody's to move.
        let handle = posthorn_proto::Handle::parse("mallory").expect("a handle");
        let pin = bob.step(|step| Ok(pin::pinned(step.tx, &relay().identity, &handle)?)).0;
        assert_eq!(pin, pinned.then_some(other));
    }
}

/// Rule 14: HPKE authenticates nobody.
#[test]
fn an_invitation_is_signed_by_its_inviter_and_for_us() {
    let bends: [fn(&mut Invitation, &mut Desk); 4] = [
        // In another's name; passed on; and of a Welcome that another made.
        |invitation, eve| invitation.inviter = eve.card(),
        |invitation, _| invitation.recipient.0 = posthorn_proto::DeviceId([9; 16]),
        |invitation, eve| invitation.recipient.1 = eve.card().identity(),
        |invitation, _| invitation.reader = posthorn_proto::ReaderId([9; 16]),
    ];
    for (number, bend) in bends.into_iter().enumerate() {
        let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
        let card = bob.card();
        let mut invitation = mallory.invitation(TALK, &made, &card);
        bend(&mut invitation, &mut Desk::new("eve"));
        let sealed = mallory.sealed(&invitation, &card, post(1));
        assert_eq!(bob.takes(post(1), sealed), [Cause::BadInvitation], "{number}");
        assert!(bob.find(&TALK).is_none(), "{number}");
    }
    // All is as mallory would say it, and eve signs.
    let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = Desk::new("eve").sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), [Cause::BadInvitation]);
    // Signed by eve, who is in the group but did not make the Welcome.
    let (mut mallory, mut eve, mut bob) = (Desk::new("mallory"), Desk::new("eve"), Desk::new("bob"));
    let (eves, bobs) = (eve.card(), bob.card());
    let packages =
        [(eve.package(KeyPackageKind::OneTime), &eves), (bob.package(KeyPackageKind::OneTime), &bobs)];
    let made = mallory.group(TALK, PLACE, &packages);
    let invitation = eve.invitation(TALK, &made, &bobs);
    let sealed = eve.sealed(&invitation, &bobs, post(1));
    assert_eq!(bob.takes(post(1), sealed), [Cause::BadInvitation]);
}

/// Rule 11: the inviter knows the key that stands in the invitation. The first opening replaces it; as long
/// as nobody has said that it did, it is asked for again; and reading begins behind the commit that admitted
/// us.
#[test]
fn the_first_opening_replaces_the_key() {
    let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), []);
    let reading = bob.reading(&PLACE).expect("joined");
    assert_eq!((reading.seq, reading.chain()), (1, invitation.chain));
    let keys = bob.in_group(&TALK, |group, _, _| group.keys());
    let id = LinkId { relay: relay().url, link: Link::Apart(bob.find(&TALK).expect("joined")) };
    let mut asked = Vec::new();
    for _ in 0..3 {
        let sent = requests(&bob.connects(&id), &id);
        asked.push(opening_of(&sent).expect("it is opened"));
        assert!(
            !sent.iter().any(|frame| matches!(frame.body, Request::Ack(_))),
            "nothing is acknowledged before"
        );
        if asked.len() == 2 {
            let state =
                OpenState { post_key_hash: keys.post.hash(), turn_key_hash: keys.turn.hash(), ..at(1, 1) };
            bob.frames(
                &id,
                vec![all_opened(&sent, |mailbox| if *mailbox == PLACE { state } else { at(0, 0) })],
            );
        }
        bob.handle(crate::engine::Input::Disconnected(id.clone(), "cut".to_owned()));
        bob.now += 600_000;
    }
    assert_eq!(asked[0], asked[1], "the answer was lost");
    assert_eq!(asked[0].claim, Some(invitation.read_key));
    assert_ne!(Some(&asked[0].read_key), asked[0].claim.as_ref());
    assert_eq!((&asked[2].read_key, &asked[2].claim), (&asked[0].read_key, &None));
}

fn opening_of(sent: &[ClientFrame]) -> Option<Opening> {
    sent.iter().find_map(|frame| match &frame.body {
        Request::Open(open) => open.openings.iter().find(|opening| opening.mailbox == PLACE).cloned(),
        _ => None,
    })
}

/// Rule 15: others may have got the same key package.
#[test]
fn who_joins_by_the_last_resort_updates_at_once() {
    for (kind, at_once) in [(KeyPackageKind::LastResort, true), (KeyPackageKind::OneTime, false)] {
        let (mut mallory, mut bob, made) = invited(kind, PLACE);
        let card = bob.card();
        let invitation = mallory.invitation(TALK, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(1));
        assert_eq!(bob.takes(post(1), sealed), []);
        let wanted = bob.intents(&TALK);
        let update = wanted.iter().find_map(|intent| match intent {
            Intent::Update { not_before } => Some(*not_before),
            _ => None,
        });
        assert_eq!(update.expect("it will update") == bob.now, at_once, "{kind:?}");
    }
}

/// The secrets of a last-resort key package are forgotten in the end; the directory may still give it out.
#[test]
fn a_welcome_for_a_forgotten_last_resort_is_answered() {
    let (mut mallory, mut bob, made) = invited(KeyPackageKind::LastResort, PLACE);
    let card = bob.card();
    bob.step(|step| {
        let seconds = step.now / 1000 + 100 * 24 * 3600;
        for reference in profile::take_expired_key_packages(step.tx, seconds)? {
            KeyPackage::forget(&Provider::new(step.tx, None), &reference)?;
        }
        Ok(())
    });
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), [Cause::WelcomeUnreadable]);
    assert_eq!((bob.rows("outbox"), bob.rows("key_package")), (1, 1));
}

/// The id of the public inbox stands in the card: a conversation "there" would be read instead of the inbox.
#[test]
fn an_invitation_takes_the_place_of_no_other_mailbox() {
    let inboxes: [fn(&mut Desk) -> MailboxId; 2] =
        [|bob| bob.profile().public_inbox.mailbox, |bob| bob.profile().private_inbox.mailbox];
    for inbox in inboxes {
        let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
        let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
        let mailbox = inbox(&mut bob);
        let before = bob.reading(&mailbox).expect("his inbox").purpose;
        let made = mallory.group(TALK, mailbox, &[(package, &card)]);
        let invitation = mallory.invitation(TALK, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(1));
        assert_eq!(bob.takes(post(1), sealed), [Cause::BadInvitation]);
        assert_eq!(bob.reading(&mailbox).map(|reading| reading.purpose), Some(before));
    }
}

/// A seq that the database cannot hold would end the engine, and again each time that the invitation is
/// delivered.
#[test]
fn an_invitation_to_an_impossible_place_is_refused() {
    for seq in [u64::MAX, i64::MAX as u64 + 1, i64::MAX as u64] {
        let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
        let card = bob.card();
        let mut invitation = mallory.invitation(TALK, &made, &card);
        invitation.seq = seq;
        let sealed = mallory.sealed(&invitation, &card, post(1));
        assert_eq!(bob.takes(post(1), sealed), [Cause::BadInvitation], "{seq}");
        assert!(bob.find(&TALK).is_none());
    }
}

/// Every Welcome that does not open is answered with a fresh key package (rule 14): a stranger can make many
/// of those.
#[test]
fn welcomes_that_do_not_open_cost_little() {
    let (mut mallory, mut bob, mut made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    // A Welcome for a key package of somebody else.
    let (mut eve, somebody) = (Desk::new("eve"), Desk::new("somebody").card());
    let package = Desk::new("somebody").package(KeyPackageKind::OneTime);
    made.welcome = eve.group(TALK, PLACE, &[(package, &somebody)]).welcome;
    let (outbox, packages, mls) = (bob.rows("outbox"), bob.rows("key_package"), bob.rows("mls"));
    let mut alarms = 0;
    for number in 0..3 * ANSWERS as u16 {
        let mut invitation = mallory.invitation(TALK, &made, &card);
        invitation.group = GroupId([number as u8; 16]);
        let sealed = mallory.sealed(&invitation, &card, post(number));
        alarms += bob.takes(post(number), sealed).len();
    }
    assert!(alarms > 0);
    assert_eq!(bob.rows("outbox") - outbox, u64::from(ANSWERS), "answers are counted");
    assert_eq!(bob.rows("key_package") - packages, u64::from(ANSWERS));
    assert!(bob.rows("mls") - mls <= 3 * u64::from(ANSWERS));
    // Tomorrow is another day.
    bob.now += 24 * 3600 * 1000;
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(999));
    bob.takes(post(999), sealed);
    assert_eq!(bob.rows("outbox") - outbox, u64::from(ANSWERS) + 1);
}

/// An answer to anywhere else would make this device connect to whatever host a stranger names: one that
/// names another host for our relay is answered at our relay's.
#[test]
fn answers_go_to_relays_in_use_only() {
    let url = RelayUrl::parse("ws://192.168.1.1:80").expect("a URL");
    for (at, answers) in [(RelayAddress { url, ..relay() }, 1), (elsewhere(), 0)] {
        let (mut mallory, mut bob, mut made) = invited(KeyPackageKind::OneTime, PLACE);
        let card = bob.card();
        let mut somebody = Desk::new("somebody");
        let (package, others) = (somebody.package(KeyPackageKind::OneTime), somebody.card());
        made.welcome = mallory.group(GroupId([1; 16]), PLACE, &[(package, &others)]).welcome;
        let mut stranger = Desk::at("elsewhere", &at);
        let invitation = stranger.invitation(TALK, &made, &card);
        let sealed = stranger.sealed(&invitation, &card, post(1));
        let outbox = bob.rows("outbox");
        bob.takes(post(1), sealed);
        assert_eq!(bob.rows("outbox") - outbox, answers);
        bob.now += 1_000;
        bob.tick();
        assert!(bob.engine.live.links.keys().all(|link| link.relay == relay().url));
    }
}

/// What does not even parse is anybody's: it must not be able to fill the screen.
#[test]
fn rubbish_in_the_inbox_raises_few_alarms() {
    let mut bob = Desk::new("bob");
    let card = bob.card();
    let mut alarms = 0;
    for number in 0..4 * ALARMS as u16 {
        let sealed = seals(b"\xff\xff rubbish", &card, post(number));
        alarms += bob.takes(post(number), sealed).len();
    }
    assert_eq!(alarms, ALARMS as usize);
}

/// A last-resort key package opens any number of Welcomes: each a conversation with rows and a mailbox to be
/// opened.
#[test]
fn strangers_begin_a_bounded_number_of_conversations() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::LastResort));
    // As if most of today's had been begun already.
    bob.step(|step| {
        for _ in 0..CONVERSATIONS - 2 {
            assert!(step.strangers(|today| &mut today.conversations, CONVERSATIONS)?);
        }
        Ok(())
    });
    let mut joined = 0;
    for number in 0..4 {
        let (id, mailbox) = (GroupId([number; 16]), MailboxId([number + 100; 16]));
        let made = mallory.group(id, mailbox, &[(package.clone(), &card)]);
        let invitation = mallory.invitation(id, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(u16::from(number)));
        bob.takes(post(u16::from(number)), sealed);
        joined += usize::from(bob.state(&id) == Some(ConversationState::Active));
    }
    assert_eq!((joined, bob.rows("invited")), (2, 2), "the others wait for the person");
}

/// Finding 20: the keys of the inboxes change, and what is under way to the former ones still arrives.
#[test]
fn inboxes_get_fresh_keys_every_month() {
    const DAY: u64 = 24 * 3600 * 1000;
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::cautious("bob"));
    let first = bob.card();
    let mut invite = |bob: &mut Desk, number: u8, to: &Card| {
        mallory.now = bob.now;
        let id = GroupId([number; 16]);
        let package = bob.package(KeyPackageKind::OneTime);
        let made = mallory.group(id, MailboxId([number; 16]), &[(package, to)]);
        let invitation = mallory.invitation(id, &made, to);
        let sealed = mallory.sealed(&invitation, to, PostId([number; 16]));
        bob.takes(PostId([number; 16]), sealed)
    };
    bob.connects(&link(Link::Account));
    bob.authenticates();
    bob.now += 29 * DAY;
    bob.tick();
    assert_eq!(bob.card().devices()[0].public_inbox.key, first.devices()[0].public_inbox.key);
    bob.now += 2 * DAY;
    bob.tick();
    assert!(bob.profile().complete(), "whatever ends the process now, it has its account");
    let second = bob.card();
    assert_ne!(second.devices()[0].public_inbox.key, first.devices()[0].public_inbox.key);
    assert_eq!(invite(&mut bob, 1, &second), []);
    assert_eq!(invite(&mut bob, 2, &first), []);
    assert!(bob.state(&GroupId([2; 16])).is_some());
    for _ in 0..3 {
        bob.now += 31 * DAY;
        bob.handle(Input::Disconnected(link(Link::Account), "asleep".to_owned()));
        bob.connects(&link(Link::Account));
        bob.authenticates();
        bob.tick();
    }
    // What does not open may be anything, and is nobody's.
    assert_eq!(invite(&mut bob, 3, &first), []);
    assert_eq!(bob.state(&GroupId([3; 16])), None);
}
