//! Removing the account at its relay, and this device's inboxes with it. Conversations live on: whoever wants
//! to be out of them leaves them before.

use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{Refusal, Request};

use super::Own;
use super::register::refused;
use crate::engine::link::request::{Pending, is_passing};
use crate::engine::{Error, Link, LinkId, Reply, Step};

impl Step<'_> {
    pub(in crate::engine) fn remove_account(&mut self, reply: Reply<()>) -> Result<(), Error> {
        if self.own_or_none()?.is_none_or(|own| !own.profile.registered) {
            self.answer(reply, Err(Error::NoAccount));
            return Ok(());
        }
        self.live.promised.removing.push(reply);
        self.live.links_dirty = true;
        Ok(())
    }

    /// Whether the account is being removed, or has been: then nothing is made for it any more.
    pub(in crate::engine) fn is_removing(&self) -> bool {
        !self.live.promised.removing.is_empty() || self.live.promised.removed
    }

    /// Asks for it. The inboxes go first, for nobody else can remove them.
    pub(super) fn progress_removal(&mut self, own: &Own, account: &LinkId) -> Result<(), Error> {
        let asked = self.live.asked(account, |pending| matches!(pending, Pending::RemoveAccount));
        if asked || self.live.promised.removed {
            return Ok(());
        }
        for link in [Link::Account, Link::Inbox] {
            let (id, inbox) = (own.link(link)?, own.profile.inbox(link));
            if inbox.created && self.live.ready(&id, self.now).is_some() {
                let destroy = Request::Destroy { mailbox: inbox.mailbox, turn_key: inbox.turn_key() };
                // If it is not there any more, that is well, too.
                self.request(&id, destroy, Pending::Ping);
            }
        }
        self.request(account, Request::RemoveAccount, Pending::RemoveAccount);
        Ok(())
    }

    pub(in crate::engine) fn account_removed(&mut self) {
        self.live.promised.removed = true;
        for reply in std::mem::take(&mut self.live.promised.removing) {
            self.answer(reply, Ok(()));
        }
    }

    pub(in crate::engine) fn removal_refused(&mut self, id: &LinkId, refusal: &Refusal) {
        if is_passing(refusal) {
            self.back_off(id, refusal);
        } else if refusal.code == Some(ErrorCode::AuthenticationFailed) {
            // It was removed before, and the answer did not come.
            self.account_removed();
        } else {
            for reply in std::mem::take(&mut self.live.promised.removing) {
                self.answer(reply, Err(refused(refusal)));
            }
        }
    }
}
