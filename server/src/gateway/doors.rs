//! How many connections there are, in all and by address, and who is let in.
//!
//! Owns the counts. A connection counts from when it is accepted, and by address from when it is known where
//! it comes from, which behind a proxy is later.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::command::neighbourhood::{AddressBuckets, Neighbourhood};
use crate::config::Networks;
use crate::outbox::Outbox;

/// How many connections there are.
#[derive(Debug)]
pub(crate) struct Doors {
    total: u32,
    /// Of one address; 0 = no limit.
    per_address: u32,
    /// Whom no limit by address concerns.
    exempt: Networks,
    open: AtomicU64,
    /// Only networks with a limit stand here, and only while they have a connection.
    by_address: Mutex<HashMap<IpNet, u32>>,
    /// Whom to wake when the relay stops.
    roll: Mutex<HashMap<u64, Weak<Outbox>>>,
    /// Names the next visitor.
    next: AtomicU64,
}

/// One connection; leaves on drop.
pub(crate) struct Visitor {
    doors: Arc<Doors>,
    number: u64,
    counted: Mutex<Option<Neighbourhood>>,
}

impl Doors {
    pub(crate) fn new(total: u32, per_address: u32, exempt: Networks) -> Arc<Self> {
        Arc::new(Self {
            total,
            per_address,
            exempt,
            open: AtomicU64::new(0),
            by_address: Mutex::default(),
            roll: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// One more connection, wherever it comes from. `None`: there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Visitor> {
        if self.open() >= u64::from(self.total) {
            return None;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some(Visitor { doors: self.clone(), number, counted: Mutex::default() })
    }

    /// Every session looks whether the relay is stopping.
    pub(crate) fn wake_all(&self) {
        let roll: Vec<_> = self.roll.lock().values().filter_map(Weak::upgrade).collect();
        roll.iter().for_each(|outbox| outbox.wake());
    }
}

impl Visitor {
    /// Whether the address may connect once more, by how often it did.
    pub(crate) fn may_connect(&self, address: IpAddr, rate: &AddressBuckets, now: u64) -> bool {
        self.limited(address).is_none_or(|address| rate.take(address, 1, now).is_ok())
    }

    /// Whom limits by address concern: nobody, if the address is exempt.
    pub(crate) fn limited(&self, address: IpAddr) -> Option<IpAddr> {
        (!self.doors.exempt.contains(address)).then_some(address)
    }

    /// Counts it for where it comes from, once. `false`: there are too many from there.
    pub(crate) fn count(&self, address: IpAddr) -> bool {
        let most = self.doors.per_address;
        let Some(address) = self.limited(address).filter(|_| most > 0) else { return true };
        let neighbourhood = Neighbourhood::of(address);
        let mut by_address = self.doors.by_address.lock();
        let count = |network| by_address.get(&network).copied().unwrap_or(0);
        if neighbourhood.networks().any(|(network, share)| count(network) >= most.saturating_mul(share)) {
            return false;
        }
        let before = self.counted.lock().replace(neighbourhood);
        debug_assert_eq!(before, None, "a connection comes from one place");
        for (network, _) in neighbourhood.networks() {
            *by_address.entry(network).or_insert(0) += 1;
        }
        true
    }

    /// It is a session now, which must hear when the relay stops.
    pub(crate) fn enroll(&self, outbox: &Arc<Outbox>) {
        self.doors.roll.lock().insert(self.number, Arc::downgrade(outbox));
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.doors.open.fetch_sub(1, Ordering::Relaxed);
        self.doors.roll.lock().remove(&self.number);
        let Some(neighbourhood) = self.counted.get_mut().take() else { return };
        let mut by_address = self.doors.by_address.lock();
        for (network, _) in neighbourhood.networks() {
            if let Some(count) = by_address.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&network);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn doors_count_and_forget() {
        let doors = Doors::new(3, 1, Networks::loopback());
        let far = address("192.0.2.1");
        let first = doors.enter().expect("room");
        assert!(first.count(far));
        let second = doors.enter().expect("room");
        assert!(!second.count(far), "one per address");
        assert!(second.count(address("192.0.2.2")), "another address");
        let third = doors.enter().expect("room");
        assert!(third.count(address("127.0.0.1")), "exempt, and counted in all only");
        assert!(doors.enter().is_none(), "three in all");
        let often = AddressBuckets::new(2, 60, 2, 10);
        assert!(first.may_connect(far, &often, 0) && first.may_connect(far, &often, 0));
        assert!(!first.may_connect(far, &often, 0), "two attempts a minute");
        assert!((0..9).all(|_| first.may_connect(address("::ffff:127.0.0.1"), &often, 0)), "exempt");
        assert_eq!((first.limited(far), first.limited(address("127.0.0.1"))), (Some(far), None));
        drop([first, second, third]);
        assert_eq!(doors.open(), 0);
        assert!(doors.by_address.lock().is_empty());
        assert!(doors.enter().expect("room").count(far), "what was closed is forgotten");
    }

    #[test]
    fn a_site_has_sixteen_times_as_many() {
        let doors = Doors::new(100, 1, Networks::default());
        let visitors: Vec<_> = (0..20).map(|_| doors.enter().expect("room")).collect();
        let counted =
            |(n, visitor): (usize, &Visitor)| visitor.count(address(&format!("2001:db8:7:{n:x}::1")));
        assert_eq!(visitors.iter().enumerate().map(counted).filter(|counted| *counted).count(), 16);
        drop(visitors);
        assert!(doors.by_address.lock().is_empty());
    }
}
