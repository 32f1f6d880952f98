//! How a relay is reached: directly, or through a SOCKS5 proxy such as Tor's.

use std::fmt;
use std::str::FromStr;

use super::relay::is_authority;

const SOCKS5: &str = "socks5://";

/// The text is no way to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a way to a relay is `direct`, or a SOCKS5 proxy such as socks5://127.0.0.1:9050")]
pub struct BadRoute;

/// The way to a relay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    /// From this machine's own address.
    Direct,
    /// Through the SOCKS5 proxy at this `host:port`, which resolves the relay's name.
    Socks5(String),
}

impl FromStr for Route {
    type Err = BadRoute;

    fn from_str(text: &str) -> Result<Self, BadRoute> {
        let text = text.trim();
        if text == "direct" {
            return Ok(Self::Direct);
        }
        let proxy = text.strip_prefix(SOCKS5).ok_or(BadRoute)?.trim_end_matches('/');
        let has_port = proxy.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if is_authority(proxy) && has_port { Ok(Self::Socks5(proxy.to_owned())) } else { Err(BadRoute) }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Socks5(proxy) => write!(f, "{SOCKS5}{proxy}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_what_was_written() {
        for text in
            ["direct", "socks5://127.0.0.1:9050", "socks5://[::1]:9050", "socks5://proxy.example:1080"]
        {
            assert_eq!(text.parse::<Route>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "socks5://",
            "socks5://127.0.0.1",
            "socks5://[::1]",
            "socks4://h:1",
            "h:1",
            "socks5://u:p@h:1",
        ] {
            assert_eq!(text.parse::<Route>(), Err(BadRoute), "{text}");
        }
    }
}
