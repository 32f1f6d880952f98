//! Other relays than our own: who is there is found without an account, on connections that say nothing else,
//! by a relay that proved first which it is; and none of them delays what is not its own.

use posthorn_proto::frame::{Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, Handle, MailboxId, PostId};

use super::desk::{Desk, alarms, all_opened, elsewhere, empty, link, on_the_wire, relay, requests, wanted};
use super::directory::directory_on;
use super::members::{PLACE, TALK};
use super::relays::founds;
use crate::content::{Said, Text};
use crate::conversation::{Cause, ConversationId, ConversationState, GroupId, Intent};
use crate::engine::{Command, Effect, Error, Event, Input, Known, Link, LinkId, Who};
use crate::group::KeyPackageKind;
use crate::identity::{ContactLink, RelayAddress, RelayUrl};
use crate::people::pin;

const ANOTHER: GroupId = GroupId([0x79; 16]);

type Started = std::sync::mpsc::Receiver<Result<ConversationId, Error>>;

fn there(link: Link) -> LinkId {
    LinkId { relay: elsewhere().url, link }
}

fn handle(text: &str) -> Handle {
    Handle::parse(text).expect("a handle")
}

/// Carol, at the other relay, by her link.
fn carol() -> (Desk, Who) {
    let mut carol = Desk::at("carol", &elsewhere());
    let identity = carol.card().identity();
    let link = ContactLink::new(handle("carol"), elsewhere().url, identity).expect("no path");
    (carol, Who::Link(link))
}

fn starts(desk: &mut Desk, who: Who) -> (Started, Vec<Effect>) {
    let (id, name) = (None, "g".to_owned());
    desk.asks(|reply| Command::Start { id, name, members: vec![who], again: false, reply })
}

/// Bob, whose account is connected, begins a conversation with somebody at the other relay.
fn begun(who: Who) -> (Desk, Started, Vec<Effect>) {
    let mut bob = Desk::new("bob");
    bob.authenticates();
    let (started, effects) = starts(&mut bob, who);
    (bob, started, effects)
}

fn failed(started: &Started) -> Error {
    started.try_recv().expect("it is over").expect_err("nobody can be added")
}

/// The candidates that are still to be found out about.
fn adding(desk: &mut Desk) -> usize {
    let all = desk.does(Command::Conversations).expect("has an account");
    all.into_iter().map(|known| known.adding.len()).sum()
}

#[test]
fn somebody_at_another_relay_is_found_on_a_connection_that_asks_nothing_else() {
    let (mut carol, by_link) = carol();
    for who in [by_link, Who::Elsewhere(handle("carol"), elsewhere().url)] {
        let directory = there(Link::Directory);
        let (mut bob, _started, effects) = begun(who);
        assert_eq!(wanted(&effects), std::slice::from_ref(&directory));
        assert!(
            requests(&effects, &link(Link::Account)).iter().all(|f| !matches!(f.body, Request::LookUp(_)))
        );
        let summary = bob.does(Command::Conversations).expect("has an account");
        assert_eq!(
            (&summary[0].adding[..], &summary[0].relay),
            (&["carol@127.0.0.1:4200".to_owned()][..], &relay().url.to_string())
        );
        // The relay proves itself first (`Desk::connects` asserts that nothing else is asked).
        let asked = bob.connects(&directory);
        let found = directory_on(&mut bob, &directory, &asked, &mut [("carol", &mut carol)]);
        let over = directory_on(&mut bob, &directory, &found, &mut [("carol", &mut carol)]);
        assert!(
            over.iter().any(|effect| matches!(effect, Effect::Disconnect(id) if *id == directory)),
            "{over:?}"
        );
        assert!(!bob.engine.live.links.contains_key(&directory));
        assert_eq!([&asked, &found].map(|effects| asked_on(effects, &directory)), [["look up"], ["take"]]);
        let pinned = bob.step(|step| Ok(pin::pinned(step.tx, &elsewhere().identity, &handle("carol"))?)).0;
        assert_eq!(pinned, Some(carol.person()));
        let people = bob.does(Command::People).expect("has an account");
        let [met] = &people[..] else { panic!("one") };
        assert_eq!((met.known, &met.handle[..], met.accepted), (Known::Pinned, "carol@127.0.0.1:4200", true));
        // The invitation can be left there: the relay is in use.
        let card = carol.card();
        let (identity, device) = (card.identity(), card.devices()[0].credential.device());
        let inboxes = bob.step(|step| step.inboxes_of(&identity, &device)).0;
        assert_eq!(inboxes.len(), 1);
        assert_eq!(inboxes[0].relay, elsewhere());
    }
}

