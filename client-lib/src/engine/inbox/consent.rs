//! Consent before contact (rule 25): an invitation by somebody who is not an accepted contact, or to a relay
//! that is not in use, waits for the person. Nothing of it goes on the wire until then.

use super::held::RemovedFrom;
use super::invitation::Declined;
use super::rejoin::Rejoined;
use super::strangers::CONVERSATIONS;
use crate::content::Invitation;
use crate::conversation::invited::{Invited, get_invited, list_invited, put_invited};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Notice};
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::{Consent, Error, Event, Step, people};
use crate::identity::{PersonId, RelayAddress, RelayUrl};

/// An invitation that waited for longer than its envelopes live leads nowhere, milliseconds: 30 days.
pub(super) const WAITS: u64 = 30 * DAY;
const DAY: u64 = 24 * 3600 * 1000;
/// Conversations that one person may begin with this device in a day without being asked about each.
const OF_ONE_A_DAY: usize = 8;

impl Step<'_> {
    /// A genuine invitation came.
    pub(super) fn invited(&mut self, purpose: Purpose, invitation: Invitation) -> Result<(), Error> {
        let inviter = PersonId::from(&invitation.inviter.identity());
        if people::is_blocked(self.tx, &inviter)? {
            return Ok(());
        }
        self.flush()?;
        if !self.is_its_key(&invitation.relay)? {
            let text = "an invitation to a relay that is known here by another key";
            return self.inbox_alarm(None, Cause::BadInvitation, text);
        }
        if matches!(self.rejoin(purpose, &invitation)?, Rejoined::Done) {
            return Ok(());
        }
        if let Some(reading) = Reading::load(self.tx, &invitation.mailbox)? {
            return self.hold(&inviter, &reading, &invitation, purpose);
        }
        let foreign = !self.uses_relay(&invitation.relay.identity)?;
        let apart = purpose == Purpose::PublicInbox;
        if !foreign && self.is_wanted(&inviter)? && self.is_no_flood(&inviter)? {
            let id = ConversationId::random(self.rng);
            return match self.follow(id, &invitation, apart, None)? {
                Ok(()) => self.strangers(|today| &mut today.conversations, CONVERSATIONS).map(drop),
                // It answers an earlier request, and they are told where this device goes on.
                Err(declined) if declined.ask_again && self.is_in_touch(&invitation)? => Ok(()),
                Err(declined) => self.inbox_alarm(None, declined.cause, declined.text),
            };
        }
        self.keep_waiting(&inviter, &invitation, apart, foreign)
    }

    /// Whether this person is asked about no invitation of theirs.
    pub(super) fn is_wanted(&self, inviter: &PersonId) -> Result<bool, Error> {
        let accepted = people::load(self.tx, inviter)?.is_some_and(|contact| contact.accepted);
        Ok(accepted || self.live.promised.consent == Consent::Everybody)
    }

    /// Whether a relay's address has no other key here: else whoever invites could cut this device off from
    /// a relay that it uses.
    pub(in crate::engine) fn is_its_key(&mut self, relay: &RelayAddress) -> Result<bool, Error> {
        Ok(self.identity_at(&relay.url)?.is_none_or(|known| known == relay.identity))
    }

    /// Whether this person, and all together, began few conversations today: each may be a connection, and
    /// more of them wait to be accepted.
    pub(super) fn is_no_flood(&mut self, inviter: &PersonId) -> Result<bool, Error> {
        let since = self.now.saturating_sub(DAY);
        let began = |record: &Conversation| {
            let by = record.inviter.as_ref().is_some_and(|by| by.person == *inviter);
            by && record.came > since
        };
        let of_one = Conversation::all(self.tx)?.iter().filter(|(_, record)| began(record)).count();
        Ok(of_one < OF_ONE_A_DAY && self.today()?.conversations < CONVERSATIONS)
    }

    pub(super) fn keep_waiting(
        &mut self,
        inviter: &PersonId,
        invitation: &Invitation,
        apart: bool,
        foreign: bool,
    ) -> Result<(), Error> {
        let oldest = self.now.saturating_sub(WAITS);
        let mut known = None;
        for (id, waiting) in list_invited(self.tx)?.into_iter().filter(|(_, one)| one.held_for.is_none()) {
            if waiting.received_at < oldest {
                self.talk(&id, |talk| talk.forget())?;
            } else if waiting.inviter == *inviter && waiting.group == invitation.group {
                known = Some(id);
            }
        }
        // Who asks twice for one group means the later, which may have a fresh key package; and asks once.
        let id = known.unwrap_or_else(|| ConversationId::random(self.rng));
        let waiting = Invited {
            inviter: *inviter,
            group: invitation.group,
            apart,
            // What was verified is kept as it was verified.
            invitation: invitation.to_bytes(),
            received_at: self.now,
            held_for: None,
        };
        if !put_invited(self.tx, &id, &waiting)? {
            let text = "too many invitations wait to be accepted: one more was dropped";
            return self.inbox_alarm(None, Cause::TooMany, text);
        }
        people::meet(self.tx, &invitation.inviter)?;
        if known.is_some() {
            return self.talk_known(&id, |talk| {
                talk.change().leads_to(&invitation.relay, invitation.mailbox);
                Ok(())
            });
        }
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
        let (state, moved) =
            self.talk_known(id, |talk| Ok((talk.record().state.clone(), talk.record().moved_away())))?;
        if let Some(relay) = moved {
            if !foreign_relay {
                return Err(Error::ForeignRelay(relay));
            }
            let identity = self.talk_known(id, |talk| Ok(talk.record().relay_identity))?;
            if let Ok(url) = RelayUrl::parse(&relay) {
                self.use_relay(&url, Some(identity), false)?;
            }
            self.talk_known(id, |talk| {
                talk.agree();
                Ok(())
            })?;
            return Ok(Ok(()));
        }
        match state {
            ConversationState::Invited => {}
            // Done before, by a caller that did not hear the answer.
            ConversationState::Active => return Ok(Ok(())),
            state => return Err(Error::NotActive(state.in_words().to_owned())),
        }
        let waiting = get_invited(self.tx, id)?.ok_or(Error::UnknownConversation)?;
        // It was verified when it came.
        let invitation = Invitation::from_bytes(&waiting.invitation, u64::MAX)
            .map_err(|error| Declined::new(Cause::BadInvitation, error.to_string()))?;
        if !self.is_its_key(&invitation.relay)? {
            let text = "it leads to a relay that is known here by another key: forget it";
            return Err(Declined::new(Cause::BadInvitation, text).into());
        }
        let lost = match self.live.places.get(&invitation.mailbox).copied() {
            Some(there) => self.removed_from(there, &invitation)?,
            None => None,
        };
        if lost.is_none() && Reading::load(self.tx, &invitation.mailbox)?.is_some() {
            return Err(Declined::new(Cause::BadInvitation, "this device reads there already").into());
        }
        if !self.uses_relay(&invitation.relay.identity)? {
            if !foreign_relay {
                return Err(Error::ForeignRelay(invitation.relay.url.to_string()));
            }
            self.use_relay(&invitation.relay.url, Some(invitation.relay.identity), false)?;
        }
        people::accept(self.tx, &waiting.inviter)?;
        // The conversation begins with the join; what stands there now was the invitation.
        self.talk_known(id, |talk| talk.forget())?;
        match self.follow(*id, &invitation, waiting.apart, lost)? {
            // It has done its work: another one was asked for.
            Err(declined) if declined.ask_again => Ok(Err(declined.into())),
            followed => Ok(Ok(followed?)),
        }
    }

    /// Joins, or says what is wrong with the invitation. The relay says that we were removed from `lost`, and
    /// somebody, later, that we may come in: that is two words and no proof, so what stands there is given up
    /// only for a later epoch that opens.
    pub(super) fn follow(
        &mut self,
        id: ConversationId,
        invitation: &Invitation,
        apart: bool,
        lost: Option<RemovedFrom>,
    ) -> Result<Result<(), Declined>, Error> {
        let mut declined = None;
        let joined = self.attempt(|step| {
            if let Some(lost) = lost {
                let how = if lost.left { ConversationState::Left } else { ConversationState::Removed };
                step.talk(&lost.there, |talk| talk.end(how))?;
            }
            declined = step.join(id, invitation, apart)?.err();
            if let (None, Some(lost)) = (&declined, lost)
                && step.talk_known(&id, |talk| Ok(talk.record().epoch))? <= lost.epoch
            {
                declined = Some(Declined::new(Cause::BadInvitation, "it leads back to an earlier epoch"));
            }
            // As an error it leaves nothing behind.
            declined.clone().map_or(Ok(()), |declined| Err(declined.into()))
        })?;
        let Err(error) = joined else { return Ok(Ok(())) };
        let declined = declined.unwrap_or_else(|| Declined::new(Cause::BadInvitation, error.to_string()));
        if declined.ask_again {
            if self.is_in_touch(invitation)? {
                self.say_where(invitation)?;
            } else {
                self.refuse_welcome(invitation, declined.cause)?;
            }
        }
        Ok(Err(declined))
    }
}
