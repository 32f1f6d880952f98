//! What a member can do to others by asking for help, or by answering (rule 7).

use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{Request, ServerBody};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{MailboxId, PostId};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::desk::{Desk, NOW, all_opened, relay, requests, seals};
use super::members::{PLACE, TALK, commits, reads, removes, three};
use super::returns::exchanged;
use crate::content::{Help, InboxMessage, Named, Repaired, Said, Text};
use crate::conversation::heard::{heard, note_added};
use crate::conversation::{Body, Cause, ConversationState, Entry, Intent, MessageId, Notice};
use crate::engine::talk::Talk;
use crate::engine::talk::slot::AuthorSlot;
use crate::engine::{Command, Effect, Link, LinkId, people};
use crate::group::{Change, KeyPackage, KeyPackageKind, Provider, ReaderSecret, UnverifiedKeyPackage};
use crate::identity::{Card, PersonId};
use crate::outbox::{self, Parcel};

const HOUR: u64 = 3_600_000;

fn post(number: u8) -> PostId {
    PostId([number; 16])
}

pub(super) fn help(
    desk: &mut Desk,
    at: u64,
    epoch: u64,
    key_package: Vec<u8>,
    repair: Option<Vec<u8>>,
) -> Vec<u8> {
    let profile = desk.profile();
    let (identity, device) = (profile.identity(), desk.card().devices()[0].credential.device());
    let help = Help {
        group: TALK,
        identity: identity.key(),
        device,
        at,
        epoch,
        key_package,
        repair,
        committer: 0,
        led_by: None,
        stays: false,
    };
    help.encode(&identity)
}

/// A repair commit out of mallory's present epoch into that mailbox; merged or not.
pub(super) fn repair(by: &mut Desk, seen: (u64, Chain), there: MailboxId, merge: bool) -> Vec<u8> {
    by.in_group(&TALK, |group, own, _| {
        let mut rng = ChaCha20Rng::from_seed([there.0[0]; 32]);
        let info = group.info().moved(relay(), there, ReaderSecret::generate(&mut rng));
        let slot = AuthorSlot {
            mailbox: PLACE,
            post: PostId([0; 16]),
            readers: TurnHash::NONE,
            seq: seen.0,
            chain: seen.1,
        };
        let staged = group.stage(own, &Change { info: Some(info), ..Change::default() }, &slot.encode())?;
        if merge {
            group.merge_pending()?;
        } else {
            group.clear_pending()?;
        }
        Ok(staged.commit)
    })
}

pub(super) fn breaks(desk: &mut Desk, cause: Cause) {
    let id = desk.find(&TALK).expect("in it");
    desk.step(|step| step.suspend_talk(&id, cause, "test"));
    desk.tick();
}

/// What this device asks of mallory, from what waits in its outbox.
pub(super) fn asked_of(desk: &mut Desk, of: &mut Desk) -> Vec<Help> {
    let (profile, mut found) = (of.profile(), Vec::new());
    for inbox in [&profile.public_inbox, &profile.private_inbox] {
        for (_, parcel) in desk.step(|step| Ok(outbox::all(step.tx, &inbox.mailbox)?)).0 {
            if let Parcel::Inbox { sealed, .. } = parcel
                && let Some(data) = inbox.open(&inbox.mailbox, &sealed.post, &sealed.envelope)
                && let Ok(InboxMessage::Help(help)) = InboxMessage::decode(&data)
            {
                found.push(help.verify().expect("signed"));
            }
        }
    }
    found
}

/// What it asked before is of no interest.
pub(super) fn forgets_requests(desk: &mut Desk) {
    desk.step(|step| {
        for (_, mailbox, _) in outbox::inbox_parcels(step.tx)? {
            outbox::remove_all(step.tx, &mailbox)?;
        }
        Ok(())
    });
}

/// What this device asks of mallory within a while; what it asked before is of no interest.
pub(super) fn asks_anew(desk: &mut Desk, of: &mut Desk) -> Help {
    forgets_requests(desk);
    for _ in 0..30 {
        desk.now += 200_000;
        desk.tick();
    }
    desk.step(|step| step.flush());
    asked_of(desk, of).pop().expect("it asks")
}

/// A request comes to a device; whether it wants to take in again whoever asked.
fn asked(desk: &mut Desk, number: u8, data: &[u8]) -> bool {
    let card = desk.card();
    desk.takes(post(number), seals(data, &card, post(number)));
    desk.now += 10_000;
    desk.tick();
    desk.intents(&TALK).iter().any(|intent| matches!(intent, Intent::Readmit { .. }))
}

