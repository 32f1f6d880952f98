//! Every size that the wire knows, in one place. A relay may announce smaller ones in `Hello`, never larger
//! ones.

/// Largest 64-bit number in a frame, 2^53: a seq, a time (seconds or milliseconds), a card's version, a size.
/// Only request numbers may be larger, because they are compared and never counted with.
///
/// No mailbox comes near it: at a million posts a second it lasts for 285 years. Whoever holds a decoded
/// frame may therefore add to such a number, store it as a signed one (SQL) or as a double (JavaScript) and
/// loses nothing, whatever the peer sent.
pub const MOST_SEQ: u64 = 1 << 53;

/// Largest envelope, in bytes. A commit must fit (rule 23).
pub const ENVELOPE_BYTES: usize = 256 * 1024;
/// Largest frame in either direction, in bytes: an envelope plus the largest turn, with room for framing.
pub const FRAME_BYTES: usize = 512 * 1024;
/// Largest signal payload, in bytes.
pub const SIGNAL_BYTES: usize = 16 * 1024;
/// Largest contact card, in bytes.
pub const CARD_BYTES: usize = 16 * 1024;
/// Largest key package, in bytes.
pub const KEY_PACKAGE_BYTES: usize = 16 * 1024;
/// Most mailboxes in one `Open`.
pub const OPENINGS_PER_REQUEST: usize = 1024;
/// Most mailboxes open on one connection.
pub const OPENINGS_PER_CONNECTION: usize = 4096;
/// Most unanswered requests of one connection.
pub const REQUESTS_IN_FLIGHT: usize = 256;
/// Most readers of one mailbox.
pub const READERS_PER_MAILBOX: usize = 4096;
/// Largest quota of one mailbox, in bytes.
pub const MAILBOX_BYTES: u64 = 64 * 1024 * 1024;
/// Longest expiry of a mailbox, in seconds: 90 days.
pub const EXPIRY_SECONDS: u32 = 90 * 24 * 3600;
/// Longest silence of a client, in seconds; after that its connection is closed.
pub const IDLE_SECONDS: u32 = 90;
/// Most one-time key packages stored for one device.
pub const KEY_PACKAGES_PER_DEVICE: usize = 100;
/// Most creation tokens that one device may draw in a day (UTC).
pub const TOKENS_PER_DEVICE: usize = 200;
/// Length of each part of a blob but the last, which may be shorter, in bytes.
pub const BLOB_PART_BYTES: u32 = 1 << 20;
/// Most parts of a blob.
pub const BLOB_PARTS: u32 = 65_536;
/// Largest blob, in bytes: 64 GiB.
pub const BLOB_BYTES: u64 = BLOB_PART_BYTES as u64 * BLOB_PARTS as u64;
/// Longest lease of a blob, in seconds: 10 years.
pub const BLOB_SECONDS: u32 = 3650 * 24 * 3600;
/// Most upload tokens that one device may draw in a day (UTC).
pub const UPLOAD_TOKENS_PER_DEVICE: usize = 1000;
/// What a remembered post takes of its mailbox's quota beside its envelope, in bytes, whether or not the
/// envelope is trimmed (rule 2).
pub const POST_OVERHEAD_BYTES: u64 = 64;

/// What a relay accepts, as announced in `Hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame in either direction, bytes.
    pub frame_bytes: u32,
    /// Largest envelope, bytes.
    pub envelope_bytes: u32,
    /// Largest signal payload, bytes.
    pub signal_bytes: u32,
    /// Largest contact card, bytes.
    pub card_bytes: u32,
    /// Largest key package, bytes.
    pub key_package_bytes: u32,
    /// Most mailboxes in one `Open`.
    pub openings_per_request: u32,
    /// Most mailboxes open on one connection.
    pub openings_per_connection: u32,
    /// Most unanswered requests of one connection.
    pub requests_in_flight: u32,
    /// Most readers of one mailbox.
    pub readers_per_mailbox: u32,
    /// Largest quota of one mailbox, bytes.
    pub mailbox_bytes: u64,
    /// Longest expiry of a mailbox, seconds.
    pub expiry_seconds: u32,
    /// Longest silence of a client before its connection is closed, seconds.
    pub idle_seconds: u32,
    /// Most one-time key packages of one device.
    pub key_packages_per_device: u32,
    /// Most creation tokens that one device may draw in a day (UTC).
    pub tokens_per_device: u32,
    /// Largest blob, bytes; 0 = the relay keeps none.
    pub blob_bytes: u64,
    /// Longest lease of a blob, from now on, seconds.
    pub blob_seconds: u32,
    /// Most upload tokens that one device may draw in a day (UTC).
    pub upload_tokens_per_device: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: FRAME_BYTES as u32,
            envelope_bytes: ENVELOPE_BYTES as u32,
            signal_bytes: SIGNAL_BYTES as u32,
            card_bytes: CARD_BYTES as u32,
            key_package_bytes: KEY_PACKAGE_BYTES as u32,
            openings_per_request: OPENINGS_PER_REQUEST as u32,
            openings_per_connection: OPENINGS_PER_CONNECTION as u32,
            requests_in_flight: REQUESTS_IN_FLIGHT as u32,
            readers_per_mailbox: READERS_PER_MAILBOX as u32,
            mailbox_bytes: MAILBOX_BYTES,
            expiry_seconds: EXPIRY_SECONDS,
            idle_seconds: IDLE_SECONDS,
            key_packages_per_device: KEY_PACKAGES_PER_DEVICE as u32,
            tokens_per_device: TOKENS_PER_DEVICE as u32,
            blob_bytes: BLOB_BYTES,
            blob_seconds: BLOB_SECONDS,
            upload_tokens_per_device: UPLOAD_TOKENS_PER_DEVICE as u32,
        }
    }
}
