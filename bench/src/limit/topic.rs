//! Topics, and the outboxes that their posts are queued in.
//!
//! Owns who reads a topic, and what waits to be sent on each connection. Touches no socket and no disk.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};

/// The readers of a topic.
#[derive(Default)]
pub(crate) struct Topic {
    pub(super) readers: RwLock<Vec<Arc<Outbox>>>,
}

impl Topic {
    /// Queues a post for every reader.
    pub(crate) fn forward(&self, post: &Bytes, asleep: &mut Asleep) {
        for reader in self.readers.read().iter() {
            reader.push(post.clone(), asleep);
        }
    }
}

/// What waits to be sent on one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(super) queue: Mutex<VecDeque<Bytes>>,
    pub(super) waker: AtomicWaker,
}

/// Outboxes that hold something new. They are woken together after a batch, so that each writes once.
pub(crate) type Asleep = Vec<Arc<Outbox>>;

impl Outbox {
    pub(crate) fn push(self: &Arc<Self>, bytes: Bytes, asleep: &mut Asleep) {
        let mut queue = self.queue.lock();
        // If it is not empty, its owner is about to be woken already, and will empty the whole queue.
        if queue.is_empty() {
            asleep.push(Arc::clone(self));
        }
        queue.push_back(bytes);
    }
}

/// Wakes all connections in the list.
pub(crate) fn wake(asleep: &mut Asleep) {
    for outbox in asleep.drain(..) {
        outbox.waker.wake();
    }
}
