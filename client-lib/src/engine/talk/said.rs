//! What members say: recorded under its author, by class and kind (rule 33).

use super::Talk;
use super::deliver::After;
use super::receipt::{RECEIPT_DELAY, RECEIPT_MEMBERS};
use super::slot::AuthorSlot;
use crate::content::{Act, Author, Class, Content, Said};
use crate::conversation::{
    Cause, ConversationState, Intent, MessageId, NewEntry, Notice, history, put_intent,
};
use crate::engine::mailbox::Arrival;
use crate::engine::{Error, Event};
use crate::group::Member;
use crate::identity::PersonId;
use crate::outbox::{self, Parcel};

impl Talk<'_, '_> {
    pub(in crate::engine) fn said(
        &mut self,
        sender: &Member,
        plaintext: &[u8],
        slot: &AuthorSlot,
        arrival: &Arrival<'_>,
    ) -> Result<After, Error> {
        let seq = arrival.delivery.seq;
        self.check_history(slot, seq)?;
        let Ok(content) = Content::decode(plaintext) else {
            return self.unreadable(arrival, Cause::ContentMalformed);
        };
        let own = self.step.own()?;
        let mine = sender.credential.identity() == own.key;
        self.receipt(sender, content.receipt, seq)?;
        let sender_id = PersonId::from(&sender.credential.identity());
        if self.record().healing.sought.is_some() {
            let now = self.step.now;
            self.change().healing.note_here(sender_id, content.sent_at, now);
        }
        let author = author_of(sender);
        let (kind, class) = (content.said.read(), content.said.class());
        if let Some(act) = kind.act() {
            return match act {
                Act::TakeOut { proposal } => self.left(sender, &proposal, arrival),
            };
        }
        // Whoever only says to be somebody is shown by another name than that one.
        let handle = self.named(&sender.credential)?.handle;
        let entry = NewEntry {
            id: content.message,
            author,
            handle,
            mine,
            said: content.said,
            sent_at: content.sent_at,
            place: Some((self.record().place, seq)),
            unread: !mine && kind.counts_as_unread(class),
        };
        let is_new = self.insert(&entry)?;
        let wants_receipt = is_new && !mine && kind.has_marks(class);
        let small = self.record().members.len() <= RECEIPT_MEMBERS;
        let due = self.record().receipt_due;
        if wants_receipt && small && due == 0 && self.record().state == ConversationState::Active {
            let at = self.step.now + RECEIPT_DELAY;
            self.change().receipt_due = at;
            self.step.wake_talk(self.id, at);
        }
        Ok(After::Go)
    }

    /// Inserts what somebody said and tells the app, unless it is a repeat.
    pub(in crate::engine) fn insert(&mut self, new: &NewEntry) -> Result<bool, Error> {
        let Some(row) = history::insert(self.step.tx, &self.id, new)? else { return Ok(false) };
        if new.unread {
            self.archive(false)?;
        }
        match new.said.class() {
            Class::Entry => {
                if let Some(entry) = self.entry(row)? {
                    self.step.event(Event::Entry(Box::new(entry)));
                }
            }
            Class::Change => self.target_changed(&new.said)?,
            Class::Quiet => {}
        }
        Ok(true)
    }

    /// What a change was about is shown differently from now on.
    fn target_changed(&mut self, said: &Said) -> Result<(), Error> {
        let Some(target) = said.target() else { return Ok(()) };
        if let Some(row) = history::row_of(self.step.tx, &self.id, &target.person, &target.message)?
            && let Some(entry) = self.entry(row)?
        {
            self.step.event(Event::Changed(Box::new(entry)));
        }
        Ok(())
    }

    /// Inserts a notice.
    pub(in crate::engine) fn notice(&mut self, seq: Option<u64>, notice: Notice) -> Result<(), Error> {
        let place = self.record().place;
        self.notice_at(seq.map(|seq| (place, seq)), notice)
    }

    /// Inserts a notice about something that happened at a place number and a seq.
    pub(super) fn notice_at(&mut self, place: Option<(u32, u64)>, notice: Notice) -> Result<(), Error> {
        let id = MessageId::random(self.step.rng);
        let row = history::insert_notice(self.step.tx, &self.id, id, notice, self.step.now, place)?;
        if let Some(entry) = self.entry(row)? {
            self.step.event(Event::Entry(Box::new(entry)));
        }
        Ok(())
    }