/// What is asked on a connection beside who the relay is.
fn asked_on(effects: &[Effect], on: &LinkId) -> Vec<&'static str> {
    let kind = |request: &Request| match request {
        Request::LookUp(_) => Some("look up"),
        Request::TakeKeyPackages(_) => Some("take"),
        Request::ProveRelay(_) => None,
        _ => Some("something else"),
    };
    requests(effects, on).iter().filter_map(|frame| kind(&frame.body)).collect()
}

/// The other relay's name space is not ours.
#[test]
fn our_own_name_at_another_relay_is_somebody_else() {
    let (bob, _started, effects) = begun(Who::Elsewhere(handle("bob"), elsewhere().url));
    assert!(wanted(&effects).contains(&there(Link::Directory)));
    drop(bob);
    let mut bob = Desk::new("bob");
    let (started, _) = starts(&mut bob, Who::Elsewhere(handle("bob"), relay().url));
    assert_eq!(failed(&started).code(), "YOURSELF");
}

/// However its host is written, a relay keeps the address that it is known by.
#[test]
fn a_relay_that_is_known_is_asked_at_its_address() {
    let mut bob = Desk::new("bob");
    let plain = RelayUrl::parse("ws://relay.example:4200").expect("a URL");
    bob.does(|reply| Command::UseRelay(plain.clone(), reply)).expect("the person says so");
    let written = RelayUrl::parse("wss://relay.example:4200").expect("a URL");
    let (_started, effects) = starts(&mut bob, Who::Elsewhere(handle("carol"), written));
    assert!(wanted(&effects).contains(&LinkId { relay: plain, link: Link::Directory }));
    let ours = RelayUrl::parse("wss://127.0.0.1:4100").expect("a URL");
    let (_started, effects) = starts(&mut bob, Who::Elsewhere(handle("dave"), ours));
    assert!(wanted(&effects).iter().all(|id| id.link != Link::Directory));
}

/// One that is not the relay that was proved there before is asked nothing.
#[test]
fn a_directory_that_is_another_relays_is_not_asked() {
    let (_, who) = carol();
    let mut bob = Desk::new("bob");
    bob.authenticates();
    let other = relay().identity;
    bob.step(|step| step.use_relay(&elsewhere().url, Some(other), false));
    let (_started, _) = starts(&mut bob, who);
    let directory = there(Link::Directory);
    bob.tick();
    bob.handle(Input::Connected(directory.clone()));
    let hello = ServerFrame::push(ServerBody::Hello(bob.hello(&elsewhere().url)));
    let effects = bob.frames(&directory, vec![hello]);
    assert_eq!((alarms(&effects), on_the_wire(&effects)), (vec![Cause::RelayChanged], vec![]));
    assert_eq!(adding(&mut bob), 1, "it may pass");
}

/// Card, key packages, relay and the name that was asked for agree, or nobody is added.
#[test]
fn a_directory_elsewhere_that_names_another_adds_nobody() {
    let directory = there(Link::Directory);
    // Of a link the identity is known; of a handle at that relay the card must say so.
    let (_, by_link) = carol();
    let mut mallory = Desk::at("mallory", &elsewhere());
    let mut at_home = Desk::at("carol", &relay());
    let by_handle = Who::Elsewhere(handle("carol"), elsewhere().url);
    for (who, answered) in [(by_link, &mut mallory), (by_handle, &mut at_home)] {
        let (mut bob, started, _) = begun(who);
        let asked = bob.connects(&directory);
        directory_on(&mut bob, &directory, &asked, &mut [("carol", answered)]);
        assert_eq!(failed(&started).code(), "CANNOT_ADD");
        assert!(bob.does(Command::People).expect("has an account").is_empty());
    }
}

