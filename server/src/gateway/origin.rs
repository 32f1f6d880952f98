//! Where a connection comes from: the address behind trusted proxies, which is what limits by address count.
//!
//! Owns what is believed, and of whom. A proxy that is listed in `trusted_proxies` says it in a PROXY header
//! (version 1 or 2) before everything else, TLS too, or in `X-Forwarded-For`. Of anybody else nothing is
//! believed, and nothing that says it is even looked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::{HeaderMap, HeaderName};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::config::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a PROXY header begins with, by version.
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header up to its length, and with it.
const V2_FIXED: usize = 16;
/// Longest header of version 1, by its specification.
const V1_BYTES: usize = 107;
/// Longest header that is taken: version 2 can name the client's certificate beside its address.
const LONGEST: usize = 4096;

/// Where a connection comes from, as far as is known before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From there.
    Known(IpAddr),
    /// From this trusted proxy. Each request may say for whom.
    Proxy(IpAddr),
}

/// A trusted proxy says where a connection comes from in a way that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Whom to believe.
#[derive(Debug)]
pub(crate) struct Trust {
    proxies: Networks,
    /// It was told once, and is not repeated: whoever caused it could fill the log.
    warned: AtomicBool,
}

impl Trust {
    pub(crate) fn new(proxies: Networks) -> Self {
        Self { proxies, warned: AtomicBool::new(false) }
    }

    /// Whether this is the address of a trusted proxy.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.contains(address)
    }

    /// What the peer says at the beginning of a connection, if it is a trusted proxy and says anything there.
    /// Not a byte is taken that belongs to what follows.
    pub(crate) async fn origin(&self, stream: &mut TcpStream, peer: IpAddr) -> Result<Origin, Unreadable> {
        let mut address = peer;
        if self.is_proxy(peer) {
            let header = self.noted(read_header(stream).await.map_err(|_| Unreadable))?;
            if let Some(header) = header {
                match self.noted(source(&header))? {
                    Some(named) => address = named,
                    // A header that names nobody is the proxy's word all the same: what comes behind it may
                    // be a client's.
                    None => return Ok(Origin::Known(peer)),
                }
            }
        }
        Ok(if self.is_proxy(address) { Origin::Proxy(address) } else { Origin::Known(address) })
    }

    /// Who makes this request.
    pub(crate) fn of_request(&self, origin: Origin, headers: &HeaderMap) -> Result<IpAddr, Unreadable> {
        match origin {
            Origin::Known(address) => Ok(address),
            Origin::Proxy(proxy) => self.noted(forwarded(headers, proxy, &self.proxies)),
        }
    }

    fn noted<T>(&self, read: Result<T, Unreadable>) -> Result<T, Unreadable> {
        if read.is_err() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a trusted proxy does not name its client in a way that can be read, and was refused \
                 (BAD_FORWARDED_ADDRESS; told once): let it send a PROXY header or X-Forwarded-For with addresses, or \
                 take it out of trusted_proxies"
            );
        }
        read
    }
}

/// The PROXY header at the beginning of a connection, if there is one.
async fn read_header(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut header = vec![0; LONGEST];
    let mut taken = 0;
    loop {
        // Looked at before it is taken, because what follows is for others.
        let seen = taken + stream.peek(&mut header[taken..]).await?;
        let end = match end_of_header(&header[..seen]) {
            Some(end) if end <= LONGEST && seen > taken => end,
            // Something else begins here, or nothing comes any more.
            None if taken == 0 => return Ok(None),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let upto = end.min(seen);
        stream.read_exact(&mut header[taken..upto]).await?;
        taken = upto;
        if taken == end {
            header.truncate(end);
            return Ok(Some(header));
        }
    }
}

/// Where the header ends that these bytes begin: beyond them if more has to come. `None` if they begin none.
fn end_of_header(bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() {
        return None;
    }
    if V2.starts_with(bytes) || bytes.starts_with(V2) {
        let length = bytes.get(V2_FIXED - 2..).and_then(|rest| rest.first_chunk());
        return Some(V2_FIXED + length.map_or(0, |length| u16::from_be_bytes(*length).into()));
    }
    if V1.starts_with(bytes) || bytes.starts_with(V1) {
        let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        return Some(if line < V1_BYTES { line + 1 } else { usize::MAX });
    }
    None
}

/// For whom the proxy speaks; `None` if for itself, such as when it looks whether the relay is well.
fn source(header: &[u8]) -> Result<Option<IpAddr>, Unreadable> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (header, length) = ProxyHeader::parse(header, config).map_err(|_| Unreadable)?;
    debug_assert!(length <= LONGEST);
    Ok(header.proxied_address().map(|address| address.source.ip().to_canonical()))
}

/// The last hop that is no trusted proxy. Each proxy adds whom it saw at the end; what stands before the last
/// hop that is not trusted is what that one claims, and is not looked at.
fn forwarded(headers: &HeaderMap, proxy: IpAddr, trusted: &Networks) -> Result<IpAddr, Unreadable> {
    let mut address = proxy;
    for list in headers.get_all(X_FORWARDED_FOR).into_iter().rev() {
        for text in list.as_bytes().rsplit(|byte| *byte == b',') {
            address = hop(text).ok_or(Unreadable)?;
            if !trusted.contains(address) {
                return Ok(address);
            }
        }
    }
    Ok(address)
}

