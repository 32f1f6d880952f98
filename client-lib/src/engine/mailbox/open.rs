//! Opening mailboxes: what the relay says of them, held against what we know (rules 7, 8, 10 and 11).

use std::collections::BTreeMap;

use posthorn_proto::frame::{
    Ack, ClientFrame, Open, OpenState, Opened, Opening as OpenRequest, Refusal, Request,
};
use posthorn_proto::{ErrorCode, Incarnation, MailboxId};

use super::reading::{Pause, Purpose, Reading};
use crate::conversation::{Cause, Conversation};
use crate::engine::link::Opening;
use crate::engine::link::request::Pending;
use crate::engine::{Effect, Error, LinkId, Step};
use crate::store::table::Table;

/// What is said when they do.
pub(in crate::engine) const LOCK_DIFFERS: &str =
    "everything is read, and the lock is not the one of our epoch";
/// Of each relay, the life in which its store was found last to have been restored, and when that was told,
/// Unix milliseconds.
const RESTORED: Table<&str, BTreeMap<String, (Incarnation, u64)>> = Table::new("setting");
const RESTORED_KEY: &str = "restored";
/// It is told no more often, milliseconds: a relay may claim a new life each time that it is asked.
const RESTORED_AGAIN: u64 = 24 * 3600 * 1000;
/// Envelopes that the relay may send ahead of our acknowledgement, for each mailbox.
const CREDIT: u32 = 64;

