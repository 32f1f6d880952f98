//! Mailboxes whose appends wait until they are let through, or one of whose envelopes does not read back: the
//! disk of a busy relay, and a failing one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_proto::{KeyHash, MailboxId, PostId};
use tokio::sync::Semaphore;

use crate::store::*;

/// Lets appends through one permit each; notes the order in which they came.
pub(super) static GATE: Semaphore = Semaphore::const_new(0);
pub(super) static CAME: Mutex<Vec<PostId>> = Mutex::new(Vec::new());

/// How many openings a store that hangs was asked for.
pub(super) static OPENED: AtomicUsize = AtomicUsize::new(0);

/// What is the matter with the disk.
pub(super) enum Trouble {
    /// Appends wait for [`GATE`].
    Busy,
    /// Appends are never answered; openings are counted in [`OPENED`].
    Hung,
    /// The envelope of this seq does not read back.
    Lost(u64),
}

/// Delegates everything that has no trouble.
pub(super) struct Held(pub(super) Arc<dyn Mailboxes>, pub(super) Trouble);

impl Mailboxes for Held {
    fn append(&self, append: Append) -> Later<'_, u64, StoreError> {
        Box::pin(async move {
            if matches!(self.1, Trouble::Busy) {
                CAME.lock().push(append.post_id);
                GATE.acquire().await.map_err(|_| StoreError::Stopped)?.forget();
            }
            if matches!(self.1, Trouble::Hung) {
                std::future::pending::<()>().await;
            }
            self.0.append(append).await
        })
    }
    fn posts_time(&self) -> u64 {
        self.0.posts_time()
    }
    fn may_create(&self, new: NewMailbox) -> Later<'_, bool, StoreError> {
        self.0.may_create(new)
    }
    fn create(&self, new: NewMailbox, spent: Spent) -> Later<'_, (), StoreError> {
        self.0.create(new, spent)
    }
    fn may_open(&self, open: OpenReader) -> Later<'_, (), StoreError> {
        self.0.may_open(open)
    }
    fn open(&self, open: OpenReader) -> Later<'_, ReaderView, StoreError> {
        if matches!(self.1, Trouble::Hung) {
            OPENED.fetch_add(1, Ordering::Relaxed);
        }
        self.0.open(open)
    }
    fn read(&self, mailbox: MailboxId, range: ReadRange) -> Later<'_, Vec<Stored>, StoreError> {
        let Trouble::Lost(lost) = self.1 else { return self.0.read(mailbox, range) };
        if range.from == lost {
            return Box::pin(async { Err(StoreError::Damaged) });
        }
        // As the engines do: what is damaged ends the answer before it.
        let to = if range.from < lost { range.to.min(lost - 1) } else { range.to };
        self.0.read(mailbox, ReadRange { to, ..range })
    }
    fn advance(&self, to: Advance) -> Later<'_, (), StoreError> {
        self.0.advance(to)
    }
    fn advance_soon(&self, to: Advance) {
        self.0.advance_soon(to);
    }
    fn signal(&self, mailbox: MailboxId, post_key: KeyHash, payload: Bytes) -> Later<'_, usize, StoreError> {
        self.0.signal(mailbox, post_key, payload)
    }
    fn destroy(&self, mailbox: MailboxId, turn_key: KeyHash) -> Later<'_, (), StoreError> {
        self.0.destroy(mailbox, turn_key)
    }
}
