//! Blobs by HTTP (docs/protocol.md, section 9): create, put a part, get, extend the lease, delete.
//!
//! Nobody authenticates here. A token pays for a blob, its holder's key allows to change it, and its name, 16
//! random bytes, to read it. What is put and got is streamed: of each transfer little is in memory.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use hyper::Method;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use posthorn_proto::limits::BLOB_PART_BYTES;
use posthorn_proto::{BLOB_PATH, BlobId, ErrorCode, HolderKey, KeyHash, Limits, Token};

use super::range::{self, Asked};
use super::refusal::Refused;
use super::stream::{self, Upload};
use super::{Answer, Body};
use crate::clock::SystemClock;
use crate::command::Context;
use crate::command::neighbourhood::AddressBuckets;
use crate::config::Config;
use crate::gateway::doors::{Doors, Visitor};
use crate::parts::{self, Owner};
use crate::store::paying::create_blob;
use crate::store::{BlobView, NewBlob};

const LENGTH: HeaderName = HeaderName::from_static("posthorn-blob-length");
const HOLDER: HeaderName = HeaderName::from_static("posthorn-blob-holder");
const LEASE: HeaderName = HeaderName::from_static("posthorn-blob-lease");
const UNTIL: HeaderName = HeaderName::from_static("posthorn-blob-until");

/// Most addresses that the rate remembers.
const REMEMBERED: usize = 100_000;

/// What serving blobs needs beside the relay.
pub(crate) struct Desk {
    parts: Arc<dyn parts::Parts>,
    /// Counts what is being put and got.
    transfers: Arc<Doors>,
    requests: AddressBuckets,
    /// Makes tags of blobs that say nothing else.
    tags: RandomState,
    /// See [`Pace`](super::pace::Pace).
    pub(super) window: Duration,
}

impl Desk {
    /// A desk for blobs whose parts lie there.
    pub(crate) fn new(config: &Config, parts: Arc<dyn parts::Parts>) -> Self {
        let (blobs, rates) = (&config.blobs, &config.rates);
        let (transfers, each) = (blobs.transfers, blobs.transfers_per_address);
        let rate = rates.blob_requests_per_address_per_second;
        Self {
            parts,
            transfers: Doors::new(transfers, each, rates.exempt.clone()),
            requests: AddressBuckets::new(rate, 1, rate.saturating_mul(4), REMEMBERED),
            tags: RandomState::new(),
            window: Duration::from_secs(blobs.slow_seconds.into()),
        }
    }

    /// Whether parts are refused just now.
    pub(super) fn refuses(&self) -> bool {
        self.parts.refusal().is_some()
    }
}

/// What a path below [`BLOB_PATH`] names.
enum Target {
    Blob(BlobId),
    Part(BlobId, u32),
    Lease(BlobId),
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut steps = path.strip_prefix(BLOB_PATH)?.split('/');
        let blob = BlobId(HEX.decode(steps.next()?.as_bytes()).ok()?.try_into().ok()?);
        let target = match steps.next() {
            None => Self::Blob(blob),
            Some("lease") => Self::Lease(blob),
            Some(part) if part.bytes().all(|byte| byte.is_ascii_digit()) => {
                Self::Part(blob, part.parse().ok()?)
            }
            Some(_) => return None,
        };
        steps.next().is_none().then_some(target)
    }

    /// The methods that it takes.
    fn allows(&self) -> &'static str {
        match self {
            Self::Blob(_) => "POST, GET, HEAD, DELETE, OPTIONS",
            Self::Part(..) => "PUT, GET, HEAD, OPTIONS",
            Self::Lease(_) => "PUT, OPTIONS",
        }
    }
}

/// One request about a blob.
pub(super) struct Call<'a> {
    pub(super) context: &'a Context,
    pub(super) desk: &'a Desk,
    pub(super) clock: &'a SystemClock,
    /// Whom limits by address concern.
    pub(super) address: IpAddr,
    /// Of its connection.
    pub(super) visitor: &'a Visitor,
}

