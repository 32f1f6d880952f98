//! The relay's configuration: what can be set, where it is read from, and what is refused.
//!
//! Precedence, the later wins: defaults, the TOML file, the environment (`POSTHORN_SERVER_LISTEN`,
//! `POSTHORN_SERVER_LIMITS__IDLE_SECONDS`), flags. Unknown keys and values out of range are errors that say
//! which key. [`KEYS`] describes every key once; docs/configuration.md is checked against it.

mod keys;
mod mistake;
mod network;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use posthorn_proto::Limits;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;

pub use keys::{KEYS, Key, documentation};
pub use network::{Network, Networks, NotANetwork};

use crate::store::StorePolicy;
use crate::store::embedded::EmbeddedConfig;

/// The file that is read from the data folder if no other is named.
pub const FILE_NAME: &str = "posthorn.toml";
/// What environment variables begin with. (`POSTHORN_` alone belongs to the clients.)
pub const ENVIRONMENT: &str = "POSTHORN_SERVER_";

/// Everything that can be set. Field docs are in docs/configuration.md, by way of [`KEYS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in KEYS, which a test compares with the fields")]
pub struct Config {
    pub listen: SocketAddr,
    pub data: PathBuf,
    pub public_url: Option<String>,
    pub trusted_proxies: Networks,
    pub open_registration: bool,
    pub open_directory: bool,
    pub engine: Engine,
    pub tls: Tls,
    pub limits: LimitsConfig,
    pub connections: Connections,
    pub rates: Rates,
    pub store: StoreConfig,
    pub blobs: BlobsConfig,
    pub s3: S3Config,
    pub log: Log,
}

/// Where mailboxes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// On disk: a journal with an index.
    Embedded,
    /// In memory: everything is gone when the relay stops. For tests.
    Memory,
}

/// TLS by files in PEM; without them the relay speaks plain WebSocket, for loopback or behind a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Tls {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// How many connections, and what one of them may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Connections {
    pub total: u32,
    pub per_address: u32,
    pub handshakes: u32,
    pub handshake_seconds: u32,
    pub outbox_bytes: u32,
    pub memory_bytes: u64,
    pub stalled_seconds: u32,
    pub drain_seconds: u32,
}

/// How often things may happen; 0 = as often as anybody likes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Rates {
    pub requests_per_second: u32,
    pub requests_burst: u32,
    pub requests_per_address_per_second: u32,
    pub connects_per_address_per_minute: u32,
    pub bad_requests_per_minute: u32,
    pub takes_per_asker_per_hour: u32,
    pub takes_per_target_per_hour: u32,
    pub takes_by_strangers_per_target_per_hour: u32,
    pub takes_per_asker_and_target_per_hour: u32,
    pub strangers_per_address_per_hour: u32,
    pub registrations_per_address_per_hour: u32,
    pub blob_requests_per_address_per_second: u32,
    pub exempt: Networks,
}

impl Rates {
    /// No rate is limited, and nothing by address: for simulations and measurements.
    pub fn off() -> Self {
        Self {
            requests_per_second: 0,
            requests_burst: 1,
            requests_per_address_per_second: 0,
            connects_per_address_per_minute: 0,
            bad_requests_per_minute: 0,
            takes_per_asker_per_hour: 0,
            takes_per_target_per_hour: 0,
            takes_by_strangers_per_target_per_hour: 0,
            takes_per_asker_and_target_per_hour: 0,
            strangers_per_address_per_hour: 0,
            registrations_per_address_per_hour: 0,
            blob_requests_per_address_per_second: 0,
            exempt: Networks::all(),
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            requests_per_second: 1000,
            requests_burst: 4000,
            requests_per_address_per_second: 10_000,
            connects_per_address_per_minute: 1200,
            bad_requests_per_minute: 60,
            takes_per_asker_per_hour: 2000,
            takes_per_target_per_hour: 200,
            takes_by_strangers_per_target_per_hour: 40,
            takes_per_asker_and_target_per_hour: 20,
            strangers_per_address_per_hour: 300,
            registrations_per_address_per_hour: 20,
            blob_requests_per_address_per_second: 200,
            exempt: Networks::default(),
        }
    }
}

/// Bounds of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct StoreConfig {
    pub total_bytes: u64,
    pub mailboxes: u64,
    pub accounts: u64,
    pub readers: u64,
    pub tokens: u64,
    pub post_id_seconds: u32,
    pub post_id_fresh_seconds: u32,
    pub post_id_bytes: u64,
    pub unopened_seconds: u64,
    pub segment_bytes: u32,
    pub headroom_bytes: u64,
    pub checkpoint_bytes: u64,
    pub queue_bytes: u64,
}

/// Bounds of all blobs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct BlobsConfig {
    pub store: BlobsIn,
    pub bytes: u64,
    pub count: u64,
    pub transfers: u32,
    pub transfers_per_address: u32,
    pub slow_seconds: u32,
}