/// Mallory takes carol out and in again by this key package; bob reads that.
fn taken_back(mallory: &mut Desk, bob: &mut Desk, carol: &mut Desk, package: &[u8]) {
    let (commit, turn) = commits(mallory, post(2), removes("carol"));
    assert_eq!(reads(bob, post(2), commit, Some(turn)), (None, vec![]));
    let card = carol.card();
    // Whom he cannot reach he never takes in again.
    bob.step(|step| Ok(people::meet(step.tx, &card)?));
    let again = verified(mallory, package, &card);
    let (commit, turn) = commits(mallory, post(3), |_| Change { add: vec![again], ..Change::default() });
    assert_eq!(reads(bob, post(3), commit, Some(turn)), (None, vec![]));
    assert_eq!(bob.conversation(&TALK).expect("is").epoch, 3);
}

/// Bob follows an honest repair of mallory; then he lapses and asks; what he asked. If poisoned, she has told
/// him before of a repair that nobody made.
pub(super) fn lapsed(poisoned: bool) -> (Desk, Desk, Help, Repaired) {
    let (mallory, bob, _carol, asked, repaired) = lapsed_of_three(poisoned);
    (mallory, bob, asked, repaired)
}

/// Likewise, with carol, who has stayed.
pub(super) fn lapsed_of_three(poisoned: bool) -> (Desk, Desk, Desk, Help, Repaired) {
    let (mut mallory, mut bob, carol) = three();
    let card = bob.card();
    let seen = (1, Chain([4; 32]));
    let there = MailboxId([0x88; 16]);
    breaks(&mut bob, Cause::MailboxGone);
    let commit = repair(&mut mallory, seen, there, true);
    let repaired = Repaired::by(1, 0, &commit);
    let now = bob.now;
    let package = mallory.package(KeyPackageKind::OneTime);
    let data = help(&mut mallory, now, 1, package, Some(commit));
    bob.takes(post(5), seals(&data, &card, post(5)));
    let record = bob.conversation(&TALK).expect("is");
    let followed = record.healing.followed.map(|(repaired, _)| repaired);
    assert_eq!((record.mailbox, record.epoch, followed), (there, 2, Some(repaired)));
    if poisoned {
        let data = help(&mut mallory, now + 1, 1 << 53, vec![1], Some(vec![1]));
        bob.takes(post(6), seals(&data, &card, post(6)));
        bob.now += 10_000;
        bob.tick();
        bob.step(|step| step.flush());
    }
    bob.now += HOUR;
    breaks(&mut bob, Cause::Lapsed);
    let asked = asks_anew(&mut bob, &mut mallory);
    (mallory, bob, carol, asked, repaired)
}

pub(super) fn answers(
    mallory: &mut Desk,
    bob: &mut Desk,
    asked: &Help,
    repaired: Option<Repaired>,
    number: u8,
) -> Vec<Cause> {
    mallory.now = bob.now;
    let card = bob.card();
    let made = exchanged(mallory, &card, &asked.key_package);
    let mut invitation = mallory.invitation(TALK, &made, &card);
    (invitation.seq, invitation.repaired) = (3, repaired);
    let sealed = mallory.sealed(&invitation, &card, post(number));
    bob.takes(post(number), sealed)
}

/// What happened in a history, in its order.
fn notices(desk: &mut Desk) -> Vec<Notice> {
    let notice = |entry: Entry| match entry.body {
        Body::Notice(notice) => Some(notice),
        _ => None,
    };
    desk.history(&TALK).into_iter().filter_map(notice).collect()
}

#[test]
fn a_repair_is_told_as_one() {
    let (_, mut bob, _, _) = lapsed(false);
    let told = notices(&mut bob);
    assert!(matches!(&told[1..], [Notice::Repaired { by, .. }] if by.handle == "mallory"), "{told:?}");
}

/// Whoever asked to be taken back in is out for a moment: that is told as a return. If it lasts, they were
/// removed.
#[test]
fn a_return_is_told_as_one() {
    for comes_back in [true, false] {
        let (mut mallory, mut bob, mut carol) = three();
        let (card, carols) = (bob.card(), carol.card());
        let package = carol.package(KeyPackageKind::OneTime);
        let now = bob.now;
        let data = help(&mut carol, now, 1, package.clone(), None);
        bob.takes(post(5), seals(&data, &card, post(5)));
        let (commit, turn) = commits(&mut mallory, post(2), removes("carol"));
        assert_eq!(reads(&mut bob, post(2), commit, Some(turn)), (None, vec![]));
        assert_eq!(notices(&mut bob).len(), 1, "nothing is said yet");
        if comes_back {
            let add = vec![verified(&mut mallory, &package, &carols)];
            let (commit, turn) = commits(&mut mallory, post(3), |_| Change { add, ..Change::default() });
            assert_eq!(reads(&mut bob, post(3), commit, Some(turn)), (None, vec![]));
        }
        bob.now += HOUR;
        bob.tick();
        let told = notices(&mut bob);
        let one = |who: &[Named]| who.len() == 1 && who[0].handle == "carol";
        match &told[1..] {
            [Notice::Back { who }] => assert!(comes_back && one(who), "{told:?}"),
            [Notice::Removed { by, who }] => {
                assert!(!comes_back && by.handle == "mallory" && one(who), "{told:?}");
            }
            _ => panic!("{told:?}"),
        }
    }
}

