//! What a conversation posts: its commit, then what is said, then a receipt. One post of a mailbox is on its
//! way at a time, so that a person's messages keep their order whatever is refused.

use posthorn_proto::frame::{Post, Refusal, Request};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{ErrorCode, MailboxId, PostKey, TurnRequest};

use super::Talk;
use super::slot::AuthorSlot;
use crate::content::{Content, Receipt, Said};
use crate::conversation::{Cause, ConversationId, ConversationState, MessageId, history};
use crate::engine::link::LONGEST_ADVICE;
use crate::engine::link::request::{Pending, is_passing};
use crate::engine::{Effect, Error, Event, LinkId, Step};
use crate::envelope::Slot;
use crate::group::GroupError;
use crate::outbox::{self, Parcel, SealedPost, UNREAD_PARCELS};

/// A lock that turned should be read about within this time, milliseconds; else the connection is made anew,
/// and the opening tells what is wrong.
const TURN_PATIENCE: u64 = 20_000;
/// How long a full mailbox is left alone, milliseconds.
pub(in crate::engine) const FULL_PAUSE: u64 = 30_000;

impl Talk<'_, '_> {
    pub(in crate::engine) fn progress_posts(&mut self) -> Result<(), Error> {
        let Some(link) = self.link() else { return Ok(()) };
        let mailbox = self.record().mailbox;
        let up = self.step.live.ready(&link, self.step.now);
        let opening = up.and_then(|up| up.openings.get(&mailbox)).copied();
        if !opening.is_some_and(|opening| opening.caught_up) || self.step.live.paused.contains_key(&mailbox) {
            return Ok(());
        }
        if let Some(since) = self.step.live.turned.get(&self.id).copied() {
            // Reading decides (rule 3). If nothing comes to be read, opening anew tells what is wrong.
            if since + TURN_PATIENCE <= self.step.now {
                self.step.live.turned.remove(&self.id);
                self.step.effects.push(Effect::Disconnect(link));
            } else {
                self.step.wake_talk(self.id, since + TURN_PATIENCE);
            }
            return Ok(());
        }
        let on_its_way =
            |pending: &Pending| matches!(pending, Pending::Post { mailbox: m, .. } if *m == mailbox);
        if self.step.live.asked(&link, on_its_way) {
            return Ok(());
        }
        let Some(read) = self.reading().map(|reading| reading.seq) else { return Ok(()) };
        if self.make_lost_anew(read)? {
            self.step.live.paused.insert(mailbox, self.step.now + FULL_PAUSE);
            let text = "the relay answered a post of ours and showed something else there; it is posted anew";
            self.alarm(Cause::EchoDiffers, Some(read), text);
            return Ok(());
        }
        if self.record().commit_row.is_some() || self.stage_commit(&link)? {
            return self.post_commit(&link);
        }
        self.post_message(&link)
    }

