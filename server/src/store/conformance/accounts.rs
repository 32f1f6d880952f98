//! Accounts, invites and cards.

use super::names::{CREATE, account, device, envelope, expect, handle_of, invite};
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

/// Whatever is left of it in the journal does not come back, nor become part of a later account of that name.
pub(crate) async fn a_removed_account_is_gone(mut f: Fixture) {
    let (alice, unknown) = (handle_of(3), Err(StoreError::DeviceUnknown));
    mint(&f, 1, 2).await;
    expect(f.store.register(invited(3, 1)).await);
    expect(f.store.publish_card(device(3), 7, envelope(1, 300)).await);
    let packages = vec![envelope(2, 50), envelope(3, 50)];
    expect(f.store.publish_key_packages(device(3), packages, Some(envelope(4, 50))).await);
    expect(f.store.take_key_packages(alice.clone()).await);
    assert_eq!(f.store.remove_account(handle_of(9)).await, Err(StoreError::HandleUnknown));
    expect(f.store.remove_account(alice.clone()).await);
    let m = f.mailbox(1, &[1]).await;
    let later = NewAccount { device: device(5), identity_key: [5; 32], ..invited(3, 1) };
    for round in 0..4u16 {
        assert_eq!(f.store.device(device(3)).await.map(drop), unknown);
        assert_eq!(f.store.publish_card(device(3), 8, envelope(1, 10)).await, unknown);
        assert_eq!(f.store.draw_tokens(device(3), CREATE, vec![]).await.map(drop), unknown);
        let again = NewAccount { handle: handle_of(4), ..invited(3, 1) };
        assert_eq!(
            f.store.register(again).await,
            Err(match round {
                0 => StoreError::DeviceTaken,
                _ => StoreError::InviteInvalid,
            })
        );
        if round == 0 {
            assert_eq!(f.store.card(alice.clone()).await, Err(StoreError::HandleUnknown));
            assert_eq!(f.store.remove_account(alice.clone()).await, Err(StoreError::HandleUnknown));
            expect(f.store.register(later.clone()).await);
            assert_eq!(f.store.card(alice.clone()).await.map(|card| card.version), Ok(0));
            assert_eq!(f.store.take_key_packages(alice.clone()).await, Err(StoreError::NoKeyPackage));
            expect(f.store.publish_card(device(5), 1, envelope(6, 40)).await);
            expect(f.store.publish_key_packages(device(5), vec![], Some(envelope(7, 60))).await);
        }
        let card = expect(f.store.card(alice.clone()).await);
        assert_eq!((card.identity_key, card.version, card.card), ([5; 32], 1, envelope(6, 40)));
        let taken = expect(f.store.take_key_packages(alice.clone()).await);
        assert_eq!((taken[0].device, &taken[0].key_package), (device(5), &envelope(7, 60)));
        assert_eq!(f.store.register(later.clone()).await, Ok(()), "a repeat");
        assert_eq!(f.store.stats().accounts, 2, "that of the tokens, and the later one");
        // Segments come and go, and carry what is needed.
        for n in 1..=40 {
            let seq = expect(f.store.append(super::names::sized(m, round * 40 + n, 0, 300)).await);
            expect(f.store.advance(super::names::upto(m, 1, seq)).await);
        }
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
