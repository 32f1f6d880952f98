//! Contact links: `posthorn://alice@relay.example:443/?k=<identity key>`, and `posthorn+ws://` for relays
//! without TLS.
//!
//! A link names an account and pins its identity key, so that the relay cannot show a card of somebody else's
//! making. The key is 52 characters of base32 (RFC 4648, without padding), lower case when written, either
//! case when read.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use posthorn_proto::Handle;

use super::relay::is_authority;
use super::{IdentityKey, RelayUrl};

const SECURE: &str = "posthorn://";
const PLAIN: &str = "posthorn+ws://";
/// Longest link that is looked at, in bytes.
const MOST_BYTES: usize = 512;

/// What is wrong with a link, in one line that says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It begins with something else.
    #[error("a contact link begins with posthorn:// (or posthorn+ws:// for a relay without TLS)")]
    Scheme,
    /// No `handle@`, or not a handle.
    #[error("the link has no handle before the @: a handle has 2 to 32 characters of a-z 0-9 _ . -")]
    Handle,
    /// No relay, or not one.
    #[error("the link names no relay after the @: host, or host:port, in lower case")]
    Relay,
    /// No `/?k=`, or not a key.
    #[error("the link's key is missing or incomplete: /?k= and 52 characters must follow the relay")]
    Key,
}

/// Who, where, and which identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactLink {
    /// The account's name on its relay.
    pub handle: Handle,
    /// The relay's URL.
    pub relay: RelayUrl,
    /// The identity that the card must be signed by.
    pub identity: IdentityKey,
}

impl ContactLink {
    /// A link to an account. Errors: [`LinkError::Relay`] when the relay's URL has a path, for which links
    /// have no place.
    pub fn new(handle: Handle, relay: RelayUrl, identity: IdentityKey) -> Result<Self, LinkError> {
        let (_, authority) = split_relay(&relay);
        if is_authority(authority) { Ok(Self { handle, relay, identity }) } else { Err(LinkError::Relay) }
    }
}

fn split_relay(relay: &RelayUrl) -> (&'static str, &str) {
    let text = relay.as_str();
    match text.strip_prefix("wss://") {
        Some(authority) => (SECURE, authority.trim_end_matches('/')),
        None => (PLAIN, text.trim_start_matches("ws://").trim_end_matches('/')),
    }
}

impl fmt::Display for ContactLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority) = split_relay(&self.relay);
        let key = BASE32_NOPAD.encode(self.identity.as_bytes()).to_ascii_lowercase();
        write!(f, "{scheme}{}@{authority}/?k={key}", self.handle)
    }
}

impl FromStr for ContactLink {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        let (socket, rest) = match (text.strip_prefix(SECURE), text.strip_prefix(PLAIN)) {
            _ if text.len() > MOST_BYTES => return Err(LinkError::Key),
            (Some(rest), _) => ("wss", rest),
            (_, Some(rest)) => ("ws", rest),
            (None, None) => return Err(LinkError::Scheme),
        };
        let (handle, rest) = rest.split_once('@').ok_or(LinkError::Handle)?;
        let handle = Handle::parse(handle).map_err(|_| LinkError::Handle)?;
        let (authority, query) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_authority(authority) {
            return Err(LinkError::Relay);
        }
        let relay = RelayUrl::parse(&format!("{socket}://{authority}")).map_err(|_| LinkError::Relay)?;
        let key = query.strip_prefix("?k=").ok_or(LinkError::Key)?;
        let key = BASE32_NOPAD.decode(key.to_ascii_uppercase().as_bytes()).map_err(|_| LinkError::Key)?;
        let identity = IdentityKey::try_from(&key[..]).map_err(|_| LinkError::Key)?;
        Ok(Self { handle, relay, identity })
    }
}