impl Step<'_> {
    /// Opens every mailbox that should be open and is not.
    pub(in crate::engine) fn progress_openings(&mut self) -> Result<(), Error> {
        let any_ready = self.live.links.keys().any(|id| self.live.ready(id, self.now).is_some());
        if !any_ready || !std::mem::take(&mut self.live.openings_dirty) {
            return Ok(());
        }
        self.flush()?;
        let mut wanted: BTreeMap<LinkId, Vec<OpenRequest>> = BTreeMap::new();
        for (mailbox, reading) in Reading::all(self.tx)? {
            // What is due is opened as soon as its connection is there, which is not a matter of time.
            if let Some(Pause::LookAgain { at, .. }) = reading.pause
                && at > self.now
            {
                self.live.look_again(at);
            }
            let Some(id) = reading.link().filter(|_| reading.is_due(self.now)) else { continue };
            let asked = self.live.asked(
                &id,
                |pending| matches!(pending, Pending::Open(mailboxes) if mailboxes.contains(&mailbox)),
            );
            let Some(up) = self.live.ready(&id, self.now) else { continue };
            if asked || up.openings.contains_key(&mailbox) {
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
            let most = (self.limits(&id).openings_per_request as usize)
                .clamp(1, posthorn_proto::limits::OPENINGS_PER_REQUEST);
            for chunk in openings.chunks(most) {
                let mailboxes = chunk.iter().map(|opening| opening.mailbox).collect();
                let request = Request::Open(Open { openings: chunk.to_vec() });
                self.request(&id, request, Pending::Open(mailboxes));
            }
        }
        Ok(())
    }

    /// The relay's answer about each that was asked for.
    pub(in crate::engine) fn opened(
        &mut self,
        id: &LinkId,
        asked: &[MailboxId],
        results: Vec<Opened>,
    ) -> Result<(), Error> {
        for Opened { mailbox, result } in results {
            // What one relay says of another's mailboxes is nothing.
            let reading =
                Reading::load(self.tx, &mailbox)?.filter(|reading| reading.link().as_ref() == Some(id));
            if !asked.contains(&mailbox) || reading.is_none() {
                continue;
            }
            match result {
                Ok(state) => self.opened_one(id, mailbox, &state)?,
                Err(refusal) => self.opening_ended(id, &mailbox, refusal)?,
            }
        }
        Ok(())
    }

    fn opened_one(&mut self, id: &LinkId, mailbox: MailboxId, state: &OpenState) -> Result<(), Error> {
        if let Some(conversation) = self.live.places.get(&mailbox).copied() {
            return self.talk_opened(&conversation, id, state);
        }
        let Some(mut reading) = Reading::load(self.tx, &mailbox)? else { return Ok(()) };
        reading.claimed();
        reading.pause = None;
        let restored = self.note_incarnation(&mut reading, state)?;
        reading.save(self.tx, &mailbox)?;
        let wrong = contradiction(&reading, state);
        self.read_inbox_from(&mut reading, &mailbox, state, restored || wrong.is_some())?;
        // Nothing refers to what lies in an inbox, and nothing is sent there: that a restored relay has less
        // is enough to know once.
        if let Some((cause, text)) = wrong.filter(|(cause, _)| !restored || *cause != Cause::RelayRolledBack)
        {
            self.lose_touch()?;
            self.inbox_alarm(None, cause, text)?;
        }
        self.note_opening(id, &mailbox, &reading, state)
    }

    /// What was left in an inbox is not to be had any more: it may have said where conversations went.
    pub(in crate::engine) fn lose_touch(&mut self) -> Result<(), Error> {
        self.flush()?;
        for (id, record) in Conversation::all(self.tx)? {
            if record.is_read() && record.members.len() > 1 {
                self.talk(&id, |talk| talk.lose_touch())?;
            }
        }
        Ok(())
    }

    /// Reads an inbox on from behind a hole; or, where the relay's store was put back, from where the relay
    /// says that this device is: something else may stand there under numbers that were read before.
    fn read_inbox_from(
        &mut self,
        reading: &mut Reading,
        mailbox: &MailboxId,
        state: &OpenState,
        in_doubt: bool,
    ) -> Result<(), Error> {
        let first = state.oldest.clamp(1, state.head.saturating_add(1)) - 1;
        let from = state.cursor.min(state.head).max(first);
        if from > reading.seq || (in_doubt && from < reading.seq) {
            reading.go_to(self.tx, mailbox, from)?;
        }
        Ok(())
    }

    /// The opening is good: it is noted, and what was read before is acknowledged.
    pub(in crate::engine) fn note_opening(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        reading: &Reading,
        state: &OpenState,
    ) -> Result<(), Error> {
        let lock = [state.post_key_hash, state.turn_key_hash];
        if let Some(up) = self.live.links.get_mut(id).and_then(|link| link.up_mut()) {
            let caught_up = state.head == reading.seq;
            up.openings.insert(*mailbox, Opening { head: state.head, caught_up, lock });
        }
        if state.cursor < reading.seq { self.acknowledge(id, mailbox, 0) } else { Ok(()) }
    }

    /// Notes in which life of the relay's store this is; whether it is another than was read in. That the
    /// store was restored is told once, not for each mailbox.
    pub(in crate::engine) fn note_incarnation(
        &mut self,
        reading: &mut Reading,
        state: &OpenState,
    ) -> Result<bool, Error> {
        let restored = reading.incarnation.is_some_and(|known| known != state.incarnation);
        reading.incarnation = Some(state.incarnation);
        if restored {
            self.tell_restored(&reading.relay, state.incarnation)?;
        }
        Ok(restored)
    }

    fn tell_restored(&mut self, relay: &str, life: Incarnation) -> Result<(), Error> {
        let now = self.now;
        let mut told = RESTORED.get(self.tx, &RESTORED_KEY)?.unwrap_or_default();
        let known = told.get(relay).copied();
        if known.is_some_and(|(known, _)| known == life) {
            return Ok(());
        }
        let lately = known.map(|(_, at)| at).filter(|at| *at <= now && now - at < RESTORED_AGAIN);
        told.insert(relay.to_owned(), (life, lately.unwrap_or(now)));
        RESTORED.put(self.tx, &RESTORED_KEY, &told)?;
        if lately.is_some() {
            return Ok(());
        }
        let text = format!(
            "{relay} was restored from a backup: what conversations have lost there is posted again by the \
             devices that have it"
        );
        self.alarm(None, Cause::RelayRestored, None, text);
        Ok(())
    }

    /// Acknowledges what is applied, and gives back as much credit as was used.
    pub(in crate::engine) fn acknowledge(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        credit: u32,
    ) -> Result<(), Error> {
        // An invitation's key is replaced first (rule 11), and what is suspended is left for repair.
        if !self.is_open(id, mailbox) {
            return Ok(());
        }
        let open = self.live.places.get(mailbox).and_then(|conversation| self.peek(conversation));
        let seq = match open.and_then(|open| open.reading.as_ref()) {
            Some(reading) => reading.seq,
            None => match Reading::load(self.tx, mailbox)? {
                Some(reading) => reading.seq,
                None => return Ok(()),
            },
        };
        let body = Request::Ack(Ack { mailbox: *mailbox, seq, credit });
        self.effects.push(Effect::Send(id.clone(), ClientFrame { request: 0, body }));
        Ok(())
    }

    /// An opening was refused, or ended by the relay.
    pub(in crate::engine) fn opening_ended(
        &mut self,
        id: &LinkId,
        mailbox: &MailboxId,
        why: Refusal,
    ) -> Result<(), Error> {
        self.forget_opening(id, mailbox);
        self.flush()?;
        let reading = Reading::load(self.tx, mailbox)?;
        let Some(mut reading) = reading.filter(|reading| reading.link().as_ref() == Some(id)) else {
            return Ok(());
        };
        let (cause, text) = match why.code {
            Some(ErrorCode::MailboxUnknown) => {
                (Cause::MailboxGone, "the relay does not have the mailbox (any more)")
            }
            Some(ErrorCode::ReaderUnknown) => (Cause::Evicted, "the relay says that this device was removed"),
            Some(ErrorCode::ReadKeyWrong) => {
                (Cause::ReadKeyRefused, "the relay does not take this device's read key")
            }
            Some(ErrorCode::OpenedElsewhere) => {
                (Cause::OpenedElsewhere, "this device is online twice: a copied profile must not be used")
            }
            _ => {
                if why.code == Some(ErrorCode::BadRequest) {
                    self.tell_malformed(mailbox, &reading, &why);
                }
                // Busy or unknown: the next connection tries again.
                self.back_off(id, &why);
                self.live.openings_dirty = true;
                return Ok(());
            }
        };
        match reading.purpose {
            Purpose::Conversation(conversation) => self.suspend_talk(&conversation, cause, text),
            purpose if cause == Cause::MailboxGone => self.inbox_gone(mailbox, purpose),
            _ => {
                let at = reading.look_again(self.now);
                reading.save(self.tx, mailbox)?;
                self.live.look_again(at);
                self.inbox_alarm(None, cause, text)
            }
        }
    }

    /// One of the two has an error, which does not pass by waiting: a person should know, and once is enough.
    fn tell_malformed(&mut self, mailbox: &MailboxId, reading: &Reading, why: &Refusal) {
        if self.live.malformed.insert(*mailbox) {
            let text = format!(
                "the relay calls what this program asks of a mailbox malformed, and it is asked again: {}",
                why.message
            );
            self.alarm(reading.purpose.conversation(), Cause::Internal, None, text);
        }
    }

    pub(in crate::engine) fn forget_opening(&mut self, id: &LinkId, mailbox: &MailboxId) -> bool {
        let up = self.live.links.get_mut(id).and_then(|link| link.up_mut());
        up.is_some_and(|up| up.openings.remove(mailbox).is_some())
    }

    /// Ends an opening, if there is one.
    pub(in crate::engine) fn close(&mut self, id: &LinkId, mailbox: &MailboxId) {
        if self.forget_opening(id, mailbox) {
            self.request(id, Request::Close(*mailbox), Pending::Ping);
        }
    }
}

/// What the relay says that cannot be, given what we have read.
pub(in crate::engine) fn contradiction(
    reading: &Reading,
    state: &OpenState,
) -> Option<(Cause, &'static str)> {
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
