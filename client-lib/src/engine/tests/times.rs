//! Post ids begin with the relay's time, and a relay takes only what is of now: clocks that are off, ids that
//! got old on the way, and relays that say so for ever.

use posthorn_proto::frame::{Delivery, Post, Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, PostId};

use super::desk::{Desk, NOW, alarms, link, relay, requests};
use super::relays::{GROUP, HERE, founds, open_here, opens, posts, send};
use crate::conversation::Intent;
use crate::engine::{Effect, Input, Link, LinkId, people};
use crate::outbox::Errand;

const HOUR: u64 = 3_600_000;

/// What a relay says whose clock shows this, unix seconds.
fn not_of_now(seconds: u64) -> ServerBody {
    let refusal = Refusal::new(ErrorCode::PostIdTime, "the post id is not of now");
    ServerBody::Error(Refusal { time: seconds, ..refusal })
}

fn post(effects: &[Effect], on: &LinkId) -> Option<(u64, Post)> {
    requests(effects, on).into_iter().find_map(|frame| match frame.body {
        Request::Post(post) => Some((frame.request, post)),
        _ => None,
    })
}

/// The relay delivers a post.
fn delivers(desk: &mut Desk, post: Post, seq: u64) -> Vec<Effect> {
    let (mailbox, post_id, envelope) = (post.mailbox, post.post_id, post.envelope);
    let back = Delivery { mailbox, seq, post_id, envelope, turn: post.turn.map(|turn| turn.turn) };
    desk.frames(&link(Link::Mailboxes), vec![ServerFrame::push(ServerBody::Delivery(back))])
}

/// Which of our clocks is wrong, and whether it is set while the connection is up, makes no difference.
#[test]
fn post_ids_are_of_the_relays_time() {
    for hours in [-30 * 24, -1, 0, 5] {
        let mut desk = Desk::new("bob");
        desk.skew = hours * HOUR as i64;
        founds(&mut desk, HERE, &relay());
        opens(&mut desk, 0, 0);
        let theirs = NOW.saturating_add_signed(desk.skew) / 1000;
        let (request, post) = posts(&send(&mut desk, "one"))[0];
        assert_eq!(post.seconds(), theirs, "{hours} h");
        desk.now += 90_000;
        let effects = desk.answers(&link(Link::Mailboxes), request, ServerBody::Posted { seq: 1 });
        assert!(posts(&effects).is_empty());
        // Our clock is put back by a day, while none of the relay's time passes.
        desk.now -= 24 * HOUR;
        assert_eq!(posts(&send(&mut desk, "two"))[0].1.seconds(), theirs + 90, "{hours} h");
    }
}

/// What is refused goes out once more, as a post of now: not at once, and not for ever without a pause.
#[test]
fn a_post_that_is_not_of_now_is_made_anew() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let (mut request, mut former) = posts(&send(&mut desk, "hear me"))[0];
    for days in 1..5 {
        let theirs = NOW / 1000 + days * 86_400;
        let effects = desk.answers(&id, request, not_of_now(theirs));
        assert_eq!((posts(&effects), alarms(&effects)), (vec![], vec![]), "not at once");
        // Each time it waits longer.
        desk.now += (500 << days) - 1;
        assert!(posts(&desk.tick()).is_empty());
        desk.now += 1;
        let again = posts(&desk.tick());
        let seconds = theirs + (500 << days) / 1000;
        assert!(again.len() == 1 && again[0].1.seconds() == seconds && again[0].1 != former, "{again:?}");
        (request, former) = again[0];
    }
    // It is stored now; nothing of what came before is left.
    desk.answers(&id, request, ServerBody::Posted { seq: 1 });
    assert_eq!((desk.rows("outbox"), desk.texts(&GROUP)), (1, vec!["hear me".to_owned()]));
}

