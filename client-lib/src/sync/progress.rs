//! What a conversation does next: make its mailbox, find out about candidates, commit, post. One post of a
//! mailbox is on its way at a time, so that a person's messages keep their order whatever is refused.

use posthorn_proto::frame::{Create, Post, Refusal, Request, ServerBody};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{ErrorCode, Handle, MailboxId, PostId, Reader, Token, TurnRequest};

use super::account::{EXPIRY_SECONDS, OwnDevice};
use super::link::{LONGEST_ADVICE, Pending};
use super::profile::{self, Contact, Profile};
use super::reading::Reading;
use super::receive::RECEIPT_MEMBERS;
use super::{EngineError, Event, Link, LinkId, Step};
use crate::content::{Content, ContentBody, Position, Receipt};
use crate::conversation::{
    Candidate, Cause, Conversation, ConversationId, ConversationState, Intent, MessageId, Package,
    get_intent, intents, update_intent,
};
use crate::envelope::Slot;
use crate::identity::{RelayUrl, UnverifiedCard};
use crate::outbox::{self, Parcel, SealedPost, UNREAD_PARCELS};
use crate::session::{Provider, Session, UnverifiedKeyPackage};

/// A lock that turned should be read about within this time, milliseconds; else the connection is made anew,
/// and the opening tells what is wrong.
const TURN_PATIENCE: u64 = 20_000;
/// How long a full mailbox is left alone, milliseconds.
const FULL_PAUSE: u64 = 30_000;