    /// Looks for posts whose seq was answered and has been read, and which were not there: the relay lies to
    /// us, or to the others. They are made anew, under other post ids: for who has the first after all, the
    /// message's own id tells that the second is a repeat.
    fn make_lost_anew(&mut self, read: u64) -> Result<bool, Error> {
        let is_lost =
            |parcel: &Parcel| parcel.sealed().and_then(|sealed| sealed.posted).is_some_and(|at| at <= read);
        let mut found = false;
        for (row, parcel) in outbox::oldest(self.step.tx, &self.record().mailbox, UNREAD_PARCELS)? {
            if is_lost(&parcel) {
                self.make_anew(row, parcel)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// Lets a post be made under another post id: what is said is sealed again, and what was to be true by a
    /// commit is wanted as before.
    fn make_anew(&mut self, row: i64, parcel: Parcel) -> Result<(), Error> {
        match parcel {
            Parcel::Message { message, sent_at, said, .. } => {
                let anew = Parcel::Message { message, sent_at, said, sealed: None };
                outbox::update(self.step.tx, row, &anew)?;
            }
            Parcel::Commit { .. } => {
                self.group(|group, _| group.clear_pending())?;
                self.give_up_commit()?;
            }
            Parcel::Repair { .. } | Parcel::Inbox { .. } => {}
        }
        Ok(())
    }

    /// Posts our commit, or waits to read it back: what is said meanwhile would be of an epoch that ends.
    fn post_commit(&mut self, link: &LinkId) -> Result<(), Error> {
        let Some(row) = self.record().commit_row else { return Ok(()) };
        let Some(Parcel::Commit { sealed, turn, place, .. }) = outbox::get(self.step.tx, row)? else {
            // A repair that is not needed any more: the reason has passed.
            self.give_up_repair()?;
            self.look_again();
            return Ok(());
        };
        if place.is_some_and(|place| !place.is_made) {
            self.make_place(row)?;
            // The relay of that place may be away for long: no epoch ends before, and what is said goes on.
            return self.post_message(link);
        }
        if sealed.posted.is_none() {
            let turn = Some(TurnRequest { key: turn.key(), turn: turn.turn() });
            self.post(link, row, &sealed, turn);
        }
        Ok(())
    }

    fn post_message(&mut self, link: &LinkId) -> Result<(), Error> {
        let epoch = self.group(|group, _| Ok(group.epoch()))?;
        if self.record().doubtful == Some(epoch) {
            // Whatever we say could be said with keys that served already.
            return Ok(());
        }
        if epoch == 0 {
            // Nobody has been added yet, and who is could not read it.
            return Ok(());
        }
        for (row, parcel) in outbox::oldest(self.step.tx, &self.record().mailbox, UNREAD_PARCELS)? {
            let Parcel::Message { message, sent_at, said, sealed } = parcel else { continue };
            match sealed {
                Some(sealed) if sealed.epoch == epoch => {
                    if sealed.posted.is_none() {
                        self.post(link, row, &sealed, None);
                        return Ok(());
                    }
                }
                // Its epoch has been read to the end and it was not there: it never was accepted (rule 3).
                _ => {
                    let sealed = self.seal(link, message, sent_at, &said)?;
                    let parcel = Parcel::Message { message, sent_at, said, sealed: Some(sealed.clone()) };
                    outbox::update(self.step.tx, row, &parcel)?;
                    self.post(link, row, &sealed, None);
                    return Ok(());
                }
            }
        }
        self.receipt_due()
    }

    /// Encrypts under the present epoch; the bytes are stored before they are posted.
    fn seal(
        &mut self,
        link: &LinkId,
        message: MessageId,
        sent_at: u64,
        said: &Said,
    ) -> Result<SealedPost, Error> {
        let own = self.step.own()?;
        let mailbox = self.record().mailbox;
        let (seq, chain) = match self.reading() {
            Some(reading) => (reading.seq, reading.chain()),
            None => return Err(GroupError::Unknown.into()),
        };
        let receipt = Receipt { delivered: seq, read: self.record().read };
        let record = self.change();
        record.receipt_sent = receipt;
        record.receipt_due = 0;
        let said = self.proven(said)?;
        let post = self.step.new_post_id(link);
        let aad = AuthorSlot { mailbox, post, readers: TurnHash::NONE, seq, chain }.encode();
        let content = Content { message, sent_at, receipt, said }.encode();
        let leaf = own.leaf()?;
        let (keys, epoch, encrypted) = self.group(|group, _| {
            let encrypted = group.encrypt(&leaf, &content, &aad)?;
            Ok((group.keys()?, group.epoch(), encrypted))
        })?;
        let slot = Slot { mailbox, post, turn: TurnHash::NONE };
        let envelope = keys
            .envelope
            .seal(&slot, &encrypted, self.step.rng)
            .map_err(|error| Error::BadContent(error.to_string()))?;
        Ok(SealedPost::new(post, &keys.post, envelope, epoch))
    }

    fn post(&mut self, link: &LinkId, row: i64, sealed: &SealedPost, turn: Option<TurnRequest>) {
        let mailbox = self.record().mailbox;
        let conversation = self.id;
        self.step.request(
            link,
            post_request(mailbox, sealed, turn),
            Pending::Post { row, mailbox, conversation },
        );
    }

    /// Our content can not be sealed, or is refused for good.
    fn give_up_message(&mut self, row: i64, message: &MessageId, why: &str) -> Result<(), Error> {
        outbox::remove(self.step.tx, row)?;
        let own = self.step.own()?.person;
        if let Some(row) = history::fail(self.step.tx, &self.id, &own, message, Cause::Refused)?
            && let Some(entry) = self.entry(row)?
        {
            self.step.event(Event::Changed(Box::new(entry)));
        }
        self.alarm(Cause::Refused, None, format!("a message could not be sent: {why}"));
        Ok(())
    }

    fn post_refused(
        &mut self,
        link: &LinkId,
        row: i64,
        mailbox: MailboxId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        match refusal.code {
            _ if is_passing(refusal) => self.step.back_off(link, refusal),
            Some(ErrorCode::MailboxFull | ErrorCode::Quota) => {
                let pause = FULL_PAUSE.max(u64::from(refusal.retry_after_ms)).min(LONGEST_ADVICE);
                self.step.live.paused.insert(mailbox, self.step.now + pause);
                self.alarm(Cause::Full, None, format!("{}; it is tried again", refusal.message));
            }
            Some(ErrorCode::KeyTurned) => {
                // The answer may come behind the delivery of the commit that turned the lock. Then that has
                // been read already, and waiting for more to read would be in vain.
                let epoch = self.group(|group, _| Ok(group.epoch()))?;
                let parcel = outbox::get(self.step.tx, row)?;
                let sealed = parcel.as_ref().and_then(Parcel::sealed);
                if sealed.is_some_and(|sealed| sealed.epoch == epoch) {
                    self.step.live.turned.entry(self.id).or_insert(self.step.now);
                }
                self.look_again();
            }
            Some(ErrorCode::PostIdTime) => {
                // It was only posted once everything was read, so that ours would have been read back had it
                // been there; and under an id that is not of now nothing is ever taken.
                self.step.correct_time(link, refusal);
                if let Some(parcel) = outbox::get(self.step.tx, row)? {
                    self.make_anew(row, parcel)?;
                }
                self.look_again();
            }
            Some(ErrorCode::MailboxUnknown) => {
                return self.suspend(Cause::MailboxGone, "the relay does not have the mailbox (any more)");
            }
            _ => match outbox::get(self.step.tx, row)? {
                Some(Parcel::Message { message, .. }) => {
                    self.give_up_message(row, &message, &refusal.message)?;
                    self.look_again();
                }
                Some(Parcel::Commit { intent, .. }) => {
                    self.drop_commit(intent, &refusal.message)?;
                    self.look_again();
                }
                Some(Parcel::Repair { .. } | Parcel::Inbox { .. }) | None => {}
            },
        }
        Ok(())
    }

    fn posted(&mut self, row: i64, seq: u64) -> Result<(), Error> {
        // It may have been read back before this answer came.
        if let Some(mut parcel) = outbox::get(self.step.tx, row)? {
            if let Some(sealed) = parcel.sealed_mut() {
                sealed.posted = Some(seq);
            }
            outbox::update(self.step.tx, row, &parcel)?;
            if let Parcel::Message { message, .. } = parcel {
                self.message_stored(&message, seq)?;
            }
        }
        self.look_again();
        Ok(())
    }

    /// Queues something to be said here.
    pub(in crate::engine) fn say(&mut self, message: MessageId, said: Said) -> Result<(), Error> {
        let parcel = Parcel::Message { message, sent_at: self.step.now, said, sealed: None };
        outbox::put(self.step.tx, &self.record().mailbox, &parcel)?;
        self.look_again();
        Ok(())
    }

    /// Whether something can be said here. What is suspended keeps what is said until it goes on.
    pub(in crate::engine) fn takes_messages(&self) -> Result<(), Error> {
        match &self.record().state {
            ConversationState::Creating | ConversationState::Active | ConversationState::Suspended(_) => {
                Ok(())
            }
            state => Err(Error::NotActive(state.in_words().to_owned())),
        }
    }
}

pub(in crate::engine) fn post_request(
    mailbox: MailboxId,
    sealed: &SealedPost,
    turn: Option<TurnRequest>,
) -> Request {
    Request::Post(Post {
        mailbox,
        post_id: sealed.post,
        post_key: PostKey::from_bytes(sealed.post_key.0),
        envelope: sealed.envelope.clone().into(),
        turn,
    })
}

impl Step<'_> {
    pub(in crate::engine) fn posted(
        &mut self,
        conversation: &ConversationId,
        row: i64,
        seq: u64,
    ) -> Result<(), Error> {
        // An answer may come behind the end.
        self.talk(conversation, |talk| if talk.has_group() { talk.posted(row, seq) } else { Ok(()) })
            .map(drop)
    }

    pub(in crate::engine) fn post_refused(
        &mut self,
        link: &LinkId,
        conversation: &ConversationId,
        row: i64,
        mailbox: MailboxId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        self.talk(conversation, |talk| match talk.has_group() {
            true => talk.post_refused(link, row, mailbox, refusal),
            false => Ok(()),
        })
        .map(drop)
    }
}
