//! Appends: order (R2), repeats (R4, rule 2), events (R1).

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::names::{
    at, device, envelope, expect, finger, handle_of, open, post, post_id, post_key, sized, turning, upto,
};
use super::{Clock as _, EXPIRY, Event, Fixture, START};
use crate::store::{Append, ReadRange, StoreError, StorePolicy, Stored};

pub(crate) async fn seqs_have_no_holes(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1));
    assert_eq!(f.store.append(post(m, 2, 9)).await, Err(StoreError::KeyTurned), "refused: takes no seq");
    assert_eq!(f.store.append(post(m, 3, 0)).await, Ok(2));
    f.restart().await;
    assert_eq!(f.store.append(post(m, 4, 0)).await, Ok(3));
    expect(f.store.advance(upto(m, 1, 3)).await);
    f.restart().await;
    assert_eq!(f.store.append(post(m, 5, 0)).await, Ok(4), "trimming does not reset the count");
    assert_eq!(f.store.append(post(super::mailbox(9), 1, 0)).await, Err(StoreError::MailboxUnknown));
}

pub(crate) async fn a_repeat_gets_its_old_seq(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let (first, turn) = (post(m, 1, 0), turning(post(m, 2, 0), 0, &[2], &[]));
    assert_eq!(f.store.append(first.clone()).await, Ok(1));
    assert_eq!(f.store.append(turn.clone()).await, Ok(2));
    f.heard.take();
    for round in 0..2 {
        assert_eq!(f.store.append(first.clone()).await, Ok(1), "the lock has turned since, round {round}");
        assert_eq!(f.store.append(turn.clone()).await, Ok(2), "the turn itself, round {round}");
        expect(f.store.advance(upto(m, 1, 2)).await);
        assert_eq!(f.stored(m).await, [0; 0], "trimmed");
        assert_eq!(f.heard.take(), [], "a repeat is not news");
        f.restart().await;
    }
    assert_eq!(f.store.append(post(m, 3, 1)).await, Ok(3));
}

pub(crate) async fn an_id_stands_for_one_post(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    let others = [
        finger(Append { envelope: envelope(9, 100), ..post(m, 1, 0) }),
        post(m, 1, 1),
        turning(post(m, 1, 0), 0, &[], &[]),
    ];
    for round in 0..2 {
        for other in &others {
            assert_eq!(f.store.append(other.clone()).await, Err(StoreError::PostIdReused), "round {round}");
        }
        expect(f.store.advance(upto(m, 1, 1)).await);
        f.restart().await;
    }
    assert_eq!(f.view(m, 1).await, Ok((1, 2, 1, None)), "nothing happened");
}

/// How long an id is that of a new post, and how long it is remembered, in seconds (`small_policy`).
const FRESH: u64 = 10_000;
const REMEMBERED: u64 = 40_000;

/// That the post id is not of now, as the clock shows it.
fn not_of_now(f: &Fixture) -> Result<u64, StoreError> {
    Err(StoreError::PostIdTime { now: f.clock.unix_seconds() })
}

pub(crate) async fn new_ids_are_of_now(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let (mut seq, mut ahead) = (0, None);
    for _ in 0..2 {
        let now = f.clock.unix_seconds();
        for (made, is_taken) in [
            (0, false),
            (now - FRESH, false),
            (now - FRESH + 1, true),
            (now, true),
            (now + 300, true),
            (now + 301, false),
            (u64::from(u32::MAX), false),
        ] {
            seq += u64::from(is_taken);
            let expected = if is_taken { Ok(seq) } else { not_of_now(&f) };
            assert_eq!(f.store.append(at(post(m, 1, 0), made)).await, expected, "{made} at {now}");
        }
        if let Some((made, seq)) = ahead {
            assert_eq!(f.store.append(at(post(m, 1, 0), made)).await, Ok(seq), "its time has come");
        }
        ahead = Some((now + 300, seq));
        f.clock.pass(700);
        f.restart().await;
    }
    let wrong = at(post(m, 2, 9), START - FRESH);
    assert_eq!(f.store.append(wrong).await, not_of_now(&f), "that comes before the keys");
}

