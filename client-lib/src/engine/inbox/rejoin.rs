//! The answer to a request for a way back: an invitation that uses the key package which this device sent
//! with it. That is our own word, so it continues the conversation that asked, under its history (rule 27).

use crate::content::{Invitation, Receipt};
use crate::conversation::healing::Healing;
use crate::conversation::invited::{Held, Invited, hold_invited};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Notice};
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::talk::Talk;
use crate::engine::{Error, Step, people};
use crate::group::{PendingJoin, Provider};
use crate::identity::PersonId;

use super::invitation::{Declined, UPDATE_WITHIN, fits};

/// What came of it.
pub(super) enum Rejoined {
    /// It answers no request of ours.
    No,
    /// It is done with: followed, or kept until it may be.
    Done,
}

impl Step<'_> {
    /// Follows an invitation if it answers a request of ours.
    pub(super) fn rejoin(&mut self, purpose: Purpose, invitation: &Invitation) -> Result<Rejoined, Error> {
        let inviter = PersonId::from(&invitation.inviter.identity());
        self.flush()?;
        let now = self.now;
        let mut all = Conversation::all(self.tx)?;
        all.retain(|(_, record)| record.group == invitation.group && !record.healing.asked.is_empty());
        for (id, _) in all {
            let (record, is_open) =
                self.talk_known(&id, |talk| Ok((talk.record().clone(), talk.has_open_requests()?)))?;
            if !record.is_read() || !record.has(&inviter, now) || !is_open {
                continue;
            }
            // The mailbox must be this conversation's, or nobody's yet.
            let there = Reading::load(self.tx, &invitation.mailbox)?;
            if there.is_some_and(|reading| reading.purpose != Purpose::Conversation(id)) {
                continue;
            }
            // We repaired it a moment ago: those who follow will say so, and then nobody has to come back.
            if record.healing.alone_until > now {
                return self.rejoin_later(&record, purpose, inviter, invitation);
            }
            let mut not_for_us = false;
            let done = self.attempt(|step| {
                step.talk_known(&id, |talk| match talk.come_back(invitation)? {
                    Ok(()) => Ok(()),
                    Err(declined) => {
                        not_for_us = true;
                        // As an error it leaves nothing behind.
                        Err(declined.into())
                    }
                })
            })?;
            match done {
                Ok(()) => return Ok(Rejoined::Done),
                // It may lead back to where we read, the old way (`held`). It begins no second conversation:
                // what was asked for and came too late would.
                Err(_) if not_for_us && record.mailbox == invitation.mailbox => return Ok(Rejoined::No),
                Err(_) if not_for_us => {
                    self.say_where(invitation)?;
                    return Ok(Rejoined::Done);
                }
                Err(error) => self.inbox_alarm(Some(id), Cause::BadInvitation, error.to_string())?,
            }
        }
        Ok(Rejoined::No)
    }

    /// Whether this device takes part in that conversation, or has asked to be taken in again: then a Welcome
    /// that does not open is one too many, and another would end what one of them began.
    pub(super) fn is_in_touch(&mut self, invitation: &Invitation) -> Result<bool, Error> {
        let inviter = PersonId::from(&invitation.inviter.identity());
        let now = self.now;
        let is_it = |record: &Conversation| {
            record.group == invitation.group
                && record.has(&inviter, now)
                && (record.state == ConversationState::Active || !record.healing.asked.is_empty())
        };
        Ok(Conversation::all(self.tx)?.iter().any(|(_, record)| is_it(record)))
    }

    /// Whoever invites where this device does not go, because it goes on with others where a repair led, is
    /// to know that: they believe it to be back.
    pub(super) fn say_where(&mut self, invitation: &Invitation) -> Result<(), Error> {
        let inviter = PersonId::from(&invitation.inviter.identity());
        let now = self.now;
        let goes_on = |record: &Conversation| {
            record.group == invitation.group
                && record.has(&inviter, now)
                && record.state == ConversationState::Active
                && record.mailbox != invitation.mailbox
                && record.healing.followed(now).is_some()
        };
        let all = Conversation::all(self.tx)?;
        for (id, _) in all.iter().filter(|(_, record)| goes_on(record)) {
            self.talk_known(id, |talk| talk.ask_for_help(None, &[]))?;
        }
        Ok(())
    }

    fn rejoin_later(
        &mut self,
        record: &Conversation,
        purpose: Purpose,
        inviter: PersonId,
        invitation: &Invitation,
    ) -> Result<Rejoined, Error> {
        let held = Invited {
            inviter,
            group: invitation.group,
            apart: purpose == Purpose::PublicInbox,
            invitation: invitation.to_bytes(),
            received_at: self.now,
            held_for: None,
        };
        let id = ConversationId::random(self.rng);
        hold_invited(self.tx, &id, Held { mailbox: record.mailbox, again: true }, &held)?;
        Ok(Rejoined::Done)
    }
}

