//! The hub: which openings a mailbox has, over the whole relay.
//!
//! Hears from the store what became durable and hands it to the openings. Keeps rule 10: one opening owns a
//! reader. Never calls the store and never waits; what it does under its lock takes microseconds, because the
//! committer waits for it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use posthorn_proto::frame::{ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, MailboxId, ReaderId};

use super::opening::{Opening, Shared};
use crate::gateway::outbox::Outbox;
use crate::store::{Published, Stored};

/// Enough that openings and appends of different mailboxes rarely meet on one lock.
const SHARDS: usize = 64;
/// The list of connections to wake keeps room for so many.
const KEPT: usize = 4096;

type Shard = HashMap<MailboxId, Vec<(ReaderId, Arc<Opening>)>>;

/// Which openings each mailbox has.
#[derive(Debug)]
pub struct Hub {
    /// Each guards the mailboxes that hash to it. Openings and outboxes are locked while one of these is
    /// held, never the other way round.
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Connections that have something new to send, until all that became durable together is told: one
    /// wake-up each, and each finds all that it has to write.
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
    }
}

impl Hub {
    /// A hub without openings. Give a clone of it to the store as its [`Published`].
    pub fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, hasher: RandomState::new(), asleep: Mutex::default() })
    }

    fn shard(&self, mailbox: &MailboxId) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(mailbox) as usize % SHARDS]
    }

    /// Begins to listen, before the store is asked: no append between its answer and the first delivery is
    /// missed.
    pub(crate) fn listen(
        self: &Arc<Self>,
        mailbox: MailboxId,
        reader: ReaderId,
        outbox: Arc<Outbox>,
        credit: u32,
    ) -> Seat {
        let opening = Arc::new(Opening::new(mailbox, reader, outbox, credit));
        let mut shard = self.shard(&mailbox).lock();
        // Most mailboxes have one opening.
        shard.entry(mailbox).or_insert_with(|| Vec::with_capacity(1)).push((reader, opening.clone()));
        drop(shard);
        Seat { opening, hub: self.clone() }
    }

    /// The store accepted the key: from now on this opening owns the reader, and who owned it before is told
    /// so. Returns whether somebody was displaced.
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
                // The same connection knows from its own request.
                other.end(ErrorCode::OpenedElsewhere, other.same_connection(opening));
                displaced = true;
            }
            !former
        });
        displaced
    }

    /// Forwards a signal to everybody who has the mailbox open and has room.
    pub(crate) fn signal(&self, mailbox: MailboxId, payload: Bytes) {
        let shard = self.shard(&mailbox).lock();
        let Some(openings) = shard.get(&mailbox) else { return };
        let bytes = ServerFrame::push(ServerBody::Signalled { mailbox, payload }).encode();
        for (_, opening) in openings {
            opening.signal(&bytes);
        }
    }

    /// Openings, for the operator.
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

    fn told(&self) {
        let mut asleep = std::mem::take(&mut *self.asleep.lock());
        for outbox in asleep.drain(..) {
            outbox.wake();
        }
        // For the next time, unless it has grown by a burst.
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
