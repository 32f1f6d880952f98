//! Deliveries to a conversation: each is chained, opened, applied and recorded in the transaction of its
//! input, and acknowledged after it (C1). An envelope that does not open is recorded with a cause and never
//! blocks (rule 9). What goes wrong is rolled back to before the delivery, and suspends the conversation
//! (rule 28).

use posthorn_proto::Incarnation;
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{Delivery, OpenState};

use super::Talk;
use super::slot::AuthorSlot;
use crate::conversation::{Cause, ConversationId, ConversationState};
use crate::engine::mailbox::reading::chain_at;
use crate::engine::mailbox::{Arrival, LOCK_DIFFERS};
use crate::engine::{Error, LinkId, Step};
use crate::envelope::Slot;
use crate::group::{GroupError, Received};
use crate::outbox::{self, SealedPost};

/// What is said when the relay has something else than was read.
const ANOTHER_PAST: &str = "what the relay has here is not what was read from it: its store was put back";

/// How the conversation goes on after a delivery.
pub(in crate::engine) enum After {
    Go,
    /// It cannot: the epoch that this device is in has ended in a way that it cannot follow.
    Suspend(Cause, &'static str),
    /// It goes on in another mailbox, which the group names now.
    Moved,
    /// It is over for us.
    End(ConversationState),
}

impl Step<'_> {
    pub(in crate::engine) fn talk_delivery(
        &mut self,
        conversation: &ConversationId,
        link: &LinkId,
        delivery: &Delivery,
    ) -> Result<(), Error> {
        self.talk(conversation, |talk| talk.delivered(link, delivery)).map(drop)
    }

    pub(in crate::engine) fn talk_lost(
        &mut self,
        conversation: &ConversationId,
        link: &LinkId,
        seq: u64,
        text: &str,
    ) -> Result<(), Error> {
        let behind = self.talk(conversation, |talk| {
            Ok(talk.link().as_ref() == Some(link) && talk.reading().is_some_and(|reading| seq > reading.seq))
        })?;
        match behind {
            Some(true) => self.suspend_talk(conversation, Cause::Damaged, text),
            _ => Ok(()),
        }
    }

    pub(in crate::engine) fn talk_opened(
        &mut self,
        conversation: &ConversationId,
        link: &LinkId,
        state: &OpenState,
    ) -> Result<(), Error> {
        self.talk(conversation, |talk| talk.opened(link, state)).map(drop)
    }
}

impl Talk<'_, '_> {
    fn opened(&mut self, link: &LinkId, state: &OpenState) -> Result<(), Error> {
        let mailbox = self.record().mailbox;
        let Some(mut reading) = self.reading().cloned() else { return Ok(()) };
        reading.claimed();
        let known = reading.incarnation;
        if let Some(cause) = self.is_another_past(known, state) {
            return self.suspend(cause, ANOTHER_PAST);
        }
        self.step.note_incarnation(&mut reading, state)?;
        let fresh = reading.pause.is_none();
        let contradiction = crate::engine::mailbox::contradiction(&reading, state);
        if matches!(contradiction, Some((Cause::RelayRolledBack, _))) {
            // Only the life in which we read can have what we read.
            reading.incarnation = known;
        }
        self.open.changed = true;
        self.open.reading = Some(reading.clone());
        match contradiction {
            // The relay keeps little of what was there before a removal. Whoever was away meanwhile finds a
            // hole first, and that it was removed right behind it, or with the next look.
            Some((Cause::Lapsed, _)) if fresh => {
                let at = reading.look_again(self.step.now);
                self.open.reading = Some(reading);
                self.step.live.look_again(at);
                return Ok(());
            }
            Some((cause, text)) => return self.suspend(cause, text),
            None => {}
        }
        self.step.note_opening(link, &mailbox, &reading, state)?;
        // What the relay answered and does not have (any more) is posted again, the identical bytes (rule 8).
        outbox::unpost(self.step.tx, &mailbox, |posted| posted > state.head)?;
        if state.head > reading.seq {
            // Whatever it is suspended for has passed when the next envelope was taken, not before: else it
            // would go to and fro with each look.
            self.look_again();
            return Ok(());
        }
        if self.lock_differs(link)? {
            return self.suspend(Cause::KeyMismatch, LOCK_DIFFERS);
        }
        self.resume();
        self.look_again();
        Ok(())
    }

