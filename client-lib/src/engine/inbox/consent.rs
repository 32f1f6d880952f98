//! Consent before contact (rule 25): an invitation by somebody who is not an accepted contact, or to a relay
//! that is not in use, waits for the person. Nothing of it goes on the wire until then.

use super::invitation::Declined;
use super::strangers::CONVERSATIONS;
use crate::content::Invitation;
use crate::conversation::invited::{
    Held, Invited, get_invited, hold_invited, list_invited, put_invited, remove_invited,
};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Notice};
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::{Consent, Error, Event, Step, people};
use crate::identity::{PersonId, RelayAddress};

/// An invitation that waited for longer than its envelopes live leads nowhere, milliseconds: 30 days.
const WAITS: u64 = 30 * DAY;
const DAY: u64 = 24 * 3600 * 1000;
/// Conversations that one person may begin with this device in a day without being asked about each.
const OF_ONE_A_DAY: usize = 8;

/// A conversation that this device was removed from, by the relay's word.
#[derive(Clone, Copy)]
struct RemovedFrom {
    there: ConversationId,
    /// The last one that was seen there.
    epoch: u64,
    /// As the person wished.
    left: bool,
}

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
        if let Some(reading) = Reading::load(self.tx, &invitation.mailbox)? {
            return self.hold(&inviter, &reading, &invitation, purpose);
        }
        let foreign = !self.uses_relay(&invitation.relay.identity)?;
        let apart = purpose == Purpose::PublicInbox;
        if !foreign && self.is_wanted(&inviter)? && self.is_no_flood(&inviter)? {
            let id = ConversationId::random(self.rng);
            return match self.follow(id, &invitation, apart, None)? {
                Ok(()) => self.strangers(|today| &mut today.conversations, CONVERSATIONS).map(drop),
                Err(declined) => self.inbox_alarm(None, declined.cause, declined.text),
            };
        }
        self.keep_waiting(&inviter, &invitation, apart, foreign)
    }

    /// Whether this person is asked about no invitation of theirs.
    fn is_wanted(&self, inviter: &PersonId) -> Result<bool, Error> {
        let accepted = people::load(self.tx, inviter)?.is_some_and(|contact| contact.accepted);
        Ok(accepted || self.live.promised.consent == Consent::Everybody)
    }

    /// Whether a relay's address has no other key here: else whoever invites could cut this device off from
    /// a relay that it uses.
    fn is_its_key(&mut self, relay: &RelayAddress) -> Result<bool, Error> {
        let own = self.own()?;
        let known = Conversation::all(self.tx)?.into_iter().map(|(_, record)| record);
        let mut there = known.filter(|record| record.is_read() && record.relay_url == relay.url.as_str());
        let is_own = own.relay()?.url != relay.url || own.relay()?.identity == relay.identity;
        Ok(is_own && there.all(|record| record.relay_identity == relay.identity))
    }

    /// Whether this person, and all together, began few conversations today: each may be a connection, and
    /// more of them wait to be accepted.
    fn is_no_flood(&mut self, inviter: &PersonId) -> Result<bool, Error> {
        let since = self.now.saturating_sub(DAY);
        let began = |record: &Conversation| {
            let by = record.inviter.as_ref().is_some_and(|by| by.person == *inviter);
            by && record.leaf_since > since
        };
        let of_one = Conversation::all(self.tx)?.iter().filter(|(_, record)| began(record)).count();
        Ok(of_one < OF_ONE_A_DAY && self.today()?.conversations < CONVERSATIONS)
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
        let there = match reading.purpose.conversation() {
            Some(there) => Conversation::load(self.tx, &there)?,
            // The ids of our inboxes stand in our cards and leaves.
            None => None,
        };
        let Some(there) = there else {
            let text = "an invitation into an inbox of this device";
            return self.inbox_alarm(None, Cause::BadInvitation, text);
        };
        let is_same = there.group == invitation.group;
        if is_same && invitation.seq <= reading.seq {
            // A repeat of what was followed.
            return Ok(());
        }
        // Whoever is not a member here may have come in behind what was read: they wait among strangers.
        let again = is_same && there.members.iter().any(|member| member.person == *inviter);
        let id = ConversationId::random(self.rng);
        let held = Invited {
            inviter: *inviter,
            group: invitation.group,
            apart: purpose == Purpose::PublicInbox,
            invitation: invitation.to_bytes(),
            received_at: self.now,
            held_for: None,
        };
        if !hold_invited(self.tx, &id, Held { mailbox: invitation.mailbox, again }, &held)? {
            let text = "too many invitations lead to where this device reads: one more was dropped";
            return self.inbox_alarm(None, Cause::TooMany, text);
        }
        self.live.held_dirty = true;
        Ok(())
    }

    /// Looks at invitations again that lead to where we read when they came.
    pub(in crate::engine) fn progress_held(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.live.held_dirty) {
            return Ok(());
        }
        self.flush()?;
        for (id, held) in list_invited(self.tx)? {
            let Some(Held { mailbox, .. }) = held.held_for else { continue };
            // It was verified when it came, and is not held against a clock again.
            let invitation = Invitation::from_bytes(&held.invitation, u64::MAX).ok();
            let is_old = held.received_at.saturating_add(WAITS) < self.now;
            let Some(invitation) = invitation.filter(|_| !is_old) else {
                remove_invited(self.tx, &id)?;
                continue;
            };
            if let Some(there) = self.live.places.get(&mailbox).copied() {
                self.look_at_held(id, there, &held, &invitation)?;
                continue;
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

    /// Whoever is a member there brings this device back at once. Whoever may have come in since it was
    /// removed is asked about like any inviter (rule 25), and so is everybody if the person wished to leave.
    fn look_at_held(
        &mut self,
        id: ConversationId,
        there: ConversationId,
        held: &Invited,
        invitation: &Invitation,
    ) -> Result<(), Error> {
        let Some(lost) = self.removed_from(there, invitation)? else { return Ok(()) };
        if people::is_blocked(self.tx, &held.inviter)? {
            return Ok(());
        }
        remove_invited(self.tx, &id)?;
        let by_member = held.held_for.is_some_and(|held| held.again) && !lost.left;
        let is_unasked = by_member || (self.is_wanted(&held.inviter)? && self.is_no_flood(&held.inviter)?);
        if !is_unasked {
            let foreign = !self.uses_relay(&invitation.relay.identity)?;
            return self.keep_waiting(&held.inviter, invitation, held.apart, foreign);
        }
        match self.follow(id, invitation, held.apart, Some(lost))? {
            Ok(()) => Ok(()),
            Err(declined) => self.inbox_alarm(Some(there), declined.cause, declined.text),
        }
    }

    /// The conversation that an invitation leads back into, if the relay says that we were removed from it,
    /// earlier than the invitation was made.
    fn removed_from(
        &mut self,
        there: ConversationId,
        invitation: &Invitation,
    ) -> Result<Option<RemovedFrom>, Error> {
        let lost = self.talk(&there, |talk| {
            let (record, seq) = (talk.record(), talk.reading().map(|reading| reading.seq));
            // No conversation moves to another relay, which nobody consented to either.
            let is_same =
                record.group == invitation.group && record.relay_identity == invitation.relay.identity;
            let is_later = seq.is_some_and(|seq| seq < invitation.seq);
            let lost = RemovedFrom { there, epoch: record.epoch, left: record.is_leaving() };
            Ok((is_same && is_later && talk.is_evicted()).then_some(lost))
        })?;
        Ok(lost.flatten())
    }

    fn keep_waiting(
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
        let state = self.talk_known(id, |talk| Ok(talk.record().state.clone()))?;
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
        if !foreign_relay && !self.uses_relay(&invitation.relay.identity)? {
            return Err(Error::ForeignRelay(invitation.relay.url.to_string()));
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
    fn follow(
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
            self.refuse_welcome(invitation, declined.cause)?;
        }
        Ok(Err(declined))
    }
}