impl Call<'_> {
    /// The answer, which every page of every origin may read: there are no cookies that could betray anybody.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let is_head = request.method() == Method::HEAD;
        let (head, body) = request.into_parts();
        let mut upload = Upload::new(&head.headers, body, self.desk.window);
        let mut answer = match self.carry_out(&head, &mut upload).await {
            Ok(answer) => answer,
            Err(refused) => {
                // Closed with bytes that nobody took, the connection would be reset, perhaps before the
                // answer was read.
                upload.pass_over().await;
                refused.answer(is_head)
            }
        };
        let headers = answer.headers_mut();
        let mut allow =
            |name, value| headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        allow("access-control-allow-origin", "*");
        allow(
            "access-control-expose-headers",
            "content-length, content-range, etag, retry-after, posthorn-blob-length, posthorn-blob-until, posthorn-error",
        );
        answer
    }

    async fn carry_out(&self, request: &Parts, upload: &mut Upload) -> Result<Answer, Refused> {
        if request.method == Method::OPTIONS {
            // Before anything that may be refused: of what follows a preflight that failed, a page learns
            // nothing at all. It costs no more than a refusal.
            return Ok(preflight());
        }
        let target = Target::parse(request.uri.path()).ok_or_else(|| {
            Refused::new(ErrorCode::BadRequest, "a blob is named by 32 hexadecimal digits")
                .with(StatusCode::NOT_FOUND)
        })?;
        if let Some(address) = self.visitor.limited(self.address) {
            let taken = self.desk.requests.take(address, 1, self.clock.millis());
            taken.map_err(Refused::rate_limited)?;
        }
        if self.context.is_draining() {
            return Err(Refused::new(ErrorCode::ShuttingDown, "the relay is stopping: try again soon"));
        }
        let headers = &request.headers;
        match (&request.method, &target) {
            (&Method::POST, Target::Blob(blob)) => {
                upload.check_empty()?;
                self.create(*blob, headers).await
            }
            (&Method::GET | &Method::HEAD, Target::Blob(blob)) => self.get(*blob, None, request).await,
            (&Method::GET | &Method::HEAD, Target::Part(blob, part)) => {
                self.get(*blob, Some(*part), request).await
            }
            (&Method::PUT, Target::Part(blob, part)) => self.put(*blob, *part, headers, upload).await,
            (&Method::PUT, Target::Lease(blob)) => self.extend(*blob, headers).await,
            (&Method::DELETE, Target::Blob(blob)) => {
                let holder = holder(headers)?;
                self.context.blobs.delete_blob(*blob, holder).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            _ => {
                let refused = Refused::new(ErrorCode::BadRequest, "this is not what a blob is asked for");
                Err(refused.with(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, target.allows()))
            }
        }
    }

    async fn create(&self, blob: BlobId, headers: &HeaderMap) -> Result<Answer, Refused> {
        let token = Token::from_bytes(bearer(headers, "the upload token")?).hash();
        let length: u64 = number(headers, LENGTH)?;
        let Limits { blob_bytes, .. } = self.context.limits;
        if blob_bytes == 0 {
            return Err(Refused::new(ErrorCode::TooLarge, "this relay takes no blobs"));
        }
        if length == 0 || length > blob_bytes {
            let text = format!("a blob has 1 to {blob_bytes} bytes here, and this would have {length}");
            let code = if length == 0 { ErrorCode::BadRequest } else { ErrorCode::TooLarge };
            return Err(Refused::new(code, text));
        }
        let holder = KeyHash(secret(text(headers, HOLDER)?, "Posthorn-Blob-Holder")?);
        let seconds = self.lease(headers)?;
        let new = NewBlob { blob, token, holder, length, seconds };
        // Before the token is spent: what cannot be put is of no use.
        if let Some(why) = self.desk.parts.refusal() {
            return Err(why.into());
        }
        let view = create_blob(&*self.context.directory, &*self.context.blobs, new).await?;
        Ok(told(empty(StatusCode::CREATED), &view))
    }

    async fn extend(&self, blob: BlobId, headers: &HeaderMap) -> Result<Answer, Refused> {
        let (holder, seconds) = (holder(headers)?, self.lease(headers)?);
        let view = self.context.blobs.extend_blob(blob, holder, seconds).await?;
        Ok(told(empty(StatusCode::OK), &view))
    }

    fn lease(&self, headers: &HeaderMap) -> Result<u32, Refused> {
        let (seconds, most) = (number(headers, LEASE)?, self.context.limits.blob_seconds);
        match seconds {
            0 => Err(Refused::new(ErrorCode::BadRequest, "a lease has at least 1 second")),
            seconds if seconds > u64::from(most) => {
                let text = format!("a lease has at most {most} seconds here: extend it before it ends");
                Err(Refused::new(ErrorCode::TooLarge, text))
            }
            seconds => Ok(u32::try_from(seconds).unwrap_or(most)),
        }
    }

    /// Counts a transfer, until what is returned is dropped.
    fn begin(&self) -> Result<Visitor, Refused> {
        let transfer = self.desk.transfers.enter().filter(|transfer| transfer.count(self.address));
        transfer.ok_or_else(|| {
            Refused::new(ErrorCode::Busy, "too many blobs are being put or got: try again in a while")
        })
    }

    async fn put(
        &self,
        blob: BlobId,
        part: u32,
        headers: &HeaderMap,
        upload: &mut Upload,
    ) -> Result<Answer, Refused> {
        let holder = holder(headers)?;
        let view = self.context.blobs.blob(blob).await?;
        view.check_holder(&holder)?;
        let span = parts::span(view.length, part).ok_or_else(|| {
            let parts = parts::count(view.length);
            Refused::new(ErrorCode::BadRequest, format!("this blob has {parts} parts, counted from 0"))
        })?;
        upload.check_length(span.end - span.start)?;
        let mut arriving = self.desk.parts.begin(Box::new(self.begin()?)).await?;
        upload.write_to(arriving.as_mut()).await?;
        arriving.store(Owner { blob, life: view.life }, part).await?;
        // Deleted meanwhile, it is of no use to anybody, and is swept.
        match self.context.blobs.blob(blob).await? {
            now if now.life == view.life => Ok(told(empty(StatusCode::CREATED), &now)),
            _ => Err(Refused::new(ErrorCode::BlobUnknown, "the blob was deleted meanwhile")),
        }
    }

    async fn get(&self, blob: BlobId, part: Option<u32>, request: &Parts) -> Result<Answer, Refused> {
        let view = self.context.blobs.blob(blob).await?;
        let span = match part {
            None => 0..view.length,
            Some(part) => parts::span(view.length, part)
                .ok_or_else(|| Refused::new(ErrorCode::PartMissing, "this blob has no such part"))?,
        };
        let is_head = request.method == Method::HEAD;
        // Not the life itself, which counts what the whole relay stores.
        let tag = format!("\"{:016x}\"", self.desk.tags.hash_one((blob.0, view.life)));
        let (length, headers) = (span.end - span.start, &request.headers);
        let is_same = headers.get(IF_RANGE).is_none_or(|asked| asked.as_bytes() == tag.as_bytes());
        let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
        // A range is for GET alone (RFC 9110, section 14.2).
        let (status, wanted) = match range::asked(range.filter(|_| is_same && !is_head), length) {
            Asked::Whole => (StatusCode::OK, 0..length),
            Asked::Some(range) => (StatusCode::PARTIAL_CONTENT, range),
            Asked::Beyond => {
                let refused = Refused::new(ErrorCode::RangeWrong, format!("there are {length} bytes"));
                return Err(refused.header(CONTENT_RANGE, &format!("bytes */{length}")));
            }
        };
        let owner = Owner { blob, life: view.life };
        let from_start = span.start + wanted.start..span.start + wanted.end;
        let transfer = self.begin()?;
        self.check_stored(owner, view.length, &from_start).await?;
        let body = match is_head {
            true => Body::Left(Default::default()),
            false => Body::Right(stream::download(self.desk.parts.clone(), owner, from_start, transfer)),
        };
        let mut answer = told(Answer::new(body), &view);
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(ETAG, value(&tag));
        headers.insert(CONTENT_LENGTH, (wanted.end - wanted.start).into());
        if status == StatusCode::PARTIAL_CONTENT {
            let (first, last) = (wanted.start, wanted.end - 1);
            headers.insert(CONTENT_RANGE, value(&format!("bytes {first}-{last}/{length}")));
        }
        Ok(answer)
    }

    async fn check_stored(&self, owner: Owner, length: u64, bytes: &Range<u64>) -> Result<(), Refused> {
        let part = |byte: u64| u32::try_from(byte / u64::from(BLOB_PART_BYTES)).unwrap_or(u32::MAX);
        let parts = part(bytes.start)..part(bytes.end - 1) + 1;
        match self.desk.parts.first_missing(owner, length, parts).await? {
            None => Ok(()),
            Some(part) => {
                Err(Refused::new(ErrorCode::PartMissing, format!("part {part} of this blob was not put yet")))
            }
        }
    }
}