fn verified(desk: &mut Desk, package: &[u8], card: &Card) -> KeyPackage {
    desk.step(|step| {
        let provider = Provider::new(step.tx, None);
        let parsed = UnverifiedKeyPackage::parse(package).expect("well formed");
        Ok(parsed.verify(&provider, &card.identity(), step.now).expect("good"))
    })
    .0
}

#[test]
fn an_honest_answer_brings_back() {
    let (mut mallory, mut bob, asked, repaired) = lapsed(false);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
}

/// Whoever took bob in may have gone to where another repair led: as long as nobody else is heard, he asks.
#[test]
fn whoever_is_taken_in_where_a_repair_led_looks_for_others() {
    let (mut mallory, mut bob, asked, repaired) = lapsed(false);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
    assert_eq!(asks_anew(&mut bob, &mut mallory).led_by, Some(repaired));
}

/// What somebody says of where they are, without a repair that bob could check.
pub(super) fn says_where(desk: &mut Desk, to: &mut Desk, place: Option<Repaired>, number: u8) {
    says_where_in(desk, to, place, 1, number);
}

fn says_where_in(desk: &mut Desk, to: &mut Desk, place: Option<Repaired>, epoch: u64, number: u8) {
    let (profile, card) = (desk.profile(), to.card());
    let (identity, device) = (profile.identity(), desk.card().devices()[0].credential.device());
    let help = Help {
        group: TALK,
        identity: identity.key(),
        device,
        at: to.now,
        epoch,
        key_package: desk.package(KeyPackageKind::OneTime),
        repair: None,
        committer: 0,
        led_by: place,
        stays: true,
    };
    to.takes(post(number), seals(&help.encode(&identity), &card, post(number)));
    to.now += 10_000;
    to.tick();
}

/// Of where a repair led that bob cannot check one person's word moves him nowhere: after three minutes they
/// are asked back. When two say so, he goes there.
#[test]
fn two_who_say_to_be_elsewhere_are_followed_and_one_is_taken_back() {
    let there = Some(Repaired { epoch: 7, leaf: 2, hash: [7; 32] });
    let (mut mallory, mut bob, mut carol) = three();
    let takes_back = |bob: &mut Desk, later: u64| {
        bob.now += later;
        bob.tick();
        let intents = bob.intents(&TALK);
        intents.iter().filter(|intent| matches!(intent, Intent::Readmit { .. })).count()
    };
    let card = mallory.card();
    bob.step(|step| Ok(people::meet(step.tx, &card)?));
    says_where(&mut mallory, &mut bob, None, 5);
    assert_eq!(takes_back(&mut bob, 4 * 60_000), 0, "she is where bob is");
    says_where(&mut mallory, &mut bob, there, 6);
    assert_eq!(takes_back(&mut bob, 60_000), 0, "somebody else may say so, too");
    assert_eq!(takes_back(&mut bob, 3 * 60_000), 1);
    assert_eq!(bob.conversation(&TALK).expect("is").healing.lost_to, None);
    says_where(&mut carol, &mut bob, there, 7);
    let lost_to = bob.conversation(&TALK).expect("is").healing.lost_to;
    assert_eq!(lost_to.map(|(there, _)| there), there);
    let asked = asks_anew(&mut bob, &mut mallory);
    assert!(!asked.stays && !asked.key_package.is_empty());
}

/// Carol stays where mallory's repair led, and says so; mallory says an epoch that is none. Bob follows.
#[test]
fn a_wrong_epoch_beside_a_repair_keeps_nobody_from_it() {
    let (mut mallory, mut bob, mut carol) = three();
    let (card, seen, there) = (bob.card(), (1, Chain([4; 32])), MailboxId([0x88; 16]));
    let commit = repair(&mut mallory, seen, there, true);
    let repaired = Repaired::by(1, 0, &commit);
    let now = bob.now;
    let data = help(&mut mallory, now, 1, vec![1], Some(commit));
    bob.takes(post(5), seals(&data, &card, post(5)));
    bob.now += 1;
    says_where_in(&mut mallory, &mut bob, Some(repaired), 99, 6);
    says_where(&mut carol, &mut bob, Some(repaired), 7);
    assert_eq!(bob.conversation(&TALK).expect("is").mailbox, there);
}

