//! The bounds and durations of a store.

use posthorn_proto::{MailboxId, PostId};

use super::StoreError;

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
    /// Whether an id that was made then is not of the last minutes any more. As the time `now` by which that
    /// is judged never goes back (unix seconds), what is old stays so.
    pub(crate) fn is_old(&self, made: u64, now: u64) -> bool {
        made + u64::from(self.fresh_seconds) <= now
    }

    /// How long a post is held in memory whose id is not old yet.
    pub(crate) fn held_seconds(&self) -> u64 {
        u64::from(self.post_id_seconds).max(AHEAD_SECONDS + u64::from(self.fresh_seconds))
    }

    /// The ids that new posts may have at the time `now`, where ids made at `passed` have left memory as old.
    pub(crate) fn new_ids(&self, passed: u64, now: u64) -> NewIds {
        let old = now.checked_sub(self.fresh_seconds.into());
        NewIds { first: old.map_or(passed, |old| old.max(passed)) + 1, now }
    }
}

/// The ids that new posts may have. They are of the last minutes, which the policy says, and of what has left
/// memory none is among them, whatever the policy was then: so whoever knows nothing of such an id in memory
/// knows that there was no post with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewIds {
    /// When the oldest was made, and what time it is now, unix seconds.
    first: u64,
    now: u64,
}

impl NewIds {
    /// Whether this one is among them, as far as it says when it was made.
    pub(crate) fn contain(&self, post_id: &PostId) -> bool {
        (self.first..=self.now + AHEAD_SECONDS).contains(&post_id.seconds())
    }

    /// Refuses any other.
    pub(crate) fn check(&self, post_id: &PostId) -> Result<(), StoreError> {
        if self.contain(post_id) { Ok(()) } else { Err(StoreError::PostIdTime { now: self.now }) }
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
