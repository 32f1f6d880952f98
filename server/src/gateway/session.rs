//! One client's conversation with the relay, without a socket.
//!
//! Owns the order of things: frames in, answers and deliveries into the outbox. Reads no clock and needs no
//! runtime: time comes in, and the [`Work`] that comes out is polled by whoever drives the session: a
//! connection, or a simulation.
//!
//! ```text
//! frame --on_frame--> Work --first poll--> store ...  --> answer in the outbox --pop--> client
//! post  --on_frame--> store ... (no work, if it has room) --> answer in the outbox, which wakes
//! append becomes durable --> hub --> outbox (or "behind" --catch_up--> Work --> store.read --> outbox)
//! ```
//!
//! A driver keeps to four rules:
//! 1. Call [`Session::on_frame`] only while [`Session::accepts_frames`].
//! 2. Poll each `Work` once before the next `on_frame`: that hands it to the store, and posts keep their
//!    order.
//! 3. After frames were taken from the outbox, and whenever it wakes, ask [`Session::catch_up`]; it allows
//!    one at a time.
//! 4. When [`Session::ending`] says so, close the connection as soon as the outbox is empty.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use posthorn_proto::auth::Challenge;
use posthorn_proto::frame::{ClientFrame, FrameError, Hello, Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::{DeviceId, ErrorCode, VERSION};

use crate::command::peer::Peer;
use crate::command::rate::Bucket;
use crate::command::{self, Call, Context, rate_limited};
use crate::live::catch_up::catch_up;
use crate::outbox::{Behind, Ending, Outbox};

pub use crate::command::Work;

/// One client's conversation. Dropping it ends all its openings.
pub struct Session {
    context: Arc<Context>,
    peer: Arc<Peer>,
    requests: Bucket,
    bad_requests: Bucket,
    /// A catch-up is under way.
    catching_up: Arc<AtomicBool>,
}

/// Clears the flag when the catch-up is over or dropped.
struct CatchingUp(Arc<AtomicBool>);

impl Drop for CatchingUp {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Session {
    /// A new connection, which limits by address count for `address`, if for any. Its `Hello` is in the
    /// outbox. `now` is steady milliseconds.
    pub fn new(context: Arc<Context>, address: Option<IpAddr>, now: u64) -> Self {
        let (ephemeral, nonce) = context.ephemerals.draw(now);
        let challenge = Challenge { relay_identity: context.identity(), ephemeral: ephemeral.public, nonce };
        let hello = Hello {
            version: VERSION,
            challenge,
            incarnation: context.store.incarnation(),
            limits: context.limits,
            time: context.mailboxes.posts_time(),
            software: context.software.clone(),
        };
        let budget = context.budget.clone();
        let outbox = Outbox::new(context.outbox_bytes, budget.clone());
        let peer = Peer::new(outbox, budget, address, (ephemeral, nonce));
        peer.outbox.answer(ServerFrame::push(ServerBody::Hello(hello)).encode());
        Self {
            context,
            peer,
            requests: Bucket::default(),
            bad_requests: Bucket::default(),
            catching_up: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Whether another frame may be handed in now. If not, some answers have to leave first.
    pub fn accepts_frames(&self) -> bool {
        self.peer.accepts(self.context.limits.requests_in_flight as usize)
    }

    /// Takes a frame, or the reason why what came is none. `now` is steady milliseconds.
    pub fn on_frame(&mut self, frame: Result<ClientFrame, FrameError>, now: u64) -> Option<Work> {
        if self.ending().is_some() {
            return None;
        }
        let ClientFrame { request, body } = match frame {
            Ok(frame) => frame,
            Err(error) => {
                self.on_bad_frame(&error, now);
                return None;
            }
        };
        let (bytes, answer_bytes) =
            (command::request_bytes(&body), command::answer_bytes(&body, &self.context));
        let asked = self.peer.ask(request, bytes, answer_bytes);
        if let Err(refusal) = self.admit(&body, command::cost(&body, bytes), request, now) {
            asked.answer(Err(refusal));
            return None;
        }
        let asked = if command::may_let_in(&body) { asked.letting_in() } else { asked };
        let call = Call { context: self.context.clone(), peer: self.peer.clone(), now };
        command::begin(call, asked, body)
    }

    /// A sign of life that is no frame (a WebSocket ping or pong). It takes part in the budget, too.
    pub fn on_control(&mut self, now: u64) {
        if !self.requests.owe(self.context.rates.requests, 1, now) {
            self.peer.end(Ending::FLOOD);
        }
    }

    /// What came cannot be a frame: the connection ends.
    pub fn end(&self, ending: Ending) {
        self.peer.end(ending);
    }

    fn admit(&mut self, body: &Request, cost: u32, request: u64, now: u64) -> Result<(), Refusal> {
        let rate = self.context.rates.requests;
        // What came before cost more than it could be asked for: what comes now waits for it.
        let debt = self.peer.take_debt();
        self.requests.owe(rate, debt, now);
        if let Some(address) = self.peer.address.filter(|_| debt > 0) {
            self.context.rates.requests_of_address.owe(address, debt, now);
        }
        if request == 0 {
            // It cannot be told to wait, and a lost ack would stall the client: it goes into debt, to an end.
            if !self.requests.owe(rate, cost, now) {
                self.peer.end(Ending::FLOOD);
            }
            return Ok(());
        }
        self.requests.take(rate, cost, now).map_err(rate_limited)?;
        if let Some(address) = self.peer.address {
            self.context.rates.requests_of_address.take(address, cost, now).map_err(rate_limited)?;
        }
        if self.context.is_draining() && !matches!(body, Request::Ack(_)) {
            return Err(Refusal::new(ErrorCode::ShuttingDown, "the relay is stopping: reconnect"));
        }
        Ok(())
    }

    fn on_bad_frame(&mut self, error: &FrameError, now: u64) {
        let flood = self.bad_requests.take(self.context.rates.bad_requests, 1, now).is_err();
        match error.request() {
            Some(request) if request != 0 && !flood => {
                let reply = Err(Refusal::new(error.code(), error.to_string()));
                self.peer.ask(request, 0, 0).answer(reply);
            }
            _ => self.peer.end(if flood { Ending::FLOOD } else { Ending::BAD_FRAME }),
        }
    }

    /// Serves openings that fell behind. `None` if there is nothing to do, no room to do it in, or one is at
    /// it already.
    pub fn catch_up(&mut self) -> Option<Work> {
        self.peer.bury();
        if self.peer.outbox.behind() != Behind::Due || self.catching_up.swap(true, Ordering::AcqRel) {
            return None;
        }
        let running = CatchingUp(self.catching_up.clone());
        let (context, peer) = (self.context.clone(), self.peer.clone());
        Some(Box::pin(async move {
            let _running = running;
            catch_up(&*context.mailboxes, &context.reads, &peer.outbox, |mailbox| peer.opening(mailbox))
                .await;
        }))
    }

    /// Whether [`Self::catch_up`] would find something to do, or why not.
    pub(crate) fn behind(&self) -> Behind {
        if self.catching_up.load(Ordering::Acquire) { Behind::Nothing } else { self.peer.outbox.behind() }
    }

    /// Whether the relay is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.context.is_draining()
    }

    /// What waits to be sent.
    pub fn outbox(&self) -> &Outbox {
        &self.peer.outbox
    }

    /// The same for whoever keeps it beside the session.
    pub(crate) fn shared_outbox(&self) -> &Arc<Outbox> {
        &self.peer.outbox
    }

    /// Set when the connection has to be closed, after the outbox is empty.
    pub fn ending(&self) -> Option<Ending> {
        self.peer.ending()
    }

    /// The device that the connection has authenticated as.
    pub fn device(&self) -> Option<DeviceId> {
        self.peer.device()
    }

    /// How many requests are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.peer.unanswered()
    }

    /// The relay stops: tell the client.
    pub fn going_away(&self, reconnect_after_ms: u32) {
        self.peer.outbox.answer(ServerFrame::push(ServerBody::GoingAway { reconnect_after_ms }).encode());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.peer.leave();
    }
}
