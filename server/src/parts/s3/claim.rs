//! Whether objects can be put, and whose prefix it is.
//!
//! Two relays under one prefix would sweep each other's parts away. So a relay puts its name there first
//! (`<prefix>/relay`), and goes on only where its own name stands. By the way it sees that it may read and
//! write, and that the server keeps to `If-None-Match`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::{Error, ObjectStore as _, PutMode, PutPayload};
use tokio::time::timeout;

use super::Shared;
use crate::parts::PartError;

/// How long it is looked, at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of an error's words that are told, characters.
const WORDS: usize = 300;

/// Why nothing can be put. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    #[error("the S3 server does not answer: see to it, or to s3.endpoint ({0})")]
    Unreachable(String),
    #[error(
        "the S3 server denies access: give other credentials, or let these get, put, list and delete ({0})"
    )]
    Denied(String),
    #[error("there is no such bucket: make it, or see to s3.bucket and s3.endpoint")]
    NoBucket,
    #[error(
        "the prefix is another relay's, and relays that share one would remove each other's blobs: set another \
         s3.prefix; if it was this relay's, and it has lost its identity, remove the object relay there"
    )]
    Foreign,
    #[error(
        "the S3 server writes over objects although it is told not to (If-None-Match): use one that does not"
    )]
    Careless,
}

impl From<Error> for Doubt {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::NoBucket,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::Denied(code(&error.to_string()).unwrap_or_else(|| "without a code".to_owned()))
            }
            error => Self::Unreachable(in_one_line(&error)),
        }
    }
}

/// The code in an answer of S3: its other words may repeat what was signed.
fn code(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    code.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| code.to_owned())
}

fn in_one_line(error: &Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        // Most say what is within them, too.
        let inner_words = inner.to_string();
        if !words.contains(&inner_words) {
            words = format!("{words}: {inner_words}");
        }
        source = inner.source();
    }
    code(&words).unwrap_or_else(|| {
        words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(WORDS).collect()
    })
}

impl Shared {
    /// Looks whether objects can be put. Only what changes is told.
    pub(super) async fn look(&self) -> Result<(), PartError> {
        let claimed = timeout(PATIENCE, self.claim()).await;
        let is_new = match claimed.unwrap_or_else(|_| Err(Doubt::Unreachable("in 10 seconds".to_owned()))) {
            Ok(is_new) => is_new,
            Err(doubt) => {
                let mut told = self.told.lock();
                let is_told = told
                    .as_ref()
                    .is_some_and(|told| std::mem::discriminant(told) == std::mem::discriminant(&doubt));
                if !is_told {
                    tracing::error!(
                        bucket = self.name,
                        prefix = self.prefix,
                        "blobs are refused, and are taken again within seconds once this is mended: {doubt}"
                    );
                }
                *told = Some(doubt);
                return Err(PartError::Away);
            }
        };
        if is_new && self.blobs > 0 {
            tracing::error!(
                bucket = self.name,
                prefix = self.prefix,
                blobs = self.blobs,
                "the prefix is new: what was put of these blobs is answered PART_MISSING unless it was copied there; if \
                 it was not, stop the relay, and copy it or set blobs.store, s3.bucket and s3.prefix as they were"
            );
        }
        if self.told.lock().take().is_some() {
            tracing::info!(bucket = self.name, "blobs are taken again");
        }
        self.usable.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that the prefix is ours. Returns whether it was nobody's.
    async fn claim(&self) -> Result<bool, Doubt> {
        let path = self.path("relay");
        let mark = || PutPayload::from(self.mark.clone());
        let is_new = match self.get(&path, None).await {
            Ok(there) if there == self.mark.as_bytes() => false,
            Ok(_) => return Err(Doubt::Foreign),
            Err(Error::NotFound { .. }) => {
                self.bucket.put_opts(&path, mark(), PutMode::Create.into()).await?;
                true
            }
            Err(error) => return Err(error.into()),
        };
        self.bucket.put_opts(&path, mark(), PutMode::Overwrite.into()).await?;
        match self.bucket.put_opts(&path, mark(), PutMode::Create.into()).await {
            Err(Error::AlreadyExists { .. }) => Ok(is_new),
            Ok(_) => Err(Doubt::Careless),
            Err(error) => Err(error.into()),
        }
    }
}
