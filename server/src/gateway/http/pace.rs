//! How slow the other side may be: of what it is waited for, so much must come in so much time. Time in which
//! the relay itself is busy does not count.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What must move while the other side is waited for, in bytes for each window.
const LEAST: usize = 16 * 1024;

/// The other side is slower than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow;

/// Counts what moves, and for how long the other side was waited for.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    /// In this window, up to the last time that something moved.
    waited: Duration,
    moved: usize,
    /// Since when it is waited for, and what wakes whoever waits at the end of the window.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, moved: 0, waiting: None }
    }

    /// Passes on what was polled of the other side. `bytes` says how much has moved by it.
    pub(super) fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<Result<T, TooSlow>> {
        match polled {
            Poll::Ready(moved) => {
                let waited = self.waiting.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                self.moved(bytes(&moved), waited);
                Poll::Ready(Ok(moved))
            }
            Poll::Pending => {
                ready!(self.waits(cx));
                Poll::Ready(Err(TooSlow))
            }
        }
    }

    /// So much moved after so long a wait.
    fn moved(&mut self, bytes: usize, waited: Duration) {
        self.waited += waited;
        self.moved += bytes;
        if self.moved >= LEAST {
            (self.waited, self.moved) = (Duration::ZERO, 0);
        }
    }

    /// For how much longer it may be waited for what is lacking.
    fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left();
        let (_, end) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + left)))
        });
        end.as_mut().poll(cx)
    }
}

/// A socket that fails when the other side takes what is written too slowly.
#[derive(Debug)]
pub(super) struct Paced<S> {
    io: S,
    pace: Pace,
}

impl<S> Paced<S> {
    pub(super) fn new(io: S, window: Duration) -> Self {
        Self { io, pace: Pace::new(window) }
    }

    pub(super) fn into_inner(self) -> S {
        self.io
    }

    fn judge<T>(
        pace: &mut Pace,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let judged = ready!(pace.judge(cx, polled, |done| done.as_ref().map_or(0, bytes)));
        Poll::Ready(judged.unwrap_or_else(|TooSlow| Err(io::ErrorKind::TimedOut.into())))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever waits for a request or for its body knows how long that may take.
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        Self::judge(&mut this.pace, cx, polled, |bytes| *bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        Self::judge(&mut this.pace, cx, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        Self::judge(&mut this.pace, cx, polled, |bytes| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn so_much_must_move_in_a_window() {
        let mut pace = Pace::new(10 * SECOND);
        for _ in 0..5 {
            pace.moved(LEAST, 9 * SECOND);
            assert_eq!(pace.left(), 10 * SECOND, "enough, so the next window begins");
        }
        pace.moved(10, 4 * SECOND);
        pace.moved(LEAST - 11, 5 * SECOND);
        assert_eq!(pace.left(), SECOND, "a byte is lacking");
        pace.moved(0, 2 * SECOND);
        assert_eq!(pace.left(), Duration::ZERO);
    }

    #[tokio::test]
    async fn who_sends_nothing_is_too_slow() {
        let mut pace = Pace::new(Duration::from_millis(20));
        let mut never = Box::pin(pending::<()>());
        let judged = poll_fn(|cx| {
            let polled = never.as_mut().poll(cx);
            pace.judge(cx, polled, |()| 0)
        });
        assert_eq!(judged.await, Err(TooSlow));
        let mut pace = Pace::new(Duration::ZERO);
        let at_once = poll_fn(|cx| pace.judge(cx, Poll::Ready(5), |bytes| *bytes));
        assert_eq!(at_once.await, Ok(5), "what is there was not waited for");
    }
}
