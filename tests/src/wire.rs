//! A bare connection to a relay: frames, and raw WebSocket messages for what no client would send.
//!
//! Owns no policy and repairs nothing: whoever holds a [`Wire`] sees exactly what the relay said, in order.
//! Every wait is bounded by [`PATIENCE`], so that a relay that hangs makes a test fail instead of hang.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{ClientFrame, Hello, Refusal, Request, ServerBody, ServerFrame};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};

/// How long any single wait may take, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a relay that has said hello.
#[derive(Debug)]
pub struct Wire {
    socket: WebSocketStream<TcpStream>,
    hello: Hello,
    last_request: u64,
    /// Frames that came while an answer was awaited.
    pushed: VecDeque<ServerFrame>,
}

/// What came next from the relay.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "looked at at once, never kept")]
pub enum Heard {
    /// A frame, which may be an answer or pushed.
    Frame(ServerFrame),
    /// The relay closed the connection, with a reason if it gave one.
    Closed(String),
}

/// Makes the WebSocket handshake, with `subprotocol` if there is one, and nothing more.
pub async fn handshake(
    url: &str,
    subprotocol: Option<&str>,
) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let mut request = url.into_client_request()?;
    if let Some(name) = subprotocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(name)?);
    }
    let address =
        format!("{}:{}", request.uri().host().unwrap_or("127.0.0.1"), request.uri().port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    Ok(socket)
}

impl Wire {
    /// Connects and waits for the relay's hello.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let mut socket = timeout(PATIENCE, handshake(url, Some(posthorn_proto::SUBPROTOCOL))).await??;
        match hear(&mut socket).await? {
            Heard::Frame(ServerFrame { body: ServerBody::Hello(hello), .. }) => {
                Ok(Self { socket, hello, last_request: 0, pushed: VecDeque::new() })
            }
            Heard::Frame(other) => bail!("the first frame is not a hello but {other:?}"),
            Heard::Closed(reason) => bail!("closed before the hello: {reason}"),
        }
    }

    /// What the relay said first.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Sends a request under the next number without waiting, and returns the number.
    pub async fn send(&mut self, body: Request) -> anyhow::Result<u64> {
        self.last_request += 1;
        let frame = ClientFrame { request: self.last_request, body };
        self.send_raw(Message::Binary(frame.encode())).await?;
        Ok(self.last_request)
    }

    /// Sends any WebSocket message.
    pub async fn send_raw(&mut self, message: Message) -> anyhow::Result<()> {
        timeout(PATIENCE, self.socket.send(message))
            .await
            .context("the relay does not take what is sent")??;
        Ok(())
    }

    /// Queues a request without flushing it to the socket, and returns its number.
    pub async fn feed(&mut self, body: Request) -> anyhow::Result<u64> {
        self.last_request += 1;
        let frame = ClientFrame { request: self.last_request, body };
        self.socket.feed(Message::Binary(frame.encode())).await?;
        Ok(self.last_request)
    }

    /// Flushes what was queued.
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, self.socket.flush()).await??)
    }

    /// Sends a request and waits for its answer. What is pushed in the meantime is kept for [`Wire::pushed`].
    pub async fn ask(&mut self, body: Request) -> anyhow::Result<ServerBody> {
        let number = self.send(body).await?;
        self.answer(number).await
    }

    /// Like [`Wire::ask`], for a request that must be refused.
    pub async fn refused(&mut self, body: Request) -> anyhow::Result<ErrorCode> {
        match self.ask(body).await? {
            ServerBody::Error(Refusal { code: Some(code), message, .. }) => {
                anyhow::ensure!(
                    !message.is_empty() && !message.contains('\n'),
                    "a refusal says why in one line: {message:?}"
                );
                Ok(code)
            }
            other => bail!("expected a refusal, got {other:?}"),
        }
    }

    /// Waits for the answer to one request.
    pub async fn answer(&mut self, number: u64) -> anyhow::Result<ServerBody> {
        loop {
            match self.hear().await? {
                Heard::Frame(frame) if frame.request == number => return Ok(frame.body),
                Heard::Frame(frame) => self.pushed.push_back(frame),
                Heard::Closed(reason) => bail!("closed while an answer was awaited: {reason}"),
            }
        }
    }

    /// The next pushed frame.
    pub async fn pushed(&mut self) -> anyhow::Result<ServerBody> {
        if let Some(frame) = self.pushed.pop_front() {
            return Ok(frame.body);
        }
        match self.hear().await? {
            Heard::Frame(frame) => Ok(frame.body),
            Heard::Closed(reason) => bail!("closed while a push was awaited: {reason}"),
        }
    }

    /// The next thing that the relay says.
    pub async fn hear(&mut self) -> anyhow::Result<Heard> {
        hear(&mut self.socket).await
    }

    /// Closes the connection as RFC 6455 says.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> anyhow::Result<Heard> {
    let mut reason = String::new();
    loop {
        let next = timeout(PATIENCE, socket.next()).await.context("the relay neither answers nor closes")?;
        match next {
            Some(Ok(Message::Binary(bytes))) => return Ok(Heard::Frame(decode(bytes)?)),
            Some(Ok(Message::Close(frame))) => {
                reason = frame
                    .map(|frame| format!("{} {}", u16::from(frame.code), frame.reason))
                    .unwrap_or_default();
            }
            Some(Ok(Message::Text(text))) => bail!("the relay sent text: {text}"),
            Some(Ok(_)) => {}
            Some(Err(error)) if reason.is_empty() => {
                return Ok(Heard::Closed(format!("without a reason: {error}")));
            }
            Some(Err(_)) | None => return Ok(Heard::Closed(reason)),
        }
    }
}

fn decode(bytes: Bytes) -> anyhow::Result<ServerFrame> {
    ServerFrame::decode(bytes).context("the relay sent what is not a frame")
}
