//! Key packages of devices: one-time packages, which are given out once each, the oldest first; and one
//! last-resort package, which is given out when there is no other.
//!
//! One-time packages are numbered from 1 and taken in order, so that a single number says which are gone. Of
//! those, the newest are remembered by their digest: a publication that is repeated because its answer was
//! lost must not offer a package again that was already given out.

use std::collections::BTreeMap;

use bytes::Bytes;
use posthorn_proto::DeviceId;

use super::change::DirectoryChange;
use super::digest;
use crate::store::KeyPackageStock;
use crate::store::keyed::Keyed;
use crate::store::tables::Map;

/// One-time packages that are gone and are remembered, of one device. A constant of the format, because it
/// says what records mean: with another number, or one that can be configured, the same journal would make
/// another state.
pub(crate) const GONE_REMEMBERED: usize = 100;

/// A one-time package, or what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OneTime<L> {
    pub(crate) digest: u64,
    /// Where it lies and its bytes; `None` once taken.
    pub(crate) place: Option<(L, u32)>,
}

/// The last-resort package, which may be given out many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastResort<L> {
    /// Version of the record that holds it: the newest wins.
    pub(crate) version: u64,
    /// When it was published, unix seconds.
    pub(crate) since: u32,
    pub(crate) digest: u64,
    pub(crate) bytes: u32,
    pub(crate) place: L,
}

/// The packages of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packages<L> {
    /// Packages below this number are gone.
    pub(crate) first: u64,
    pub(crate) one_time: BTreeMap<u64, OneTime<L>>,
    pub(crate) last_resort: Option<LastResort<L>>,
}

impl<L> Default for Packages<L> {
    fn default() -> Self {
        Self { first: 1, one_time: BTreeMap::new(), last_resort: None }
    }
}

/// All devices' packages.
#[derive(Debug)]
pub(crate) struct KeyPackages<L> {
    by_device: Map<DeviceId, Packages<L>>,
}

/// The digest by which a package is recognised.
pub(crate) fn package_digest(key_package: &[u8]) -> u64 {
    u64::from_le_bytes(digest(key_package))
}

impl<L: Clone + PartialEq> Packages<L> {
    /// What the device is told about its stock.
    pub(crate) fn stock(&self) -> KeyPackageStock {
        KeyPackageStock {
            one_time: u32::try_from(self.one_time.range(self.first..).count()).unwrap_or(u32::MAX),
            last_resort_since: self.last_resort.as_ref().map_or(0, |package| u64::from(package.since)),
        }
    }

    /// The number that the next package gets.
    fn next(&self) -> u64 {
        self.one_time.last_key_value().map_or(1, |(number, _)| number + 1).max(self.first)
    }

    /// The changes that a publication makes. Packages whose digest is known are left out, and the oldest make
    /// room for new ones.
    pub(crate) fn publish(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        limit: usize,
    ) -> Vec<DirectoryChange> {
        let mut known: Vec<u64> = self.one_time.values().map(|package| package.digest).collect();
        let mut fresh = Vec::new();
        for key_package in one_time {
            let digest = package_digest(&key_package);
            if !known.contains(&digest) {
                known.push(digest);
                fresh.push(key_package);
            }
        }
        fresh.drain(..fresh.len().saturating_sub(limit));
        let (mut next, mut changes) = (self.next(), Vec::new());
        for key_package in fresh {
            changes.push(DirectoryChange::KeyPackageAdded { device, number: next, key_package });
            next += 1;
        }
        let first = next.saturating_sub(limit as u64);
        if first > self.first && !changes.is_empty() {
            changes.push(DirectoryChange::KeyPackagesTaken { device, first });
        }
        if let Some(key_package) = last_resort {
            let same =
                self.last_resort.as_ref().is_some_and(|last| last.digest == package_digest(&key_package));
            if !same {
                changes.push(DirectoryChange::LastResort { device, key_package });
            }
        }
        changes
    }

