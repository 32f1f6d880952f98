//! Relays: they see and change what goes over their connections, and can say anything at any time.

use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{ClientFrame, Delivery, Opened, Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{ErrorCode, Handle, MailboxId, PostId, RelayIdentity};

use super::desk::{Desk, NOW, alarms, all_opened, at, empty, hello, link, relay, requests};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState};
use crate::identity::{RelayAddress, RelayUrl};
use crate::session::{GroupInfo, Provider, ReaderSecret, Session};
use crate::store::{Database, KdfCost, Location, Passphrase};
use crate::sync::account::OwnDevice;
use crate::sync::profile::Profile;
use crate::sync::reading::{Purpose, Reading};
use crate::sync::{Command, CommandId, Effect, Engine, Input, Link, LinkId};
use posthorn_proto::ReadKey;
use posthorn_proto::frame::OpenState;

const HERE: (ConversationId, MailboxId) = (ConversationId([0x77; 16]), MailboxId([0x66; 16]));
const THERE: (ConversationId, MailboxId) = (ConversationId([0x78; 16]), MailboxId([0x67; 16]));

fn elsewhere() -> RelayAddress {
    RelayAddress {
        url: RelayUrl::parse("ws://127.0.0.1:4200").expect("a URL"),
        identity: RelayIdentity([6; 32]),
    }
}

/// Gives a device a conversation of its own at a relay.
fn founds(desk: &mut Desk, (id, mailbox): (ConversationId, MailboxId), place: &RelayAddress) {
    desk.step(|step| {
        let profile = Profile::load(step.tx)?.expect("registered");
        let own = OwnDevice::of(&profile)?;
        let provider = Provider::new(step.tx);
        let reader_secret = ReaderSecret::generate(step.rng);
        let info = GroupInfo { relay: place.clone(), mailbox, reader_secret, name: String::new() };
        let reader = info.reader_secret.reader_id(&profile.device().signature_key());
        let session = Session::create(&provider, &own.leaf(), id, &info)?;
        let mut record = Conversation::new(place, mailbox, ConversationState::Active);
        step.note_members(&session, &mut record)?;
        record.save(step.tx, &id)?;
        let read_key = ReadKey::random(step.rng);
        Reading::new(Purpose::Conversation(id), place.url.as_str(), reader, &read_key)
            .save(step.tx, &mailbox)?;
        step.live.want_relay(place.url.as_str(), step.now);
        step.live.openings_dirty = true;
        Ok(())
    });
}

/// The state of a conversation's mailbox, with the lock of its present epoch.
fn locked(desk: &mut Desk, (id, _): (ConversationId, MailboxId), head: u64, cursor: u64) -> OpenState {
    let keys = desk.session(&id, |session, _, _| session.keys());
    OpenState { post_key_hash: keys.post.hash(), turn_key_hash: keys.turn.hash(), ..at(head, cursor) }
}

fn posts(frames: &[ClientFrame]) -> Vec<(u64, PostId)> {
    let post = |frame: &ClientFrame| match &frame.body {
        Request::Post(post) => Some((frame.request, post.post_id)),
        _ => None,
    };
    frames.iter().filter_map(post).collect()
}

/// A device at HERE whose conversation is open and empty.
fn open_here() -> Desk {
    let mut desk = Desk::new("bob");
    founds(&mut desk, HERE, &relay());
    opens(&mut desk, 0, 0);
    desk
}

fn opens(desk: &mut Desk, head: u64, cursor: u64) -> Vec<Effect> {
    let sent = desk.connects(&relay());
    let state = locked(desk, HERE, head, cursor);
    let answer = all_opened(&sent, |mailbox| if *mailbox == HERE.1 { state } else { empty() });
    desk.frames(&link(Link::Mailboxes), vec![answer])
}

fn send(desk: &mut Desk, text: &str) -> Vec<ClientFrame> {
    let command = Command::Send { conversation: HERE.0, text: text.to_owned() };
    requests(&desk.handle(Input::Command(CommandId(1), command)))
}

