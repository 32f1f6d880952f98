//! What waits to be sent on one connection, with a hard bound in bytes (R6, R7). `command` puts answers here
//! and `live` deliveries, and this knows neither of them.
//!
//! Owns the frames between the session (and the live side of other sessions) and the socket, in the order in
//! which they are sent. Never touches a socket, never blocks, never drops an answer.
//!
//! What waits here, and what the socket has been given and not taken, is charged to the relay's [`Budget`].
//!
//! Two kinds of frames share the queue. *Answers* (and the few pushed words about openings) are always taken:
//! their number is bounded because the session stops accepting requests while too much of them waits.
//! *Deliveries* are taken only while there is room; whoever is refused catches up from the store when the
//! queue has drained.
//!
//! [`message`] is the bytes of one frame, [`budget`] how much memory all connections together may take, and
//! [`ending`] why one is closed.

mod budget;
mod ending;
mod message;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use posthorn_proto::MailboxId;

pub(crate) use self::budget::Budget;
pub use self::ending::Ending;
pub(crate) use self::message::Message;

/// What a queued frame costs beside its bytes: its place in the queue and the WebSocket header.
const FRAME_OVERHEAD: usize = 64;

/// The answers of a session may wait up to this many bytes before it stops accepting requests.
pub(crate) const ANSWER_BYTES: usize = 256 * 1024;

/// The frames that wait for one connection. Shared by its session, its driver and the hub.
#[derive(Debug)]
pub struct Outbox {
    /// Locked for a few instructions at a time; never while another lock is taken.
    waiting: Mutex<Waiting>,
    /// Bytes of answers that wait. Written under the lock, read without.
    answer_bytes: AtomicUsize,
    /// Whether some opening ended. Written under the lock, read without.
    has_ended: AtomicBool,
    /// Wakes the connection's driver when there is something to send or to catch up on.
    driver: AtomicWaker,
    /// Most bytes of waiting deliveries.
    limit: usize,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Waited>,
    /// Bytes of deliveries that wait or are leaving.
    delivery_bytes: usize,
    /// The part of them that the driver has taken and the socket has not.
    leaving: usize,
    /// Openings that could not be served at once, oldest first; each stands here at most once.
    behind: VecDeque<MailboxId>,
    /// Openings that ended and are still kept by the connection.
    ended: Vec<MailboxId>,
    /// A delivery was refused; nothing is caught up on until some have left.
    full: bool,
    /// The connection is gone: nothing is taken any more.
    shut: bool,
}

#[derive(Debug)]
struct Waited {
    message: Message,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Delivery,
}

/// An answer is in the outbox (or its connection is gone). Who holds this may let deliveries follow it.
pub(crate) struct Answered(());

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// There was no room: whoever is refused is behind.
    Refused,
    /// It waits behind others, so the driver is already going to look.
    Queued,
    /// Nothing waited before: the driver has to be woken, unless it is the one that asks.
    First,
}

/// Whether openings that fell behind can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// None did, or room comes when some deliveries have left.
    Nothing,
    /// One of them can be served now.
    Due,
    /// The relay's budget has no room even for one delivery, and nothing of this connection's own will make
    /// some: ask again in a while, after [`Outbox::retry`].
    Starved,
}

fn cost(message: &Message) -> usize {
    message.len() + FRAME_OVERHEAD
}

impl Outbox {
    /// An empty queue that takes at most `limit` bytes of deliveries (or one delivery, whatever its size),
    /// and less when the budget is short.
    pub(crate) fn new(limit: usize, budget: Arc<Budget>) -> Self {
        let (waiting, answer_bytes, driver) = (Mutex::default(), AtomicUsize::new(0), AtomicWaker::new());
        Self { waiting, answer_bytes, has_ended: AtomicBool::new(false), driver, limit, budget }
    }

    /// Queues an answer, or a pushed word that must not be lost.
    pub(crate) fn answer(&self, bytes: Bytes) -> Answered {
        let answered = self.answer_quietly(bytes);
        self.driver.wake();
        answered
    }

    /// The same by the driver itself, which will look without being woken.
    pub(crate) fn answer_quietly(&self, bytes: Bytes) -> Answered {
        let message = Message::from(bytes);
        let mut waiting = self.waiting.lock();
        if !waiting.shut {
            self.budget.charge(cost(&message));
            self.answer_bytes.fetch_add(cost(&message), Ordering::Relaxed);
            waiting.frames.push_back(Waited { message, kind: Kind::Answer });
        }
        Answered(())
    }

