//! Mailboxes that this device reads: opening them, and what is delivered from the inboxes among them. What
//! conversations do with their deliveries stands in `talk`.

mod open;
pub(super) mod reading;

pub(super) use open::{LOCK_DIFFERS, contradiction};

use std::collections::BTreeMap;

use posthorn_proto::MailboxId;
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{Delivery, Refusal};
use posthorn_proto::turn::TurnHash;

use super::{Error, LinkId, Step};
use crate::conversation::Cause;
use reading::{Purpose, Reading, chain_at};

/// A delivery with what is known of its place.
pub(super) struct Arrival<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) turn: TurnHash,
    /// The chain after it.
    pub(super) chain: Chain,
}

impl<'a> Arrival<'a> {
    pub(super) fn at(reading: &Reading, delivery: &'a Delivery) -> Self {
        let turn = TurnHash::of(delivery.turn.as_ref());
        let chain = reading.chain().next(delivery.seq, &delivery.post_id, &turn, &delivery.envelope);
        Self { delivery, turn, chain }
    }
}

impl Step<'_> {
    pub(super) fn delivered(
        &mut self,
        id: &LinkId,
        delivery: Delivery,
        moved: &mut BTreeMap<MailboxId, u32>,
    ) -> Result<(), Error> {
        let mailbox = delivery.mailbox;
        if !self.is_open(id, &mailbox) {
            return Ok(());
        }
        *moved.entry(mailbox).or_default() += 1;
        match self.live.places.get(&mailbox).copied() {
            Some(conversation) => self.talk_delivery(&conversation, id, &delivery),
            None => self.inbox_delivered(id, &delivery),
        }
    }

    pub(super) fn is_open(&self, id: &LinkId, mailbox: &MailboxId) -> bool {
        let up = self.live.links.get(id).and_then(|link| link.up());
        up.is_some_and(|up| up.openings.contains_key(mailbox))
    }

    /// Something lies in one of our inboxes. Nothing refers to it, so that holes are passed over; whatever is
    /// wrong with it is its own end.
    fn inbox_delivered(&mut self, id: &LinkId, delivery: &Delivery) -> Result<(), Error> {
        let mailbox = delivery.mailbox;
        let Some(mut reading) = Reading::load(self.tx, &mailbox)? else { return Ok(()) };
        if delivery.seq <= reading.seq {
            return self.seen_before(&reading, delivery).map(drop);
        }
        if delivery.seq > reading.seq + 1 {
            let text = "the relay has lost something that lay in an inbox";
            self.inbox_alarm(None, Cause::Gap, text)?;
            self.lose_touch()?;
            reading.go_to(self.tx, &mailbox, delivery.seq - 1)?;
        }
        let arrival = Arrival::at(&reading, delivery);
        if chain_at(self.tx, &mailbox, delivery.seq)? == Some(arrival.chain) {
            // It was read before, and so was all before it; the relay does not know (any more).
        } else if self.passing_over {
            let text = "something in an inbox ended this program three times; it is passed over";
            self.inbox_alarm(None, Cause::Poison, text)?;
        } else {
            let done = self.attempt(|step| step.inbox_delivery(reading.purpose, &arrival))?;
            if let Err(error) = done {
                self.inbox_alarm(None, Cause::BadInvitation, error.to_string())?;
            }
        }
        reading.advance(self.tx, &mailbox, arrival.chain)?;
        reading.save(self.tx, &mailbox)?;
        self.note_head(id, &mailbox, reading.seq);
        Ok(())
    }

    /// Notes that the head which the opening told is reached, when it is.
    pub(super) fn note_head(&mut self, id: &LinkId, mailbox: &MailboxId, seq: u64) {
        let up = self.live.links.get_mut(id).and_then(|link| link.up_mut());
        if let Some(opening) = up.and_then(|up| up.openings.get_mut(mailbox)) {
            opening.caught_up |= seq >= opening.head;
        }
    }

    /// Redelivery is normal; another envelope under a seq that we have is not (C4). Whether it is the same,
    /// as far as is still known.
    pub(super) fn seen_before(&mut self, reading: &Reading, delivery: &Delivery) -> Result<bool, Error> {
        let mailbox = &delivery.mailbox;
        let before = match delivery.seq {
            0 => return Ok(true),
            1 => Some(Chain::START),
            seq => chain_at(self.tx, mailbox, seq - 1)?,
        };
        let (Some(before), Some(known)) = (before, chain_at(self.tx, mailbox, delivery.seq)?) else {
            return Ok(true);
        };
        let turn = TurnHash::of(delivery.turn.as_ref());
        let is_same = before.next(delivery.seq, &delivery.post_id, &turn, &delivery.envelope) == known;
        if !is_same {
            let text = "the relay showed another envelope under a seq that was read before";
            self.alarm(reading.purpose.conversation(), Cause::ChainMismatch, Some(delivery.seq), text);
        }
        Ok(is_same)
    }

    /// The relay has lost an envelope that it had promised to keep (finding: a hole that is told is waited
    /// for in vain).
    pub(super) fn lost(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        seq: u64,
        why: &Refusal,
    ) -> Result<(), Error> {
        if !self.is_open(id, mailbox) {
            return Ok(());
        }
        let text = format!("the relay lost an envelope for good: {}", why.message);
        if let Some(conversation) = self.live.places.get(mailbox).copied() {
            return self.talk_lost(&conversation, id, seq, &text);
        }
        let Some(mut reading) = Reading::load(self.tx, mailbox)? else { return Ok(()) };
        if seq > reading.seq {
            self.inbox_alarm(None, Cause::Damaged, text)?;
            self.lose_touch()?;
            reading.go_to(self.tx, mailbox, seq)?;
            self.note_head(id, mailbox, seq);
        }
        Ok(())
    }
}

impl Purpose {
    pub(super) fn conversation(self) -> Option<crate::conversation::ConversationId> {
        match self {
            Self::Conversation(id) => Some(id),
            Self::PublicInbox | Self::PrivateInbox => None,
        }
    }
}