/// A wrong name, or a relay that is gone: told after some tries, and then nothing waits for it. Without our
/// own relay it may be us who are offline.
#[test]
fn a_directory_that_cannot_be_reached_is_given_up_if_ours_can() {
    let directory = there(Link::Directory);
    let fail = |bob: &mut Desk| {
        let mut tries = 0;
        while bob.engine.live.links.contains_key(&directory) && tries < 8 {
            bob.tick();
            bob.handle(Input::Disconnected(directory.clone(), "no such host".to_owned()));
            let wake = bob.engine.live.links.get(&directory).and_then(|link| link.wake_at());
            bob.now = wake.unwrap_or(bob.now);
            tries += 1;
        }
        tries
    };
    let (mut bob, started, _) = begun(carol().1);
    assert_eq!(fail(&mut bob), 5);
    let error = failed(&started);
    assert_eq!(error.code(), "CANNOT_ADD");
    assert!(error.to_string().contains("no such host"), "{error}");
    let relays = bob.does(Command::Relays).expect("has an account");
    assert_eq!(relays.len(), 1, "what never was is not in use: {relays:?}");
    let mut bob = Desk::new("bob");
    let (started, _) = starts(&mut bob, carol().1);
    assert_eq!(fail(&mut bob), 8);
    assert!(started.try_recv().is_err(), "it goes on");
    assert_eq!(adding(&mut bob), 1);
}

#[test]
fn a_directory_that_asks_for_patience_is_left_alone_until_then() {
    let directory = there(Link::Directory);
    let (mut bob, started, _) = begun(carol().1);
    let asked = requests(&bob.connects(&directory), &directory);
    let request = asked.last().expect("it asks").request;
    let refusal = Refusal { retry_after_ms: 60_000, ..Refusal::new(ErrorCode::RateLimited, "later") };
    let effects = bob.answers(&directory, request, ServerBody::Error(refusal));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Disconnect(id) if *id == directory)));
    bob.now += 59_000;
    assert!(!wanted(&bob.tick()).contains(&directory));
    bob.now += 2_000;
    assert!(wanted(&bob.tick()).contains(&directory));
    let asked = requests(&bob.connects(&directory), &directory);
    let request = asked.last().expect("it asks again").request;
    let closed = Refusal::new(ErrorCode::AccountNeeded, "only who has an account here");
    bob.answers(&directory, request, ServerBody::Error(closed));
    assert!(failed(&started).to_string().contains("only who has an account here"));
}

/// Whoever is on the way to a relay without TLS reads along: nobody but the person decides that.
#[test]
fn a_relay_without_tls_is_followed_only_by_the_persons_own_word() {
    let plain = RelayUrl::parse("ws://10.0.0.9:4200").expect("a URL");
    let mut bob = Desk::cautious("bob");
    bob.authenticates();
    let who = || Who::Elsewhere(handle("carol"), plain.clone());
    let (started, effects) = starts(&mut bob, who());
    assert_eq!((failed(&started).code(), wanted(&effects)), ("PLAIN_RELAY", vec![]));
    // An invitation that leads there, likewise.
    let mut mallory = Desk::new("mallory");
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let place = RelayAddress { url: plain.clone(), ..elsewhere() };
    let made = mallory.group_at(TALK, &place, PLACE, &[(package, &card)]);
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, PostId([9; 16]));
    bob.finds(PostId([9; 16]), sealed);
    let id = bob.find(&TALK).expect("it waits");
    let accept = |reply| Command::Accept { conversation: id, foreign_relay: true, reply };
    assert_eq!(bob.does(accept).expect_err("not by this").code(), "PLAIN_RELAY");
    bob.does(|reply| Command::UseRelay(plain.clone(), reply)).expect("the person says so");
    bob.does(|reply| Command::Accept { conversation: id, foreign_relay: true, reply }).expect("joined");
    let (_started, effects) = starts(&mut bob, who());
    assert!(wanted(&effects).contains(&LinkId { relay: plain, link: Link::Directory }));
}

/// The person accepted the relay with the first invitation: another conversation there is followed, also
/// after the first has ended.
#[test]
fn consent_to_a_relay_lasts() {
    let mut mallory = Desk::at("mallory", &elsewhere());
    let mut bob = Desk::cautious("bob");
    for (number, group, mailbox) in [(1, TALK, PLACE), (2, ANOTHER, MailboxId([0x69; 16]))] {
        let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
        let made = mallory.group_at(group, &elsewhere(), mailbox, &[(package, &card)]);
        let invitation = mallory.invitation(group, &made, &card);
        let sealed = mallory.sealed(&invitation, &card, PostId([number; 16]));
        bob.finds(PostId([number; 16]), sealed);
        if number == 1 {
            let id = bob.find(&group).expect("it waits");
            let refused = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply });
            assert_eq!(refused.expect_err("not without a word").code(), "FOREIGN_RELAY");
            bob.does(|reply| Command::Accept { conversation: id, foreign_relay: true, reply })
                .expect("joined");
            bob.does(|reply| Command::Leave(id, reply)).expect("gone");
        }
    }
    assert_eq!(bob.state(&ANOTHER), Some(ConversationState::Active));
}

