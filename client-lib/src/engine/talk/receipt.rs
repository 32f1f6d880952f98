//! Receipts: what everybody has got and read (rule 22), by place and seq.

use std::collections::{BTreeMap, BTreeSet};

use super::Talk;
use super::heal::LONGEST;
use super::said::author_of;
use crate::content::{Author, Receipt, ReceiptOnly, Said};
use crate::conversation::{ConversationState, MessageId, history, is_out_for_good, receipt_of, set_receipt};
use crate::engine::{Error, Event};
use crate::group::Member;
use crate::identity::PersonId;
use crate::outbox::{self, Parcel};

/// How long a receipt waits for a message to ride on, milliseconds.
pub(in crate::engine) const RECEIPT_DELAY: u64 = 1_000;
/// Above this many members' devices no receipts are sent (rule 22).
pub(in crate::engine) const RECEIPT_MEMBERS: usize = 32;

/// Who was taken out is known for as long as what it asked for before counts, milliseconds; the latest so
/// many.
const OUT_KEPT_FOR: u64 = 2 * LONGEST;
const OUT_KEPT: usize = 64;

impl Talk<'_, '_> {
    /// Notes a receipt and tells the app which marks it changes.
    pub(in crate::engine) fn receipt(
        &mut self,
        sender: &Member,
        receipt: Receipt,
        seq: u64,
    ) -> Result<(), Error> {
        let own = self.step.own()?;
        if sender.credential.identity() == own.key {
            return Ok(());
        }
        let receipt = Receipt { delivered: receipt.delivered.min(seq), read: receipt.read.min(seq) };
        let place = self.record().place;
        if !set_receipt(self.step.tx, &self.id, &author_of(sender), place, receipt)? {
            return Ok(());
        }
        let before = self.record().everyone;
        let everyone = self.everyone()?;
        if everyone == before {
            return Ok(());
        }
        self.change().everyone = everyone;
        let marks = [(before.delivered, everyone.delivered), (before.read, everyone.read)];
        for (old, new) in marks.into_iter().filter(|(old, new)| new > old) {
            for row in history::own_rows_between(self.step.tx, &self.id, place, old, new)? {
                if let Some(entry) = self.entry(row)? {
                    self.step.event(Event::Changed(Box::new(entry)));
                }
            }
        }
        Ok(())
    }

    /// What every other member has got and read at least; of a person's devices the most advanced counts.
    pub(in crate::engine) fn everyone(&mut self) -> Result<Receipt, Error> {
        let own = self.step.own()?;
        let members = self.group(|group, _| group.members())?;
        if members.len() > RECEIPT_MEMBERS {
            // Nobody sends any.
            return Ok(Receipt::default());
        }
        let place = self.record().place;
        let mut people: BTreeMap<PersonId, Receipt> = BTreeMap::new();
        for member in members.iter().filter(|member| member.credential.identity() != own.key) {
            let author = author_of(member);
            let receipt = receipt_of(self.step.tx, &self.id, &author, place)?;
            let person = people.entry(author.person).or_default();
            person.delivered = person.delivered.max(receipt.delivered);
            person.read = person.read.max(receipt.read);
        }
        let least = |of: fn(&Receipt) -> u64| people.values().map(of).min().unwrap_or(0);
        Ok(Receipt { delivered: least(|r| r.delivered.max(r.read)), read: least(|r| r.read) })
    }

    /// A receipt of its own, when none of our messages carried it in time (rule 22).
    pub(in crate::engine) fn receipt_due(&mut self) -> Result<(), Error> {
        let due = self.record().receipt_due;
        if due == 0 || self.record().state != ConversationState::Active {
            return Ok(());
        }
        if (1..=RECEIPT_DELAY).contains(&due.saturating_sub(self.step.now)) {
            self.step.wake_talk(self.id, due);
            return Ok(());
        }
        self.change().receipt_due = 0;
        let Some(seq) = self.reading().map(|reading| reading.seq) else { return Ok(()) };
        let (sent, read) = (self.record().receipt_sent, self.record().read);
        let news = seq > sent.delivered || read > sent.read;
        if news && self.record().members.len() <= RECEIPT_MEMBERS {
            let message = MessageId::random(self.step.rng);
            let said = Said::new(ReceiptOnly {}).map_err(|error| Error::BadContent(error.to_string()))?;
            self.say(message, said)?;
        }
        Ok(())
    }

