//! The device's two inboxes (rule 13): made at the relay, made again when it lost them, and given fresh keys
//! from time to time.

use posthorn_proto::frame::{Create, Refusal, Request};
use posthorn_proto::{ErrorCode, Limits, MailboxId, Reader, Token};

use super::profile::{Inbox, Profile};
use crate::conversation::Cause;
use crate::engine::link::request::Pending;
use crate::engine::mailbox::reading::{Purpose, Reading};
use crate::engine::{Error, Link, LinkId, Step};
use crate::store::record::Secret;

/// Envelopes live for 30 days, in seconds, or as long as the relay allows at the most.
pub(in crate::engine) const EXPIRY_SECONDS: u32 = 30 * 24 * 3600;
/// Quota of the public inbox, bytes: anybody may write there (rule 13).
const PUBLIC_INBOX_BYTES: u64 = 4 << 20;
const PRIVATE_INBOX_BYTES: u64 = 16 << 20;

impl Profile {
    pub(super) fn inbox_mut(&mut self, link: Link) -> &mut Inbox {
        match link {
            Link::Account => &mut self.public_inbox,
            _ => &mut self.private_inbox,
        }
    }

    pub(super) fn inbox(&self, link: Link) -> &Inbox {
        match link {
            Link::Account => &self.public_inbox,
            _ => &self.private_inbox,
        }
    }
}

impl Step<'_> {
    /// What the relay at the other end of a link allows at the most.
    pub(in crate::engine) fn limits(&self, id: &LinkId) -> Limits {
        let hello = self.live.links.get(id).and_then(|link| link.up()).and_then(|up| up.hello.as_ref());
        hello.map(|hello| hello.limits).unwrap_or_default()
    }

    pub(super) fn create_inbox(&mut self, link: Link) -> Result<(), Error> {
        let own = self.own()?;
        let id = own.link(link)?;
        let asked = self.live.asked(&id, |pending| matches!(pending, Pending::CreateInbox(_)));
        if own.profile.inbox(link).created || asked || self.live.ready(&id, self.now).is_none() {
            return Ok(());
        }
        if own.profile.inbox(link).token.is_none() {
            let Some(token) = self.take_token()? else { return Ok(()) };
            self.change_profile(|profile| profile.inbox_mut(link).token = Some(Secret(*token.expose())))?;
        }
        let (own, limits) = (self.own()?, self.limits(&id));
        let inbox = own.profile.inbox(link);
        let Some(token) = &inbox.token else { return Ok(()) };
        let bytes = if link == Link::Account { PUBLIC_INBOX_BYTES } else { PRIVATE_INBOX_BYTES };
        let create = Create {
            mailbox: inbox.mailbox,
            token: Token::from_bytes(token.0),
            post_key_hash: inbox.post_key().hash(),
            turn_key_hash: inbox.turn_key().hash(),
            readers: vec![Reader { id: inbox.reader, key_hash: inbox.read_key().hash() }],
            expiry: EXPIRY_SECONDS.min(limits.expiry_seconds),
            quota: bytes.min(limits.mailbox_bytes),
        };
        self.request(&id, Request::Create(create), Pending::CreateInbox(link));
        Ok(())
    }

    pub(in crate::engine) fn inbox_created(&mut self, link: Link) -> Result<(), Error> {
        self.change_profile(|profile| {
            let inbox = profile.inbox_mut(link);
            inbox.created = true;
            inbox.token = None;
        })?;
        let own = self.own()?;
        let inbox = own.profile.inbox(link);
        let purpose = if link == Link::Account { Purpose::PublicInbox } else { Purpose::PrivateInbox };
        let relay = own.profile.relay_url()?;
        Reading::new(purpose, relay.as_str(), inbox.reader, &inbox.read_key())
            .save(self.tx, &inbox.mailbox)?;
        self.live.openings_dirty = true;
        self.registration_goes_on()
    }

    pub(in crate::engine) fn inbox_refused(
        &mut self,
        id: &LinkId,
        link: Link,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        match refusal.code {
            Some(ErrorCode::TokenUnknown) => {
                self.change_profile(|profile| profile.inbox_mut(link).token = None)
            }
            // The identical creation came through before, and somebody wrote there since.
            Some(ErrorCode::MailboxExists) => self.inbox_created(link),
            _ => self.stock_refused(id, refusal),
        }
    }

    /// The relay does not have an inbox any more (it was restored, or nobody opened it for half a year): it
    /// is made again under the same address, which stands in cards and leaves.
    pub(in crate::engine) fn inbox_gone(
        &mut self,
        mailbox: &MailboxId,
        purpose: Purpose,
    ) -> Result<(), Error> {
        if self.is_removing() {
            return Ok(Reading::delete(self.tx, mailbox)?);
        }
        let link = if purpose == Purpose::PublicInbox { Link::Account } else { Link::Inbox };
        self.change_profile(|profile| {
            profile.established |= profile.complete();
            let inbox = profile.inbox_mut(link);
            inbox.created = false;
            inbox.token = None;
        })?;
        Reading::delete(self.tx, mailbox)?;
        self.lose_touch()?;
        let text = "the relay does not have an inbox of this device any more; it is made again";
        self.alarm(None, Cause::MailboxGone, None, text);
        Ok(())
    }
}
