//! A speaker and its socket: a client's connection.

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::socket::{Door, Socket};
use super::speaker::{Heard, Speaker};

/// Connections that are made at the same time, because some servers take their time for each.
const AT_ONCE: usize = 64;

/// A connection that speaks a protocol.
pub(crate) struct Line {
    pub(crate) socket: Socket,
    pub(crate) speaker: Box<dyn Speaker>,
    pub(crate) heard: Heard,
}

impl Line {
    /// Connects, begins, and waits until the beginning is answered. `room` is the size of the read buffer.
    pub(crate) async fn open(door: &Door, speaker: Box<dyn Speaker>, room: usize) -> anyhow::Result<Self> {
        let mut line = Self { socket: Socket::connect(door, room).await?, speaker, heard: Heard::default() };
        line.begin().await?;
        Ok(line)
    }

    /// Opens many connections, some at the same time, and returns them in the order of the speakers.
    pub(crate) async fn open_all(
        door: &Door,
        speakers: Vec<Box<dyn Speaker>>,
        room: usize,
    ) -> anyhow::Result<Vec<Self>> {
        let opening = speakers.into_iter().map(|speaker| Self::open(door, speaker, room));
        futures_util::stream::iter(opening).buffered(AT_ONCE).try_collect().await
    }

    /// Says what comes first, and waits until that is answered.
    pub(crate) async fn begin(&mut self) -> anyhow::Result<()> {
        self.speaker.begin(&mut self.socket.out);
        self.socket.flush().await?;
        // What came right behind the handshake is in the buffer already.
        self.digest().await?;
        while !self.heard.ready {
            self.listen().await?;
        }
        Ok(())
    }

    /// Queues a post, which leaves with the next flush.
    pub(crate) fn post(&mut self, payload: &[u8]) {
        self.speaker.post(payload, &mut self.socket.out);
    }

    /// Takes what is in the socket's buffer, and answers it.
    pub(crate) async fn digest(&mut self) -> anyhow::Result<()> {
        while let Some(message) = self.socket.next()? {
            let (bytes, out) = self.socket.bytes(message);
            self.speaker.hear(bytes, out, &mut self.heard)?;
        }
        self.speaker.after_burst(&mut self.socket.out);
        self.socket.flush().await
    }

    /// Waits for bytes, and takes what came.
    pub(crate) async fn listen(&mut self) -> anyhow::Result<()> {
        self.socket.fill().await?;
        self.digest().await
    }

    /// Listens until `delivered` payloads have come altogether.
    pub(crate) async fn receive(&mut self, delivered: u64) -> anyhow::Result<()> {
        self.digest().await?;
        while self.heard.delivered < delivered {
            self.listen().await?;
        }
        Ok(())
    }

    /// Acknowledges everything that came.
    pub(crate) async fn acknowledge(&mut self) -> anyhow::Result<()> {
        self.speaker.acknowledge(&mut self.socket.out);
        self.socket.flush().await
    }

    /// Acknowledges everything that came, and closes the connection.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.speaker.acknowledge(&mut self.socket.out);
        self.socket.close().await
    }
}
