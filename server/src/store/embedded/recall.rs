//! Posts and the past: those whose ids are no longer of now leave the ledger, and a repeat of one is looked
//! up where they went (rule 2).
//!
//! A post is written down before the ledger forgets it, and a post that the ledger does not hold can be of
//! now no more: whatever comes first, a repeat finds it in one of the two, and what is in neither never was.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::EmbeddedStore;
use super::past::{Search, Unread};
use super::queue::Waiting;
use crate::store::ledger::{Command, Forget, Outcome, Past};
use crate::store::{Append, StoreError};

/// Posts that leave the ledger at once, from which on they are not gathered any more: their ids cost one
/// sync.
const AT_ONCE: usize = 16_384;

/// Look-ups under way and waiting; whoever asks for one more is told to come again. (Anybody may ask: it is
/// before any key.)
const SEARCHES_ASKED: usize = 256;

impl EmbeddedStore {
    /// Drops what has expired, and lets go of what need not be in memory.
    pub(super) async fn expire_all(&self) -> Result<(), StoreError> {
        loop {
            let (mut again, mut all) = (true, Vec::new());
            while again && all.len() < AT_ONCE {
                let Outcome::Expired { more, past } = self.run(Command::Expire).await? else {
                    unreachable!("an expiry is answered with what is left of it")
                };
                again = more;
                all.extend(past);
            }
            let forgot = !all.is_empty() && self.pass(all).await?;
            if !again && !forgot {
                return self.tidy().await;
            }
        }
    }

    /// Looks a post up that the ledger does not hold. An id that is not of now is never stored any more, so
    /// there is nothing left to decide.
    pub(super) async fn recall(&self, asked: &Append, now: u64) -> Result<u64, StoreError> {
        let Append { mailbox, post_id, .. } = *asked;
        if self.recalling.load(Ordering::SeqCst) >= SEARCHES_ASKED {
            return Err(StoreError::Busy);
        }
        let _one_more = Waiting::count(&self.recalling);
        let life = self.shared.ledger.read().life(&mailbox);
        let permit = Arc::clone(&self.searches).acquire_owned().await.map_err(|_| StoreError::Stopped)?;
        let shared = Arc::clone(&self.shared);
        let find = move || {
            // Whoever asked may be gone meanwhile; the disk is not.
            let _permit = permit;
            match shared.past.search(&mailbox, life, &post_id) {
                Search::Over(known) => Ok(known),
                Search::In(slices) => shared.past.find(&slices, &mailbox, life, &post_id),
            }
        };
        let found = tokio::task::spawn_blocking(find).await.map_err(|_| StoreError::Stopped)?;
        match found.map_err(|Unread| StoreError::Unavailable)? {
            Some((seq, known)) if asked.is_known_as(&known) => Ok(seq),
            Some(_) => Err(StoreError::PostIdReused),
            None => Err(StoreError::PostIdTime { now }),
        }
    }

    /// Writes posts down that the ledger need not hold, and lets it forget them. Returns whether it did.
    async fn pass(&self, past: Vec<Past>) -> Result<bool, StoreError> {
        let (posts, now) = (Forget::all(&past), self.shared.now(self.clock.as_ref()).posts);
        let shared = Arc::clone(&self.shared);
        let written = tokio::task::spawn_blocking(move || shared.past.write(&past, now)).await;
        match written.map_err(|_| StoreError::Stopped)? {
            Ok(passed) => {
                // Whoever has taken one of these ids for new just now asks first; from here on nobody does.
                drop(self.forgetting.write());
                self.run(Command::Forget { posts, passed }).await.map(|_| true)
            }
            Err(error) => {
                tracing::warn!(%error, "post ids cannot be written down: they stay in memory for now");
                Ok(false)
            }
        }
    }

    /// Drops what is over of the past.
    async fn tidy(&self) -> Result<(), StoreError> {
        let now = self.shared.now(self.clock.as_ref()).posts;
        if !self.shared.past.is_untidy(now) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let tidied = tokio::task::spawn_blocking(move || shared.past.tidy(now)).await;
        match tidied.map_err(|_| StoreError::Stopped)? {
            Ok(passed) => self.run(Command::Forget { posts: Vec::new(), passed }).await.map(drop),
            Err(error) => {
                tracing::warn!(%error, "old post ids cannot be removed for now");
                Ok(())
            }
        }
    }
}