pub(crate) async fn ids_are_remembered_long_enough(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.advance(upto(m, 1, 1)).await);
    f.clock.pass(FRESH - 1);
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.store.stats().posts, 1, "an id of now is held in memory");
    assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1));
    f.clock.pass(1);
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.store.stats().posts, 0, "it has left memory");
        assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1), "and is recognised");
        f.restart().await;
    }
    f.clock.pass(REMEMBERED - FRESH - 1);
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1), "that time is not over");
    // Where it is kept it goes with others, not much later.
    f.clock.pass(FRESH + REMEMBERED / 12 + 1);
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(
        f.store.append(post(m, 1, 0)).await,
        not_of_now(&f),
        "forgotten, but not taken for a new post"
    );
    assert_eq!(f.store.append(f.now(post(m, 1, 0))).await, Ok(2));
}

pub(crate) async fn old_ids_stand_for_one_post(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let all: Vec<u16> = (0..40).collect();
    for n in &all {
        let post = sized(m, *n, 0, 10);
        // As the first relays noted them.
        let then = Append { fingerprint: post.first_form(), ..post.clone() };
        expect(f.store.append(if n % 2 == 0 { then } else { post.clone() }).await);
        assert_eq!(f.store.append(post).await, Ok(u64::from(*n) + 1), "a repeat");
    }
    expect(f.store.append(turning(post(m, 100, 0), 0, &[], &[])).await);
    expect(f.store.advance(upto(m, 1, 41)).await);
    f.clock.pass(FRESH);
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.store.stats().posts, 0);
        assert_eq!(f.store.stats().past_since, 0, "nothing is missing");
        for n in &all {
            assert_eq!(
                f.store.append(sized(m, *n, 0, 10)).await,
                Ok(u64::from(*n) + 1),
                "the lock has turned"
            );
            assert_eq!(f.store.append(sized(m, *n, 0, 11)).await, Err(StoreError::PostIdReused));
            assert_eq!(
                f.store.append(sized(m, *n, 1, 10)).await,
                Err(StoreError::PostIdReused),
                "its key, too"
            );
            let other = f.store.append(at(sized(m, *n, 0, 10), START - 1)).await;
            assert_eq!(other, not_of_now(&f), "another id that was never posted");
        }
        f.restart().await;
    }
}

/// Whatever the operator sets: an id that has left memory as old is new no more.
pub(crate) async fn another_age_of_new_ids_forgets_nothing(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.pass(10);
    let later = f.now(post(m, 2, 0));
    expect(f.store.append(later.clone()).await);
    expect(f.store.advance(upto(m, 1, 2)).await);
    f.clock.pass(FRESH - 10);
    expect(f.store.expire().await);
    assert_eq!(f.store.stats().posts, 1);
    for fresh_seconds in [3 * FRESH, FRESH / 2, 2 * FRESH] {
        f.set_policy(StorePolicy { fresh_seconds: fresh_seconds as u32, ..f.policy() });
        for round in 0..2 {
            f.restart().await;
            assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1), "{fresh_seconds}, round {round}");
            assert_eq!(f.store.append(later.clone()).await, Ok(2), "{fresh_seconds}, round {round}");
            assert_eq!(f.store.append(post(m, 3, 0)).await, not_of_now(&f), "it may have been here");
            expect(f.store.expire().await);
        }
    }
    let next = at(post(m, 3, 0), START + 11);
    assert_eq!(f.store.append(next).await, Ok(3), "the age that is set now counts");
}