    /// Nobody waits for newcomers to get what was said before they came. Who asked to be taken back gets what
    /// we said meanwhile: above what it confirmed, once more (rule 7).
    pub(in crate::engine) fn newcomer(&mut self, member: &Member, seq: u64) -> Result<(), Error> {
        let receipt = Receipt { delivered: seq, read: seq };
        let place = self.record().place;
        if (self.has_asked(member)? && !self.was_removed(member)) || self.was_here(member)? {
            let mailbox = self.record().mailbox;
            for parcel in self.lacked_by(&author_of(member))? {
                outbox::put(self.step.tx, &mailbox, &parcel)?;
            }
        } else {
            self.change().healing.newest = (place, seq);
        }
        set_receipt(self.step.tx, &self.id, &author_of(member), place, receipt)?;
        Ok(())
    }

    /// What we said and a device has not confirmed: here, and in the places before, back to the last in which
    /// it confirmed anything.
    pub(in crate::engine) fn lacked_by(&mut self, device: &Author) -> Result<Vec<Parcel>, Error> {
        let here = self.record().place;
        let earlier = self.record().earlier.iter().map(|(place, _)| *place).filter(|place| *place < here);
        let places: BTreeSet<u32> = earlier.chain([here]).collect();
        let mut had = Vec::new();
        for place in places.into_iter().rev() {
            let receipt = receipt_of(self.step.tx, &self.id, device, place)?;
            had.push((place, receipt.delivered));
            if receipt.delivered > 0 {
                break;
            }
        }
        if had.last().is_some_and(|(_, delivered)| *delivered == 0) {
            // It has never confirmed anything, and may have been no member before.
            had.truncate(1);
        }
        let mut lacked = Vec::new();
        for (place, delivered) in had.into_iter().rev() {
            lacked.extend(self.lacking(place, delivered)?);
        }
        Ok(lacked)
    }

    /// Whether a device was taken out a moment ago, since when nothing was said that it is not to read: it is
    /// exchanged, and we have not heard yet that it asked for that.
    fn was_here(&mut self, member: &Member) -> Result<bool, Error> {
        let (author, now, place) = (author_of(member), self.step.now, self.record().place);
        let mut out = self.record().out.iter().rev();
        let Some((_, (at, seq), since)) = out.find(|(who, ..)| *who == author).copied() else {
            return Ok(false);
        };
        Ok(at == place
            && !is_out_for_good(since, now)
            && history::own_said_above(self.step.tx, &self.id, place, seq, 1)?.is_empty())
    }

    /// Whether a device was taken out lately, and for good: what was said until it came again is not for it,
    /// whatever it had asked for before.
    fn was_removed(&self, member: &Member) -> bool {
        let (author, now) = (author_of(member), self.step.now);
        let out = self.record().out.iter().rev().find(|(who, ..)| *who == author);
        out.is_some_and(|(_, _, since)| is_out_for_good(*since, now))
    }

    /// Devices are taken out.
    pub(in crate::engine) fn note_out(&mut self, removed: &[Member], seq: u64) {
        let (now, place) = (self.step.now, self.record().place);
        let out = &mut self.change().out;
        out.extend(removed.iter().map(|member| (author_of(member), (place, seq), now)));
        out.retain(|(_, _, since)| now.saturating_sub(*since) < OUT_KEPT_FOR);
        out.drain(..out.len().saturating_sub(OUT_KEPT));
    }

    /// The person saw everything, or everything up to a row.
    pub(in crate::engine) fn mark_read(&mut self, up_to: Option<u64>) -> Result<(), Error> {
        if !history::mark_read(self.step.tx, &self.id, up_to)? {
            return Ok(());
        }
        let place = self.record().place;
        let read = history::read_up_to(self.step.tx, &self.id, place)?.max(self.record().read);
        let (now, record) = (self.step.now, self.change());
        record.read = read;
        if record.state == ConversationState::Active && record.receipt_due == 0 {
            record.receipt_due = now;
        }
        self.look_again();
        self.tell();
        Ok(())
    }
}
