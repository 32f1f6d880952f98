//! One WebSocket connection: moves frames between the socket and a session.
//!
//! Owns the socket and the unfinished work of its session; both end when it is dropped. Knows nothing of what frames mean.
//! It is one task that reads in bursts, lets the session's work go on, and writes whatever has gathered in one flush:
//! a wake-up and a system call for each frame would cost ten times the work itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink as _, Stream as _, StreamExt as _};
use posthorn_proto::frame::ClientFrame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::gulp::Gulp;
use super::session::{Ending, Session, Work};
use crate::clock::SystemClock;

/// What a connection keeps for reading all its life: little, because most connections are idle. The socket is read in
/// larger gulps, and larger messages get their own memory.
const READ_BYTES: usize = 1024;
/// Frames gather up to this many bytes before they are written, if no more is to come they are written at once.
const WRITE_BYTES: usize = 16 * 1024;
/// Frames read before others get their turn.
const BURST: usize = 64;
/// Rounds of reading, working and writing before other tasks get their turn.
const ROUNDS: usize = 8;
/// How long a client may take for the closing handshake, and for taking what is still to be sent.
const CLOSING: Duration = Duration::from_secs(3);
/// What a client is told to wait before it comes back; it adds its own jitter.
const RECONNECT_AFTER_MS: u32 = 500;

/// What a connection needs beside its socket and session.
pub(crate) struct Surroundings {
    pub(crate) clock: SystemClock,
    /// Becomes true when the relay stops.
    pub(crate) drain: watch::Receiver<bool>,
    /// Largest message.
    pub(crate) frame_bytes: usize,
    /// A client that is silent for this long is gone.
    pub(crate) idle: Duration,
}

/// Begins to serve a client; the future that comes out ends when it is gone. It holds nothing but what a connection needs
/// for the rest of its life, which is why it is a value of its own.
pub(crate) async fn begin<S>(io: S, read: Bytes, session: Session, surroundings: Surroundings) -> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(surroundings.frame_bytes))
        .max_frame_size(Some(surroundings.frame_bytes));
    let Surroundings { clock, mut drain, idle, .. } = surroundings;
    Connection {
        socket: WebSocketStream::from_raw_socket(Gulp::new(io, read), Role::Server, Some(config)).await,
        works: FuturesUnordered::new(),
        heard: clock.millis(),
        clock,
        idle,
        alarm: Box::pin(tokio::time::sleep(idle)),
        drain: Box::pin(async move {
            // An error means that the relay was dropped, and this task with it.
            let _ = drain.wait_for(|draining| *draining).await;
        }),
        phase: Phase::Open,
        unflushed: false,
        broken: false,
        session,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut().rounds(cx) {
            Ok(()) => Poll::Pending,
            Err(Gone) => Poll::Ready(()),
        }
    }
}

/// A client that is being served.
pub(crate) struct Connection<S> {
    socket: WebSocketStream<Gulp<S>>,
    /// Dropped before the session, whose openings they may be making.
    works: FuturesUnordered<Work>,
    session: Session,
    clock: SystemClock,
    /// Steady milliseconds at which the client was last heard.
    heard: u64,
    idle: Duration,
    /// For idleness while open, for impatience while closing.
    alarm: Pin<Box<Sleep>>,
    drain: Pin<Box<dyn Future<Output = ()> + Send>>,
    phase: Phase,
    /// Frames were handed to the socket and not flushed yet.
    unflushed: bool,
    /// What comes is no WebSocket any more, or too large a message: it is thrown away unread, so that the client finds the
    /// close frame and not a reset connection.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The relay stops: what was asked is answered, then the connection is closed.
    Draining,
    /// The close frame follows when the outbox is empty.
    Closing(Ending),
    /// The close frame is on its way; the client's is awaited.
    Closed,
}

