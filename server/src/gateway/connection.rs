//! One WebSocket connection: moves frames between the socket and a session.
//!
//! Owns the socket and the unfinished work of its session; both end when it is dropped. Knows nothing of what
//! frames mean. It is one task that lets the session's work go on, reads in gulps, and writes whatever has
//! gathered at once: a wake-up and a system call for each frame would cost ten times the work itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use posthorn_proto::frame::ClientFrame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::session::{Session, Work};
use super::socket::{Draft, Scratch, Socket};
use super::websocket::{Event, Fault, close, pong};
use crate::clock::SystemClock;
use crate::outbox::{Behind, Budget, Ending};

/// Gulps read before others get their turn.
const GULPS: usize = 4;
/// Rounds of working, reading and writing before other tasks get their turn.
const ROUNDS: usize = 8;
/// How long a client may take for the closing handshake, and for taking what is still to be sent.
const CLOSING: Duration = Duration::from_secs(3);
/// While what comes is thrown away: once nothing came for this long, the relay's direction is ended. Earlier,
/// a proxy would end both, and its client might never see the close frame.
const QUIET: Duration = Duration::from_millis(500);
/// What a client is told to wait before it comes back; it adds its own jitter.
const RECONNECT_AFTER_MS: u32 = 500;
/// A client that takes next to nothing is cut off after this if the relay's budget is short; so often that is
/// looked at.
const HURRY: Duration = Duration::from_secs(5);
/// What a client has to take before its patience begins anew, in bytes: one byte now and then would hold a
/// queue for ever.
const LEAST_TAKEN: usize = 16 * 1024;
/// Who finds the relay's budget used up looks again after this.
const RETRY: Duration = Duration::from_millis(100);

/// What connections have in common.
pub(crate) struct Surroundings {
    pub(crate) clock: SystemClock,
    pub(crate) budget: Arc<Budget>,
    /// Largest message.
    pub(crate) frame_bytes: usize,
    /// A client that is silent for this long is gone.
    pub(crate) idle: Duration,
    /// A client that takes next to nothing for this long, or takes longer for one message, is cut off.
    pub(crate) stalled: Duration,
}

/// A client that is being served. Holds nothing but what a connection needs all its life: most are idle.
pub(crate) struct Connection<S> {
    socket: Socket<S>,
    /// Unfinished requests, and perhaps a catch-up. Dropped before the session, whose openings they may be
    /// making.
    works: Vec<Work>,
    session: Session,
    surroundings: Arc<Surroundings>,
    /// Steady milliseconds at which the client was last heard.
    heard: u64,
    /// Set while the system does not take all that is to be sent.
    stuck: Option<Stuck>,
    /// Since when a message is coming, steady milliseconds.
    coming: Option<u64>,
    /// Bytes charged to the budget for what was read and is not with the session.
    charged: usize,
    /// For whichever deadline is next.
    alarm: Pin<Box<Sleep>>,
    phase: Phase,
    /// To be answered.
    ping: Option<Bytes>,
    /// Reading was left off because the session, or the budget, takes nothing now.
    paused: bool,
    /// What comes is no WebSocket any more, or too large a message: it is thrown away unread, so that the
    /// client finds the close frame and not a reset connection.
    broken: bool,
}

/// Since when the system has not taken [`LEAST_TAKEN`], steady milliseconds, and what it has taken since, in
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stuck {
    since: u64,
    taken: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The relay stops: what was asked is answered, then the connection is closed.
    Draining,
    /// The close frame follows when the outbox is empty. Until then and until it was answered, so many steady
    /// milliseconds.
    Closing(Ending, u64),
    /// The close frame is on its way; the client's is awaited until then.
    Closed(u64),
    /// The relay's direction has ended. Until then the client's may go on.
    Ended(u64),
    /// The client has closed, with this code; it gets its answer.
    Answering(Option<u16>),
    /// It has its answer.
    Parted,
}