pub(crate) async fn ids_are_of_one_life(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.advance(upto(m, 1, 1)).await);
    f.clock.pass(FRESH);
    expect(f.store.expire().await);
    expect(f.store.destroy(m, super::names::turn_key(0)).await);
    assert_eq!(f.store.append(post(m, 1, 0)).await, Err(StoreError::MailboxUnknown));
    expect(f.create(super::NewMailbox { token: super::token(2), ..super::new_mailbox(1, &[1]) }).await);
    for _ in 0..2 {
        assert_eq!(f.store.append(post(m, 1, 0)).await, not_of_now(&f), "that was another mailbox");
        f.restart().await;
    }
}

pub(crate) async fn what_is_stored_is_recognised_for_ever(mut f: Fixture) {
    f.tokens(1).await;
    let new = crate::store::NewMailbox { expiry: 200_000, ..super::new_mailbox(1, &[1]) };
    let m = new.mailbox;
    expect(f.create(new).await);
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.pass(REMEMBERED * 4);
    expect(f.store.expire().await);
    assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1));
    assert_eq!(f.store.append(sized(m, 1, 0, 7)).await, Err(StoreError::PostIdReused));
    expect(f.store.advance(upto(m, 1, 1)).await);
    expect(f.store.expire().await);
    f.clock.pass(1);
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.store.stats().posts, 0);
    assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1), "and for a while after that");
}

/// Neither a clock that the operator sets back, nor a start with one that stands before what it had shown,
/// lets an id be new again that has left memory.
pub(crate) async fn a_step_back_forgets_nothing(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.advance(upto(m, 1, 1)).await);
    f.clock.pass(2 * FRESH);
    expect(f.store.expire().await);
    let was = f.clock.unix_seconds();
    f.clock.jump(-2 * FRESH as i64);
    expect(f.store.confirm_clock().await);
    let (unknown, of_then) = (post(m, 2, 0), at(post(m, 3, 0), was));
    for round in 0..3 {
        assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1), "round {round}");
        let Err(StoreError::PostIdTime { now }) = f.store.append(unknown.clone()).await else {
            panic!("an id that may have left memory is not new, round {round}")
        };
        assert!(now >= was, "clients are told a time that will do: {now}, it was {was}");
        assert_eq!(f.store.posts_time(), now, "at once");
        assert_eq!(f.store.append(of_then.clone()).await, Ok(2), "round {round}");
        assert_eq!(f.store.append(at(post(m, 4 + round, 0), now)).await, Ok(3 + u64::from(round)));
        f.restart().await;
    }
    // It goes on, slower, until the other has caught up; and so does forgetting.
    expect(f.store.advance(upto(m, 1, 5)).await);
    f.clock.pass(2 * FRESH);
    expect(f.store.expire().await);
    let Err(StoreError::PostIdTime { now }) = f.store.append(unknown.clone()).await else { panic!("old") };
    assert!((was + FRESH..was + 2 * FRESH).contains(&now), "{now}, it was {was}");
    f.clock.pass(2 * FRESH + 10);
    expect(f.store.expire().await);
    assert_eq!(f.store.append(unknown).await, not_of_now(&f));
    assert_eq!(f.store.stats().posts, 0);
}

/// Nor does it keep anything in memory, or refuse anything: what matters to posts goes by their own clock.
pub(crate) async fn a_step_back_keeps_nothing_in_memory(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.advance(upto(m, 1, 1)).await);
    f.clock.jump(-30 * 86_400);
    expect(f.store.confirm_clock().await);
    for round in 0..2 {
        assert!(f.store.posts_time() >= START, "round {round}");
        let new = at(post(m, 2 + round, 0), f.store.posts_time());
        assert_eq!(f.store.append(new).await, Ok(2 + u64::from(round)));
        expect(f.store.advance(upto(m, 1, 2 + u64::from(round))).await);
        f.clock.pass(10);
        f.restart().await;
    }
    f.clock.pass(2 * FRESH);
    expect(f.store.expire().await);
    assert_eq!(f.store.stats().posts, 0);
    assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1));
}

