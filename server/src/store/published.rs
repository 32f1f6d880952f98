//! Who is told by a store: the live side of what became durable, and whoever has posted of what became of it.

use std::task::Waker;

use bytes::Bytes;
use posthorn_proto::{MailboxId, ReaderId};

use super::{OpeningNumber, StoreError, Stored};

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
