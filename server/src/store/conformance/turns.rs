//! Turns of the lock: rule 1, R5, and what becomes of readers.

use posthorn_proto::{Reader, ReaderId};

use super::names::{expect, finger, post, post_key, read_key, reader, reader_id, turn_key, turning, upto};
use super::{EXPIRY, Fixture, new_mailbox, small_policy};
use crate::store::{Append, NewMailbox, OpenReader, ReadRange, StoreError, StorePolicy};

const ALL: ReadRange = ReadRange { from: 0, to: u64::MAX, bytes: usize::MAX };

pub(crate) async fn both_keys_are_checked(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let right = turning(post(m, 1, 0), 0, &[], &[]);
    let wrong_turn_key =
        finger(Append { turn: right.turn.clone().map(|(_, turn)| (turn_key(5), turn)), ..right.clone() });
    let wrong_post_key = finger(Append { post_key: post_key(5), ..right.clone() });
    let swapped = finger(Append { post_key: turn_key(0), ..right.clone() });
    for wrong in [wrong_turn_key, wrong_post_key, swapped] {
        assert_eq!(f.store.append(wrong).await, Err(StoreError::KeyTurned));
    }
    assert_eq!(f.store.append(right).await, Ok(1));
}

pub(crate) async fn a_turn_replaces_the_keys(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(turning(post(m, 1, 0), 0, &[], &[])).await);
    for round in 0..2 {
        assert_eq!(f.store.append(post(m, 2, 0)).await, Err(StoreError::KeyTurned), "round {round}");
        assert_eq!(f.store.append(turning(post(m, 2, 0), 0, &[], &[])).await, Err(StoreError::KeyTurned));
        let view = expect(f.store.open(super::names::open(m, 1)).await);
        assert_eq!((view.post_key, view.turn_key), (post_key(1), turn_key(1)));
        f.restart().await;
    }
    assert_eq!(f.store.append(turning(post(m, 2, 1), 1, &[], &[])).await, Ok(2));
}

pub(crate) async fn of_two_turns_one_wins(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    for generation in 0..10 {
        let n = u16::from(generation) * 2;
        let (one, two) = (post(m, n, generation), post(m, n + 1, generation));
        let (one, two) = futures_util::future::join(
            f.store.append(turning(one, generation, &[], &[])),
            f.store.append(turning(two, generation, &[], &[])),
        )
        .await;
        let mut both = [one, two];
        both.sort_by_key(Result::is_err);
        assert_eq!(both, [Ok(u64::from(generation) + 1), Err(StoreError::KeyTurned)]);
    }
}

pub(crate) async fn a_refused_turn_changes_nothing(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    let bad = turning(post(m, 1, 0), 0, &[3], &[9]);
    assert!(matches!(f.store.append(bad.clone()).await, Err(StoreError::BadTurn(_))));
    f.restart().await;
    assert_eq!(f.view(m, 1).await, Ok((0, 1, 0, None)), "the envelope is not there");
    assert_eq!(f.view(m, 3).await, Err(StoreError::ReaderUnknown), "nobody was admitted");
    assert_eq!(f.store.append(post(m, 2, 0)).await, Ok(1), "the keys are the old ones");
    let good = turning(post(m, 1, 0), 0, &[3], &[2]);
    assert_eq!(f.store.append(good).await, Ok(2), "the refused post's id is free");
}

pub(crate) async fn bad_turns_are_refused(f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    for (admit, evict, why) in [
        (&[3, 3][..], &[][..], "admits twice"),
        (&[1], &[], "admits who is there"),
        (&[], &[3], "evicts who is not there"),
        (&[], &[1, 1], "evicts twice"),
        (&[1], &[1], "evicts and admits the same"),
        (&[3], &[3], "admits and evicts the same"),
        (&[3, 4, 5], &[], "five readers"),
    ] {
        let turn = turning(post(m, 1, 0), 0, admit, evict);
        assert!(matches!(f.store.append(turn).await, Err(StoreError::BadTurn(_))), "{why}");
    }
    let keys_first = turning(post(m, 1, 7), 7, &[1], &[]);
    assert_eq!(
        f.store.append(keys_first).await,
        Err(StoreError::KeyTurned),
        "keys are checked before the turn"
    );
    let turn = turning(post(m, 1, 0), 0, &[3, 4, 5], &[1]);
    assert_eq!(f.store.append(turn).await, Ok(1), "who leaves makes room");
}