    /// Queues a delivery or a signal if there is room. Wakes nobody: one wake-up for all that comes at once
    /// is enough.
    pub(crate) fn deliver(&self, message: &Message) -> Delivered {
        let cost = cost(message);
        let mut waiting = self.waiting.lock();
        let fits = waiting.delivery_bytes + cost <= self.limit.min(self.budget.share())
            || (waiting.delivery_bytes == 0 && cost <= self.budget.free());
        if waiting.shut || !fits {
            waiting.full = true;
            return Delivered::Refused;
        }
        self.budget.charge(cost);
        waiting.delivery_bytes += cost;
        let first = waiting.frames.is_empty();
        waiting.frames.push_back(Waited { message: message.clone(), kind: Kind::Delivery });
        if first { Delivered::First } else { Delivered::Queued }
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

    /// Notes that an opening ended; the connection has nothing to keep of it but the reason.
    pub(crate) fn note_ended(&self, mailbox: MailboxId) {
        let mut waiting = self.waiting.lock();
        if !waiting.shut {
            waiting.ended.push(mailbox);
            self.has_ended.store(true, Ordering::Release);
        }
    }

    /// The openings that ended since the last call.
    pub(crate) fn take_ended(&self) -> Vec<MailboxId> {
        if !self.has_ended.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.waiting.lock().ended)
    }

    /// Counts what is held for the connection's openings.
    pub(crate) fn hold(&self, bytes: usize) {
        self.budget.charge_opening(bytes);
    }

    /// Counts what is not held any more.
    pub(crate) fn let_go(&self, bytes: usize) {
        self.budget.release_opening(bytes);
    }

    /// The opening that has waited longest, if there is room to serve it. Room means half the queue: reading
    /// the store for every single frame that leaves would cost more than it brings.
    pub(crate) fn take_behind(&self) -> Option<(MailboxId, usize)> {
        let mut waiting = self.waiting.lock();
        if waiting.full || waiting.delivery_bytes > self.limit / 2 {
            return None;
        }
        let room = self.limit.min(self.budget.share()).saturating_sub(waiting.delivery_bytes);
        let mailbox = waiting.behind.pop_front();
        if waiting.behind.is_empty() {
            waiting.behind = VecDeque::new();
        }
        mailbox.map(|mailbox| (mailbox, room.max(1)))
    }

    /// Whether [`Self::take_behind`] would find something.
    pub(crate) fn behind(&self) -> Behind {
        let waiting = self.waiting.lock();
        if waiting.behind.is_empty() || waiting.delivery_bytes > self.limit / 2 {
            Behind::Nothing
        } else if !waiting.full {
            Behind::Due
        } else if waiting.delivery_bytes == 0 {
            Behind::Starved
        } else {
            Behind::Nothing
        }
    }

    /// What was refused for want of budget may be tried again.
    pub(crate) fn retry(&self) {
        let mut waiting = self.waiting.lock();
        waiting.full &= waiting.delivery_bytes > 0;
    }

    /// Bytes of answers that wait.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answer_bytes.load(Ordering::Relaxed)
    }

    /// Takes the next frame and sends it at once, as far as this queue is concerned.
    pub fn pop(&self) -> Option<Bytes> {
        let mut one = None;
        self.take(|message| {
            one = Some(message);
            false
        });
        self.sent();
        one.map(Message::whole)
    }

    /// Takes frames in order while `each` wants more. They count as held until [`Self::sent`].
    pub(crate) fn take(&self, mut each: impl FnMut(Message) -> bool) {
        let mut waiting = self.waiting.lock();
        while let Some(Waited { message, kind }) = waiting.frames.pop_front() {
            let cost = cost(&message);
            match kind {
                Kind::Answer => {
                    self.answer_bytes.fetch_sub(cost, Ordering::Relaxed);
                    self.budget.release(cost);
                }
                Kind::Delivery => waiting.leaving += cost,
            }
            if !each(message) {
                break;
            }
        }
        if waiting.frames.is_empty() {
            // Most connections are idle: they keep nothing.
            waiting.frames = VecDeque::new();
        }
    }

    /// The socket has taken all that was taken from here.
    pub(crate) fn sent(&self) {
        let mut waiting = self.waiting.lock();
        let left = std::mem::take(&mut waiting.leaving);
        if left > 0 {
            self.budget.release(left);
            waiting.delivery_bytes -= left;
            waiting.full &= waiting.delivery_bytes > self.limit / 2;
        }
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().frames.is_empty()
    }

    /// Whom to wake when something is queued. One driver at a time.
    pub fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Whom to wake, for whoever wakes later. `None` if somebody else has taken it and will.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.driver.take()
    }

    /// Wakes the driver, whatever for.
    pub(crate) fn wake(&self) {
        self.driver.wake();
    }

    /// Nothing that waits will be sent: forget it and take nothing more.
    pub(crate) fn shut(&self) {
        let mut waiting = self.waiting.lock();
        let answers = self.answer_bytes.swap(0, Ordering::Relaxed);
        self.budget.release(waiting.delivery_bytes + answers);
        *waiting = Waiting { shut: true, ..Waiting::default() };
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shut();
    }
}