/// What a browser asks before a page of another origin may ask something.
fn preflight() -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    let mut allow =
        |name, value| headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    allow("access-control-allow-methods", "POST, PUT, GET, HEAD, DELETE");
    allow(
        "access-control-allow-headers",
        "authorization, content-type, if-range, range, posthorn-blob-length, posthorn-blob-holder, posthorn-blob-lease",
    );
    allow("access-control-max-age", "86400");
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Answer::new(Body::Left(Default::default()));
    *answer.status_mut() = status;
    answer
}

/// With what is known of the blob.
fn told(mut answer: Answer, view: &BlobView) -> Answer {
    answer.headers_mut().insert(LENGTH, view.length.into());
    answer.headers_mut().insert(UNTIL, view.until.into());
    answer
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("it is made of letters and digits")
}

fn text(headers: &HeaderMap, name: HeaderName) -> Result<&str, Refused> {
    let value = headers.get(&name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| Refused::new(ErrorCode::BadRequest, format!("the header {name} is missing")))
}

fn number(headers: &HeaderMap, name: HeaderName) -> Result<u64, Refused> {
    let text = text(headers, name.clone())?;
    text.parse().map_err(|_| Refused::new(ErrorCode::BadRequest, format!("{name} must be a number")))
}

fn secret(text: &str, what: &str) -> Result<[u8; 32], Refused> {
    let bytes = HEX.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Refused::new(ErrorCode::BadRequest, format!("{what} has 64 hexadecimal digits")))
}

fn bearer(headers: &HeaderMap, what: &str) -> Result<[u8; 32], Refused> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let word = header.and_then(|header| header.split_once(' '));
    let secret_text = word.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text);
    let missing =
        || Refused::new(ErrorCode::BadRequest, format!("Authorization: Bearer and {what} is missing"));
    secret(secret_text.ok_or_else(missing)?.trim(), what)
}

fn holder(headers: &HeaderMap) -> Result<KeyHash, Refused> {
    Ok(HolderKey::from_bytes(bearer(headers, "the holder's key")?).hash())
}

/// Whether a path is about a blob.
pub(super) fn is_about_one(path: &str) -> bool {
    path.starts_with(BLOB_PATH)
}

/// An answer in words.
pub(super) fn words(text: String) -> Body {
    Body::Left(Bytes::from(text).into())
}
