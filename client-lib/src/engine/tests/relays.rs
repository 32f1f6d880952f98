//! Relays: they see and change what goes over their connections, and can say anything at any time.

use posthorn_proto::auth::Proof;
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{
    ClientFrame, Delivery, OpenState, Opened, Refusal, Request, ServerBody, ServerFrame,
};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{ErrorCode, Incarnation, MailboxId, PostId, ReadKey};

use super::desk::{
    Desk, NOW, alarms, all_opened, at, elsewhere, empty, info, link, on_the_wire, relay, requests, wanted,
};
use crate::content::{Invitation, Named, Said, Text};
use crate::conversation::{
    Cause, Conversation, ConversationId, ConversationState, GroupId, Intent, MessageId, Notice,
};
use crate::engine::mailbox::reading::{Pause, Purpose, Reading};
use crate::engine::{Command, Consent, Effect, Error, Input, Link, LinkId};
use crate::group::{Change, Group, KeyPackageKind, Provider};
use crate::identity::{PersonId, RelayAddress};
use crate::store::poison;

pub(super) const HERE: (ConversationId, MailboxId) = (ConversationId([0x77; 16]), MailboxId([0x66; 16]));
const THERE: (ConversationId, MailboxId) = (ConversationId([0x78; 16]), MailboxId([0x67; 16]));
pub(super) const GROUP: GroupId = GroupId([0x77; 16]);

/// Gives a device a conversation of its own at a relay.
pub(super) fn founds(desk: &mut Desk, (id, mailbox): (ConversationId, MailboxId), place: &RelayAddress) {
    desk.step(|step| {
        let own = step.own()?;
        let provider = Provider::new(step.tx, Some(id));
        let (info, group) = (info(step.rng, place, mailbox), GroupId(id.0));
        let reader = info.place.reader_secret.reader_id(&own.device()?.signature_key());
        let mut made = Group::create(&provider, &own.leaf()?, group, &info)?;
        // As if somebody had been in: in the first epoch nothing is said.
        made.stage(&own.leaf()?, &Change { update_self: true, ..Change::default() }, b"")?;
        made.merge_pending()?;
        let mut record = Conversation::new(group, place, mailbox, ConversationState::Active);
        (record.leaf_since, record.epoch) = (step.now, made.epoch());
        let read_key = ReadKey::random(step.rng);
        let reading = Reading::new(Purpose::Conversation(id), place.url.as_str(), reader, &read_key);
        step.begin_talk(id, record, |talk| {
            talk.set_reading(reading);
            talk.note_members()
        })
    });
}

pub(super) fn posts(effects: &[Effect]) -> Vec<(u64, PostId)> {
    let post = |frame: ClientFrame| match frame.body {
        Request::Post(post) => Some((frame.request, post.post_id)),
        _ => None,
    };
    requests(effects, &link(Link::Mailboxes)).into_iter().filter_map(post).collect()
}

/// A device at HERE whose conversation is open and empty.
pub(super) fn open_here() -> Desk {
    let mut desk = Desk::new("bob");
    founds(&mut desk, HERE, &relay());
    opens(&mut desk, 0, 0);
    desk
}

pub(super) fn opens(desk: &mut Desk, head: u64, cursor: u64) -> Vec<Effect> {
    let id = link(Link::Mailboxes);
    let effects = desk.connects(&id);
    opened(desk, &effects, head, cursor)
}

/// The answer to the opening among these effects, as an honest relay gives it.
fn opened(desk: &mut Desk, effects: &[Effect], head: u64, cursor: u64) -> Vec<Effect> {
    let id = link(Link::Mailboxes);
    let state = desk.locked(&GROUP, head, cursor);
    let answer = all_opened(&requests(effects, &id), |_| state);
    desk.frames(&id, vec![answer])
}

pub(super) fn send(desk: &mut Desk, text: &str) -> Vec<Effect> {
    let said = Said::new(Text::new(text)).expect("fits");
    let (answer, effects) = desk.asks(|reply| Command::Send { conversation: HERE.0, id: None, said, reply });
    answer.try_recv().expect("at once").expect("queued");
    effects
}

pub(super) fn delivery(mailbox: MailboxId, seq: u64, bytes: u8) -> ServerFrame {
    let envelope = vec![bytes; 256].into();
    let post_id = PostId([8; 16]);
    ServerFrame::push(ServerBody::Delivery(Delivery { mailbox, seq, post_id, envelope, turn: None }))
}

pub(super) fn lost(mailbox: MailboxId, seq: u64) -> ServerFrame {
    let reason = Refusal::new(ErrorCode::StoreUnavailable, "damaged");
    ServerFrame::push(ServerBody::Lost { mailbox, seq, reason })
}

fn suspended(desk: &mut Desk) -> Option<Cause> {
    match desk.state(&GROUP).expect("is") {
        ConversationState::Suspended(suspension) => Some(suspension.cause),
        _ => None,
    }
}

