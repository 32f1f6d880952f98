//! Quotas: of a mailbox with its reserve (rule 5), and of the relay (R6).

use posthorn_proto::limits::POST_OVERHEAD_BYTES;

use super::names::{account, device, expect, finger, handle_of, post, sized, turning, upto};
use super::{EXPIRY, Fixture, QUOTA, new_mailbox, small_policy};
use crate::store::{Append, NewMailbox, StoreError, StorePolicy};

/// The part of [`QUOTA`] that posts without a turn may fill, in bytes.
const OPEN: usize = QUOTA as usize / 2;
const OVERHEAD: usize = POST_OVERHEAD_BYTES as usize;

pub(crate) async fn a_post_costs_envelope_and_memory(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let over = sized(m, 1, 0, OPEN - OVERHEAD + 1);
    assert_eq!(f.store.append(over).await, Err(StoreError::MailboxFull));
    assert_eq!(f.store.append(sized(m, 1, 0, OPEN - OVERHEAD)).await, Ok(1), "exactly full");
    f.restart().await;
    assert_eq!(f.store.append(sized(m, 2, 0, 1)).await, Err(StoreError::MailboxFull));
    expect(f.store.advance(upto(m, 1, 1)).await);
    f.restart().await;
    let over = sized(m, 3, 0, OPEN - 2 * OVERHEAD + 1);
    assert_eq!(f.store.append(over).await, Err(StoreError::MailboxFull), "the trimmed post is in memory");
    assert_eq!(f.store.append(sized(m, 3, 0, OPEN - 2 * OVERHEAD)).await, Ok(2));
    expect(f.store.advance(upto(m, 1, 2)).await);
    f.clock.pass(10_000);
    expect(f.store.expire().await);
    let new = f.now(sized(m, 4, 0, OPEN - OVERHEAD));
    assert_eq!(f.store.append(new.clone()).await, Ok(3), "what has left memory costs nothing");
    assert_eq!(f.store.append(new).await, Ok(3), "a repeat needs no room");
}

pub(crate) async fn the_reserve_is_for_turns(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(sized(m, 1, 0, OPEN - OVERHEAD)).await);
    assert_eq!(f.store.append(sized(m, 2, 0, 1)).await, Err(StoreError::MailboxFull));
    // A turn without reader changes costs 64 bytes of its own.
    assert_eq!(f.store.append(turning(sized(m, 3, 0, 20_000), 0, &[], &[])).await, Ok(2));
    f.restart().await;
    let rest = OPEN - 20_000 - 64 - 2 * OVERHEAD - 64;
    let over = turning(sized(m, 4, 1, rest + 1), 1, &[], &[]);
    assert_eq!(f.store.append(over).await, Err(StoreError::MailboxFull), "the reserve ends too");
    assert_eq!(f.store.append(turning(sized(m, 4, 1, rest), 1, &[], &[])).await, Ok(3));
}

pub(crate) async fn a_full_mailbox_evicts_who_fills_it(f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    let mut n = 0;
    while f.store.append(sized(m, n, 0, 5_000)).await.is_ok() {
        n += 1;
    }
    expect(f.store.advance(upto(m, 1, u64::from(n))).await);
    assert_eq!(
        f.store.append(sized(m, 100, 0, 5_000)).await,
        Err(StoreError::MailboxFull),
        "reader 2 sleeps"
    );
    expect(f.store.append(turning(sized(m, 101, 0, 5_000), 0, &[], &[2])).await);
    assert_eq!(f.store.append(sized(m, 102, 1, 5_000)).await, Ok(u64::from(n) + 2), "there is room again");
}

pub(crate) async fn turns_cost_too(f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    expect(f.store.append(turning(post(m, 1, 0), 0, &[3, 4], &[2])).await);
    assert_eq!(f.store.stats().envelope_bytes, 100 + 64 + 2 * 48 + 16);
}

pub(crate) async fn bytes_are_bounded(mut f: Fixture) {
    f.set_policy(StorePolicy { total_bytes: 10_000, ..small_policy() });
    f.restart().await;
    let (one, two) = (f.mailbox(1, &[1]).await, f.mailbox(2, &[1]).await);
    expect(f.store.append(sized(one, 1, 0, 5_000)).await);
    let rest = 10_000 - 5_000 - 2 * OVERHEAD;
    assert_eq!(f.store.append(sized(two, 2, 0, rest + 1)).await, Err(StoreError::Quota("bytes")));
    assert_eq!(f.store.append(sized(two, 2, 0, rest)).await, Ok(1));
    expect(f.store.advance(upto(one, 1, 1)).await);
    f.restart().await;
    let rest = 5_000 - OVERHEAD;
    assert_eq!(f.store.append(sized(two, 3, 0, rest + 1)).await, Err(StoreError::Quota("bytes")));
    assert_eq!(f.store.append(sized(two, 3, 0, rest)).await, Ok(2));
}