/// The connection is over; nobody is told.
struct Gone;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Begins to serve a client; the future ends when it is gone.
    pub(crate) fn new(io: S, read: Bytes, session: Session, surroundings: Arc<Surroundings>) -> Self {
        let now = surroundings.clock.millis();
        Self {
            socket: Socket::new(io, read, surroundings.frame_bytes),
            works: Vec::new(),
            session,
            heard: now,
            stuck: None,
            coming: None,
            charged: 0,
            alarm: Box::pin(tokio::time::sleep(surroundings.idle)),
            surroundings,
            phase: Phase::Open,
            ping: None,
            paused: false,
            broken: false,
        }
    }

    fn rounds(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        self.timers(cx)?;
        for _ in 0..ROUNDS {
            // Registered before looking: whatever is queued after this wakes the task again.
            self.session.outbox().register(cx.waker());
            self.work(cx);
            let phase = self.phase;
            let more = self.read(cx)?;
            self.write(cx)?;
            self.change_phase();
            let resume = self.paused && self.takes_frames();
            if !(more || resume || self.phase != phase || self.session.behind() == Behind::Due) {
                self.watch(cx);
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn now(&self) -> u64 {
        self.surroundings.clock.millis()
    }

    /// The moment at which something has to be done if nothing happens before, steady milliseconds.
    fn deadline(&self) -> u64 {
        match self.phase {
            Phase::Closed(until) if self.broken => return until.min(self.heard + millis(QUIET)),
            Phase::Closing(_, until) | Phase::Closed(until) | Phase::Ended(until) => return until,
            _ => {}
        }
        let Surroundings { idle, stalled, budget, .. } = &*self.surroundings;
        let patience = if budget.is_short() { HURRY.min(*stalled) } else { *stalled };
        let since = self.stuck.map(|stuck| stuck.since).into_iter().chain(self.coming).min();
        let idle = self.heard + millis(*idle);
        since.map_or(idle, |since| idle.min(since + millis(patience)))
    }

    /// Sees to it that the alarm is early enough. It may be too early: then it is set anew when it goes off.
    fn watch(&mut self, cx: &mut Context<'_>) {
        let starved = self.session.behind() == Behind::Starved || (self.paused && self.is_over_budget());
        // While all is well only idleness can come, and for that the alarm is set already.
        let urgent = self.stuck.is_some() || self.coming.is_some() || !matches!(self.phase, Phase::Open);
        if !(starved || urgent) {
            return;
        }
        let left = self.left(self.now()).min(if starved { RETRY } else { HURRY });
        let at = Instant::now() + left;
        if at + left / 2 < self.alarm.deadline() {
            self.alarm.as_mut().reset(at);
            // Registers it; if it has gone off already, the task comes again.
            if self.alarm.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn timers(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        if self.phase == Phase::Open && self.session.is_draining() {
            self.session.going_away(RECONNECT_AFTER_MS);
            self.phase = Phase::Draining;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = self.now();
            self.session.outbox().retry();
            if self.paused && !self.is_over_budget() {
                // It is not the client that lets a message wait.
                self.coming = self.coming.map(|_| now);
            }
            if now >= self.deadline() {
                self.late(now)?;
            }
            let urgent = self.stuck.is_some() || self.coming.is_some();
            let left = self.left(now);
            self.alarm.as_mut().reset(Instant::now() + if urgent { left.min(HURRY) } else { left });
        }
        Ok(())
    }

    /// The deadline has come.
    fn late(&mut self, now: u64) -> Result<(), Gone> {
        match self.phase {
            Phase::Open | Phase::Draining => {
                let is_idle = now >= self.heard + millis(self.surroundings.idle);
                self.session.end(if is_idle { Ending::IDLE } else { Ending::STALLED });
                self.change_phase();
                Ok(())
            }
            Phase::Closed(until) if self.broken && now < until => {
                self.phase = Phase::Ended(until);
                Ok(())
            }
            _ => Err(Gone),
        }
    }

    /// How long the deadline is away; never no time at all, so that an alarm that goes off early is set anew.
    fn left(&self, now: u64) -> Duration {
        Duration::from_millis(self.deadline().saturating_sub(now).max(1))
    }

    fn change_phase(&mut self) {
        if self.phase == Phase::Draining && self.session.unanswered() == 0 {
            self.session.end(Ending::GOING_AWAY);
        }
        if let (Phase::Open | Phase::Draining, Some(ending)) = (self.phase, self.session.ending()) {
            if ending == Ending::STALLED {
                // It will not take them; they stay in the store.
                self.session.outbox().shut();
            }
            self.phase = Phase::Closing(ending, self.now() + millis(CLOSING));
        }
    }

    /// Lets what was asked go on. What is begun in the same round was polled just now, and wakes the task
    /// when it can go on.
    fn work(&mut self, cx: &mut Context<'_>) {
        self.works.retain_mut(|work| work.as_mut().poll(cx).is_pending());
        if let Some(work) = self.session.catch_up() {
            self.begin(work, cx);
        }
        if self.works.is_empty() {
            self.works = Vec::new();
        }
    }

    /// Polls new work at once: that hands it to the store, in the order in which it was asked.
    fn begin(&mut self, mut work: Work, cx: &mut Context<'_>) {
        if work.as_mut().poll(cx).is_pending() {
            self.works.push(work);
        }
    }

    fn takes_frames(&self) -> bool {
        match self.phase {
            Phase::Open | Phase::Draining => {
                self.session.accepts_frames() && self.session.ending().is_none() && !self.is_over_budget()
            }
            // What comes now is thrown away, up to the client's close frame.
            Phase::Closed(_) => true,
            Phase::Closing(..) | Phase::Ended(_) | Phase::Answering(_) | Phase::Parted => false,
        }
    }

    /// Whether this connection holds more of an unfinished message than its share.
    fn is_over_budget(&self) -> bool {
        self.charged > 0 && self.charged > self.surroundings.budget.share()
    }

    /// Reads some gulps. `true` if there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        self.paused = false;
        if self.broken {
            return self.discard(cx);
        }
        let more = self.gulps(cx)?;
        self.account();
        Ok(more)
    }

    fn gulps(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        let rest = self.socket.rest();
        let left = self.take(&rest, cx)?;
        self.socket.keep(rest.slice(rest.len() - left..));
        let mut gulp = Scratch::borrow();
        for _ in 0..GULPS {
            if self.broken || self.socket.has_rest() || !self.takes_frames() {
                self.paused = true;
                return Ok(false);
            }
            let Poll::Ready(read) = self.socket.poll_read(cx, &mut gulp) else { return Ok(false) };
            if !read.map_err(|_| Gone)? {
                return Err(Gone);
            }
            self.heard = self.now();
            let left = self.take(&gulp, cx)?;
            self.socket.keep(Bytes::copy_from_slice(&gulp[gulp.len() - left..]));
        }
        Ok(true)
    }

    /// Charges the budget for what is held of unfinished messages, and notes since when there is one.
    fn account(&mut self) {
        let held = self.socket.held();
        if held != self.charged {
            self.surroundings.budget.charge(held);
            self.surroundings.budget.release(self.charged);
            self.charged = held;
        }
        if !self.socket.is_within_message() {
            self.coming = None;
        } else if self.coming.is_none() {
            self.coming = Some(self.heard);
        }
    }

    /// Takes messages from these bytes for as long as the session takes any. Returns how many bytes are left.
    fn take(&mut self, mut input: &[u8], cx: &mut Context<'_>) -> Result<usize, Gone> {
        while !input.is_empty() && self.takes_frames() {
            match self.socket.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    // One message at a time is coming; the next one's time begins now. A control frame
                    // within a message gives it no more time.
                    if !self.socket.is_within_message() || matches!(event, Event::Binary(_)) {
                        self.coming = None;
                    }
                    self.on_event(event, cx)?;
                }
                Err(fault) => {
                    self.session.end(ending_of(fault));
                    self.broken = true;
                    return Ok(0);
                }
            }
        }
        Ok(input.len())
    }

    fn on_event(&mut self, event: Event, cx: &mut Context<'_>) -> Result<(), Gone> {
        if matches!(self.phase, Phase::Closed(_)) {
            return if matches!(event, Event::Close(_)) { Err(Gone) } else { Ok(()) };
        }
        match event {
            Event::Binary(bytes) => {
                if let Some(work) = self.session.on_frame(ClientFrame::decode(bytes), self.heard) {
                    self.begin(work, cx);
                }
            }
            Event::Text(_) => self.session.end(ending_of(Fault::Text)),
            Event::Ping(payload) => {
                // A newer one stands for those before it (RFC 6455, section 5.5.3).
                self.ping = Some(payload);
                self.session.on_control(self.heard);
            }
            Event::Pong => self.session.on_control(self.heard),
            Event::Close(code) => self.phase = Phase::Answering(code),
        }
        Ok(())
    }

    /// Throws away what comes until the client has closed, too.
    fn discard(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        if !matches!(self.phase, Phase::Closed(_) | Phase::Ended(_)) || !self.socket.is_clear() {
            return Ok(false);
        }
        if matches!(self.phase, Phase::Ended(_))
            && let Poll::Ready(ended) = self.socket.poll_shutdown(cx)
        {
            ended.map_err(|_| Gone)?;
        }
        let mut waste = Scratch::borrow();
        for _ in 0..GULPS {
            let Poll::Ready(read) = self.socket.poll_read(cx, &mut waste) else { return Ok(false) };
            if !read.map_err(|_| Gone)? {
                return Err(Gone);
            }
            self.heard = self.now();
        }
        Ok(true)
    }

    /// Hands what has gathered to the system, as far as it takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        let mut left = 0;
        let cleared = self.write_all(cx, &mut left);
        self.stuck = match self.stuck {
            _ if cleared.is_ready() => None,
            Some(Stuck { since, taken }) if taken + left < LEAST_TAKEN => {
                Some(Stuck { since, taken: taken + left })
            }
            _ => Some(Stuck { since: self.now(), taken: 0 }),
        };
        match cleared {
            Poll::Ready(Err(_)) => Err(Gone),
            Poll::Ready(Ok(())) if self.phase == Phase::Parted => {
                // The client has all; an error of saying so is its own.
                let _ = self.socket.poll_shutdown(cx);
                Err(Gone)
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn write_all(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<std::io::Result<()>> {
        if !self.socket.is_clear() {
            std::task::ready!(self.socket.poll_clear(cx, left))?;
            self.session.outbox().sent();
        }
        let mut buffer = Scratch::borrow();
        loop {
            let mut draft = Draft::new(&mut buffer);
            self.draft(&mut draft);
            if draft.is_empty() {
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(self.socket.poll_send(cx, draft, left))?;
            self.session.outbox().sent();
        }
    }

    /// What to send next.
    fn draft(&mut self, draft: &mut Draft<'_>) {
        match self.phase {
            Phase::Closed(_) | Phase::Ended(_) | Phase::Parted => return,
            Phase::Answering(code) => {
                close(code, "", draft.bytes());
                self.phase = Phase::Parted;
                return;
            }
            Phase::Open | Phase::Draining | Phase::Closing(..) => {}
        }
        if let Some(payload) = self.ping.take() {
            pong(&payload, draft.bytes());
        }
        self.session.outbox().take(|message| draft.push(&message));
        if let Phase::Closing(ending, until) = self.phase
            && draft.is_open()
        {
            close(Some(ending.code), ending.reason, draft.bytes());
            self.phase = Phase::Closed(until);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut().rounds(cx) {
            Ok(()) => Poll::Pending,
            Err(Gone) => Poll::Ready(()),
        }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.surroundings.budget.release(self.charged);
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// How to end after what came could not be read.
pub(super) fn ending_of(fault: Fault) -> Ending {
    match fault {
        Fault::TooLarge => Ending::TOO_LARGE,
        Fault::Text => Ending::TEXT,
        Fault::Protocol => Ending::PROTOCOL,
    }
}
