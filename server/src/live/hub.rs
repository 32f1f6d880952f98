//! The hub: which openings a mailbox has, over the whole relay.
//!
//! The store tells it what became durable, and it hands that to the openings. It keeps rule 10: one opening
//! owns a reader. It never calls the store and never waits; what it does under a lock takes microseconds,
//! because the committer waits for it.

use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use posthorn_proto::frame::{ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, MailboxId, ReaderId};

use super::opening::{Opening, Shared};
use crate::outbox::Outbox;
use crate::store::{Published, Standing, StoreError, Stored};

/// Locks that the mailboxes are spread over: enough that openings of one mailbox and appends to another
/// rarely meet on the same lock.
const SHARDS: usize = 64;
/// What one opening takes of memory, here and in its connection, in bytes, about.
pub(crate) const OPENING_BYTES: usize = 256;
/// Connections for which the list of those to wake keeps its room; what a burst took beyond that is given
/// back.
const KEPT: usize = 4096;

type Shard = HashMap<MailboxId, Vec<(ReaderId, Arc<Opening>)>>;

/// Which openings each mailbox has.
#[derive(Debug)]
pub struct Hub {
    /// Each guards the mailboxes whose ids hash to it. An opening or an outbox is locked while one of these
    /// is held, never the other way round.
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
    /// Connections that have something new to send. They are woken once everything that became durable
    /// together has been handed out, so that each wakes once and finds all that it has to write.
    asleep: Mutex<Vec<Arc<Outbox>>>,
}

/// An opening's place in the hub, given back on drop: when the session, or an unanswered `Open`, is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) opening: Arc<Opening>,
    hub: Arc<Hub>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(&self.opening);
        self.opening.outbox().let_go(OPENING_BYTES);
    }
}

impl Hub {
    /// A hub without openings. Give a clone of it to the store as its [`Published`].
    pub fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, hasher: DefaultHashBuilder::default(), asleep: Mutex::default() })
    }

    fn shard(&self, mailbox: &MailboxId) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(mailbox) as usize % SHARDS]
    }

    /// Begins to listen. This comes before the store is asked, so that no append between its answer and the
    /// first delivery is missed.
    pub(crate) fn listen(
        self: &Arc<Self>,
        mailbox: MailboxId,
        reader: ReaderId,
        outbox: Arc<Outbox>,
        credit: u32,
    ) -> Seat {
        outbox.hold(OPENING_BYTES);
        let opening = Arc::new(Opening::new(mailbox, reader, outbox, credit));
        let mut shard = self.shard(&mailbox).lock();
        // Most mailboxes have one opening.
        shard.entry(mailbox).or_insert_with(|| Vec::with_capacity(1)).push((reader, opening.clone()));
        drop(shard);
        Seat { opening, hub: self.clone() }
    }

    /// The store accepted the key: from now on this opening owns the reader, and the opening that owned it
    /// before is told so. Returns whether there was one.
    pub(crate) fn take_over(&self, opening: &Arc<Opening>) -> bool {
        let mut shard = self.shard(&opening.mailbox).lock();
        let Some(openings) = shard.get_mut(&opening.mailbox) else { return false };
        if !opening.own() {
            return false;
        }
        let mut displaced = false;
        openings.retain(|(reader, other)| {
            let former = *reader == opening.reader && !Arc::ptr_eq(other, opening) && other.owns();
            if former {
                // The same connection knows it from its own request.
                other.end(ErrorCode::OpenedElsewhere, other.same_connection(opening));
                displaced = true;
            }
            !former
        });
        displaced
    }

    /// How many openings there are, for the operator.
    pub fn openings(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().values().map(|list| list.len() as u64).sum::<u64>()).sum()
    }

    fn leave(&self, opening: &Arc<Opening>) {
        let mut shard = self.shard(&opening.mailbox).lock();
        opening.end(ErrorCode::NotOpen, true);
        if let Some(openings) = shard.get_mut(&opening.mailbox) {
            openings.retain(|(_, other)| !Arc::ptr_eq(other, opening));
            if openings.is_empty() {
                shard.remove(&opening.mailbox);
            }
        }
    }
}

impl Published for Hub {
    fn appended(&self, mailbox: &MailboxId, stored: &Stored) {
        let shard = self.shard(mailbox).lock();
        let Some(openings) = shard.get(mailbox) else { return };
        let mut shared = Shared::new(mailbox, stored);
        let mut asleep = self.asleep.lock();
        asleep.extend(openings.iter().filter_map(|(_, opening)| opening.appended(&mut shared)).cloned());
    }

    /// Forwards it to every opening of the mailbox that has room for it.
    fn signalled(&self, mailbox: &MailboxId, payload: &Bytes) -> usize {
        let shard = self.shard(mailbox).lock();
        let Some(openings) = shard.get(mailbox) else { return 0 };
        let (mailbox, payload) = (*mailbox, payload.clone());
        let message = ServerFrame::push(ServerBody::Signalled { mailbox, payload }).encode().into();
        for (_, opening) in openings {
            opening.signal(&message);
        }
        openings.len()
    }

    fn resynced(&self, standing: &dyn Fn(&MailboxId, &ReaderId) -> Result<Standing, StoreError>) {
        for shard in &self.shards {
            for (mailbox, openings) in shard.lock().iter() {
                for (reader, opening) in openings {
                    opening.resynced(standing(mailbox, reader));
                }
            }
        }
    }

    fn told(&self) {
        let mut asleep = std::mem::take(&mut *self.asleep.lock());
        for outbox in asleep.drain(..) {
            outbox.wake();
        }
        // Kept for the next time, unless a burst made it grow.
        if asleep.capacity() <= KEPT {
            *self.asleep.lock() = asleep;
        }
    }

    fn destroyed(&self, mailbox: &MailboxId) {
        let gone = self.shard(mailbox).lock().remove(mailbox);
        for (_, opening) in gone.into_iter().flatten() {
            opening.end(ErrorCode::MailboxUnknown, false);
        }
    }
}