pub(crate) async fn cards_and_key_packages_are_bounded(mut f: Fixture) {
    let quota = Err(StoreError::Quota("bytes"));
    f.set_policy(StorePolicy { total_bytes: 10_000, ..small_policy() });
    f.restart().await;
    let m = f.mailbox(1, &[1]).await;
    let (device, bytes) = (device(1), |n: u8, len: usize| bytes::Bytes::from(vec![n; len]));
    expect(f.store.publish_card(device, 1, bytes(1, 3_000)).await);
    expect(f.store.publish_key_packages(device, vec![bytes(2, 2_000)], Some(bytes(3, 2_000))).await);
    for _ in 0..2 {
        let rest = 3_000 - OVERHEAD;
        assert_eq!(f.store.append(sized(m, 1, 0, rest + 1)).await.map(drop), quota);
        assert_eq!(f.store.publish_card(device, 2, bytes(1, 3_001)).await, quota);
        let more = f.store.publish_key_packages(device, vec![bytes(4, 3_001)], None);
        assert_eq!(more.await.map(drop), quota);
        let last = f.store.publish_key_packages(device, vec![], Some(bytes(4, 3_001)));
        assert_eq!(last.await.map(drop), quota);
        assert_eq!(f.store.publish_card(device, 1, bytes(1, 3_000)).await, Ok(()), "it is there already");
        f.restart().await;
    }
    expect(f.store.take_key_packages(handle_of(1)).await);
    assert_eq!(f.store.append(sized(m, 1, 0, 5_000 - OVERHEAD)).await, Ok(1), "what was taken makes room");
    assert_eq!(f.store.append(sized(m, 2, 0, 1)).await.map(drop), quota);
}

pub(crate) async fn mailboxes_are_bounded(mut f: Fixture) {
    f.set_policy(StorePolicy { mailboxes: 2, ..small_policy() });
    f.restart().await;
    let one = f.mailbox(1, &[1]).await;
    f.mailbox(2, &[1]).await;
    assert_eq!(f.create(new_mailbox(3, &[1])).await, Err(StoreError::Quota("mailboxes")));
    assert_eq!(f.create(new_mailbox(2, &[1])).await, Ok(()), "a repeat needs no room");
    expect(f.store.destroy(one, super::names::turn_key(0)).await);
    f.restart().await;
    assert_eq!(f.create(new_mailbox(3, &[1])).await, Ok(()), "the refusal did not spend the token");
}

pub(crate) async fn readers_are_bounded(mut f: Fixture) {
    f.set_policy(StorePolicy { readers: 3, ..small_policy() });
    f.restart().await;
    let m = f.mailbox(1, &[1, 2]).await;
    assert_eq!(f.create(new_mailbox(2, &[1, 2])).await, Err(StoreError::Quota("readers")));
    assert_eq!(
        f.store.append(turning(post(m, 1, 0), 0, &[3, 4], &[])).await,
        Err(StoreError::Quota("readers"))
    );
    expect(f.store.append(turning(post(m, 1, 0), 0, &[3], &[])).await);
    expect(f.store.append(turning(post(m, 2, 1), 1, &[], &[3])).await);
    let again = turning(post(m, 3, 2), 2, &[4], &[]);
    assert_eq!(
        f.store.append(again.clone()).await,
        Err(StoreError::Quota("readers")),
        "the evicted one still reads"
    );
    expect(f.store.advance(upto(m, 3, 2)).await);
    f.restart().await;
    assert_eq!(f.store.append(again).await, Ok(3));
}

pub(crate) async fn accounts_are_bounded(mut f: Fixture) {
    for n in 1..=4 {
        expect(f.store.register(account(n)).await);
    }
    f.restart().await;
    assert_eq!(f.store.register(account(5)).await, Err(StoreError::Quota("accounts")));
    assert_eq!(f.store.register(account(4)).await, Ok(()), "a repeat needs no room");
}

pub(crate) async fn stats_count(mut f: Fixture) {
    let (one, two) = (f.mailbox(1, &[1]).await, f.mailbox(2, &[1, 2]).await);
    for n in 1..=3 {
        expect(f.store.append(sized(one, n, 0, 1000)).await);
        expect(f.store.append(sized(two, n, 0, 10)).await);
    }
    expect(f.store.advance(upto(one, 1, 2)).await);
    for _ in 0..2 {
        let stats = f.store.stats();
        assert_eq!((stats.mailboxes, stats.accounts), (2, 1));
        assert_eq!((stats.envelopes, stats.envelope_bytes, stats.posts), (4, 1030, 6));
        f.restart().await;
    }
    expect(f.store.destroy(one, super::names::turn_key(0)).await);
    f.clock.pass(u64::from(EXPIRY));
    expect(f.store.expire().await);
    f.restart().await;
    let stats = f.store.stats();
    assert_eq!((stats.mailboxes, stats.envelopes, stats.envelope_bytes, stats.posts), (1, 0, 0, 3));
    let fits = NewMailbox { quota: 0, ..new_mailbox(3, &[1]) };
    let m = fits.mailbox;
    expect(f.create(fits).await);
    let refused = finger(Append { ..turning(post(m, 1, 0), 0, &[], &[]) });
    assert_eq!(
        f.store.append(refused).await,
        Err(StoreError::MailboxFull),
        "a quota of nothing holds nothing"
    );
}
