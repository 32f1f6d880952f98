//! Moves of a conversation, honest and not (rules 25, 27 and 34).

use posthorn_proto::{MailboxId, PostId, Turn};

use super::desk::{Desk, alarms, elsewhere, on_the_wire, relay, wanted};
use super::members::{PLACE, TALK, commits, reads, three};
use crate::content::{Author, Receipt, Said, Text};
use crate::conversation::{Body, Cause, ConversationState, EntryState, Notice, set_receipt};
use crate::engine::Command;
use crate::group::{Change, Group, ReaderSecret};
use crate::identity::{PersonId, RelayAddress};
use rand::SeedableRng as _;

const THERE: MailboxId = MailboxId([0x99; 16]);

fn post(number: u8) -> PostId {
    PostId([number; 16])
}

/// A change that moves the conversation.
fn moves(at: RelayAddress, mailbox: MailboxId, seed: u8) -> impl Fn(&Group<'_>) -> Change {
    move |group| {
        let secret = ReaderSecret::generate(&mut rand_chacha::ChaCha20Rng::from_seed([seed; 32]));
        Change { info: Some(group.info().moved(at.clone(), mailbox, secret)), ..Change::default() }
    }
}

fn moved(by: &mut Desk, at: RelayAddress, mailbox: MailboxId) -> (Vec<u8>, Turn) {
    commits(by, post(2), moves(at, mailbox, 1))
}

fn says(desk: &mut Desk, words: &str) {
    let conversation = desk.find(&TALK).expect("in it");
    let said = Said::new(Text::new(words)).expect("fits");
    desk.does(|reply| Command::Send { conversation, id: None, said, reply }).expect("is kept");
}

/// Whoever reads the commit reads on in the new place, under the key that nobody had to tell it; what was
/// still to be said is said there.
#[test]
fn who_reads_a_move_goes_on_there() {
    let (mut mallory, mut bob, _) = three();
    says(&mut bob, "not yet sent");
    let (commit, turn) = moved(&mut mallory, relay(), THERE);
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)), (None, vec![]));
    let record = bob.conversation(&TALK).expect("in it");
    assert_eq!((record.mailbox, record.place, record.state), (THERE, 2, ConversationState::Active));
    assert!(bob.reading(&PLACE).is_none(), "the old place is left");
    let reading = bob.reading(&THERE).expect("reads there");
    let (reader, key) = bob.in_group(&TALK, |group, _, _| group.claim_key());
    assert_eq!((reading.reader, reading.claim(), reading.seq), (reader, Some(key), 0));
    assert_eq!(bob.step(|step| Ok(crate::outbox::count(step.tx, &THERE)?)).0, 1);
    assert_eq!(bob.step(|step| Ok(crate::outbox::count(step.tx, &PLACE)?)).0, 0);
    let history = bob.history(&TALK);
    assert!(history.iter().any(|entry| entry.state == EntryState::Queued));
    assert!(history.iter().any(
        |entry| matches!(&entry.body, Body::Notice(Notice::Moved { by, .. }) if by.handle == "mallory")
    ));
}

/// What everybody has got stays marked when the conversation goes on in another mailbox.
#[test]
fn marks_outlive_a_move() {
    let (mut mallory, mut bob, _) = three();
    let conversation = bob.find(&TALK).expect("in it");
    let said = Said::new(Text::new("known to all")).expect("fits");
    let message = bob.does(|reply| Command::Send { conversation, id: None, said, reply }).expect("is kept");
    bob.step(|step| {
        step.talk_known(&conversation, |talk| {
            talk.message_stored(&message, 1)?;
            let members = talk.group(|group, _| group.members())?;
            for credential in members.iter().map(|member| &member.credential) {
                let person = PersonId::from(&credential.identity());
                let author = Author { person, device: credential.device() };
                set_receipt(talk.step.tx, &talk.id, &author, 1, Receipt { delivered: 1, read: 0 })?;
            }
            let everyone = talk.everyone()?;
            talk.change().everyone = everyone;
            Ok(())
        })
    });
    let state = |bob: &mut Desk| {
        let history = bob.history(&TALK);
        history.iter().find(|entry| entry.id == message).expect("said").state
    };
    assert_eq!(state(&mut bob), EntryState::Delivered);
    let (commit, turn) = moved(&mut mallory, relay(), THERE);
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)), (None, vec![]));
    assert_eq!(bob.conversation(&TALK).expect("in it").place, 2);
    assert_eq!(state(&mut bob), EntryState::Delivered);
}

