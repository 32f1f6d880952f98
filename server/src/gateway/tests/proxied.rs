//! Behind a proxy: whose address counts, and what is believed of whom.

use std::net::SocketAddr;

use posthorn_proto::frame::{Request, ServerBody};
use posthorn_proto::{ErrorCode, PATH};
use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use super::sockets::{Wire, encrypted, plain, relay, tls_file};
use super::support::*;
use crate::config::{Config, Networks};
use crate::relay::Relay;

/// A relay where one address may have one connection, and this machine may be a proxy.
async fn one_each(change: impl FnOnce(&mut Config)) -> Relay {
    relay(|config| {
        config.connections.per_address = 1;
        config.rates.exempt = Networks::default();
        config.trusted_proxies = Networks::loopback();
        change(config);
    })
    .await
}

/// A connection that begins with these bytes.
async fn begin(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    stream
}

/// A PROXY header of this version.
fn header(client: &str, version: u8) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect(client);
    let here = if client.is_ipv4() { "192.0.2.99:443" } else { "[2001:db8:99::1]:443" };
    let header = ProxyHeader::with_address(ProxiedAddress::stream(client, here.parse().expect(here)));
    let mut bytes = Vec::new();
    match version {
        1 => header.encode_v1(&mut bytes),
        _ => header.encode_v2(&mut bytes),
    }
    .expect("encoded");
    bytes
}

/// The status with which an upgrade was refused.
fn refused<T>(outcome: Result<T, Error>) -> u16 {
    match outcome {
        Ok(_) => 101,
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(_) => 0,
    }
}

#[tokio::test]
async fn the_address_in_a_proxy_header_counts() {
    let relay = one_each(|_| {}).await;
    let mut open = Vec::new();
    for (version, client) in
        [(1, "192.0.2.1:9"), (2, "192.0.2.2:9"), (1, "[2001:db8::1]:9"), (2, "[2001:db8:0:1::1]:9")]
    {
        let stream = begin(relay.address(), &header(client, version)).await;
        open.push(Wire::over(stream, &[]).await.expect("a client of its own"));
        let again = begin(relay.address(), &header(client, 3 - version)).await;
        assert_eq!(refused(Wire::over(again, &[]).await), 503, "{client} has one already");
    }
    // What the client itself says in the request is not believed.
    let again = begin(relay.address(), &header("192.0.2.1:10", 2)).await;
    assert_eq!(refused(Wire::over(again, &[("x-forwarded-for", "192.0.2.77")]).await), 503);
    drop(open);
    while relay.numbers().connections > 0 {
        tokio::task::yield_now().await;
    }
    let stream = begin(relay.address(), &header("192.0.2.1:9", 1)).await;
    assert!(Wire::over(stream, &[]).await.is_ok(), "the first has gone");
}

