//! A store whose appends wait until they are let through, or one of whose envelopes does not read back: the
//! disk of a busy relay, and a failing one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, Incarnation, KeyHash, MailboxId, PostId};
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
pub(super) struct Held(pub(super) Arc<dyn Store>, pub(super) Trouble);

impl Blobs for Held {
    fn create_blob(&self, new: NewBlob) -> Later<'_, BlobView, StoreError> {
        self.0.create_blob(new)
    }
    fn blob(&self, blob: BlobId) -> Later<'_, BlobView, StoreError> {
        self.0.blob(blob)
    }
    fn extend_blob(&self, blob: BlobId, holder: KeyHash, seconds: u32) -> Later<'_, BlobView, StoreError> {
        self.0.extend_blob(blob, holder, seconds)
    }
    fn delete_blob(&self, blob: BlobId, holder: KeyHash) -> Later<'_, (), StoreError> {
        self.0.delete_blob(blob, holder)
    }
}

impl Store for Held {
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

    fn incarnation(&self) -> Incarnation {
        self.0.incarnation()
    }
    fn renew(&self, next: Incarnation) -> Later<'_, (), StoreError> {
        self.0.renew(next)
    }
    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.failed()
    }
    fn create(&self, new: NewMailbox) -> Later<'_, (), StoreError> {
        self.0.create(new)
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
    fn expire(&self) -> Later<'_, (), StoreError> {
        self.0.expire()
    }
    fn confirm_clock(&self) -> Later<'_, (), StoreError> {
        self.0.confirm_clock()
    }
    fn mint_invite(&self, invite: NewInvite) -> Later<'_, (), StoreError> {
        self.0.mint_invite(invite)
    }
    fn register(&self, new: NewAccount) -> Later<'_, (), StoreError> {
        self.0.register(new)
    }
    fn remove_account(&self, handle: Handle) -> Later<'_, (), StoreError> {
        self.0.remove_account(handle)
    }
    fn device(&self, device: DeviceId) -> Later<'_, DeviceRecord, StoreError> {
        self.0.device(device)
    }
    fn publish_card(&self, device: DeviceId, version: u64, card: Bytes) -> Later<'_, (), StoreError> {
        self.0.publish_card(device, version, card)
    }
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) -> Later<'_, KeyPackageStock, StoreError> {
        self.0.publish_key_packages(device, one_time, last_resort)
    }
    fn card(&self, handle: Handle) -> Later<'_, CardRecord, StoreError> {
        self.0.card(handle)
    }
    fn take_key_packages(&self, handle: Handle) -> Later<'_, Vec<TakenKeyPackage>, StoreError> {
        self.0.take_key_packages(handle)
    }
    fn draw_tokens(
        &self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    ) -> Later<'_, u32, StoreError> {
        self.0.draw_tokens(device, purpose, hashes)
    }
    fn stats(&self) -> Stats {
        self.0.stats()
    }
    fn close(&self) -> Later<'_, (), StoreError> {
        self.0.close()
    }
}
