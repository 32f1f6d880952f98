//! What comes and goes in streams: of each little is in memory, however large or slow it is.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::StreamBody;
use hyper::StatusCode;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{EXPECT, HeaderMap};
use posthorn_proto::ErrorCode;
use posthorn_proto::limits::BLOB_PART_BYTES;

use super::pace::{Pace, TooSlow};
use super::refusal::Refused;
use crate::gateway::doors::Visitor;
use crate::parts::{Arriving, Owner, PartError, Parts};

/// So much is written at once.
const CHUNK: usize = 64 * 1024;

/// A body that goes out.
pub(super) type Download = StreamBody<Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>>;

/// Sends these bytes of a blob. A part that is gone meanwhile ends the connection: the length was announced.
pub(super) fn download(
    parts: Arc<dyn Parts>,
    owner: Owner,
    bytes: Range<u64>,
    transfer: Visitor,
) -> Download {
    let chunks = stream::unfold((bytes, transfer), move |(bytes, transfer)| {
        let parts = parts.clone();
        async move {
            let part_bytes = u64::from(BLOB_PART_BYTES);
            let (part, start) = (bytes.start / part_bytes, bytes.start % part_bytes);
            let end = part_bytes
                .min(start + u64::from(parts.read_at_once()))
                .min(start + bytes.end.saturating_sub(bytes.start));
            if end <= start {
                return None;
            }
            let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let read = parts.read(owner, small(part), small(start)..small(end)).await;
            let left = bytes.start + (end - start)..bytes.end;
            Some((read.map(Frame::data).map_err(io::Error::other), (left, transfer)))
        }
    });
    StreamBody::new(Box::pin(chunks))
}

/// A body that comes in.
pub(super) struct Upload {
    body: Incoming,
    pace: Pace,
    /// Whether the client waits for a word before it sends anything.
    is_held_back: bool,
}

impl Upload {
    pub(super) fn new(headers: &HeaderMap, body: Incoming, window: Duration) -> Self {
        Self { body, pace: Pace::new(window), is_held_back: headers.contains_key(EXPECT) }
    }

    /// Refuses any body.
    pub(super) fn check_empty(&self) -> Result<(), Refused> {
        match self.body.is_end_stream() {
            true => Ok(()),
            false => {
                Err(Refused::new(ErrorCode::BadRequest, "a blob is created without a body: put its parts"))
            }
        }
    }

    /// Refuses another length than that of the part.
    pub(super) fn check_length(&self, expected: u64) -> Result<(), Refused> {
        match self.body.size_hint().exact() {
            Some(length) if length == expected => Ok(()),
            Some(length) => {
                let text = format!("this part has {expected} bytes, and {length} are announced");
                Err(Refused::new(ErrorCode::BadRequest, text))
            }
            None => Err(Refused::new(ErrorCode::BadRequest, "the length must be announced: Content-Length")
                .with(StatusCode::LENGTH_REQUIRED)),
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        loop {
            let (body, pace) = (&mut self.body, &mut self.pace);
            let frame = poll_fn(|cx| {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                let bytes = |frame: &Option<Result<Frame<Bytes>, hyper::Error>>| match frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    _ => 0,
                };
                pace.judge(cx, polled, bytes)
            });
            let slow = |TooSlow| {
                Refused::new(
                    ErrorCode::TooSlow,
                    "less than 16 KiB came in the time that the relay waits for it",
                )
            };
            match frame.await.map_err(slow)? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(_)) => {
                    return Err(Refused::new(
                        ErrorCode::BadRequest,
                        "the part ended before its announced end",
                    ));
                }
            }
        }
    }

    /// Writes all of it, as it arrives.
    pub(super) async fn write_to(&mut self, arriving: &mut dyn Arriving) -> Result<(), Refused> {
        let mut chunk = Vec::new();
        while let Some(bytes) = self.next().await? {
            chunk.extend_from_slice(&bytes);
            if chunk.len() >= CHUNK {
                arriving.write(std::mem::take(&mut chunk)).await?;
            }
        }
        match chunk.is_empty() {
            true => Ok(()),
            false => arriving.write(chunk).await.map_err(PartError::into),
        }
    }

    /// Reads on without keeping anything, as far as one part may go, unless nothing is sent yet.
    pub(super) async fn pass_over(mut self) {
        let mut left = BLOB_PART_BYTES as usize;
        while !self.is_held_back
            && let Ok(Some(bytes)) = self.next().await
            && bytes.len() <= left
        {
            left -= bytes.len();
        }
    }
}
