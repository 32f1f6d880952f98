//! Where mailboxes and the directory live: the [`Store`] trait, and its engines.
//!
//! The trait is in the words of the product and knows no engine: [`memory`] is the readable one, [`embedded`]
//! the durable default (a journal with sled as its checkpoint and index). Every engine passes `conformance`.
//!
//! What all engines promise:
//! - **Durable before answered.** When a method that changes something returns `Ok`, the change is on stable
//!   storage (R1).
//! - **Nothing undurable is disclosed.** No method returns, and no [`Published`] event says, what a power cut
//!   could undo.
//! - **Atomic.** A call happens as a whole or not at all.
//! - **Linearizable.** Calls happen as if one after another, each between its beginning and its answer: no
//!   call returns a state older than any that was answered before, on whatever relay. (A client takes an
//!   older one for a restored store, rule 8, and repairs it.) That goes for refusals, too.
//! - **Repeatable.** Where a method says so, the identical call again gives the same answer.
//!
//! Keys arrive here as hashes: an engine never holds a key that opens a mailbox.

mod blobs;
pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod effort;
pub mod embedded;
pub mod fuzzing;
pub(crate) mod keyed;
pub(crate) mod ledger;
pub mod memory;
pub(crate) mod tables;

#[cfg(test)]
pub(crate) mod conformance;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;

pub use blobs::{BlobView, Blobs, NewBlob};
use bytes::Bytes;
use posthorn_proto::chain::Fingerprint;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{
    DeviceId, ErrorCode, Handle, Incarnation, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn,
};

/// What a store method returns: engines may need the disk or a network.
pub type Later<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

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

/// Who is told what became of an append for which nobody waits in a task. It is told once; if this is dropped
/// before, that the store has stopped.
pub struct Ticket(Option<Tell>);

/// Says whom to wake, if anybody has to be.
type Tell = Box<dyn FnOnce(Result<u64, StoreError>) -> Option<Waker> + Send>;

impl Ticket {
    /// Its holder is told by this, which must not wait. It returns whom to wake for what it was told.
    pub fn new(tell: impl FnOnce(Result<u64, StoreError>) -> Option<Waker> + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Tells it. Whoever has several to tell wakes once all of them know: most of them are one client's.
    pub fn tell(mut self, posted: Result<u64, StoreError>) -> Option<Waker> {
        self.0.take().and_then(|tell| tell(posted))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waker = self.0.take().and_then(|tell| tell(Err(StoreError::Stopped)));
        waker.into_iter().for_each(Waker::wake);
    }
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
    pub fingerprint: Fingerprint,
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

/// The number of an opening: of two openings of one reader, the later one has the higher number, unless the
/// store was started between the two before the former had moved the cursor.
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

/// Why a store refused. There is one enum for all operations, because most can fail in most of these ways;
/// each variant has one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// See [`ErrorCode::MailboxUnknown`].
    #[error("no such mailbox")]
    MailboxUnknown,
    /// See [`ErrorCode::MailboxExists`].
    #[error("another mailbox has this id")]
    MailboxExists,
    /// See [`ErrorCode::KeyTurned`].
    #[error("the lock has turned: read on, then post again")]
    KeyTurned,
    /// See [`ErrorCode::ReadKeyWrong`].
    #[error("the read key does not open this reader")]
    ReadKeyWrong,
    /// See [`ErrorCode::ReaderUnknown`].
    #[error("no such reader in this mailbox")]
    ReaderUnknown,
    /// See [`ErrorCode::OpenedElsewhere`].
    #[error("a later opening of the same reader took over")]
    OpenedElsewhere,
    /// See [`ErrorCode::PostIdReused`].
    #[error("the post id stands for a different post")]
    PostIdReused,
    /// See [`ErrorCode::PostIdTime`].
    #[error("the post id is not of the last minutes, and no post with it is known: read on, then post anew")]
    PostIdTime {
        /// The time by which post ids are judged, unix seconds.
        now: u64,
    },
    /// See [`ErrorCode::BadTurn`].
    #[error("the turn contradicts the readers: {0}")]
    BadTurn(&'static str),
    /// See [`ErrorCode::TokenUnknown`].
    #[error(
        "the token was never drawn, or for something else, is spent, or is older than 7 days: draw another"
    )]
    TokenUnknown,
    /// See [`ErrorCode::InviteInvalid`].
    #[error("the invite is unknown, used up or expired: ask the relay's host for a new one")]
    InviteInvalid,
    /// See [`ErrorCode::HandleTaken`].
    #[error("the handle belongs to another account: choose another")]
    HandleTaken,
    /// See [`ErrorCode::HandleUnknown`].
    #[error("no account has this handle")]
    HandleUnknown,
    /// Another account's device has this id. See [`ErrorCode::AuthenticationFailed`].
    #[error("the device id belongs to another account: choose another")]
    DeviceTaken,
    /// See [`ErrorCode::CardStale`].
    #[error("the card's version is not above the stored one")]
    CardStale,
    /// See [`ErrorCode::NoKeyPackage`].
    #[error("no device of the account has a key package")]
    NoKeyPackage,
    /// No such device. See [`ErrorCode::AuthenticationFailed`].
    #[error("no such device")]
    DeviceUnknown,
    /// See [`ErrorCode::BlobUnknown`].
    #[error("no such blob: its lease may have ended")]
    BlobUnknown,
    /// See [`ErrorCode::BlobExists`].
    #[error("another blob has this id: choose another")]
    BlobExists,
    /// See [`ErrorCode::HolderKeyWrong`].
    #[error("the key does not hold this blob")]
    HolderKeyWrong,
    /// See [`ErrorCode::MailboxFull`].
    #[error("the mailbox is full until its readers acknowledge or it expires")]
    MailboxFull,
    /// See [`ErrorCode::Quota`].
    #[error("the relay is at its quota of {0}")]
    Quota(&'static str),
    /// See [`ErrorCode::Busy`].
    #[error("the relay's queue is full")]
    Busy,
    /// See [`ErrorCode::StoreUnavailable`].
    #[error(
        "the relay cannot write just now (its log and /health say whether the disk is full): try again later"
    )]
    Unavailable,
    /// What is stored there failed its checksum, and is never served. See [`ErrorCode::Internal`].
    #[error("stored data is damaged")]
    Damaged,
    /// The store has stopped. See [`ErrorCode::ShuttingDown`].
    #[error("the relay is stopping")]
    Stopped,
}

