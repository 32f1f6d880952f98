//! WebSocket connections to relays (feature `native`). Owns the socket and the codec; decides nothing,
//! retries nothing.

mod words;

use data_encoding::HEXLOWER;
use futures_util::{SinkExt as _, StreamExt as _};
use posthorn_proto::frame::{ClientFrame, ServerFrame};
use posthorn_proto::{PATH, SUBPROTOCOL, limits};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_socks::tcp::Socks5Stream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::engine::{Input, LinkId};
use crate::identity::{RelayUrl, Route};

/// Frames that wait to be written. The engine has few requests under way, so a full queue means a dead peer.
const WRITE_QUEUE: usize = 1024;
/// Frames handed to the engine at once, at most: one transaction for all of them.
const BATCH: usize = 64;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Something from a connection: which one, which generation of it, and what.
pub(crate) type FromLink = (LinkId, u64, Input);

/// A connection being made or up. Dropping it ends it.
pub(crate) struct Connection {
    pub(crate) generation: u64,
    outgoing: mpsc::Sender<ClientFrame>,
    task: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// Connects in a task of its own, which reports to `inputs` until the connection ends.
    #[allow(
        clippy::disallowed_methods,
        reason = "the task's handle is kept, and dropping the connection aborts it"
    )]
    pub(crate) fn start(id: LinkId, route: Route, generation: u64, inputs: mpsc::Sender<FromLink>) -> Self {
        let (outgoing, queue) = mpsc::channel(WRITE_QUEUE);
        let task = tokio::spawn(async move {
            let reason = match connect(&id.relay, &route).await {
                Ok(socket) => {
                    if inputs.send((id.clone(), generation, Input::Connected(id.clone()))).await.is_err() {
                        return;
                    }
                    carry(&id, generation, socket, queue, &inputs).await
                }
                Err(reason) => reason,
            };
            // Nobody listens any more if the client was dropped.
            let _ = inputs.send((id.clone(), generation, Input::Disconnected(id, reason))).await;
        });
        Self { generation, outgoing, task }
    }

    /// Queues a frame; false if the connection does not take any more.
    pub(crate) fn send(&self, frame: ClientFrame) -> bool {
        self.outgoing.try_send(frame).is_ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(relay: &RelayUrl, route: &Route) -> Result<Socket, String> {
    let url = relay.as_str().trim_end_matches('/');
    let url = if url.ends_with(PATH) { url.to_owned() } else { format!("{url}{PATH}") };
    let mut request = url.into_client_request().map_err(|error| error.to_string())?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits::FRAME_BYTES))
        .max_frame_size(Some(limits::FRAME_BYTES));
    let unreachable = |error: &dyn std::fmt::Display| words::why(relay, &error.to_string());
    let connected = match route {
        Route::Direct => tokio_tungstenite::connect_async_with_config(request, Some(config), true).await,
        Route::Socks5(proxy) => {
            let stream = through(proxy, relay).await.map_err(|error| unreachable(&error))?;
            tokio_tungstenite::client_async_tls_with_config(request, stream, Some(config), None).await
        }
    };
    connected.map(|(socket, _)| socket).map_err(|error| unreachable(&error))
}

/// A connection to a relay through a SOCKS5 proxy, which resolves the name. Each has credentials of its own,
/// by which Tor keeps it from sharing a circuit with another; a proxy that wants none ignores them.
async fn through(proxy: &str, relay: &RelayUrl) -> Result<TcpStream, String> {
    let mut secret = [0; 16];
    OsRng.try_fill_bytes(&mut secret).map_err(|error| error.to_string())?;
    let name = HEXLOWER.encode(&secret);
    let told = |error: &dyn std::fmt::Display| format!("by the proxy at {proxy}: {error}");
    let stream = TcpStream::connect(proxy).await.map_err(|error| told(&error))?;
    stream.set_nodelay(true).map_err(|error| told(&error))?;
    let there = Socks5Stream::connect_with_password_and_socket(stream, relay.host_and_port(), &name, &name);
    Ok(there.await.map_err(|error| told(&error))?.into_inner())
}

/// Carries frames both ways until one side ends; returns why.
async fn carry(
    id: &LinkId,
    generation: u64,
    socket: Socket,
    mut queue: mpsc::Receiver<ClientFrame>,
    inputs: &mpsc::Sender<FromLink>,
) -> String {
    let (mut writer, reader) = socket.split();
    let mut reader = reader.ready_chunks(BATCH);
    loop {
        tokio::select! {
            frame = queue.recv() => {
                let Some(frame) = frame else { return "closed".to_owned() };
                if let Err(error) = write(&mut writer, frame, &mut queue).await {
                    return error.to_string();
                }
            }
            chunk = reader.next() => {
                let Some(chunk) = chunk else { return "the relay closed the connection".to_owned() };
                let (frames, end) = decode(chunk);
                if !frames.is_empty()
                    && inputs.send((id.clone(), generation, Input::Frames(id.clone(), frames))).await.is_err()
                {
                    return "closed".to_owned();
                }
                if let Some(reason) = end {
                    return reason;
                }
            }
        }
    }
}

/// Writes a frame and whatever else is queued, then flushes once.
async fn write(
    writer: &mut futures_util::stream::SplitSink<Socket, Message>,
    first: ClientFrame,
    queue: &mut mpsc::Receiver<ClientFrame>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    writer.feed(Message::Binary(first.encode())).await?;
    while let Ok(frame) = queue.try_recv() {
        writer.feed(Message::Binary(frame.encode())).await?;
    }
    writer.flush().await
}

/// The frames of a batch of messages, and why the connection is over, if it is.
fn decode(
    messages: Vec<Result<Message, tokio_tungstenite::tungstenite::Error>>,
) -> (Vec<ServerFrame>, Option<String>) {
    let mut frames = Vec::with_capacity(messages.len());
    for message in messages {
        let end = match message {
            Ok(Message::Binary(bytes)) => match ServerFrame::decode(bytes) {
                Ok(frame) => {
                    frames.push(frame);
                    continue;
                }
                Err(error) => format!("the relay does not speak the protocol: {error}"),
            },
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Close(Some(close))) => format!("the relay closed the connection: {}", close.reason),
            Ok(Message::Close(None)) => "the relay closed the connection".to_owned(),
            Ok(Message::Text(_) | Message::Frame(_)) => {
                "the relay does not speak the protocol: text".to_owned()
            }
            Err(error) => error.to_string(),
        };
        return (frames, Some(end));
    }
    (frames, None)
}
