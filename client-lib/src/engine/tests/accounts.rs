//! The account: registering, clocks, and what the relay is kept stocked with.

use posthorn_proto::frame::{Opened, Refusal, Request, ServerBody};
use posthorn_proto::{ErrorCode, Handle};

use super::desk::{Desk, NOW, alarms, elsewhere, empty, link, relay, requests};
use super::directory::start;
use super::relays::{HERE, open_here, opens, posts, send};
use crate::conversation::Cause;
use crate::engine::account::profile::Profile;
use crate::engine::{Command, Effect, Error, Event, Input, Link, LinkId, Reply};
use crate::group::{KeyPackage, KeyPackageKind, Provider, UnverifiedKeyPackage};
use crate::identity::RelayAddress;

/// A relay that is busy has not said no: the identity that it may have stored already must not be thrown
/// away.
#[test]
fn a_registration_outlives_a_busy_relay() {
    for (code, survives) in
        [(ErrorCode::Busy, true), (ErrorCode::RateLimited, true), (ErrorCode::HandleTaken, false)]
    {
        let mut desk = Desk::empty();
        let (answer, _) = registers(&mut desk, &relay(), "bob");
        let account = link(Link::Account);
        let sent = requests(&desk.connects(&account), &account);
        let request =
            sent.iter().find(|frame| matches!(frame.body, Request::Register(_))).expect("registers").request;
        desk.answers(&account, request, ServerBody::Error(Refusal::new(code, "")));
        let there = desk.step(|step| Ok(Profile::load(step.tx)?)).0.is_some();
        assert_eq!((there, answer.try_recv().is_ok()), (survives, !survives), "{code:?}");
    }
}

type Answer = std::sync::mpsc::Receiver<Result<crate::engine::Account, crate::engine::Error>>;

/// Asks for an account at `place`, as `handle`.
fn registers(desk: &mut Desk, place: &RelayAddress, handle: &str) -> (Answer, Vec<Effect>) {
    let (handle, relay) = (Handle::parse(handle).expect("a handle"), place.url.clone());
    desk.asks(|reply| Command::Register { relay, handle, invite: "again".to_owned(), reply })
}

/// The relay was restored from a backup that is older than the account: what is here can be read, it is told
/// once what to do, and registering again gives the account back with its keys. A refusal loses nothing.
#[test]
fn an_account_that_the_relay_has_lost_is_given_back() {
    given_back(true);
    given_back(false);
}

fn given_back(inbox_is_gone: bool) {
    let mut bob = Desk::new("bob");
    let (account, inbox) = (link(Link::Account), link(Link::Inbox));
    let (device, mailbox) = (bob.profile().device().id(), bob.profile().private_inbox.mailbox);
    let mut told = Vec::new();
    for _ in 0..2 {
        let sent = requests(&bob.connects(&account), &account);
        let asked = sent.iter().find(|frame| matches!(frame.body, Request::Authenticate(_)));
        let refusal = ServerBody::Error(Refusal::new(ErrorCode::AuthenticationFailed, ""));
        told.extend(alarms(&bob.answers(&account, asked.expect("proves itself").request, refusal)));
        bob.handle(Input::Disconnected(account.clone(), "cut".to_owned()));
        bob.now += 60_000;
    }
    assert_eq!(told, [Cause::AuthenticationFailed]);
    // What it has of the account may be anything; with the inbox it goes on as after a first registration.
    if inbox_is_gone {
        let sent = requests(&bob.connects(&inbox), &inbox);
        let open = sent.iter().find(|frame| matches!(frame.body, Request::Open(_))).expect("opens").request;
        let gone = Opened { mailbox, result: Err(Refusal::new(ErrorCode::MailboxUnknown, "")) };
        let effects = bob.answers(&inbox, open, ServerBody::Opened(vec![gone]));
        assert_eq!(alarms(&effects), [Cause::MailboxGone]);
    }
    let known = bob.does(Command::Account).expect("is").expect("there is one");
    assert!(known.registered && bob.does(Command::State).expect("is").unknown);
    for is_taken in [false, true] {
        let (answer, _) = registers(&mut bob, &relay(), "bob");
        bob.now += 60_000;
        let sent = requests(&bob.connects(&account), &account);
        let (request, again) = sent
            .iter()
            .find_map(|frame| match &frame.body {
                Request::Register(again) => Some((frame.request, again.clone())),
                _ => None,
            })
            .expect("registers");
        assert_eq!((again.device, again.invite.as_str()), (device, "again"), "with the same keys");
        if is_taken {
            let effects = bob.registered(request);
            assert!(answer.try_recv().is_err(), "the card and the keys are not there yet");
            assert_eq!(alarms(&effects), []);
            assert!(bob.profile().card_due && !bob.does(Command::State).expect("is").unknown);
        } else {
            bob.answers(&account, request, ServerBody::Error(Refusal::new(ErrorCode::InviteInvalid, "")));
            let refused = answer.try_recv().expect("answered").expect_err("refused");
            assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
            assert_eq!(bob.profile().device().id(), device, "the keys are kept");
            bob.handle(Input::Disconnected(account.clone(), "cut".to_owned()));
            bob.now += 60_000;
        }
    }
}

