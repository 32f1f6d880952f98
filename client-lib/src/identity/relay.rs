//! How a relay is addressed: where it listens, and the key that names it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use posthorn_proto::RelayIdentity;

/// Longest URL of a relay, in bytes.
const MOST_BYTES: usize = 255;

/// The text is no relay's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a relay's URL looks like wss://relay.example:443 or ws://127.0.0.1:4100")]
pub struct BadRelayUrl;

/// `wss://host:port` or `ws://host:port`, optionally with a path. At most 255 ASCII characters, without
/// spaces, user names, query or fragment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayUrl(String);

impl RelayUrl {
    /// Checks and takes a URL.
    pub fn parse(text: &str) -> Result<Self, BadRelayUrl> {
        let rest = text.strip_prefix("wss://").or_else(|| text.strip_prefix("ws://")).ok_or(BadRelayUrl)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path_is_plain = path.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\\\"<>".contains(&b));
        if text.len() <= MOST_BYTES && is_authority(authority) && path_is_plain {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadRelayUrl)
        }
    }

    /// A relay by `host`, `host:port`, `[v6]` or `[v6]:port`, as it stands behind a handle: with TLS, unless
    /// it is on this machine.
    pub fn of_host(text: &str) -> Result<Self, BadRelayUrl> {
        let scheme = if is_loopback(host_of(text)) { "ws" } else { "wss" };
        if is_authority(text) { Self::parse(&format!("{scheme}://{text}")) } else { Err(BadRelayUrl) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host and port, as they stand behind a handle; without the port that TLS has anyway.
    pub fn host(&self) -> &str {
        let (is_secure, authority) = self.split();
        if is_secure { authority.strip_suffix(":443").unwrap_or(authority) } else { authority }
    }

    /// Whether whoever is on the way to it could read along: it has no TLS, and is on another machine.
    pub fn is_exposed(&self) -> bool {
        let (is_secure, authority) = self.split();
        !is_secure && !is_loopback(host_of(authority))
    }

    /// Host, without the brackets of IPv6, and port.
    pub fn host_and_port(&self) -> (&str, u16) {
        let (is_secure, authority) = self.split();
        let host = host_of(authority);
        let port = authority[authority.find(host).unwrap_or(0) + host.len()..].trim_start_matches([']', ':']);
        (host, port.parse().unwrap_or(if is_secure { 443 } else { 80 }))
    }

    /// Whether it has TLS; its host and port.
    fn split(&self) -> (bool, &str) {
        let (is_secure, rest) = match self.0.strip_prefix("wss://") {
            Some(rest) => (true, rest),
            None => (false, self.0.trim_start_matches("ws://")),
        };
        (is_secure, rest.split('/').next().unwrap_or(rest))
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayUrl({})", self.0)
    }
}

/// A relay: where it listens and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// Where it listens.
    pub url: RelayUrl,
    /// The X25519 key that it announces in `Hello`.
    pub identity: RelayIdentity,
}

/// The host of a `host:port`.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or(bracketed),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// Whether a host is this machine. Names that somebody's resolver may map there do not count.
fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, in lower case.
pub(super) fn is_authority(text: &str) -> bool {
    let (host_is_good, rest) = match text.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, rest)) => (host.parse::<std::net::Ipv6Addr>().is_ok(), rest),
            None => return false,
        },
        None => {
            let end = text.find(':').unwrap_or(text.len());
            (is_host(&text[..end]), &text[end..])
        }
    };
    let port_is_good = match rest.strip_prefix(':') {
        None => rest.is_empty(),
        Some(port) => !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port != 0),
    };
    host_is_good && port_is_good
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && !host.starts_with(['-', '.'])
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
}

impl Serialize for RelayUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RelayUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