/// The connection is over; nobody is told.
struct Gone;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn rounds(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        self.timers(cx)?;
        for _ in 0..ROUNDS {
            // Registered before looking: whatever is queued after this wakes the task again.
            self.session.outbox().register(cx.waker());
            let read = self.read(cx)?;
            let worked = self.work(cx);
            let wrote = self.write(cx)?;
            self.change_phase();
            if !(read || worked || wrote) {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn timers(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        if self.phase == Phase::Open && self.drain.as_mut().poll(cx).is_ready() {
            self.session.going_away(RECONNECT_AFTER_MS);
            self.phase = Phase::Draining;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if matches!(self.phase, Phase::Closing(_) | Phase::Closed) {
                return Err(Gone);
            }
            let silent = Duration::from_millis(self.clock.millis().saturating_sub(self.heard));
            if silent >= self.idle {
                self.session.end(Ending::IDLE);
                self.change_phase();
            } else {
                self.set_alarm(self.idle - silent);
            }
        }
        Ok(())
    }

    fn set_alarm(&mut self, after: Duration) {
        self.alarm.as_mut().reset(tokio::time::Instant::now() + after);
    }

    fn change_phase(&mut self) {
        if self.phase == Phase::Draining && self.session.unanswered() == 0 {
            self.session.end(Ending::GOING_AWAY);
        }
        if let (Phase::Open | Phase::Draining, Some(ending)) = (self.phase, self.session.ending()) {
            self.phase = Phase::Closing(ending);
            self.set_alarm(CLOSING);
        }
    }

    /// Reads a burst. `true` if something came.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        if matches!(self.phase, Phase::Closing(_)) {
            return Ok(false);
        }
        if self.broken {
            return self.discard(cx);
        }
        let mut some = false;
        for _ in 0..BURST {
            if self.phase != Phase::Closed && (!self.session.accepts_frames() || self.session.ending().is_some()) {
                break;
            }
            let Poll::Ready(came) = Pin::new(&mut self.socket).poll_next(cx) else { break };
            some = true;
            match came {
                None => return Err(Gone),
                Some(Err(error)) => {
                    self.session.end(ending_of(&error).ok_or(Gone)?);
                    self.broken = true;
                    break;
                }
                Some(Ok(_)) if self.phase == Phase::Closed => {}
                Some(Ok(message)) => self.take(message, cx),
            }
        }
        if some {
            self.heard = self.clock.millis();
        }
        Ok(some)
    }

    /// Says that nothing more will be sent, then throws away what comes until the client has closed, too.
    fn discard(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        if self.phase != Phase::Closed || self.unflushed {
            return Ok(false);
        }
        let stream = self.socket.get_mut();
        if let Poll::Ready(shut) = Pin::new(&mut *stream).poll_shutdown(cx) {
            shut.map_err(|_| Gone)?;
        }
        let mut waste = [0; 4096];
        for _ in 0..BURST {
            let mut waste = ReadBuf::new(&mut waste);
            let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut waste) else { return Ok(false) };
            if read.is_err() || waste.filled().is_empty() {
                return Err(Gone);
            }
        }
        Ok(true)
    }

    fn take(&mut self, message: Message, cx: &mut Context<'_>) {
        let now = self.clock.millis();
        match message {
            Message::Binary(bytes) => {
                if let Some(work) = self.session.on_frame(ClientFrame::decode(bytes), now) {
                    self.begin(work, cx);
                }
            }
            Message::Text(_) => self.session.end(Ending::TEXT),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                // The socket answers pings by itself.
                self.unflushed = true;
                self.session.on_control(now);
            }
            // The socket answers by itself, and ends after the flush.
            Message::Close(_) => self.unflushed = true,
        }
    }

    /// Polls new work at once: that hands it to the store, in the order in which it was asked.
    fn begin(&mut self, mut work: Work, cx: &mut Context<'_>) {
        if work.as_mut().poll(cx).is_pending() {
            self.works.push(work);
        }
    }

    fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let mut some = false;
        if let Some(work) = self.session.catch_up() {
            self.begin(work, cx);
            some = true;
        }
        while let Poll::Ready(Some(())) = self.works.poll_next_unpin(cx) {
            some = true;
        }
        some
    }

    /// Hands the outbox to the socket, as far as it takes it. `true` if something was handed over.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        let mut some = false;
        while let Poll::Ready(ready) = Pin::new(&mut self.socket).poll_ready(cx) {
            ready.map_err(|_| Gone)?;
            let message = match (self.session.outbox().pop(), self.phase) {
                (_, Phase::Closed) => break,
                (Some(bytes), _) => Message::Binary(bytes),
                (None, Phase::Closing(ending)) => {
                    self.phase = Phase::Closed;
                    let code = CloseCode::from(ending.code);
                    Message::Close(Some(CloseFrame { code, reason: ending.reason.into() }))
                }
                (None, _) => break,
            };
            Pin::new(&mut self.socket).start_send(message).map_err(|_| Gone)?;
            self.unflushed = true;
            some = true;
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(cx)
        {
            flushed.map_err(|_| Gone)?;
            self.unflushed = false;
        }
        Ok(some)
    }
}

/// How to end after a read failed; `None` if there is nobody left to tell.
fn ending_of(error: &Error) -> Option<Ending> {
    match error {
        Error::Capacity(_) => Some(Ending::TOO_LARGE),
        Error::Utf8(_) => Some(Ending::TEXT),
        Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(Ending { code: 1002, reason: "PROTOCOL" }),
        _ => None,
    }
}