impl StoreError {
    /// The code on the wire. This is the only place that maps one to the other.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::MailboxUnknown => ErrorCode::MailboxUnknown,
            Self::MailboxExists => ErrorCode::MailboxExists,
            Self::KeyTurned => ErrorCode::KeyTurned,
            Self::ReadKeyWrong => ErrorCode::ReadKeyWrong,
            Self::ReaderUnknown => ErrorCode::ReaderUnknown,
            Self::OpenedElsewhere => ErrorCode::OpenedElsewhere,
            Self::PostIdReused => ErrorCode::PostIdReused,
            Self::PostIdTime { .. } => ErrorCode::PostIdTime,
            Self::BadTurn(_) => ErrorCode::BadTurn,
            Self::TokenUnknown => ErrorCode::TokenUnknown,
            Self::InviteInvalid => ErrorCode::InviteInvalid,
            Self::HandleTaken => ErrorCode::HandleTaken,
            Self::HandleUnknown => ErrorCode::HandleUnknown,
            Self::CardStale => ErrorCode::CardStale,
            Self::NoKeyPackage => ErrorCode::NoKeyPackage,
            Self::DeviceUnknown | Self::DeviceTaken => ErrorCode::AuthenticationFailed,
            Self::BlobUnknown => ErrorCode::BlobUnknown,
            Self::BlobExists => ErrorCode::BlobExists,
            Self::HolderKeyWrong => ErrorCode::HolderKeyWrong,
            Self::MailboxFull => ErrorCode::MailboxFull,
            Self::Quota(_) => ErrorCode::Quota,
            Self::Busy => ErrorCode::Busy,
            Self::Unavailable => ErrorCode::StoreUnavailable,
            Self::Damaged => ErrorCode::Internal,
            Self::Stopped => ErrorCode::ShuttingDown,
        }
    }
}

/// How one reader of a mailbox stands, for the live side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The newest seq of the mailbox.
    pub head: u64,
    /// The newest seq that the reader may read, if it was evicted.
    pub until: Option<u64>,
    /// The latest opening that has moved the reader's cursor.
    pub opening: OpeningNumber,
}

