//! A WebSocket client over TCP: frames are encoded into one buffer that leaves in one write, and decoded in
//! place.
//!
//! Owns the stream and both buffers. Masks with zeros: RFC 6455 asks for a mask, this one costs the client
//! nothing, and the server unmasks all the same. Knows nothing of what messages mean.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long a server may say nothing, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Least room for a read, in bytes.
const ROOM: usize = 4096;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Where to connect, and how to ask.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) subprotocol: &'static str,
    /// The client's own address, for more connections than one loopback address has ports.
    pub(crate) from: Option<Ipv4Addr>,
}

/// A connection, with what was read and what is to be sent.
#[derive(Debug)]
pub(crate) struct Socket {
    read: OwnedReadHalf,
    write: Arc<OwnedWriteHalf>,
    inbox: Vec<u8>,
    /// Everything before this has been used.
    used: usize,
    /// How many bytes one read may bring.
    room: usize,
    /// Frames that leave with the next flush.
    pub(crate) out: Vec<u8>,
}

impl Socket {
    /// Connects and makes the handshake. `room` is the size of the read buffer.
    pub(crate) async fn connect(door: &Door, room: usize) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = door.from {
            socket.bind(SocketAddr::from((from, 0)))?;
        }
        let stream = timeout(PATIENCE, socket.connect(door.address)).await.context("no connection")??;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let room = room.max(ROOM);
        let mut socket =
            Self { read, write: Arc::new(write), inbox: Vec::new(), used: 0, room, out: Vec::new() };
        let protocol = match door.subprotocol {
            "" => String::new(),
            name => format!("Sec-WebSocket-Protocol: {name}\r\n"),
        };
        socket.out = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: cG9zdGhvcm4gYmVuY2ghIQ==\r\n{protocol}\r\n",
            door.path, door.address
        )
        .into_bytes();
        socket.flush().await?;
        let end = loop {
            timeout(PATIENCE, socket.fill()).await.context("the handshake is not answered")??;
            if let Some(at) = socket.inbox.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        if !socket.inbox.starts_with(b"HTTP/1.1 101") {
            bail!("the handshake is answered: {}", String::from_utf8_lossy(&socket.inbox[..end]).trim());
        }
        socket.used = end;
        Ok(socket)
    }

    /// Waits for bytes, for as long as it takes; whoever runs a workload sets a bound. May be dropped and
    /// called again without loss.
    pub(crate) async fn fill(&mut self) -> anyhow::Result<()> {
        if self.used > 0 {
            self.inbox.drain(..self.used);
            self.used = 0;
        }
        if self.inbox.capacity() - self.inbox.len() < self.room / 2 {
            self.inbox.reserve(self.room);
        }
        let read = self.read.read_buf(&mut self.inbox).await?;
        anyhow::ensure!(read > 0, "the server closed the connection");
        Ok(())
    }

    /// The next whole message in the buffer, to be given to [`Socket::bytes`]. Answers pings on the way.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Range<usize>>> {
        loop {
            let rest = &self.inbox[self.used..];
            let Some((opcode, header, length)) = header(rest)? else { return Ok(None) };
            if rest.len() < header + length {
                return Ok(None);
            }
            let payload = self.used + header..self.used + header + length;
            self.used = payload.end;
            match opcode {
                // A continuation is more of the stream; protocols of whole messages notice by themselves.
                0..=BINARY => return Ok(Some(payload)),
                PING => {
                    let echo = self.inbox[payload].to_vec();
                    self.out.extend_from_slice(&[0x80 | PONG, 0x80 | echo.len() as u8, 0, 0, 0, 0]);
                    self.out.extend_from_slice(&echo);
                }
                CLOSE => bail!("the server closes: {}", String::from_utf8_lossy(&self.inbox[payload])),
                _ => {}
            }
        }
    }

    /// The bytes of a message that [`Socket::next`] found, and where to put answers.
    pub(crate) fn bytes(&mut self, message: Range<usize>) -> (&[u8], &mut Vec<u8>) {
        (&self.inbox[message], &mut self.out)
    }

    /// Sends what was put into `out`.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.write.try_write(&self.out[sent..]) {
                Ok(some) => sent += some,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    timeout(PATIENCE, self.write.writable()).await.context("the server takes nothing")??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        Ok(())
    }

    /// A second handle of the sending side, for a thread that keeps time. Whoever uses it must be the only
    /// one to send.
    pub(crate) fn sender(&self) -> Arc<OwnedWriteHalf> {
        Arc::clone(&self.write)
    }

    /// Gives the buffers' memory back, for connections that will be idle.
    pub(crate) fn shrink(&mut self) {
        self.inbox.drain(..self.used);
        self.used = 0;
        self.inbox.shrink_to_fit();
        self.out = Vec::new();
    }

    /// Closes the connection.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.out.extend_from_slice(&[0x80 | CLOSE, 0x80, 0, 0, 0, 0]);
        self.flush().await?;
        // Only the last handle can shut it down; dropping the others does the same.
        if let Ok(mut write) = Arc::try_unwrap(self.write) {
            let _ = write.shutdown().await;
        }
        Ok(())
    }
}

/// Opcode, length of the header and of the payload.
fn header(bytes: &[u8]) -> anyhow::Result<Option<(u8, usize, usize)>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    anyhow::ensure!(second & 0x80 == 0, "a server masked its frame");
    let opcode = first & 0x0f;
    Ok(match second {
        126 => rest.first_chunk().map(|length| (opcode, 4, u16::from_be_bytes(*length) as usize)),
        127 => rest.first_chunk().map(|length| (opcode, 10, u64::from_be_bytes(*length) as usize)),
        length => Some((opcode, 2, *length as usize)),
    })
}

/// Begins a binary message of this length; its bytes follow.
pub(crate) fn begin_message(out: &mut Vec<u8>, length: usize) {
    out.push(0x80 | BINARY);
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
}

/// A whole binary message.
pub(crate) fn message(out: &mut Vec<u8>, bytes: &[u8]) {
    begin_message(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_all_lengths() {
        for length in [0, 1, 125, 126, 1024, 0xffff, 0x1_0000] {
            let mut out = Vec::new();
            message(&mut out, &vec![7; length]);
            // What a client sends is masked, which is undone here, because `header` reads what servers send.
            let masked = out[1] & 0x80;
            out[1] &= 0x7f;
            let (opcode, bytes, found) = header(&out).expect("unmasked").expect("whole");
            assert_eq!((masked, opcode, found), (0x80, BINARY, length));
            assert_eq!(out.len(), bytes + 4 + length, "four bytes of mask");
        }
        assert!(header(&[0x82, 126, 1]).expect("unmasked").is_none());
        assert!(header(&[0x82, 0x81]).is_err());
    }
}
