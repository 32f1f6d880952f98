//! Consent before contact (rule 25): an invitation by somebody who is not an accepted contact, or to a relay
//! that is not in use, waits for the person. Nothing of it goes on the wire until then.

use super::invitation::Declined;
use crate::content::Invitation;
use crate::conversation::invited::{Invited, get_invited, list_invited, put_invited, remove_invited};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Notice};
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::{Consent, Error, Event, Step, people};
use crate::identity::PersonId;

/// An invitation that waited for longer than its envelopes live leads nowhere, milliseconds: 30 days.
const WAITS: u64 = 30 * 24 * 3600 * 1000;

impl Step<'_> {
    /// A genuine invitation came.
    pub(super) fn invited(&mut self, purpose: Purpose, invitation: Invitation) -> Result<(), Error> {
        let inviter = PersonId::from(&invitation.inviter.identity());
        if people::is_blocked(self.tx, &inviter)? {
            return Ok(());
        }
        self.flush()?;
        if let Some(reading) = Reading::load(self.tx, &invitation.mailbox)? {
            return self.hold(&inviter, &reading, &invitation, purpose);
        }
        let foreign = !self.uses_relay(&invitation.relay.identity)?;
        let accepted = people::load(self.tx, &inviter)?.is_some_and(|contact| contact.accepted);
        let follow = !foreign && (accepted || self.live.consent == Consent::Everybody);
        let apart = purpose == Purpose::PublicInbox;
        if follow {
            let id = ConversationId::random(self.rng);
            return match self.follow(id, &invitation, apart)? {
                Ok(()) => Ok(()),
                Err(declined) => self.inbox_alarm(None, declined.cause, declined.text),
            };
        }
        self.keep_waiting(&inviter, &invitation, apart, foreign)
    }

    /// An invitation to where this device reads already. It touches nothing of that (rule 27): reading on
    /// decides whether we are out there, and then it is looked at again.
    fn hold(
        &mut self,
        inviter: &PersonId,
        reading: &Reading,
        invitation: &Invitation,
        purpose: Purpose,
    ) -> Result<(), Error> {
        if reading.purpose.conversation().is_none() {
            // The ids of our inboxes stand in our cards and leaves.
            let text = "an invitation into an inbox of this device";
            return self.inbox_alarm(None, Cause::BadInvitation, text);
        }
        if invitation.seq > reading.seq {
            let id = ConversationId::random(self.rng);
            let held = Invited {
                inviter: *inviter,
                group: invitation.group,
                apart: purpose == Purpose::PublicInbox,
                invitation: invitation.to_bytes(),
                received_at: self.now,
            };
            if put_invited(self.tx, &id, &held)? {
                self.live.held_dirty = true;
            }
        }
        Ok(())
    }

    /// Looks at invitations again that lead to where we read when they came.
    pub(in crate::engine) fn progress_held(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.live.held_dirty) {
            return Ok(());
        }
        self.flush()?;
        for (id, held) in list_invited(self.tx)? {
            if Conversation::load(self.tx, &id)?.is_some() {
                continue;
            }
            let Ok(invitation) = Invitation::from_bytes(&held.invitation, self.relay_now()) else {
                remove_invited(self.tx, &id)?;
                continue;
            };
            if let Some(there) = self.live.places.get(&invitation.mailbox).copied() {
                // The relay says that we were removed, and a member, later than what we read, that we may
                // come in.
                let is_out = self.talk(&there, |talk| {
                    Ok(talk.is_evicted()
                        && talk.reading().is_some_and(|reading| reading.seq < invitation.seq))
                })?;
                if is_out != Some(true) {
                    continue;
                }
                self.talk(&there, |talk| talk.end(ConversationState::Removed))?;
            }
            remove_invited(self.tx, &id)?;
            let purpose = if held.apart { Purpose::PublicInbox } else { Purpose::PrivateInbox };
            let done = self.attempt(|step| step.invited(purpose, invitation))?;
            if let Err(error) = done {
                self.inbox_alarm(None, Cause::BadInvitation, error.to_string())?;
            }
        }
        Ok(())
    }

    fn keep_waiting(
        &mut self,
        inviter: &PersonId,
        invitation: &Invitation,
        apart: bool,
        foreign: bool,
    ) -> Result<(), Error> {
        let oldest = self.now.saturating_sub(WAITS);
        for (id, waiting) in list_invited(self.tx)? {
            // Who asks twice for one group means the later, which may have a fresh key package.
            let again = waiting.inviter == *inviter && waiting.group == invitation.group;
            if again || waiting.received_at < oldest {
                self.talk(&id, |talk| talk.forget())?;
            }
        }
        let id = ConversationId::random(self.rng);
        let waiting = Invited {
            inviter: *inviter,
            group: invitation.group,
            apart,
            // What was verified is kept as it was verified.
            invitation: invitation.to_bytes(),
            received_at: self.now,
        };
        if !put_invited(self.tx, &id, &waiting)? {
            let text = "too many invitations wait to be accepted: one more was dropped";
            return self.inbox_alarm(None, Cause::TooMany, text);
        }
        people::meet(self.tx, &invitation.inviter)?;
        let own = self.own()?;
        let who = people::of_card(self.tx, &own, &invitation.inviter)?;
        let mut record = Conversation::new(
            invitation.group,
            &invitation.relay,
            invitation.mailbox,
            ConversationState::Invited,
        );
        record.inviter = Some(who.clone());
        record.members = vec![who.clone()];
        self.begin_talk(id, record, |talk| talk.notice(None, Notice::Invited { by: who }))?;
        let inviter = self.known_person(inviter)?;
        let relay = invitation.relay.url.to_string();
        self.event(Event::Invited { conversation: id, inviter, relay, foreign_relay: foreign });
        self.event(Event::Conversation { conversation: id });
        Ok(())
    }

    /// The person accepts an invitation, and with it who invited. An outer error is to be rolled back: what
    /// cannot be followed stays, for the person to try later or to forget. An inner one is only to be told.
    pub(in crate::engine) fn accept(
        &mut self,
        id: &ConversationId,
        foreign_relay: bool,
    ) -> Result<Result<(), Error>, Error> {
        let state = self.talk_known(id, |talk| Ok(talk.record().state.clone()))?;
        match state {
            ConversationState::Invited => {}
            // Done before, by a caller that did not hear the answer.
            ConversationState::Active => return Ok(Ok(())),
            state => return Err(Error::NotActive(state.in_words().to_owned())),
        }
        let waiting = get_invited(self.tx, id)?.ok_or(Error::UnknownConversation)?;
        let invitation = Invitation::from_bytes(&waiting.invitation, self.relay_now()).map_err(|error| {
            Error::Failed { cause: Cause::BadInvitation.name(), reason: error.to_string() }
        })?;
        if Reading::load(self.tx, &invitation.mailbox)?.is_some() {
            let reason = "this device is in that conversation already".to_owned();
            return Err(Error::Failed { cause: Cause::BadInvitation.name(), reason });
        }
        if !foreign_relay && !self.uses_relay(&invitation.relay.identity)? {
            return Err(Error::ForeignRelay(invitation.relay.url.to_string()));
        }
        people::accept(self.tx, &waiting.inviter)?;
        // The conversation begins with the join; what stands there now was the invitation.
        self.talk_known(id, |talk| talk.forget())?;
        match self.follow(*id, &invitation, waiting.apart)? {
            // It has done its work: another one was asked for.
            Err(declined) if declined.ask_again => Ok(Err(declined.into())),
            followed => Ok(Ok(followed?)),
        }
    }

    /// Joins, or says what is wrong with the invitation.
    fn follow(
        &mut self,
        id: ConversationId,
        invitation: &Invitation,
        apart: bool,
    ) -> Result<Result<(), Declined>, Error> {
        let joined = self.attempt(|step| step.join(id, invitation, apart))?;
        let declined = match joined {
            Ok(Ok(())) => return Ok(Ok(())),
            Ok(Err(declined)) => declined,
            Err(error) => Declined::new(Cause::BadInvitation, error.to_string()),
        };
        if declined.ask_again {
            self.refuse_welcome(invitation, declined.cause)?;
        }
        Ok(Err(declined))
    }
}
