//! How callers reach the committer: requests, the queue that they wait in, and the room that bounds it.
//!
//! Requests are taken in the order in which they were first asked for, whoever has to wait for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};

use super::EmbeddedStore;
use super::committer::size_of;
use super::shared::Pinned;
use crate::store::ledger::{Command, Outcome};
use crate::store::{Later, StoreError, Ticket};

/// Most commands that wait for the committer.
pub(super) const QUEUE_COMMANDS: usize = 8192;
/// The unit in which the queue's bytes are counted, in bytes.
pub(super) const QUEUE_GRAIN: usize = 1024;
/// The least room that there is, in these units.
pub(super) const LEAST_ROOM: usize = 4096;

/// The answer to a command. Whoever asked reads what lies at the places in it.
pub(super) type Reply = Result<Outcome<Pinned>, StoreError>;

/// What is asked of the committer.
pub(super) enum Ask {
    /// A command of the [`Store`](crate::store::Store) trait.
    Command(Box<Command>),
    /// Give up what is damaged.
    ForgetDamage,
    /// Answer everything that came before, and end.
    Close,
}

/// Where an answer goes.
pub(super) enum Asker {
    /// Somebody waits for it.
    Waits(oneshot::Sender<Reply>),
    /// Nobody does; it is told.
    Told(Ticket),
}

/// What was asked, and by whom.
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) asker: Asker,
    /// This request's share of the queue's room, given back with the answer.
    pub(super) units: u32,
}

/// What was asked and not yet taken, and the room for more of it.
pub(super) struct Queue {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) room: Arc<Semaphore>,
}

impl Queue {
    /// Nothing more is put into it; who waits for room hears of the end.
    pub(super) fn close(&mut self) {
        self.requests.close();
        self.room.close();
    }
}

impl Drop for Queue {
    /// Whoever is just putting a request into the queue puts it there behind the end. Unless that request is
    /// dropped, too, it waits for an answer for ever.
    fn drop(&mut self) {
        self.close();
        while self.requests.blocking_recv().is_some() {}
    }
}

/// A command's share of the queue's room.
pub(super) fn units_of(command: &Command) -> u32 {
    // What takes more than all the room would wait for ever; it comes alone.
    size_of(command).div_ceil(QUEUE_GRAIN).min(LEAST_ROOM) as u32
}

/// Counts as one waiting caller for as long as it lives.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn count(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::SeqCst);
        Self(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl EmbeddedStore {
    /// Runs a command.
    pub(super) async fn run(&self, command: Command) -> Reply {
        let units = units_of(&command);
        self.ask(Ask::Command(Box::new(command)), units).await
    }

    pub(super) async fn ask(&self, ask: Ask, units: u32) -> Reply {
        let _unanswered = self.shared.asked(self.clock.as_ref());
        let (reply, answer) = oneshot::channel();
        let request = Request { ask, asker: Asker::Waits(reply), units };
        // If there is room, this must not wait, not even for the sake of other tasks: whoever polls two calls
        // in an order relies on that order.
        tokio::task::unconstrained(self.hand_over(request)).await?;
        // No answer means that the store has failed or closed, and it is not known whether the command
        // happened.
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Puts a request into the queue, in the order of the first polls: at once if there is room and nobody is
    /// waiting for it, else behind those who are.
    async fn hand_over(&self, request: Request) -> Result<(), StoreError> {
        let Some(request) = self.hand_over_now(request)? else { return Ok(()) };
        let _one_more = Waiting::count(&self.waiting);
        let _turn = self.turn.lock().await;
        let room = self.room.acquire_many(request.units).await.map_err(|_| StoreError::Stopped)?;
        let queue = self.queue.as_ref().ok_or(StoreError::Stopped)?;
        let place = queue.reserve().await.map_err(|_| StoreError::Stopped)?;
        // The committer gives it back with the answer.
        room.forget();
        place.send(request);
        Ok(())
    }

    /// The same without waiting. Where that is not possible, the request comes back.
    pub(super) fn hand_over_now(&self, request: Request) -> Result<Option<Request>, StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Stopped)?;
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return Ok(Some(request));
        }
        let room = match self.room.try_acquire_many(request.units) {
            Ok(room) => room,
            Err(TryAcquireError::NoPermits) => return Ok(Some(request)),
            Err(TryAcquireError::Closed) => return Err(StoreError::Stopped),
        };
        match queue.try_send(request) {
            Ok(()) => {
                room.forget();
                Ok(None)
            }
            Err(mpsc::error::TrySendError::Full(back)) => Ok(Some(back)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Stopped),
        }
    }

    /// Runs a command before there is a runtime.
    pub(super) fn blocking(&self, command: Command) -> Reply {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Stopped)?;
        let request = Request { ask: Ask::Command(Box::new(command)), asker: Asker::Waits(reply), units: 0 };
        // Nobody else asks yet, so the queue has room.
        queue.try_send(request).map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// Runs a command whose answer is only that it is done.
    pub(super) fn quiet(&self, command: Command) -> Later<'_, (), StoreError> {
        Box::pin(async move { self.run(command).await.map(drop) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (It used to wait for ever: the queue takes what is put in at that moment, and nobody takes it out.)
    #[test]
    fn whoever_asks_at_the_moment_of_the_end_hears_of_it() {
        let (sender, receiver) = mpsc::channel(4);
        let place = sender.try_reserve().expect("room");
        let queue = Queue { requests: receiver, room: Arc::new(Semaphore::new(1)) };
        let ending = std::thread::spawn(move || drop(queue));
        while !sender.is_closed() {
            std::thread::yield_now();
        }
        let (reply, mut answer) = oneshot::channel();
        place.send(Request { ask: Ask::Close, asker: Asker::Waits(reply), units: 0 });
        ending.join().expect("it ends");
        assert_eq!(answer.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
    }
}
