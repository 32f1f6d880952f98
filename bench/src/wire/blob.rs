//! Blobs over HTTP/1.1 (docs/protocol.md, section 9).
//!
//! Owns a connection. Sends the same bytes as every part, and counts what it gets.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use data_encoding::HEXLOWER;
use posthorn_proto::{BLOB_PATH, BlobId, HolderKey, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HOLDER: [u8; 32] = [5; 32];

/// A connection.
pub(crate) struct Courier {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Courier {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, inbox: vec![0; 256 * 1024] })
    }

    /// Creates a blob and puts its parts, which are all like this one.
    pub(crate) async fn put(
        &mut self,
        blob: BlobId,
        token: &Token,
        parts: u32,
        part: &[u8],
    ) -> anyhow::Result<()> {
        let create = format!(
            "Authorization: Bearer {}\r\nPosthorn-Blob-Length: {}\r\nPosthorn-Blob-Holder: {}\r\nPosthorn-Blob-Lease: 3600\r\n",
            HEXLOWER.encode(token.expose()),
            u64::from(parts) * part.len() as u64,
            HEXLOWER.encode(&HolderKey::from_bytes(HOLDER).hash().0),
        );
        self.ask("POST", &path(blob), &create, b"", 201).await?;
        let held = format!("Authorization: Bearer {}\r\n", HEXLOWER.encode(&HOLDER));
        for number in 0..parts {
            self.ask("PUT", &format!("{}/{number}", path(blob)), &held, part, 201).await?;
        }
        Ok(())
    }

    /// Gets a whole blob.
    pub(crate) async fn get(&mut self, blob: BlobId, parts: u32, part: &[u8]) -> anyhow::Result<()> {
        let length = self.ask("GET", &path(blob), "", b"", 200).await?;
        ensure!(length == u64::from(parts) * part.len() as u64, "a blob of {length} bytes");
        Ok(())
    }

    /// Asks, and reads the answer to its end. Returns how long its body was.
    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
        status: u16,
    ) -> anyhow::Result<u64> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: relay\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body).await?;
        let (mut read, mut head_end) = (0, None);
        while head_end.is_none() {
            ensure!(read < self.inbox.len(), "an endless head");
            let some = self.stream.read(&mut self.inbox[read..]).await?;
            ensure!(some > 0, "the relay closed the connection");
            read += some;
            head_end = self.inbox[..read].windows(4).position(|four| four == b"\r\n\r\n");
        }
        let body_start = head_end.context("found above")? + 4;
        let head = String::from_utf8_lossy(&self.inbox[..body_start]).to_lowercase();
        ensure!(head.split(' ').nth(1) == Some(&status.to_string()[..]), "{method}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: u64 = length.context("a length")?.parse()?;
        let mut left = length.saturating_sub((read - body_start) as u64);
        while left > 0 {
            let some = self.stream.read(&mut self.inbox).await?;
            ensure!(some > 0, "the relay closed the connection");
            left = left.saturating_sub(some as u64);
        }
        Ok(length)
    }
}

fn path(blob: BlobId) -> String {
    format!("{BLOB_PATH}{}", HEXLOWER.encode(&blob.0))
}