#[test]
fn a_relay_speaks_of_its_own_mailboxes_only() {
    let mut desk = open_here();
    founds(&mut desk, THERE, &elsewhere());
    let there = LinkId { relay: elsewhere().url, link: Link::Mailboxes };
    let sent = desk.connects(&there);
    let mut answer = all_opened(&requests(&sent, &there), |_| empty());
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
    let effects = desk.frames(&there, vec![closed, delivery(HERE.1, 1, 0), lost(HERE.1, 1)]);
    assert_eq!(alarms(&effects), []);
    assert_eq!(desk.state(&GROUP), Some(ConversationState::Active));
    assert_eq!(desk.reading(&HERE.1).expect("is").seq, 0);
    assert!(!desk.open_on(&there).contains(&HERE.1));
    assert!(desk.open_on(&link(Link::Mailboxes)).contains(&HERE.1));
}

/// Without a greeting nothing can be asked; the link must not look alive for ever, nor keep the engine busy.
#[test]
fn who_does_not_greet_is_left() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Mailboxes);
    desk.tick();
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

/// Finding 10: a host that accepts and says nothing, a captive portal, a sleep during the handshake.
#[test]
fn a_connection_that_does_not_come_up_is_given_up() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Mailboxes);
    desk.tick();
    desk.now += 29_000;
    let gives_up = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Disconnect(link) if *link == id))
    };
    assert!(!gives_up(&desk.tick()));
    desk.now += 1_000;
    assert!(gives_up(&desk.tick()));
    assert!(!gives_up(&desk.tick()), "once");
    desk.handle(Input::Disconnected(id.clone(), "given up".to_owned()));
    desk.now = desk.engine.live.links[&id].wake_at().expect("tries again");
    assert!(desk.tick().iter().any(|effect| matches!(effect, Effect::Connect(link) if *link == id)));
}

/// Connected, greeted, and thrown out: each time the next try is later.
#[test]
fn a_relay_that_hangs_up_is_not_hammered() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Mailboxes);
    let mut waits = Vec::new();
    for _ in 0..12 {
        desk.tick();
        desk.handle(Input::Connected(id.clone()));
        let began = desk.now;
        desk.handle(Input::Disconnected(id.clone(), "hung up".to_owned()));
        let wake = desk.engine.live.links[&id].wake_at().expect("tries again");
        waits.push(wake - began);
        desk.now = wake;
    }
    assert!(waits[11] >= 15_000, "{waits:?}");
    // One that proves itself is forgiven.
    desk.connects(&id);
    let began = desk.now;
    desk.handle(Input::Disconnected(id.clone(), "hung up".to_owned()));
    assert!(desk.engine.live.links[&id].wake_at().expect("tries again") - began <= 1_000);
}

/// Whoever says something does not sit out a long wait: it is tried soon, but not with each message, and not
/// before the time that the relay named.
#[test]
fn what_is_sent_is_tried_soon() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let wake = |desk: &Desk| desk.engine.live.links[&id].wake_at().expect("tries again");
    let mut advice = 0;
    for _ in 0..2 {
        for _ in 0..8 {
            desk.now = desk.now.max(wake(&desk));
            desk.tick();
            desk.handle(Input::Connected(id.clone()));
            let hello = ServerFrame::push(ServerBody::Hello(desk.hello(&relay().url)));
            let away = ServerBody::GoingAway { reconnect_after_ms: advice };
            desk.frames(&id, vec![hello, ServerFrame::push(away)]);
            desk.handle(Input::Disconnected(id.clone(), "hung up".to_owned()));
        }
        let fell = desk.now;
        assert!(wake(&desk) - fell >= 30_000 + u64::from(advice), "it waits for long by now");
        for seconds in [0, 1] {
            desk.now = fell + seconds * 1_000;
            let tried = wanted(&send(&mut desk, "are you there?"));
            assert!(!tried.contains(&id) && wake(&desk) == fell + u64::from(advice) + 2_000, "not each time");
        }
        advice = 10_000;
    }
}

/// "Come back in 49 days" is not advice.
#[test]
fn no_relay_sends_a_device_away_for_days() {
    let mut desk = Desk::new("bob");
    let id = link(Link::Inbox);
    let sent = requests(&desk.connects(&id), &id);
    let request = sent.last().expect("it opens").request;
    let refusal = Refusal { retry_after_ms: u32::MAX, ..Refusal::new(ErrorCode::Busy, "") };
    desk.answers(&id, request, ServerBody::Error(refusal));
    assert!(desk.engine.live.links[&id].wake_at().expect("goes on") - NOW <= 15 * 60 * 1000);
    desk.frames(&id, vec![ServerFrame::push(ServerBody::GoingAway { reconnect_after_ms: u32::MAX })]);
    desk.handle(Input::Disconnected(id.clone(), "gone".to_owned()));
    assert!(desk.engine.live.links[&id].wake_at().expect("tries again") - NOW <= 15 * 60 * 1000);
}