impl Step<'_> {
    pub(super) fn progress_conversation(&mut self, id: &ConversationId) -> Result<(), EngineError> {
        let Some(mut record) = Conversation::load(self.tx, id)? else { return Ok(()) };
        self.resolve_candidates(id)?;
        match record.state {
            ConversationState::Creating => self.create_mailbox(id, &mut record),
            ConversationState::Active | ConversationState::Leaving => self.progress_active(id, &mut record),
            ConversationState::Left | ConversationState::Removed | ConversationState::Stopped(_) => Ok(()),
        }
    }

    fn create_mailbox(&mut self, id: &ConversationId, record: &mut Conversation) -> Result<(), EngineError> {
        let link = LinkId { relay: record.relay()?.url, link: Link::Mailboxes };
        let asked =
            self.live.asked(&link, |pending| matches!(pending, Pending::CreateConversation(c) if c == id));
        if asked || self.live.ready(&link, self.now).is_none() {
            return Ok(());
        }
        let token = match &record.token {
            Some(token) => Token::from_bytes(*token),
            None => {
                let Some(token) = profile::take_token(self.tx)? else { return Ok(()) };
                record.token = Some(*token.expose());
                record.save(self.tx, id)?;
                token
            }
        };
        let Some(reading) = Reading::load(self.tx, &record.mailbox)? else { return Ok(()) };
        let provider = Provider::new(self.tx);
        let keys = Session::load(&provider, id)?.keys()?;
        let create = Create {
            mailbox: record.mailbox,
            token,
            post_key_hash: keys.post.hash(),
            turn_key_hash: keys.turn.hash(),
            readers: vec![Reader { id: reading.reader, key_hash: reading.read_key().hash() }],
            expiry: EXPIRY_SECONDS,
            quota: 0,
        };
        self.request(&link, Request::Create(create), Pending::CreateConversation(*id));
        Ok(())
    }

    fn progress_active(&mut self, id: &ConversationId, record: &mut Conversation) -> Result<(), EngineError> {
        let link = LinkId { relay: record.relay()?.url, link: Link::Mailboxes };
        let mailbox = record.mailbox;
        let opening = self.live.ready(&link, self.now).and_then(|up| up.openings.get(&mailbox)).copied();
        if !opening.is_some_and(|opening| opening.caught_up) || self.live.paused.contains_key(&mailbox) {
            return Ok(());
        }
        if let Some(since) = self.live.turned.get(id).copied() {
            // Reading decides (rule 3). If nothing comes to be read, opening anew tells what is wrong.
            if since + TURN_PATIENCE <= self.now {
                self.live.turned.remove(id);
                self.effects.push(super::Effect::Disconnect(link));
            } else {
                self.wake_conversation(*id, since + TURN_PATIENCE);
            }
            return Ok(());
        }
        if self
            .live
            .asked(&link, |pending| matches!(pending, Pending::Post { mailbox: m, .. } if *m == mailbox))
        {
            return Ok(());
        }
        let Some(reading) = Reading::load(self.tx, &mailbox)? else { return Ok(()) };
        if self.make_lost_anew(id, record, reading.seq)? {
            self.live.paused.insert(mailbox, self.now + FULL_PAUSE);
            let text = "the relay answered a post of ours and showed something else there; it is made and posted anew";
            self.alarm(Some(*id), Cause::EchoDiffers, Some(reading.seq), text);
            return Ok(());
        }
        if record.commit_row.is_some() || self.stage_commit(id, record, &reading)? {
            return self.post_commit(id, record, &link);
        }
        self.post_message(id, record, &reading, &link)
    }

    /// Looks for posts whose seq was answered and has been read, and which were not there: the relay lies to
    /// us, or to the others. They are made anew, under other post ids: for who has the first after all, the
    /// message's own id tells that the second is a repeat.
    fn make_lost_anew(
        &mut self,
        id: &ConversationId,
        record: &mut Conversation,
        read: u64,
    ) -> Result<bool, EngineError> {
        let is_lost =
            |parcel: &Parcel| parcel.sealed().and_then(|sealed| sealed.posted).is_some_and(|at| at <= read);
        let mut found = false;
        for (row, parcel) in outbox::oldest(self.tx, &record.mailbox, UNREAD_PARCELS)? {
            match parcel {
                parcel if !is_lost(&parcel) => continue,
                Parcel::Message { message, sent_at, body, .. } => {
                    outbox::update(self.tx, row, &Parcel::Message { message, sent_at, body, sealed: None })?;
                }
                Parcel::Commit { .. } => {
                    let provider = Provider::new(self.tx);
                    Session::load(&provider, id)?.clear_pending()?;
                    outbox::remove(self.tx, row)?;
                    record.commit_row = None;
                    record.save(self.tx, id)?;
                }
                Parcel::Inbox { .. } => continue,
            }
            found = true;
        }
        Ok(found)
    }

    /// Posts our commit, or waits to read it back: what is said meanwhile would be of an epoch that ends.
    fn post_commit(
        &mut self,
        id: &ConversationId,
        record: &Conversation,
        link: &LinkId,
    ) -> Result<(), EngineError> {
        let Some(row) = record.commit_row else { return Ok(()) };
        let Some(Parcel::Commit { sealed, turn, .. }) = outbox::get(self.tx, row)? else { return Ok(()) };
        if sealed.posted.is_some() {
            return Ok(());
        }
        let turn = Some(TurnRequest { key: turn.key(), turn: turn.turn() });
        self.post(link, row, record.mailbox, Some(*id), &sealed, turn);
        Ok(())
    }

    fn post_message(
        &mut self,
        id: &ConversationId,
        record: &mut Conversation,
        reading: &Reading,
        link: &LinkId,
    ) -> Result<(), EngineError> {
        for (row, parcel) in outbox::oldest(self.tx, &record.mailbox, UNREAD_PARCELS)? {
            let Parcel::Message { message, sent_at, body, sealed } = parcel else { continue };
            let provider = Provider::new(self.tx);
            let mut session = Session::load(&provider, id)?;
            match sealed {
                Some(sealed) if sealed.epoch == session.epoch() => {
                    if sealed.posted.is_none() {
                        self.post(link, row, record.mailbox, Some(*id), &sealed, None);
                        return Ok(());
                    }
                }
                // Its epoch has been read to the end and it was not there: it never was accepted (rule 3).
                _ => {
                    let content = Content {
                        message,
                        sent_at,
                        position: Position { seq: reading.seq, chain: reading.chain() },
                        receipt: Receipt { delivered: reading.seq, read: record.read },
                        body: body.clone(),
                    };
                    record.receipt_sent = content.receipt;
                    record.receipt_due = 0;
                    record.save(self.tx, id)?;
                    let sealed = self.seal(record.mailbox, &mut session, &content)?;
                    outbox::update(
                        self.tx,
                        row,
                        &Parcel::Message { message, sent_at, body, sealed: Some(sealed.clone()) },
                    )?;
                    self.post(link, row, record.mailbox, Some(*id), &sealed, None);
                    return Ok(());
                }
            }
        }
        self.receipt_due(id, record, reading)
    }

    /// Encrypts under the present epoch; the bytes are stored before they are posted.
    fn seal(
        &mut self,
        mailbox: MailboxId,
        session: &mut Session<'_>,
        content: &Content,
    ) -> Result<SealedPost, EngineError> {
        let Some(profile) = Profile::load(self.tx)? else {
            return Err(crate::store::StoreError::Damaged("setting").into());
        };
        let own = OwnDevice::of(&profile)?;
        let keys = session.keys()?;
        let encrypted = session.encrypt(&own.leaf(), &content.encode())?;
        let post = PostId::random(self.rng);
        let slot = Slot { mailbox, post, turn: TurnHash::NONE };
        let envelope = keys
            .envelope
            .seal(&slot, &encrypted, self.rng)
            .expect("texts are bounded well below what an envelope holds");
        Ok(SealedPost::new(post, &keys.post, envelope, session.epoch()))
    }

    /// A receipt of its own, when none of our messages carried it in time (rule 22).
    fn receipt_due(
        &mut self,
        id: &ConversationId,
        record: &mut Conversation,
        reading: &Reading,
    ) -> Result<(), EngineError> {
        if record.receipt_due == 0 || record.state != ConversationState::Active {
            return Ok(());
        }
        if record.receipt_due > self.now {
            self.wake_conversation(*id, record.receipt_due);
            return Ok(());
        }
        record.receipt_due = 0;
        record.save(self.tx, id)?;
        let news = reading.seq > record.receipt_sent.delivered || record.read > record.receipt_sent.read;
        if news && record.members.len() <= RECEIPT_MEMBERS {
            let message = MessageId::random(self.rng);
            let body = ContentBody::ReceiptOnly;
            let parcel = Parcel::Message { message, sent_at: self.now, body, sealed: None };
            outbox::put(self.tx, &record.mailbox, &parcel)?;
            self.live.dirty.insert(*id);
        }
        Ok(())
    }

    fn post(
        &mut self,
        link: &LinkId,
        row: i64,
        mailbox: MailboxId,
        conversation: Option<ConversationId>,
        sealed: &SealedPost,
        turn: Option<TurnRequest>,
    ) {
        let post = Post {
            mailbox,
            post_id: sealed.post,
            post_key: posthorn_proto::PostKey::from_bytes(sealed.post_key.0),
            envelope: sealed.envelope.clone().into(),
            turn,
        };
        self.request(link, Request::Post(post), Pending::Post { row, mailbox, conversation });
    }

    /// Posts what waits for inboxes, one parcel of each at a time.
    pub(super) fn progress_inbox_posts(&mut self) -> Result<(), EngineError> {
        for mailbox in outbox::mailboxes(self.tx)? {
            let Some((row, Parcel::Inbox { relay, sealed })) = outbox::oldest(self.tx, &mailbox, 1)?.pop()
            else {
                continue;
            };
            let Ok(relay) = RelayUrl::parse(&relay) else { continue };
            let link = LinkId { relay, link: Link::Mailboxes };
            let busy = self
                .live
                .asked(&link, |pending| matches!(pending, Pending::Post { mailbox: m, .. } if *m == mailbox));
            if !busy && !self.live.paused.contains_key(&mailbox) && self.live.ready(&link, self.now).is_some()
            {
                self.post(&link, row, mailbox, None, &sealed, None);
            }
        }
        Ok(())
    }

    /// Looks up who is to be added: card first, then a key package of each device.
    fn resolve_candidates(&mut self, id: &ConversationId) -> Result<(), EngineError> {
        let Some(profile) = Profile::load(self.tx)? else { return Ok(()) };
        let account = profile.link(Link::Account)?;
        if self.live.ready(&account, self.now).is_none() {
            return Ok(());
        }
        for (row, intent) in intents(self.tx, id)? {
            let Intent::Add(candidates) = intent else { continue };
            for candidate in candidates.into_iter().filter(|candidate| candidate.packages.is_empty()) {
                let asked = self.live.asked(&account, |pending| match pending {
                    Pending::LookUp { intent, handle, .. }
                    | Pending::TakeKeyPackages { intent, handle, .. } => {
                        *intent == row && *handle == candidate.handle
                    }
                    _ => false,
                });
                let Ok(handle) = Handle::parse(&candidate.handle) else { continue };
                if asked {
                    continue;
                }
                let (conversation, name) = (*id, candidate.handle);
                if candidate.card.is_none() {
                    let pending = Pending::LookUp { conversation, intent: row, handle: name };
                    self.request(&account, Request::LookUp(handle), pending);
                } else {
                    let pending = Pending::TakeKeyPackages { conversation, intent: row, handle: name };
                    self.request(&account, Request::TakeKeyPackages(handle), pending);
                }
            }
        }
        Ok(())
    }

    /// An answer to a request.
    pub(super) fn answered(
        &mut self,
        id: &LinkId,
        pending: Pending,
        body: ServerBody,
    ) -> Result<(), EngineError> {
        self.went_well(id);
        match (pending, body) {
            (Pending::Open(asked), ServerBody::Opened(results)) => self.opened(id, &asked, results),
            (Pending::Post { row, mailbox, conversation }, ServerBody::Posted { seq }) => {
                self.posted(row, mailbox, conversation, seq)
            }
            (Pending::CreateConversation(conversation), ServerBody::Created) => {
                self.mailbox_created(&conversation)
            }
            (Pending::LookUp { conversation, intent, handle }, ServerBody::Card(answer)) => {
                let result = if answer.version == 0 {
                    Err("the account has no contact card yet; it has to be online once".to_owned())
                } else {
                    self.card_found(intent, &handle, &answer.card)?
                };
                self.resolved(&conversation, intent, &handle, result)
            }
            (
                Pending::TakeKeyPackages { conversation, intent, handle },
                ServerBody::KeyPackages(packages),
            ) => {
                let packages = packages.into_iter().map(|package| package.key_package.to_vec()).collect();
                let result = self.packages_taken(intent, &handle, packages)?;
                self.resolved(&conversation, intent, &handle, result)
            }
            (Pending::Ping, _) => Ok(()),
            (pending, body) => self.account_answered(id, pending, body),
        }
    }

    /// A refusal of a request.
    pub(super) fn refused(
        &mut self,
        id: &LinkId,
        pending: Pending,
        refusal: Refusal,
    ) -> Result<(), EngineError> {
        match pending {
            Pending::Post { row, mailbox, conversation } => {
                self.post_refused(id, row, mailbox, conversation, &refusal)
            }
            Pending::LookUp { conversation, intent, handle }
            | Pending::TakeKeyPackages { conversation, intent, handle } => match refusal.code {
                Some(
                    ErrorCode::RateLimited
                    | ErrorCode::Busy
                    | ErrorCode::StoreUnavailable
                    | ErrorCode::ShuttingDown,
                ) => {
                    self.back_off(id, &refusal);
                    Ok(())
                }
                _ => self.resolved(&conversation, intent, &handle, Err(refusal.message)),
            },
            Pending::CreateConversation(conversation) => self.creation_refused(id, &conversation, &refusal),
            Pending::Open(_) => {
                self.back_off(id, &refusal);
                self.live.openings_dirty = true;
                Ok(())
            }
            Pending::Ping => Ok(()),
            pending => self.account_refused(id, &pending, &refusal),
        }
    }

    fn mailbox_created(&mut self, id: &ConversationId) -> Result<(), EngineError> {
        let Some(mut record) = Conversation::load(self.tx, id)? else { return Ok(()) };
        record.state = ConversationState::Active;
        record.token = None;
        record.save(self.tx, id)?;
        if let Some(mut reading) = Reading::load(self.tx, &record.mailbox)? {
            reading.stopped = None;
            reading.save(self.tx, &record.mailbox)?;
        }
        self.live.openings_dirty = true;
        self.live.dirty.insert(*id);
        self.event(Event::Conversation { conversation: *id });
        Ok(())
    }

    fn creation_refused(
        &mut self,
        link: &LinkId,
        id: &ConversationId,
        refusal: &Refusal,
    ) -> Result<(), EngineError> {
        match refusal.code {
            Some(ErrorCode::TokenUnknown) => {
                if let Some(mut record) = Conversation::load(self.tx, id)? {
                    record.token = None;
                    record.save(self.tx, id)?;
                    self.live.dirty.insert(*id);
                }
            }
            // Created by a request whose answer was lost, and used since.
            Some(ErrorCode::MailboxExists) => self.mailbox_created(id)?,
            _ => self.back_off(link, refusal),
        }
        Ok(())
    }

    fn card_found(
        &mut self,
        intent: i64,
        handle: &str,
        card: &[u8],
    ) -> Result<Result<(), String>, EngineError> {
        let refuse = |text: String| Ok(Err(text));
        self.change_candidate(intent, handle, |step, candidate| {
            let expected = candidate.identity_key();
            let card = match UnverifiedCard::new(card).and_then(|card| card.verify(expected.as_ref())) {
                Ok(card) if card.handle().as_str() == handle => card,
                Ok(_) => return refuse("the relay gave the card of somebody else".to_owned()),
                Err(error) => return refuse(error.to_string()),
            };
            Contact::found(step.tx, &card)?;
            candidate.identity = Some(*card.identity().as_bytes());
            candidate.card = Some(card.encoded().to_vec());
            Ok(Ok(()))
        })
    }

    fn packages_taken(
        &mut self,
        intent: i64,
        handle: &str,
        packages: Vec<Vec<u8>>,
    ) -> Result<Result<(), String>, EngineError> {
        self.change_candidate(intent, handle, |step, candidate| {
            let provider = Provider::new(step.tx);
            let Some(identity) = candidate.identity_key() else {
                return Ok(Err("their identity is not known".to_owned()));
            };
            for bytes in packages {
                // The relay can offer what it wants; only devices of the identity that was looked up count.
                let parsed = UnverifiedKeyPackage::parse(&bytes)
                    .and_then(|p| p.verify(&provider, &identity, step.now));
                if let Ok(package) = parsed
                    && candidate.packages.iter().all(|known| known.device != package.credential().device())
                {
                    candidate.packages.push(Package { device: package.credential().device(), bytes });
                }
            }
            if candidate.packages.is_empty() {
                return Ok(Err("no key package that is valid and theirs".to_owned()));
            }
            Ok(Ok(()))
        })
    }

    fn change_candidate(
        &mut self,
        row: i64,
        handle: &str,
        change: impl FnOnce(&mut Self, &mut Candidate) -> Result<Result<(), String>, EngineError>,
    ) -> Result<Result<(), String>, EngineError> {
        let Some(Intent::Add(mut candidates)) = get_intent(self.tx, row)? else { return Ok(Ok(())) };
        let Some(candidate) = candidates.iter_mut().find(|candidate| candidate.handle == handle) else {
            return Ok(Ok(()));
        };
        let result = change(self, candidate)?;
        update_intent(self.tx, row, &Intent::Add(candidates))?;
        Ok(result)
    }

    /// One step of finding out about a candidate is over. Who cannot be added is left out; if that is
    /// everybody, or the person who asked still waits, the whole change fails with the reason.
    fn resolved(
        &mut self,
        id: &ConversationId,
        row: i64,
        handle: &str,
        result: Result<(), String>,
    ) -> Result<(), EngineError> {
        self.live.dirty.insert(*id);
        let Err(reason) = result else { return Ok(()) };
        let Some(Intent::Add(mut candidates)) = get_intent(self.tx, row)? else { return Ok(()) };
        candidates.retain(|candidate| candidate.handle != handle);
        let text = format!("{handle} cannot be added: {reason}");
        if candidates.is_empty() {
            return self.intent_failed(id, row, Cause::CannotAdd, &text);
        }
        update_intent(self.tx, row, &Intent::Add(candidates))?;
        self.alarm(Some(*id), Cause::CannotAdd, None, text);
        Ok(())
    }

    fn posted(
        &mut self,
        row: i64,
        mailbox: MailboxId,
        conversation: Option<ConversationId>,
        seq: u64,
    ) -> Result<(), EngineError> {
        let Some(mut parcel) = outbox::get(self.tx, row)? else {
            // It was read back before this answer came.
            self.live.dirty.extend(conversation);
            return Ok(());
        };
        if let Some(sealed) = parcel.sealed_mut() {
            sealed.posted = Some(seq);
        }
        let Some(id) = conversation else {
            outbox::remove(self.tx, row)?;
            self.live.inbox_posts_dirty = true;
            return Ok(());
        };
        outbox::update(self.tx, row, &parcel)?;
        if let Parcel::Message { message, body: ContentBody::Text(_), .. } = parcel {
            self.message_stored(&id, &message, seq)?;
        }
        let _ = mailbox;
        self.live.dirty.insert(id);
        Ok(())
    }

    fn post_refused(
        &mut self,
        link: &LinkId,
        row: i64,
        mailbox: MailboxId,
        conversation: Option<ConversationId>,
        refusal: &Refusal,
    ) -> Result<(), EngineError> {
        use ErrorCode as Code;
        match (refusal.code, conversation) {
            (
                Some(
                    Code::Busy
                    | Code::RateLimited
                    | Code::StoreUnavailable
                    | Code::Internal
                    | Code::ShuttingDown,
                ),
                _,
            ) => {
                self.back_off(link, refusal);
            }
            (Some(Code::MailboxFull | Code::Quota), _) => {
                let pause = FULL_PAUSE.max(u64::from(refusal.retry_after_ms)).min(LONGEST_ADVICE);
                self.live.paused.insert(mailbox, self.now + pause);
                self.alarm(
                    conversation,
                    Cause::Full,
                    None,
                    format!("{}; it is tried again", refusal.message),
                );
            }
            (Some(Code::KeyTurned), Some(id)) => {
                // The answer may come behind the delivery of the commit that turned the lock. Then that has
                // been read already, and waiting for more to read would be in vain.
                if self.is_of_this_epoch(row, &id)? {
                    self.live.turned.entry(id).or_insert(self.now);
                }
                self.live.dirty.insert(id);
            }
            (Some(Code::MailboxUnknown), Some(_)) => {
                if let Some(reading) = Reading::load(self.tx, &mailbox)? {
                    let text = "the relay does not have the mailbox any more";
                    self.stop_reading(link, &mailbox, reading, Cause::MailboxGone, text)?;
                }
            }
            (_, Some(id)) => self.parcel_refused(&id, row, refusal)?,
            (_, None) => {
                outbox::remove(self.tx, row)?;
                self.live.inbox_posts_dirty = true;
                let text = format!("an invitation could not be left: {}", refusal.message);
                self.alarm(None, Cause::CannotAdd, None, text);
            }
        }
        Ok(())
    }

    /// Whether a parcel is still there, and sealed for the epoch in which its conversation is now.
    fn is_of_this_epoch(&self, row: i64, id: &ConversationId) -> Result<bool, EngineError> {
        let sealed = match outbox::get(self.tx, row)? {
            Some(Parcel::Message { sealed, .. }) => sealed,
            Some(Parcel::Commit { sealed, .. }) => Some(sealed),
            Some(Parcel::Inbox { .. }) | None => None,
        };
        let epoch = Conversation::load(self.tx, id)?.map(|record| record.epoch);
        Ok(sealed.is_some_and(|sealed| Some(sealed.epoch) == epoch))
    }

    /// The relay refuses these bytes for good.
    fn parcel_refused(
        &mut self,
        id: &ConversationId,
        row: i64,
        refusal: &Refusal,
    ) -> Result<(), EngineError> {
        let code = refusal.code.map_or("UNKNOWN", ErrorCode::name);
        let text = format!("the relay refused a post ({code}): {}", refusal.message);
        match outbox::get(self.tx, row)? {
            Some(Parcel::Commit { intent, .. }) => self.drop_commit(id, row, intent, &text)?,
            Some(Parcel::Message { message, sent_at, body, .. }) => {
                // Under a fresh post id, once; it stays queued, and whoever looks sees why.
                outbox::update(self.tx, row, &Parcel::Message { message, sent_at, body, sealed: None })?;
                if let Some(record) = Conversation::load(self.tx, id)? {
                    self.live.paused.insert(record.mailbox, self.now + FULL_PAUSE);
                }
                self.alarm(Some(*id), Cause::Refused, None, text);
            }
            Some(Parcel::Inbox { .. }) | None => {}
        }
        self.live.dirty.insert(*id);
        Ok(())
    }
}