/// The clock was ahead, and was set right while the relay was off: when the time comes that it had shown, the
/// ids from then are not new again.
pub(crate) async fn ids_of_a_clock_that_was_ahead_are_not_new_twice(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.append(at(post(m, 2, 0), START + 300)).await);
    f.clock.jump(-25_000);
    expect(f.store.confirm_clock().await);
    f.restart().await;
    expect(f.store.advance(upto(m, 1, 2)).await);
    for round in 0..30 {
        expect(f.store.expire().await);
        assert_eq!(f.store.append(post(m, 1, 0)).await, Ok(1), "round {round}");
        assert_eq!(f.store.append(at(post(m, 2, 0), START + 300)).await, Ok(2), "round {round}");
        f.clock.pass(1000);
        if round % 7 == 0 {
            f.restart().await;
        }
    }
}

/// Memory stays as it is however much comes, and nothing is refused for what is no longer held.
pub(crate) async fn a_flood_is_forgotten_and_recognised(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let (step, each) = (FRESH / 4, 60u64);
    let mut all = std::collections::VecDeque::new();
    for round in 0..60u64 {
        let made = f.clock.unix_seconds();
        for n in 0..each {
            let seq = round * each + n + 1;
            let new = at(sized(m, seq as u16, 0, 10), made);
            assert_eq!(f.store.append(new.clone()).await, Ok(seq));
            all.push_back((new, seq, made));
        }
        expect(f.store.advance(upto(m, 1, (round + 1) * each)).await);
        f.clock.pass(step);
        expect(f.store.expire().await);
        let held = f.store.stats().posts;
        assert!(held <= 5 * each, "{held} in round {round}");
        if round % 13 == 0 {
            f.restart().await;
        }
        let now = f.clock.unix_seconds();
        while all.front().is_some_and(|(.., made)| made + REMEMBERED <= now) {
            all.pop_front();
        }
        for (post, seq, _) in all.iter().step_by(17) {
            assert_eq!(f.store.append(post.clone()).await, Ok(*seq), "round {round}");
        }
    }
    assert!(f.store.stats().past_bytes < 200_000, "what is over goes: {:?}", f.store.stats());
}

pub(crate) async fn events_come_in_order(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let appends = [post(m, 1, 0), turning(post(m, 2, 0), 0, &[2], &[]), sized(m, 3, 1, 5000)];
    let mut told = Vec::new();
    for (append, seq) in appends.into_iter().zip(1..) {
        let stored = Stored {
            seq,
            post_id: append.post_id,
            envelope: append.envelope.clone(),
            turn: append.turn.clone().map(|(_, turn)| turn.into()),
        };
        assert_eq!(f.store.append(append).await, Ok(seq));
        assert_eq!(f.heard.take(), [Event::Appended(m, stored.clone())], "told before it was answered");
        told.push(stored);
    }
    f.restart().await;
    assert_eq!(f.heard.take(), [], "a restart is not news");
    let range = crate::store::ReadRange { from: 1, to: 3, bytes: usize::MAX };
    assert_eq!(f.store.read(m, range).await, Ok(told), "what is read is what was told");
    assert_eq!(f.store.append(post(m, 4, 0)).await, Err(StoreError::KeyTurned));
    assert_eq!(f.heard.take(), [], "a refusal is not news");
}

pub(crate) async fn ids_are_per_mailbox(f: Fixture) {
    let (one, two) = (f.mailbox(1, &[1]).await, f.mailbox(2, &[1]).await);
    assert_eq!(f.store.append(post(one, 1, 0)).await, Ok(1));
    assert_eq!(f.store.append(sized(two, 1, 0, 7)).await, Ok(1));
}

