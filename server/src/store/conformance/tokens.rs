//! Creation and the tokens that pay for it (rule 16).

use super::names::{
    CREATE, UPLOAD, account, blob, device, expect, mailbox, new_blob, post, post_key, reader, token, turn_key,
};
use super::{EXPIRY, Fixture, QUOTA, new_mailbox};
use crate::store::{NewBlob, NewMailbox, OpenReader, Spent, SpentOn, StoreError};

pub(crate) async fn a_token_pays_once(mut f: Fixture) {
    assert_eq!(f.create(new_mailbox(1, &[1])).await, Err(StoreError::TokenUnknown));
    f.tokens(2).await;
    f.restart().await;
    expect(f.create(new_mailbox(1, &[1])).await);
    for _ in 0..2 {
        let second = NewMailbox { token: token(1), ..new_mailbox(2, &[1]) };
        assert_eq!(f.create(second).await, Err(StoreError::TokenUnknown));
        f.restart().await;
    }
    expect(f.create(new_mailbox(2, &[1])).await);
    expect(f.store.destroy(super::mailbox(1), turn_key(0)).await);
    f.restart().await;
    assert_eq!(f.create(new_mailbox(1, &[1])).await, Err(StoreError::TokenUnknown), "spent is spent");
}

pub(crate) async fn creating_again_is_harmless(mut f: Fixture) {
    f.tokens(1).await;
    for _ in 0..2 {
        assert_eq!(f.create(new_mailbox(1, &[2, 1])).await, Ok(()));
        assert_eq!(f.create(new_mailbox(1, &[2, 1])).await, Ok(()));
        f.restart().await;
    }
    assert_eq!(f.view(super::mailbox(1), 1).await, Ok((0, 1, 0, None)));
    assert_eq!(f.create(new_mailbox(1, &[2, 1])).await, Ok(()), "opening it has changed nothing");
}

pub(crate) async fn a_different_mailbox_is_refused(mut f: Fixture) {
    f.tokens(3).await;
    let new = || new_mailbox(1, &[1]);
    expect(f.create(new()).await);
    for other in [
        NewMailbox { token: token(2), ..new() },
        NewMailbox { post_key: post_key(9), ..new() },
        NewMailbox { turn_key: turn_key(9), ..new() },
        NewMailbox { readers: vec![reader(2)], ..new() },
        NewMailbox { readers: vec![], ..new() },
        NewMailbox { expiry: EXPIRY + 1, ..new() },
        NewMailbox { quota: QUOTA + 1, ..new() },
    ] {
        assert_eq!(f.create(other).await, Err(StoreError::MailboxExists));
    }
    f.restart().await;
    expect(f.create(new_mailbox(2, &[1])).await);
    expect(f.store.append(post(super::mailbox(1), 1, 0)).await);
    assert_eq!(f.create(new()).await, Err(StoreError::MailboxExists), "it is no longer as it was created");
    let claim = OpenReader {
        key: super::names::read_key(9),
        claim: Some(super::names::read_key(1)),
        ..super::names::open(super::mailbox(2), 1)
    };
    expect(f.store.open(claim).await);
    assert_eq!(f.create(new_mailbox(2, &[1])).await, Err(StoreError::MailboxExists));
}