/// Rule 14, between two relays: the inviter's inbox at their relay gets the fresh key package.
#[test]
fn a_welcome_that_does_not_open_is_answered_at_the_inviters_relay() {
    let mut alice = Desk::at("alice", &elsewhere());
    let mut bob = Desk::cautious("bob");
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let made = alice.group_at(TALK, &elsewhere(), PLACE, &[(package, &card)]);
    let invitation = alice.invitation(TALK, &made, &card);
    let sealed = alice.sealed(&invitation, &card, PostId([1; 16]));
    bob.finds(PostId([1; 16]), sealed);
    bob.step(|step| Ok(step.tx.sql().execute("DELETE FROM mls", [])?));
    let id = bob.find(&TALK).expect("it waits");
    let refused = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: true, reply });
    assert_eq!(refused.expect_err("not with this").code(), "WELCOME_UNREADABLE");
    bob.now += 1_000;
    bob.tick();
    let post = there(Link::Post);
    let left = requests(&bob.connects(&post), &post);
    let inbox = alice.profile().public_inbox.mailbox;
    assert!(
        left.iter().any(|frame| matches!(&frame.body, Request::Post(post) if post.mailbox == inbox)),
        "{left:?}"
    );
}

/// A relay that is down delays only what lies there.
#[test]
fn a_relay_elsewhere_that_is_down_delays_only_its_own() {
    let away = (ConversationId([0x78; 16]), MailboxId([0x67; 16]));
    let mut bob = super::relays::open_here();
    founds(&mut bob, away, &elsewhere());
    let inbox = link(Link::Inbox);
    let opened = bob.connects(&inbox);
    let answer = all_opened(&requests(&opened, &inbox), |_| empty());
    bob.frames(&inbox, vec![answer]);
    let account = link(Link::Account);
    let opened = bob.authenticates();
    let answer = all_opened(&requests(&opened, &account), |_| empty());
    bob.frames(&account, vec![answer]);
    let state = |bob: &mut Desk| bob.does(Command::State).expect("has an account");
    assert!(!state(&mut bob).caught_up, "the other relay may still answer");
    let down = there(Link::Mailboxes);
    bob.tick();
    let told = bob.handle(Input::Disconnected(down.clone(), "refused".to_owned()));
    let unreachable = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Event(Event::Relay { relay, unreachable }) => {
                Some((relay.clone(), unreachable.is_some()))
            }
            Effect::Event(Event::Disconnected { .. }) => panic!("our own relay is there"),
            _ => None,
        })
    };
    assert_eq!(unreachable(&told), Some((elsewhere().url.to_string(), true)));
    let said = Said::new(Text::new("hear me")).expect("fits");
    bob.does(|reply| Command::Send { conversation: away.0, id: None, said, reply }).expect("queued");
    let now = state(&mut bob);
    assert!(now.connected && now.caught_up && now.outbox == 0 && now.intents == 0, "{now:?}");
    assert_eq!(now.unreachable.len(), 1);
    assert_eq!(now.unreachable[0].reason, "refused");
    // It is back: what was queued goes out, and counts until then.
    bob.now += 60_000;
    let back = bob.connects(&down);
    assert_eq!(unreachable(&back), Some((elsewhere().url.to_string(), false)));
    let now = state(&mut bob);
    assert_eq!((now.outbox, now.caught_up, now.unreachable.len()), (1, false, 0));
}

/// What a member's leaf says is no consent.
#[test]
fn somebody_whose_relay_nobody_knows_is_asked_for_by_link() {
    let mut carol = Desk::at("carol", &elsewhere());
    let mut bob = Desk::new("bob");
    let (card, person) = (carol.card(), carol.person());
    let credential = card.devices()[0].credential.clone();
    bob.step(|step| Ok(crate::engine::people::meet_member(step.tx, &credential, None)?));
    let (started, _) = starts(&mut bob, Who::Person(person));
    assert_eq!(failed(&started).code(), "OTHER_RELAY");
    // With her card it is known where she is.
    bob.step(|step| Ok(crate::engine::people::meet(step.tx, &card)?));
    let (_started, effects) = starts(&mut bob, Who::Person(person));
    assert!(wanted(&effects).contains(&there(Link::Directory)));
    let adds = |intent: &Intent| matches!(intent, Intent::Add(_));
    let ids = bob.does(Command::Conversations).expect("has an account");
    assert!(bob.intents(&ids[0].group).iter().any(adds));
}
