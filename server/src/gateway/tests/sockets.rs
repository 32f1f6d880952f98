//! What only real sockets show: handshakes, caps, close codes, shutdown, the log, the admin socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use posthorn_proto::frame::{ClientFrame, Hello, Request, ServerBody, ServerFrame};
use posthorn_proto::{CLOSE_IDLE, PATH, PostId, SUBPROTOCOL, Token};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::support::*;
use crate::admin::{Answer, Ask, AskError, ask};
use crate::config::{Config, Engine, Tls};
use crate::heard::heard;
use crate::relay::Relay;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Wire<S = TcpStream> {
    socket: WebSocketStream<S>,
    number: u64,
}

impl Wire {
    pub(super) async fn connect(address: SocketAddr) -> Result<(Self, Hello), Error> {
        Self::over(TcpStream::connect(address).await?, &[]).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Becomes a WebSocket, with these headers beside those that must be.
    pub(super) async fn over(stream: S, headers: &[(&'static str, &str)]) -> Result<(Self, Hello), Error> {
        let mut request = format!("ws://localhost{PATH}").into_client_request().expect("a URL");
        for (name, value) in headers.iter().chain(&[("sec-websocket-protocol", SUBPROTOCOL)]) {
            request.headers_mut().append(*name, value.parse().expect("a header"));
        }
        let (socket, _) = client_async(request, stream).await?;
        let mut wire = Self { socket, number: 0 };
        let ServerBody::Hello(hello) = wire.next().await.body else { panic!("not a hello") };
        Ok((wire, hello))
    }

    async fn next(&mut self) -> ServerFrame {
        match self.message().await {
            Message::Binary(bytes) => ServerFrame::decode(bytes).expect("a frame"),
            other => panic!("not a frame: {other:?}"),
        }
    }

    async fn message(&mut self) -> Message {
        timeout(PATIENCE, self.socket.next()).await.expect("in time").expect("open").expect("well-formed")
    }

    async fn send(&mut self, body: Request) {
        self.number += 1;
        let bytes = ClientFrame { request: self.number, body }.encode();
        self.socket.send(Message::Binary(bytes)).await.expect("sent");
    }

    pub(super) async fn ask(&mut self, body: Request) -> ServerBody {
        self.send(body).await;
        loop {
            let frame = self.next().await;
            if frame.request == self.number {
                return frame.body;
            }
        }
    }

    /// The code and word with which the relay closes.
    async fn closing(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.message().await {
                let frame = frame.expect("a reason");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }
}

pub(super) async fn relay(change: impl FnOnce(&mut Config)) -> Relay {
    let mut config = Config { open_registration: true, ..Config::for_tests() };
    change(&mut config);
    Relay::start(config).await.expect("started")
}

/// The same post, made when the relay, whose clock is this machine's, greeted.
fn now(hello: &Hello, request: Request) -> Request {
    let Request::Post(mut post) = request else { unreachable!("it is a post") };
    post.post_id = PostId::at(hello.time, std::array::from_fn(|at| post.post_id.0[at + 4]));
    Request::Post(post)
}

/// A plain request; returns what comes until the relay closes.
pub(super) async fn plain(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // The relay may reset a connection that it refused while we still sent.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A self-signed certificate for localhost (`certificate.pem`), and the one that takes its place
/// (`renewed.pem`), made for these tests alone.
pub(super) fn tls_file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/tests/tls")).join(name)
}

/// TLS with a relay that has one of them.
pub(super) async fn encrypted(stream: TcpStream) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    for name in ["certificate.pem", "renewed.pem"] {
        roots.add(CertificateDer::from_pem_file(tls_file(name)).expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

#[tokio::test]
async fn the_whole_way_over_a_socket() {
    let relay = relay(|_| {}).await;
    let (mut alice, hello) = Wire::connect(relay.address()).await.expect("connected");
    assert_eq!(hello.challenge.relay_identity, relay.identity());
    assert!(matches!(alice.ask(registration(&hello, 1, "alice", "")).await, ServerBody::Registered(_)));
    let token = Token::from_bytes([9; 32]);
    assert_eq!(alice.ask(Request::creation_tokens(vec![token.hash()])).await, ServerBody::TokensDrawn(1));
    let (mut bob, _) = Wire::connect(relay.address()).await.expect("connected");
    assert_eq!(bob.ask(creation(token)).await, ServerBody::Created);
    assert!(matches!(bob.ask(open(READER, READ_KEY, 100)).await, ServerBody::Opened(_)));
    let envelope = vec![7; 200_000];
    for id in 1..=20 {
        alice.send(now(&hello, post(id, &envelope))).await;
    }
    for seq in 1..=20 {
        let ServerBody::Delivery(delivery) = bob.next().await.body else { panic!("not a delivery") };
        assert_eq!((delivery.seq, delivery.envelope.len()), (seq, 200_000));
        assert_eq!(alice.next().await.body, ServerBody::Posted { seq });
    }
    bob.socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.expect("sent");
    assert_eq!(bob.message().await, Message::Pong(Bytes::from_static(b"there?")));
    assert_eq!(relay.numbers().connections, 2);
    relay.shutdown().await.expect("closed");
}

#[tokio::test]
async fn tls_from_files() {
    let relay = relay(|config| {
        config.tls.certificate = Some(tls_file("certificate.pem"));
        config.tls.key = Some(tls_file("key.pem"));
    })
    .await;
    assert!(relay.url().starts_with("wss://"));
    let stream = TcpStream::connect(relay.address()).await.expect("connected");
    let (_, hello) = Wire::over(encrypted(stream).await, &[]).await.expect("upgraded");
    assert_eq!(hello.challenge.relay_identity, relay.identity());

    let missing = Config {
        tls: Tls { certificate: Some(tls_file("none.pem")), key: Some(tls_file("key.pem")) },
        ..Config::for_tests()
    };
    let error = Relay::start(missing).await.err().expect("no such file").to_string();
    assert!(error.contains("none.pem") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn plain_requests_and_refused_upgrades() {
    let relay = relay(|_| {}).await;
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close{headers}\r\n\r\n")
    };
    let status = |answer: String| answer.split(' ').nth(1).map(str::to_owned).unwrap_or_default();
    let address = relay.address();
    assert!(plain(address, &get("/health", "")).await.ends_with("{\"status\":\"ok\"}\n"));
    assert!(plain(address, &get("/", "")).await.contains("Posthorn relay"));
    assert_eq!(status(plain(address, &get("/etc", "")).await), "404");
    assert_eq!(
        status(plain(address, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await),
        "405"
    );
    assert_eq!(status(plain(address, &get(PATH, "")).await), "426");
    let upgrade = ", upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    assert_eq!(
        status(plain(address, &get(PATH, &format!("{upgrade}\r\nSec-WebSocket-Version: 8"))).await),
        "426"
    );
    let answer = plain(address, &get(PATH, &format!("{upgrade}\r\nSec-WebSocket-Version: 13"))).await;
    assert!(answer.contains("posthorn.v1"), "{answer}");
    assert_eq!(status(answer), "400");
    let whole = format!("{upgrade}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}");
    let old = get(PATH, &whole).replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(status(plain(address, &old).await), "505");
    let body = format!("{}hello", get(PATH, &format!("{whole}\r\nContent-Length: 5")));
    assert_eq!(status(plain(address, &body).await), "400");
    let short = get(PATH, &whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"));
    assert!(plain(address, &short).await.contains("16 bytes in base64"));
    let twice = get(PATH, &format!("{whole}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(status(plain(address, &twice).await), "400");
    assert_eq!(status(plain(address, "\x16\x03\x01 no HTTP\r\n\r\n").await), "400");
}

#[tokio::test]
async fn close_codes_tell_why() {
    let relay = relay(|_| {}).await;
    for (message, code, word) in [
        (Message::text("hello"), 1003, "TEXT_MESSAGE"),
        (Message::binary(vec![0xff; 9]), 1007, "BAD_FRAME"),
        (Message::binary(vec![0; 600 * 1024]), 1009, "TOO_LARGE"),
    ] {
        let (mut wire, _) = Wire::connect(relay.address()).await.expect("connected");
        // The relay may close before all has been sent.
        let _ = wire.socket.send(message).await;
        assert_eq!(wire.closing().await, (code, word.to_owned()));
    }
}

#[tokio::test]
async fn connections_are_capped_and_handshakes_timed() {
    let relay = relay(|config| {
        config.connections.total = 2;
        config.connections.handshake_seconds = 1;
    })
    .await;
    // One that never says what it wants, and one that says it forever.
    let mut silent = TcpStream::connect(relay.address()).await.expect("connected");
    let mut slow = TcpStream::connect(relay.address()).await.expect("connected");
    slow.write_all(format!("GET {PATH} HTTP/1.1\r\nX: ").as_bytes()).await.expect("sent");
    while relay.numbers().connections < 2 {
        tokio::task::yield_now().await;
    }
    assert!(plain(relay.address(), "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("cut off in time");
    }
    while relay.numbers().connections > 0 {
        tokio::task::yield_now().await;
    }
    assert!(Wire::connect(relay.address()).await.is_ok());
}

#[tokio::test]
async fn a_silent_client_is_sent_away() {
    let relay = relay(|config| config.limits.idle_seconds = 5).await;
    let (mut wire, _) = Wire::connect(relay.address()).await.expect("connected");
    assert_eq!(wire.closing().await, (CLOSE_IDLE, "IDLE".to_owned()));
}

#[tokio::test]
async fn shutdown_answers_what_was_asked_and_says_goodbye() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let relay = relay(|config| {
        config.engine = Engine::Embedded;
        config.data = dir.path().to_owned();
        config.store.headroom_bytes = 0;
    })
    .await;
    let identity = relay.identity();
    let (mut wire, hello) = Wire::connect(relay.address()).await.expect("connected");
    assert!(matches!(wire.ask(registration(&hello, 1, "alice", "")).await, ServerBody::Registered(_)));
    let token = Token::from_bytes([9; 32]);
    wire.ask(Request::creation_tokens(vec![token.hash()])).await;
    assert_eq!(wire.ask(creation(token)).await, ServerBody::Created);
    for id in 1..=50 {
        wire.send(now(&hello, post(id, b"x"))).await;
    }
    assert_eq!(wire.next().await.body, ServerBody::Posted { seq: 1 });
    let address = relay.address();
    let stopping = tokio::task::JoinSet::from_iter([relay.shutdown()]);
    let (mut posted, mut told) = (1, false);
    let closing: u16 = loop {
        match wire.message().await {
            Message::Binary(bytes) => match ServerFrame::decode(bytes).expect("a frame").body {
                ServerBody::Posted { .. } => posted += 1,
                ServerBody::GoingAway { .. } => told = true,
                ServerBody::Error(refusal) => {
                    assert_eq!(refusal.code.map(|c| c.name()), Some("SHUTTING_DOWN"))
                }
                other => panic!("unexpected: {other:?}"),
            },
            Message::Close(frame) => break frame.expect("a reason").code.into(),
            _ => {}
        }
    };
    assert!(told);
    assert_eq!(closing, 1001);
    drop(wire);
    stopping.join_all().await.into_iter().for_each(|closed| closed.expect("the store closed well"));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");

    let mut config = Config { engine: Engine::Embedded, data: dir.path().to_owned(), ..Config::for_tests() };
    config.store.headroom_bytes = 0;
    let again = Relay::start(config).await.expect("started again");
    assert_eq!(again.identity(), identity);
    assert!(again.numbers().envelopes >= posted, "what was answered is there");
    let data = dir.path().to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let bad = ask(&data, &Ask::Invite { uses: 0, days: 1 }).expect_err("no uses");
        assert!(matches!(bad, AskError::Refused(_)));
        (
            ask(&data, &Ask::Invite { uses: 2, days: 1 }).expect("minted"),
            ask(&data, &Ask::Stats).expect("told"),
        )
    });
    let (Answer::Invited { invite, relay }, Answer::Stats(numbers)) = asked.await.expect("asked") else {
        panic!("other answers")
    };
    assert_eq!((invite.uses, relay), (2, format!("ws://{}", again.address())));
    assert_eq!(numbers.accounts, 1);
    again.shutdown().await.expect("closed");
    let gone = ask(dir.path(), &Ask::Stats).expect_err("nobody is there").to_string();
    assert!(gone.starts_with("no relay is running on"), "{gone}");
}

/// R8: everything that a busy session says is searched for in the log at the default level.
#[test]
fn the_log_gives_nothing_away() {
    let heard = heard(async {
        tracing::info!("listening");
        let relay = relay(|_| {}).await;
        let (mut wire, hello) = Wire::connect(relay.address()).await.expect("connected");
        wire.ask(registration(&hello, 1, "alice-of-log", "")).await;
        wire.ask(authentication(1, posthorn_proto::auth::Proof([0x77; 32]))).await;
        let token = Token::from_bytes([9; 32]);
        wire.ask(Request::creation_tokens(vec![token.hash()])).await;
        wire.ask(creation(token)).await;
        wire.ask(open(READER, READ_KEY, 1)).await;
        wire.ask(now(&hello, post(1, b"secret words"))).await;
        wire.ask(now(&hello, post(1, b"other words"))).await;
        wire.ask(Request::Ping).await;
        wire.socket.send(Message::binary(vec![0xff; 9])).await.expect("sent");
        wire.closing().await;
        relay.shutdown().await.expect("closed");
    });
    let heard = heard.to_lowercase();
    assert!(heard.contains("listening"), "the log is heard: {heard}");
    let hex = |byte: u8| format!("{byte:02x}").repeat(3);
    let hidden = [0xaa, 0x11, 0x22, 0x33, 0x01, 0x77].map(hex);
    let words = ["alice-of-log", "secret words", "other words", "127.0.0.1", "aaaa.."].map(str::to_owned);
    for secret in hidden.iter().chain(&words) {
        assert!(!heard.contains(secret.as_str()), "the log says {secret}: {heard}");
    }
}

/// The relay speaks before it knows whether blobs can be put. (Asked for afterwards, nobody has run yet who
/// would have connected.)
#[cfg(feature = "s3")]
#[tokio::test]
async fn a_start_asks_nothing_of_the_server_of_blobs() {
    let dir = tempfile::tempdir().expect("a folder");
    let credentials = dir.path().join("credentials");
    std::fs::write(&credentials, "aws_access_key_id = me\naws_secret_access_key = secret\n")
        .expect("written");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    silent.set_nonblocking(true).expect("set");
    let relay = relay(|config| {
        (config.engine, config.data) = (Engine::Embedded, dir.path().join("data"));
        config.store.headroom_bytes = 0;
        config.blobs.store = crate::config::BlobsIn::S3;
        config.s3.endpoint = Some(format!("http://{}", silent.local_addr().expect("bound")));
        config.s3.bucket = "blobs".to_owned();
        config.s3.credentials = Some(credentials);
    })
    .await;
    assert_eq!(silent.accept().map(|_| ()).map_err(|e| e.kind()), Err(std::io::ErrorKind::WouldBlock));
    relay.shutdown().await.expect("closed");
}
