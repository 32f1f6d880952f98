//! The bounds and durations of a store.

use posthorn_proto::{MailboxId, PostId};

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
