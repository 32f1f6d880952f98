//! Networks in the configuration: an IP address, or one with the length of its prefix.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address, or all that begin with the same bits: `127.0.0.1`, `172.16.0.0/12`, `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// A text is no network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no network: write an IP address, or one with a prefix, such as 172.16.0.0/12")]
pub struct NotANetwork(String);

/// A list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Every address.
    pub fn all() -> Self {
        Self::of(["0.0.0.0/0", "::/0"])
    }

    /// The machine's own addresses.
    pub fn loopback() -> Self {
        Self::of(["127.0.0.0/8", "::1"])
    }

    fn of(texts: [&str; 2]) -> Self {
        Self(texts.map(|text| text.parse().expect("it is written in the program")).to_vec())
    }

    /// Whether the address is in one of them. An IPv4 address that is written as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.0.contains(&address))
    }

    /// Whether one of them is every address there is.
    pub fn names_everybody(&self) -> bool {
        self.0.iter().any(|network| network.0.prefix_len() == 0)
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network| Self(network.trunc())).map_err(|_| NotANetwork(text.to_owned()))
    }
}

impl TryFrom<String> for Network {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_their_networks() {
        let networks: Networks = ["127.0.0.1", "172.16.9.9/12", "2001:db8::/32"]
            .iter()
            .map(|text| text.parse().expect(text))
            .collect();
        let contains = |text: &str| networks.contains(text.parse().expect(text));
        for inside in ["127.0.0.1", "::ffff:127.0.0.1", "172.31.255.255", "2001:db8:ffff::1"] {
            assert!(contains(inside), "{inside}");
        }
        for outside in ["127.0.0.2", "172.32.0.0", "2001:db9::", "::1", "::ffff:8.8.8.8"] {
            assert!(!contains(outside), "{outside}");
        }
        assert!(Networks::loopback().contains([127, 9, 9, 9].into()));
        assert!(Networks::all().contains("::ffff:1.2.3.4".parse().expect("address")));
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0", "::1/129", "10.0.0.1:80"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
