//! Opening mailboxes: what the relay says of them, held against what we know (rules 7, 8, 10 and 11).

use posthorn_proto::frame::{Ack, Open, OpenState, Opened, Opening as OpenRequest, Refusal, Request};
use posthorn_proto::{ErrorCode, KeyHash, MailboxId};

use super::link::{Opening, Pending};
use super::profile::Profile;
use super::reading::{Purpose, Reading};
use super::{EngineError, Event, Link, LinkId, Step};
use crate::conversation::{
    Cause, Conversation, ConversationId, ConversationState, MessageState, Notice, fail_message,
};
use crate::identity::RelayUrl;
use crate::outbox::{self, Parcel};
use crate::session::{Provider, Session, SessionError};

/// What is said when they do.
pub(super) const LOCK_DIFFERS: &str = "everything is read, and the lock is not the one of our epoch";
/// Envelopes that the relay may send ahead of our acknowledgement, for each mailbox.
const CREDIT: u32 = 64;

impl Purpose {
    fn link(self) -> Link {
        match self {
            Self::PublicInbox => Link::Account,
            Self::PrivateInbox | Self::Conversation(_) => Link::Mailboxes,
        }
    }

    pub(super) fn conversation(self) -> Option<ConversationId> {
        match self {
            Self::Conversation(id) => Some(id),
            Self::PublicInbox | Self::PrivateInbox => None,
        }
    }
}