/// Told what became durable, in the order in which it happened: the live side. It is told by whoever applies
/// records, from the records, whether or not this relay has made them. Implementations must return quickly
/// and never call back into the store, because the committer waits for them.
pub trait Published: Send + Sync + 'static {
    /// An envelope was appended. Called in order of seq for each mailbox, after the append is durable, before
    /// it is answered.
    fn appended(&self, mailbox: &MailboxId, stored: &Stored);
    /// A mailbox was destroyed, or removed because nobody opened it.
    fn destroyed(&self, mailbox: &MailboxId);
    /// Somebody who has the post key says this to whoever has the mailbox open. Returns how many those are.
    fn signalled(&self, mailbox: &MailboxId, payload: &Bytes) -> usize;
    /// The store fell behind and went on from a later state, so that nobody was told of what lies between.
    /// `standing` says of any reader how things stand now.
    fn resynced(&self, standing: &dyn Fn(&MailboxId, &ReaderId) -> Result<Standing, StoreError>);
    /// Everything that became durable together has been told, so it is time to wake whoever it is for.
    fn told(&self) {}
}

/// A [`Published`] that nobody listens to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unheard;

impl Published for Unheard {
    fn appended(&self, _: &MailboxId, _: &Stored) {}
    fn destroyed(&self, _: &MailboxId) {}
    fn signalled(&self, _: &MailboxId, _: &Bytes) -> usize {
        0
    }
    fn resynced(&self, _: &dyn Fn(&MailboxId, &ReaderId) -> Result<Standing, StoreError>) {}
}

/// The relay's clock. Only the engines read it, once a batch; replay reads none.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, in unix seconds.
    fn unix_seconds(&self) -> u64;
    /// Seconds since some fixed point, on a clock that never steps, so that jumps of the other are noticed.
    /// It should count the time that the machine sleeps (`CLOCK_BOOTTIME`), or else waking up looks like a
    /// jump.
    fn monotonic_seconds(&self) -> u64;
}

/// The bounds and durations that all engines keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorePolicy {
    /// Most bytes of stored envelopes, the overhead of remembered posts, contact cards and key packages.
    pub total_bytes: u64,
    /// Most mailboxes of the relay.
    pub mailboxes: u64,
    /// Most accounts of the relay.
    pub accounts: u64,
    /// Most readers over all mailboxes, including evicted ones that may still read, which bounds memory.
    pub readers: u64,
    /// Most readers of one mailbox.
    pub readers_per_mailbox: usize,
    /// Shortest time that a post id is remembered, seconds (rule 2).
    pub post_id_seconds: u32,
    /// How old the id of a new post may be, in seconds. Ids are held in memory for so long, and on disk from
    /// then on.
    pub fresh_seconds: u32,
    /// How long nobody may open a mailbox before it is removed, seconds (rule 16).
    pub unopened_seconds: u64,
    /// Most one-time key packages of one device; the oldest make room for new ones.
    pub key_packages_per_device: usize,
    /// Most creation tokens that one device may draw in a day (UTC).
    pub tokens_per_device: usize,
    /// Most upload tokens that one device may draw in a day (UTC).
    pub upload_tokens_per_device: usize,
    /// Most unspent tokens of each purpose over all devices.
    pub tokens: u64,
    /// Most blobs, which bounds memory.
    pub blobs: u64,
    /// Most bytes of all blobs together, as declared.
    pub blob_bytes: u64,
    /// How much later than its time something may be dropped, seconds: each mailbox is looked at once in so
    /// many seconds, each at another one, so that a busy mailbox costs no record every second.
    pub late_seconds: u32,
}

impl StorePolicy {
    /// The first time from `due` on at which it is this mailbox's turn, unix seconds; but what should have
    /// happened by `now` happens at once.
    pub(crate) fn turn_of(&self, mailbox: &MailboxId, due: u64, now: u64) -> u32 {
        let every = u64::from(self.late_seconds).max(1);
        let own = u64::from(u32::from_le_bytes(std::array::from_fn(|at| mailbox.0[at]))) % every;
        let late = (own + every - due % every) % every;
        u32::try_from(if due <= now { due } else { due + late }).unwrap_or(u32::MAX)
    }
}

/// How far ahead of its relay's clock the id of a new post may be, in seconds.
const AHEAD_SECONDS: u64 = 300;

impl StorePolicy {
    /// Whether a new post may have this id: it was made in the last minutes, as far as it says. As the time
    /// by which that is judged never goes back, what is no longer of now never is again. `now` is that time,
    /// unix seconds.
    pub(crate) fn is_of_now(&self, post_id: &PostId, now: u64) -> bool {
        let made = post_id.seconds();
        made + u64::from(self.fresh_seconds) > now && made <= now + AHEAD_SECONDS
    }
}

