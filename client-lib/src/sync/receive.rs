//! Deliveries: each is chained, opened, applied and recorded in the transaction of its input, and
//! acknowledged after it (C1). An envelope that does not open is recorded with a cause and never blocks (rule
//! 9).

use std::collections::BTreeMap;

use posthorn_proto::MailboxId;
use posthorn_proto::chain::Chain;
use posthorn_proto::frame::Delivery;
use posthorn_proto::turn::TurnHash;
use rand::Rng as _;

use super::profile::Profile;
use super::reading::{Purpose, Reading, chain_at};
use super::{EngineError, Event, LinkId, Step};
use crate::content::{Content, ContentBody, Receipt};
use crate::conversation::{
    Body, Cause, Conversation, ConversationId, ConversationState, Intent, MessageId, NewMessage, Notice,
    insert_message, intents, message_rows_between, put_intent, receipt_of, set_message_seq, set_receipt,
};
use crate::envelope::Slot;
use crate::identity::{Credential, IdentityKey};
use crate::outbox::{self, Parcel, SealedPost};
use crate::session::{Member, Provider, Received, Session, SessionError};

/// How long a receipt waits for a message to ride on, milliseconds.
const RECEIPT_DELAY: u64 = 1_000;
/// Above this many members' devices no receipts are sent (rule 22).
pub(super) const RECEIPT_MEMBERS: usize = 32;
/// Of several members who could commit somebody's leaving, each waits this much longer than the one before,
/// milliseconds.
const LEAVE_STEP: u64 = 2_000;

/// How the mailbox goes on after a delivery.
pub(super) enum After {
    Go,
    Stop(Cause, &'static str),
}

/// A delivery with what is known of its place.
pub(super) struct Arrival<'a> {
    pub(super) mailbox: MailboxId,
    pub(super) delivery: &'a Delivery,
    pub(super) turn: TurnHash,
    /// The chain after it.
    pub(super) chain: Chain,
}