#[tokio::test]
async fn the_last_hop_that_is_not_trusted_counts() {
    let relay = one_each(|config| config.rates.registrations_per_address_per_hour = 1).await;
    let over = async |hops: &str| {
        Wire::over(
            TcpStream::connect(relay.address()).await.expect("connected"),
            &[("x-forwarded-for", hops)],
        )
        .await
    };
    let (mut alice, hello) = over("192.0.2.1").await.expect("upgraded");
    assert_eq!(refused(over("192.0.2.77, 192.0.2.1").await), 503, "whatever a client puts in front");
    assert_eq!(refused(over("192.0.2.77, 192.0.2.1, 127.0.0.9").await), 503, "through two proxies");
    assert!(matches!(alice.ask(registration(&hello, 1, "alice", "")).await, ServerBody::Registered(_)));
    drop(alice);
    while relay.numbers().connections > 0 {
        tokio::task::yield_now().await;
    }
    let (mut bob, hello) = over("192.0.2.1").await.expect("upgraded");
    let ServerBody::Error(refusal) = bob.ask(registration(&hello, 2, "bob", "")).await else {
        panic!("one an hour")
    };
    assert_eq!(refusal.code, Some(ErrorCode::RateLimited));
    let (mut carol, hello) = over("192.0.2.2").await.expect("upgraded");
    assert!(matches!(carol.ask(registration(&hello, 3, "carol", "")).await, ServerBody::Registered(_)));
    assert_eq!(carol.ask(Request::Ping).await, ServerBody::Done);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_code() {
    let relay = one_each(|_| {}).await;
    let get = format!("GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for beginning in [
        "PROXY TCP4 somewhere 192.0.2.99 9 443\r\n".to_owned(),
        format!("PROXY {}", "x".repeat(200)),
        "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd".to_owned(),
    ] {
        let answer = plain(relay.address(), &format!("{beginning}{get}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("BAD_FORWARDED_ADDRESS"), "{answer}");
    }
    let answer = plain(relay.address(), &format!("{get}X-Forwarded-For: unknown\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("BAD_FORWARDED_ADDRESS"), "{answer}");
    // A proxy that asks for itself, in a PROXY header or without one.
    for local in ["PROXY UNKNOWN\r\n", "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", ""] {
        let answer =
            plain(relay.address(), &format!("{local}GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"))
                .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{local:?}: {answer}");
    }
}

/// A header that names nobody is all that the proxy says: what a client sends behind it is not believed.
#[tokio::test]
async fn behind_a_header_without_an_address_nobody_is_named() {
    let relay = one_each(|_| {}).await;
    let connect = async || {
        let mut stream = TcpStream::connect(relay.address()).await.expect("connected");
        stream.write_all(b"PROXY UNKNOWN\r\n").await.expect("sent");
        stream
    };
    let first = Wire::over(connect().await, &[("x-forwarded-for", "192.0.2.1")]).await.expect("upgraded");
    assert_eq!(refused(Wire::over(connect().await, &[("x-forwarded-for", "192.0.2.2")]).await), 503);
    drop(first);
}

#[tokio::test]
async fn of_others_nothing_is_believed() {
    let relay = one_each(|config| {
        config.trusted_proxies = ["192.0.2.0/24".parse().expect("a network")].into_iter().collect();
    })
    .await;
    let connect = async || TcpStream::connect(relay.address()).await.expect("connected");
    let first = Wire::over(connect().await, &[("x-forwarded-for", "192.0.2.1")]).await.expect("upgraded");
    assert_eq!(refused(Wire::over(connect().await, &[("x-forwarded-for", "192.0.2.2")]).await), 503);
    drop(first);
    while relay.numbers().connections > 0 {
        tokio::task::yield_now().await;
    }
    let answer =
        plain(relay.address(), "PROXY TCP4 192.0.2.1 192.0.2.99 9 443\r\nGET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(!answer.contains("BAD_FORWARDED_ADDRESS"), "to others it is not even looked for: {answer}");
}

#[tokio::test]
async fn each_request_through_a_proxy_counts_for_its_client() {
    let relay = one_each(|config| config.rates.connects_per_address_per_minute = 2).await;
    let mut asked = String::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        asked += &format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
    }
    asked += "GET /health HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.3\r\nConnection: close\r\n\r\n";
    let answer = plain(relay.address(), &asked).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "503", "200", "200"], "{answer}");
}

#[tokio::test]
async fn a_proxy_header_comes_before_tls() {
    let relay = one_each(|config| {
        config.tls.certificate = Some(tls_file("certificate.pem"));
        config.tls.key = Some(tls_file("key.pem"));
    })
    .await;
    let mut open = Vec::new();
    for client in ["192.0.2.1:9", "192.0.2.2:9"] {
        // In two pieces: it may arrive so.
        let header = header(client, 2);
        let mut stream = begin(relay.address(), &header[..5]).await;
        stream.write_all(&header[5..]).await.expect("sent");
        open.push(Wire::over(encrypted(stream).await, &[]).await.expect("upgraded"));
    }
    assert_eq!(relay.numbers().connections, 2);
}