/// An address, which some proxies give a port.
fn hop(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    Some(address.ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    fn trusted() -> Networks {
        ["127.0.0.1", "172.16.0.0/12"].iter().map(|text| text.parse().expect(text)).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn header(source: &str, version: u8) -> Vec<u8> {
        let to = if source.starts_with('[') { "[2001:db8::1]:80" } else { "192.0.2.9:80" };
        let addresses = ProxiedAddress::stream(source.parse().expect(source), to.parse().expect(to));
        let header = ProxyHeader::with_address(addresses);
        let mut bytes = [0; 256];
        let length = match version {
            1 => header.encode_to_slice_v1(&mut bytes),
            _ => header.encode_to_slice_v2(&mut bytes),
        };
        bytes[..length.expect("room")].to_vec()
    }

    #[test]
    fn headers_of_both_versions_end_where_they_end() {
        for (source_text, expected) in [
            ("192.0.2.1:9", "192.0.2.1"),
            ("[2001:db8::7]:9", "2001:db8::7"),
            ("[::ffff:192.0.2.1]:9", "192.0.2.1"),
        ] {
            for version in [1, 2] {
                let header = header(source_text, version);
                for seen in 1..header.len() {
                    let end = end_of_header(&header[..seen]).expect("it begins one");
                    assert!(end > seen && end <= header.len(), "{seen}: {end}");
                }
                let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
                assert_eq!(end_of_header(&followed), Some(header.len()));
                assert_eq!(source(&header), Ok(Some(ip(expected))));
            }
        }
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), Ok(None), "it speaks for itself");
        for other in [&b"GET / HTTP/1.1"[..], b"POST / HTTP/1.1", b"\x16\x03\x01", b"\r\nGET", b""] {
            assert_eq!(end_of_header(other), None, "{other:?}");
        }
        assert_eq!(end_of_header(&[V1, &[b'x'; 200]].concat()), Some(usize::MAX), "a line without an end");
        for bad in
            [&b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n"[..], b"PROXY \r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"]
        {
            assert_eq!(source(bad), Err(Unreadable), "{bad:?}");
        }
    }

    #[test]
    fn hops_are_read_from_the_end() {
        let of = |lists: &[&str]| {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers.append(X_FORWARDED_FOR, list.parse().expect("a header"));
            }
            Trust::new(trusted()).of_request(Origin::Proxy(ip("127.0.0.1")), &headers)
        };
        assert_eq!(of(&[]), Ok(ip("127.0.0.1")), "nobody else is named");
        assert_eq!(of(&["192.0.2.1"]), Ok(ip("192.0.2.1")));
        assert_eq!(of(&["8.8.8.8, 192.0.2.1"]), Ok(ip("192.0.2.1")), "what a client claims is before it");
        assert_eq!(of(&["8.8.8.8, 192.0.2.1, 172.17.0.2"]), Ok(ip("192.0.2.1")), "through two proxies");
        assert_eq!(of(&["8.8.8.8", "192.0.2.1 ,172.17.0.2", "172.17.0.3"]), Ok(ip("192.0.2.1")));
        assert_eq!(of(&["172.17.0.2, 172.17.0.3"]), Ok(ip("172.17.0.2")), "from a proxy itself");
        assert_eq!(of(&["<script>, 192.0.2.1:4711"]), Ok(ip("192.0.2.1")), "with a port");
        assert_eq!(of(&["[2001:db8::7]:4711"]), Ok(ip("2001:db8::7")));
        assert_eq!(of(&["::ffff:192.0.2.1"]), Ok(ip("192.0.2.1")));
        for bad in ["", "unknown", "192.0.2.1,", "192.0.2.1, _hidden", "192.0.2.1 172.17.0.2"] {
            assert_eq!(of(&[bad]), Err(Unreadable), "{bad:?}");
        }
        let mut forged = HeaderMap::new();
        forged.append(X_FORWARDED_FOR, "8.8.8.8".parse().expect("a header"));
        let of_other = Trust::new(trusted()).of_request(Origin::Known(ip("192.0.2.1")), &forged);
        assert_eq!(of_other, Ok(ip("192.0.2.1")), "of others nothing is believed");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_header_ends_within_itself(
            version in 1u8..3,
            change in prop::option::of((0usize..30, any::<u8>())),
            tail in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = header("[2001:db8::7]:9", version);
            let length = bytes.len();
            if let Some((at, byte)) = change {
                bytes[at % length] = byte;
            }
            bytes.extend(tail);
            let end = end_of_header(&bytes);
            if change.is_none() {
                prop_assert_eq!(end, Some(length));
            }
            // The rest is only ever looked for further on.
            for seen in 1..bytes.len() {
                if let Some(end) = end_of_header(&bytes[..seen]) {
                    prop_assert!(end > seen || end_of_header(&bytes) == Some(end));
                }
            }
            if let Some(end) = end.filter(|end| *end <= bytes.len()) {
                let _ = source(&bytes[..end]);
            }
        }
    }
}