#[test]
fn a_mistyped_address_is_put_right_until_a_relay_has_answered() {
    let mut bob = Desk::empty();
    let waits = |(answer, _): (Answer, Vec<Effect>)| answer.try_recv().is_err();
    assert!(waits(registers(&mut bob, &relay(), "bob")));
    let device = bob.profile().device().id();
    assert!(waits(registers(&mut bob, &elsewhere(), "bob")));
    assert_eq!(bob.profile().relay_url().expect("a URL"), elsewhere().url);
    assert_ne!(bob.profile().device().id(), device, "no key is shown to two relays");
    assert!(waits(registers(&mut bob, &elsewhere(), "robert")));
    assert_eq!(bob.profile().handle().expect("a handle").as_str(), "robert");
    // The same again takes the new invite and keeps the keys.
    let device = bob.profile().device().id();
    assert!(waits(registers(&mut bob, &elsewhere(), "robert")));
    assert_eq!((bob.profile().invite.as_str(), bob.profile().device().id()), ("again", device));
    // Once it has answered it may have the account, whose keys must not be lost.
    bob.connects(&LinkId { relay: elsewhere().url, link: Link::Account });
    let refused = registers(&mut bob, &relay(), "bob").0.try_recv().expect("at once");
    assert_eq!(refused.expect_err("there is one").code(), "ACCOUNT_EXISTS");
    assert_eq!(bob.profile().relay_url().expect("a URL"), elsewhere().url);
}

/// Answers what the account asks for, as an honest relay does, until nothing more is asked; how many key
/// package publications, last-resort ones among them, and draws of tokens there were.
pub(super) fn serves(desk: &mut Desk, mut effects: Vec<Effect>, tokens: u32) -> (u32, u32, u32) {
    let (mut published, mut last_resorts, mut drawn) = (0, 0, 0);
    let (mut one_time, mut since) = (0, desk.profile().last_resort_since.unwrap_or(0));
    for _ in 0..100 {
        let mut asked = Vec::new();
        for kind in [Link::Account, Link::Inbox, Link::Mailboxes] {
            asked.extend(requests(&effects, &link(kind)).into_iter().map(|frame| (link(kind), frame)));
        }
        if asked.is_empty() {
            return (published, last_resorts, drawn);
        }
        effects = Vec::new();
        for (id, frame) in asked {
            let body = match frame.body {
                Request::PublishKeyPackages(publication) => {
                    published += 1;
                    one_time += publication.one_time.len() as u32;
                    if publication.last_resort.is_some() {
                        last_resorts += 1;
                        since = desk.now.saturating_add_signed(desk.skew) / 1000;
                    }
                    ServerBody::KeyPackageStock { one_time, last_resort_since: since }
                }
                Request::DrawTokens { hashes, .. } => {
                    drawn += 1;
                    ServerBody::TokensDrawn(tokens.min(hashes.len() as u32))
                }
                Request::PublishCard(_) => ServerBody::Done,
                Request::Create(_) => ServerBody::Created,
                Request::Open(open) => {
                    let one = |opening: &posthorn_proto::frame::Opening| Opened {
                        mailbox: opening.mailbox,
                        result: Ok(empty()),
                    };
                    ServerBody::Opened(open.openings.iter().map(one).collect())
                }
                _ => continue,
            };
            effects.extend(desk.answers(&id, frame.request, body));
        }
    }
    panic!("it asks without end");
}

