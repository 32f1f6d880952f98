//! A conversation: loaded once, worked on, saved once a step.
//!
//! [`Talk`] is the only thing that changes a conversation's row, its place in the mailbox and its group. It
//! is opened by [`Step::talk`] and closed when that returns; between steps what was committed stays loaded.
//!
//! In the order of a conversation's life: `start`, `create` (its mailbox), `candidate` (whom to add),
//! `commit` (wishes into commits), `invite`, `post` (what is said), `deliver` (what comes: `said` by members,
//! `changed` by commits), `receipt`, `moving` (to another mailbox), `suspend` (what cannot go on), `heal` and
//! `repair` (what is done about that), `leave`; `look` tells all of it to the app.

mod answer;
mod candidate;
mod changed;
mod commit;
mod create;
mod deliver;
mod heal;
mod invite;
mod judge;
mod leave;
mod look;
mod moving;
mod post;
mod receipt;
mod repair;
mod said;
pub(super) mod slot;
mod start;
mod suspend;
mod wish;

pub(super) use answer::ASKED_WITHIN;
pub(super) use post::post_request;

use super::mailbox::reading::{Purpose, Reading};
use super::{Error, Event, LinkId, Step};
use crate::conversation::{Conversation, ConversationId, ConversationState};
use crate::group::{Group, GroupError, KeptGroup, Provider};
use crate::store::Transaction;

/// What is loaded of a conversation.
pub(super) struct Open {
    pub(super) record: Conversation,
    /// Where it is read; none before an invitation is accepted and after the end.
    pub(super) reading: Option<Reading>,
    group: Option<KeptGroup>,
    changed: bool,
    pub(super) used: u64,
}

/// A conversation being worked on.
pub(super) struct Talk<'s, 'a> {
    pub(super) step: &'s mut Step<'a>,
    pub(super) id: ConversationId,
    open: Open,
    /// It is to be forgotten.
    gone: bool,
}

impl Open {
    fn load(tx: &Transaction<'_>, id: &ConversationId) -> Result<Option<Self>, Error> {
        let Some(record) = Conversation::load(tx, id)? else { return Ok(None) };
        let is_ours = |reading: &Reading| reading.purpose == Purpose::Conversation(*id);
        let reading = Reading::load(tx, &record.mailbox)?.filter(is_ours);
        Ok(Some(Self { record, reading, group: None, changed: false, used: 0 }))
    }

    pub(in crate::engine) fn save(&mut self, tx: &Transaction<'_>, id: &ConversationId) -> Result<(), Error> {
        if std::mem::take(&mut self.changed) {
            self.record.save(tx, id)?;
            if let Some(reading) = &self.reading {
                reading.save(tx, &self.record.mailbox)?;
            }
        }
        Ok(())
    }
}

impl<'a> Step<'a> {
    /// Works on a conversation. `None` if there is none. After an error the caller rolls back.
    pub(in crate::engine) fn talk<T>(
        &mut self,
        id: &ConversationId,
        work: impl FnOnce(&mut Talk<'_, 'a>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let open = match self.live.talks.remove(id) {
            Some(open) => open,
            None => match Open::load(self.tx, id)? {
                Some(open) => open,
                None => return Ok(None),
            },
        };
        let mut talk = Talk { step: self, id: *id, open, gone: false };
        let result = work(&mut talk);
        let Talk { mut open, gone, .. } = talk;
        if !gone {
            open.used = self.live.steps;
            self.live.talks.insert(*id, open);
        }
        result.map(Some)
    }

    /// Likewise, where there has to be one. Errors: [`Error::UnknownConversation`].
    pub(in crate::engine) fn talk_known<T>(
        &mut self,
        id: &ConversationId,
        work: impl FnOnce(&mut Talk<'_, 'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.talk(id, work)?.ok_or(Error::UnknownConversation)
    }

    /// A conversation that is in no table yet.
    pub(in crate::engine) fn begin_talk<T>(
        &mut self,
        id: ConversationId,
        record: Conversation,
        work: impl FnOnce(&mut Talk<'_, 'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let open = Open { record, reading: None, group: None, changed: true, used: 0 };
        self.live.talks.insert(id, open);
        self.talk_known(&id, work)
    }

    /// What a conversation can do now. What goes wrong in it is its own end, not the engine's.
    pub(in crate::engine) fn progress_talk(&mut self, id: &ConversationId) -> Result<(), Error> {
        let done = self.attempt(|step| step.talk(id, |talk| talk.progress()))?;
        if let Err(error) = done {
            self.suspend_talk(id, crate::conversation::Cause::Internal, &error.to_string())?;
        }
        Ok(())
    }
}

impl Talk<'_, '_> {
    pub(in crate::engine) fn record(&self) -> &Conversation {
        &self.open.record
    }

    /// The record, to be changed; it is saved with the step.
    pub(in crate::engine) fn change(&mut self) -> &mut Conversation {
        self.open.changed = true;
        &mut self.open.record
    }

    pub(in crate::engine) fn reading(&self) -> Option<&Reading> {
        self.open.reading.as_ref()
    }

    pub(in crate::engine) fn change_reading(&mut self) -> Option<&mut Reading> {
        self.open.changed = true;
        self.open.reading.as_mut()
    }

    pub(in crate::engine) fn set_reading(&mut self, reading: Reading) {
        let mailbox = self.open.record.mailbox;
        self.step.live.places.insert(mailbox, self.id);
        self.step.live.openings_dirty = true;
        self.step.live.links_dirty = true;
        self.open.changed = true;
        self.open.reading = Some(reading);
    }

    /// Works on the conversation's group.
    pub(in crate::engine) fn group<T>(
        &mut self,
        work: impl FnOnce(&mut Group<'_>, &Provider<'_>) -> Result<T, GroupError>,
    ) -> Result<T, Error> {
        let provider = Provider::new(self.step.tx, Some(self.id));
        let mut group = match self.open.group.take() {
            Some(kept) => kept.resume(&provider),
            None => Group::load(&provider, &self.open.record.group)?,
        };
        let result = work(&mut group, &provider);
        // After an error that is not of the database the group is as before.
        self.open.group = Some(group.keep());
        Ok(result?)
    }

    /// Whether this conversation has a group: not before an invitation is accepted, not after the end.
    pub(in crate::engine) fn has_group(&self) -> bool {
        !matches!(self.record().state, ConversationState::Invited) && !self.record().has_ended()
    }

    pub(in crate::engine) fn link(&self) -> Option<LinkId> {
        self.reading().and_then(Reading::link)
    }

    /// Something in the summary changed.
    pub(in crate::engine) fn tell(&mut self) {
        let conversation = self.id;
        self.step.event(Event::Conversation { conversation });
    }

    /// Look at it again in this pass.
    pub(in crate::engine) fn look_again(&mut self) {
        self.step.live.dirty.insert(self.id);
    }

    fn progress(&mut self) -> Result<(), Error> {
        match self.record().state {
            ConversationState::Creating => {
                self.resolve_candidates()?;
                self.create_mailbox()
            }
            ConversationState::Active | ConversationState::Leaving => {
                self.tell_gone()?;
                self.resolve_candidates()?;
                self.ask_on()?;
                self.answer_heard()?;
                self.renew_leaf()?;
                self.progress_posts()
            }
            ConversationState::Suspended(_) => self.heal(),
            ConversationState::Invited | ConversationState::Left | ConversationState::Removed => Ok(()),
        }
    }
}