/// Enough posts that an engine which indexes them does so, and that it meets both ends of the index.
pub(crate) async fn many_posts_are_found(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    for n in 0..200 {
        assert_eq!(f.store.append(sized(m, n, 0, 10)).await, Ok(u64::from(n) + 1));
    }
    f.restart().await;
    for n in 0..200 {
        assert_eq!(f.store.append(sized(m, n, 0, 10)).await, Ok(u64::from(n) + 1));
    }
    f.clock.pass(u64::from(EXPIRY));
    let later: Vec<_> = (200..210).map(|n| (f.now(sized(m, n, 0, 10)), u64::from(n) + 1)).collect();
    for (post, seq) in &later {
        assert_eq!(f.store.append(post.clone()).await, Ok(*seq));
    }
    f.clock.pass(FRESH - u64::from(EXPIRY));
    expect(f.store.expire().await);
    for round in 0..2 {
        for (post, seq) in &later {
            assert_eq!(f.store.append(post.clone()).await, Ok(*seq), "round {round}");
        }
        assert_eq!(f.store.stats().posts, 10);
        for n in 0..200 {
            assert_eq!(f.store.append(sized(m, n, 0, 10)).await, Ok(u64::from(n) + 1), "round {round}");
        }
        f.restart().await;
    }
    assert_eq!(f.store.append(f.now(sized(m, 0, 0, 10))).await, Ok(211));
}

pub(crate) async fn concurrent_posts_get_seqs_of_their_own(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let seqs = join_all((0..50).map(|n| f.store.append(post(m, n / 2, 0)))).await;
    let mut seqs: Vec<u64> = seqs.into_iter().map(expect).collect();
    seqs.sort_unstable();
    let expected: Vec<u64> = (0..50).map(|n| n / 2 + 1).collect();
    assert_eq!(seqs, expected, "each post was made twice at once and got one seq");
    let told: Vec<u64> = f
        .heard
        .take()
        .into_iter()
        .map(|event| match event {
            Event::Appended(_, stored) => stored.seq,
            Event::Destroyed(_) | Event::Signalled(..) => 0,
        })
        .collect();
    assert_eq!(told, (1..=25).collect::<Vec<_>>(), "told in order of seq, once each");
    assert_eq!(post_id(1), post(m, 1, 0).post_id);
}

/// Linearizable: whatever was answered before a call began shows in what the call returns, also where it
/// refuses something. Everybody notes what is certain before asking.
pub(crate) async fn no_answer_is_older_than_one_before_it(f: Fixture) {
    const TURNS: u8 = 8;
    let m = f.mailbox(1, &[1]).await;
    let (head, generation, card) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let certain = |of: &AtomicU64| of.load(Ordering::SeqCst);
    let post_and_turn = async {
        for n in 0..TURNS {
            let turn = turning(post(m, u16::from(n), n), n, &[], &[]);
            head.fetch_max(expect(f.store.append(turn).await), Ordering::SeqCst);
            generation.store(u64::from(n) + 1, Ordering::SeqCst);
            for more in 0..8 {
                let append = post(m, 100 * u16::from(n + 1) + more, n + 1);
                head.fetch_max(expect(f.store.append(append).await), Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    };
    let publish = async {
        for version in 1..=u64::from(TURNS) * 4 {
            expect(f.store.publish_card(device(1), version, envelope(version as u8, 30)).await);
            card.store(version, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    };
    let look = async || {
        while certain(&generation) < u64::from(TURNS) || certain(&card) < u64::from(TURNS) * 4 {
            let least = certain(&head);
            assert!(expect(f.store.open(open(m, 1)).await).head >= least);
            let least = certain(&head);
            let all = ReadRange { from: least, to: u64::MAX, bytes: usize::MAX };
            let first = expect(f.store.read(m, all).await).first().map(|stored| stored.seq);
            assert!(least == 0 || first == Some(least), "{first:?}, not {least}");
            let turned = certain(&generation);
            if let Some(former) = turned.checked_sub(1) {
                let signal = f.store.signal(m, post_key(former as u8), envelope(1, 9)).await;
                assert_eq!(signal, Err(StoreError::KeyTurned));
            }
            let least = certain(&card);
            assert!(expect(f.store.card(handle_of(1)).await).version >= least);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(post_and_turn, publish, look(), look(), look());
    assert_eq!(f.view(m, 1).await.map(|view| view.0), Ok(u64::from(TURNS) * 9));
}