/// Finding 16: another relay, or one that cannot prove to be the one that it says: nothing is sent to it.
#[test]
fn only_the_relay_that_is_known_is_spoken_to() {
    for kind in [Link::Account, Link::Mailboxes, Link::Inbox] {
        let mut desk = Desk::new("bob");
        let id = link(kind);
        // One that names another key.
        let there = Desk::at("eve", &elsewhere());
        desk.tick();
        desk.handle(Input::Connected(id.clone()));
        let hello = ServerFrame::push(ServerBody::Hello(there.hello(&elsewhere().url)));
        let effects = desk.frames(&id, vec![hello]);
        assert_eq!((alarms(&effects), on_the_wire(&effects)), (vec![Cause::RelayChanged], vec![]));
        let left = |effects: &[Effect]| {
            effects.iter().any(|effect| matches!(effect, Effect::Disconnect(link) if *link == id))
        };
        assert!(left(&effects));
        desk.handle(Input::Disconnected(id.clone(), "left".to_owned()));
        desk.now += 60_000;
        // One that names the right key, and does not have it; or does not know how to prove it.
        for answer in [
            ServerBody::RelayProven(Proof([9; 32])),
            ServerBody::Error(Refusal::new(ErrorCode::BadRequest, "what?")),
        ] {
            desk.tick();
            desk.handle(Input::Connected(id.clone()));
            let hello = ServerFrame::push(ServerBody::Hello(desk.hello(&relay().url)));
            let asked = requests(&desk.frames(&id, vec![hello]), &id);
            assert!(matches!(asked[..], [ClientFrame { body: Request::ProveRelay(_), .. }]), "{asked:?}");
            let effects = desk.answers(&id, asked[0].request, answer);
            assert_eq!((alarms(&effects), on_the_wire(&effects)), (vec![Cause::RelayChanged], vec![]));
            assert!(left(&effects));
            desk.now += 1_000;
            assert!(requests(&desk.tick(), &id).is_empty());
            desk.handle(Input::Disconnected(id.clone(), "left".to_owned()));
            desk.now += 60_000;
        }
    }
}

/// Finding 16: a stranger's invitation says nothing of which key a relay has.
#[test]
fn what_an_invitation_says_of_a_relay_is_nothing() {
    let mut desk = Desk::new("bob");
    founds(&mut desk, THERE, &elsewhere());
    desk.step(|step| {
        let lie = RelayAddress { identity: relay().identity, ..elsewhere() };
        let record = Conversation::new(GroupId([1; 16]), &lie, HERE.1, ConversationState::Invited);
        step.begin_talk(ConversationId([0; 16]), record, |_| Ok(()))
    });
    let there = LinkId { relay: elsewhere().url, link: Link::Mailboxes };
    let effects = desk.connects(&there);
    assert_eq!(alarms(&effects), []);
    assert!(requests(&effects, &there).iter().any(|frame| matches!(frame.body, Request::Open(_))));
}

/// The relay answers a post, and shows something else at that seq: the lie is told, and the message goes out
/// again, as another post (the same would be answered the same).
#[test]
fn a_post_that_was_answered_and_not_stored_is_made_anew() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let (request, post) = posts(&send(&mut desk, "hear me"))[0];
    assert!(posts(&desk.answers(&id, request, ServerBody::Posted { seq: 1 })).is_empty());
    let effects = desk.frames(&id, vec![delivery(HERE.1, 1, 1)]);
    assert!(alarms(&effects).contains(&Cause::EchoDiffers));
    // What does not open is in the chain like everything else (rule 9).
    let chained = Chain::START.next(1, &PostId([8; 16]), &TurnHash::NONE, &[1; 256]);
    assert_eq!(desk.reading(&HERE.1).map(|reading| reading.chain()), Some(chained));
    assert!(posts(&effects).is_empty(), "not at once: whoever lies would be asked for ever");
    desk.now += 31_000;
    let again = posts(&desk.tick());
    assert!(again.len() == 1 && again[0].1 != post, "{again:?}");
}