#[cfg(test)]
impl Answered {
    /// For tests of what follows an answer, without one.
    pub(crate) fn in_test() -> Self {
        Self(())
    }
}

#[cfg(test)]
impl Outbox {
    /// One with a budget of its own.
    pub(crate) fn in_test(limit: usize) -> Self {
        Self::new(limit, Arc::new(Budget::new(1 << 30)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    fn frame(len: usize) -> Message {
        bytes(len).into()
    }

    #[test]
    fn deliveries_are_bounded_and_answers_are_not_refused() {
        let outbox = Outbox::in_test(1000);
        assert_eq!(
            outbox.deliver(&frame(5000)),
            Delivered::First,
            "one always fits, or nothing large would ever arrive"
        );
        assert_eq!(outbox.deliver(&frame(1)), Delivered::Refused);
        outbox.answer(bytes(10));
        assert_eq!(outbox.pop().map(|b| b.len()), Some(5000));
        assert_eq!(outbox.deliver(&frame(900)), Delivered::Queued, "room again, behind the answer");
        assert_eq!(outbox.deliver(&frame(100)), Delivered::Refused);
        assert_eq!(outbox.answer_bytes(), 10 + FRAME_OVERHEAD);
        assert_eq!(outbox.pop().map(|b| b.len()), Some(10));
        assert_eq!(outbox.answer_bytes(), 0);
    }

    #[test]
    fn catching_up_waits_for_half_the_room() {
        let outbox = Outbox::in_test(1000);
        outbox.mark_behind(MailboxId([1; 16]));
        assert_eq!(outbox.deliver(&frame(600)), Delivered::First);
        assert_eq!(outbox.take_behind(), None);
        outbox.pop();
        assert_eq!(outbox.take_behind(), Some((MailboxId([1; 16]), 1000)));
        assert_eq!(outbox.take_behind(), None);
    }

    #[test]
    fn a_shut_outbox_holds_nothing() {
        let outbox = Outbox::in_test(1000);
        outbox.answer(bytes(10));
        outbox.shut();
        outbox.answer(bytes(10));
        assert_eq!(outbox.deliver(&frame(1)), Delivered::Refused);
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_the_socket_has_not_taken_still_counts() {
        let outbox = Outbox::in_test(1000);
        assert_eq!(outbox.deliver(&frame(600)), Delivered::First);
        outbox.take(|_| true);
        assert!(outbox.is_empty());
        assert_eq!(outbox.deliver(&frame(600)), Delivered::Refused);
        outbox.sent();
        assert_eq!(outbox.deliver(&frame(600)), Delivered::First);
        assert_eq!(outbox.budget.used(), 664);
        drop(outbox);
    }

    #[test]
    fn a_short_budget_starves_and_does_not_strand() {
        let budget = Arc::new(Budget::new(64_000));
        let (greedy, modest) = (Outbox::new(1 << 20, budget.clone()), Outbox::new(1 << 20, budget.clone()));
        let taken = (0..1000).filter(|_| greedy.deliver(&frame(100)) != Delivered::Refused).count();
        assert!((10..40).contains(&taken), "a sixteenth of what is free: {taken}");
        assert_eq!(modest.deliver(&frame(100)), Delivered::First, "others have their share");
        modest.pop();
        budget.charge(budget.free());
        assert_eq!(modest.deliver(&frame(100)), Delivered::Refused);
        modest.mark_behind(MailboxId([1; 16]));
        assert_eq!(modest.behind(), Behind::Starved);
        modest.retry();
        assert_eq!(modest.behind(), Behind::Due);
        greedy.shut();
        assert_eq!(budget.used(), 64_000 - taken * (100 + FRAME_OVERHEAD));
    }
}
