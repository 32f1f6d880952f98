//! Readers: keys, claims (rule 11), cursors and trimming (R3, R6), ranges.

use super::names::{
    envelope, expect, mailbox, open, post, post_key, read_key, sized, turn_key, turning, upto,
};
use super::{Event, Fixture, START};
use crate::store::{Advance, OpenReader, OpeningNumber, ReadRange, ReaderView, StoreError};

pub(crate) async fn opening_tells_the_state(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    for n in 1..=3 {
        expect(f.store.append(post(m, n, 0)).await);
    }
    expect(f.store.advance(upto(m, 1, 2)).await);
    expect(f.store.advance(upto(m, 2, 1)).await);
    let view = ReaderView {
        opening: OpeningNumber::default(),
        head: 3,
        oldest: 2,
        cursor: 2,
        until: None,
        post_key: post_key(0),
        turn_key: turn_key(0),
    };
    let mut newest = OpeningNumber::default();
    for _ in 0..2 {
        for (n, cursor) in [(1, 2), (2, 1), (1, 2)] {
            let found = expect(f.store.open(open(m, n)).await);
            assert_eq!(found, ReaderView { cursor, opening: found.opening, ..view });
            assert!(
                found.opening > newest,
                "each is numbered above those before it, also those before a start"
            );
            newest = found.opening;
        }
        f.restart().await;
    }
}

pub(crate) async fn keys_are_checked(f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    let wrong = OpenReader { key: read_key(2), ..open(m, 1) };
    let wrong_claim = OpenReader { key: read_key(8), claim: Some(read_key(2)), ..open(m, 1) };
    for (ask, error) in [
        (wrong, StoreError::ReadKeyWrong),
        (wrong_claim, StoreError::ReadKeyWrong),
        (open(m, 3), StoreError::ReaderUnknown),
        (open(mailbox(9), 1), StoreError::MailboxUnknown),
    ] {
        assert_eq!(f.store.may_open(ask.clone()).await, Err(error));
        assert_eq!(f.store.open(ask).await, Err(error));
    }
    assert_eq!(f.store.may_open(open(m, 1)).await, Ok(()));
    assert!(f.store.open(open(m, 1)).await.is_ok());
}

pub(crate) async fn a_claim_replaces_the_key(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    let claim = OpenReader { key: read_key(50), claim: Some(read_key(1)), ..open(m, 1) };
    for _ in 0..2 {
        assert!(f.store.open(claim.clone()).await.is_ok(), "again is harmless");
        f.restart().await;
    }
    assert_eq!(f.store.open(open(m, 1)).await, Err(StoreError::ReadKeyWrong), "the one-time key is spent");
    let thief = OpenReader { key: read_key(51), ..claim };
    assert_eq!(f.store.open(thief).await, Err(StoreError::ReadKeyWrong));
    let fits = OpenReader { key: read_key(50), ..open(m, 1) };
    assert!(f.store.open(fits).await.is_ok());
    assert!(f.store.open(open(m, 2)).await.is_ok(), "the other reader's key is its own");
}

pub(crate) async fn a_cursor_never_moves_back(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    for n in 1..=3 {
        expect(f.store.append(post(m, n, 0)).await);
    }
    for (ack, cursor) in [(2, 2), (1, 2), (0, 2), (2, 2), (u64::MAX, 3)] {
        expect(f.store.advance(upto(m, 1, ack)).await);
        assert_eq!(f.view(m, 1).await, Ok((3, 1, cursor, None)), "after an ack of {ack}");
    }
    f.restart().await;
    expect(f.store.advance(upto(m, 1, 1)).await);
    assert_eq!(f.view(m, 1).await, Ok((3, 1, 3, None)));
    assert_eq!(f.store.advance(upto(m, 9, 1)).await, Err(StoreError::ReaderUnknown));
    assert_eq!(f.store.advance(upto(mailbox(9), 1, 1)).await, Err(StoreError::MailboxUnknown));
    expect(f.store.append(post(m, 4, 0)).await);
    assert_eq!(
        f.view(m, 1).await,
        Ok((4, 1, 3, None)),
        "the ack above the head did not swallow what came later"
    );
}