/// A conversation elsewhere is to move to our own relay, which is away: what is said goes on where it is.
#[test]
fn a_move_to_a_relay_that_is_away_holds_nothing_back() {
    let mut desk = Desk::new("bob");
    founds(&mut desk, THERE, &elsewhere());
    let there = LinkId { relay: elsewhere().url, link: Link::Mailboxes };
    let sent = requests(&desk.connects(&there), &there);
    let state = desk.locked(&GroupId(THERE.0.0), 0, 0);
    desk.frames(&there, vec![all_opened(&sent, |_| state)]);
    let (conversation, group) = (THERE.0, GroupId(THERE.0.0));
    let (moved, _) = desk.asks(|reply| Command::Move { conversation, relay: None, reply });
    desk.tick();
    assert!(moved.try_recv().is_err() && desk.intents(&group).len() == 1, "it waits for the relay");
    let said = Said::new(Text::new("meanwhile")).expect("fits");
    let (answer, effects) = desk.asks(|reply| Command::Send { conversation, id: None, said, reply });
    answer.try_recv().expect("at once").expect("queued");
    let posted = requests(&effects, &there).into_iter().filter_map(|frame| match frame.body {
        Request::Post(post) => Some(post.turn.is_none()),
        _ => None,
    });
    assert_eq!(posted.collect::<Vec<_>>(), [true]);
}

/// The relay's store is put back to before a post that it had answered (R10, rule 8): the identical post goes
/// out again.
#[test]
fn a_post_that_a_restored_relay_lost_is_posted_again() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let (request, post) = posts(&send(&mut desk, "hear me"))[0];
    desk.answers(&id, request, ServerBody::Posted { seq: 1 });
    desk.handle(Input::Disconnected(id.clone(), "restored".to_owned()));
    desk.now += 2_000;
    let effects = opens(&mut desk, 0, 0);
    assert_eq!(posts(&effects).iter().map(|(_, post)| *post).collect::<Vec<_>>(), [post]);
}

/// What lies in an inbox is nothing that others refer to: a hole there is told, and reading goes on behind
/// it.
#[test]
fn inboxes_go_on_whatever_happened_to_them() {
    let id = link(Link::Inbox);
    for (state, cause) in
        [(OpenState { oldest: 8, ..at(9, 0) }, Cause::Lapsed), (at(9, 7), Cause::RolledBack)]
    {
        let mut desk = Desk::new("bob");
        let mailbox = desk.profile().private_inbox.mailbox;
        let sent = desk.connects(&id);
        let effects = desk.frames(&id, vec![all_opened(&requests(&sent, &id), |_| state)]);
        assert_eq!(alarms(&effects), [cause]);
        let reading = desk.reading(&mailbox).expect("is");
        assert_eq!((reading.seq, reading.pause), (7, None));
        assert!(desk.open_on(&id).contains(&mailbox));
    }
    // In between: something there was damaged, told (finding 11) or not.
    for (told, cause) in [(false, Cause::Gap), (true, Cause::Damaged)] {
        let mut desk = Desk::new("bob");
        let mailbox = desk.profile().private_inbox.mailbox;
        let sent = desk.connects(&id);
        desk.frames(&id, vec![all_opened(&requests(&sent, &id), |_| at(5, 0))]);
        let mut frames = vec![delivery(mailbox, 5, 1)];
        if told {
            frames.insert(0, lost(mailbox, 4));
        }
        let effects = desk.frames(&id, frames);
        assert_eq!(alarms(&effects), [cause]);
        assert_eq!(desk.reading(&mailbox).map(|reading| (reading.seq, reading.pause)), Some((5, None)));
    }
    // The relay has less than we read: its store was put back.
    let mut desk = Desk::new("bob");
    let mailbox = desk.profile().private_inbox.mailbox;
    desk.step(|step| {
        let mut reading = Reading::load(step.tx, &mailbox)?.expect("is");
        reading.seq = 5;
        Ok(reading.save(step.tx, &mailbox)?)
    });
    let sent = desk.connects(&id);
    let effects = desk.frames(&id, vec![all_opened(&requests(&sent, &id), |_| at(3, 2))]);
    assert_eq!(alarms(&effects), [Cause::RelayRolledBack]);
    assert_eq!(desk.reading(&mailbox).map(|reading| (reading.seq, reading.pause)), Some((2, None)));
}