/// F1, F3 and F20 of the bug hunt: a clock that is days ahead, days behind, or at 1970. The relay's time
/// counts: one last-resort package at the most, one-time ones that others take, and an end.
#[test]
fn a_wrong_clock_publishes_once() {
    const DAY: i64 = 24 * 3600 * 1000;
    for (ours, theirs) in [(8 * DAY, 0), (-3 * DAY, 0), (-(NOW as i64), 0), (0, -(NOW as i64))] {
        let mut desk = Desk::new("bob");
        desk.now = NOW.saturating_add_signed(ours);
        desk.skew = theirs - ours;
        let mut effects = desk.connects(&link(Link::Inbox));
        effects.extend(desk.authenticates());
        assert!(alarms(&effects).contains(&Cause::ClockWrong));
        let (published, last_resorts, _) = serves(&mut desk, effects, 16);
        assert!(published <= 3 && last_resorts <= 1, "{ours} {theirs}: {published} {last_resorts}");
        // Again and again, nothing more.
        for _ in 0..3 {
            desk.now += 1_000;
            let effects = desk.tick();
            assert_eq!(serves(&mut desk, effects, 16).0, 0);
        }
        // What is published now is good by the relay's clock.
        let (mut alice, card) = (Desk::new("alice"), desk.card());
        let made = desk.step(|step| {
            let (own, now) = (step.own()?, step.relay_now());
            Ok(KeyPackage::make(&Provider::new(step.tx, None), &own.leaf()?, KeyPackageKind::OneTime, now)?)
        });
        let bytes = made.0.bytes;
        let now = NOW.saturating_add_signed(theirs);
        let verified = alice.step(|step| {
            let package = UnverifiedKeyPackage::parse(&bytes).expect("well formed");
            Ok(package.verify(&Provider::new(step.tx, None), &card.identity(), now).is_ok())
        });
        assert!(verified.0, "{ours} {theirs}");
    }
}

/// A clock that is put back while the program runs, or while it does not: nothing waits for days.
#[test]
fn a_clock_that_is_put_back_stops_nothing() {
    for restarted in [false, true] {
        let mut desk = open_here();
        let id = link(Link::Mailboxes);
        let conversation = HERE.0;
        desk.step(|step| step.talk_known(&conversation, |talk| talk.wish_to_update(1_000)));
        desk.handle(Input::Disconnected(id.clone(), "cut".to_owned()));
        desk.now -= 3 * 24 * 3600 * 1000;
        if restarted {
            desk = desk.reopened();
        }
        let mut came = false;
        for _ in 0..100 {
            came |= desk.tick().iter().any(|effect| matches!(effect, Effect::Connect(link) if *link == id));
            desk.now += 1_000;
        }
        assert!(came, "restarted: {restarted}");
        let effects = opens(&mut desk, 0, 0);
        let mut committed = !posts(&effects).is_empty();
        for _ in 0..100 {
            desk.now += 1_000;
            committed |= !posts(&desk.tick()).is_empty();
        }
        assert!(committed, "restarted: {restarted}");
    }
}

/// A relay that keeps fewer key packages than it is given, or none, is not given them without end.
#[test]
fn a_relay_that_keeps_nothing_is_given_nothing_without_end() {
    for (one_time, last_resort_since) in [(0, 0), (0, NOW / 1000), (4, NOW / 1000)] {
        let mut desk = Desk::new("bob");
        let account = link(Link::Account);
        let mut effects = desk.authenticates();
        let mut published = 0;
        for _ in 0..20 {
            let publication = requests(&effects, &account)
                .into_iter()
                .find(|frame| matches!(frame.body, Request::PublishKeyPackages(_)));
            let Some(frame) = publication else { break };
            published += 1;
            let body = ServerBody::KeyPackageStock { one_time, last_resort_since };
            effects = desk.answers(&account, frame.request, body);
        }
        assert!((1..=3).contains(&published), "{one_time} {last_resort_since}: {published}");
    }
}

/// F9 of the bug hunt: the relay gives no more tokens. That is told, new conversations wait, and everything
/// else goes on.
#[test]
fn a_limit_of_tokens_is_told_and_holds_back_nothing_else() {
    let mut desk = open_here();
    let effects = desk.authenticates();
    let (account, mailboxes) = (link(Link::Account), link(Link::Mailboxes));
    let draw = requests(&effects, &account)
        .into_iter()
        .find(|frame| matches!(frame.body, Request::DrawTokens { .. }))
        .expect("it has none");
    let refusal =
        Refusal { retry_after_ms: 60_000, ..Refusal::new(ErrorCode::RateLimited, "at most 200 a day") };
    let effects = desk.answers(&account, draw.request, ServerBody::Error(refusal));
    let told = |effect: &Effect| matches!(effect, Effect::Event(Event::Waiting(waiting)) if waiting.code == "RATE_LIMITED");
    assert!(effects.iter().any(told), "{effects:?}");
    assert_eq!(
        desk.does(Command::State).expect("is").waiting.map(|w| w.text),
        Some("at most 200 a day".to_owned())
    );
    let (request, _) = posts(&send(&mut desk, "goes on"))[0];
    desk.answers(&mailboxes, request, ServerBody::Posted { seq: 1 });
    let started = start(&mut desk, None, &["alice"]);
    let asked = requests(&started.1, &account);
    assert!(asked.iter().any(|frame| matches!(frame.body, Request::LookUp(_))), "the directory goes on");
    assert!(!asked.iter().any(|frame| matches!(frame.body, Request::DrawTokens { .. })));
    desk.now += 60_000;
    let drawn = |effects: &[Effect]| {
        let asked = requests(effects, &account);
        asked
            .into_iter()
            .find(|frame| matches!(frame.body, Request::DrawTokens { .. }))
            .map(|frame| frame.request)
    };
    let request = drawn(&desk.tick()).expect("it asks again");
    // A relay that takes none at all is not asked every few seconds.
    let effects = desk.answers(&account, request, ServerBody::TokensDrawn(0));
    assert!(effects.iter().any(told), "{effects:?}");
    desk.now += 10 * 60_000 - 1;
    assert_eq!(drawn(&desk.tick()), None);
    desk.now += 1;
    assert!(drawn(&desk.tick()).is_some());
}

