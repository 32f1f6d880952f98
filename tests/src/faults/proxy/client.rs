//! A client that comes through a proxy, by TLS, from an address of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use posthorn_proto::frame::{ClientFrame, Request, ServerBody, ServerFrame};
use posthorn_proto::{PATH, SUBPROTOCOL};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::front::CERTIFICATE;
use crate::wire::PATIENCE;

/// One of the machine's own addresses. Those behind the first belong to clients, who thereby differ from the
/// proxy.
pub(super) fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 1 + number)
}

/// A connection on which the relay has said hello.
pub(super) struct Client {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    number: u64,
    /// The subprotocol and the extensions of the relay's answer.
    pub(super) agreed: (Option<String>, Option<String>),
}

impl Client {
    /// Connects from an address, with these headers beside those of the handshake. Whoever is refused gets
    /// the status.
    pub(super) async fn connect(
        front: SocketAddr,
        from: Ipv4Addr,
        headers: &[(&'static str, &str)],
    ) -> anyhow::Result<Result<Self, u16>> {
        let mut request = format!("wss://localhost{PATH}").into_client_request()?;
        for (name, value) in [("sec-websocket-protocol", SUBPROTOCOL)].iter().chain(headers) {
            request.headers_mut().insert(*name, value.parse()?);
        }
        let stream = encrypted(front, from).await?;
        let (socket, answer) = match timeout(PATIENCE, client_async(request, stream)).await? {
            Ok(upgraded) => upgraded,
            Err(Error::Http(answer)) => return Ok(Err(answer.status().as_u16())),
            Err(error) => return Err(error).context("no WebSocket"),
        };
        let agreed = |name| {
            answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let agreed = (agreed("sec-websocket-protocol"), agreed("sec-websocket-extensions"));
        let mut client = Self { socket, number: 0, agreed };
        match client.next().await? {
            Message::Binary(bytes) => {
                let body = ServerFrame::decode(bytes)?.body;
                ensure!(matches!(body, ServerBody::Hello(_)), "not a hello but {body:?}");
            }
            other => bail!("not a frame but {other:?}"),
        }
        Ok(Ok(client))
    }

    /// Like [`Self::connect`], for who must be let in.
    pub(super) async fn welcome(front: SocketAddr, from: Ipv4Addr) -> anyhow::Result<Self> {
        let connected = Self::connect(front, from, &[]).await?;
        connected.map_err(|status| anyhow::anyhow!("{from} was refused with {status}"))
    }

    /// Asks the relay whether it is there.
    pub(super) async fn ping(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        let frame = ClientFrame { request: self.number, body: Request::Ping }.encode();
        timeout(PATIENCE, self.socket.send(Message::Binary(frame))).await??;
        match self.next().await? {
            Message::Binary(bytes) if ServerFrame::decode(bytes.clone())?.body == ServerBody::Done => Ok(()),
            other => bail!("no answer but {other:?}"),
        }
    }

    /// Sends a message that may not arrive whole.
    pub(super) async fn shout(&mut self, message: Message) {
        let _ = timeout(PATIENCE, self.socket.send(message)).await;
    }

    /// The code with which the connection is closed; `None` if it just ends.
    pub(super) async fn closing(&mut self) -> anyhow::Result<Option<u16>> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.context("it stays open")? {
                Some(Ok(Message::Close(frame))) => return Ok(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    async fn next(&mut self) -> anyhow::Result<Message> {
        Ok(timeout(PATIENCE, self.socket.next()).await.context("nothing comes")?.context("it ended")??)
    }
}

/// TLS with what listens there.
async fn encrypted(front: SocketAddr, from: Ipv4Addr) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = timeout(PATIENCE, socket.connect(front)).await??;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    Ok(timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await??)
}

/// Sends a plain request, and returns all that comes.
pub(super) async fn plain(front: SocketAddr, from: Ipv4Addr, request: &str) -> anyhow::Result<String> {
    let mut stream = encrypted(front, from).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Some end a connection without TLS' goodbye.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.context("no end comes")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
