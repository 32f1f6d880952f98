//! Invitations to where this device reads already: they wait until reading on shows whether it was removed
//! there, and may then lead back into the conversation (rules 27, 28).

use super::consent::WAITS;
use super::rejoin::Rejoined;
use crate::content::Invitation;
use crate::conversation::invited::{Held, Invited, hold_invited, list_invited, remove_invited};
use crate::conversation::{Cause, Conversation, ConversationId};
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::{Error, Step, people};
use crate::identity::PersonId;

/// A conversation that this device was removed from, by the relay's word.
#[derive(Clone, Copy)]
pub(super) struct RemovedFrom {
    pub(super) there: ConversationId,
    /// The last one that was seen there.
    pub(super) epoch: u64,
    /// As the person wished.
    pub(super) left: bool,
}

impl Step<'_> {
    /// An invitation to where this device reads already. It touches nothing of that (rule 27): reading on
    /// decides whether we are out there, and then it is looked at again.
    pub(super) fn hold(
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
        let again = is_same && there.has(inviter, self.now);
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
            let purpose = if held.apart { Purpose::PublicInbox } else { Purpose::PrivateInbox };
            if !people::is_blocked(self.tx, &held.inviter)?
                && matches!(self.rejoin(purpose, &invitation)?, Rejoined::Done)
            {
                remove_invited(self.tx, &id)?;
                continue;
            }
            if let Some(there) = self.live.places.get(&mailbox).copied() {
                self.look_at_held(id, there, &held, &invitation)?;
                continue;
            }
            remove_invited(self.tx, &id)?;
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
    pub(super) fn removed_from(
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
}