pub(crate) async fn draws_are_limited(mut f: Fixture) {
    let draw = |f: &Fixture, n: u8, hashes: std::ops::Range<u8>| {
        let (store, hashes) = (f.store.clone(), hashes.map(token).collect());
        async move { store.draw_tokens(device(n), CREATE, hashes).await }
    };
    assert_eq!(draw(&f, 1, 0..1).await, Err(StoreError::DeviceUnknown));
    for n in 1..=4 {
        expect(f.store.register(account(n)).await);
    }
    assert_eq!(draw(&f, 1, 0..15).await, Ok(15));
    assert_eq!(draw(&f, 1, 15..30).await, Ok(5), "twenty a day");
    assert_eq!(draw(&f, 1, 20..21).await, Ok(0));
    assert_eq!(draw(&f, 1, 10..25).await, Ok(10), "those that are there are accepted again");
    assert_eq!(draw(&f, 2, 20..35).await, Ok(15), "each device has its own allowance");
    f.clock.pass(86_400);
    assert_eq!(draw(&f, 1, 40..44).await, Ok(4), "and a new one each day");
    assert_eq!(draw(&f, 3, 50..60).await, Ok(1), "forty in all");
    assert_eq!(draw(&f, 4, 50..60).await, Ok(1), "the one that is there");
    assert_eq!(draw(&f, 4, 60..70).await, Err(StoreError::Quota("tokens")));
    f.restart().await;
    assert_eq!(draw(&f, 4, 60..70).await, Err(StoreError::Quota("tokens")));
    expect(f.create(NewMailbox { token: token(50), ..new_mailbox(1, &[1]) }).await);
    assert_eq!(draw(&f, 4, 60..70).await, Ok(1), "a spent token makes room");
}

pub(crate) async fn draws_may_be_repeated(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    let hashes: Vec<_> = [1, 2, 2, 3].map(token).to_vec();
    for _ in 0..3 {
        assert_eq!(f.store.draw_tokens(device(1), CREATE, hashes.clone()).await, Ok(4));
        f.restart().await;
    }
    for n in 1..=3 {
        expect(f.create(new_mailbox(n, &[1])).await);
    }
}

/// What a clock that is ahead has made void stays void, and is no reason to refuse what is drawn later.
pub(crate) async fn a_clock_that_was_ahead_leaves_tokens_to_draw(mut f: Fixture) {
    const FAR: i64 = 400 * 86_400;
    expect(f.store.register(account(1)).await);
    f.clock.jump(FAR);
    expect(f.store.confirm_clock().await);
    assert_eq!(f.store.draw_tokens(device(1), CREATE, vec![token(1)]).await, Ok(1));
    f.clock.pass(8 * 86_400);
    expect(f.store.expire().await);
    f.clock.jump(-FAR);
    expect(f.store.confirm_clock().await);
    assert_eq!(f.store.draw_tokens(device(1), CREATE, vec![token(2)]).await, Ok(1));
    f.restart().await;
    assert_eq!(f.create(new_mailbox(1, &[1])).await, Err(StoreError::TokenUnknown));
    expect(f.create(new_mailbox(2, &[1])).await);
}

fn on(n: u8) -> SpentOn {
    SpentOn::Mailbox(mailbox(n))
}

/// Spent again on the same, it is the same; on anything else, it is spent.
pub(crate) async fn a_spent_token_is_for_one_name(mut f: Fixture) {
    assert_eq!(f.store.spend(token(1), on(1)).await, Err(StoreError::TokenUnknown));
    f.tokens(2).await;
    expect(f.store.draw_tokens(device(1), UPLOAD, vec![token(9)]).await);
    let spent = expect(f.store.spend(token(1), on(1)).await);
    let upload = expect(f.store.spend(token(9), SpentOn::Blob(blob(9))).await);
    for _ in 0..2 {
        assert_eq!(f.store.spend(token(1), on(1)).await, Ok(spent));
        for other in [on(2), SpentOn::Blob(blob(1))] {
            assert_eq!(f.store.spend(token(1), other).await, Err(StoreError::TokenUnknown));
        }
        assert_eq!(
            f.store.spend(token(9), SpentOn::Mailbox(mailbox(9))).await,
            Err(StoreError::TokenUnknown)
        );
        let by = |token, mailbox| NewMailbox { token, mailbox, ..new_mailbox(1, &[1]) };
        for wrong in [by(token(1), mailbox(2)), by(token(2), mailbox(1))] {
            assert_eq!(f.store.create(wrong, spent).await, Err(StoreError::TokenUnknown));
        }
        let wrong = NewBlob { token: token(9), ..new_blob(1) };
        assert_eq!(f.store.create_blob(wrong, upload).await, Err(StoreError::TokenUnknown));
        f.restart().await;
    }
    assert_eq!(f.store.draw_tokens(device(1), CREATE, vec![token(1)]).await, Ok(1), "it is there");
    expect(f.store.create(new_mailbox(1, &[1]), spent).await);
    expect(f.store.create_blob(new_blob(9), upload).await);
    for _ in 0..2 {
        assert_eq!(f.store.create(new_mailbox(1, &[1]), spent).await, Ok(()), "a repeat");
        assert_eq!(f.store.spend(token(1), on(1)).await, Err(StoreError::TokenUnknown), "it has paid");
        expect(f.store.give_back(spent).await);
        expect(f.store.give_back(upload).await);
        assert_eq!(f.store.spend(token(1), on(2)).await, Err(StoreError::TokenUnknown));
        assert_eq!(f.store.spend(token(9), SpentOn::Blob(blob(2))).await, Err(StoreError::TokenUnknown));
        f.restart().await;
    }
    expect(f.store.destroy(mailbox(1), turn_key(0)).await);
    assert_eq!(f.store.create(new_mailbox(1, &[1]), spent).await, Err(StoreError::TokenUnknown));
}