impl Default for StorePolicy {
    fn default() -> Self {
        Self {
            total_bytes: 10 << 30,
            mailboxes: 1_000_000,
            accounts: 100_000,
            readers: 4_000_000,
            readers_per_mailbox: posthorn_proto::limits::READERS_PER_MAILBOX,
            post_id_seconds: 72 * 3600,
            fresh_seconds: 300,
            unopened_seconds: 180 * 24 * 3600,
            key_packages_per_device: posthorn_proto::limits::KEY_PACKAGES_PER_DEVICE,
            tokens_per_device: posthorn_proto::limits::TOKENS_PER_DEVICE,
            upload_tokens_per_device: 100,
            tokens: 1_000_000,
            blobs: 1_000_000,
            blob_bytes: 20 << 30,
            late_seconds: 60,
        }
    }
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

/// A store engine.
pub trait Store: Blobs {
    /// This life of the store (R10). It may change while the store runs; who opens a mailbox then is told.
    fn incarnation(&self) -> Incarnation;

    /// What is stored may be older than what was answered: one-time key packages are discarded, because some
    /// may have been given out since, and then the store becomes this other one (R10). If it fails, it must
    /// be repeated.
    fn renew(&self, next: Incarnation) -> Later<'_, (), StoreError>;

    /// Resolves when the store has failed: it answers nothing any more, and only a new start mends that (rule
    /// 19). What was answered is still there then.
    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Creates a mailbox and spends the token, both or neither. The identical call again (readers in any
    /// order) is `Ok` while the mailbox is still as it was created: nothing posted, no key claimed. Refuses
    /// with `MailboxExists`, `BadTurn` if a reader is named twice or there are too many, `TokenUnknown`,
    /// `Quota`, in this order.
    fn create(&self, new: NewMailbox) -> Later<'_, (), StoreError>;

    /// Appends, and turns the lock if asked to, atomically; returns the seq, from 1 on, without holes. The
    /// order of the checks: post id (a repeat gets the old seq, rule 2; a different post under the same id
    /// `PostIdReused`; an unknown id that was not made in the last minutes `PostIdTime`), keys (`KeyTurned`),
    /// the turn (`BadTurn`), the mailbox's quota (`MailboxFull`, with a
    /// reserve for appends that carry a turn, rule 5: a tenth and at least 4 of the largest envelopes, but at
    /// most half), then the relay's (`Quota`).
    ///
    /// A repeat is recognised for [`StorePolicy::post_id_seconds`] after it was posted, and while the
    /// envelope is stored. The id `PostIdTime` refuses was not posted in that time, and never will be under
    /// this id.
    ///
    /// A post costs [`POST_OVERHEAD_BYTES`](posthorn_proto::limits::POST_OVERHEAD_BYTES) while it is held in
    /// memory, which is as long as it is stored and as its id may be that of a new post
    /// ([`StorePolicy::fresh_seconds`]), and, while it is stored, its envelope and its turn (64 bytes, 48 for
    /// each reader admitted, 16 for each evicted).
    ///
    /// A turn may admit only readers that are not there and evict only readers that are. Those admitted begin
    /// with this append as their cursor. Those evicted may read up to it, hold nothing back, and are gone
    /// once they have acknowledged it or it is no longer stored; of them only the newest 4,096 are kept.
    fn append(&self, append: Append) -> Later<'_, u64, StoreError>;

    /// The same without a task that waits: if there is room for it now, it is handed over in the order of the
    /// calls, and the ticket will be told. Else both come back, and the caller has to wait with
    /// [`Store::append`].
    fn append_soon(&self, append: Append, ticket: Ticket) -> Option<(Append, Ticket)> {
        Some((append, ticket))
    }

    /// Whether [`Store::open`] would be refused as things stand, with the same error; cheaper than asking
    /// that. `Ok` promises nothing.
    fn may_open(&self, open: OpenReader) -> Later<'_, (), StoreError>;

    /// Opens as a reader: checks the key (`ReaderUnknown`, `ReadKeyWrong`), makes a claim good, notes once a
    /// day that the mailbox was opened, and numbers the opening.
    fn open(&self, open: OpenReader) -> Later<'_, ReaderView, StoreError>;

    /// Reads stored envelopes in order of seq, from the later of `range.from` and the oldest stored. Needs no
    /// key: the caller holds an opening.
    fn read(&self, mailbox: MailboxId, range: ReadRange) -> Later<'_, Vec<Stored>, StoreError>;

    /// Moves a reader's cursor to `seq`, never back and never above the head (or, of an evicted reader, above
    /// the last seq that it may read). Once an opening has moved the cursor, every earlier opening is refused
    /// with `OpenedElsewhere` for good, whatever it asks for (rule 10). An opening that never moved it leaves
    /// no trace, because most do not: until it does, only the live side tells the former one.
    ///
    /// What all readers have acknowledged is trimmed. Nobody waits for evicted readers, nor for a reader that
    /// has missed something by expiry, until it has acknowledged up to the oldest stored again (R3). In a
    /// mailbox without readers nothing is trimmed but by expiry.
    fn advance(&self, to: Advance) -> Later<'_, (), StoreError>;

    /// The same for an acknowledgement that nobody waits for, and that promises nothing: within some two
    /// seconds it is what `advance` makes of it, the highest of the latest opening standing for those of one
    /// reader. At the latest it is before this reader opens the mailbox again and before the store is closed;
    /// a crash may undo it, and then the reader gets again what it had acknowledged.
    fn advance_soon(&self, to: Advance);

    /// Tells whoever has the mailbox open, if this is its current post key (`KeyTurned`). A signal is stored
    /// nowhere, and may be lost (rule 21). Returns how many openings on this relay it was forwarded to.
    fn signal(&self, mailbox: MailboxId, post_key: KeyHash, payload: Bytes) -> Later<'_, usize, StoreError>;

    /// Removes a mailbox, if this is the current turn key.
    fn destroy(&self, mailbox: MailboxId, turn_key: KeyHash) -> Later<'_, (), StoreError>;

    /// Drops what has expired by now: envelopes (prefixes only, rule 20), mailboxes that nobody opened (their
    /// last day counts in full), invites, tokens (after 7 days), and blobs whose lease has ended. Does
    /// nothing while a jump of the clock is unconfirmed: the wall clock is more than 1 h off the steady one,
    /// or at start was more than 1 h before or 7 days after the newest record. Until it is confirmed, records
    /// are stamped as if there had been no jump (at start: with the later of the two times).
    ///
    /// Post ids that are no longer those of new posts leave memory in any case, and their posts stop
    /// counting.
    fn expire(&self) -> Later<'_, (), StoreError>;

    /// The operator vouches for the clock: expiry goes on.
    fn confirm_clock(&self) -> Later<'_, (), StoreError>;

    /// Stores an invite, in place of one with the same hash if there is one. With 0 uses that one is revoked.
    fn mint_invite(&self, invite: NewInvite) -> Later<'_, (), StoreError>;

    /// Makes an account with its first device and uses the invite, both or neither. The identical call again
    /// is `Ok`, whatever the invite. Refuses with `InviteInvalid`, `HandleTaken`, `DeviceTaken`, `Quota`, in
    /// this order, so that whoever has no invite learns no names.
    fn register(&self, new: NewAccount) -> Later<'_, (), StoreError>;

    /// Removes an account with its card and its key packages, for the operator (`HandleUnknown`). Its name is
    /// free from then on; its device is `DeviceUnknown`, and cannot register again (`DeviceTaken`).
    fn remove_account(&self, handle: Handle) -> Later<'_, (), StoreError>;

    /// Finds a device, for authentication.
    fn device(&self, device: DeviceId) -> Later<'_, DeviceRecord, StoreError>;

    /// Replaces the card of the device's account. The identical card at the same version is `Ok`.
    fn publish_card(&self, device: DeviceId, version: u64, card: Bytes) -> Later<'_, (), StoreError>;

    /// Adds key packages to a device; over the limit the oldest one-time packages make room for new ones.
    /// Packages in stock, and the newest 100 of those that are gone, are recognised and not added again, so
    /// that a repeated call offers nothing twice. With nothing to add it only returns the stock.
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) -> Later<'_, KeyPackageStock, StoreError>;

    /// A card by handle.
    fn card(&self, handle: Handle) -> Later<'_, CardRecord, StoreError>;

    /// Takes one key package of each device of an account, one-time packages first and each given out once.
    fn take_key_packages(&self, handle: Handle) -> Later<'_, Vec<TakenKeyPackage>, StoreError>;

    /// Stores the hashes of tokens for this purpose, without the device's name; returns how many were
    /// accepted, from the front. A hash that is there already counts as accepted. How many a device drew
    /// today is counted in memory only, because on disk the count would link the device to the hashes.
    /// `Quota` if the relay has room for not even one.
    fn draw_tokens(
        &self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    ) -> Later<'_, u32, StoreError>;

    /// Numbers for the operator.
    fn stats(&self) -> Stats;

    /// Answers what has been asked, writes what makes the next start fast, and stops. Later calls get
    /// `Stopped`.
    fn close(&self) -> Later<'_, (), StoreError>;
}