    /// Whether the mailbox is suspended because it is not the one that was read, and still is not: numbers
    /// that fit by now prove nothing (rule 8).
    fn is_another_past(&self, known: Option<Incarnation>, state: &OpenState) -> Option<Cause> {
        let ConversationState::Suspended(why) = &self.record().state else { return None };
        let is_another = match why.cause {
            Cause::RelayRolledBack => known.is_some_and(|known| known != state.incarnation),
            Cause::ChainMismatch => true,
            _ => false,
        };
        is_another.then_some(why.cause)
    }

    fn delivered(&mut self, link: &LinkId, delivery: &Delivery) -> Result<(), Error> {
        let Some(reading) = self.open.reading.clone() else { return Ok(()) };
        if delivery.seq <= reading.seq {
            return match self.step.seen_before(&reading, delivery)? {
                true => Ok(()),
                false => self.suspend(Cause::ChainMismatch, ANOTHER_PAST),
            };
        }
        if delivery.seq > reading.seq + 1 {
            let text = "the relay skipped envelopes that it had not told to be expired";
            return self.suspend(Cause::Gap, text);
        }
        let arrival = Arrival::at(&reading, delivery);
        let taken = self.guarded(|talk| match talk.step.passing_over {
            true => talk.pass_over(&arrival),
            false => talk.take(&arrival),
        })?;
        let after = match taken {
            Ok(after) => after,
            Err(error) => return self.suspend(cause_of(&error), &error.to_string()),
        };
        if let After::Suspend(cause, text) = after {
            // The place stays the last good one: a repair begins there.
            return self.suspend(cause, text);
        }
        let mailbox = self.record().mailbox;
        self.open.changed = true;
        if let Some(reading) = &mut self.open.reading {
            reading.advance(self.step.tx, &mailbox, arrival.chain)?;
            let seq = reading.seq;
            self.step.note_head(link, &mailbox, seq);
        }
        match after {
            After::End(state) => self.end(state),
            After::Moved => self.follow(),
            _ => {
                self.resume();
                self.look_again();
                if self.is_at_told_head(link) && self.lock_differs(link)? {
                    return self.suspend(Cause::KeyMismatch, LOCK_DIFFERS);
                }
                Ok(())
            }
        }
    }

    /// Takes a delivery: all of it, or, after an error that is not of the database, nothing.
    pub(in crate::engine) fn guarded(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<After, Error>,
    ) -> Result<Result<After, Error>, Error> {
        let open = (self.open.record.clone(), self.open.changed);
        let before = self.step.mark()?;
        let taken = take(self);
        let taken = self.step.keep_or_undo(before, taken)?;
        if taken.is_err() {
            (self.open.record, self.open.changed) = open;
            self.open.group = None;
        }
        Ok(taken)
    }

    /// It killed the process too often: it is recorded, and reading goes on behind it.
    fn pass_over(&mut self, arrival: &Arrival<'_>) -> Result<After, Error> {
        self.unreadable(arrival, Cause::Poison)
    }