impl Step<'_> {
    /// Opens every mailbox that should be open and is not.
    pub(super) fn progress_openings(&mut self) -> Result<(), EngineError> {
        let any_ready = self.live.links.keys().any(|id| self.live.ready(id, self.now).is_some());
        if !any_ready || !std::mem::take(&mut self.live.openings_dirty) {
            return Ok(());
        }
        let mut wanted: std::collections::BTreeMap<LinkId, Vec<OpenRequest>> =
            std::collections::BTreeMap::new();
        for (mailbox, reading) in Reading::all(self.tx)? {
            let Ok(relay) = RelayUrl::parse(&reading.relay) else { continue };
            let id = LinkId { relay, link: reading.purpose.link() };
            let asked = self.live.asked(
                &id,
                |pending| matches!(pending, Pending::Open(mailboxes) if mailboxes.contains(&mailbox)),
            );
            let Some(up) = self.live.ready(&id, self.now) else { continue };
            if reading.stopped.is_some() || asked || up.openings.contains_key(&mailbox) {
                continue;
            }
            wanted.entry(id).or_default().push(OpenRequest {
                mailbox,
                reader: reading.reader,
                read_key: reading.read_key(),
                claim: reading.claim(),
                credit: CREDIT,
            });
        }
        for (id, openings) in wanted {
            for chunk in openings.chunks(posthorn_proto::limits::OPENINGS_PER_REQUEST) {
                let mailboxes = chunk.iter().map(|opening| opening.mailbox).collect();
                let request = Request::Open(Open { openings: chunk.to_vec() });
                self.request(&id, request, Pending::Open(mailboxes));
            }
        }
        Ok(())
    }

    /// The relay's answer about each that was asked for.
    pub(super) fn opened(
        &mut self,
        id: &LinkId,
        asked: &[MailboxId],
        results: Vec<Opened>,
    ) -> Result<(), EngineError> {
        for Opened { mailbox, result } in results {
            let Some(reading) = Reading::load(self.tx, &mailbox)?.filter(|reading| reading.is_read_on(id))
            else {
                continue;
            };
            if !asked.contains(&mailbox) || reading.stopped.is_some() {
                continue;
            }
            match result {
                Ok(state) => self.opened_one(id, mailbox, reading, &state)?,
                Err(refusal) => self.opening_ended(id, &mailbox, refusal)?,
            }
        }
        Ok(())
    }

    fn opened_one(
        &mut self,
        id: &LinkId,
        mailbox: MailboxId,
        mut reading: Reading,
        state: &OpenState,
    ) -> Result<(), EngineError> {
        if reading.claimed() {
            reading.save(self.tx, &mailbox)?;
        }
        if reading.incarnation.is_some_and(|known| known != state.incarnation) {
            let text =
                "the relay's store was restored from a backup: what it lost is told for each conversation";
            self.alarm(reading.purpose.conversation(), Cause::RelayRestored, None, text);
        }
        if reading.incarnation != Some(state.incarnation) {
            reading.incarnation = Some(state.incarnation);
            reading.save(self.tx, &mailbox)?;
        }
        if let Some((cause, text)) = contradiction(&reading, state) {
            if reading.purpose.conversation().is_none() {
                self.skip_in_inbox(&mailbox, &mut reading, state, cause, text)?;
            } else {
                return self.stop_reading(id, &mailbox, reading, cause, text);
            }
        }
        let caught_up = state.head == reading.seq;
        let lock = [state.post_key_hash, state.turn_key_hash];
        if let Some(up) = self.live.links.get_mut(id).and_then(|link| link.up_mut()) {
            up.openings.insert(mailbox, Opening { head: state.head, caught_up, lock });
        }
        // What the relay answered and does not have (any more) is posted again, the identical bytes (rule 8).
        outbox::unpost(self.tx, &mailbox, |posted| posted > state.head)?;
        if state.cursor < reading.seq {
            self.acknowledge(id, &mailbox, 0)?;
        }
        if let Some(conversation) = reading.purpose.conversation() {
            if caught_up && self.lock_differs(&conversation, lock)? {
                return self.stop_reading(id, &mailbox, reading, Cause::KeyMismatch, LOCK_DIFFERS);
            }
            self.live.dirty.insert(conversation);
        }
        Ok(())
    }

    /// Nothing refers to what lies in an inbox, and nothing is sent there: reading goes on behind the hole.
    fn skip_in_inbox(
        &mut self,
        mailbox: &MailboxId,
        reading: &mut Reading,
        state: &OpenState,
        cause: Cause,
        text: &str,
    ) -> Result<(), EngineError> {
        let first = state.oldest.clamp(1, state.head.saturating_add(1)) - 1;
        reading.skip_to(self.tx, mailbox, state.cursor.min(state.head).max(first))?;
        self.alarm(None, cause, Some(reading.seq), text);
        Ok(())
    }

    /// Whether the lock that the relay told is another than our epoch's.
    pub(super) fn lock_differs(&self, id: &ConversationId, told: [KeyHash; 2]) -> Result<bool, EngineError> {
        let provider = Provider::new(self.tx);
        let session = match Session::load(&provider, id) {
            Err(SessionError::Unknown) => return Ok(false),
            session => session?,
        };
        let Ok(keys) = session.keys() else { return Ok(false) };
        Ok([keys.post.hash(), keys.turn.hash()] != told)
    }

    /// Acknowledges what is applied, and gives back as much credit as was used.
    pub(super) fn acknowledge(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        credit: u32,
    ) -> Result<(), EngineError> {
        let Some(reading) = Reading::load(self.tx, mailbox)? else { return Ok(()) };
        // An invitation's key is replaced first (rule 11), and what was stopped is left for repair.
        let open = self.live.ready(id, self.now).is_some_and(|up| up.openings.contains_key(mailbox));
        if open && reading.stopped.is_none() {
            let body = Request::Ack(Ack { mailbox: *mailbox, seq: reading.seq, credit });
            self.effects.push(super::Effect::Send(
                id.clone(),
                posthorn_proto::frame::ClientFrame { request: 0, body },
            ));
        }
        Ok(())
    }

    /// An opening was refused, or ended by the relay.
    pub(super) fn opening_ended(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        why: Refusal,
    ) -> Result<(), EngineError> {
        if let Some(up) = self.live.links.get_mut(id).and_then(|link| link.up_mut()) {
            up.openings.remove(mailbox);
        }
        let Some(reading) = Reading::load(self.tx, mailbox)?.filter(|reading| reading.is_read_on(id)) else {
            return Ok(());
        };
        let (cause, text) = match why.code {
            Some(ErrorCode::MailboxUnknown) => {
                (Cause::MailboxGone, "the relay does not have the mailbox any more")
            }
            Some(ErrorCode::ReaderUnknown) => (Cause::Evicted, "the relay says that this device was removed"),
            Some(ErrorCode::ReadKeyWrong) => {
                (Cause::ReadKeyRefused, "the relay does not take this device's read key")
            }
            Some(ErrorCode::OpenedElsewhere) => (
                Cause::OpenedElsewhere,
                "the same device is online somewhere else: a copied profile must not be used",
            ),
            _ => {
                // Busy or unknown: the next connection tries again.
                self.back_off(id, &why);
                self.live.openings_dirty = true;
                return Ok(());
            }
        };
        if cause == Cause::MailboxGone && reading.purpose.conversation().is_none() {
            return self.inbox_gone(mailbox, reading.purpose);
        }
        self.stop_reading(id, mailbox, reading, cause, text)
    }

    /// What was still to be said there never will be, and says so (C2).
    pub(super) fn abandon_parcels(
        &mut self,
        conversation: &ConversationId,
        mailbox: &MailboxId,
        cause: Cause,
    ) -> Result<(), EngineError> {
        let own = Profile::load(self.tx)?.map(|profile| profile.identity().key());
        for (_, parcel) in outbox::oldest(self.tx, mailbox, usize::MAX >> 1)? {
            if let (Parcel::Message { message, .. }, Some(own)) = (parcel, &own)
                && fail_message(self.tx, conversation, own.as_bytes(), &message, cause)?
            {
                let (id, state) = (message, MessageState::Failed(cause));
                self.event(Event::MessageState { conversation: *conversation, id, state });
            }
        }
        Ok(outbox::remove_all(self.tx, mailbox)?)
    }

    /// Ends an opening, if there is one.
    pub(super) fn close(&mut self, id: &LinkId, mailbox: &MailboxId) {
        let up = self.live.links.get_mut(id).and_then(|link| link.up_mut());
        if up.is_some_and(|up| up.openings.remove(mailbox).is_some()) {
            self.request(id, Request::Close(*mailbox), Pending::Ping);
        }
    }

    /// A mailbox cannot go on by itself. What was read stays; nothing is sent there any more.
    pub(super) fn stop_reading(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        mut reading: Reading,
        cause: Cause,
        text: &str,
    ) -> Result<(), EngineError> {
        reading.stopped = Some(cause);
        reading.save(self.tx, mailbox)?;
        self.close(id, mailbox);
        let conversation = reading.purpose.conversation();
        if let Some(conversation) = conversation
            && let Some(mut record) = Conversation::load(self.tx, &conversation)?
        {
            if matches!(record.state, ConversationState::Left | ConversationState::Removed) {
                return Ok(());
            }
            record.state = match (cause, record.state) {
                (_, ConversationState::Leaving) => ConversationState::Left,
                (Cause::Evicted | Cause::Removed, _) => ConversationState::Removed,
                _ => ConversationState::Stopped(cause),
            };
            record.save(self.tx, &conversation)?;
            self.abandon_intents(&conversation, &mut record)?;
            self.abandon_parcels(&conversation, mailbox, cause)?;
            if cause == Cause::Evicted && record.state == ConversationState::Removed {
                // The commit that says so cannot be read any more: who did it stays unknown.
                let who = Profile::load(self.tx)?.map(|profile| profile.handle()).transpose()?;
                let who = who.map(|handle| handle.to_string()).into_iter().collect();
                self.notice(&conversation, None, Notice::Removed { by: String::new(), who })?;
            }
            self.event(Event::Conversation { conversation });
        }
        // That we left or were removed is a notice in the history, and nothing is wrong.
        if cause != Cause::Removed {
            self.alarm(conversation, cause, Some(reading.seq), text);
        }
        Ok(())
    }
}

impl Reading {
    /// Whether it is read on that link: what one relay says of another's mailboxes is nothing.
    fn is_read_on(&self, id: &LinkId) -> bool {
        self.relay == id.relay.as_str() && self.purpose.link() == id.link
    }
}

/// What the relay says that cannot be, given what we have read.
fn contradiction(reading: &Reading, state: &OpenState) -> Option<(Cause, &'static str)> {
    if state.head < reading.seq {
        Some((Cause::RelayRolledBack, "the relay has less than was read from it: its store was put back"))
    } else if state.cursor > reading.seq {
        Some((
            Cause::RolledBack,
            "this profile is older than what its device acknowledged: an old copy was put back",
        ))
    } else if state.oldest > reading.seq + 1 {
        Some((Cause::Lapsed, "messages expired before this device read them"))
    } else {
        None
    }
}