/// Rule 10, as far as the store keeps it; what the live side tells before that is its own matter.
pub(crate) async fn the_former_opening_moves_nothing(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    for n in 1..=5 {
        expect(f.store.append(post(m, n, 0)).await);
    }
    let number = |n| {
        let opening = f.store.open(open(m, n));
        async move { expect(opening.await).opening }
    };
    let (first, second, other) = (number(1).await, number(1).await, number(2).await);
    assert!(first < second);
    let by = |opening, seq| Advance { opening, ..upto(m, 1, seq) };
    expect(f.store.advance(by(first, 1)).await);
    expect(f.store.advance(by(second, 2)).await);
    for _ in 0..2 {
        for seq in [0, 2, 4] {
            assert_eq!(f.store.advance(by(first, seq)).await, Err(StoreError::OpenedElsewhere));
        }
        f.store.advance_soon(by(first, 4));
        assert_eq!(f.view(m, 1).await, Ok((5, 1, 2, None)), "nor does it by an ack that nobody waits for");
        f.restart().await;
    }
    expect(f.store.advance(by(second, 3)).await);
    let third = expect(f.store.open(open(m, 1)).await).opening;
    assert!(third > second, "however often the store was started");
    f.store.advance_soon(by(third, 4));
    f.store.advance_soon(by(second, 5));
    assert_eq!(f.view(m, 1).await, Ok((5, 1, 4, None)));
    assert_eq!(f.store.advance(by(second, 5)).await, Err(StoreError::OpenedElsewhere));
    expect(f.store.advance(Advance { opening: other, ..upto(m, 2, 1) }).await);
    // Who is admitted again begins anew.
    expect(f.store.append(turning(post(m, 6, 0), 0, &[], &[1])).await);
    assert_eq!(f.store.advance(by(second, 6)).await, Err(StoreError::OpenedElsewhere), "evicted or not");
    expect(f.store.append(turning(post(m, 7, 1), 1, &[1], &[])).await);
    f.restart().await;
    let again = expect(f.store.open(open(m, 1)).await);
    assert!(again.opening > third);
    expect(f.store.append(post(m, 8, 2)).await);
    expect(f.store.advance(by(again.opening, 8)).await);
    assert_eq!(f.view(m, 1).await.map(|view| view.2), Ok(8));
}

pub(crate) async fn what_all_passed_is_trimmed(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2, 3]).await;
    for n in 1..=4 {
        expect(f.store.append(post(m, n, 0)).await);
    }
    for (n, ack, left) in [
        (1, 4, &[1, 2, 3, 4][..]),
        (2, 2, &[1, 2, 3, 4]),
        (3, 1, &[2, 3, 4]),
        (3, 3, &[3, 4]),
        (2, 4, &[4]),
        (3, 4, &[]),
    ] {
        expect(f.store.advance(upto(m, n, ack)).await);
        assert_eq!(f.stored(m).await, left, "after reader {n} acknowledged {ack}");
        f.restart().await;
        assert_eq!(f.stored(m).await, left, "and a restart");
    }
    assert_eq!(f.view(m, 1).await, Ok((4, 5, 4, None)));
    let stats = f.store.stats();
    assert_eq!((stats.envelopes, stats.envelope_bytes, stats.posts), (0, 0, 4));
}

pub(crate) async fn without_readers_nothing_is_trimmed(f: Fixture) {
    let m = f.mailbox(1, &[]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.append(post(m, 2, 0)).await);
    assert_eq!(f.stored(m).await, [1, 2]);
    f.clock.pass(u64::from(super::EXPIRY) - 1);
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [1, 2]);
    f.clock.pass(1);
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [0; 0], "only expiry drops them");
}

pub(crate) async fn ranges_are_kept(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    for n in 1..=5 {
        expect(f.store.append(sized(m, n, 0, 1000)).await);
    }
    expect(f.store.advance(upto(m, 1, 1)).await);
    for _ in 0..2 {
        for (from, to, bytes, seqs) in [
            (0, 9, 9999, &[2, 3, 4, 5][..]),
            (1, 3, 9999, &[2, 3]),
            (3, 3, 9999, &[3]),
            (4, 3, 9999, &[]),
            (6, 9, 9999, &[]),
            (0, 1, 9999, &[]),
            (2, 5, 2000, &[2, 3]),
            (2, 5, 1999, &[2]),
            (2, 5, 0, &[2]),
        ] {
            let read = expect(f.store.read(m, ReadRange { from, to, bytes }).await);
            let found: Vec<u64> = read.iter().map(|stored| stored.seq).collect();
            assert_eq!(found, seqs, "{from}..={to}, {bytes} bytes");
            for stored in read {
                assert_eq!(stored.envelope, sized(m, stored.seq as u16, 0, 1000).envelope);
            }
        }
        f.restart().await;
    }
    let range = ReadRange { from: 0, to: 1, bytes: 1 };
    assert_eq!(f.store.read(mailbox(9), range).await, Err(StoreError::MailboxUnknown));
}

pub(crate) async fn signals_need_the_post_key(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let signal = |m, generation| f.store.signal(m, post_key(generation), envelope(3, 20));
    f.heard.take();
    assert_eq!(signal(m, 0).await, Ok(7), "as many as the live side says");
    assert_eq!(f.heard.take(), [Event::Signalled(m, envelope(3, 20))]);
    assert_eq!(signal(m, 1).await, Err(StoreError::KeyTurned));
    assert_eq!(signal(mailbox(9), 0).await, Err(StoreError::MailboxUnknown));
    assert_eq!(f.heard.take(), [], "who may not is not heard");
    expect(f.store.append(turning(post(m, 1, 0), 0, &[], &[])).await);
    assert_eq!(signal(m, 0).await, Err(StoreError::KeyTurned));
    assert_eq!(signal(m, 1).await, Ok(7));
    assert_eq!(START % 86_400, 43_200);
}
