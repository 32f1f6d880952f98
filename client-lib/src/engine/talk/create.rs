//! A new conversation's mailbox: made at the relay when a token is there, by a connection that never says
//! whose.

use posthorn_proto::frame::{Create, Refusal, Request};
use posthorn_proto::{ErrorCode, Reader, Token};

use super::Talk;
use crate::conversation::{ConversationId, ConversationState};
use crate::engine::account::EXPIRY_SECONDS;
use crate::engine::link::request::{Pending, is_passing};
use crate::engine::{Error, LinkId, Step};

impl Talk<'_, '_> {
    pub(in crate::engine) fn create_mailbox(&mut self) -> Result<(), Error> {
        let Some((link, reading)) = self.link().zip(self.reading().cloned()) else { return Ok(()) };
        let id = self.id;
        let asked = |pending: &Pending| matches!(pending, Pending::CreateMailbox(c) if *c == id);
        if self.step.live.asked(&link, asked) || self.step.live.ready(&link, self.step.now).is_none() {
            return Ok(());
        }
        let token = match &self.record().token {
            Some(token) => Token::from_bytes(token.0),
            None => {
                let Some(token) = self.step.take_token()? else { return Ok(()) };
                self.change().token = Some(crate::store::record::Secret(*token.expose()));
                token
            }
        };
        let keys = self.group(|group, _| group.keys())?;
        let limits = self.step.limits(&link);
        let create = Create {
            mailbox: self.record().mailbox,
            token,
            post_key_hash: keys.post.hash(),
            turn_key_hash: keys.turn.hash(),
            readers: vec![Reader { id: reading.reader, key_hash: reading.read_key().hash() }],
            expiry: EXPIRY_SECONDS.min(limits.expiry_seconds),
            quota: 0,
        };
        self.step.request(&link, Request::Create(create), Pending::CreateMailbox(id));
        Ok(())
    }

    fn mailbox_created(&mut self) -> Result<(), Error> {
        if self.record().state == ConversationState::Creating {
            let record = self.change();
            record.state = ConversationState::Active;
            record.token = None;
            if let Some(reading) = self.change_reading() {
                reading.pause = None;
            }
            self.step.live.openings_dirty = true;
            self.look_again();
            self.tell();
            return Ok(());
        }
        self.place_made()
    }

    fn creation_refused(&mut self, link: &LinkId, refusal: &Refusal) -> Result<(), Error> {
        match refusal.code {
            Some(ErrorCode::TokenUnknown) => {
                self.change().token = None;
                self.change_place(|place| place.token = None)?;
                self.look_again();
            }
            // Created by a request whose answer was lost, and used since.
            Some(ErrorCode::MailboxExists) => return self.mailbox_created(),
            _ => {
                self.step.back_off(link, refusal);
                if !is_passing(refusal) && self.record().state != ConversationState::Creating {
                    return self.place_refused(&refusal.message);
                }
                if !is_passing(refusal) {
                    let text = format!("the relay makes no mailbox: {}; it is tried again", refusal.message);
                    self.alarm(crate::conversation::Cause::Refused, None, text);
                }
            }
        }
        Ok(())
    }
}

impl Step<'_> {
    pub(in crate::engine) fn mailbox_created(&mut self, id: &ConversationId) -> Result<(), Error> {
        self.talk(id, |talk| talk.mailbox_created()).map(drop)
    }

    pub(in crate::engine) fn creation_refused(
        &mut self,
        link: &LinkId,
        id: &ConversationId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        self.talk(id, |talk| talk.creation_refused(link, refusal)).map(drop)
    }
}
