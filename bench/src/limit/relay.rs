//! Connections of a limit relay: one task each, which reads in bursts and writes in one flush.
//!
//! Owns the sockets. Never blocks a connection on the disk.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::log::{Log, Record};
use super::topic::{Asleep, Outbox, Topic, wake};
use super::{ACK, POST, SUBSCRIBE, answer};

/// Size of a connection's read and write buffers, in bytes; larger ones were measured to change nothing.
const BUFFER: usize = 16 * 1024;
/// Messages that a connection reads before others get their turn.
const BURST: usize = 64;

/// What connections share.
struct Shared {
    topics: RwLock<HashMap<u32, Arc<Topic>>>,
    log: Option<Log>,
}

impl Shared {
    fn topic(&self, name: u32) -> Arc<Topic> {
        if let Some(topic) = self.topics.read().get(&name) {
            return Arc::clone(topic);
        }
        Arc::clone(self.topics.write().entry(name).or_default())
    }
}

/// Runs a limit relay until it is killed; with a folder it is `limit-wal`, without one `limit-mem`.
pub(crate) fn run(address: SocketAddr, folder: Option<&Path>) -> anyhow::Result<()> {
    let log = folder.map(Log::open).transpose()?;
    let shared = Arc::new(Shared { topics: RwLock::default(), log });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(address).await?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        // A connection that fails is over, and its client can tell.
                        let _ = serve(stream, shared).await;
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(usize::MAX);
    let socket = Box::pin(tokio_tungstenite::accept_async_with_config(stream, Some(config))).await?;
    let mut connection = Connection {
        socket,
        outbox: Arc::default(),
        shared,
        topic: None,
        batch: Vec::new(),
        asleep: Vec::new(),
        sending: VecDeque::new(),
        unflushed: false,
    };
    let ended = poll_fn(|cx| connection.rounds(cx)).await;
    for topic in connection.shared.topics.read().values() {
        topic.readers.write().retain(|reader| !Arc::ptr_eq(reader, &connection.outbox));
    }
    ended
}

struct Connection {
    socket: WebSocketStream<TcpStream>,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    /// The topic that it posted to last.
    topic: Option<(u32, Arc<Topic>)>,
    /// This burst's posts and acknowledgements, for the log.
    batch: Vec<Record>,
    /// The readers of this burst's posts.
    asleep: Asleep,
    /// What was taken out of the outbox and is being sent.
    sending: VecDeque<Bytes>,
    unflushed: bool,
}

impl Connection {
    fn rounds(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        for _ in 0..8 {
            self.outbox.waker.register(cx.waker());
            let read = self.read(cx)?;
            let wrote = self.write(cx)?;
            if !(read || wrote) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn read(&mut self, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        let mut some = false;
        for _ in 0..BURST {
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => self.take(bytes),
                Poll::Ready(Some(Ok(Message::Close(_))) | None) => anyhow::bail!("closed"),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
            }
            some = true;
        }
        if let Some(log) = &self.shared.log
            && !self.batch.is_empty()
        {
            log.append(&mut self.batch);
        }
        wake(&mut self.asleep);
        Ok(some)
    }

    fn take(&mut self, message: Bytes) {
        let Some(name) =
            message.get(1..5).and_then(|name| name.first_chunk()).map(|name| u32::from_le_bytes(*name))
        else {
            return;
        };
        match message[0] {
            SUBSCRIBE => {
                self.shared.topic(name).readers.write().push(Arc::clone(&self.outbox));
                self.sending.push_back(Bytes::from_static(&[SUBSCRIBE]));
            }
            POST if message.len() >= 13 => {
                let topic = match &self.topic {
                    Some((last, topic)) if *last == name => Arc::clone(topic),
                    _ => self.shared.topic(name),
                };
                self.topic = Some((name, Arc::clone(&topic)));
                if self.shared.log.is_some() {
                    let then = Some((topic, Arc::clone(&self.outbox)));
                    self.batch.push(Record { message, then });
                } else {
                    topic.forward(&message, &mut self.asleep);
                    self.sending.push_back(answer(&message));
                }
            }
            ACK if self.shared.log.is_some() => self.batch.push(Record { message, then: None }),
            _ => {}
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        let mut some = false;
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut *self.outbox.queue.lock());
        }
        while !self.sending.is_empty()
            && let Poll::Ready(ready) = Pin::new(&mut self.socket).poll_ready(cx)
        {
            ready?;
            let Some(bytes) = self.sending.pop_front() else { break };
            Pin::new(&mut self.socket).start_send(Message::Binary(bytes))?;
            (some, self.unflushed) = (true, true);
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(some)
    }
}