/// Bob was about to take mallory back in, and follows her to where her repair led: she is there.
#[test]
fn whoever_is_followed_is_not_taken_out_where_it_led() {
    let (mut mallory, mut bob, _carol) = three();
    let (card, seen, there) = (bob.card(), (1, Chain([4; 32])), MailboxId([0x88; 16]));
    let mallorys = mallory.card();
    bob.step(|step| Ok(people::meet(step.tx, &mallorys)?));
    let commit = repair(&mut mallory, seen, there, true);
    let (led_by, now) = (Some(Repaired::by(1, 0, &commit)), bob.now);
    let package = mallory.package(KeyPackageKind::OneTime);
    let data = help(&mut mallory, now, 1, package, None);
    let InboxMessage::Help(known) = InboxMessage::decode(&data).expect("good") else { panic!() };
    let alone = Help { led_by, ..known.verify().expect("signed") };
    let identity = mallory.profile().identity();
    assert!(asked(&mut bob, 5, &alone.encode(&identity)), "nobody went there");
    let data = help(&mut mallory, now + 1, 1, vec![1], Some(commit));
    bob.takes(post(6), seals(&data, &card, post(6)));
    let id = bob.find(&TALK).expect("in it");
    bob.step(|step| step.suspend_talk(&id, Cause::MailboxGone, "test"));
    bob.tick();
    assert_eq!(bob.conversation(&TALK).expect("is").mailbox, there);
    assert!(bob.intents(&TALK).iter().all(|intent| !matches!(intent, Intent::Readmit { .. })));
}

/// Mallory repairs, and then says that she cannot stay there: nobody goes there because of her.
#[test]
fn a_repair_whose_maker_leaves_is_not_followed() {
    let (mut mallory, mut bob, _carol) = three();
    let (card, seen, there) = (bob.card(), (1, Chain([4; 32])), MailboxId([0x88; 16]));
    let commit = repair(&mut mallory, seen, there, true);
    let led_by = Some(Repaired::by(1, 0, &commit));
    let now = bob.now;
    let data = help(&mut mallory, now, 1, vec![1], Some(commit));
    bob.takes(post(5), seals(&data, &card, post(5)));
    let identity = mallory.profile().identity();
    let data = help(&mut mallory, now + 1, 1, vec![1], None);
    let InboxMessage::Help(known) = InboxMessage::decode(&data).expect("good") else { panic!() };
    let leaves = Help { led_by, ..known.verify().expect("signed") };
    bob.takes(post(6), seals(&leaves.encode(&identity), &card, post(6)));
    breaks(&mut bob, Cause::MailboxGone);
    assert_eq!(bob.conversation(&TALK).expect("is").mailbox, PLACE);
}

/// One who is here speaks, says to be elsewhere, and so on: that makes nobody say more than it would.
#[test]
fn one_who_comes_and_goes_makes_nobody_ask_more_often() {
    let (mut mallory, mut bob, mut carol, asked, repaired) = lapsed_of_three(false);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    let told = |bob: &mut Desk| {
        let healing = bob.conversation(&TALK).expect("is").healing;
        (healing.asked_today.1, healing.told_today.1)
    };
    let before = told(&mut bob);
    let (id, both) = (bob.find(&TALK).expect("is"), [mallory.person(), carol.person()]);
    for number in 10..30 {
        let at = Some(Repaired { epoch: 1, leaf: 1, hash: [number; 32] });
        says_where(&mut mallory, &mut bob, at, number);
        bob.step(|step| {
            step.talk(&id, |talk| {
                both.into_iter().for_each(|person| talk.change().healing.note_here(person, 0, 0));
                talk.look_again();
                Ok(())
            })
        });
        bob.tick();
    }
    let after = told(&mut bob);
    assert!(after.0 + after.1 <= before.0 + before.1 + 1, "{before:?} {after:?}");
}