/// Where the parts of blobs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobsIn {
    /// In the data folder.
    Folder,
    /// In a bucket, on a server that speaks S3.
    S3,
}

/// The bucket, if blobs lie in one. Who asks for it stands in a file or in the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct S3Config {
    pub endpoint: Option<String>,
    pub region: String,
    pub bucket: String,
    pub prefix: String,
    pub credentials: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

macro_rules! limits {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// What is announced in `Hello`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs, reason = "see KEYS")]
        pub struct LimitsConfig { $(pub $field: $type),* }

        impl From<Limits> for LimitsConfig {
            fn from(limits: Limits) -> Self {
                Self { $($field: limits.$field),* }
            }
        }

        impl From<&LimitsConfig> for Limits {
            fn from(limits: &LimitsConfig) -> Self {
                Self { $($field: limits.$field),* }
            }
        }
    };
}

limits!(
    frame_bytes: u32, envelope_bytes: u32, signal_bytes: u32, card_bytes: u32, key_package_bytes: u32,
    openings_per_request: u32, openings_per_connection: u32, requests_in_flight: u32, readers_per_mailbox: u32,
    mailbox_bytes: u64, expiry_seconds: u32, idle_seconds: u32, key_packages_per_device: u32, tokens_per_device: u32,
    blob_bytes: u64, blob_seconds: u32, upload_tokens_per_device: u32,
);

impl Default for Config {
    fn default() -> Self {
        let policy = StorePolicy::default();
        let embedded = EmbeddedConfig::new("");
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4100)),
            data: PathBuf::new(),
            public_url: None,
            trusted_proxies: Networks::default(),
            open_registration: false,
            open_directory: true,
            engine: Engine::Embedded,
            tls: Tls::default(),
            limits: Limits {
                blob_bytes: 256 << 20,
                blob_seconds: 90 * 24 * 3600,
                upload_tokens_per_device: 100,
                ..Limits::default()
            }
            .into(),
            connections: Connections {
                total: 10_000,
                per_address: 256,
                handshakes: 1000,
                handshake_seconds: 10,
                outbox_bytes: 512 * 1024,
                memory_bytes: 256 << 20,
                stalled_seconds: 60,
                drain_seconds: 5,
            },
            rates: Rates::default(),
            store: StoreConfig {
                total_bytes: policy.total_bytes,
                mailboxes: policy.mailboxes,
                accounts: policy.accounts,
                readers: policy.readers,
                tokens: policy.tokens,
                post_id_seconds: policy.post_id_seconds,
                post_id_fresh_seconds: policy.fresh_seconds,
                post_id_bytes: embedded.past_bytes,
                unopened_seconds: policy.unopened_seconds,
                segment_bytes: embedded.segment_bytes,
                headroom_bytes: embedded.headroom_bytes,
                checkpoint_bytes: embedded.checkpoint_bytes,
                queue_bytes: embedded.queue_bytes as u64,
            },
            blobs: BlobsConfig {
                store: BlobsIn::Folder,
                bytes: policy.blob_bytes,
                count: policy.blobs,
                transfers: 128,
                transfers_per_address: 16,
                slow_seconds: 10,
            },
            s3: S3Config {
                endpoint: None,
                region: "us-east-1".to_owned(),
                bucket: String::new(),
                prefix: "posthorn".to_owned(),
                credentials: None,
            },
            log: Log { level: "info".to_owned(), format: LogFormat::Text },
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, variable or flag has an unknown key or a value of the wrong type.
    #[error("{0}")]
    Read(String),
    /// The named file is not there.
    #[error("there is no file {0}")]
    NoFile(PathBuf),
    /// A number out of its range.
    #[error("{key} is {value}: it must be {least} to {most}")]
    Range {
        /// Which.
        key: &'static str,
        /// What it is.
        value: u64,
        /// The smallest allowed.
        least: u64,
        /// The largest allowed.
        most: u64,
    },
    /// Something that a range does not express.
    #[error("{0}")]
    Contradiction(String),
}

/// Where a configuration comes from beside the defaults and the environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A named file; without one, [`FILE_NAME`] in the data folder if it is there.
    pub file: Option<PathBuf>,
    /// Flags: key and value, the value in TOML or bare.
    pub flags: Vec<(String, String)>,
}

