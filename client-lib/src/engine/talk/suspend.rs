//! What cannot go on (rule 28): suspended with everything kept, looked at again ever more seldom, and ended
//! only by the person, by a removal, or by a repair. The reason may pass: the relay was started on the wrong
//! folder, this program is updated, or a member takes us out and in again.

use super::Talk;
use crate::conversation::{
    Cause, ConversationId, ConversationState, Suspension, history, intents, remove_intents,
};
use crate::engine::live::Waiter;
use crate::engine::mailbox::reading::Reading;
use crate::engine::{Error, Event, Step};
use crate::outbox::{self, Parcel};

/// Alarms of one conversation in a day.
const ALARMS: u32 = 16;
const DAY: u64 = 24 * 3600 * 1000;
/// What could not be begun is tried again after this long, milliseconds.
const RETRY: u64 = 60_000;

impl Step<'_> {
    pub(in crate::engine) fn suspend_talk(
        &mut self,
        conversation: &ConversationId,
        cause: Cause,
        text: &str,
    ) -> Result<(), Error> {
        self.talk(conversation, |talk| talk.suspend(cause, text)).map(drop)
    }
}

impl Cause {
    /// Whether the relay says by it that this device was removed. Its key is another's where it was admitted
    /// again since.
    fn is_eviction(self) -> bool {
        matches!(self, Self::Evicted | Self::ReadKeyRefused)
    }
}

impl Talk<'_, '_> {
    /// This cannot go on for now. What waits is kept, what was read stays.
    pub(in crate::engine) fn suspend(&mut self, cause: Cause, text: &str) -> Result<(), Error> {
        if self.record().has_ended() || self.record().state == ConversationState::Invited {
            return Ok(());
        }
        let now = self.step.now;
        if self.record().state == ConversationState::Creating {
            // Nothing was read that could be lost: it is made later.
            self.step.wake_talk(self.id, now + RETRY);
            self.alarm(cause, None, text);
            return Ok(());
        }
        let known = match &self.record().state {
            ConversationState::Suspended(suspension) => Some(suspension.cause),
            _ => None,
        };
        let mailbox = self.record().mailbox;
        if let Some(link) = self.link() {
            self.step.close(&link, &mailbox);
        }
        let Some(reading) = self.change_reading() else { return Ok(()) };
        let (seq, chain) = (reading.seq, reading.chain());
        let at = reading.look_again(now);
        self.step.live.look_again(at);
        self.step.live.links_dirty = true;
        self.step.live.held_dirty |= cause.is_eviction();
        let was_leaving = self.record().is_leaving();
        if known != Some(cause) {
            self.change().state = ConversationState::Suspended(Suspension {
                cause,
                since: now,
                seq,
                chain: chain.0,
                leaving: was_leaving,
            });
            // Whoever waits for a change here would wait for long.
            for (row, _) in intents(self.step.tx, &self.id)? {
                for waiter in self.step.live.promised.waiters.remove(&row).unwrap_or_default() {
                    let error = Error::NotActive(format!("{text} ({cause}); it is kept and goes on with it"));
                    self.step.give_up_on(waiter, error);
                }
            }
            self.tell();
            self.alarm(cause, Some(seq), text);
            self.look_again();
        }
        Ok(())
    }

    /// Whether the relay says that this device was removed.
    pub(in crate::engine) fn is_evicted(&self) -> bool {
        matches!(&self.record().state, ConversationState::Suspended(why) if why.cause.is_eviction())
    }

    /// The reason has passed, if there was one.
    pub(in crate::engine) fn resume(&mut self) {
        if self.reading().is_some_and(|reading| reading.pause.is_some())
            && let Some(reading) = self.change_reading()
        {
            reading.pause = None;
        }
        if let ConversationState::Suspended(suspension) = &self.record().state {
            let leaving = suspension.leaving;
            self.change().state =
                if leaving { ConversationState::Leaving } else { ConversationState::Active };
            self.tell();
        }
    }