/// Rule 25: no member makes this device connect to a host that the person has not agreed to.
#[test]
fn another_relay_waits_for_consent() {
    let (mut mallory, mut bob, _) = three();
    let (commit, turn) = moved(&mut mallory, elsewhere(), THERE);
    let (over, told) = reads(&mut bob, post(2), commit, Some(turn));
    assert_eq!((over, told), (Some(Cause::ForeignRelay), vec![Cause::ForeignRelay]));
    bob.now += 8 * 24 * 3600 * 1000;
    assert!(!on_the_wire(&bob.tick()).iter().any(|line| line.contains("4200")), "not even a connection");
    let conversation = bob.find(&TALK).expect("in it");
    let agreed = bob.does(|reply| Command::Accept { conversation, foreign_relay: false, reply });
    assert_eq!(agreed.expect_err("it is asked about").code(), "FOREIGN_RELAY");
    let (answer, effects) = bob.asks(|reply| Command::Accept { conversation, foreign_relay: true, reply });
    answer.try_recv().expect("at once").expect("agreed");
    assert!(wanted(&effects).iter().any(|link| link.relay == elsewhere().url), "{effects:?}");
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
}

/// The relay's address is known by another key: it is not connected to, and the person is not asked either.
#[test]
fn a_relay_with_another_key_is_not_followed() {
    let (mut mallory, mut bob, _) = three();
    let mut other = relay();
    other.identity.0[0] ^= 1;
    let (commit, turn) = moved(&mut mallory, other, THERE);
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)).0, Some(Cause::RelayChanged));
    bob.now += 24 * 3600 * 1000;
    bob.tick();
    assert!(matches!(bob.state(&TALK), Some(ConversationState::Suspended(_))));
}

/// A member names an inbox of ours as the new place: it would be overwritten.
#[test]
fn a_move_into_what_is_read_already_is_refused() {
    let (mut mallory, mut bob, _) = three();
    let inbox = bob.profile().private_inbox.mailbox;
    let before = bob.reading(&inbox).expect("reads it").read_key();
    let (commit, turn) = moved(&mut mallory, relay(), inbox);
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)).0, Some(Cause::BadCommit));
    assert_eq!(bob.reading(&inbox).expect("reads it").read_key(), before);
    assert_eq!(bob.conversation(&TALK).expect("in it").mailbox, PLACE);
}

/// A member who moves without end costs the others an opening an hour, and loses nobody.
#[test]
fn many_moves_are_followed_slowly() {
    let (mut mallory, mut bob, _) = three();
    for number in 1..=12 {
        let mailbox = MailboxId([0xA0 + number; 16]);
        let conversation = bob.conversation(&TALK).expect("in it");
        let (seq, chain) = {
            let reading = bob.reading(&conversation.mailbox).expect("reads it");
            (reading.seq, reading.chain())
        };
        let (commit, turn) = super::members::commits_at(
            &mut mallory,
            (conversation.mailbox, post(number)),
            (seq, chain),
            moves(relay(), mailbox, number),
        );
        let told = alarms(&bob.delivers(&TALK, post(number), commit, Some(turn)));
        let reading = bob.reading(&mailbox).expect("follows");
        assert_eq!(reading.is_due(bob.now), number <= 8, "{number}");
        assert_eq!(told.contains(&Cause::TooMany), number > 8, "{number}");
    }
    assert_eq!(bob.conversation(&TALK).expect("in it").place, 13);
}

/// A person moves a conversation a few times in a day, and only to where they have an account.
#[test]
fn who_may_move_is_asked_before() {
    let (_, mut bob, _) = three();
    let conversation = bob.find(&TALK).expect("in it");
    let elsewhere = bob.does(|reply| Command::Move { conversation, relay: Some(elsewhere().url), reply });
    assert_eq!(elsewhere.expect_err("no account there").code(), "OTHER_RELAY");
    let today = bob.now / (24 * 3600 * 1000);
    bob.step(|step| {
        step.talk_known(&conversation, |talk| {
            talk.change().moves = (today, 4);
            Ok(())
        })
    });
    let again = bob.does(|reply| Command::Move { conversation, relay: None, reply });
    assert_eq!(again.expect_err("often enough").code(), "TOO_MANY");
}
