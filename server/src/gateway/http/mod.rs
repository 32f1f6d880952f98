//! The few plain HTTP requests, blobs ([`blob`]), and the upgrade to WebSocket.
//!
//! Owns a connection until it is a WebSocket, and no longer: hyper's state is dropped before the session
//! begins. Until its first request for a blob it has the time of a handshake; from then on [`pace`] says how
//! slow it may be.

pub(crate) mod blob;
mod pace;
mod range;
mod refusal;
mod stream;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::header::{
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use posthorn_proto::{PATH, SUBPROTOCOL};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use self::pace::Paced;
use super::doors::Visitor;
use super::handshakes::Handshake;
use super::origin::{Origin, Trust};
use crate::clock::SystemClock;
use crate::command::Context;
use crate::store::Stats;

/// Largest request head, in bytes, and hyper's least.
const HEAD_BYTES: usize = 8192;
/// Most headers of a request.
const HEADERS: usize = 48;

const PAGE: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Posthorn relay</title>\
<p>This is a Posthorn relay: it stores and forwards end-to-end encrypted messages that it cannot read.\
<p>People reach it with a Posthorn client, at the WebSocket path <code>/v1/ws</code>. Its health: <a href=/health>/health</a>.\n";

/// A connection that has become a WebSocket.
pub(crate) struct Upgraded<S> {
    /// The socket.
    pub(crate) io: S,
    /// What came after the request's head.
    pub(crate) read: Bytes,
    /// Where it comes from.
    pub(crate) address: IpAddr,
}

/// A connection that is no WebSocket yet, and the relay that it came to.
#[derive(Clone, Copy)]
pub(crate) struct Guest<'a> {
    pub(crate) context: &'a Context,
    pub(crate) trust: &'a Trust,
    pub(crate) origin: Origin,
    pub(crate) visitor: &'a Visitor,
    pub(crate) clock: &'a SystemClock,
    pub(crate) blobs: &'a blob::Desk,
    /// Time for the first request, and for each further one.
    pub(crate) patience: Duration,
    /// Gone as soon as it is no handshake any more.
    pub(crate) handshake: &'a Mutex<Option<Handshake>>,
}

/// Answers requests until the connection ends (`None`) or becomes a WebSocket.
pub(crate) async fn serve<S>(io: S, guest: Guest<'_>, mut drain: watch::Receiver<bool>) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let upgraded = Mutex::new(None);
    let upgraded = &upgraded;
    let service = service_fn(move |request| {
        Box::pin(async move {
            let (answer, address) = guest.answer(request).await;
            *upgraded.lock() = address;
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .timer(TokioTimer::new())
        .header_read_timeout(guest.patience)
        .serve_connection(TokioIo::new(Paced::new(io, guest.blobs.window)), service);
    let (mut is_handshake, mut is_draining) = (true, false);
    let mut end = std::pin::pin!(sleep(guest.patience));
    loop {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                ended.ok()?;
                break;
            }
            () = end.as_mut(), if is_handshake => {
                is_handshake = guest.handshake.lock().is_some();
                if is_handshake {
                    return None;
                }
            }
            _ = drain.wait_for(|draining| *draining), if !is_draining => {
                is_draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let parts = connection.into_parts();
    let address = (*upgraded.lock())?;
    Some(Upgraded { io: parts.io.into_inner().into_inner(), read: parts.read_buf, address })
}

type Body = Either<Full<Bytes>, stream::Download>;
type Answer = Response<Body>;

impl Guest<'_> {
    /// The answer and, if the connection is a WebSocket from now on, where that comes from.
    async fn answer(&self, request: Request<Incoming>) -> (Answer, Option<IpAddr>) {
        let Ok(address) = self.trust.of_request(self.origin, request.headers()) else {
            return (plain(StatusCode::BAD_REQUEST, UNREADABLE), None);
        };
        if blob::is_about_one(request.uri().path()) {
            drop(self.handshake.lock().take());
            let Self { context, blobs: desk, clock, visitor, .. } = *self;
            return (blob::Call { context, desk, clock, address, visitor }.answer(request).await, None);
        }
        self.respond(&request, address).unwrap_or_else(|refusal| (*refusal, None))
    }

    fn respond(
        &self,
        request: &Request<Incoming>,
        address: IpAddr,
    ) -> Result<(Answer, Option<IpAddr>), Box<Answer>> {
        // A proxy's connection counts for whom each request comes from; another one has been counted.
        let is_forwarded = matches!(self.origin, Origin::Proxy(_));
        let (rate, now) = (&self.context.rates.connects, self.clock.millis());
        if is_forwarded && !self.visitor.may_connect(address, rate, now) {
            return Err(Box::new(full()));
        }
        if request.uri().path() != PATH {
            return Ok((self.page(request), None));
        }
        let answer = upgrade(request, self.context)?;
        if is_forwarded && !self.visitor.count(address) {
            return Err(Box::new(full()));
        }
        Ok((answer, Some(address)))
    }

    fn page(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "this relay answers GET only\n");
        }
        match request.uri().path() {
            "/" => with(StatusCode::OK, "text/html; charset=utf-8", PAGE),
            "/health" if self.context.is_draining() => {
                with(StatusCode::SERVICE_UNAVAILABLE, "application/json", "{\"status\":\"stopping\"}\n")
            }
            "/health" => {
                let health = health(&self.context.store.stats(), self.blobs.refuses());
                with(StatusCode::OK, "application/json", health)
            }
            _ => plain(
                StatusCode::NOT_FOUND,
                "there is nothing here; WebSocket is spoken at /v1/ws, and blobs are below /v1/blob\n",
            ),
        }
    }
}

/// The opening handshake of RFC 6455, section 4.2. Every refusal says what is missing.
fn upgrade(request: &Request<Incoming>, context: &Context) -> Result<Answer, Box<Answer>> {
    let refuse = |status, text| Err(Box::new(plain(status, text)));
    let headers = request.headers();
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "WebSocket begins with GET\n");
    }
    if request.version() != Version::HTTP_11 {
        return refuse(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "WebSocket needs HTTP/1.1 (behind nginx: proxy_http_version 1.1)\n",
        );
    }
    if !request.body().is_end_stream() {
        return refuse(StatusCode::BAD_REQUEST, "a request for WebSocket has no body\n");
    }
    if !names(headers, CONNECTION, "upgrade") || !names(headers, UPGRADE, "websocket") {
        let mut answer = plain(StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket (RFC 6455)\n");
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(answer));
    }
    if !names(headers, SEC_WEBSOCKET_VERSION, "13") {
        let mut answer = plain(StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13 is spoken here\n");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(Box::new(answer));
    }
    if !names(headers, SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "name the subprotocol: Sec-WebSocket-Protocol: posthorn.v1\n",
        );
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).into_iter();
    let (Some(key), None) = (keys.next().filter(|key| is_key(key.as_bytes())), keys.next()) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be there once: 16 bytes in base64\n");
    };
    if context.is_draining() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping: try again soon\n");
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    let mut answer = Answer::new(Either::Left(Full::default()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(answer)
}

/// Whether this is base64 of 16 bytes. What the last digit has beyond them is not looked at: in the example
/// of RFC 6455 (section 4.1) it is not zero.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==").is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit))
}

