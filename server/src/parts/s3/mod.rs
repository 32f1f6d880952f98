//! Parts as objects in a bucket of a server that speaks S3.
//!
//! ```text
//! <prefix>/relay                                 whose prefix this is: the relay's public key; see `claim`
//! <prefix>/<2 hex digits>/<id>-<life>/<part>     a part, as it was put; its number has 4 hex digits
//! ```
//!
//! A part is gathered in memory, 1 MiB at most, and put as a whole if there is none (`If-None-Match: *`); if
//! there is one, the two are compared. That what was put stays is the server's promise.
//!
//! Nothing that goes on at the other end of a network stops the relay, or keeps it from starting: while
//! objects cannot be put, parts are refused, the log says why, and every second it is looked whether they
//! can.

mod claim;
mod connect;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload,
};
use parking_lot::Mutex;
use posthorn_proto::RelayIdentity;
use posthorn_proto::limits::BLOB_PART_BYTES;

use self::claim::Doubt;
pub(crate) use self::connect::S3Error;
use super::{Arriving, Owner, PartError, Parts, Place, Soon, span};
use crate::config::S3Config;

/// A part that was there, and is gone when it is compared, is put again; so often at most.
const ATTEMPTS: usize = 3;

/// Parts in a bucket.
#[derive(Debug)]
pub(crate) struct S3Parts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bucket: AmazonS3,
    /// The bucket's name, for people.
    name: String,
    /// What the names of all objects begin with; it may be empty.
    prefix: String,
    /// What stands in the object that says whose prefix this is.
    mark: String,
    /// How many blobs the store knew when the relay began.
    blobs: u64,
    /// Whether objects can be put, as far as is known.
    usable: AtomicBool,
    /// Why not, as the log told it last.
    told: Mutex<Option<Doubt>>,
    /// Whether the log tells already that something went wrong with a part.
    complained: AtomicBool,
}

/// A part that arrives.
struct InMemory {
    shared: Arc<Shared>,
    chunks: Vec<Bytes>,
    _place: Place,
}

/// Refuses what [`S3Parts::new`] would.
pub(crate) fn check(config: &S3Config) -> Result<(), S3Error> {
    connect::bucket(config).map(drop)
}

impl S3Parts {
    /// Gets ready to talk to the server, which nothing is asked of yet: nothing can be put before somebody
    /// has looked. `blobs` is how many the store knows.
    pub(crate) fn new(config: &S3Config, relay: RelayIdentity, blobs: u64) -> Result<Self, S3Error> {
        let bucket = connect::bucket(config)?;
        let (name, prefix) = (config.bucket.clone(), config.prefix.trim_matches('/').to_owned());
        let mark = data_encoding::HEXLOWER.encode(&relay.0);
        let (usable, told, complained) = Default::default();
        Ok(Self(Arc::new(Shared { bucket, name, prefix, mark, blobs, usable, told, complained })))
    }
}

impl Shared {
    fn path(&self, below: &str) -> Path {
        // Ours have no characters that this would change, and the prefix was checked.
        Path::from(format!("{}/{below}", self.prefix))
    }

    fn folder(&self, owner: Owner) -> Path {
        self.path(&format!("{:02x}/{}", owner.blob.0[0], owner.name()))
    }

    fn part(&self, owner: Owner, part: u32) -> Path {
        self.path(&format!("{:02x}/{}/{part:04x}", owner.blob.0[0], owner.name()))
    }

    /// What an error comes to. Only the first one is told: with it is said all that can be said without
    /// naming a blob.
    fn failed(&self, error: &Error) -> PartError {
        let is_usable = self.usable.load(Ordering::Relaxed);
        match error {
            // Without its bucket nothing is there, but that says nothing about parts.
            Error::NotFound { .. } if is_usable => return PartError::Missing,
            Error::NotFound { .. } => {}
            _ if is_usable && !self.complained.swap(true, Ordering::Relaxed) => {
                let what = match error {
                    Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => "it is not permitted",
                    _ => "the S3 server does not answer, or answers with an error",
                };
                tracing::warn!(
                    bucket = self.name,
                    "a part of a blob could not be put or got: {what} (told once)"
                );
            }
            _ => {}
        }
        PartError::Away
    }

    /// Likewise, when it was put. That others can be put has to be seen first.
    fn refused(&self, error: &Error) -> PartError {
        let failed = self.failed(error);
        self.usable.store(false, Ordering::Relaxed);
        failed
    }

    async fn get(&self, path: &Path, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let got = self.bucket.get_opts(path, GetOptions::new().with_range(range)).await?;
        let bytes = got.range.end - got.range.start;
        if bytes > u64::from(BLOB_PART_BYTES) {
            // None of ours is larger, and whatever is taken is held in memory.
            return Err(Error::Generic { store: "S3", source: format!("an object of {bytes} bytes").into() });
        }
        got.bytes().await
    }

    async fn store(&self, path: Path, payload: PutPayload) -> Result<(), PartError> {
        for _ in 0..ATTEMPTS {
            match self.bucket.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
                Ok(_) => return Ok(()),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(self.refused(&error)),
            }
            match self.get(&path, None).await {
                Ok(there) if is_same(&payload, &there) => return Ok(()),
                Ok(_) => return Err(PartError::Differs),
                // Or never there: of two that put at once, a server may refuse both.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Err(PartError::Away)
    }

    /// The parts of a blob, from one on.
    fn list(&self, owner: Owner, from: u32) -> BoxStream<'static, Result<ObjectMeta, Error>> {
        let folder = self.folder(owner);
        match from.checked_sub(1) {
            None => self.bucket.list(Some(&folder)),
            Some(before) => self.bucket.list_with_offset(Some(&folder), &self.part(owner, before)),
        }
    }