impl Config {
    /// In memory, on a free loopback port, without a data folder, and without limits on rates and by address.
    pub fn for_tests() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            engine: Engine::Memory,
            rates: Rates::off(),
            ..Self::default()
        }
    }

    /// Reads all sources and checks the result. `data` is where the data goes if nothing says otherwise.
    pub fn load(sources: &Sources, data: PathBuf) -> Result<Self, ConfigError> {
        let defaults = Figment::from(Serialized::defaults(Self { data, ..Self::default() }));
        let overlaid = |base: Figment| {
            let mut figment = base.merge(Env::prefixed(ENVIRONMENT).split("__"));
            for (key, value) in &sources.flags {
                let value: figment::value::Value = value.parse().unwrap_or_else(|never| match never {});
                figment = figment.merge(Serialized::default(key, value));
            }
            figment
        };
        let read = |error: figment::Error| ConfigError::Read(mistake::in_one_line(&error));
        let file = match &sources.file {
            Some(file) if !file.is_file() => return Err(ConfigError::NoFile(file.clone())),
            Some(file) => file.clone(),
            None => {
                overlaid(defaults.clone()).extract_inner::<PathBuf>("data").map_err(read)?.join(FILE_NAME)
            }
        };
        let base = if file.is_file() { defaults.merge(Toml::file(file).search(false)) } else { defaults };
        let config: Self = overlaid(base).extract().map_err(read)?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what is out of range or contradicts itself.
    pub fn check(&self) -> Result<(), ConfigError> {
        let values = keys::flat(self);
        for key in KEYS {
            let (Some((least, most)), Some(value)) =
                (key.range, values.get(key.name).and_then(|v| v.as_u64()))
            else {
                continue;
            };
            if !(least..=most).contains(&value) {
                return Err(ConfigError::Range { key: key.name, value, least, most });
            }
        }
        let contradiction = |text: &str| Err(ConfigError::Contradiction(text.to_owned()));
        if self.blobs.store == BlobsIn::S3 && !cfg!(feature = "s3") {
            return contradiction(
                "blobs.store is s3, which this program was built without: build it with --features s3, or set folder",
            );
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return contradiction("tls.certificate and tls.key go together: set both or none");
        }
        if self.limits.frame_bytes < self.limits.envelope_bytes.saturating_add(4096) {
            return contradiction("limits.frame_bytes must be at least limits.envelope_bytes + 4096");
        }
        if self.data.as_os_str().is_empty() && self.engine == Engine::Embedded {
            return contradiction("data must name a folder");
        }
        if let Some(url) = &self.public_url
            && !(url.starts_with("ws://") || url.starts_with("wss://"))
        {
            return contradiction("public_url must begin with ws:// or wss://");
        }
        let s3 = &self.s3;
        if self.blobs.store == BlobsIn::S3 && s3.bucket.is_empty() {
            return contradiction("s3.bucket must name a bucket, because blobs.store is s3");
        }
        if s3.endpoint.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            return contradiction("s3.endpoint must begin with https:// or http://");
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !s3.prefix.split('/').all(|step| !matches!(step, "" | "." | "..") && step.bytes().all(is_plain)) {
            return contradiction(
                "s3.prefix must be made of letters, digits, -, _ and ., with / between: such as posthorn",
            );
        }
        let is_filter = self.log.level.parse::<tracing_subscriber::filter::EnvFilter>().is_ok();
        // A word that is no level would be taken for a module of which everything is logged, and nothing
        // else.
        let is_level = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
        if !is_filter || !self.log.level.split(',').all(is_level) {
            return contradiction(
                "log.level must be error, warn, info, debug or trace, or such as info,posthorn_server=debug",
            );
        }
        Ok(())
    }

    /// What clients are told of the limits.
    pub fn announced(&self) -> posthorn_proto::Limits {
        let mut limits = posthorn_proto::Limits::from(&self.limits);
        // A larger one would be refused for ever, as if there were no room just now.
        limits.blob_bytes = limits.blob_bytes.min(self.blobs.bytes);
        limits
    }

    /// What the store keeps to.
    pub fn policy(&self) -> StorePolicy {
        StorePolicy {
            total_bytes: self.store.total_bytes,
            mailboxes: self.store.mailboxes,
            accounts: self.store.accounts,
            readers: self.store.readers,
            readers_per_mailbox: self.limits.readers_per_mailbox as usize,
            post_id_seconds: self.store.post_id_seconds,
            fresh_seconds: self.store.post_id_fresh_seconds,
            unopened_seconds: self.store.unopened_seconds,
            key_packages_per_device: self.limits.key_packages_per_device as usize,
            tokens_per_device: self.limits.tokens_per_device as usize,
            upload_tokens_per_device: self.limits.upload_tokens_per_device as usize,
            tokens: self.store.tokens,
            blobs: self.blobs.count,
            blob_bytes: self.blobs.bytes,
            ..StorePolicy::default()
        }
    }

    /// How the embedded engine is set up.
    pub fn embedded(&self) -> EmbeddedConfig {
        EmbeddedConfig {
            path: self.data.clone(),
            policy: self.policy(),
            segment_bytes: self.store.segment_bytes,
            headroom_bytes: self.store.headroom_bytes,
            checkpoint_bytes: self.store.checkpoint_bytes,
            past_bytes: self.store.post_id_bytes,
            queue_bytes: self.store.queue_bytes as usize,
        }
    }
}

/// `$XDG_DATA_HOME/posthorn-server`, else `~/.local/share/posthorn-server`; `None` if neither variable is
/// set.
pub fn default_data(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path: &PathBuf| Path::is_absolute(path));
    let share = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(share.join("posthorn-server"))
}

#[cfg(test)]
mod tests;
