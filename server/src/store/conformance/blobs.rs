//! Blobs: what pays for them, how long they stay, who may change them (rule 35).

use super::names::{CREATE, UPLOAD, account, blob, device, expect, holder, new_blob, token};
use super::{Fixture, START, new_mailbox};
use crate::store::{NewBlob, StoreError};

/// Account 1, and upload tokens 1 to `count`.
async fn upload_tokens(f: &Fixture, count: u8) {
    expect(f.store.register(account(1)).await);
    let hashes = (1..=count).map(token).collect();
    assert_eq!(f.store.draw_tokens(device(1), UPLOAD, hashes).await, Ok(u32::from(count)));
}

pub(crate) async fn an_upload_token_pays_once(mut f: Fixture) {
    assert_eq!(f.create_blob(new_blob(1)).await, Err(StoreError::TokenUnknown));
    upload_tokens(&f, 1).await;
    f.restart().await;
    let view = expect(f.create_blob(new_blob(1)).await);
    assert_eq!((view.length, view.holder, view.until), (1000, holder(1), START + 5000));
    for _ in 0..2 {
        assert_eq!(f.store.blob(blob(1)).await, Ok(view));
        let second = NewBlob { token: token(1), ..new_blob(2) };
        assert_eq!(f.create_blob(second).await, Err(StoreError::TokenUnknown));
        assert_eq!(f.store.blob(blob(2)).await, Err(StoreError::BlobUnknown));
        f.restart().await;
    }
    expect(f.store.delete_blob(blob(1), holder(1)).await);
    f.restart().await;
    assert_eq!(f.create_blob(new_blob(1)).await, Err(StoreError::TokenUnknown), "spent is spent");
}

pub(crate) async fn creating_a_blob_again_is_harmless(mut f: Fixture) {
    upload_tokens(&f, 2).await;
    let first = expect(f.create_blob(new_blob(1)).await);
    f.clock.pass(100);
    for token in [token(1), token(2), token(9)] {
        assert_eq!(f.create_blob(NewBlob { token, ..new_blob(1) }).await, Ok(first));
        f.restart().await;
    }
    for other in [NewBlob { length: 999, ..new_blob(1) }, NewBlob { holder: holder(2), ..new_blob(1) }] {
        assert_eq!(f.create_blob(other).await, Err(StoreError::BlobExists));
    }
    expect(f.create_blob(new_blob(2)).await);
}

pub(crate) async fn blobs_are_bounded(mut f: Fixture) {
    upload_tokens(&f, 8).await;
    expect(f.create_blob(NewBlob { length: 9_000, ..new_blob(1) }).await);
    expect(f.create_blob(NewBlob { length: 1_000, ..new_blob(2) }).await);
    let more = NewBlob { length: 1, ..new_blob(3) };
    assert_eq!(f.create_blob(more).await, Err(StoreError::Quota("bytes of blobs")));
    f.restart().await;
    assert_eq!((f.store.stats().blobs, f.store.stats().blob_bytes), (2, 10_000));
    assert_eq!(f.create_blob(more).await, Err(StoreError::Quota("bytes of blobs")));
    expect(f.store.delete_blob(blob(1), holder(1)).await);
    for n in 3..=5 {
        expect(f.create_blob(NewBlob { length: 0, ..new_blob(n) }).await);
    }
    assert_eq!(f.create_blob(new_blob(6)).await, Err(StoreError::Quota("blobs")), "four in all");
}

pub(crate) async fn leases_are_extended(mut f: Fixture) {
    upload_tokens(&f, 1).await;
    let first = expect(f.create_blob(new_blob(1)).await);
    assert_eq!(f.store.extend_blob(blob(1), holder(1), 10).await, Ok(first), "it is longer already");
    f.clock.pass(4_000);
    let later = expect(f.store.extend_blob(blob(1), holder(1), 5_000).await);
    assert_eq!((later.life, later.length, later.until), (first.life, 1000, START + 9_000));
    f.restart().await;
    f.clock.pass(4_999);
    expect(f.store.expire().await);
    assert_eq!(f.store.blob(blob(1)).await, Ok(later));
    f.clock.pass(1);
    expect(f.store.expire().await);
    assert_eq!(f.store.blob(blob(1)).await, Err(StoreError::BlobUnknown));
}

pub(crate) async fn a_blob_goes_with_its_lease(mut f: Fixture) {
    upload_tokens(&f, 3).await;
    for n in 1..=3 {
        expect(f.create_blob(NewBlob { seconds: 100 * u32::from(n), ..new_blob(n) }).await);
    }
    f.clock.pass(200);
    expect(f.store.expire().await);
    for _ in 0..2 {
        assert_eq!(f.store.blob(blob(1)).await, Err(StoreError::BlobUnknown));
        assert_eq!(f.store.blob(blob(2)).await, Err(StoreError::BlobUnknown));
        assert_eq!(f.store.blob(blob(3)).await.map(|view| view.length), Ok(1000));
        assert_eq!(f.store.stats().blob_bytes, 1000);
        f.restart().await;
    }
}

pub(crate) async fn only_its_holder_changes_a_blob(mut f: Fixture) {
    upload_tokens(&f, 1).await;
    let there = expect(f.create_blob(new_blob(1)).await);
    f.restart().await;
    let wrong = Err(StoreError::HolderKeyWrong);
    assert_eq!(f.store.extend_blob(blob(1), holder(2), 9_000).await.map(drop), wrong);
    assert_eq!(f.store.delete_blob(blob(1), holder(2)).await, wrong);
    assert_eq!(f.store.blob(blob(1)).await, Ok(there));
    let unknown = Err(StoreError::BlobUnknown);
    assert_eq!(f.store.extend_blob(blob(2), holder(1), 9_000).await.map(drop), unknown);
    assert_eq!(f.store.delete_blob(blob(2), holder(1)).await, unknown);
    expect(f.store.delete_blob(blob(1), holder(1)).await);
    assert_eq!(f.store.delete_blob(blob(1), holder(1)).await, unknown);
}

/// What lies about of one blob must never be taken for another's.
pub(crate) async fn a_name_may_be_used_again(mut f: Fixture) {
    upload_tokens(&f, 2).await;
    let first = expect(f.create_blob(new_blob(1)).await);
    expect(f.store.delete_blob(blob(1), holder(1)).await);
    f.restart().await;
    let second = NewBlob { token: token(2), length: 5, holder: holder(9), ..new_blob(1) };
    let second = expect(f.create_blob(second).await);
    assert!(second.life > first.life, "{first:?} {second:?}");
    f.restart().await;
    assert_eq!(f.store.blob(blob(1)).await, Ok(second));
}

pub(crate) async fn upload_tokens_are_drawn_for_themselves(mut f: Fixture) {
    upload_tokens(&f, 1).await;
    assert_eq!(f.create(new_mailbox(1, &[1])).await, Err(StoreError::TokenUnknown));
    assert_eq!(f.store.draw_tokens(device(1), CREATE, vec![token(2)]).await, Ok(1));
    assert_eq!(f.create_blob(new_blob(2)).await, Err(StoreError::TokenUnknown));
    let many: Vec<_> = (10..40).map(token).collect();
    assert_eq!(f.store.draw_tokens(device(1), UPLOAD, many.clone()).await, Ok(9), "ten a day");
    assert_eq!(f.store.draw_tokens(device(1), CREATE, many).await, Ok(19), "twenty of the others");
    f.clock.pass(8 * 86_400);
    expect(f.store.expire().await);
    f.restart().await;
    assert_eq!(f.create_blob(new_blob(1)).await, Err(StoreError::TokenUnknown), "after a week");
}
