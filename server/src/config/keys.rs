//! Every key of the configuration, described once: the ranges that are checked and the table that people
//! read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use posthorn_proto::limits;

use super::Config;
use crate::store::embedded::LEAST_PAST_BYTES;

/// What is known of one key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its path, such as `limits.idle_seconds`.
    pub name: &'static str,
    /// Of what it is a number, or its form.
    pub unit: &'static str,
    /// The smallest and largest value of a number.
    pub range: Option<(u64, u64)>,
    /// What it does.
    pub help: &'static str,
}

const fn text(name: &'static str, unit: &'static str, help: &'static str) -> Key {
    Key { name, unit, range: None, help }
}

const fn number(name: &'static str, unit: &'static str, least: u64, most: u64, help: &'static str) -> Key {
    Key { name, unit, range: Some((least, most)), help }
}

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const DAY: u64 = 24 * 3600;

/// Every key, in the order of the documentation.
pub const KEYS: &[Key] = &[
    text("listen", "address:port", "Where the relay listens. Port 0 takes a free one."),
    text(
        "data",
        "path",
        "The data folder. Default: `$XDG_DATA_HOME/posthorn-server`, else `~/.local/share/posthorn-server`.",
    ),
    text(
        "public_url",
        "URL",
        "What clients should connect to, if it is not the listening address: `wss://relay.example`.",
    ),
    text(
        "trusted_proxies",
        "networks",
        "Proxies that are believed when they say where a connection comes from: `[\"127.0.0.1\", \"172.16.0.0/12\"]`. See \"Behind a proxy\".",
    ),
    text("open_registration", "true or false", "Whether anybody may register, without an invite."),
    text(
        "open_directory",
        "true or false",
        "Whether people of other relays may look up people here and take their key packages, which needs no account then. `false`: only who has an account here may; people elsewhere are answered `ACCOUNT_NEEDED`, and have to be invited.",
    ),
    text(
        "engine",
        "embedded or memory",
        "Where mailboxes are kept. `memory` forgets everything when the relay stops.",
    ),
    text(
        "tls.certificate",
        "path",
        "Certificate chain in PEM. Without it the relay speaks plain WebSocket: for loopback, or behind a proxy.",
    ),
    text("tls.key", "path", "The certificate's private key in PEM."),
    number(
        "limits.frame_bytes",
        "bytes",
        8192,
        limits::FRAME_BYTES as u64,
        "Largest frame in either direction.",
    ),
    number("limits.envelope_bytes", "bytes", 4096, limits::ENVELOPE_BYTES as u64, "Largest envelope."),
    number("limits.signal_bytes", "bytes", 256, limits::SIGNAL_BYTES as u64, "Largest signal."),
    number("limits.card_bytes", "bytes", 1024, limits::CARD_BYTES as u64, "Largest contact card."),
    number(
        "limits.key_package_bytes",
        "bytes",
        4096,
        limits::KEY_PACKAGE_BYTES as u64,
        "Largest key package.",
    ),
    number(
        "limits.openings_per_request",
        "mailboxes",
        1,
        limits::OPENINGS_PER_REQUEST as u64,
        "Most mailboxes in one `Open`.",
    ),
    number(
        "limits.openings_per_connection",
        "mailboxes",
        1,
        limits::OPENINGS_PER_CONNECTION as u64,
        "Most mailboxes open on one connection.",
    ),
    number(
        "limits.requests_in_flight",
        "requests",
        1,
        limits::REQUESTS_IN_FLIGHT as u64,
        "Unanswered requests of one connection; beyond it the relay stops reading from it.",
    ),
    number(
        "limits.readers_per_mailbox",
        "readers",
        2,
        limits::READERS_PER_MAILBOX as u64,
        "Most readers of one mailbox.",
    ),
    number("limits.mailbox_bytes", "bytes", MIB, limits::MAILBOX_BYTES, "Quota of one mailbox."),
    number(
        "limits.expiry_seconds",
        "seconds",
        60,
        limits::EXPIRY_SECONDS as u64,
        "Longest expiry of a mailbox.",
    ),
    number(
        "limits.idle_seconds",
        "seconds",
        5,
        limits::IDLE_SECONDS as u64,
        "A connection that sends nothing for this long is closed.",
    ),
    number(
        "limits.key_packages_per_device",
        "key packages",
        1,
        limits::KEY_PACKAGES_PER_DEVICE as u64,
        "Most one-time key packages kept for one device.",
    ),
    number(
        "limits.tokens_per_device",
        "tokens",
        1,
        limits::TOKENS_PER_DEVICE as u64,
        "Most creation tokens that one device may draw in 24 hours.",
    ),
    number(
        "limits.blob_bytes",
        "bytes",
        0,
        limits::BLOB_BYTES,
        "Largest blob: an attachment, or whatever else is too large for an envelope. 0 = none is taken.",
    ),
    number(
        "limits.blob_seconds",
        "seconds",
        60,
        limits::BLOB_SECONDS as u64,
        "Longest lease of a blob; its holder may extend it again and again.",
    ),
    number(
        "limits.upload_tokens_per_device",
        "tokens",
        1,
        limits::UPLOAD_TOKENS_PER_DEVICE as u64,
        "Most upload tokens that one device may draw in 24 hours; each pays for one blob.",
    ),
    number(
        "connections.total",
        "connections",
        1,
        1_000_000,
        "Most connections; more are refused with HTTP 503. 256 of the process's file descriptors are kept from them.",
    ),
    number(
        "connections.per_address",
        "connections",
        0,
        1_000_000,
        "Most connections of one address (an IPv6 /64 counts as one). 0 = no limit.",
    ),
    number(
        "connections.handshakes",
        "connections",
        8,
        1_000_000,
        "Most connections in the middle of TLS or the HTTP request; beyond it the oldest gives way if it took over a second, else new ones wait.",
    ),
    number("connections.handshake_seconds", "seconds", 1, 300, "Time for TLS and the HTTP request."),
    number(
        "connections.outbox_bytes",
        "bytes",
        16_384,
        64 * MIB,
        "Most bytes of deliveries that wait for one connection; beyond it they wait in the store.",
    ),
    number(
        "connections.memory_bytes",
        "bytes",
        16 * MIB,
        TIB,
        "Most bytes that are held for all connections together: what was read and is not stored, and what waits to be sent. One connection may hold a sixteenth of what is free.",
    ),
    number(
        "connections.stalled_seconds",
        "seconds",
        5,
        3600,
        "A connection that takes less than 16 KiB of what waits for it in this time, or needs longer to send one message, is closed.",
    ),
    number("connections.drain_seconds", "seconds", 0, 300, "Time at shutdown for answering what was asked."),
    number(
        "rates.requests_per_second",
        "requests per second",
        0,
        1_000_000,
        "Requests of one connection, each counted as what it costs (docs/protocol.md, section 6). 0 = no limit.",
    ),
    number("rates.requests_burst", "requests", 1, 10_000_000, "How many of them may come at once."),
    number(
        "rates.requests_per_address_per_second",
        "requests per second",
        0,
        10_000_000,
        "Requests of all connections of one address together, four times as many in a burst. 0 = no limit.",
    ),
    number(
        "rates.connects_per_address_per_minute",
        "connections per minute",
        0,
        10_000_000,
        "New connections of one address; more are refused with HTTP 503. 0 = no limit.",
    ),
    number(
        "rates.bad_requests_per_minute",
        "requests per minute",
        0,
        1_000_000,
        "Malformed requests of one connection; beyond it the connection is closed. 0 = no limit.",
    ),
    number(
        "rates.takes_per_asker_per_hour",
        "takes per hour",
        0,
        1_000_000,
        "Key package takes by one device. 0 = no limit.",
    ),
    number(
        "rates.takes_per_target_per_hour",
        "takes per hour",
        0,
        1_000_000,
        "Key package takes from one account, whoever asks. 0 = no limit.",
    ),
    number(
        "rates.takes_by_strangers_per_target_per_hour",
        "takes per hour",
        0,
        1_000_000,
        "How many of these may go to those without an account. 0 = no limit of its own.",
    ),
    number(
        "rates.takes_per_asker_and_target_per_hour",
        "takes per hour",
        0,
        1_000_000,
        "Key package takes by one device, or by one address without an account, from one account. 0 = no limit.",
    ),
    number(
        "rates.strangers_per_address_per_hour",
        "requests per hour",
        0,
        1_000_000,
        "What one address (an IPv6 /64 counts as one) asks of the directory without an account: looking somebody up, or a key package take. 0 = no limit.",
    ),
    number(
        "rates.registrations_per_address_per_hour",
        "registrations per hour",
        0,
        1_000_000,
        "Attempts to register from one address (an IPv6 /64 counts as one). 0 = no limit.",
    ),
    number(
        "rates.blob_requests_per_address_per_second",
        "requests per second",
        0,
        1_000_000,
        "HTTP requests for blobs of one address, four times as many in a burst; more are refused with HTTP 429. 0 = no limit.",
    ),
    text(
        "rates.exempt",
        "networks",
        "Addresses that no limit by address concerns, neither a rate nor `connections.per_address`: `[\"127.0.0.0/8\"]`.",
    ),
    number(
        "store.total_bytes",
        "bytes",
        MIB,
        1024 * TIB,
        "Most bytes of stored envelopes, contact cards and key packages, and 64 for each post in memory.",
    ),
    number("store.mailboxes", "mailboxes", 1, 1_000_000_000, "Most mailboxes."),
    number("store.accounts", "accounts", 1, 1_000_000_000, "Most accounts."),
    number(
        "store.readers",
        "readers",
        1,
        1_000_000_000,
        "Most readers over all mailboxes; each costs memory.",
    ),
    number(
        "store.tokens",
        "tokens",
        1,
        1_000_000_000,
        "Most unspent creation tokens over all devices, and as many upload tokens.",
    ),
    number(
        "store.post_id_seconds",
        "seconds",
        60,
        365 * DAY,
        "How long a post id is remembered at least, for recognising a repeated post. The protocol promises 259,200 (72 h).",
    ),
    number(
        "store.post_id_fresh_seconds",
        "seconds",
        10,
        3600,
        "How old the id of a new post may be. Ids are in memory for so long, 75 bytes each, and then on disk. \
         What is on disk already stays old if it is raised.",
    ),
    number(
        "store.post_id_bytes",
        "bytes",
        LEAST_PAST_BYTES,
        1024 * TIB,
        "Most bytes of post ids on disk, 40 each; beyond it the oldest are forgotten before their time, some \
         131,000 at once.",
    ),
    number(
        "store.unopened_seconds",
        "seconds",
        60,
        3650 * DAY,
        "A mailbox that nobody opened for this long is removed.",
    ),
    number("store.segment_bytes", "bytes", MIB, 1 << 30, "Length at which a journal segment is ended."),
    number(
        "store.headroom_bytes",
        "bytes",
        0,
        1024 * TIB,
        "While less than this is free on the disk, only what makes room is carried out; blobs leave twice as much.",
    ),
    number(
        "store.checkpoint_bytes",
        "bytes",
        MIB,
        TIB,
        "How much is written between checkpoints: bounds what a start replays.",
    ),
    number(
        "store.queue_bytes",
        "bytes",
        4 * MIB,
        16 << 30,
        "Most bytes of requests that wait to be written; callers beyond wait.",
    ),
    text(
        "blobs.store",
        "folder or s3",
        "Where the parts of blobs lie: in the data folder, or in a bucket of a server that speaks S3 (docs/storage.md, \"Blobs in S3\").",
    ),
    number(
        "blobs.bytes",
        "bytes",
        MIB,
        1024 * TIB,
        "Most bytes of all blobs together, each counted by the length that was declared for it.",
    ),
    number("blobs.count", "blobs", 1, 1_000_000_000, "Most blobs; each costs memory."),
    number(
        "blobs.transfers",
        "transfers",
        1,
        100_000,
        "Most parts that are being put, and blobs that are being got, at once; more are refused with HTTP 503. Two file descriptors are kept for each, at most an eighth of what the process may have.",
    ),
    number(
        "blobs.transfers_per_address",
        "transfers",
        0,
        100_000,
        "Most of these by one address (an IPv6 /64 counts as one). 0 = no limit.",
    ),
    number(
        "blobs.slow_seconds",
        "seconds",
        1,
        3600,
        "A transfer in which less than 16 KiB moves while the relay waits for the client for this long is ended.",
    ),
    text("s3.endpoint", "URL", "The S3 server: `https://s3.example`. Without it Amazon's, by the region."),
    text("s3.region", "region", "The bucket's region, which requests are signed for."),
    text("s3.bucket", "bucket", "The bucket that blobs lie in. It must be there."),
    text(
        "s3.prefix",
        "path",
        "What the names of all objects begin with. Each relay has one of its own, where nothing else lies.",
    ),
    text(
        "s3.credentials",
        "path",
        "File with the lines `aws_access_key_id = …` and `aws_secret_access_key = …`. Without it the environment says them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if there is one, `AWS_SESSION_TOKEN`.",
    ),
    text(
        "log.level",
        "level",
        "`error`, `warn`, `info`, `debug` or `trace`. From `debug` on the log tells more about connections.",
    ),
    text("log.format", "text or json", "The form of log lines, which go to standard error."),
];

/// The configuration as paths and values.
pub(super) fn flat(config: &Config) -> BTreeMap<String, serde_json::Value> {
    let mut flat = BTreeMap::new();
    let value = serde_json::to_value(config).expect("a configuration has no maps with odd keys");
    for (name, value) in value.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(table) => {
                flat.extend(table.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())))
            }
            None => drop(flat.insert(name.clone(), value.clone())),
        }
    }
    flat
}

/// The table of docs/configuration.md.
pub fn documentation() -> String {
    let values = flat(&Config::default());
    let mut table = String::from("| key | unit | default | range | meaning |\n|---|---|---|---|---|\n");
    for key in KEYS {
        let default = match values.get(key.name) {
            Some(serde_json::Value::String(text)) if text.is_empty() => "see meaning".to_owned(),
            None | Some(serde_json::Value::Null) => "none".to_owned(),
            Some(serde_json::Value::String(text)) => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
        };
        let range = key.range.map_or_else(|| "".to_owned(), |(least, most)| format!("{least} to {most}"));
        writeln!(table, "| `{}` | {} | {default} | {range} | {} |", key.name, key.unit, key.help)
            .expect("a String takes everything");
    }
    table
}
