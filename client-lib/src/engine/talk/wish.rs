//! Wishes: what the person, or the device itself, wants changed. Each is an intent that lives until a commit
//! has made it true, or until it is about nobody any more (C3).

use rand::Rng as _;

use super::Talk;
use crate::conversation::{Cause, ConversationState, Intent, intents, put_intent, remove_intent};
use crate::engine::live::Waiter;
use crate::engine::{Error, Step};
use crate::identity::PersonId;

/// A leaf is given fresh keys at the latest after this long, milliseconds (rule 31): 7 days, less up to one,
/// so that not everybody does it at once.
const LEAF_AGE: u64 = 7 * 24 * 3600 * 1000;
const LEAF_JITTER: u64 = 24 * 3600 * 1000;
/// Likewise after this many envelopes.
const LEAF_ENVELOPES: u64 = 10_000;
/// Own updates of one group are at least this far apart, milliseconds (rule 23).
const UPDATES_APART: u64 = 60_000;
/// Of several members who could commit somebody's leaving, each waits this much longer than the one before,
/// milliseconds.
const LEAVE_STEP: u64 = 2_000;
/// But none waits longer than this, milliseconds.
const LEAVE_LATEST: u64 = 10 * 60 * 1000;

/// Whether a wish is not due yet. One that is due later than any wish is made for was made by a clock that
/// has been put back since.
pub(super) fn waits(intent: &Intent, now: u64) -> bool {
    let latest = match intent {
        Intent::Remove { .. } => LEAVE_LATEST,
        _ => 2 * LEAF_JITTER,
    };
    (1..=latest).contains(&intent.not_before().saturating_sub(now))
}

impl Talk<'_, '_> {
    /// Fresh keys for our leaf, within this time (milliseconds), jittered.
    pub(in crate::engine) fn wish_to_update(&mut self, within: u64) -> Result<(), Error> {
        let jitter = if within == 0 { 0 } else { self.step.rng.random_range(0..within) };
        // Of a clock that was put back nothing follows.
        let updated_at = Some(self.record().updated_at).filter(|at| (1..=self.step.now).contains(at));
        let apart = updated_at.map_or(0, |at| at + UPDATES_APART);
        let not_before = (self.step.now + jitter).max(apart);
        put_intent(self.step.tx, &self.id, &Intent::Update { not_before })?;
        self.step.wake_talk(self.id, not_before);
        Ok(())
    }

    /// Nobody who copied this device's keys shall read on for ever (rule 31).
    pub(in crate::engine) fn renew_leaf(&mut self) -> Result<(), Error> {
        let (since, now) = (self.record().leaf_since, self.step.now);
        // A clock that was put back must not keep a leaf alive.
        let age = now.abs_diff(since);
        let read = self.reading().map_or(0, |reading| reading.seq);
        let is_worn = read.saturating_sub(self.record().leaf_seq) >= LEAF_ENVELOPES;
        let is_doubtful = self.record().doubtful == Some(self.record().epoch);
        let is_urgent = age > LEAF_AGE || is_worn || is_doubtful;
        if is_urgent || age >= LEAF_AGE - LEAF_JITTER {
            let wanted = intents(self.step.tx, &self.id)?;
            if !wanted.iter().any(|(_, intent)| matches!(intent, Intent::Update { .. })) {
                self.wish_to_update(if is_urgent { UPDATES_APART } else { LEAF_JITTER })?;
            }
        } else {
            self.step.wake_talk(self.id, since.saturating_add(LEAF_AGE - LEAF_JITTER).max(now + 1));
        }
        Ok(())
    }

    /// When to take out somebody who leaves, if `before` others may do it sooner.
    pub(in crate::engine) fn removal_time(&mut self, before: u64) -> u64 {
        self.step.now + (before * LEAVE_STEP + self.step.rng.random_range(0..500)).min(LEAVE_LATEST)
    }

