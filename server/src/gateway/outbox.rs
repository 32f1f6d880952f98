//! What waits to be sent on one connection, with a hard bound in bytes (R6, R7).
//!
//! Owns the frames between the session (and the live side of other sessions) and the socket, in the order in which they
//! are sent. Never touches a socket, never blocks, never drops an answer.
//!
//! Two kinds of frames share the queue. *Answers* (and the few pushed words about openings) are always taken: their number
//! is bounded because the session stops accepting requests while too much of them waits. *Deliveries* are taken only while
//! there is room; whoever is refused catches up from the store when the queue has drained.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use posthorn_proto::MailboxId;

/// What a queued frame costs beside its bytes: its place in the queue and the WebSocket header.
const FRAME_OVERHEAD: usize = 64;

/// The answers of a session may wait up to this many bytes before it stops accepting requests.
pub(crate) const ANSWER_BYTES: usize = 256 * 1024;

/// A queue that held more frames than this gives its memory back when it runs empty: most connections are idle.
const KEPT_CAPACITY: usize = 16;

/// The frames that wait for one connection. Shared by its session, its driver and the hub.
#[derive(Debug)]
pub struct Outbox {
    /// Locked for a few instructions at a time; never while another lock is taken.
    waiting: Mutex<Waiting>,
    /// Wakes the connection's driver when there is something to send or to catch up on.
    driver: AtomicWaker,
    /// Most bytes of waiting deliveries.
    limit: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Waited>,
    answer_bytes: usize,
    delivery_bytes: usize,
    /// Openings that could not be served at once, oldest first; each stands here at most once.
    behind: VecDeque<MailboxId>,
    /// A delivery was refused; nothing is caught up on until some have left.
    full: bool,
    /// The connection is gone: nothing is taken any more.
    shut: bool,
}

#[derive(Debug)]
struct Waited {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Delivery,
}

fn cost(bytes: &Bytes) -> usize {
    bytes.len() + FRAME_OVERHEAD
}

impl Outbox {
    /// An empty queue that takes at most `limit` bytes of deliveries (or one delivery, whatever its size).
    pub(crate) fn new(limit: usize) -> Self {
        Self { waiting: Mutex::default(), driver: AtomicWaker::new(), limit }
    }

    /// Queues an answer, or a pushed word that must not be lost.
    pub(crate) fn answer(&self, bytes: Bytes) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.shut {
                return;
            }
            waiting.answer_bytes += cost(&bytes);
            waiting.frames.push_back(Waited { bytes, kind: Kind::Answer });
        }
        self.driver.wake();
    }

    /// Queues a delivery or a signal if there is room; `false` if not.
    pub(crate) fn deliver(&self, bytes: &Bytes) -> bool {
        {
            let mut waiting = self.waiting.lock();
            let full = waiting.delivery_bytes > 0 && waiting.delivery_bytes + cost(bytes) > self.limit;
            if waiting.shut || full {
                waiting.full = true;
                return false;
            }
            waiting.delivery_bytes += cost(bytes);
            waiting.frames.push_back(Waited { bytes: bytes.clone(), kind: Kind::Delivery });
        }
        self.driver.wake();
        true
    }

    /// Notes that an opening has something to catch up on.
    pub(crate) fn mark_behind(&self, mailbox: MailboxId) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.shut {
                return;
            }
            waiting.behind.push_back(mailbox);
        }
        self.driver.wake();
    }

    /// The opening that has waited longest, if there is room to serve it. Room means half the queue: reading the store
    /// for every single frame that leaves would cost more than it brings.
    pub(crate) fn take_behind(&self) -> Option<(MailboxId, usize)> {
        let mut waiting = self.waiting.lock();
        if waiting.full || waiting.delivery_bytes > self.limit / 2 {
            return None;
        }
        let room = self.limit - waiting.delivery_bytes;
        waiting.behind.pop_front().map(|mailbox| (mailbox, room))
    }

    /// Whether [`Self::take_behind`] would find something.
    pub(crate) fn has_work_behind(&self) -> bool {
        let waiting = self.waiting.lock();
        !waiting.behind.is_empty() && !waiting.full && waiting.delivery_bytes <= self.limit / 2
    }

    /// Bytes of answers that wait.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.waiting.lock().answer_bytes
    }

    /// Takes the next frame to send.
    pub fn pop(&self) -> Option<Bytes> {
        let mut waiting = self.waiting.lock();
        let Waited { bytes, kind } = waiting.frames.pop_front()?;
        match kind {
            Kind::Answer => waiting.answer_bytes -= cost(&bytes),
            Kind::Delivery => {
                waiting.delivery_bytes -= cost(&bytes);
                waiting.full &= waiting.delivery_bytes > self.limit / 2;
            }
        }
        if waiting.frames.is_empty() && waiting.frames.capacity() > KEPT_CAPACITY {
            waiting.frames = VecDeque::new();
        }
        Some(bytes)
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().frames.is_empty()
    }

    /// Whom to wake when something is queued. One driver at a time.
    pub fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Wakes the driver, whatever for.
    pub(crate) fn wake(&self) {
        self.driver.wake();
    }

    /// The connection is gone: forget everything and take nothing more.
    pub(crate) fn shut(&self) {
        *self.waiting.lock() = Waiting { shut: true, ..Waiting::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn deliveries_are_bounded_and_answers_are_not_refused() {
        let outbox = Outbox::new(1000);
        assert!(outbox.deliver(&frame(5000)), "one always fits, or nothing large would ever arrive");
        assert!(!outbox.deliver(&frame(1)));
        outbox.answer(frame(10));
        assert_eq!(outbox.pop().map(|b| b.len()), Some(5000));
        assert!(outbox.deliver(&frame(900)), "room again");
        assert!(!outbox.deliver(&frame(100)));
        assert_eq!(outbox.answer_bytes(), 10 + FRAME_OVERHEAD);
        assert_eq!(outbox.pop().map(|b| b.len()), Some(10));
        assert_eq!(outbox.answer_bytes(), 0);
    }

    #[test]
    fn catching_up_waits_for_half_the_room() {
        let outbox = Outbox::new(1000);
        outbox.mark_behind(MailboxId([1; 16]));
        assert!(outbox.deliver(&frame(600)));
        assert_eq!(outbox.take_behind(), None);
        outbox.pop();
        assert_eq!(outbox.take_behind(), Some((MailboxId([1; 16]), 1000)));
        assert_eq!(outbox.take_behind(), None);
    }

    #[test]
    fn a_shut_outbox_holds_nothing() {
        let outbox = Outbox::new(1000);
        outbox.answer(frame(10));
        outbox.shut();
        outbox.answer(frame(10));
        assert!(!outbox.deliver(&frame(1)));
        assert!(outbox.is_empty());
    }
}