#[test]
fn a_relay_speaks_of_its_own_mailboxes_only() {
    let mut desk = open_here();
    founds(&mut desk, THERE, &elsewhere());
    let there = LinkId { relay: elsewhere().url, link: Link::Mailboxes };
    let sent = desk.connects(&elsewhere());
    let mut answer = all_opened(&sent, |_| empty());
    // Beside the answer: one of the other relay's mailboxes is open here, too; no, it does not exist.
    if let ServerBody::Opened(results) = &mut answer.body {
        results.clear();
        results.push(Opened { mailbox: HERE.1, result: Ok(at(5, 0)) });
        let gone = Refusal::new(ErrorCode::MailboxUnknown, "");
        results.push(Opened { mailbox: HERE.1, result: Err(gone) });
    }
    desk.frames(&there, vec![answer]);
    let reason = Refusal::new(ErrorCode::MailboxUnknown, "");
    let closed = ServerFrame::push(ServerBody::Closed { mailbox: HERE.1, reason });
    let delivery = Delivery {
        mailbox: HERE.1,
        seq: 1,
        post_id: PostId([1; 16]),
        envelope: vec![0; 256].into(),
        turn: None,
    };
    let delivery = ServerFrame::push(ServerBody::Delivery(delivery));
    let effects = desk.frames(&there, vec![closed, delivery]);
    assert_eq!(alarms(&effects), []);
    assert_eq!(desk.conversation(&HERE.0).expect("is").state, ConversationState::Active);
    assert_eq!(desk.reading(&HERE.1).expect("is").seq, 0);
    assert!(!desk.open_on(&there).contains(&HERE.1));
    assert!(desk.open_on(&link(Link::Mailboxes)).contains(&HERE.1));
}

/// Without a greeting nothing can be asked; the link must not look alive for ever, nor keep the engine busy.
#[test]
fn who_does_not_greet_is_left() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Mailboxes);
    desk.handle(Input::Tick);
    desk.handle(Input::Connected(id.clone()));
    let chatter = ServerFrame::push(ServerBody::Signalled { mailbox: HERE.1, payload: vec![].into() });
    let mut left = false;
    for _ in 0..60 {
        desk.now += 1_000;
        let effects = desk.frames(&id, vec![chatter.clone()]);
        left |= effects.iter().any(|effect| matches!(effect, Effect::Disconnect(link) if *link == id));
    }
    assert!(left);
}

/// Connected, greeted, and thrown out: each time the next try is later.
#[test]
fn a_relay_that_hangs_up_is_not_hammered() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Mailboxes);
    let mut waits = Vec::new();
    for _ in 0..12 {
        desk.connects(&relay());
        let began = desk.now;
        desk.handle(Input::Disconnected(id.clone(), "hung up".to_owned()));
        let wake = desk.engine.live.links[&id].wake_at().expect("tries again");
        waits.push(wake - began);
        desk.now = wake;
    }
    assert!(waits[11] >= 15_000, "{waits:?}");
    // One that answers is forgiven.
    opens_inboxes(&mut desk);
    let began = desk.now;
    desk.handle(Input::Disconnected(id.clone(), "hung up".to_owned()));
    assert!(desk.engine.live.links[&id].wake_at().expect("tries again") - began <= 1_000);
}

fn opens_inboxes(desk: &mut Desk) {
    let sent = desk.connects(&relay());
    desk.frames(&link(Link::Mailboxes), vec![all_opened(&sent, |_| empty())]);
}

/// "Come back in 49 days" is not advice.
#[test]
fn no_relay_sends_a_device_away_for_days() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Mailboxes);
    let sent = desk.connects(&relay());
    let request = sent.first().expect("it opens").request;
    let refusal = Refusal { code: Some(ErrorCode::Busy), message: String::new(), retry_after_ms: u32::MAX };
    desk.frames(&id, vec![ServerFrame { request, body: ServerBody::Error(refusal) }]);
    assert!(desk.engine.live.links[&id].wake_at().expect("goes on") - NOW <= 15 * 60 * 1000);
    desk.frames(&id, vec![ServerFrame::push(ServerBody::GoingAway { reconnect_after_ms: u32::MAX })]);
    desk.handle(Input::Disconnected(id.clone(), "gone".to_owned()));
    assert!(desk.engine.live.links[&id].wake_at().expect("tries again") - NOW <= 15 * 60 * 1000);
}