/// Bob is alone where he repaired, and his next request is hours away. Somebody says to be where it is
/// better: he asks at once, but not again for it within two hours. His own other device is no company.
#[test]
fn whoever_is_alone_asks_when_it_hears_of_a_better_place() {
    let (mut mallory, mut bob, _carol) = three();
    let (id, now) = (bob.find(&TALK).expect("is"), bob.now);
    let ours = Repaired { epoch: 1, leaf: 1, hash: [1; 32] };
    bob.step(|step| {
        step.talk(&id, |talk| {
            let own = talk.step.own()?.person;
            talk.change().healing.followed = Some((ours, now));
            talk.look_for_others(&[own])?;
            let healing = &mut talk.change().healing;
            assert!(healing.is_alone(), "with a device of his own");
            (healing.due, healing.tries) = (now + 10 * HOUR, 7);
            Ok(())
        })
    });
    let asked = |bob: &mut Desk| {
        for _ in 0..10 {
            bob.now += 20_000;
            bob.tick();
        }
        bob.conversation(&TALK).expect("is").healing.asked_today.1
    };
    assert_eq!(asked(&mut bob), 0);
    for (number, leaf) in [(5, 0), (6, 0)] {
        says_where(&mut mallory, &mut bob, Some(Repaired { epoch: 1, leaf, hash: [number; 32] }), number);
        assert_eq!(asked(&mut bob), 1);
    }
}

/// Whoever stays behind is to know that one of them has gone on.
#[test]
fn whoever_goes_from_one_repair_to_another_says_so() {
    goes_from_one_repair_to_another(false);
    // It is no request: whoever is leaving is not taken out and in again for it.
    goes_from_one_repair_to_another(true);
}

fn goes_from_one_repair_to_another(leaving: bool) {
    let better = Repaired { epoch: 2, leaf: 0, hash: [0; 32] };
    let (mut mallory, mut bob, asked, repaired) = lapsed(false);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    forgets_requests(&mut bob);
    while asked_of(&mut bob, &mut mallory).is_empty() {
        bob.now += 60_000;
        bob.tick();
        bob.step(|step| step.flush());
    }
    let asked = asked_of(&mut bob, &mut mallory).pop().expect("he asks");
    assert_eq!((asked.led_by, asked.stays), (Some(repaired), true), "he is not alone there");
    forgets_requests(&mut bob);
    if leaving {
        let id = bob.find(&TALK).expect("is");
        bob.step(|step| {
            step.talk(&id, |talk| {
                talk.change().state = ConversationState::Leaving;
                Ok(())
            })
        });
    }
    answers(&mut mallory, &mut bob, &asked, Some(better), 8);
    bob.step(|step| step.flush());
    let told = asked_of(&mut bob, &mut mallory).pop().expect("he says where he is");
    assert_eq!((told.led_by, told.stays), (Some(better), true), "{leaving}");
}

/// Carol takes bob back to where he was, while he goes on where a repair led: she would believe that he is
/// back, so he tells her where he is.
#[test]
fn whoever_is_invited_to_where_it_does_not_go_says_where_it_is() {
    let (mut mallory, mut bob, mut carol, asked, repaired) = lapsed_of_three(false);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
    forgets_requests(&mut bob);
    let card = carol.card();
    bob.step(|step| Ok(people::meet(step.tx, &card)?));
    answers(&mut carol, &mut bob, &asked, None, 8);
    bob.step(|step| step.flush());
    let told = asked_of(&mut bob, &mut mallory).pop().expect("he says where he is");
    assert_eq!((told.led_by, told.stays), (Some(repaired), true));
}

/// Whoever is sure of where all go on says so, and no more: an answer to that would lead elsewhere.
#[test]
fn what_only_says_where_somebody_is_opens_nothing() {
    let (mut mallory, mut bob, mut carol, asked, repaired) = lapsed_of_three(false);
    answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    let (id, both) = (bob.find(&TALK).expect("is"), [mallory.person(), carol.person()]);
    bob.step(|step| {
        step.talk(&id, |talk| {
            both.into_iter().for_each(|person| talk.change().healing.note_here(person, 0, 0));
            Ok(())
        })
    });
    forgets_requests(&mut bob);
    let card = carol.card();
    bob.step(|step| Ok(people::meet(step.tx, &card)?));
    let open = bob.conversation(&TALK).expect("is").healing.asked;
    answers(&mut carol, &mut bob, &asked, None, 8);
    bob.step(|step| step.flush());
    let told = asked_of(&mut bob, &mut mallory).pop().expect("he says where he is");
    assert_eq!((told.led_by, told.stays, told.key_package), (Some(repaired), true, vec![]));
    let still = bob.conversation(&TALK).expect("is").healing.asked;
    assert!(still.iter().all(|asked| open.contains(asked)), "{still:?}");
}