    /// Records that something came which cannot be shown; a run of them is one entry. If it turned the lock,
    /// our epoch ends here (rule 7).
    pub(in crate::engine) fn unreadable(
        &mut self,
        arrival: &Arrival<'_>,
        cause: Cause,
    ) -> Result<After, Error> {
        let seq = arrival.delivery.seq;
        let (place, id) = ((self.record().place, seq), MessageId::random(self.step.rng));
        let run = history::insert_unreadable(self.step.tx, &self.id, cause, place, id, self.step.now)?;
        if let Some(entry) = self.entry(run.row)? {
            let entry = Box::new(entry);
            self.step.event(if run.is_new { Event::Entry(entry) } else { Event::Changed(entry) });
        }
        if run.is_new {
            let text = match cause {
                Cause::RolledBack => {
                    "something came that says to be of this device and that this profile does not know: somebody \
                     plays a trick, or this is an older copy; its keys are renewed before anything else is said"
                }
                Cause::Poison => "an envelope ended this program three times; it is passed over",
                Cause::Misplaced => "somebody put what a member said into another place than its author did",
                _ => "an envelope came that this device cannot take; it is recorded",
            };
            self.alarm(cause, Some(seq), text);
        }
        if arrival.delivery.turn.is_some() {
            let text = "the lock was turned by something other than a valid commit";
            return Ok(After::Suspend(Cause::BadTurn, text));
        }
        Ok(After::Go)
    }

    /// A message that says it is this device's own, and that it does not know: an older copy of this database
    /// was put back after it was sent (rule 10), or a member plays a trick, for nothing of this is signed.
    /// Our keys may have served already, so that nothing is said in this epoch any more; the commit that ends
    /// it is made at leisure, and once.
    pub(in crate::engine) fn own_unknown(&mut self, arrival: &Arrival<'_>) -> Result<After, Error> {
        let epoch = self.record().epoch;
        if self.record().doubtful != Some(epoch) {
            self.change().doubtful = Some(epoch);
            self.wish_to_update(super::commit::DOUBT_WITHIN)?;
        }
        self.unreadable(arrival, Cause::RolledBack)
    }

    /// A parcel of ours came back as it was posted.
    pub(in crate::engine) fn read_back(
        &mut self,
        row: i64,
        parcel: Parcel,
        arrival: &Arrival<'_>,
    ) -> Result<After, Error> {
        match parcel {
            Parcel::Message { .. } if arrival.delivery.turn.is_some() => {
                Ok(After::Suspend(Cause::BadTurn, "the relay says that a message of ours turned the lock"))
            }
            Parcel::Message { message, said, .. } => {
                outbox::remove(self.step.tx, row)?;
                if said.read().act().is_some() {
                    self.note_own_leave(Some(arrival.delivery.seq))?;
                    return Ok(After::End(ConversationState::Left));
                }
                self.message_stored(&message, arrival.delivery.seq)?;
                Ok(After::Go)
            }
            Parcel::Commit { .. } => self.own_commit(row, parcel, arrival),
            Parcel::Repair { .. } | Parcel::Inbox { .. } => Ok(After::Go),
        }
    }

    /// Our own message is on the relay at this seq.
    pub(in crate::engine) fn message_stored(&mut self, message: &MessageId, seq: u64) -> Result<(), Error> {
        let own = self.step.own()?.person;
        let place = (self.record().place, seq);
        if let Some(row) = history::set_place(self.step.tx, &self.id, &own, message, place)?
            && let Some(entry) = self.entry(row)?
        {
            self.step.event(Event::Changed(Box::new(entry)));
        }
        Ok(())
    }

    /// Somebody said that they leave. Who goes has to be taken out by a commit of somebody else: the first by
    /// leaf at once, the others later if it was not done. The proposal proves that they want it.
    fn left(&mut self, leaver: &Member, proposal: &[u8], arrival: &Arrival<'_>) -> Result<After, Error> {
        let own = self.step.own()?;
        let person = PersonId::from(&leaver.credential.identity());
        if person == own.person || self.record().leaving.iter().any(|known| known.person == person) {
            return Ok(After::Go);
        }
        let (members, own_leaf) = self.group(|group, _| Ok((group.members()?, group.own_leaf())))?;
        let who = self.named(&leaver.credential)?;
        self.note_leaver(leaver, proposal)?;
        self.notice(Some(arrival.delivery.seq), Notice::Left { who })?;
        let others = members.iter().filter(|m| m.credential.identity() != leaver.credential.identity());
        let before = others.filter(|member| member.leaf < own_leaf).count() as u64;
        let not_before = self.removal_time(before);
        for member in members.iter().filter(|m| m.credential.identity() == leaver.credential.identity()) {
            let intent = Intent::remove(member.leaf, member.signature_key, person, not_before);
            put_intent(self.step.tx, &self.id, &intent)?;
        }
        self.step.wake_talk(self.id, not_before);
        Ok(After::Go)
    }
}

/// Who a member is, for the history.
pub(in crate::engine) fn author_of(member: &Member) -> Author {
    Author { person: PersonId::from(&member.credential.identity()), device: member.credential.device() }
}
