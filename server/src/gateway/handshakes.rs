//! Connections that are half open: accepted, and not a WebSocket yet.
//!
//! Owns how many there may be. When there are too many the oldest gives way: an honest handshake takes a few
//! milliseconds, so the oldest is one that means harm or is broken. While even the oldest is young, new ones
//! wait in the system's queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// A handshake that took longer than this may have to give way.
const GRACE: Duration = Duration::from_secs(1);

/// The half-open connections of a listener.
#[derive(Debug)]
pub(crate) struct Handshakes {
    most: usize,
    under_way: Mutex<UnderWay>,
    /// One has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// Names the next one; they are in order of age.
    next: u64,
    /// Since when, in steady milliseconds, and how to end it.
    all: BTreeMap<u64, (u64, AbortHandle)>,
}

/// One handshake; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    number: u64,
    all: Arc<Handshakes>,
}

impl Handshakes {
    /// At most so many at once.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, under_way: Mutex::default(), ended: Notify::new() })
    }

    /// Begins one: `spawn` starts its task, which drops the handshake when it is over.
    pub(crate) fn begin(self: &Arc<Self>, now: u64, spawn: impl FnOnce(Handshake) -> AbortHandle) {
        // Locked until it stands in the list, so that it cannot end before.
        let mut under_way = self.under_way.lock();
        let number = under_way.next;
        under_way.next += 1;
        let abort = spawn(Handshake { number, all: Arc::clone(self) });
        under_way.all.insert(number, (now, abort));
    }

    /// Waits until there is room for one more; makes some if the oldest has had its time.
    pub(crate) async fn room(&self, now: impl Fn() -> u64) {
        loop {
            let ended = self.ended.notified();
            let grace = {
                let mut under_way = self.under_way.lock();
                if under_way.all.len() < self.most {
                    return;
                }
                let Some(oldest) = under_way.all.first_entry() else { return };
                let age = Duration::from_millis(now().saturating_sub(oldest.get().0));
                if age >= GRACE {
                    oldest.remove().1.abort();
                    return;
                }
                GRACE - age
            };
            // Whichever comes first, look again.
            let _ = timeout(grace, ended).await;
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.under_way.lock().all.len() as u64
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.under_way.lock().all.remove(&self.number);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_once_it_is_slow() {
        let (handshakes, mut tasks) = (Handshakes::new(2), JoinSet::new());
        let clock = AtomicU64::new(0);
        let now = || clock.load(Ordering::Relaxed);
        let (quick, done) = tokio::sync::oneshot::channel::<()>();
        handshakes.begin(now(), |handshake| {
            tasks.spawn(async move {
                let _ = done.await;
                drop(handshake);
                "quick"
            })
        });
        handshakes.room(now).await;
        handshakes.begin(now(), |handshake| {
            tasks.spawn(async move {
                std::future::pending::<()>().await;
                drop(handshake);
                "never"
            })
        });
        // Full, and nobody is slow yet: room comes when the quick one ends.
        let (_, ()) = tokio::join!(async { quick.send(()) }, handshakes.room(now));
        assert_eq!(tasks.join_next().await.expect("a task").expect("ended by itself"), "quick");
        handshakes.begin(now(), |handshake| {
            tasks.spawn(async move {
                std::future::pending::<()>().await;
                drop(handshake);
                "never"
            })
        });
        clock.store(1500, Ordering::Relaxed);
        handshakes.room(now).await;
        assert!(tasks.join_next().await.expect("a task").expect_err("aborted").is_cancelled());
        assert_eq!(handshakes.count(), 1);
    }
}