/// Mallory is sure of where she is, and bob of being somewhere else: she is told, and not taken out.
#[test]
fn whoever_is_sure_elsewhere_is_told_where_others_are() {
    let (mut mallory, mut bob, _carol) = three();
    let (now, identity) = (bob.now, mallory.profile().identity());
    let data = help(&mut mallory, now, 1, vec![], None);
    let InboxMessage::Help(known) = InboxMessage::decode(&data).expect("good") else { panic!() };
    let led_by = Some(Repaired { epoch: 7, leaf: 2, hash: [7; 32] });
    let told = Help { led_by, stays: true, ..known.verify().expect("signed") }.encode(&identity);
    assert!(!asked(&mut bob, 5, &told));
    bob.now += 4 * 60_000;
    bob.tick();
    bob.step(|step| step.flush());
    let intents = bob.intents(&TALK);
    assert!(intents.iter().all(|intent| !matches!(intent, Intent::Readmit { .. })));
    let answer = asked_of(&mut bob, &mut mallory).pop().expect("he says where he is");
    assert_eq!((answer.led_by, answer.stays), (None, true));
    // Whoever is alone needs its requests for itself.
    let (_, mut bob, _) = three();
    let id = bob.find(&TALK).expect("is");
    bob.step(|step| {
        step.talk(&id, |talk| {
            talk.look_for_others(&[])?;
            let ours = Repaired { epoch: 9, leaf: 1, hash: [1; 32] };
            let healing = &mut talk.change().healing;
            (healing.followed, healing.due, healing.tries) = (Some((ours, now)), now + 10 * HOUR, 7);
            Ok(())
        })
    });
    assert!(!asked(&mut bob, 5, &told));
    bob.now += 4 * 60_000;
    bob.tick();
    assert_eq!(bob.conversation(&TALK).expect("is").healing.asked_today.1, 0);
}

/// Carol may not use the relay of mallory's inbox: bob brings mallory what carol said, beside his own word,
/// for one person's moves nobody.
#[test]
fn a_word_that_its_author_cannot_bring_is_brought_by_another() {
    let (mut mallory, mut bob, mut carol) = three();
    says_where(&mut carol, &mut bob, None, 5);
    let identity = mallory.profile().identity();
    let data = help(&mut mallory, bob.now, 1, vec![], None);
    let InboxMessage::Help(known) = InboxMessage::decode(&data).expect("good") else { panic!() };
    let led_by = Some(Repaired { epoch: 7, leaf: 2, hash: [7; 32] });
    let told = Help { led_by, stays: true, ..known.verify().expect("signed") };
    assert!(!asked(&mut bob, 6, &told.encode(&identity)));
    bob.now += 4 * 60_000;
    bob.tick();
    bob.step(|step| step.flush());
    let said = asked_of(&mut bob, &mut mallory).into_iter().map(|help| help.identity);
    let [bobs, carols] = [&mut bob, &mut carol].map(|desk| desk.card().identity());
    assert_eq!(said.collect::<Vec<_>>(), [bobs, carols]);
    forgets_requests(&mut bob);
    bob.now += 48 * HOUR;
    // Of two days ago she may think otherwise.
    let told = Help { at: bob.now, ..told };
    assert!(!asked(&mut bob, 7, &told.encode(&identity)));
    bob.now += 4 * 60_000;
    bob.tick();
    bob.step(|step| step.flush());
    assert_eq!(asked_of(&mut bob, &mut mallory).len(), 1);
}

/// Mallory asked bob from elsewhere, and is where he is before he could do anything about it.
#[test]
fn whoever_is_here_is_not_exchanged_for_what_it_asked_before() {
    let (mut mallory, mut bob, _carol) = three();
    let card = mallory.card();
    bob.step(|step| Ok(people::meet(step.tx, &card)?));
    let (package, now) = (mallory.package(KeyPackageKind::OneTime), bob.now);
    let data = help(&mut mallory, now, 1, package, None);
    assert!(asked(&mut bob, 5, &data));
    says_where(&mut mallory, &mut bob, None, 6);
    assert!(bob.intents(&TALK).iter().all(|intent| !matches!(intent, Intent::Readmit { .. })));
}