/// A relay was restored from a copy, and what was left in an inbox since stands there under numbers that were
/// read before: it is found, what was read before is not done twice, and it is told once that this happened.
#[test]
fn what_a_restored_relay_has_under_old_numbers_is_read() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let id = link(Link::Account);
    let (card, mailbox) = (bob.card(), bob.profile().public_inbox.mailbox);
    let mut left_by = |group: GroupId, place: MailboxId, number: u8, seq: u64| {
        let package = bob.package(KeyPackageKind::OneTime);
        let made = mallory.group(group, place, &[(package, &card)]);
        let invitation = Invitation { seq, ..mallory.invitation(group, &made, &card) };
        let post_id = PostId([number; 16]);
        (post_id, mallory.sealed(&invitation, &card, post_id))
    };
    let groups = [GROUP, GroupId(THERE.0.0)];
    let [before, since] = [left_by(groups[0], HERE.1, 1, 1), left_by(groups[1], THERE.1, 2, 1)];
    // Of this one it is told each time that it is read.
    let bad = left_by(GroupId([9; 16]), HERE.1, 3, u64::MAX);
    let stands = |seq, (post_id, sealed): &(PostId, Vec<u8>)| {
        let (post_id, envelope) = (*post_id, sealed.clone().into());
        ServerFrame::push(ServerBody::Delivery(Delivery { mailbox, seq, post_id, envelope, turn: None }))
    };
    let mut sent = requests(&bob.authenticates(), &id);
    sent.extend(requests(&bob.tick(), &id));
    let effects = bob.frames(&id, vec![all_opened(&sent, |_| at(2, 0)), stands(1, &bad), stands(2, &before)]);
    assert_eq!(alarms(&effects), [Cause::BadInvitation]);
    assert_eq!(bob.reading(&mailbox).map(|reading| reading.seq), Some(2));
    let followed = groups.map(|group| bob.find(&group).is_some());
    assert_eq!(followed, [true, false]);
    // The copy is from before the first acknowledgement and the second envelope.
    bob.handle(Input::Disconnected(id.clone(), "restored".to_owned()));
    bob.now += 60_000;
    let mut bob = bob.reopened();
    bob.engine.live.promised.consent = Consent::Everybody;
    let restored = OpenState { incarnation: Incarnation([2; 16]), ..at(2, 0) };
    let mut sent = requests(&bob.authenticates(), &id);
    sent.extend(requests(&bob.tick(), &id));
    let mut effects = bob.frames(&id, vec![all_opened(&sent, |_| restored)]);
    let acked = |effects: &[Effect]| -> Vec<u64> {
        let seq = |frame: ClientFrame| match frame.body {
            Request::Ack(ack) => Some(ack.seq),
            _ => None,
        };
        requests(effects, &id).into_iter().filter_map(seq).collect()
    };
    assert!(acked(&effects).is_empty(), "nothing is acknowledged that was not read");
    effects.extend(bob.frames(&id, vec![stands(1, &bad), stands(2, &since)]));
    assert_eq!((alarms(&effects), acked(&effects)), (vec![Cause::RelayRestored], vec![1, 2]));
    assert_eq!(groups.map(|group| bob.all(&group).len()), [1, 1]);
    // Of the other inbox, which had nothing in it, it is not told once more.
    let id = link(Link::Inbox);
    let mut told = Vec::new();
    for life in [1, 2] {
        let opened = OpenState { incarnation: Incarnation([life; 16]), ..empty() };
        let sent = requests(&bob.connects(&id), &id);
        told.extend(alarms(&bob.frames(&id, vec![all_opened(&sent, |_| opened)])));
        bob.handle(Input::Disconnected(id.clone(), "cut".to_owned()));
        bob.now += 60_000;
    }
    assert_eq!(told, []);
}

/// An inbox that the relay has lost is made anew; its address stands in cards and leaves.
#[test]
fn an_inbox_that_is_gone_is_made_again() {
    let (mut desk, id) = (Desk::new("bob"), link(Link::Inbox));
    let mailbox = desk.profile().private_inbox.mailbox;
    let sent = desk.connects(&id);
    let mut answer = all_opened(&requests(&sent, &id), |_| empty());
    if let ServerBody::Opened(results) = &mut answer.body {
        results[0].result = Err(Refusal::new(ErrorCode::MailboxUnknown, ""));
    }
    let effects = desk.frames(&id, vec![answer]);
    assert_eq!(alarms(&effects), [Cause::MailboxGone]);
    assert!(!desk.profile().private_inbox.created);
    assert!(desk.reading(&mailbox).is_none());
}

/// Findings 9 and 11: what the relay lost for good, in the middle and at the head, is told and not waited
/// for.
#[test]
fn what_a_relay_lost_suspends_and_is_told() {
    for head in [1, 5] {
        let mut desk = Desk::new("bob");
        founds(&mut desk, HERE, &relay());
        opens(&mut desk, head, 0);
        let effects = desk.frames(&link(Link::Mailboxes), vec![lost(HERE.1, 1), delivery(HERE.1, 2, 1)]);
        assert_eq!(alarms(&effects), [Cause::Damaged]);
        assert_eq!(suspended(&mut desk), Some(Cause::Damaged));
        assert_eq!(desk.reading(&HERE.1).expect("is").seq, 0, "the last good place");
        let state = desk.does(Command::State).expect("is");
        assert!(!state.connected && state.intents == 0, "nothing of it is waited for: {state:?}");
    }
}