/// The connection broke before the answer. What was stored is read back first, and not sent again whatever is
/// said of its id then; what was not stored is.
#[test]
fn what_was_stored_is_not_sent_again() {
    for stored in [true, false] {
        let mut desk = open_here();
        let id = link(Link::Mailboxes);
        let (_, sent) = post(&send(&mut desk, "once"), &id).expect("it posts");
        desk.handle(Input::Disconnected(id.clone(), "cut".to_owned()));
        desk.now += 100 * HOUR;
        let mut effects = opens(&mut desk, u64::from(stored), 0);
        if stored {
            assert!(posts(&effects).is_empty(), "it reads first");
            effects = delivers(&mut desk, sent.clone(), 1);
            desk.now += 60_000;
            effects.extend(desk.tick());
            assert_eq!((posts(&effects), desk.rows("outbox")), (vec![], 0));
            continue;
        }
        // The identical bytes (rule 3), which the relay does not know.
        let (request, again) = post(&effects, &id).expect("it posts");
        assert_eq!(again, sent);
        desk.answers(&id, request, not_of_now(desk.now / 1000));
        desk.now += 2_000;
        let (request, anew) = post(&desk.tick(), &id).expect("it posts");
        assert_ne!((anew.post_id, &anew.envelope), (sent.post_id, &sent.envelope));
        desk.answers(&id, request, ServerBody::Posted { seq: 1 });
        delivers(&mut desk, anew, 1);
        assert_eq!((desk.rows("outbox"), desk.texts(&GROUP)), (0, vec!["once".to_owned()]));
    }
}

/// The refusal of a post that was read back in the meantime changes nothing.
#[test]
fn a_refusal_that_comes_late_is_none() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let (request, sent) = post(&send(&mut desk, "once"), &id).expect("it posts");
    delivers(&mut desk, sent, 1);
    let mut effects = desk.answers(&id, request, not_of_now(1));
    desk.now += 60_000;
    effects.extend(desk.tick());
    assert_eq!((posts(&effects), desk.rows("outbox")), (vec![], 0));
}

/// A commit is made anew from the wish that it was to fulfil.
#[test]
fn a_commit_that_is_not_of_now_is_made_anew() {
    let mut desk = open_here();
    let id = link(Link::Mailboxes);
    let wish = Intent::Update { not_before: 0 };
    desk.step(|step| Ok(crate::conversation::put_intent(step.tx, &HERE.0, &wish)?));
    let (request, first) = post(&send(&mut desk, "after it"), &id).expect("the commit");
    assert!(first.turn.is_some());
    let theirs = NOW / 1000 + 7 * 86_400;
    let effects = desk.answers(&id, request, not_of_now(theirs));
    assert_eq!((posts(&effects), alarms(&effects)), (vec![], vec![]));
    desk.now += 2_000;
    let (request, second) = post(&desk.tick(), &id).expect("the commit");
    assert!(second.turn.is_some() && second.turn != first.turn);
    assert_eq!(second.post_id.seconds(), theirs + 2);
    desk.answers(&id, request, ServerBody::Posted { seq: 1 });
    let effects = delivers(&mut desk, second, 1);
    assert_eq!((posts(&effects).len(), desk.intents(&GROUP).len()), (1, 0), "what was said after it");
}

/// What is left in an inbox got old while there was no connection: it is sealed anew for the same inbox.
#[test]
fn what_is_left_in_an_inbox_is_sealed_anew() {
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    let (id, card) = (link(Link::Post), alice.card());
    let inbox = alice.profile().private_inbox.address(&relay());
    let (credential, person) = (card.devices()[0].credential.clone(), alice.person());
    desk.step(|step| {
        people::meet_member(step.tx, &credential, Some(&inbox))?;
        let (device, since, data) = (credential.device(), step.now, b"an invitation".to_vec());
        step.post_to_inbox(&inbox, Errand { conversation: None, person, device, since, tries: 0, data })
    });
    desk.now += 2 * HOUR;
    desk.tick();
    let (mut request, first) = post(&desk.connects(&id), &id).expect("it is left");
    assert_eq!((first.mailbox, first.post_id.seconds()), (inbox.mailbox, NOW / 1000));
    let opens = |desk: &mut Desk, post: &Post| {
        alice.profile().private_inbox.open(&post.mailbox, &post.post_id, &post.envelope).is_some()
            && desk.rows("outbox") == 1
    };
    let mut opens = opens;
    assert!(opens(&mut desk, &first));
    let mut ids: Vec<PostId> = vec![first.post_id];
    for _ in 0..3 {
        let theirs = desk.now / 1000;
        assert!(post(&desk.answers(&id, request, not_of_now(theirs)), &id).is_none(), "not at once");
        desk.now += 10_000;
        let (next, again) = post(&desk.tick(), &id).expect("it is left");
        assert!(opens(&mut desk, &again) && again.post_id.seconds() >= theirs, "{again:?}");
        assert!(!ids.contains(&again.post_id));
        ids.push(again.post_id);
        request = next;
    }
    desk.answers(&id, request, ServerBody::Posted { seq: 1 });
    assert_eq!(desk.rows("outbox"), 0);
}
