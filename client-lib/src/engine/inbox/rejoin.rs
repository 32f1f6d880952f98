//! The answer to a request for a way back: an invitation that uses the key package which this device sent
//! with it. That is our own word, so it continues the conversation that asked, under its history (rule 27).

use crate::content::{Invitation, Receipt, Repaired};
use crate::conversation::healing::{Asked, Healing};
use crate::conversation::invited::{Held, Invited, hold_invited};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Notice};
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::talk::Talk;
use crate::engine::{Error, Step, people};
use crate::group::{Member, PendingJoin, Provider};
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
    /// that does not open is one too many, and another would end what one of them began. (Whoever invites may
    /// have been taken out here, and be where another repair led.)
    pub(super) fn is_in_touch(&mut self, invitation: &Invitation) -> Result<bool, Error> {
        let inviter = PersonId::from(&invitation.inviter.identity());
        let now = self.now;
        let is_it = |record: &Conversation| {
            record.group == invitation.group
                && (record.state == ConversationState::Active
                    || (record.has(&inviter, now) && !record.healing.asked.is_empty()))
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
    /// The repair to which an answer leads, if this device can go on there, and does not go back.
    fn way_on(
        &self,
        invitation: &Invitation,
        join: &PendingJoin<'_>,
        above: u64,
    ) -> Result<Option<Repaired>, Declined> {
        fits(invitation, join)?;
        let declined = |text: &str| Err(Declined::new(Cause::BadInvitation, text));
        let (record, repaired) = (self.record(), invitation.repaired_before(join.epoch()));
        // What waits for the person's consent may be somebody's fork: whoever else answers is heard, too.
        let is_stale =
            repaired == record.healing.led_by() && join.epoch() <= record.epoch && !record.awaits_consent();
        if join.epoch() <= above || is_stale {
            return declined("it leads back to an earlier epoch");
        }
        if !record.healing.leads_on(repaired, record.is_suspended(), self.step.now) {
            return declined("it leads to where a repair has lost");
        }
        Ok(repaired)
    }

    /// Takes the place of our old seat in the group by a new one. An outer error, and a refusal, are to be
    /// rolled back.
    fn come_back(&mut self, invitation: &Invitation) -> Result<Result<(), Declined>, Error> {
        let declined = |text: &str| Ok(Err(Declined::new(Cause::BadInvitation, text)));
        let mut asked = self.record().healing.asked.clone();
        let own = self.step.own()?;
        let leaving = self.record().is_leaving();
        self.give_up_commit()?;
        let those = self.group(|group, _| group.members())?;
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
        let repaired = match self.way_on(invitation, &join, answered.above) {
            Ok(repaired) => repaired,
            Err(declined) => return Ok(Err(declined)),
        };
        let waits = self.record().is_suspended();
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
        record.state = if leaving { ConversationState::Leaving } else { ConversationState::Active };
        self.set_reading(reading);
        self.note_members()?;
        let everyone = self.everyone()?;
        self.change().everyone = everyone;
        self.came_by(repaired, by.person, asked, waits, &those)?;
        self.notice(Some(seq), Notice::Returned { by })?;
        self.wish_to_update(UPDATE_WITHIN)?;
        if is_foreign {
            self.wait_for_consent(&relay)?;
        }
        self.look_again();
        self.tell();
        Ok(Ok(()))
    }

    /// It goes on where this repair led, if one did: who took it in is there, and these were with it before.
    fn came_by(
        &mut self,
        repaired: Option<Repaired>,
        with: PersonId,
        asked: Vec<Asked>,
        waited: bool,
        before: &[Member],
    ) -> Result<(), Error> {
        let now = self.step.now;
        let healing = &mut self.change().healing;
        let left = healing.led_by();
        let knows = repaired == left && !healing.is_unsure(now);
        let followed = if knows { healing.followed } else { repaired.map(|repaired| (repaired, now)) };
        // It may not have led to where those said to be who were to take it in: it asks on.
        let lost_to = healing.lost_to.filter(|(to, _)| Some(*to) != repaired);
        let Healing { asked_today, told_today, lost_touch, .. } = *healing;
        *healing = Healing { asked_today, told_today, asked, followed, lost_to, ..Healing::default() };
        // Whoever asked before was not asking where we are now, and nor is it to be exchanged there: they ask
        // again.
        self.settle_all(|_| true)?;
        let members = self.group(|group, _| group.members())?;
        self.end_exchanges(&members)?;
        if repaired.is_some() && !knows {
            self.look_for_others(&[with])?;
            self.say_here()?;
        } else if lost_touch > 0 {
            // Whoever answered first may be one who was left behind, too.
            let others = self.others()?;
            self.change().healing.lose_touch(others, lost_touch);
            self.change().healing.here.push(with);
        }
        if repaired != left && (left.is_some() || !waited) {
            // Whoever stays behind is to know.
            self.ask_for_help(None, before)?;
        }
        Ok(())
    }
}