/// Rule 7: everything is read, and the lock is another than our epoch's: somebody turned it without a commit.
#[test]
fn a_lock_that_is_not_our_epochs_suspends() {
    let mut desk = Desk::new("bob");
    founds(&mut desk, HERE, &relay());
    let sent = requests(&desk.connects(&link(Link::Mailboxes)), &link(Link::Mailboxes));
    // `empty` has the hashes of no epoch.
    let effects = desk.frames(&link(Link::Mailboxes), vec![all_opened(&sent, |_| empty())]);
    assert_eq!(
        (suspended(&mut desk), alarms(&effects)),
        (Some(Cause::KeyMismatch), vec![Cause::KeyMismatch])
    );
    // Likewise where the last envelope is read only now.
    let mut desk = Desk::new("bob");
    founds(&mut desk, HERE, &relay());
    let sent = requests(&desk.connects(&link(Link::Mailboxes)), &link(Link::Mailboxes));
    desk.frames(&link(Link::Mailboxes), vec![all_opened(&sent, |_| at(1, 0))]);
    assert_eq!(suspended(&mut desk), None, "there is something to read first");
    desk.frames(&link(Link::Mailboxes), vec![delivery(HERE.1, 1, 1)]);
    assert_eq!(suspended(&mut desk), Some(Cause::KeyMismatch));
}

/// Who was removed while away finds a hole before it finds that: it is told of the removal alone, and what
/// was lost for another reason with the second look.
#[test]
fn a_hole_before_a_removal_is_a_removal() {
    for removed in [true, false] {
        let mut desk = Desk::new("bob");
        founds(&mut desk, HERE, &relay());
        let id = link(Link::Mailboxes);
        let hole = |mailbox: &MailboxId| match mailbox {
            here if *here == HERE.1 => OpenState { oldest: 4, ..at(6, 0) },
            _ => empty(),
        };
        let sent = requests(&desk.connects(&id), &id);
        let effects = desk.frames(&id, vec![all_opened(&sent, hole), delivery(HERE.1, 4, 1)]);
        assert_eq!((suspended(&mut desk), alarms(&effects)), (None, vec![]));
        if removed {
            let reason = Refusal::new(ErrorCode::ReaderUnknown, "");
            let body = ServerBody::Closed { mailbox: HERE.1, reason };
            let effects = desk.frames(&id, vec![ServerFrame { request: 0, body }]);
            assert_eq!(
                (suspended(&mut desk), alarms(&effects)),
                (Some(Cause::Evicted), vec![Cause::Evicted])
            );
        } else {
            desk.now += 60_000;
            let sent = requests(&desk.tick(), &id);
            let effects = desk.frames(&id, vec![all_opened(&sent, hole)]);
            assert_eq!((suspended(&mut desk), alarms(&effects)), (Some(Cause::Lapsed), vec![Cause::Lapsed]));
        }
    }
}

/// A relay that ends an opening as malformed is asked again and again, and a person hears of it once.
#[test]
fn an_opening_that_is_called_malformed_is_told_once() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let mut told = Vec::new();
    for _ in 0..3 {
        let reason = Refusal::new(ErrorCode::BadRequest, "seq is missing");
        let closed = ServerFrame::push(ServerBody::Closed { mailbox: HERE.1, reason });
        told.extend(alarms(&desk.frames(&id, vec![closed])));
        assert!(!desk.open_on(&id).contains(&HERE.1));
        desk.now += 60_000;
        let effects = desk.tick();
        told.extend(alarms(&opened(&mut desk, &effects, 0, 0)));
        assert!(desk.open_on(&id).contains(&HERE.1), "it is asked again");
    }
    assert_eq!((told, suspended(&mut desk)), (vec![Cause::Internal], None));
}

/// A relay that skips an envelope each time it is asked is told once, and asked ever more seldom.
#[test]
fn a_gap_that_stays_is_one_suspension() {
    let mut desk = Desk::new("bob");
    founds(&mut desk, HERE, &relay());
    let id = link(Link::Mailboxes);
    let mut told = Vec::new();
    for look in 0..3 {
        let effects = opens(&mut desk, 3, 0);
        told.extend(alarms(&effects));
        assert_eq!(suspended(&mut desk).is_some(), look > 0, "an opening alone resumes nothing");
        told.extend(alarms(&desk.frames(&id, vec![delivery(HERE.1, 2, 1)])));
        assert_eq!(suspended(&mut desk), Some(Cause::Gap));
        desk.handle(Input::Disconnected(id.clone(), "cut".to_owned()));
        let pause = desk.reading(&HERE.1).expect("is").pause;
        assert!(matches!(pause, Some(Pause::LookAgain { wait, .. }) if wait == 60_000 << look), "{pause:?}");
        desk.now += 3_600_000;
    }
    assert_eq!(told, [Cause::Gap]);
    opens(&mut desk, 3, 0);
    desk.frames(&id, vec![delivery(HERE.1, 1, 1)]);
    assert_eq!((suspended(&mut desk), desk.reading(&HERE.1).expect("is").pause), (None, None));
}

