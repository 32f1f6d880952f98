//! HTTP/1.1 as plain as it gets, and blobs by it: for what no client of ours does yet.
//!
//! Owns a connection. What it makes is well formed.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use posthorn_proto::limits::BLOB_PART_BYTES;
use posthorn_proto::{BLOB_PATH, BlobId, HolderKey, Token};
use rand::{CryptoRng, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::PATIENCE;

/// How long blobs are leased for, seconds: thirty days, since no program runs that long.
const LEASE: u32 = 30 * 24 * 3600;

/// A connection.
#[derive(Debug)]
pub struct Http {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its first lines.
    pub head: String,
    /// What comes behind them.
    pub body: Vec<u8>,
}

impl Answer {
    /// The words of a refusal, which begin with its code.
    pub fn words(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body).trim())
    }
}

impl Http {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { stream: TcpStream::connect(address).await?, read: Vec::new() })
    }

    /// Asks, and waits for the answer.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: relay\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        self.stream.write_all((head + "\r\n").as_bytes()).await?;
        self.stream.write_all(body).await?;
        timeout(PATIENCE, self.answer(method == "HEAD")).await.context("no answer in time")?
    }

    async fn answer(&mut self, is_head: bool) -> anyhow::Result<Answer> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.read.drain(..end).collect())?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        let length = if is_head { 0 } else { length.unwrap_or(0) };
        while self.read.len() < length {
            self.more().await?;
        }
        Ok(Answer { status, head, body: self.read.drain(..length).collect() })
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        let read = self.stream.read(&mut chunk).await?;
        ensure!(read > 0, "the relay closed the connection");
        self.read.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}

/// A blob whose bytes follow from its name.
#[derive(Debug, Clone)]
pub struct BareBlob {
    /// Its name.
    pub id: BlobId,
    /// Its holder's key.
    pub key: HolderKey,
    /// How many bytes it has.
    pub length: u64,
}

impl BareBlob {
    /// A new one, which the relay does not know yet.
    pub fn new(length: u64, rng: &mut impl CryptoRng) -> Self {
        Self { id: BlobId::random(rng), key: HolderKey::random(rng), length }
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("{BLOB_PATH}{}", hex(&self.id.0))
    }

    /// How many parts it has.
    pub fn parts(&self) -> u32 {
        u32::try_from(self.length.div_ceil(BLOB_PART_BYTES.into())).unwrap_or(u32::MAX)
    }

    /// The bytes of a part.
    pub fn bytes(&self, part: u32) -> Vec<u8> {
        let start = u64::from(part) * u64::from(BLOB_PART_BYTES);
        let length = (self.length - start).min(BLOB_PART_BYTES.into());
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&self.id.0);
        seed[16..20].copy_from_slice(&part.to_le_bytes());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        ChaCha20Rng::from_seed(seed).fill_bytes(&mut bytes);
        bytes
    }

    /// What shows that one is its holder.
    pub fn held(&self) -> (&'static str, String) {
        ("Authorization", format!("Bearer {}", hex(self.key.expose())))
    }

    /// The headers that create it, for longer than any test.
    pub fn creation(&self, token: &Token) -> [(&'static str, String); 4] {
        [
            ("Authorization", format!("Bearer {}", hex(token.expose()))),
            ("Posthorn-Blob-Length", self.length.to_string()),
            ("Posthorn-Blob-Holder", hex(&self.key.hash().0)),
            ("Posthorn-Blob-Lease", LEASE.to_string()),
        ]
    }

    /// Creates it.
    pub async fn create(&self, http: &mut Http, token: &Token) -> anyhow::Result<Answer> {
        http.ask("POST", &self.path(), &self.creation(token), b"").await
    }

    /// Puts a part.
    pub async fn put(&self, http: &mut Http, part: u32) -> anyhow::Result<Answer> {
        http.ask("PUT", &format!("{}/{part}", self.path()), &[self.held()], &self.bytes(part)).await
    }

    /// Gets a part.
    pub async fn get(&self, http: &mut Http, part: u32) -> anyhow::Result<Answer> {
        http.ask("GET", &format!("{}/{part}", self.path()), &[], b"").await
    }

    /// Deletes it.
    pub async fn delete(&self, http: &mut Http) -> anyhow::Result<Answer> {
        http.ask("DELETE", &self.path(), &[self.held()], b"").await
    }
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