impl Step<'_> {
    pub(super) fn delivered(
        &mut self,
        id: &LinkId,
        delivery: Delivery,
        moved: &mut BTreeMap<MailboxId, u32>,
    ) -> Result<(), EngineError> {
        let mailbox = delivery.mailbox;
        let open = self
            .live
            .links
            .get(id)
            .and_then(|link| link.up())
            .is_some_and(|up| up.openings.contains_key(&mailbox));
        let Some(mut reading) = Reading::load(self.tx, &mailbox)? else { return Ok(()) };
        if !open || reading.stopped.is_some() {
            return Ok(());
        }
        *moved.entry(mailbox).or_default() += 1;
        let turn = TurnHash::of(delivery.turn.as_ref());
        if delivery.seq <= reading.seq {
            return self.seen_before(&reading, &delivery, &turn);
        }
        if delivery.seq > reading.seq + 1 && reading.purpose.conversation().is_none() {
            // Nothing refers to what lies in an inbox.
            self.alarm(
                None,
                Cause::Gap,
                Some(delivery.seq),
                "the relay has lost something that lay in an inbox",
            );
            reading.skip_to(self.tx, &mailbox, delivery.seq - 1)?;
        }
        if delivery.seq > reading.seq + 1 {
            let text = "the relay skipped envelopes that it had not told to be expired";
            return self.stop_reading(id, &mailbox, reading, Cause::Gap, text);
        }
        let chain = reading.chain().next(delivery.seq, &delivery.post_id, &turn, &delivery.envelope);
        let arrival = Arrival { mailbox, delivery: &delivery, turn, chain };
        let after = match reading.purpose {
            Purpose::Conversation(conversation) => {
                self.conversation_delivery(&conversation, &reading, &arrival)?
            }
            Purpose::PublicInbox | Purpose::PrivateInbox => {
                self.inbox_delivery(reading.purpose, &arrival)?;
                After::Go
            }
        };
        reading.advance(self.tx, &mailbox, chain)?;
        if let After::Stop(cause, text) = after {
            return self.stop_reading(id, &mailbox, reading, cause, text);
        }
        if let Some(conversation) = reading.purpose.conversation() {
            self.live.dirty.insert(conversation);
        }
        self.caught_up(id, &mailbox, reading)
    }

    /// Notes that the head which the opening told is reached. The lock that it told must be the one of our
    /// epoch (rule 7).
    fn caught_up(&mut self, id: &LinkId, mailbox: &MailboxId, reading: Reading) -> Result<(), EngineError> {
        let up = self.live.links.get_mut(id).and_then(|link| link.up_mut());
        let Some(opening) = up.and_then(|up| up.openings.get_mut(mailbox)) else { return Ok(()) };
        opening.caught_up |= reading.seq >= opening.head;
        let lock = opening.lock;
        if let Some(conversation) = reading.purpose.conversation()
            && reading.seq == opening.head
            && self.lock_differs(&conversation, lock)?
        {
            return self.stop_reading(id, mailbox, reading, Cause::KeyMismatch, super::open::LOCK_DIFFERS);
        }
        Ok(())
    }

    /// Redelivery is normal; another envelope under a seq that we have is not (C4).
    fn seen_before(
        &mut self,
        reading: &Reading,
        delivery: &Delivery,
        turn: &TurnHash,
    ) -> Result<(), EngineError> {
        let mailbox = &delivery.mailbox;
        let before = match delivery.seq {
            0 => return Ok(()),
            1 => Some(Chain::START),
            seq => chain_at(self.tx, mailbox, seq - 1)?,
        };
        let (Some(before), Some(known)) = (before, chain_at(self.tx, mailbox, delivery.seq)?) else {
            return Ok(());
        };
        if before.next(delivery.seq, &delivery.post_id, turn, &delivery.envelope) != known {
            let text = "the relay showed another envelope under a seq that was read before";
            self.alarm(reading.purpose.conversation(), Cause::ChainMismatch, Some(delivery.seq), text);
        }
        Ok(())
    }

    pub(super) fn conversation_delivery(
        &mut self,
        id: &ConversationId,
        reading: &Reading,
        arrival: &Arrival<'_>,
    ) -> Result<After, EngineError> {
        let delivery = arrival.delivery;
        let provider = Provider::new(self.tx);
        let mut session = match Session::load(&provider, id) {
            Err(SessionError::Unknown) => return Ok(After::Go),
            session => session?,
        };
        if let Some((row, parcel)) = outbox::by_post(self.tx, &arrival.mailbox, &delivery.post_id)? {
            let is_ours = |sealed: &SealedPost| {
                // One that comes only now, after its epoch, is nothing that the others could read.
                sealed.envelope == delivery.envelope && sealed.epoch == session.epoch()
            };
            if parcel.sealed().is_some_and(is_ours) {
                return self.read_back(id, &mut session, row, parcel, arrival);
            }
            let text = "the relay stored something else under a post id of ours";
            self.alarm(Some(*id), Cause::EchoDiffers, Some(delivery.seq), text);
        }
        let slot = Slot { mailbox: arrival.mailbox, post: delivery.post_id, turn: arrival.turn };
        let Ok(data) = session.keys()?.envelope.open(&slot, &delivery.envelope) else {
            return self.unreadable(id, arrival, Cause::EnvelopeUnreadable);
        };
        match session.receive(&data) {
            Ok(Received::Message { sender, plaintext }) if delivery.turn.is_none() => {
                self.message(id, &session, reading, &sender, &plaintext, arrival)
            }
            Ok(Received::Commit(change)) => match &delivery.turn {
                Some(turn) => self.foreign_commit(id, &mut session, *change, turn, arrival),
                None => self.unreadable(id, arrival, Cause::CommitWithoutTurn),
            },
            Ok(Received::OwnMessage) if delivery.turn.is_none() => self.own_unknown(id, arrival),
            Ok(_) => self.unreadable(id, arrival, Cause::MessageUnreadable),
            Err(SessionError::OwnCommitLost) if delivery.turn.is_some() => {
                self.unreadable(id, arrival, Cause::RolledBack)?;
                Ok(After::Stop(
                    Cause::RolledBack,
                    "a commit of this device that this profile does not know: it is an old copy",
                ))
            }
            Err(error @ (SessionError::Store(_) | SessionError::Row(_) | SessionError::Unknown)) => {
                Err(error.into())
            }
            Err(_) if delivery.turn.is_some() => self.unreadable(id, arrival, Cause::BadCommit),
            Err(_) => self.unreadable(id, arrival, Cause::MessageUnreadable),
        }
    }

    /// Records that something came which cannot be shown. If it turned the lock, our epoch ends here (rule
    /// 7).
    pub(super) fn unreadable(
        &mut self,
        id: &ConversationId,
        arrival: &Arrival<'_>,
        cause: Cause,
    ) -> Result<After, EngineError> {
        let seq = arrival.delivery.seq;
        let entry = NewMessage {
            id: MessageId::random(self.rng),
            sender_key: b"relay",
            sender: String::new(),
            mine: false,
            body: Body::Unreadable(cause),
            sent_at: self.now,
            seq: Some(seq),
            unread: true,
        };
        self.insert(id, entry)?;
        let text = match cause {
            Cause::RolledBack => {
                "something of this device's own came that this profile does not know: it may be an older copy; its keys \
                 are renewed before anything else is said"
            }
            _ => "an envelope came that this device cannot take; it is recorded",
        };
        self.alarm(Some(*id), cause, Some(seq), text);
        if arrival.delivery.turn.is_some() {
            return Ok(After::Stop(
                Cause::BadTurn,
                "the lock was turned by something other than a valid commit",
            ));
        }
        Ok(After::Go)
    }

    /// A message that says it is this device's own, and that it does not know: an older copy of this database
    /// was put back after it was sent, or somebody plays a trick. Its keys may have served already, so that
    /// nothing is said in this epoch any more (rule 10): the next commit makes fresh ones for everybody.
    fn own_unknown(&mut self, id: &ConversationId, arrival: &Arrival<'_>) -> Result<After, EngineError> {
        let is_update =
            |intent: &Intent| matches!(intent, Intent::Update { not_before } if *not_before <= self.now);
        if !intents(self.tx, id)?.iter().any(|(_, intent)| is_update(intent)) {
            put_intent(self.tx, id, &Intent::Update { not_before: self.now })?;
        }
        self.unreadable(id, arrival, Cause::RolledBack)
    }

    /// Inserts an entry and tells the app, unless it is a repeat.
    pub(super) fn insert(&mut self, id: &ConversationId, new: NewMessage<'_>) -> Result<bool, EngineError> {
        let inserted = insert_message(self.tx, id, new)?;
        let is_new = inserted.is_some();
        if let Some(message) = inserted {
            self.event(Event::Message(message));
        }
        Ok(is_new)
    }

    /// Inserts a notice at a seq.
    pub(super) fn notice(
        &mut self,
        id: &ConversationId,
        seq: Option<u64>,
        notice: Notice,
    ) -> Result<(), EngineError> {
        let unread = matches!(notice, Notice::Joined { .. });
        let entry = NewMessage {
            id: MessageId::random(self.rng),
            sender_key: b"notice",
            sender: String::new(),
            mine: false,
            body: Body::Notice(notice),
            sent_at: self.now,
            seq,
            unread,
        };
        self.insert(id, entry).map(drop)
    }

    /// A parcel of ours came back as it was posted.
    fn read_back(
        &mut self,
        id: &ConversationId,
        session: &mut Session<'_>,
        row: i64,
        parcel: Parcel,
        arrival: &Arrival<'_>,
    ) -> Result<After, EngineError> {
        match parcel {
            Parcel::Message { .. } if arrival.delivery.turn.is_some() => {
                Ok(After::Stop(Cause::BadTurn, "the relay says that a message of ours turned the lock"))
            }
            Parcel::Message { message, body, .. } => {
                outbox::remove(self.tx, row)?;
                if body == ContentBody::Leave {
                    return Ok(After::Stop(Cause::Removed, "left"));
                }
                self.message_stored(id, &message, arrival.delivery.seq)?;
                Ok(After::Go)
            }
            Parcel::Commit { .. } => self.own_commit(id, session, row, parcel, arrival),
            Parcel::Inbox { .. } => Ok(After::Go),
        }
    }

    /// Our own message is on the relay at this seq.
    pub(super) fn message_stored(
        &mut self,
        id: &ConversationId,
        message: &MessageId,
        seq: u64,
    ) -> Result<(), EngineError> {
        let Some(profile) = Profile::load(self.tx)? else { return Ok(()) };
        let own = profile.identity().key();
        if set_message_seq(self.tx, id, own.as_bytes(), message, seq)? {
            let state = crate::conversation::MessageState::Sent;
            self.event(Event::MessageState { conversation: *id, id: *message, state });
        }
        Ok(())
    }

    fn message(
        &mut self,
        id: &ConversationId,
        session: &Session<'_>,
        reading: &Reading,
        sender: &Member,
        plaintext: &[u8],
        arrival: &Arrival<'_>,
    ) -> Result<After, EngineError> {
        let seq = arrival.delivery.seq;
        let Ok(content) = Content::decode(plaintext) else {
            return self.unreadable(id, arrival, Cause::ContentUnknown);
        };
        self.check_position(id, reading, &content, seq)?;
        let Some(mut record) = Conversation::load(self.tx, id)? else { return Ok(After::Go) };
        let Some(profile) = Profile::load(self.tx)? else { return Ok(After::Go) };
        let own = profile.identity().key();
        let mine = sender.credential.identity() == own;
        self.receipt(id, session, &mut record, &own, sender, content.receipt, seq)?;
        let members = session.members()?;
        let handle = name_among(&members, sender);
        match content.body {
            ContentBody::Text(text) => {
                let is_new = self.insert(
                    id,
                    NewMessage {
                        id: content.message,
                        sender_key: sender.credential.identity().as_bytes(),
                        sender: handle,
                        mine,
                        body: Body::Text(text),
                        sent_at: content.sent_at,
                        seq: Some(seq),
                        unread: !mine,
                    },
                )?;
                let small = members.len() <= RECEIPT_MEMBERS;
                if is_new
                    && !mine
                    && small
                    && record.receipt_due == 0
                    && record.state == ConversationState::Active
                {
                    record.receipt_due = self.now + RECEIPT_DELAY;
                    self.wake_conversation(*id, record.receipt_due);
                }
            }
            ContentBody::Leave => {
                self.notice(id, Some(seq), Notice::Left { who: handle })?;
                self.remove_leaver(id, session, &own, sender)?;
            }
            ContentBody::ReceiptOnly => {}
        }
        record.save(self.tx, id)?;
        Ok(After::Go)
    }

    /// Somebody has to commit the removal of who left: the first by leaf at once, the others later if it was
    /// not done.
    fn remove_leaver(
        &mut self,
        id: &ConversationId,
        session: &Session<'_>,
        own: &IdentityKey,
        leaver: &Member,
    ) -> Result<(), EngineError> {
        let identity = leaver.credential.identity();
        if identity == *own {
            return Ok(());
        }
        let own_leaf = session.own_leaf();
        let members = session.members()?;
        let before =
            members.iter().filter(|m| m.leaf < own_leaf && m.credential.identity() != identity).count();
        let not_before = self.now + before as u64 * LEAVE_STEP + self.rng.random_range(0..500);
        put_intent(self.tx, id, &Intent::Remove { identity: *identity.as_bytes(), not_before })?;
        self.wake_conversation(*id, not_before);
        Ok(())
    }

    /// What the sender saw must be what we saw (C4).
    fn check_position(
        &mut self,
        id: &ConversationId,
        reading: &Reading,
        content: &Content,
        seq: u64,
    ) -> Result<(), EngineError> {
        let claimed = content.position;
        if claimed.seq >= seq {
            self.alarm(
                Some(*id),
                Cause::BadPosition,
                Some(seq),
                "a member has seen more than this device was shown, or says so",
            );
            return Ok(());
        }
        let ours = match claimed.seq {
            0 => Some(Chain::START),
            at if at == reading.seq => Some(reading.chain()),
            at => {
                let mailbox = Conversation::load(self.tx, id)?.map(|record| record.mailbox);
                mailbox.map(|mailbox| chain_at(self.tx, &mailbox, at)).transpose()?.flatten()
            }
        };
        if ours.is_some_and(|ours| ours != claimed.chain) {
            let text = "the relay showed a member a different history than us";
            self.alarm(Some(*id), Cause::ChainMismatch, Some(claimed.seq), text);
        }
        Ok(())
    }

    /// Notes a receipt and tells the app which marks it changes.
    #[expect(clippy::too_many_arguments, reason = "one call site; each is a different part of the arrival")]
    fn receipt(
        &mut self,
        id: &ConversationId,
        session: &Session<'_>,
        record: &mut Conversation,
        own: &IdentityKey,
        sender: &Member,
        receipt: Receipt,
        seq: u64,
    ) -> Result<(), EngineError> {
        if sender.credential.identity() == *own {
            return Ok(());
        }
        let receipt = Receipt { delivered: receipt.delivered.min(seq), read: receipt.read.min(seq) };
        set_receipt(self.tx, id, &receipt_name(&sender.credential), receipt)?;
        let before = record.everyone;
        record.everyone = self.everyone(id, session, own)?;
        let marks = [(before.delivered, record.everyone.delivered), (before.read, record.everyone.read)];
        for (old, new) in marks.into_iter().filter(|(old, new)| new > old) {
            for message in message_rows_between(self.tx, id, old, new, &record.everyone)? {
                self.event(Event::MessageState { conversation: *id, id: message.id, state: message.state });
            }
        }
        Ok(())
    }

    /// What every other member has got and read at least; of a person's devices the most advanced counts.
    pub(super) fn everyone(
        &self,
        id: &ConversationId,
        session: &Session<'_>,
        own: &IdentityKey,
    ) -> Result<Receipt, EngineError> {
        let members = session.members()?;
        let others: Vec<&Member> =
            members.iter().filter(|member| member.credential.identity() != *own).collect();
        let mut people: BTreeMap<[u8; 32], Receipt> = BTreeMap::new();
        for member in others {
            let receipt = receipt_of(self.tx, id, &receipt_name(&member.credential))?;
            let person = people.entry(*member.credential.identity().as_bytes()).or_default();
            person.delivered = person.delivered.max(receipt.delivered);
            person.read = person.read.max(receipt.read);
        }
        let least = |of: fn(&Receipt) -> u64| people.values().map(of).min().unwrap_or(0);
        Ok(Receipt { delivered: least(|r| r.delivered.max(r.read)), read: least(|r| r.read) })
    }
}

/// What a member's receipts are kept under. Devices choose their ids: only with the identity they name
/// somebody.
pub(super) fn receipt_name(credential: &Credential) -> [u8; 48] {
    let mut name = [0; 48];
    name[..32].copy_from_slice(credential.identity().as_bytes());
    name[32..].copy_from_slice(&credential.device().0);
    name
}

/// What a member is called: its handle; and where several identities claim one handle, the beginning of its
/// key beside it.
pub(super) fn name_among(members: &[Member], member: &Member) -> String {
    let (handle, identity) = (member.credential.handle(), member.credential.identity());
    let claimed =
        |other: &Member| other.credential.handle() == handle && other.credential.identity() != identity;
    if members.iter().any(claimed) {
        format!("{handle}#{}", data_encoding::HEXLOWER.encode(&identity.as_bytes()[..8]))
    } else {
        handle.to_string()
    }
}