/// Given back, it may be spent on anything, and what it was spent as before pays for nothing.
pub(crate) async fn a_spent_token_is_given_back(mut f: Fixture) {
    f.tokens(1).await;
    let mut former: Vec<Spent> = Vec::new();
    for n in [1, 1, 2] {
        let spent = expect(f.store.spend(token(1), on(n)).await);
        for past in &former {
            assert_ne!(spent, *past);
            expect(f.store.give_back(*past).await);
            let new = NewMailbox { token: token(1), ..new_mailbox(1, &[1]) };
            assert_eq!(f.store.create(new, *past).await, Err(StoreError::TokenUnknown));
        }
        f.restart().await;
        assert_eq!(f.store.spend(token(1), on(n)).await, Ok(spent), "what is past gives nothing back");
        expect(f.store.give_back(spent).await);
        f.restart().await;
        former.push(spent);
    }
    expect(f.create(new_mailbox(1, &[1])).await);
}

pub(crate) async fn a_spent_token_ends_as_others_do(mut f: Fixture) {
    f.tokens(2).await;
    let spent = expect(f.store.spend(token(1), on(1)).await);
    for _ in 0..7 {
        f.clock.pass(86_400);
        expect(f.store.expire().await);
        f.restart().await;
        assert_eq!(f.store.spend(token(1), on(1)).await, Ok(spent));
    }
    f.clock.pass(86_400);
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.store.spend(token(1), on(1)).await, Err(StoreError::TokenUnknown));
        assert_eq!(f.store.create(new_mailbox(1, &[1]), spent).await, Err(StoreError::TokenUnknown));
        expect(f.store.give_back(spent).await);
        f.restart().await;
    }
}

/// Between the two steps, and between a refusal and the return of the token.
pub(crate) async fn whoever_was_cut_off_goes_on(mut f: Fixture) {
    f.tokens(8).await;
    expect(f.store.draw_tokens(device(1), UPLOAD, vec![token(1)]).await);
    expect(f.store.spend(token(1), on(1)).await);
    expect(f.store.spend(token(1), SpentOn::Blob(blob(1))).await);
    f.restart().await;
    let other = NewMailbox { token: token(1), ..new_mailbox(2, &[1]) };
    assert_eq!(f.create(other).await, Err(StoreError::TokenUnknown), "another cannot use it");
    assert_eq!(f.create(new_mailbox(1, &[1])).await, Ok(()));
    expect(f.create_blob(new_blob(1)).await);
    // Somebody else makes a mailbox of this name after the token was spent.
    let spent = expect(f.store.spend(token(2), on(2)).await);
    let theirs = NewMailbox { token: token(3), ..new_mailbox(2, &[2]) };
    expect(f.create(theirs).await);
    assert_eq!(f.store.create(new_mailbox(2, &[1]), spent).await, Err(StoreError::MailboxExists));
    f.restart().await;
    assert_eq!(f.create(new_mailbox(2, &[1])).await, Err(StoreError::MailboxExists));
    expect(f.store.give_back(spent).await);
    f.restart().await;
    expect(f.create(NewMailbox { token: token(2), ..new_mailbox(3, &[1]) }).await);
}