/// Mallory asked to be taken back in, and was. Bob says again what he said meanwhile; but not if she was out
/// for good since, for then it was not for her.
#[test]
fn whoever_was_removed_gets_nothing_of_what_was_said_then() {
    for (out, again) in [(60_000, 1), (HOUR, 0)] {
        let (mut mallory, mut bob, _carol) = three();
        let now = bob.now;
        let data = help(&mut mallory, now, 1, vec![1], None);
        asked(&mut bob, 5, &data);
        let (id, own, person) = (bob.find(&TALK).expect("is"), bob.person(), mallory.person());
        let mallorys = |talk: &mut Talk<'_, '_>| {
            let members = talk.group(|group, _| group.members())?;
            let mut members = members.iter();
            let found = members.find(|one| PersonId::from(&one.credential.identity()) == person);
            Ok::<_, crate::engine::Error>(found.expect("is").clone())
        };
        bob.step(|step| {
            step.talk(&id, |talk| {
                let member = mallorys(talk)?;
                talk.note_out(&[member], 2);
                Ok(())
            })
        });
        let (message, said) = (MessageId([1; 16]), Said::new(Text::new("x")).expect("fits"));
        bob.does(|reply| Command::Send { conversation: id, id: Some(message), said, reply }).expect("queued");
        bob.now += out;
        let said = bob.step(|step| {
            crate::conversation::history::set_place(step.tx, &id, &own, &message, (1, 3))?;
            outbox::remove_all(step.tx, &PLACE)?;
            step.talk(&id, |talk| {
                let member = mallorys(talk)?;
                talk.newcomer(&member, 5)
            })?;
            Ok(outbox::all(step.tx, &PLACE)?.len())
        });
        assert_eq!(said.0, again, "{out}");
    }
}

/// Mallory has asked to be taken back in herself, and is out for a moment while carol does that. What she
/// answers meanwhile leads on in the same conversation, or nowhere; not into a second one.
#[test]
fn an_answer_of_one_who_is_out_for_a_moment_begins_no_conversation() {
    let (mut mallory, mut bob, mut carol) = three();
    let card = bob.card();
    let (package, now) = (mallory.package(KeyPackageKind::OneTime), bob.now);
    let data = help(&mut mallory, now, 1, package, None);
    bob.takes(post(5), seals(&data, &card, post(5)));
    let (commit, turn) = commits(&mut carol, post(2), removes("mallory"));
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)), (None, vec![]));
    breaks(&mut bob, Cause::Lapsed);
    let asked = asks_anew(&mut bob, &mut carol);
    let (id, now) = (bob.find(&TALK).expect("is"), bob.now);
    bob.step(|step| {
        step.talk(&id, |talk| {
            talk.change().away.iter_mut().for_each(|away| away.since = now);
            Ok(())
        })
    });
    answers(&mut mallory, &mut bob, &asked, None, 7);
    assert_eq!((bob.all(&TALK).len(), bob.rows("invited")), (1, 0));
}

/// One message of a member about a repair that never was: no honest answer leads on any more.
#[test]
fn a_repair_that_never_was_keeps_nobody_out() {
    let (mut mallory, mut bob, asked, repaired) = lapsed(true);
    let causes = answers(&mut mallory, &mut bob, &asked, Some(repaired), 7);
    assert_eq!(bob.state(&TALK), Some(ConversationState::Active), "{causes:?}");
}

/// A request that was answered comes (again, or late) to a member that does not know it. By anybody who has
/// it, a former member, too: it names no recipient.
#[test]
fn a_request_that_was_answered_takes_nobody_out() {
    for later in [HOUR, 10 * 24 * HOUR] {
        let (mut mallory, mut bob, mut carol) = three();
        let package = carol.package(KeyPackageKind::OneTime);
        let data = help(&mut carol, NOW, 1, package.clone(), None);
        taken_back(&mut mallory, &mut bob, &mut carol, &package);
        bob.now += later;
        carol.now = bob.now;
        assert!(!asked(&mut bob, 5, &data), "{later}");
        // She asks again, and means it.
        let package = carol.package(KeyPackageKind::OneTime);
        let (now, epoch) = (bob.now, 3);
        let data = help(&mut carol, now, epoch, package, None);
        assert!(asked(&mut bob, 6, &data), "{later}");
    }
}

/// Carol is taken back in to where she does not go, and says at once where she is, by a relay whose clock is
/// behind: that is heard, but not again when she was added anew.
#[test]
fn what_is_said_right_after_one_was_added_is_heard() {
    let (mut mallory, mut bob, mut carol) = three();
    let led_by = Some(Repaired { epoch: 7, leaf: 2, hash: [7; 32] });
    for desk in [&mut mallory, &mut bob, &mut carol] {
        desk.now += HOUR;
    }
    let (card, package) = (bob.card(), carol.package(KeyPackageKind::OneTime));
    taken_back(&mut mallory, &mut bob, &mut carol, &package);
    let (id, now) = (bob.find(&TALK).expect("is"), bob.now);
    let (identity, who) = (carol.profile().identity(), carol.person());
    let device = carol.card().devices()[0].credential.device();
    let mut says = |bob: &mut Desk, at: u64, number: u8| {
        let data = help(&mut carol, at, 1, vec![1], None);
        let InboxMessage::Help(known) = InboxMessage::decode(&data).expect("good") else { panic!() };
        let told = Help { led_by, stays: true, ..known.verify().expect("signed") }.encode(&identity);
        bob.takes(post(number), seals(&told, &card, post(number)));
        let heard = bob.step(|step| Ok(heard(step.tx, &id)?)).0;
        heard.iter().any(|(_, asked)| asked.is_at == led_by)
    };
    assert!(!says(&mut bob, now - 11 * 60_000, 5));
    assert!(says(&mut bob, now - 60_000, 6));
    let known = bob.step(|step| Ok(heard(step.tx, &id)?)).0;
    assert!(known.iter().all(|(_, asked)| asked.key_package.is_empty()), "that may be answered");
    bob.step(|step| Ok(note_added(step.tx, &id, (who, device), (now, now, 5))?));
    assert!(!says(&mut bob, now - 60_000, 7), "it was known when she was added");
}