pub(crate) async fn the_admitted_begin_behind_the_turn(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.append(turning(post(m, 2, 0), 0, &[2], &[])).await);
    expect(f.store.append(post(m, 3, 1)).await);
    for _ in 0..2 {
        assert_eq!(f.view(m, 2).await, Ok((3, 1, 2, None)));
        assert_eq!(f.view(m, 1).await, Ok((3, 1, 0, None)));
        f.restart().await;
    }
    expect(f.store.advance(upto(m, 1, 3)).await);
    assert_eq!(f.stored(m).await, [3], "the new one holds back what it has not read");
}

pub(crate) async fn the_evicted_read_up_to_the_turn(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.append(turning(post(m, 2, 0), 0, &[], &[2])).await);
    expect(f.store.append(post(m, 3, 1)).await);
    for _ in 0..2 {
        assert_eq!(f.view(m, 2).await, Ok((3, 1, 0, Some(2))));
        f.restart().await;
    }
    expect(f.store.advance(upto(m, 2, 1)).await);
    f.restart().await;
    assert_eq!(f.view(m, 2).await, Ok((3, 1, 1, Some(2))), "still something to read");
    expect(f.store.advance(upto(m, 2, 3)).await);
    for _ in 0..2 {
        assert_eq!(f.view(m, 2).await, Err(StoreError::ReaderUnknown), "it read all that it may");
        assert_eq!(f.store.advance(upto(m, 2, 3)).await, Err(StoreError::ReaderUnknown));
        f.restart().await;
    }
}

pub(crate) async fn the_evicted_hold_nothing_back(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.advance(upto(m, 1, 1)).await);
    assert_eq!(f.stored(m).await, [1], "reader 2 needs it");
    expect(f.store.append(turning(post(m, 2, 0), 0, &[], &[2])).await);
    for _ in 0..2 {
        assert_eq!(f.stored(m).await, [2], "nobody who stays needs the first");
        assert_eq!(
            f.view(m, 2).await,
            Ok((2, 2, 0, Some(2))),
            "it is told what it missed, and may read the turn"
        );
        f.restart().await;
    }
}

pub(crate) async fn the_evicted_go_when_nothing_is_left(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2, 3]).await;
    expect(f.store.append(turning(post(m, 1, 0), 0, &[], &[2])).await);
    expect(f.store.append(post(m, 2, 1)).await);
    expect(f.store.advance(upto(m, 1, 1)).await);
    expect(f.store.advance(upto(m, 3, 1)).await);
    f.restart().await;
    assert_eq!(f.stored(m).await, [2]);
    assert_eq!(f.view(m, 2).await, Err(StoreError::ReaderUnknown), "its last envelope was trimmed");
    expect(f.store.append(turning(post(m, 3, 1), 1, &[], &[3])).await);
    assert_eq!(f.view(m, 3).await, Ok((3, 2, 1, Some(3))));
    f.clock.pass(u64::from(EXPIRY));
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.view(m, 3).await, Err(StoreError::ReaderUnknown), "its last envelope expired");
    assert_eq!(f.view(m, 1).await, Ok((3, 4, 1, None)));
}

