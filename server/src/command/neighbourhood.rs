//! What counts as one address where something is limited by address.
//!
//! Whoever has one IPv6 address has 2^64 of them, and often 65,536 times as many: a /64 counts as one
//! address, and a /48 may do as much as 16 of them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rate::{Buckets, Rate};

/// A /48 may do so many times what one of its /64 may.
const SITE_SHARE: u32 = 16;

/// The networks that an address counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbourhood {
    /// An IPv4 address, or an IPv6 /64.
    pub(crate) near: IpNet,
    /// The /48 around it.
    pub(crate) site: Option<IpNet>,
}

impl Neighbourhood {
    pub(crate) fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let network = |prefix| IpNet::new_assert(address, prefix).trunc();
        match address {
            IpAddr::V4(_) => Self { near: network(32), site: None },
            IpAddr::V6(_) => Self { near: network(64), site: Some(network(48)) },
        }
    }

    /// Each of them, with how many times what one address may it may.
    pub(crate) fn networks(self) -> impl Iterator<Item = (IpNet, u32)> {
        std::iter::once((self.near, 1)).chain(self.site.map(|site| (site, SITE_SHARE)))
    }
}

/// Buckets by address.
#[derive(Debug)]
pub(crate) struct AddressBuckets {
    near: Buckets,
    sites: Buckets,
}

impl AddressBuckets {
    /// So many `events` per `seconds` for one address, `burst` of them at once; at most `most` are
    /// remembered.
    pub(crate) fn new(events: u32, seconds: u32, burst: u32, most: usize) -> Self {
        let buckets = |share: u32| {
            let rate = Rate::new(events.saturating_mul(share), seconds, burst.saturating_mul(share));
            Buckets::new(rate, most)
        };
        Self { near: buckets(1), sites: buckets(SITE_SHARE) }
    }

    /// Takes `cost` events of an address, or tells how many milliseconds to wait.
    pub(crate) fn take(&self, address: IpAddr, cost: u32, now: u64) -> Result<(), u32> {
        let Neighbourhood { near, site } = Neighbourhood::of(address);
        // The nearer first: one that asks too much shall not use up what its neighbours have.
        self.near.take_some(near, cost, now)?;
        site.map_or(Ok(()), |site| self.sites.take_some(site, cost, now))
    }

    /// Takes `cost` events of an address even if there is no room.
    pub(crate) fn owe(&self, address: IpAddr, cost: u32, now: u64) {
        let Neighbourhood { near, site } = Neighbourhood::of(address);
        self.near.owe(near, cost, now);
        if let Some(site) = site {
            self.sites.owe(site, cost, now);
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
    fn neighbours_share_an_address() {
        let near = |text: &str| Neighbourhood::of(address(text)).near;
        let site = |text: &str| Neighbourhood::of(address(text)).site;
        assert_eq!(near("2001:db8::1"), near("2001:db8::ffff:1"));
        assert_ne!(near("2001:db8::1"), near("2001:db8:0:1::1"));
        assert_eq!(site("2001:db8::1"), site("2001:db8:0:ffff::1"));
        assert_ne!(site("2001:db8::1"), site("2001:db8:1::1"));
        assert_eq!(near("::ffff:10.0.0.1"), near("10.0.0.1"));
        assert_ne!(near("10.0.0.2"), near("10.0.0.1"));
        assert_eq!(site("10.0.0.1"), None);
    }

    #[test]
    fn a_site_may_do_as_much_as_sixteen_of_its_networks() {
        let buckets = AddressBuckets::new(1, 60, 1, 1000);
        let network = |n: u16| address(&format!("2001:db8:7:{n:x}::1"));
        assert!(buckets.take(network(0), 1, 0).is_ok());
        for _ in 0..100 {
            assert!(buckets.take(network(0), 1, 0).is_err(), "one a minute for a /64");
        }
        let taken = (1..100).filter(|n| buckets.take(network(*n), 1, 0).is_ok()).count();
        assert_eq!(taken, 15, "what one was refused cost the others nothing");
        assert!(buckets.take(address("2001:db8:8::1"), 1, 0).is_ok(), "another site");
    }
}