    /// The package to hand out: its place, whether it is the last-resort one, and the change that this makes.
    pub(crate) fn take(&self, device: DeviceId) -> Option<(L, bool, Option<DirectoryChange>)> {
        if let Some((number, OneTime { place: Some((place, _)), .. })) =
            self.one_time.range(self.first..).next()
        {
            return Some((
                place.clone(),
                false,
                Some(DirectoryChange::KeyPackagesTaken { device, first: number + 1 }),
            ));
        }
        self.last_resort.as_ref().map(|package| (package.place.clone(), true, None))
    }

    /// The change that discards all one-time packages, if there are any (R10).
    pub(crate) fn discard(&self, device: DeviceId) -> Option<DirectoryChange> {
        (self.first < self.next()).then(|| DirectoryChange::KeyPackagesTaken { device, first: self.next() })
    }

    /// Adds a package under its number. A later place of the same package replaces the earlier one.
    pub(crate) fn enter(&mut self, number: u64, mut package: OneTime<L>, freed: &mut dyn FnMut(L, u32)) {
        if number < self.first {
            package.place.take().into_iter().for_each(|(place, bytes)| freed(place, bytes));
            self.one_time.entry(number).or_insert(package);
            self.forget();
        } else if let Some(old) = self.one_time.insert(number, package) {
            old.place.into_iter().for_each(|(place, bytes)| freed(place, bytes));
        }
    }

    /// Packages below `first` are gone from now on.
    pub(crate) fn taken(&mut self, first: u64, freed: &mut dyn FnMut(L, u32)) {
        self.first = self.first.max(first);
        for (_, package) in self.one_time.range_mut(..self.first) {
            package.place.take().into_iter().for_each(|(place, bytes)| freed(place, bytes));
        }
        self.forget();
    }

    /// Of the packages that are gone, remembers only the newest.
    fn forget(&mut self) {
        let gone = self.one_time.range(..self.first).count();
        for _ in GONE_REMEMBERED..gone.max(GONE_REMEMBERED) {
            self.one_time.pop_first();
        }
    }

    /// Replaces the last-resort package by a later one.
    pub(crate) fn put_last_resort(&mut self, package: LastResort<L>, freed: &mut dyn FnMut(L, u32)) {
        if self.last_resort.as_ref().is_some_and(|present| present.version > package.version) {
            return freed(package.place, package.bytes);
        }
        if let Some(old) = self.last_resort.replace(package) {
            freed(old.place, old.bytes);
        }
    }
}

impl<L: Clone + PartialEq> KeyPackages<L> {
    /// No packages yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { by_device: Map::new(keyed) }
    }

    /// Bytes of all packages that can be handed out.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |packages: &Packages<L>| {
            let one_time = packages.one_time.values().filter_map(|package| package.place.as_ref());
            let last = packages.last_resort.as_ref().map_or(0, |last| u64::from(last.bytes));
            one_time.map(|(_, bytes)| u64::from(*bytes)).sum::<u64>() + last
        };
        self.by_device.iter().map(|(_, packages)| bytes(packages)).sum()
    }

    /// The device's packages; `None` if it never published any.
    pub(crate) fn get(&self, device: &DeviceId) -> Option<&Packages<L>> {
        self.by_device.get(device)
    }

    /// The device's packages, to be changed; empty if it never published any.
    pub(crate) fn of(&mut self, device: DeviceId) -> &mut Packages<L> {
        self.by_device.or_insert_with(device, Packages::default)
    }

    /// All packages, by device.
    pub(crate) fn all(&self) -> &Map<DeviceId, Packages<L>> {
        &self.by_device
    }

    /// All devices that ever published any.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.by_device.keys()
    }

    /// The device is gone, and its packages with it.
    pub(crate) fn remove(&mut self, device: &DeviceId, freed: &mut dyn FnMut(L, u32)) {
        let Some(packages) = self.by_device.remove(device) else { return };
        let one_time = packages.one_time.into_values().filter_map(|package| package.place);
        let last = packages.last_resort.map(|last| (last.place, last.bytes));
        one_time.chain(last).for_each(|(place, bytes)| freed(place, bytes));
    }

    /// Takes over a device's packages from a checkpoint.
    pub(crate) fn restore(&mut self, device: DeviceId, packages: Packages<L>) {
        self.by_device.insert(device, packages);
    }
}
