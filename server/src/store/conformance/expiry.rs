//! Expiry: of envelopes (R3, rule 20), mailboxes (rule 16), invites and tokens (R6).

use super::names::{CREATE, account, expect, invite, mailbox, post, token, upto};
use super::{EXPIRY, Event, Fixture, START, new_mailbox};
use crate::store::{NewAccount, NewInvite, StoreError};

const DAY: u64 = 86_400;

pub(crate) async fn envelopes_expire(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.pass(1000);
    expect(f.store.append(post(m, 2, 0)).await);
    f.clock.pass(u64::from(EXPIRY) - 1001);
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [1, 2], "a second too early");
    f.clock.pass(1);
    assert_eq!(f.stored(m).await, [1, 2], "nothing goes unasked");
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.stored(m).await, [2]);
        assert_eq!(f.view(m, 1).await, Ok((2, 2, 0, None)), "the reader is told what it missed");
        f.restart().await;
    }
    f.clock.pass(1000);
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.view(m, 1).await, Ok((2, 3, 0, None)));
    assert_eq!(f.store.append(post(m, 3, 0)).await, Ok(3));
    assert_eq!(f.stored(m).await, [3]);
}

pub(crate) async fn only_prefixes_expire(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.jump(-1800);
    expect(f.store.append(post(m, 2, 0)).await);
    f.clock.pass(u64::from(EXPIRY));
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [1, 2], "the second has expired, but the first stands before it");
    f.clock.pass(1800);
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [0; 0]);
}

/// A reader that missed an envelope because it expired no longer makes the rest fill the mailbox (R3).
pub(crate) async fn the_late_hold_nothing_back(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.pass(1000);
    for n in 2..=4 {
        expect(f.store.append(post(m, n, 0)).await);
    }
    expect(f.store.advance(upto(m, 1, 3)).await);
    assert_eq!(f.stored(m).await, [1, 2, 3, 4], "reader 2 may still come");
    f.clock.pass(u64::from(EXPIRY) - 1000);
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.stored(m).await, [4], "it missed the first, so it holds back nothing");
        f.restart().await;
    }
    expect(f.store.append(post(m, 5, 0)).await);
    expect(f.store.advance(upto(m, 1, 4)).await);
    assert_eq!(f.stored(m).await, [5]);
    expect(f.store.advance(upto(m, 2, 4)).await);
    expect(f.store.append(post(m, 6, 0)).await);
    expect(f.store.advance(upto(m, 1, 6)).await);
    assert_eq!(f.stored(m).await, [5, 6], "having caught up, it counts again");
}

pub(crate) async fn unopened_mailboxes_go(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.heard.take();
    f.clock.pass(30 * DAY);
    expect(f.store.expire().await);
    assert_eq!(f.store.stats().mailboxes, 1, "the day of its creation counts in full");
    f.clock.pass(DAY / 2);
    expect(f.store.expire().await);
    assert_eq!(f.heard.take(), [Event::Destroyed(m)]);
    for _ in 0..2 {
        assert_eq!(f.view(m, 1).await, Err(StoreError::MailboxUnknown));
        assert_eq!(f.store.stats().mailboxes, 0);
        f.restart().await;
    }
}

pub(crate) async fn opening_keeps_a_mailbox(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    let forgotten = f.mailbox(2, &[1]).await;
    f.clock.pass(20 * DAY);
    expect(f.view(m, 1).await);
    f.restart().await;
    f.clock.pass(20 * DAY);
    f.restart().await;
    assert!(f.store.stats().expiry_paused, "it was off for more than a week");
    expect(f.store.confirm_clock().await);
    expect(f.store.expire().await);
    assert_eq!(f.view(forgotten, 1).await, Err(StoreError::MailboxUnknown));
    assert_eq!(f.view(m, 1).await, Ok((0, 1, 0, None)));
    f.clock.pass(25 * DAY);
    expect(f.store.append(f.now(post(m, 1, 0))).await);
    f.clock.pass(6 * DAY);
    expect(f.store.expire().await);
    assert_eq!(f.view(m, 1).await, Err(StoreError::MailboxUnknown), "posting is not opening");
    assert_eq!(mailbox(1), m);
}

pub(crate) async fn invites_expire(mut f: Fixture) {
    expect(f.store.mint_invite(NewInvite { hash: invite(1), uses: 5, expires: START + 100 }).await);
    f.clock.pass(99);
    expect(f.store.register(NewAccount { invite: Some(invite(1)), ..account(1) }).await);
    f.clock.pass(1);
    let second = NewAccount { invite: Some(invite(1)), ..account(2) };
    assert_eq!(f.store.register(second.clone()).await, Err(StoreError::InviteInvalid));
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.store.register(second).await, Err(StoreError::InviteInvalid));
    let first = NewAccount { invite: Some(invite(1)), ..account(1) };
    assert_eq!(f.store.register(first).await, Ok(()), "who has registered has");
}

pub(crate) async fn tokens_expire(mut f: Fixture) {
    f.tokens(2).await;
    f.clock.pass(6 * DAY);
    expect(f.store.expire().await);
    expect(f.create(new_mailbox(1, &[1])).await);
    assert_eq!(f.store.draw_tokens(super::names::device(1), CREATE, vec![token(3)]).await, Ok(1));
    f.clock.pass(2 * DAY);
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.create(new_mailbox(2, &[1])).await, Err(StoreError::TokenUnknown));
        f.restart().await;
    }
    expect(f.create(new_mailbox(3, &[1])).await);
}

/// More mailboxes than an engine may look at in one step.
pub(crate) async fn many_mailboxes_expire(mut f: Fixture) {
    let policy = crate::store::StorePolicy {
        mailboxes: 5000,
        tokens: 5000,
        tokens_per_device: 5000,
        readers: 5000,
        ..super::small_policy()
    };
    f.set_policy(policy);
    f.restart().await;
    f.tokens(1).await;
    let name = |n: u16| std::array::from_fn(|at| if at < 2 { n.to_be_bytes()[at] } else { 9 });
    let hashes: Vec<_> =
        (0..2100).map(|n| posthorn_proto::KeyHash(std::array::from_fn(|at| name(n)[at % 16]))).collect();
    assert_eq!(f.store.draw_tokens(super::names::device(1), CREATE, hashes.clone()).await, Ok(2100));
    for (n, token) in (0..).zip(hashes) {
        let mailbox = posthorn_proto::MailboxId(name(n));
        expect(f.create(crate::store::NewMailbox { mailbox, token, ..new_mailbox(1, &[1]) }).await);
        if n % 2 == 0 {
            expect(f.store.append(post(mailbox, n, 0)).await);
        }
    }
    f.heard.take();
    f.clock.pass(u64::from(EXPIRY));
    expect(f.store.expire().await);
    assert_eq!(f.store.stats().envelopes, 0);
    f.clock.pass(31 * DAY);
    expect(f.store.expire().await);
    assert_eq!(f.store.stats().mailboxes, 0);
    assert_eq!(f.heard.take().len(), 2100);
}