/// The relay answers a post, and shows something else at that seq: the lie is told, and the message goes out
/// again, as another post (the same would be answered the same).
#[test]
fn a_post_that_was_answered_and_not_stored_is_made_anew() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let sent = send(&mut desk, "hear me");
    let (request, post) = posts(&sent)[0];
    assert!(
        posts(&requests(
            &desk.frames(&id, vec![ServerFrame { request, body: ServerBody::Posted { seq: 1 } }])
        ))
        .is_empty()
    );
    let other = Delivery {
        mailbox: HERE.1,
        seq: 1,
        post_id: PostId([8; 16]),
        envelope: vec![1; 256].into(),
        turn: None,
    };
    let effects = desk.frames(&id, vec![ServerFrame::push(ServerBody::Delivery(other))]);
    assert!(alarms(&effects).contains(&Cause::EchoDiffers));
    // What does not open is in the chain like everything else (rule 9).
    let chained = Chain::START.next(1, &PostId([8; 16]), &TurnHash::NONE, &[1; 256]);
    assert_eq!(desk.reading(&HERE.1).map(|reading| reading.chain()), Some(chained));
    assert!(posts(&requests(&effects)).is_empty(), "not at once: whoever lies would be asked for ever");
    desk.now += 31_000;
    let again = posts(&requests(&desk.handle(Input::Tick)));
    assert!(again.len() == 1 && again[0].1 != post, "{again:?}");
}

/// The relay's store is put back to before a post that it had answered (R10, rule 8): the identical post goes
/// out again.
#[test]
fn a_post_that_a_restored_relay_lost_is_posted_again() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let sent = send(&mut desk, "hear me");
    let (request, post) = posts(&sent)[0];
    desk.frames(&id, vec![ServerFrame { request, body: ServerBody::Posted { seq: 1 } }]);
    desk.handle(Input::Disconnected(id.clone(), "restored".to_owned()));
    desk.now += 2_000;
    let effects = opens(&mut desk, 0, 0);
    assert_eq!(posts(&requests(&effects)).iter().map(|(_, post)| *post).collect::<Vec<_>>(), [post]);
}

/// What lies in an inbox is nothing that others refer to: a hole there is told, and reading goes on behind
/// it.
#[test]
fn inboxes_go_on_whatever_happened_to_them() {
    for (state, cause) in
        [(OpenState { oldest: 8, ..at(9, 0) }, Cause::Lapsed), (at(9, 7), Cause::RolledBack)]
    {
        let mut desk = Desk::new("bob");
        let mailbox = desk.profile().private_inbox.mailbox;
        let sent = desk.connects(&relay());
        let effects = desk.frames(&link(Link::Mailboxes), vec![all_opened(&sent, |_| state)]);
        assert_eq!(alarms(&effects), [cause]);
        let reading = desk.reading(&mailbox).expect("is");
        assert_eq!((reading.seq, reading.stopped), (7, None));
        assert!(desk.open_on(&link(Link::Mailboxes)).contains(&mailbox));
    }
    // In between: something there was damaged.
    let mut desk = Desk::new("bob");
    let mailbox = desk.profile().private_inbox.mailbox;
    let sent = desk.connects(&relay());
    desk.frames(&link(Link::Mailboxes), vec![all_opened(&sent, |_| at(5, 0))]);
    let delivery =
        Delivery { mailbox, seq: 5, post_id: PostId([8; 16]), envelope: vec![1; 256].into(), turn: None };
    let effects =
        desk.frames(&link(Link::Mailboxes), vec![ServerFrame::push(ServerBody::Delivery(delivery))]);
    assert_eq!(alarms(&effects), [Cause::Gap]);
    assert_eq!(desk.reading(&mailbox).map(|reading| (reading.seq, reading.stopped)), Some((5, None)));
    // The relay has less than we read: its store was put back.
    let mut desk = Desk::new("bob");
    let mailbox = desk.profile().private_inbox.mailbox;
    desk.step(|step| {
        let mut reading = Reading::load(step.tx, &mailbox)?.expect("is");
        reading.seq = 5;
        Ok(reading.save(step.tx, &mailbox)?)
    });
    let sent = desk.connects(&relay());
    let effects = desk.frames(&link(Link::Mailboxes), vec![all_opened(&sent, |_| at(3, 2))]);
    assert_eq!(alarms(&effects), [Cause::RelayRolledBack]);
    assert_eq!(desk.reading(&mailbox).map(|reading| (reading.seq, reading.stopped)), Some((2, None)));
}