impl Talk<'_, '_> {
    /// Takes the place of our old seat in the group by a new one. An outer error, and a refusal, are to be
    /// rolled back.
    fn come_back(&mut self, invitation: &Invitation) -> Result<Result<(), Declined>, Error> {
        let declined = |text: &str| Ok(Err(Declined::new(Cause::BadInvitation, text)));
        let mut asked = self.record().healing.asked.clone();
        let own = self.step.own()?;
        let leaving = self.record().is_leaving();
        self.give_up_commit()?;
        let stay = self.group(|group, _| group.members())?;
        self.delete_group()?;
        let provider = Provider::new(self.step.tx, Some(self.id));
        let join = match PendingJoin::new(&provider, &own.leaf()?, &invitation.welcome) {
            Ok(join) => join,
            Err(error) if error.is_storage() => return Err(error.into()),
            Err(error) => return declined(&error.to_string()),
        };
        let package = join.package().map(|package| package.0);
        let Some(place) = asked.iter().position(|asked| Some(asked.package) == package) else {
            return declined("it answers no request of ours");
        };
        let answered = asked.remove(place);
        if let Err(declined) = fits(invitation, &join) {
            return Ok(Err(declined));
        }
        let (healing, now) = (&self.record().healing, self.step.now);
        let repaired = invitation.repaired_before(join.epoch());
        let is_stale = repaired == healing.followed(now) && join.epoch() <= self.record().epoch;
        if join.epoch() <= answered.above || is_stale {
            return declined("it leads back to an earlier epoch");
        }
        let waits = self.record().is_suspended();
        if !healing.leads_on(repaired, waits, now) {
            return declined("it leads to where a repair has lost");
        }
        let (epoch, place) = (join.epoch(), join.info().place.number);
        let is_known = |person: PersonId| self.record().members.iter().any(|known| known.person == person);
        let has_newcomers =
            join.members().iter().any(|m| !is_known(PersonId::from(&m.credential.identity())));
        join.finish()?;
        people::meet(self.step.tx, &invitation.inviter)?;
        let by = people::of_card(self.step.tx, &own, &invitation.inviter)?;
        let relay = self.step.known_address(&invitation.relay)?;
        let is_foreign = !self.step.uses_relay(&relay.identity)?;
        let apart = self.reading().is_some_and(|reading| reading.apart);
        let (before, lacking) = (self.record().place, self.record().everyone.delivered);
        // Who came while we were away is not to read what was said before.
        let again = if has_newcomers { Vec::new() } else { self.lacking(before, lacking)? };
        self.leave_for(&invitation.mailbox, again)?;
        let reading = self.step.reading_of(self.id, invitation, &relay, apart)?;
        let (seq, now) = (invitation.seq, self.step.now);
        let record = self.change();
        record.leads_to(&relay, invitation.mailbox);
        (record.epoch, record.place, record.doubtful) = (epoch, place, None);
        (record.came, record.leaf_since, record.leaf_seq) = (now, now, seq);
        record.receipt_sent = Receipt { delivered: seq, read: seq };
        (record.everyone, record.read, record.receipt_due) = (Receipt::default(), seq, 0);
        let left = record.healing.followed(now);
        let Healing { asked_today, told_today, .. } = record.healing;
        let followed = repaired.map(|repaired| (repaired, now));
        // It may not have led to where those said to be who were to take it in: it asks on.
        let lost_to = record.healing.lost_to.filter(|(to, _)| Some(*to) != repaired);
        record.healing = Healing { asked_today, told_today, asked, followed, lost_to, ..Healing::default() };
        record.state = if leaving { ConversationState::Leaving } else { ConversationState::Active };
        // Whoever asked before was not asking where we are now; they ask again.
        self.settle_all(|_| true)?;
        self.set_reading(reading);
        self.note_members()?;
        let everyone = self.everyone()?;
        self.change().everyone = everyone;
        if repaired.is_some() {
            self.look_for_others(&[by.person])?;
            self.say_here()?;
        }
        if repaired != left && (left.is_some() || !waits) {
            // Whoever stays behind is to know.
            self.ask_for_help(None, &stay)?;
        }
        self.notice(Some(seq), Notice::Returned { by })?;
        self.wish_to_update(UPDATE_WITHIN)?;
        if is_foreign {
            self.wait_for_consent(&relay)?;
        }
        self.look_again();
        self.tell();
        Ok(Ok(()))
    }
}
