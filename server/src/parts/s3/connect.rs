//! How the server is talked to: where, as whom, and how long anything may take.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use tokio_rustls::rustls::crypto::ring;

use crate::config::S3Config;

/// Time for one connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Time for one request, with its answer.
const REQUEST: Duration = Duration::from_secs(15);
/// A request that failed is repeated so often, at most.
const RETRIES: usize = 3;
/// And no longer than so after it was made first. (The last may take [`REQUEST`] more.)
const RETRYING: Duration = Duration::from_secs(15);

const ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION: &str = "AWS_SESSION_TOKEN";

/// What the configuration says about S3 cannot be used, whatever the server says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum S3Error {
    #[error("there are no credentials for S3: name their file in s3.credentials, or set {ID} and {SECRET}")]
    NoCredentials,
    #[error("the file {0} of s3.credentials cannot be read: {1}")]
    File(PathBuf, std::io::Error),
    #[error(
        "the file {0} of s3.credentials needs two lines: aws_access_key_id = …, and aws_secret_access_key = …"
    )]
    Malformed(PathBuf),
    #[error("the s3 section cannot be used: {0}")]
    Settings(object_store::Error),
}

/// Who asks. It is shown nowhere.
struct Credentials {
    id: String,
    secret: String,
    session: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

impl Credentials {
    fn find(file: Option<&Path>) -> Result<Self, S3Error> {
        let Some(file) = file else {
            let of = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            let found = of(ID).zip(of(SECRET)).ok_or(S3Error::NoCredentials);
            return found.map(|(id, secret)| Self { id, secret, session: of(SESSION) });
        };
        let text = std::fs::read_to_string(file).map_err(|error| S3Error::File(file.to_owned(), error))?;
        Self::parse(&text).ok_or_else(|| S3Error::Malformed(file.to_owned()))
    }

    /// Reads what the programs of AWS read, too. Of several sections the last counts.
    fn parse(text: &str) -> Option<Self> {
        let of = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            let values = lines.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            values.map(|(_, value)| value.trim().to_owned()).rfind(|value| !value.is_empty())
        };
        Some(Self { id: of(ID)?, secret: of(SECRET)?, session: of(SESSION) })
    }
}

/// A bucket, by what the configuration says. Nothing is asked of the server yet.
pub(super) fn bucket(config: &S3Config) -> Result<AmazonS3, S3Error> {
    // The one that everything else here uses. If there is one already, it is that.
    let _ = ring::default_provider().install_default();
    let Credentials { id, secret, session } = Credentials::find(config.credentials.as_deref())?;
    let options = ClientOptions::new()
        .with_http1_only()
        .with_connect_timeout(CONNECT)
        .with_timeout(REQUEST)
        .with_pool_idle_timeout(Duration::from_secs(30));
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: RETRYING,
    };
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options)
        .with_retry(retry)
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_access_key_id(id)
        .with_secret_access_key(secret);
    if let Some(session) = session {
        builder = builder.with_token(session);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    builder.build().map_err(S3Error::Settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_and_not_shown() {
        let file = "# ours\n[default]\naws_access_key_id = one\naws_secret_access_key=two=2 \n";
        let read = Credentials::parse(file).expect("well formed");
        assert_eq!((&read.id[..], &read.secret[..], &read.session), ("one", "two=2", &None));
        assert_eq!(format!("{read:?}"), "Credentials(secret)");
        assert!(Credentials::parse("aws_access_key_id = one\naws_secret_access_key =\n").is_none());
        let missing = Credentials::find(Some(Path::new("/nowhere/at/all")));
        assert!(matches!(missing, Err(S3Error::File(..))));
    }
}