/// What somebody asked is kept when they are no member any more.
#[test]
fn what_was_asked_is_forgotten() {
    let (mut mallory, mut bob, mut carol) = three();
    let card = bob.card();
    let data = help(&mut carol, NOW, 1, vec![1], Some(vec![7; 200_000]));
    bob.takes(post(5), seals(&data, &card, post(5)));
    bob.now += HOUR;
    bob.tick();
    let (commit, turn) = commits(&mut mallory, post(2), removes("carol"));
    assert_eq!(reads(&mut bob, post(2), commit, Some(turn)), (None, vec![]));
    for _ in 0..100 {
        bob.now += 24 * HOUR;
        bob.tick();
    }
    assert_eq!(bob.rows("heard"), 0);
}

/// An honest relay's answers to whatever is asked on that link; posts are left unanswered.
fn pump(desk: &mut Desk, at: &LinkId, mut effects: Vec<Effect>) {
    for _ in 0..10 {
        let sent = requests(&effects, at);
        if sent.is_empty() {
            return;
        }
        effects = Vec::new();
        for frame in &sent {
            match &frame.body {
                Request::Open(_) => {
                    let state = desk.locked(&TALK, 1, 1);
                    effects.extend(desk.frames(at, vec![all_opened(std::slice::from_ref(frame), |_| state)]));
                }
                Request::Ping => effects.extend(desk.answers(at, frame.request, ServerBody::Done)),
                _ => {}
            }
        }
    }
}

/// Nothing is wrong with bob's conversation. A member says that it repaired it, in an epoch that there never
/// was; and would answer what bob then asked with a group of its own.
#[test]
fn no_word_of_one_member_moves_a_live_conversation() {
    let (mut other, mut bob, _carol) = three();
    let id = bob.find(&TALK).expect("in it");
    let at = LinkId { relay: relay().url, link: Link::Apart(id) };
    let sent = bob.connects(&at);
    pump(&mut bob, &at, sent);
    let card = bob.card();
    let data = help(&mut other, NOW, 1 << 53, vec![1], Some(vec![1]));
    let effects = bob.finds(post(6), seals(&data, &card, post(6)));
    pump(&mut bob, &at, effects);
    for _ in 0..180 {
        bob.now += 1_000;
        let effects = bob.tick();
        pump(&mut bob, &at, effects);
    }
    bob.step(|step| step.flush());
    assert_eq!(bob.step(|step| Ok(outbox::inbox_parcels(step.tx)?)).0.len(), 0, "it asks for a way back");
    let record = bob.conversation(&TALK).expect("is");
    assert_eq!((record.state, record.mailbox), (ConversationState::Active, PLACE));
}

/// An answer that is good, but names a repair that nobody made: whoever lapses again is brought back all the
/// same. One of no epoch that there was binds nobody; one that might have been, for a day.
#[test]
fn an_answer_that_names_a_repair_that_nobody_made_binds_for_no_longer_than_a_day() {
    let of_no_epoch = Repaired { epoch: 1 << 53, leaf: 0, hash: [0; 32] };
    let of_this = Repaired { epoch: 2, leaf: 0, hash: [0; 32] };
    for (faked, later) in [(None, HOUR), (Some(of_no_epoch), HOUR), (Some(of_this), 24 * HOUR)] {
        let (mut mallory, mut bob, asked, repaired) = lapsed(false);
        answers(&mut mallory, &mut bob, &asked, Some(faked.unwrap_or(repaired)), 7);
        assert_eq!(bob.state(&TALK), Some(ConversationState::Active));
        bob.now += later;
        breaks(&mut bob, Cause::Lapsed);
        let asked = asks_anew(&mut bob, &mut mallory);
        answers(&mut mallory, &mut bob, &asked, Some(repaired), 8);
        assert_eq!(bob.state(&TALK), Some(ConversationState::Active), "{faked:?}");
    }
}