/// Finding 9: a number that no database can hold.
#[test]
fn impossible_numbers_end_nothing() {
    for seq in [u64::MAX, i64::MAX as u64 + 1] {
        let mut desk = open_here();
        let (request, _) = posts(&send(&mut desk, "hear me"))[0];
        desk.answers(&link(Link::Mailboxes), request, ServerBody::Posted { seq });
        desk.frames(&link(Link::Mailboxes), vec![delivery(HERE.1, seq, 1), lost(HERE.1, seq)]);
        desk.tick();
        let mut desk = Desk::new("bob");
        founds(&mut desk, HERE, &relay());
        opens(&mut desk, seq, seq);
        desk.tick();
    }
}

/// Finding 12: what may pass suspends: what waits is kept, nothing is posted, and it goes on when the relay
/// is right again.
#[test]
fn a_relays_passing_fault_passes() {
    let refuses = |code| Opened { mailbox: HERE.1, result: Err(Refusal::new(code, "")) };
    let faults = [
        (refuses(ErrorCode::MailboxUnknown), Cause::MailboxGone),
        (refuses(ErrorCode::ReadKeyWrong), Cause::ReadKeyRefused),
        (refuses(ErrorCode::OpenedElsewhere), Cause::OpenedElsewhere),
        (refuses(ErrorCode::ReaderUnknown), Cause::Evicted),
        (Opened { mailbox: HERE.1, result: Ok(at(0, 0)) }, Cause::RelayRolledBack),
    ];
    for (fault, cause) in faults {
        let mut desk = open_here();
        let id = link(Link::Mailboxes);
        desk.frames(&id, vec![delivery(HERE.1, 1, 1)]);
        desk.handle(Input::Disconnected(id.clone(), "wrong folder".to_owned()));
        send(&mut desk, "kept");
        let conversation = HERE.0;
        let wish = Intent::Update { not_before: 0 };
        desk.step(|step| Ok(crate::conversation::put_intent(step.tx, &conversation, &wish)?));
        desk.now += 60_000;
        let sent = requests(&desk.connects(&id), &id);
        let request =
            sent.iter().find(|frame| matches!(frame.body, Request::Open(_))).expect("opens").request;
        let effects = desk.answers(&id, request, ServerBody::Opened(vec![fault]));
        assert_eq!((suspended(&mut desk), alarms(&effects)), (Some(cause), vec![cause]));
        assert_eq!((desk.rows("outbox"), desk.intents(&GROUP).len()), (1, 1));
        send(&mut desk, "kept, too");
        // It looks again, not without end, and after a restart as well.
        assert!(on_the_wire(&desk.tick()).is_empty());
        assert!(desk.engine.wake_at().is_some_and(|at| at > desk.now), "{cause}");
        let mut desk = desk.reopened();
        desk.now += 59_000;
        assert!(requests(&desk.connects(&id), &id).iter().all(|f| !matches!(f.body, Request::Open(_))));
        desk.now += 1_000;
        let effects = desk.tick();
        let effects = opened(&mut desk, &effects, 1, 1);
        assert_eq!((suspended(&mut desk), alarms(&effects)), (None, vec![]), "{cause}");
        assert_eq!(posts(&effects).len(), 1, "the commit first");
        assert_eq!(desk.rows("outbox"), 3);
    }
}

/// What is due to be looked at, on a connection that is not there, is no reason to wake up without end.
#[test]
fn a_suspended_mailbox_does_not_keep_the_engine_busy() {
    let mut desk = open_here();
    let conversation = HERE.0;
    desk.step(|step| step.suspend_talk(&conversation, Cause::MailboxGone, "gone"));
    desk.connects(&link(Link::Inbox));
    desk.handle(Input::Disconnected(link(Link::Mailboxes), "cut".to_owned()));
    desk.now += 60_000;
    for _ in 0..3 {
        desk.tick();
    }
    assert!(desk.engine.wake_at().is_some_and(|at| at > desk.now));
    assert!(matches!(desk.reading(&HERE.1).expect("is").pause, Some(Pause::LookAgain { .. })));
}

/// Finding 13: a member makes a message that says to be ours. It costs one update, at leisure, and nothing is
/// said before that.
#[test]
fn a_forged_own_message_costs_one_update() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let conversation = HERE.0;
    // As OpenMLS reports it, whoever made it.
    let mut raised = Vec::new();
    for number in 1..4 {
        let frame = delivery(HERE.1, number, 1);
        let ServerBody::Delivery(delivery) = frame.body else { panic!("it is one") };
        let (_, effects) = desk.step(|step| {
            step.talk_known(&conversation, |talk| {
                let reading = talk.reading().expect("reads it").clone();
                let arrival = crate::engine::mailbox::Arrival::at(&reading, &delivery);
                talk.own_unknown(&arrival)
            })
        });
        raised.extend(alarms(&effects));
    }
    assert_eq!(raised, [Cause::RolledBack]);
    assert!(posts(&send(&mut desk, "held")).is_empty());
    let updates = desk.intents(&GROUP).into_iter().filter(|intent| matches!(intent, Intent::Update { .. }));
    let due: Vec<u64> = updates.map(|intent| intent.not_before()).collect();
    assert_eq!(due.len(), 1);
    desk.now = due[0];
    let effects = desk.tick();
    let sent = requests(&effects, &id);
    let post = sent.iter().find_map(|frame| match &frame.body {
        Request::Post(post) => Some(post.clone()),
        _ => None,
    });
    let post = post.expect("the update");
    assert!(post.turn.is_some());
    // Read back: a new epoch, and what was held goes out.
    let turn = post.turn.map(|turn| turn.turn);
    let back =
        Delivery { mailbox: HERE.1, seq: 1, post_id: post.post_id, envelope: post.envelope.clone(), turn };
    desk.answers(&id, sent[0].request, ServerBody::Posted { seq: 1 });
    let effects = desk.frames(&id, vec![ServerFrame::push(ServerBody::Delivery(back))]);
    assert_eq!(posts(&effects).len(), 1, "what was held");
}

