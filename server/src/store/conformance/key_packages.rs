//! Key packages: each one-time package is given out once, the last-resort package many times (rule 15).

use bytes::Bytes;
use futures_util::future::join_all;

use super::names::{account, device, envelope, expect, handle_of};
use super::{Fixture, START};
use crate::store::{KeyPackageStock, StoreError, TakenKeyPackage};

fn package(n: u8) -> Bytes {
    envelope(n, 500)
}

/// Publishes for device 1; returns how many one-time packages are in stock.
async fn publish(f: &Fixture, one_time: &[u8]) -> u32 {
    let one_time = one_time.iter().map(|n| package(*n)).collect();
    expect(f.store.publish_key_packages(device(1), one_time, None).await).one_time
}

/// Takes a package of account 1; returns which, and whether it was the last resort.
async fn take(f: &Fixture) -> Result<(u8, bool), StoreError> {
    let taken = f.store.take_key_packages(handle_of(1)).await?;
    assert_eq!(taken.len(), 1, "one for each device");
    let TakenKeyPackage { device: of, key_package, last_resort } = taken[0].clone();
    assert_eq!(of, device(1));
    assert_eq!(key_package, package(key_package[0]));
    Ok((key_package[0], last_resort))
}

pub(crate) async fn one_time_packages_are_given_once(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    assert_eq!(publish(&f, &[1, 2, 3]).await, 3);
    assert_eq!(take(&f).await, Ok((1, false)));
    f.restart().await;
    assert_eq!(take(&f).await, Ok((2, false)), "first in, first out");
    assert_eq!(publish(&f, &[4]).await, 2);
    f.restart().await;
    assert_eq!(take(&f).await, Ok((3, false)));
    assert_eq!(take(&f).await, Ok((4, false)));
    for _ in 0..2 {
        assert_eq!(take(&f).await, Err(StoreError::NoKeyPackage));
        assert_eq!(publish(&f, &[]).await, 0);
        f.restart().await;
    }
}

pub(crate) async fn the_last_resort_is_copied(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    assert_eq!(take(&f).await, Err(StoreError::NoKeyPackage));
    let stock = f.store.publish_key_packages(device(1), vec![package(1)], Some(package(100))).await;
    assert_eq!(stock, Ok(KeyPackageStock { one_time: 1, last_resort_since: START }));
    assert_eq!(take(&f).await, Ok((1, false)), "one-time packages first");
    for _ in 0..2 {
        assert_eq!(take(&f).await, Ok((100, true)));
        f.restart().await;
    }
    f.clock.pass(50);
    let stock = f.store.publish_key_packages(device(1), vec![], Some(package(100))).await;
    assert_eq!(
        stock,
        Ok(KeyPackageStock { one_time: 0, last_resort_since: START }),
        "the same one is not newer"
    );
    let stock = f.store.publish_key_packages(device(1), vec![], Some(package(101))).await;
    assert_eq!(stock, Ok(KeyPackageStock { one_time: 0, last_resort_since: START + 50 }));
    f.restart().await;
    assert_eq!(take(&f).await, Ok((101, true)));
    let stock = f.store.publish_key_packages(device(1), vec![], None).await;
    assert_eq!(stock, Ok(KeyPackageStock { one_time: 0, last_resort_since: START + 50 }));
}

pub(crate) async fn the_oldest_make_room(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    assert_eq!(publish(&f, &[1, 2]).await, 2);
    assert_eq!(publish(&f, &[3, 4]).await, 3);
    f.restart().await;
    assert_eq!(take(&f).await, Ok((2, false)), "three are kept, the first made room");
    assert_eq!(publish(&f, &[5, 6, 7, 8, 9]).await, 3);
    f.restart().await;
    for n in [7, 8, 9] {
        assert_eq!(take(&f).await, Ok((n, false)));
    }
    assert_eq!(take(&f).await, Err(StoreError::NoKeyPackage));
}

/// A publication is repeated if its answer was lost; what was taken in between must not be given out again.
pub(crate) async fn a_repeated_publication_adds_nothing(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    assert_eq!(publish(&f, &[1, 2, 2]).await, 2);
    assert_eq!(take(&f).await, Ok((1, false)));
    for _ in 0..2 {
        assert_eq!(publish(&f, &[1, 2, 2]).await, 1);
        f.restart().await;
    }
    assert_eq!(publish(&f, &[1, 2, 3]).await, 2);
    assert_eq!(take(&f).await, Ok((2, false)));
    assert_eq!(take(&f).await, Ok((3, false)));
    assert_eq!(take(&f).await, Err(StoreError::NoKeyPackage));
}

/// A hundred of those that are gone are known again, however few a device may have in stock.
pub(crate) async fn the_newest_that_are_gone_are_remembered(mut f: Fixture) {
    expect(f.store.register(account(1)).await);
    for n in 1..=101 {
        assert_eq!(publish(&f, &[n]).await, 1);
        assert_eq!(take(&f).await, Ok((n, false)));
    }
    for _ in 0..2 {
        f.restart().await;
        assert_eq!(publish(&f, &[2, 50, 101]).await, 0);
    }
    assert_eq!(publish(&f, &[1]).await, 1, "nobody can remember everything");
}

pub(crate) async fn concurrent_takers_get_different_ones(f: Fixture) {
    expect(f.store.register(account(1)).await);
    assert_eq!(publish(&f, &[1, 2, 3]).await, 3);
    let mut taken = join_all((0..5).map(|_| take(&f))).await;
    taken.sort_by_key(|result| result.map_or(9, |(n, _)| n));
    let none = Err(StoreError::NoKeyPackage);
    assert_eq!(taken, [Ok((1, false)), Ok((2, false)), Ok((3, false)), none, none]);
}

pub(crate) async fn strangers_have_none(f: Fixture) {
    assert_eq!(f.store.take_key_packages(handle_of(1)).await, Err(StoreError::HandleUnknown));
    let published = f.store.publish_key_packages(device(1), vec![package(1)], None).await;
    assert_eq!(published, Err(StoreError::DeviceUnknown));
    expect(f.store.register(account(1)).await);
    expect(f.store.register(account(2)).await);
    assert_eq!(publish(&f, &[1]).await, 1);
    assert_eq!(f.store.take_key_packages(handle_of(2)).await, Err(StoreError::NoKeyPackage));
}
