//! The few plain HTTP requests, and the upgrade to WebSocket.
//!
//! Owns a connection until it is a WebSocket, and no longer: hyper's state is dropped before the session
//! begins.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use hyper::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use posthorn_proto::{PATH, SUBPROTOCOL};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

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
}

/// Answers requests until the connection ends (`None`) or becomes a WebSocket.
pub(crate) async fn serve<S>(io: S, context: Arc<Context>) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let upgraded = Arc::new(AtomicBool::new(false));
    let flag = upgraded.clone();
    let service = service_fn(move |request| {
        let response = respond(&request, &context);
        flag.store(response.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(io), service);
    let parts = connection.without_shutdown().await.ok()?;
    upgraded.load(Ordering::Relaxed).then(|| Upgraded { io: parts.io.into_inner(), read: parts.read_buf })
}

type Answer = Response<Full<Bytes>>;

fn respond(request: &Request<Incoming>, context: &Context) -> Answer {
    let path = request.uri().path();
    if path == PATH {
        return upgrade(request.method(), request.headers(), context).unwrap_or_else(|answer| *answer);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "this relay answers GET only\n");
    }
    match path {
        "/" => with(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "/health" if context.is_draining() => {
            with(StatusCode::SERVICE_UNAVAILABLE, "application/json", "{\"status\":\"stopping\"}\n")
        }
        "/health" => with(StatusCode::OK, "application/json", health(&context.store.stats())),
        _ => plain(StatusCode::NOT_FOUND, "there is nothing here; WebSocket is spoken at /v1/ws\n"),
    }
}

/// The opening handshake of RFC 6455, section 4.2. Every refusal says what is missing.
fn upgrade(method: &Method, headers: &HeaderMap, context: &Context) -> Result<Answer, Box<Answer>> {
    let refuse = |status, text| Err(Box::new(plain(status, text)));
    if method != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "WebSocket begins with GET\n");
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
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n");
    };
    if context.is_draining() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping: try again soon\n");
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(answer)
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
fn health(stats: &Stats) -> String {
    let Stats { full, damaged, expiry_paused, .. } = *stats;
    if !full && damaged == 0 && !expiry_paused {
        return "{\"status\":\"ok\"}\n".to_owned();
    }
    format!(
        "{{\"status\":\"degraded\",\"disk_full\":{full},\"damaged\":{damaged},\"expiry_paused\":{expiry_paused}}}\n"
    )
}

fn with(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::from(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The answer to a connection over the cap, written without reading what it asks.
pub(crate) const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n\
Content-Type: text/plain\r\nContent-Length: 43\r\n\r\ntoo many connections: try again in a while\n";

#[cfg(test)]
mod tests {
    use super::{Stats, health};

    #[test]
    fn health_is_json_and_names_what_is_wrong() {
        assert_eq!(health(&Stats::default()), "{\"status\":\"ok\"}\n");
        for stats in [
            Stats { full: true, ..Stats::default() },
            Stats { damaged: 3, ..Stats::default() },
            Stats { expiry_paused: true, ..Stats::default() },
        ] {
            let json: serde_json::Value = serde_json::from_str(&health(&stats)).expect("JSON");
            assert_eq!(json["status"], "degraded");
            assert_eq!(json["disk_full"], stats.full);
            assert_eq!(json["damaged"], stats.damaged);
            assert_eq!(json["expiry_paused"], stats.expiry_paused);
        }
    }

    #[test]
    fn the_refusal_has_the_length_that_it_states() {
        let text = std::str::from_utf8(super::FULL).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
