//! A socket that speaks WebSocket and keeps nothing while it is idle.
//!
//! Owns the connection's bytes between the system and the messages. It reads into a buffer that the
//! connections of a thread share, and gathers what is to be written in another; only what could not be taken
//! in at once is kept. Knows neither sessions nor what messages mean.

use std::cell::Cell;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::websocket::{self, Decoder, Event, Fault};
use crate::outbox::Message;

/// What is read or gathered for writing at once, in bytes.
const GULP: usize = 16 * 1024;
/// A longer frame is written from where it lies instead of being gathered: it is shared with its other
/// readers.
const LONG: usize = 4 * 1024;

thread_local! {
    /// The buffers of this thread that nobody uses just now. Two at a time are in use: one to read, one to
    /// write.
    static BUFFERS: Cell<[Vec<u8>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// A buffer of the thread, given back on drop.
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    /// An empty buffer with room for a gulp and a header.
    pub(crate) fn borrow() -> Self {
        let [first, second] = BUFFERS.take();
        let (mut buffer, other) = if first.capacity() > 0 { (first, second) } else { (second, first) };
        BUFFERS.set([other, Vec::new()]);
        buffer.clear();
        buffer.reserve(GULP + LONG + 16);
        Self(buffer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let [first, second] = BUFFERS.take();
        let mine = std::mem::take(&mut self.0);
        BUFFERS.set(if first.capacity() > 0 { [first, mine] } else { [mine, second] });
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// A socket, and what it owes and is owed.
pub(crate) struct Socket<S> {
    io: S,
    decoder: Decoder,
    /// Was read, and nobody wanted it yet.
    rest: Bytes,
    /// Was given to be sent, and the system did not take it: gathered frames, and a long one behind them.
    unsent: [Bytes; 2],
    /// The system took bytes that may still wait in the encryption.
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket of which `rest` was already read, for messages of at most `most` bytes.
    pub(crate) fn new(io: S, rest: Bytes, most: usize) -> Self {
        Self { io, decoder: Decoder::new(most), rest, unsent: [Bytes::new(), Bytes::new()], unflushed: false }
    }

    /// What is left of earlier gulps; to be given back with [`Self::keep`] if it is not used up.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Whether something is left of earlier gulps.
    pub(crate) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Keeps what cannot be taken now.
    pub(crate) fn keep(&mut self, rest: Bytes) {
        self.rest = rest;
    }

    /// Reads a gulp. `Ok(false)` at the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, gulp: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        gulp.clear();
        let mut gulp = gulp.limit(GULP);
        let count = ready!(pin!(self.io.read_buf(&mut gulp)).poll(cx))?;
        Poll::Ready(Ok(count > 0))
    }

    /// The next message in these bytes.
    pub(crate) fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Fault> {
        self.decoder.take(input)
    }

    /// Bytes held of what was read and is no whole message, and of what nobody wanted yet.
    pub(crate) fn held(&self) -> usize {
        self.decoder.held() + self.rest.len()
    }

    /// Whether a message or frame has begun and not ended.
    pub(crate) fn is_within_message(&self) -> bool {
        self.decoder.is_within_message()
    }

    /// Whether all that was sent has left.
    pub(crate) fn is_clear(&self) -> bool {
        self.unsent[0].is_empty() && !self.unflushed
    }

    /// Writes what is left of earlier sending. Ready when it has left; the number is of bytes that left now.
    pub(crate) fn poll_clear(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<io::Result<()>> {
        while !self.unsent[0].is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent[0]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *left += count;
            self.unflushed = true;
            self.unsent[0].advance(count);
            if self.unsent[0].is_empty() {
                self.unsent.swap(0, 1);
                self.unsent[1] = Bytes::new();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends gathered frames and a long one behind them, as [`Draft`] made them. The socket must be clear;
    /// what the system does not take at once is kept.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        draft: Draft<'_>,
        left: &mut usize,
    ) -> Poll<io::Result<()>> {
        let Draft { gathered, mut long } = draft;
        let mut done = 0;
        while done < gathered.len() {
            let io = Pin::new(&mut self.io);
            let sent = match long.is_empty() {
                true => io.poll_write(cx, &gathered[done..]),
                false => io.poll_write_vectored(cx, &[IoSlice::new(&gathered[done..]), IoSlice::new(&long)]),
            };
            match sent {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => done += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        *left += done;
        self.unflushed |= done > 0;
        long.advance(done.saturating_sub(gathered.len()));
        self.unsent = [Bytes::copy_from_slice(&gathered[done.min(gathered.len())..]), long];
        if self.unsent[0].is_empty() {
            self.unsent.swap(0, 1);
        }
        self.poll_clear(cx, left)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Frames on their way into one system call.
pub(crate) struct Draft<'a> {
    gathered: &'a mut Vec<u8>,
    long: Bytes,
}

impl<'a> Draft<'a> {
    /// Begins in this buffer.
    pub(crate) fn new(buffer: &'a mut Vec<u8>) -> Self {
        buffer.clear();
        Self { gathered: buffer, long: Bytes::new() }
    }

    /// Adds a message. `false`: no more now.
    pub(crate) fn push(&mut self, message: &Message) -> bool {
        websocket::begin_binary(message.len(), self.gathered);
        let (head, rest) = message.pieces();
        self.gathered.extend_from_slice(head);
        if rest.len() > LONG {
            self.long = rest.clone();
            return false;
        }
        self.gathered.extend_from_slice(rest);
        self.gathered.len() < GULP
    }

    /// Whether anything may be added.
    pub(crate) fn is_open(&self) -> bool {
        self.long.is_empty() && self.gathered.len() < GULP
    }

    /// For control frames, while [`Self::is_open`].
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        self.gathered
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }
}