    /// Keeps an intent for somebody who waits.
    pub(in crate::engine) fn wish(&mut self, intent: &Intent, waiter: Waiter) -> Result<(), Error> {
        let row = put_intent(self.step.tx, &self.id, intent)?;
        self.step.live.promised.waiters.entry(row).or_default().push(waiter);
        self.look_again();
        self.tell();
        Ok(())
    }

    /// An intent is true now.
    pub(in crate::engine) fn intent_done(&mut self, row: i64) -> Result<(), Error> {
        remove_intent(self.step.tx, row)?;
        for waiter in self.step.live.promised.waiters.remove(&row).unwrap_or_default() {
            self.step.satisfy(waiter);
        }
        Ok(())
    }

    /// An intent cannot become true. Whoever asked is told; if nobody of this run did, the app is.
    pub(in crate::engine) fn intent_failed(
        &mut self,
        row: i64,
        cause: Cause,
        why: &str,
    ) -> Result<(), Error> {
        let never_began = self.never_began(row)?;
        remove_intent(self.step.tx, row)?;
        let waiters = self.step.live.promised.waiters.remove(&row).unwrap_or_default();
        if waiters.is_empty() {
            let conversation = (!never_began).then_some(self.id);
            self.step.alarm(conversation, cause, None, why);
        }
        for waiter in waiters {
            let error = Error::Failed { cause: cause.name(), reason: why.to_owned() };
            self.step.give_up_on(waiter, error);
        }
        if never_began {
            return self.forget();
        }
        self.tell();
        Ok(())
    }

    /// Whether somebody waits for an intent in this run.
    pub(in crate::engine) fn is_waited_for(&self, row: i64) -> bool {
        self.step.live.promised.waiters.contains_key(&row)
    }

    /// Whether this intent was to give a conversation its first other member, and nothing has happened there.
    fn never_began(&mut self, row: i64) -> Result<bool, Error> {
        let wanted = intents(self.step.tx, &self.id)?;
        let is_only_start = wanted.iter().all(|(other, intent)| *other == row && intent.adds());
        let is_young = matches!(self.record().state, ConversationState::Creating | ConversationState::Active)
            && self.record().epoch == 0;
        Ok(is_only_start && is_young && crate::conversation::history::is_empty(self.step.tx, &self.id)?)
    }

    /// A person shall be out, with every device that is in now. The wish for the first of them is the
    /// caller's to keep. Errors: [`Error::UnknownPerson`].
    pub(in crate::engine) fn wish_to_remove(&mut self, person: &PersonId) -> Result<Intent, Error> {
        let members = self.group(|group, _| group.members())?;
        let devices: Vec<_> = members
            .iter()
            .filter(|member| PersonId::from(&member.credential.identity()) == *person)
            .map(|member| (member.leaf, member.signature_key))
            .collect();
        let Some(((leaf, key), others)) = devices.split_first() else {
            return Err(Error::UnknownPerson(person.to_string()));
        };
        for (leaf, key) in others {
            put_intent(self.step.tx, &self.id, &Intent::remove(*leaf, *key, *person, 0))?;
        }
        Ok(Intent::remove(*leaf, *key, *person, 0))
    }
}

impl Step<'_> {
    /// Answers a waiter at once.
    pub(in crate::engine) fn satisfy(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Done(reply) => self.answer(reply, Ok(())),
            Waiter::Started(id, reply) => self.answer(reply, Ok(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock was put back by hours between the wish and its time: whoever left stayed in for as long.
    #[test]
    fn a_clock_that_was_put_back_delays_no_removal() {
        let (now, hour) = (1_800_000_000_000, 3_600_000);
        let remove = |not_before| Intent::remove(1, [1; 32], PersonId([2; 32]), not_before);
        assert!(waits(&remove(now + 1), now) && waits(&remove(now + LEAVE_LATEST), now));
        for later in [0, LEAVE_LATEST + 1, hour, 20 * hour] {
            assert!(!waits(&remove(now + later), now), "{later}");
        }
        let update = |not_before| Intent::Update { not_before };
        assert!(waits(&update(now + 20 * hour), now) && !waits(&update(now + 72 * hour), now));
    }
}