/// Finding 1: whatever goes wrong in a delivery, other than the database, is that conversation's end and not
/// the engine's.
#[test]
fn what_goes_wrong_in_one_conversation_leaves_the_others() {
    let mut desk = Desk::new("bob");
    founds(&mut desk, HERE, &relay());
    founds(&mut desk, THERE, &relay());
    let id = link(Link::Mailboxes);
    let sent = requests(&desk.connects(&id), &id);
    let states = [desk.locked(&GROUP, 1, 0), desk.locked(&GroupId(THERE.0.0), 1, 0)];
    let state = |mailbox: &MailboxId| states[usize::from(*mailbox == THERE.1)];
    desk.frames(&id, vec![all_opened(&sent, state)]);
    // The group cannot be loaded any more.
    desk.step(|step| {
        step.talk_known(&HERE.0, |talk| {
            talk.change().group = GroupId([9; 16]);
            Ok(())
        })?;
        step.flush()?;
        step.live.talks.clear();
        Ok(())
    });
    let effects = desk.frames(&id, vec![delivery(HERE.1, 1, 1), delivery(THERE.1, 1, 1)]);
    let here = desk.step(|step| step.talk_known(&HERE.0, |talk| Ok(talk.record().state.clone()))).0;
    assert!(matches!(here, ConversationState::Suspended(_)), "{here:?}");
    assert_eq!(desk.reading(&THERE.1).expect("is").seq, 1);
    assert_eq!(alarms(&effects).len(), 2, "{:?}", alarms(&effects));
    assert_eq!(desk.reading(&HERE.1).expect("is").seq, 0);
    // Commands about it are refused, not fatal.
    let person = Desk::new("carol").person();
    desk.step(|step| {
        step.talk_known(&HERE.0, |talk| {
            talk.change().state = ConversationState::Active;
            Ok(())
        })
    });
    let refused = desk.does(|reply| Command::Remove { conversation: HERE.0, person, reply });
    assert!(!refused.expect_err("it is broken").is_fatal());
}

/// Rule 28: of a delivery that went wrong nothing is left, in the database or loaded.
#[test]
fn a_delivery_is_taken_whole_or_not_at_all() {
    let mut desk = open_here();
    let said = Said::new(Text::new("half")).expect("fits");
    let before = (desk.rows("outbox"), desk.rows("entry"), desk.conversation(&GROUP).expect("is").read);
    let (failed, effects) = desk.step(|step| {
        step.talk_known(&HERE.0, |talk| {
            talk.guarded(|talk| {
                talk.say(MessageId([1; 16]), said)?;
                talk.notice(
                    None,
                    Notice::Left { who: Named { person: PersonId([1; 32]), handle: String::new() } },
                )?;
                talk.change().read = 99;
                Err(Error::Nobody)
            })
        })
    });
    assert_eq!(failed.err().expect("it failed").code(), "NOBODY");
    assert!(effects.is_empty(), "{effects:?}");
    let after = (desk.rows("outbox"), desk.rows("entry"), desk.conversation(&GROUP).expect("is").read);
    assert_eq!(after, before);
}

/// Finding 1: what ended the process three times is passed over.
#[test]
fn what_ended_the_process_three_times_is_passed_over() {
    for (deaths, passed) in [(2, false), (3, true)] {
        let mut desk = open_here();
        for _ in 0..deaths {
            desk.step(|step| Ok(poison::note(step.tx, &HERE.1, 1)?));
        }
        let mut desk = desk.reopened();
        opens(&mut desk, 1, 0);
        let effects = desk.frames(&link(Link::Mailboxes), vec![delivery(HERE.1, 1, 1)]);
        let expected = if passed { Cause::Poison } else { Cause::EnvelopeUnreadable };
        assert_eq!(alarms(&effects), [expected]);
        assert_eq!((desk.reading(&HERE.1).expect("is").seq, desk.rows("poison")), (1, 0));
    }
}