/// Whether a comma-separated header has this word, in any case.
fn names(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    with(status, "text/plain; charset=utf-8", text)
}

/// Says what an operator has to do something about. Whoever can be served is, so the status code is the same.
fn health(stats: &Stats, blobs_refused: bool) -> String {
    let Stats { full, damaged, expiry_paused, stalled_seconds, .. } = *stats;
    let stalled = stalled_seconds >= STALLED;
    if !full && damaged == 0 && !expiry_paused && !stalled && !blobs_refused {
        return "{\"status\":\"ok\"}\n".to_owned();
    }
    format!(
        "{{\"status\":\"degraded\",\"disk_full\":{full},\"damaged\":{damaged},\"expiry_paused\":{expiry_paused},\"stalled_seconds\":{stalled_seconds},\"blobs_refused\":{blobs_refused}}}\n"
    )
}

/// For how long nothing may be answered before the relay says that something is wrong, in seconds.
const STALLED: u64 = 5;

/// Pages of every origin may read it, so that an app that was served elsewhere can tell why.
fn with(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Answer::new(Either::Left(Full::from(text.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

const TOO_MANY: &str = "too many connections: try again in a while\n";
const UNREADABLE: &str =
    "BAD_FORWARDED_ADDRESS: the proxy does not say in a readable way where this connection comes from\n";

fn full() -> Answer {
    let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, TOO_MANY);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    answer
}

/// Why a connection is answered without reading what it asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TurnedAway {
    /// There are too many.
    Full,
    /// A trusted proxy does not say where it comes from.
    Unreadable,
}

impl TurnedAway {
    /// The whole answer.
    pub(crate) fn answer(self) -> String {
        let (head, text) = match self {
            Self::Full => ("503 Service Unavailable\r\nRetry-After: 10", TOO_MANY),
            Self::Unreadable => ("400 Bad Request", UNREADABLE),
        };
        let length = text.len();
        format!(
            "HTTP/1.1 {head}\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\nContent-Type: text/plain\r\n\
             Content-Length: {length}\r\n\r\n{text}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Stats, health, is_key};

    #[test]
    fn a_key_is_sixteen_bytes() {
        for good in ["dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC==", "++++////++++////++++//=="] {
            assert!(is_key(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "==",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25j-Q==",
            "dGhlIHNhbXBsZSBub25jZSBub25jZQ==",
        ] {
            assert!(!is_key(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn health_is_json_and_names_what_is_wrong() {
        assert_eq!(health(&Stats::default(), false), "{\"status\":\"ok\"}\n");
        for (stats, blobs_refused) in [
            (Stats { full: true, ..Stats::default() }, false),
            (Stats { damaged: 3, ..Stats::default() }, false),
            (Stats { expiry_paused: true, ..Stats::default() }, false),
            (Stats { stalled_seconds: 7, ..Stats::default() }, false),
            (Stats::default(), true),
        ] {
            let text = health(&stats, blobs_refused);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(json["status"], "degraded");
            assert_eq!(json["disk_full"], stats.full);
            assert_eq!(json["damaged"], stats.damaged);
            assert_eq!(json["expiry_paused"], stats.expiry_paused);
            assert_eq!(json["stalled_seconds"], stats.stalled_seconds);
            assert_eq!(json["blobs_refused"], blobs_refused);
        }
    }
}