pub(crate) async fn the_evicted_may_come_back(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    expect(f.store.append(turning(post(m, 1, 0), 0, &[], &[2])).await);
    let gone = turning(post(m, 2, 1), 1, &[], &[2]);
    assert!(matches!(f.store.append(gone).await, Err(StoreError::BadTurn(_))), "it is evicted already");
    expect(f.store.append(turning(post(m, 3, 1), 1, &[2], &[])).await);
    for _ in 0..2 {
        assert_eq!(f.view(m, 2).await, Ok((2, 1, 2, None)));
        f.restart().await;
    }
    expect(f.store.advance(upto(m, 1, 2)).await);
    expect(f.store.append(post(m, 4, 2)).await);
    assert_eq!(f.view(m, 2).await, Ok((3, 3, 2, None)), "it is a reader like any other");
}

/// Turns cannot fill memory with evicted readers: so many are kept, however many readers there may be. The
/// number is no matter of configuration.
pub(crate) async fn the_newest_evicted_are_kept(mut f: Fixture) {
    const KEPT: u16 = 4096;
    f.set_policy(StorePolicy { readers: 20_000, readers_per_mailbox: 10_000, ..small_policy() });
    f.restart().await;
    f.tokens(1).await;
    let id = |n: u16| ReaderId(std::array::from_fn(|at| n.to_be_bytes()[at % 2]));
    let readers = (0..=KEPT).map(|n| Reader { id: id(n), key_hash: read_key(1) }).collect();
    let new = NewMailbox { readers, quota: 1 << 20, ..new_mailbox(1, &[]) };
    let m = new.mailbox;
    expect(f.create(new).await);
    let evicting = |n: u16, evict: Vec<ReaderId>| {
        let mut append = turning(post(m, n + 1, n as u8), n as u8, &[], &[]);
        append.turn.as_mut().expect("it turns").1.evict = evict;
        finger(append)
    };
    expect(f.store.append(evicting(0, vec![id(KEPT)])).await);
    let view = |f: &Fixture, n: u16| {
        let open = OpenReader { mailbox: m, reader: id(n), key: read_key(1), claim: None };
        let store = f.store.clone();
        async move { store.open(open).await.map(|view| view.until) }
    };
    assert_eq!(view(&f, KEPT).await, Ok(Some(1)));
    expect(f.store.append(evicting(1, (0..KEPT).map(id).collect())).await);
    for policy in [f.policy(), small_policy()] {
        assert_eq!(view(&f, KEPT).await, Err(StoreError::ReaderUnknown), "the first to go");
        assert_eq!(view(&f, 0).await, Ok(Some(2)));
        assert_eq!(view(&f, KEPT - 1).await, Ok(Some(2)));
        f.set_policy(policy);
        f.restart().await;
    }
}

pub(crate) async fn readers_are_limited(f: Fixture) {
    let m = f.mailbox(1, &[1, 2, 3]).await;
    expect(f.store.append(turning(post(m, 1, 0), 0, &[4], &[])).await);
    let fifth = turning(post(m, 2, 1), 1, &[5], &[]);
    assert!(matches!(f.store.append(fifth).await, Err(StoreError::BadTurn(_))));
    assert_eq!(f.store.append(turning(post(m, 2, 1), 1, &[5], &[4])).await, Ok(2));
}

pub(crate) async fn turns_are_delivered(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let append = turning(post(m, 1, 0), 0, &[2, 3], &[1]);
    expect(f.store.append(append.clone()).await);
    f.restart().await;
    let read = expect(f.store.read(m, ALL).await);
    assert_eq!(read.len(), 0, "who was there is evicted, who came begins behind it: nobody waits for it");
    expect(f.store.append(turning(post(m, 2, 1), 1, &[4], &[3])).await);
    f.restart().await;
    let read = expect(f.store.read(m, ALL).await);
    let turn = read[0].turn.as_deref().expect("it turned the lock");
    assert_eq!((turn.admit.as_slice(), turn.evict.as_slice()), (&[reader(4)][..], &[reader_id(3)][..]));
    assert_eq!((turn.post_key_hash, turn.turn_key_hash), (post_key(2), turn_key(2)));
}