    fn take(&mut self, arrival: &Arrival<'_>) -> Result<After, Error> {
        let delivery = arrival.delivery;
        let mailbox = self.record().mailbox;
        let keys = self.group(|group, _| Ok((group.epoch(), group.keys()?)))?;
        if let Some((row, parcel)) = outbox::by_post(self.step.tx, &mailbox, &delivery.post_id)? {
            // One that comes only now, after its epoch, is nothing that the others could read.
            let is_ours =
                |sealed: &SealedPost| sealed.envelope == delivery.envelope && sealed.epoch == keys.0;
            if parcel.sealed().is_some_and(is_ours) {
                return self.read_back(row, parcel, arrival);
            }
            let text = "the relay stored something else under a post id of ours";
            self.alarm(Cause::EchoDiffers, Some(delivery.seq), text);
        }
        let slot = Slot { mailbox, post: delivery.post_id, turn: arrival.turn };
        let Ok(data) = keys.1.envelope.open(&slot, &delivery.envelope) else {
            return self.unreadable(arrival, Cause::EnvelopeUnreadable);
        };
        let leaves = self.leave_proposals(keys.0);
        let received = self.group(|group, _| Ok(group.receive(&data, &leaves)))?;
        match received {
            Ok(Received::Message { sender, plaintext, aad }) if delivery.turn.is_none() => {
                match self.author_slot(&aad, arrival) {
                    Some(slot) => self.said(&sender, &plaintext, &slot, arrival),
                    None => self.unreadable(arrival, Cause::Misplaced),
                }
            }
            Ok(Received::Commit(change)) => match &delivery.turn {
                Some(turn) => self.foreign_commit(*change, turn, arrival),
                None => self.unreadable(arrival, Cause::CommitWithoutTurn),
            },
            Ok(Received::OwnMessage) if delivery.turn.is_none() => self.own_unknown(arrival),
            Ok(_) => self.unreadable(arrival, Cause::MessageUnreadable),
            Err(GroupError::OwnCommitLost) if delivery.turn.is_some() => {
                self.unreadable(arrival, Cause::RolledBack)?;
                let text = "a commit of this device that this profile does not know: it is an old copy";
                Ok(After::Suspend(Cause::RolledBack, text))
            }
            Err(error) if error.is_storage() => Err(error.into()),
            Err(GroupError::RulesTooNew { .. }) => Ok(After::Suspend(
                Cause::UpdateNeeded,
                "the conversation follows rules that this version does not know: update to go on",
            )),
            Err(_) if delivery.turn.is_some() => self.unreadable(arrival, Cause::BadCommit),
            Err(_) => self.unreadable(arrival, Cause::MessageUnreadable),
        }
    }

    /// What the author signed about the place, if it is this one. What it saw must be what we saw (C4).
    pub(in crate::engine) fn author_slot(&mut self, aad: &[u8], arrival: &Arrival<'_>) -> Option<AuthorSlot> {
        let delivery = arrival.delivery;
        let here = (self.record().mailbox, delivery.post_id, AuthorSlot::readers(delivery.turn.as_ref()));
        AuthorSlot::decode(aad).filter(|slot| (slot.mailbox, slot.post, slot.readers) == here)
    }

    pub(in crate::engine) fn check_history(&mut self, slot: &AuthorSlot, seq: u64) -> Result<(), Error> {
        let Some(reading) = self.reading() else { return Ok(()) };
        if slot.seq >= seq {
            let text = "a member has seen more than this device was shown, or says so";
            self.alarm(Cause::BadPosition, Some(seq), text);
            return Ok(());
        }
        let ours = match slot.seq {
            0 => Some(Chain::START),
            at if at == reading.seq => Some(reading.chain()),
            at => chain_at(self.step.tx, &self.record().mailbox, at)?,
        };
        if ours.is_some_and(|ours| ours != slot.chain) {
            let text = "the relay showed a member a different history than us";
            self.alarm(Cause::ChainMismatch, Some(slot.seq), text);
        }
        Ok(())
    }

    fn is_at_told_head(&self, link: &LinkId) -> bool {
        let up = self.step.live.links.get(link).and_then(|link| link.up());
        let opening = up.and_then(|up| up.openings.get(&self.record().mailbox));
        opening.zip(self.reading()).is_some_and(|(opening, reading)| reading.seq == opening.head)
    }

    /// Whether the lock that the relay told is another than our epoch's (rule 7).
    fn lock_differs(&mut self, link: &LinkId) -> Result<bool, Error> {
        let up = self.step.live.links.get(link).and_then(|link| link.up());
        let Some(told) = up.and_then(|up| up.openings.get(&self.record().mailbox)).map(|o| o.lock) else {
            return Ok(false);
        };
        if !self.has_group() {
            return Ok(false);
        }
        match self.group(|group, _| group.keys()) {
            Ok(keys) => Ok(keys.lock() != told),
            Err(error) if error.is_fatal() => Err(error),
            // What has no keys has not those either.
            Err(_) => Ok(true),
        }
    }

    pub(in crate::engine) fn alarm(&mut self, cause: Cause, seq: Option<u64>, text: impl Into<String>) {
        if self.may_alarm() {
            let conversation = Some(self.id);
            self.step.alarm(conversation, cause, seq, text);
        }
    }
}

/// What a person is told of an error that no delivery may cause.
fn cause_of(error: &Error) -> Cause {
    match error {
        Error::Group(GroupError::RulesTooNew { .. }) => Cause::UpdateNeeded,
        Error::Group(_) => Cause::BadCommit,
        _ => Cause::Internal,
    }
}