    async fn first_missing(
        &self,
        owner: Owner,
        length: u64,
        parts: Range<u32>,
    ) -> Result<Option<u32>, Error> {
        let whole = |part, size| span(length, part).is_some_and(|span| span.end - span.start == size);
        if let [part] = parts.clone().collect::<Vec<_>>()[..] {
            let head = self.bucket.head(&self.part(owner, part)).await;
            return match head {
                Ok(object) => Ok((!whole(part, object.size)).then_some(part)),
                Err(Error::NotFound { .. }) => Ok(Some(part)),
                Err(error) => Err(error),
            };
        }
        let mut missing: BTreeSet<u32> = parts.clone().collect();
        let mut listed = self.list(owner, parts.start);
        while !missing.is_empty()
            && let Some(object) = listed.try_next().await?
        {
            let part = object.location.filename().and_then(|name| u32::from_str_radix(name, 16).ok());
            if let Some(part) = part.filter(|part| whole(*part, object.size)) {
                missing.remove(&part);
            }
        }
        Ok(missing.first().copied())
    }

    async fn remove(&self, owner: Owner, most: usize) -> Result<bool, Error> {
        let parts: Vec<Path> =
            self.list(owner, 0).take(most).map_ok(|object| object.location).try_collect().await?;
        let may_be_more = parts.len() == most;
        let gone = futures_util::stream::iter(parts.into_iter().map(Ok)).boxed();
        self.bucket.delete_stream(gone).try_for_each(|_| std::future::ready(Ok(()))).await?;
        Ok(may_be_more)
    }
}

/// Whether these are the bytes that were to be put.
fn is_same(payload: &PutPayload, there: &[u8]) -> bool {
    let mut rest = there;
    payload.content_length() == there.len()
        && payload.iter().all(|chunk| {
            let (first, others) = rest.split_at(chunk.len());
            rest = others;
            first == &chunk[..]
        })
}

impl Parts for S3Parts {
    fn look(&self) -> Soon<'_, ()> {
        Box::pin(async move {
            match self.0.usable.load(Ordering::Relaxed) {
                true => Ok(()),
                false => self.0.look().await,
            }
        })
    }

    fn refusal(&self) -> Option<PartError> {
        (!self.0.usable.load(Ordering::Relaxed)).then_some(PartError::Away)
    }

    fn begin(&self, place: Place) -> Soon<'_, Box<dyn Arriving>> {
        let begun: Result<Box<dyn Arriving>, PartError> = match self.refusal() {
            Some(why) => Err(why),
            None => Ok(Box::new(InMemory { shared: self.0.clone(), chunks: Vec::new(), _place: place })),
        };
        Box::pin(std::future::ready(begun))
    }

    fn first_missing(&self, owner: Owner, length: u64, parts: Range<u32>) -> Soon<'_, Option<u32>> {
        Box::pin(async move {
            self.0.first_missing(owner, length, parts).await.map_err(|error| self.0.failed(&error))
        })
    }

    fn read(&self, owner: Owner, part: u32, range: Range<u32>) -> Soon<'_, Bytes> {
        Box::pin(async move {
            let wanted = range.len();
            let range = u64::from(range.start)..u64::from(range.end);
            match self.0.get(&self.0.part(owner, part), Some(range)).await {
                Ok(bytes) if bytes.len() == wanted => Ok(bytes),
                Ok(_) => Err(PartError::Failed),
                Err(error) => Err(self.0.failed(&error)),
            }
        })
    }

    fn read_at_once(&self) -> u32 {
        // Each reading is a request, which may take its time and cost money.
        posthorn_proto::limits::BLOB_PART_BYTES
    }

    fn remove(&self, owner: Owner, most: usize) -> Soon<'_, bool> {
        Box::pin(async move { self.0.remove(owner, most).await.map_err(|error| self.0.failed(&error)) })
    }

    fn shelf(&self, shelf: u8) -> Soon<'_, Vec<Owner>> {
        Box::pin(async move {
            // Nothing is removed under a prefix that may be another relay's.
            if let Some(why) = self.refusal() {
                return Err(why);
            }
            // Objects, and not the prefixes that they have in common: some servers list one for a while after
            // all below it is gone, and the sweep would remove it again and again.
            let mut listed = self.0.bucket.list(Some(&self.0.path(&format!("{shelf:02x}"))));
            let mut owners = BTreeSet::new();
            while let Some(object) = listed.try_next().await.map_err(|error| self.0.failed(&error))? {
                let folder = object.location.parts().rev().nth(1);
                owners.extend(folder.and_then(|name| Owner::of_name(name.as_ref())));
            }
            Ok(owners.into_iter().collect())
        })
    }

    fn seconds_per_shelf(&self) -> u64 {
        // Each shelf is a request, which costs money: 2,880 a day, and what belongs to nobody goes within
        // three hours.
        30
    }
}

impl Arriving for InMemory {
    fn write(&mut self, bytes: Vec<u8>) -> Soon<'_, ()> {
        self.chunks.push(bytes.into());
        Box::pin(std::future::ready(Ok(())))
    }

    fn store(self: Box<Self>, owner: Owner, part: u32) -> Soon<'static, ()> {
        Box::pin(async move {
            let Self { shared, chunks, _place } = *self;
            shared.store(shared.part(owner, part), chunks.into_iter().collect()).await
        })
    }
}