/// A relay whose disk is full answers, and its refusal is what people are told: not that it is away.
#[test]
fn a_relay_that_refuses_for_now_is_not_away() {
    let mut desk = open_here();
    desk.authenticates();
    desk.connects(&link(Link::Inbox));
    let mailboxes = link(Link::Mailboxes);
    let (request, _) = posts(&send(&mut desk, "hello"))[0];
    let refusal =
        Refusal { retry_after_ms: 5000, ..Refusal::new(ErrorCode::StoreUnavailable, "the disk is full") };
    let told = |effects: &[Effect]| {
        let is = |effect: &&Effect| matches!(effect, Effect::Event(Event::Waiting(waiting)) if waiting.code == "STORE_UNAVAILABLE");
        effects.iter().filter(is).count()
    };
    assert_eq!(told(&desk.answers(&mailboxes, request, ServerBody::Error(refusal.clone()))), 1);
    let state = desk.does(Command::State).expect("is");
    let waiting = state.waiting.map(|waiting| (waiting.code, waiting.text));
    assert_eq!(waiting, Some(("STORE_UNAVAILABLE".to_owned(), "the disk is full".to_owned())));
    assert!(state.connected, "it answers");
    desk.now += 5000;
    let (request, _) = posts(&desk.tick())[0];
    assert_eq!(told(&desk.answers(&mailboxes, request, ServerBody::Error(refusal))), 0, "it was told");
    desk.now += 5000;
    let (request, _) = posts(&desk.tick())[0];
    desk.answers(&mailboxes, request, ServerBody::Posted { seq: 1 });
    assert_eq!(desk.does(Command::State).expect("is").waiting, None);
}

/// Rule 15: what was sealed to a last-resort key package opens for a week after another took its place, not
/// for the twelve weeks for which it is good.
#[test]
fn the_secrets_of_a_replaced_last_resort_go() {
    const WEEK: u64 = 7 * 24 * 3600 * 1000;
    let mut desk = Desk::made("bob", &relay(), |profile| profile.last_resort_since = None);
    let is_last = |desk: &mut Desk| -> u64 {
        let sql = "SELECT COUNT(*) FROM key_package WHERE last_resort";
        desk.step(|step| Ok(step.tx.sql().query_row(sql, [], |row| row.get(0))?)).0
    };
    let online = |desk: &mut Desk| {
        let mut effects = desk.connects(&link(Link::Inbox));
        effects.extend(desk.authenticates());
        serves(desk, effects, 16).1
    };
    assert_eq!((online(&mut desk), is_last(&mut desk)), (1, 1));
    let mut kept = Vec::new();
    for _ in 0..4 {
        desk.now += WEEK + 1000;
        desk = desk.reopened();
        assert_eq!(online(&mut desk), 1, "it is replaced weekly");
        kept.push(is_last(&mut desk));
    }
    assert_eq!(kept, [2, 2, 2, 2], "the newest and the one before");
    assert_eq!(desk.rows("mls"), desk.rows("key_package"), "there are no secrets but of those");
}

/// Whoever waits for something that is rolled back is told why, not that the program has ended.
#[test]
fn an_answer_that_is_rolled_back_tells_why() {
    let mut desk = Desk::new("bob");
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let reply = Reply::new(move |result| drop(sender.send(result)));
    let (done, effects) = desk.step(|step| {
        step.attempt(|step| -> Result<(), Error> {
            step.answer(reply, Ok(()));
            Err(Error::UnknownPerson("nobody".to_owned()))
        })
    });
    assert!(done.is_err());
    for effect in effects {
        if let Effect::Answer(answer) = effect {
            answer.give();
        }
    }
    let answer: Result<(), Error> = receiver.try_recv().expect("it is answered");
    assert_eq!(answer.expect_err("it did not come about").code(), "UNKNOWN_PERSON");
}
