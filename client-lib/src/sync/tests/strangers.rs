//! Strangers: they know a contact link, have an account of their own, and can take key packages and leave
//! anything in the public inbox.

use posthorn_proto::frame::{ClientFrame, OpenState, Opening, Request};
use posthorn_proto::{MailboxId, PostId};

use super::desk::{Desk, all_opened, at, link, relay};
use crate::content::Invitation;
use crate::conversation::{Cause, ConversationId, Intent, intents};
use crate::identity::{RelayAddress, RelayUrl};
use crate::session::{KeyPackage, KeyPackageKind, Provider};
use crate::sync::profile;
use crate::sync::reading::Purpose;
use crate::sync::strangers::{ALARMS, ANSWERS, CONVERSATIONS};
use crate::sync::{Input, Link};

const TALK: ConversationId = ConversationId([0x77; 16]);
const PLACE: MailboxId = MailboxId([0x66; 16]);

fn post(number: u16) -> PostId {
    let mut id = [9; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    PostId(id)
}

/// Mallory's group with bob in it, and bob.
fn invited(kind: KeyPackageKind, mailbox: MailboxId) -> (Desk, Desk, super::desk::Made) {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(kind));
    let made = mallory.group(TALK, mailbox, &[(package, &card)]);
    (mallory, bob, made)
}

#[test]
fn an_honest_invitation_is_followed() {
    let (mut mallory, mut bob, made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, post(1));
    assert_eq!(bob.takes(post(1), sealed), []);
    assert!(bob.conversation(&TALK).is_some());
    assert_eq!(bob.reading(&PLACE).map(|reading| reading.purpose), Some(Purpose::Conversation(TALK)));
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
        assert!(bob.conversation(&TALK).is_none(), "{number}");
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
    let keys = bob.session(&TALK, |session, _, _| session.keys());
    let id = link(Link::Mailboxes);
    let mut asked = Vec::new();
    for _ in 0..3 {
        let sent = bob.connects(&relay());
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
        bob.handle(Input::Disconnected(id.clone(), "cut".to_owned()));
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
        let wanted = bob.step(|step| Ok(intents(step.tx, &TALK)?)).0;
        let update = wanted.iter().find_map(|(_, intent)| match intent {
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
            KeyPackage::forget(&Provider::new(step.tx), &reference)?;
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
        assert!(bob.conversation(&TALK).is_none());
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
        invitation.conversation = ConversationId([number as u8; 16]);
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

/// Whoever has taken a key package of ours has an account where we have ours. An answer to anywhere else
/// would make this device connect to whatever host a stranger names.
#[test]
fn answers_go_to_our_own_relay_only() {
    let (mut mallory, mut bob, mut made) = invited(KeyPackageKind::OneTime, PLACE);
    let card = bob.card();
    let mut somebody = Desk::new("somebody");
    let (package, others) = (somebody.package(KeyPackageKind::OneTime), somebody.card());
    made.welcome = mallory.group(ConversationId([1; 16]), PLACE, &[(package, &others)]).welcome;
    let url = RelayUrl::parse("ws://192.168.1.1:80").expect("a URL");
    let mut elsewhere = Desk::at("elsewhere", &RelayAddress { url, ..relay() });
    let invitation = elsewhere.invitation(TALK, &made, &card);
    let sealed = elsewhere.sealed(&invitation, &card, post(1));
    let outbox = bob.rows("outbox");
    bob.takes(post(1), sealed);
    assert_eq!(bob.rows("outbox"), outbox);
    assert!(bob.engine.live.links.keys().all(|link| link.relay == relay().url));
}

/// What does not even parse is anybody's: it must not be able to fill the screen.
#[test]
fn rubbish_in_the_inbox_raises_few_alarms() {
    let mut bob = Desk::new("bob");
    let inbox = bob.profile().public_inbox.address(&relay());
    let mut rng: rand_chacha::ChaCha20Rng = rand::SeedableRng::from_seed([1; 32]);
    let mut alarms = 0;
    for number in 0..4 * ALARMS as u16 {
        let sealed =
            inbox.key.seal(&inbox.mailbox, &post(number), b"\xff\xff rubbish", &mut rng).expect("fits");
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
        let (id, mailbox) = (ConversationId([number; 16]), MailboxId([number + 100; 16]));
        let made = mallory.group(id, mailbox, &[(package.clone(), &card)]);
        let invitation = mallory.invitation(id, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, post(u16::from(number)));
        bob.takes(post(u16::from(number)), sealed);
        joined += usize::from(bob.conversation(&id).is_some());
    }
    assert_eq!(joined, 2);
}
