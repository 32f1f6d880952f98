//! What comes to the two inboxes (rules 11, 13 and 14), and what is left in those of others.
//!
//! Anybody who has a contact card can leave anything in the public inbox. Nothing that lies there makes this
//! device connect, post or show that it is there, before the person said so (rule 25).

mod consent;
mod held;
mod invitation;
mod post;
mod refused_welcome;
mod rejoin;
pub(super) mod strangers;

use super::mailbox::Arrival;
use super::mailbox::reading::Purpose;
use super::{Error, Step};
use crate::content::InboxMessage;
use crate::conversation::Cause;

impl Step<'_> {
    pub(super) fn inbox_delivery(&mut self, purpose: Purpose, arrival: &Arrival<'_>) -> Result<(), Error> {
        let own = self.own()?;
        let inbox = match purpose {
            Purpose::PublicInbox => &own.profile.public_inbox,
            _ => &own.profile.private_inbox,
        };
        let delivery = arrival.delivery;
        let Some(data) = inbox.open(&delivery.mailbox, &delivery.post_id, &delivery.envelope) else {
            // Anybody may write anything here: what does not open is nobody's alarm.
            return Ok(());
        };
        let now = self.relay_now();
        match InboxMessage::decode(&data) {
            Ok(InboxMessage::Invitation(unverified)) => {
                match unverified.verify(own.device()?.id(), &own.key, now) {
                    Ok(invitation) => self.invited(purpose, invitation),
                    Err(error) => self.inbox_alarm(None, Cause::BadInvitation, error.to_string()),
                }
            }
            Ok(InboxMessage::WelcomeRefused(refused)) => self.welcome_refused(&refused),
            Ok(InboxMessage::Help(unverified)) => match unverified.verify() {
                Ok(help) => self.help_asked(&help, &data),
                Err(error) => self.inbox_alarm(None, Cause::BadInvitation, error.to_string()),
            },
            // Of a kind that a later version knows.
            Ok(InboxMessage::Unknown) => Ok(()),
            Err(error) => self.inbox_alarm(None, Cause::BadInvitation, error.to_string()),
        }
    }
}
