//! What the requests of one connection share: its openings, the device that it authenticated as, its
//! challenge, and how much is unanswered.
//!
//! Owns no policy beyond counting, and no socket.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::Waker;

use hashbrown::HashMap;
use parking_lot::Mutex;
use posthorn_proto::frame::{Refusal, ServerBody, ServerFrame};
use posthorn_proto::{DeviceId, ErrorCode, MailboxId};

use super::Reply;
use crate::live::Seat;
use crate::live::opening::{Opening, closing_words};
use crate::outbox::{ANSWER_BYTES, Answered, Budget, Ending, Outbox};
use crate::secret::Ephemeral;

/// Wrong proofs on one connection before it is closed.
const WRONG_PROOFS: u32 = 5;

/// Proofs of the relay's identity that one connection may ask for.
const RELAY_PROOFS: u32 = 8;

/// The unanswered requests of one connection may hold this many bytes before it stops accepting more.
const REQUEST_BYTES: usize = 1 << 20;

/// Openings that ended and whose reason one connection keeps.
const ENDED: usize = 64;

/// One connection as its requests see it.
pub(crate) struct Peer {
    pub(crate) outbox: Arc<Outbox>,
    /// For whom limits by address count it, if for anybody; kept in memory only.
    pub(crate) address: Option<IpAddr>,
    ephemeral: Arc<Ephemeral>,
    nonce: [u8; 16],
    /// Unanswered requests.
    requests: AtomicUsize,
    /// Bytes that they hold.
    held: AtomicUsize,
    /// Bytes that their answers may have.
    reserved: AtomicUsize,
    /// How many of them may let in a reader that an `Open` behind them names.
    letting_in: AtomicUsize,
    /// What requests turned out to cost beyond what they were charged, until the session charges it.
    debt: AtomicU32,
    budget: Arc<Budget>,
    /// Whether `ending` is set, for looking without the lock.
    ended: AtomicBool,
    /// Never held while anything waits. Dropping a seat takes the hub's lock, so seats are dropped after it
    /// is released.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    device: Option<DeviceId>,
    openings: HashMap<MailboxId, Seat>,
    /// Why the last openings ended, so that a late ack is told; at most [`ENDED`] of them.
    ended: VecDeque<(MailboxId, ErrorCode)>,
    /// Openings that unanswered `Open`s may still add.
    reserved: usize,
    wrong_proofs: u32,
    /// Proofs of the relay's identity that were asked for.
    relay_proofs: u32,
    ending: Option<Ending>,
    /// The connection is gone; nothing is seated any more.
    gone: bool,
}