/// An inbox that the relay has lost is made anew; its address stands in cards and leaves.
#[test]
fn an_inbox_that_is_gone_is_made_again() {
    let mut desk = Desk::new("bob");
    let mailbox = desk.profile().private_inbox.mailbox;
    let sent = desk.connects(&relay());
    let mut answer = all_opened(&sent, |_| empty());
    if let ServerBody::Opened(results) = &mut answer.body {
        results[0].result = Err(Refusal::new(ErrorCode::MailboxUnknown, ""));
    }
    let effects = desk.frames(&link(Link::Mailboxes), vec![answer]);
    assert_eq!(alarms(&effects), [Cause::MailboxGone]);
    assert!(!desk.profile().private_inbox.created);
    assert!(desk.reading(&mailbox).is_none());
}

/// A relay that is busy has not said no: the identity that it may have stored already must not be thrown
/// away.
#[test]
fn a_registration_outlives_a_busy_relay() {
    for (code, survives) in
        [(ErrorCode::Busy, true), (ErrorCode::RateLimited, true), (ErrorCode::HandleTaken, false)]
    {
        let mut rng: rand_chacha::ChaCha20Rng = rand::SeedableRng::from_seed([1; 32]);
        let database = Database::create(Location::Memory, &Passphrase::new("x"), KdfCost::CHEAP, &mut rng)
            .expect("in memory");
        let engine = Engine::open(database, Box::new(rng), NOW).map_err(|failed| failed.0).expect("opens");
        let mut desk = Desk { engine, now: NOW };
        let handle = Handle::parse("bob").expect("a handle");
        let register = Command::Register { relay: relay().url, handle, invite: String::new() };
        desk.handle(Input::Command(CommandId(1), register));
        let account = link(Link::Account);
        desk.handle(Input::Connected(account.clone()));
        let sent =
            requests(&desk.frames(&account, vec![ServerFrame::push(ServerBody::Hello(hello(&relay())))]));
        let request =
            sent.iter().find(|frame| matches!(frame.body, Request::Register(_))).expect("registers").request;
        let refusal = ServerFrame { request, body: ServerBody::Error(Refusal::new(code, "")) };
        let effects = desk.frames(&account, vec![refusal]);
        let there = desk.step(|step| Ok(Profile::load(step.tx)?)).0.is_some();
        let answered = effects.iter().any(|effect| matches!(effect, Effect::Answer(..)));
        assert_eq!((there, answered), (survives, !survives), "{code:?}");
    }
}

/// Asks for an account at `place`, as `handle`; the error if it is refused at once.
fn registers(desk: &mut Desk, place: &RelayAddress, handle: &str) -> Option<&'static str> {
    let handle = Handle::parse(handle).expect("a handle");
    let command = Command::Register { relay: place.url.clone(), handle, invite: "again".to_owned() };
    let effects = desk.handle(Input::Command(CommandId(9), command));
    effects.into_iter().find_map(|effect| match effect {
        Effect::Answer(_, answer) => answer.err().map(|error| error.code()),
        _ => None,
    })
}

#[test]
fn a_mistyped_address_is_put_right_until_a_relay_has_answered() {
    let unregistered = |profile: &mut Profile| {
        profile.relay_identity = None;
        profile.registered = false;
    };
    let mut bob = Desk::made("bob", &relay(), unregistered);
    let device = bob.profile().device().id();
    assert_eq!(registers(&mut bob, &elsewhere(), "bob"), None);
    assert_eq!(bob.profile().relay_url().expect("a URL"), elsewhere().url);
    assert_ne!(bob.profile().device().id(), device, "no key is shown to two relays");
    assert_eq!(registers(&mut bob, &elsewhere(), "robert"), None);
    assert_eq!(bob.profile().handle().expect("a handle").as_str(), "robert");
    // The same again takes the new invite and keeps the keys.
    let device = bob.profile().device().id();
    assert_eq!(registers(&mut bob, &elsewhere(), "robert"), None);
    assert_eq!((bob.profile().invite.as_str(), bob.profile().device().id()), ("again", device));
    // Once it has answered it may have the account, whose keys must not be lost.
    bob.connects(&elsewhere());
    assert_eq!(registers(&mut bob, &relay(), "bob"), Some("ACCOUNT_EXISTS"));
    assert_eq!(bob.profile().relay_url().expect("a URL"), elsewhere().url);
}