    /// It is over for us: nothing of it is kept but its history.
    pub(in crate::engine) fn end(&mut self, state: ConversationState) -> Result<(), Error> {
        let mailbox = self.record().mailbox;
        if let Some(link) = self.link() {
            self.step.close(&link, &mailbox);
        }
        let cause = if state == ConversationState::Left { Cause::Left } else { Cause::Removed };
        self.give_up_commit()?;
        self.abandon_intents()?;
        let asked = std::mem::take(&mut self.change().healing.asked);
        self.close_requests(asked)?;
        self.delete_group()?;
        // An invitation reads nothing: the mailbox that it names may be another conversation's.
        if self.open.reading.take().is_some() {
            self.abandon_parcels(cause)?;
            Reading::delete(self.step.tx, &mailbox)?;
            self.step.live.places.remove(&mailbox);
        }
        self.step.live.turned.remove(&self.id);
        (self.step.live.links_dirty, self.step.live.held_dirty) = (true, true);
        let record = self.change();
        record.state = state;
        record.leaving.clear();
        self.tell();
        Ok(())
    }

    /// Forgets an invitation or what has ended, and nothing that others still speak in.
    pub(in crate::engine) fn forget_what_is_over(&mut self) -> Result<(), Error> {
        if self.record().is_read() { Err(Error::StillIn) } else { self.forget() }
    }

    /// Forgets a conversation with all that there is of it.
    pub(in crate::engine) fn forget(&mut self) -> Result<(), Error> {
        if !self.record().has_ended() {
            self.end(ConversationState::Left)?;
        }
        crate::conversation::forget(self.step.tx, &self.id)?;
        self.gone = true;
        self.tell();
        Ok(())
    }

    pub(in crate::engine) fn delete_group(&mut self) -> Result<(), Error> {
        if !self.has_group() {
            return Ok(());
        }
        self.open.group = None;
        let provider = crate::group::Provider::new(self.step.tx, Some(self.id));
        match crate::group::Group::load(&provider, &self.open.record.group) {
            Ok(group) => Ok(group.delete()?),
            Err(error) if error.is_storage() => Err(error.into()),
            // One that does not load cannot be used any more either.
            Err(_) => Ok(()),
        }
    }

    /// Forgets what is still wanted of a conversation that has ended.
    fn abandon_intents(&mut self) -> Result<(), Error> {
        for (row, _) in intents(self.step.tx, &self.id)? {
            for waiter in self.step.live.promised.waiters.remove(&row).unwrap_or_default() {
                self.step.give_up_on(waiter, Error::NotActive("it ended meanwhile".to_owned()));
            }
        }
        Ok(remove_intents(self.step.tx, &self.id)?)
    }

    /// What was still to be said there never will be, and says so (C2).
    fn abandon_parcels(&mut self, cause: Cause) -> Result<(), Error> {
        let (own, mailbox) = (self.step.own()?.person, self.record().mailbox);
        for (_, parcel) in outbox::all(self.step.tx, &mailbox)? {
            if let Parcel::Message { message, .. } = parcel
                && let Some(row) = history::fail(self.step.tx, &self.id, &own, &message, cause)?
                && let Some(entry) = self.entry(row)?
            {
                self.step.event(Event::Changed(Box::new(entry)));
            }
        }
        Ok(outbox::remove_all(self.step.tx, &mailbox)?)
    }

    /// Whether one more alarm of this conversation may be raised today: whoever can make them without end
    /// would bury the others.
    pub(in crate::engine) fn may_alarm(&mut self) -> bool {
        let day = self.step.now / DAY;
        let record = self.change();
        if record.alarms.0 != day {
            record.alarms = (day, 0);
        }
        record.alarms.1 += 1;
        record.alarms.1 <= ALARMS
    }
}

impl Step<'_> {
    pub(in crate::engine) fn give_up_on(&mut self, waiter: Waiter, error: Error) {
        match waiter {
            Waiter::Done(reply) => self.answer(reply, Err(error)),
            Waiter::Started(_, reply) => self.answer(reply, Err(error)),
        }
    }
}