impl Peer {
    pub(crate) fn new(
        outbox: Outbox,
        budget: Arc<Budget>,
        address: Option<IpAddr>,
        (ephemeral, nonce): (Arc<Ephemeral>, [u8; 16]),
    ) -> Arc<Self> {
        Arc::new(Self {
            outbox: Arc::new(outbox),
            address,
            ephemeral,
            nonce,
            requests: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            letting_in: AtomicUsize::new(0),
            debt: AtomicU32::new(0),
            budget,
            ended: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// The secrets and nonce of this connection's `Hello`.
    pub(crate) fn challenge(&self) -> (&Ephemeral, [u8; 16]) {
        (&self.ephemeral, self.nonce)
    }

    pub(crate) fn device(&self) -> Option<DeviceId> {
        self.state.lock().device
    }

    /// The authenticated device, or the refusal for a request that needs one.
    pub(crate) fn authenticated(&self) -> Result<DeviceId, Refusal> {
        self.device()
            .ok_or_else(|| Refusal::new(ErrorCode::Unauthenticated, "authenticate this connection first"))
    }

    /// `false` if the connection belongs to another device already.
    pub(crate) fn authenticate(&self, device: DeviceId) -> bool {
        *self.state.lock().device.get_or_insert(device) == device
    }

    pub(crate) fn note_failed_proof(&self) {
        let mut state = self.state.lock();
        state.wrong_proofs += 1;
        let over = state.wrong_proofs >= WRONG_PROOFS;
        drop(state);
        if over {
            self.end(Ending::FLOOD);
        }
    }

    /// Counts a request for the proof of the relay's identity. `false` if there were enough.
    pub(crate) fn may_ask_for_proof(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.relay_proofs < RELAY_PROOFS;
        state.relay_proofs += u32::from(may);
        may
    }

    /// The connection shall be closed; the first reason stands.
    pub(crate) fn end(&self, ending: Ending) {
        self.state.lock().ending.get_or_insert(ending);
        self.ended.store(true, Ordering::Release);
        self.outbox.wake();
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        if self.ended.load(Ordering::Acquire) { self.state.lock().ending } else { None }
    }

    pub(crate) fn opening(&self, mailbox: &MailboxId) -> Option<Arc<Opening>> {
        self.state.lock().openings.get(mailbox).map(|seat| seat.opening.clone())
    }

    /// Why there is no opening of this mailbox any more, if that is known.
    pub(crate) fn ended(&self, mailbox: &MailboxId) -> Option<ErrorCode> {
        let state = self.state.lock();
        state.ended.iter().find(|(ended, _)| ended == mailbox).map(|(_, code)| *code)
    }

    /// Gives up the openings that ended, all but the reason. Whoever drives the connection does this after
    /// each step of its work, so that they take no memory.
    pub(crate) fn bury(&self) {
        let ended = self.outbox.take_ended();
        if ended.is_empty() {
            return;
        }
        let mut seats = Vec::with_capacity(ended.len());
        let mut state = self.state.lock();
        for mailbox in ended {
            // It may have been opened again since.
            let code = state.openings.get(&mailbox).and_then(|seat| seat.opening.ended());
            let Some(code) = code else { continue };
            seats.extend(state.openings.remove(&mailbox));
            if state.ended.len() == ENDED {
                state.ended.pop_front();
            }
            state.ended.push_back((mailbox, code));
        }
        drop(state);
        drop(seats);
    }

    /// Room for more openings, until the reservation is dropped; `None` if there would be more than `most`.
    pub(crate) fn reserve_openings(
        &self,
        mailboxes: &HashSet<MailboxId>,
        most: usize,
    ) -> Option<Reserved<'_>> {
        self.bury();
        let mut state = self.state.lock();
        let count = mailboxes.iter().filter(|mailbox| !state.openings.contains_key(*mailbox)).count();
        let fits = state.openings.len() + state.reserved + count <= most;
        if fits {
            state.reserved += count;
        }
        drop(state);
        fits.then(|| Reserved { peer: self, count })
    }

    /// Keeps an opening, in place of an earlier one of the same mailbox.
    pub(crate) fn seat(&self, seat: Seat) {
        let mut state = self.state.lock();
        state.ended.retain(|(mailbox, _)| *mailbox != seat.opening.mailbox);
        let former = if state.gone { Some(seat) } else { state.openings.insert(seat.opening.mailbox, seat) };
        drop(state);
        drop(former);
    }

    /// Gives an opening up. `false` if there was no live one.
    pub(crate) fn unseat(&self, mailbox: &MailboxId) -> bool {
        let mut state = self.state.lock();
        state.ended.retain(|(ended, _)| ended != mailbox);
        let seat = state.openings.remove(mailbox);
        drop(state);
        seat.is_some_and(|seat| seat.opening.ended().is_none())
    }

    /// The connection is gone.
    pub(crate) fn leave(&self) {
        self.outbox.shut();
        let openings = {
            let mut state = self.state.lock();
            state.gone = true;
            std::mem::take(&mut state.openings)
        };
        drop(openings);
    }

    pub(crate) fn push_closed(&self, mailbox: MailboxId, code: ErrorCode) {
        let reason = Refusal::new(code, closing_words(code));
        self.outbox.answer(ServerFrame::push(ServerBody::Closed { mailbox, reason }).encode());
    }

    /// Notes that a request cost so many requests more than it was charged.
    pub(crate) fn owe(&self, cost: u32) {
        self.debt.fetch_add(cost, Ordering::Relaxed);
    }

    /// What is owed, to be charged now.
    pub(crate) fn take_debt(&self) -> u32 {
        self.debt.swap(0, Ordering::Relaxed)
    }

    /// Whether nothing is under way that may let in a reader.
    pub(crate) fn lets_nobody_in(&self) -> bool {
        self.letting_in.load(Ordering::Relaxed) == 0
    }

    /// Counts a request that holds `bytes` until its [`Asked`] is dropped.
    pub(crate) fn ask(self: &Arc<Self>, request: u64, bytes: usize, answer_bytes: usize) -> Asked {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.charge(bytes);
        self.reserved.fetch_add(answer_bytes, Ordering::Relaxed);
        Asked { peer: self.clone(), request, bytes, answer_bytes, lets_in: false }
    }

    /// Whether another request may be begun. One always may, if nothing is unanswered or unsent.
    pub(crate) fn accepts(&self, most: usize) -> bool {
        let requests = self.requests.load(Ordering::Relaxed);
        let answers = self.reserved.load(Ordering::Relaxed) + self.outbox.answer_bytes();
        if requests == 0 && answers == 0 {
            return true;
        }
        let share = self.budget.share();
        requests < most
            && answers < ANSWER_BYTES.min(share)
            && self.held.load(Ordering::Relaxed) < REQUEST_BYTES.min(share)
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Room for openings that are being opened.
pub(crate) struct Reserved<'a> {
    peer: &'a Peer,
    count: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.peer.state.lock().reserved -= self.count;
    }
}

/// A request that is not answered yet.
pub(crate) struct Asked {
    peer: Arc<Peer>,
    request: u64,
    bytes: usize,
    answer_bytes: usize,
    lets_in: bool,
}

impl Asked {
    /// The request may let in a reader.
    pub(crate) fn letting_in(mut self) -> Self {
        self.peer.letting_in.fetch_add(1, Ordering::Relaxed);
        self.lets_in = true;
        self
    }

    /// Whether the client gave a number.
    pub(crate) fn wants_answer(&self) -> bool {
        self.request != 0
    }

    /// Answers it. Whoever drives the session looks for answers after each step of its work, without being
    /// woken.
    pub(crate) fn answer(self, reply: Reply) -> Answered {
        let body = reply.unwrap_or_else(ServerBody::Error);
        self.peer.outbox.answer_quietly(ServerFrame { request: self.request, body }.encode())
    }

    /// Answers it from another thread. Returns whom to wake, unless somebody is about to.
    pub(crate) fn answer_from_afar(self, reply: Reply) -> Option<Waker> {
        let peer = self.peer.clone();
        self.answer(reply);
        // Only now that it no longer counts: whoever is woken may go on reading.
        peer.outbox.take_waker()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.peer.reserved.fetch_sub(self.answer_bytes, Ordering::Relaxed);
        self.peer.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.peer.budget.release(self.bytes);
        self.peer.requests.fetch_sub(1, Ordering::Relaxed);
        self.peer.letting_in.fetch_sub(usize::from(self.lets_in), Ordering::Relaxed);
    }
}
