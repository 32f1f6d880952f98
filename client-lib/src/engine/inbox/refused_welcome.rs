//! A Welcome that does not open, and what is done about it (rule 14).

use super::strangers::ANSWERS;
use crate::content::{Invitation, WelcomeRefused};
use crate::conversation::{Cause, Conversation, ConversationState, Intent, put_intent};
use crate::engine::account::profile;
use crate::engine::talk::Talk;
use crate::engine::{Error, Step, people};
use crate::group::{KeyPackage, KeyPackageKind, Member, Provider, UnverifiedKeyPackage};
use crate::identity::PersonId;
use crate::outbox::Errand;

impl Step<'_> {
    /// "Your Welcome does not open": with a fresh key package, to the inviter. Only to a relay that is in
    /// use: a stranger shall not make this device connect to a host of its choice.
    pub(super) fn refuse_welcome(&mut self, invitation: &Invitation, cause: Cause) -> Result<(), Error> {
        let own = self.own()?;
        if !self.uses_relay(&invitation.inviter.relay().identity)?
            || !self.strangers(|today| &mut today.answers, ANSWERS)?
        {
            return Ok(());
        }
        people::meet(self.tx, &invitation.inviter)?;
        let now = self.relay_now();
        let provider = Provider::new(self.tx, None);
        let made = KeyPackage::make(&provider, &own.leaf()?, KeyPackageKind::OneTime, now)?;
        profile::note_key_package(self.tx, &made)?;
        let answer = WelcomeRefused {
            group: invitation.group,
            device: own.device()?.id(),
            key_package: made.bytes,
            cause: cause.name().to_owned(),
        };
        let identity = invitation.inviter.identity();
        for device in people::devices(self.tx, &identity)? {
            if let Some(inbox) = self.inboxes_of(&identity, &device)?.first() {
                let errand = Errand {
                    conversation: None,
                    person: PersonId::from(&identity),
                    device,
                    since: self.now,
                    tries: 0,
                    data: answer.encode(),
                };
                self.post_to_inbox(inbox, errand)?;
            }
        }
        Ok(())
    }

    /// Re-adds a device that could not open its Welcome. Anybody can send this, with a key package from the
    /// directory: so only a device that was never heard of since it was added is exchanged.
    pub(super) fn welcome_refused(&mut self, refused: &WelcomeRefused) -> Result<(), Error> {
        self.flush()?;
        let all = Conversation::all(self.tx)?;
        let active = |record: &Conversation| {
            record.group == refused.group && record.state == ConversationState::Active
        };
        // Groups of strangers may have the same id.
        for (id, _) in all.into_iter().filter(|(_, record)| active(record)) {
            self.talk_known(&id, |talk| talk.readmit(refused))?;
        }
        Ok(())
    }
}

impl Talk<'_, '_> {
    fn readmit(&mut self, refused: &WelcomeRefused) -> Result<(), Error> {
        let now = self.step.relay_now();
        let wanted = self.group(|group, provider| {
            let members = group.members()?;
            let genuine = |member: &&Member| {
                let package = UnverifiedKeyPackage::parse(&refused.key_package)
                    .and_then(|p| p.verify(provider, &member.credential.identity(), now));
                package.is_ok_and(|package| package.credential() == &member.credential)
            };
            let of_device = |member: &&Member| member.credential.device() == refused.device;
            let found = members.iter().filter(of_device).find(genuine);
            // A device that joined has updated its leaf with its inbox soon after.
            Ok(found.filter(|member| member.inbox.is_none()).map(|m| m.credential.identity()))
        })?;
        if let Some(identity) = wanted {
            // However often it asks: one exchange is two commits.
            let intent = Intent::Readmit {
                device: refused.device,
                person: PersonId::from(&identity),
                key_package: refused.key_package.clone(),
            };
            put_intent(self.step.tx, &self.id, &intent)?;
            self.look_again();
        }
        Ok(())
    }
}
