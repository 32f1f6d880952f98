//! Accounts, invites and cards.

use super::names::{account, device, envelope, expect, handle_of, invite};
use super::{Fixture, START};
use crate::store::{CardRecord, DeviceRecord, NewAccount, NewInvite, StoreError};

fn invited(n: u8, by: u8) -> NewAccount {
    NewAccount { invite: Some(invite(by)), ..account(n) }
}

async fn mint(f: &Fixture, n: u8, uses: u32) {
    expect(f.store.mint_invite(NewInvite { hash: invite(n), uses, expires: START + 1000 }).await);
}

pub(crate) async fn an_invite_makes_accounts(mut f: Fixture) {
    assert_eq!(f.store.register(invited(1, 1)).await, Err(StoreError::InviteInvalid), "not minted yet");
    mint(&f, 1, 2).await;
    expect(f.store.register(invited(1, 1)).await);
    f.restart().await;
    mint(&f, 2, 1).await;
    expect(f.store.register(invited(2, 1)).await);
    for _ in 0..2 {
        assert_eq!(f.store.register(invited(3, 1)).await, Err(StoreError::InviteInvalid), "used up");
        f.restart().await;
    }
    expect(f.store.register(invited(3, 2)).await);
    expect(f.store.register(account(4)).await);
    assert_eq!(f.store.stats().accounts, 4);
}

pub(crate) async fn registering_again_is_harmless(mut f: Fixture) {
    mint(&f, 1, 1).await;
    expect(f.store.register(invited(1, 1)).await);
    for _ in 0..2 {
        assert_eq!(f.store.register(invited(1, 1)).await, Ok(()), "the invite was used up by itself");
        f.restart().await;
    }
    mint(&f, 2, 1).await;
    assert_eq!(f.store.register(invited(1, 2)).await, Ok(()));
    assert_eq!(f.store.register(invited(2, 2)).await, Ok(()), "a repeat uses no invite");
    assert_eq!(f.store.stats().accounts, 2);
}

pub(crate) async fn names_are_taken_once(mut f: Fixture) {
    mint(&f, 1, 9).await;
    expect(f.store.register(invited(1, 1)).await);
    f.restart().await;
    let one = invited(1, 1);
    for other in [
        NewAccount { identity_key: [9; 32], ..one.clone() },
        NewAccount { device: device(9), ..one.clone() },
        NewAccount { device_key: [9; 32], ..one.clone() },
    ] {
        assert_eq!(f.store.register(other).await, Err(StoreError::HandleTaken));
    }
    let other = NewAccount { handle: handle_of(2), ..one };
    assert_eq!(f.store.register(other).await, Err(StoreError::DeviceTaken));
    let stranger = NewAccount { invite: Some(invite(7)), ..account(1) };
    let stranger = NewAccount { identity_key: [9; 32], ..stranger };
    assert_eq!(
        f.store.register(stranger).await,
        Err(StoreError::InviteInvalid),
        "names are told to the invited only"
    );
    mint(&f, 2, 1).await;
    let taken = NewAccount { invite: Some(invite(2)), identity_key: [9; 32], ..account(1) };
    assert_eq!(f.store.register(taken).await, Err(StoreError::HandleTaken));
    assert_eq!(f.store.register(invited(2, 2)).await, Ok(()), "the refusal did not use the invite");
}

pub(crate) async fn invites_can_be_revoked(mut f: Fixture) {
    mint(&f, 1, 5).await;
    expect(f.store.register(invited(1, 1)).await);
    mint(&f, 1, 0).await;
    for _ in 0..2 {
        assert_eq!(f.store.register(invited(2, 1)).await, Err(StoreError::InviteInvalid));
        f.restart().await;
    }
    mint(&f, 1, 1).await;
    f.restart().await;
    expect(f.store.register(invited(2, 1)).await);
    assert_eq!(
        f.store.register(invited(3, 1)).await,
        Err(StoreError::InviteInvalid),
        "minting states the uses anew"
    );
}

pub(crate) async fn devices_are_found(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    let record = DeviceRecord { handle: handle_of(1), device_key: account(1).device_key };
    for _ in 0..2 {
        assert_eq!(f.store.device(device(1)).await, Ok(record.clone()));
        assert_eq!(f.store.device(device(2)).await, Err(StoreError::DeviceUnknown));
        f.restart().await;
    }
}

pub(crate) async fn cards_are_versioned(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    let card = |version, fill| CardRecord {
        identity_key: account(1).identity_key,
        version,
        card: if version == 0 { bytes::Bytes::new() } else { envelope(fill, 300) },
    };
    assert_eq!(f.store.card(handle_of(1)).await, Ok(card(0, 0)), "none yet");
    assert_eq!(f.store.card(handle_of(2)).await, Err(StoreError::HandleUnknown));
    expect(f.store.publish_card(device(1), 3, envelope(1, 300)).await);
    for _ in 0..2 {
        assert_eq!(f.store.card(handle_of(1)).await, Ok(card(3, 1)));
        assert_eq!(f.store.publish_card(device(1), 3, envelope(1, 300)).await, Ok(()), "the identical card");
        assert_eq!(f.store.publish_card(device(1), 3, envelope(2, 300)).await, Err(StoreError::CardStale));
        assert_eq!(f.store.publish_card(device(1), 2, envelope(1, 300)).await, Err(StoreError::CardStale));
        f.restart().await;
    }
    expect(f.store.publish_card(device(1), 4, envelope(2, 300)).await);
    f.restart().await;
    assert_eq!(f.store.card(handle_of(1)).await, Ok(card(4, 2)));
    let stranger = f.store.publish_card(device(2), 1, envelope(1, 1)).await;
    assert_eq!(stranger, Err(StoreError::DeviceUnknown));
}
