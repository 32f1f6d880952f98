//! Reads a socket in large gulps without keeping a large buffer.
//!
//! A WebSocket's own buffer has to be small, because it is kept for the whole life of a connection and most connections are
//! idle; but one system call for each small read would cost more than handling what was read. This holds what a gulp
//! brought until it is used up, and nothing after that.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What is read at once, in bytes.
const GULP: usize = 16 * 1024;

/// A socket that is read in gulps.
pub(crate) struct Gulp<S> {
    io: S,
    /// What was read and is not used up.
    rest: Bytes,
}

impl<S> Gulp<S> {
    /// A socket of which `rest` was already read.
    pub(crate) fn new(io: S, rest: Bytes) -> Self {
        Self { io, rest }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gulp<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            let mut gulp = Vec::with_capacity(GULP);
            let read = pin!(self.io.read_buf(&mut gulp)).poll(cx);
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) => self.rest = gulp.into(),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gulp<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_or_kept() {
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let mut gulp = Gulp::new(&sent[3..], Bytes::copy_from_slice(&sent[..3]));
        let mut got = Vec::new();
        let mut small = [0; 777];
        loop {
            let read = gulp.read(&mut small).await.expect("a slice does not fail");
            if read == 0 {
                break;
            }
            got.extend_from_slice(&small[..read]);
        }
        assert_eq!(got, sent);
        assert!(gulp.rest.is_empty());
    }
}
