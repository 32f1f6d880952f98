//! What goes into a store and comes out of it, in the words of the product. Those of blobs are in
//! [`blobs`](super::blobs).

use std::sync::Arc;

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};

/// A mailbox to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMailbox {
    /// Its name, chosen by the client.
    pub mailbox: MailboxId,
    /// Hash of the creation token that pays for it.
    pub token: KeyHash,
    /// Hash of the first post key.
    pub post_key: KeyHash,
    /// Hash of the first turn key.
    pub turn_key: KeyHash,
    /// Its first readers, whose cursors are 0.
    pub readers: Vec<Reader>,
    /// How long envelopes are kept, seconds.
    pub expiry: u32,
    /// Its quota in bytes, already within the relay's limit.
    pub quota: u64,
}

/// What a token is spent on. What it was drawn for must be that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpentOn {
    /// A mailbox that is to be created.
    Mailbox(MailboxId),
    /// A blob that is to be created.
    Blob(BlobId),
}

impl SpentOn {
    /// What the token must have been drawn for.
    pub(crate) fn purpose(self) -> TokenPurpose {
        match self {
            Self::Mailbox(_) => TokenPurpose::CreateMailbox,
            Self::Blob(_) => TokenPurpose::UploadBlob,
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> [u8; 16] {
        match self {
            Self::Mailbox(mailbox) => mailbox.0,
            Self::Blob(blob) => blob.0,
        }
    }
}

/// A token that is spent on one thing, which its holder may make with this. Only a directory makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Hash of the token.
    pub(in crate::store) token: KeyHash,
    /// What it is spent on.
    pub(in crate::store) on: SpentOn,
    /// Tells it from an earlier time that the token was spent and given back.
    pub(in crate::store) number: u64,
}

/// An append, with the hashes of the keys that were presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The mailbox to append to.
    pub mailbox: MailboxId,
    /// Names the append across retries.
    pub post_id: PostId,
    /// Hash of the post key presented.
    pub post_key: KeyHash,
    /// The bytes to store.
    pub envelope: Bytes,
    /// Hash of the turn key presented, and the turn, which happens with the append or not at all (R5).
    pub turn: Option<(KeyHash, Turn)>,
    /// What the post consists of, so that a repeat is recognised (rule 2).
    pub fingerprint: [u8; 16],
}

/// Opens a mailbox as a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReader {
    /// The mailbox to open.
    pub mailbox: MailboxId,
    /// The reader to open it as.
    pub reader: ReaderId,
    /// Hash of the read key presented.
    pub key: KeyHash,
    /// Hash of a one-time key presented. If that is the reader's key, `key` replaces it, durably (rule 11).
    pub claim: Option<KeyHash>,
}

/// The number of an opening: of two openings of one reader, the later one has the higher number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpeningNumber(pub u64);

/// How far a reader has read, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The mailbox that it reads.
    pub mailbox: MailboxId,
    /// The reader.
    pub reader: ReaderId,
    /// The opening that it was delivered by.
    pub opening: OpeningNumber,
    /// The newest seq that it needs no more.
    pub seq: u64,
}

/// A mailbox as a reader finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderView {
    /// The number of this opening.
    pub opening: OpeningNumber,
    /// Newest seq; 0 = none yet.
    pub head: u64,
    /// Oldest stored seq; head + 1 if none.
    pub oldest: u64,
    /// The seq up to which this reader has acknowledged.
    pub cursor: u64,
    /// The newest seq that this reader may read, if it was evicted.
    pub until: Option<u64>,
    /// Hash of the current post key.
    pub post_key: KeyHash,
    /// Hash of the current turn key.
    pub turn_key: KeyHash,
}

/// A stored envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it stands in the mailbox's order.
    pub seq: u64,
    /// The post id that its sender chose.
    pub post_id: PostId,
    /// The bytes that were posted.
    pub envelope: Bytes,
    /// The turn that the append carried.
    pub turn: Option<Arc<Turn>>,
}

/// How much to read at once. At least one envelope is returned if there is one, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRange {
    /// The first seq wanted.
    pub from: u64,
    /// The last seq wanted.
    pub to: u64,
    /// Stop after this many bytes of envelopes and their turns.
    pub bytes: usize,
}

/// An account to be registered, with its first device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// Hash of the invite code; `None` where registration is open.
    pub invite: Option<KeyHash>,
    /// The account's name.
    pub handle: Handle,
    /// Its Ed25519 identity key.
    pub identity_key: [u8; 32],
    /// Its first device.
    pub device: DeviceId,
    /// The device's X25519 public key.
    pub device_key: [u8; 32],
}

/// A device as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// The account that it belongs to.
    pub handle: Handle,
    /// Its X25519 public key.
    pub device_key: [u8; 32],
}

/// A contact card as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRecord {
    /// The account's identity key.
    pub identity_key: [u8; 32],
    /// 0 = none is published yet.
    pub version: u64,
    /// The card, opaque to the relay.
    pub card: Bytes,
}

/// A key package that was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenKeyPackage {
    /// The device that published it.
    pub device: DeviceId,
    /// The package, opaque to the relay.
    pub key_package: Bytes,
    /// Whether it is the last-resort package, which others may have been given too.
    pub last_resort: bool,
}

/// A device's stock of key packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPackageStock {
    /// How many one-time packages are left.
    pub one_time: u32,
    /// When the last-resort package was published, unix seconds; 0 = there is none.
    pub last_resort_since: u64,
}

/// An invite to be minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewInvite {
    /// SHA-256 of the code.
    pub hash: KeyHash,
    /// How many accounts it may make.
    pub uses: u32,
    /// When it becomes void, unix seconds.
    pub expires: u64,
}

/// Numbers for the operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// How many mailboxes there are.
    pub mailboxes: u64,
    /// How many envelopes are stored.
    pub envelopes: u64,
    /// Bytes of stored envelopes and their turns.
    pub envelope_bytes: u64,
    /// How many posts are held in memory: those that are stored, and the trimmed ones of the last minutes.
    pub posts: u64,
    /// Bytes on disk of the ids of those that no longer are.
    pub past_bytes: u64,
    /// Since when posts are recognised by these, unix seconds; 0 = since ever.
    pub past_since: u64,
    /// How many accounts there are.
    pub accounts: u64,
    /// How many blobs there are.
    pub blobs: u64,
    /// Bytes of all blobs, as declared.
    pub blob_bytes: u64,
    /// Bytes on disk; 0 for the memory engine.
    pub disk_bytes: u64,
    /// Whether expiry is paused until the operator confirms the clock (rule 20).
    pub expiry_paused: bool,
    /// How many stretches of the disk and envelopes can no longer be read; the file `damage` in the data
    /// folder names them.
    pub damaged: u64,
    /// Whether the disk is full, or nearly, so that whatever would take space is refused.
    pub full: bool,
    /// For how long nothing was answered although somebody waits, in seconds: the disk hangs.
    pub stalled_seconds: u64,
}
