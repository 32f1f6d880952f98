//! Readers: keys, claims (rule 11), cursors and trimming (R3, R6), ranges.

use super::names::{expect, mailbox, open, post, post_key, read_key, reader_id, sized, turn_key};
use super::{Fixture, START};
use crate::store::{OpenReader, ReadRange, ReaderView, StoreError};

pub(crate) async fn opening_tells_the_state(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    for n in 1..=3 {
        expect(f.store.append(post(m, n, 0)).await);
    }
    expect(f.store.advance(m, reader_id(1), 2).await);
    expect(f.store.advance(m, reader_id(2), 1).await);
    let view = ReaderView {
        head: 3,
        oldest: 2,
        cursor: 2,
        until: None,
        post_key: post_key(0),
        turn_key: turn_key(0),
    };
    for _ in 0..2 {
        assert_eq!(f.store.open(open(m, 1)).await, Ok(view));
        assert_eq!(f.store.open(open(m, 2)).await, Ok(ReaderView { cursor: 1, ..view }));
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
        expect(f.store.advance(m, reader_id(1), ack).await);
        assert_eq!(f.view(m, 1).await, Ok((3, 1, cursor, None)), "after an ack of {ack}");
    }
    f.restart().await;
    expect(f.store.advance(m, reader_id(1), 1).await);
    assert_eq!(f.view(m, 1).await, Ok((3, 1, 3, None)));
    assert_eq!(f.store.advance(m, reader_id(9), 1).await, Err(StoreError::ReaderUnknown));
    assert_eq!(f.store.advance(mailbox(9), reader_id(1), 1).await, Err(StoreError::MailboxUnknown));
    expect(f.store.append(post(m, 4, 0)).await);
    assert_eq!(
        f.view(m, 1).await,
        Ok((4, 1, 3, None)),
        "the ack above the head did not swallow what came later"
    );
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
        expect(f.store.advance(m, reader_id(n), ack).await);
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
    expect(f.store.advance(m, reader_id(1), 1).await);
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
    assert_eq!(f.store.check_post_key(m, post_key(0)).await, Ok(()));
    assert_eq!(f.store.check_post_key(m, post_key(1)).await, Err(StoreError::KeyTurned));
    assert_eq!(f.store.check_post_key(mailbox(9), post_key(0)).await, Err(StoreError::MailboxUnknown));
    expect(f.store.append(super::names::turning(post(m, 1, 0), 0, &[], &[])).await);
    assert_eq!(f.store.check_post_key(m, post_key(0)).await, Err(StoreError::KeyTurned));
    assert_eq!(f.store.check_post_key(m, post_key(1)).await, Ok(()));
    assert_eq!(START % 86_400, 43_200);
}
