//! Invitations to those whom a commit of ours added: sealed after it was read back (rule 11), and an
//! obligation until the relay has them, or until it is certain that it never will.

use super::Talk;
use crate::content::Invitation;
use crate::conversation::{Cause, ConversationId, Intent, put_intent};
use crate::engine::mailbox::Arrival;
use crate::engine::{Error, Step};
use crate::identity::{IdentityKey, PersonId};
use crate::inbox::InboxAddress;
use crate::outbox::{Errand, Invitee};
use posthorn_proto::ReadKey;

impl Talk<'_, '_> {
    /// Seals an invitation and puts it into the outbox (rules 11 and 14).
    pub(in crate::engine) fn invite(
        &mut self,
        invitee: Invitee,
        welcome: Vec<u8>,
        arrival: &Arrival<'_>,
    ) -> Result<(), Error> {
        let own = self.step.own()?;
        let identity = IdentityKey::try_from(&invitee.identity[..]);
        let (Ok(identity), Ok(inbox)) = (identity, InboxAddress::decode(&invitee.inbox)) else {
            let text =
                "a new member has no inbox where the invitation could be left: they are taken out again";
            self.alarm(Cause::CannotAdd, None, text);
            return self.take_out(&PersonId(invitee.identity), invitee.device);
        };
        let info = self.group(|group, _| Ok(group.info().clone()))?;
        let invitation = Invitation {
            recipient: (invitee.device, identity),
            inviter: own.card(own.profile.card_version)?,
            group: self.record().group,
            relay: info.place.relay.clone(),
            mailbox: info.place.mailbox,
            reader: invitee.reader,
            read_key: ReadKey::from_bytes(invitee.read_key.0),
            seq: arrival.delivery.seq,
            chain: arrival.chain,
            welcome,
            repaired: self.record().healing.led_by(),
        };
        let data = invitation.encode(&own.profile.identity());
        let errand = Errand {
            conversation: Some(self.id),
            person: PersonId(invitee.identity),
            device: invitee.device,
            since: self.step.now,
            tries: 0,
            data,
        };
        self.step.post_to_inbox(&inbox, errand)
    }

    /// A device that cannot be reached is no member: who is in the tree and knows nothing of it would keep
    /// every path to it open for ever.
    pub(in crate::engine) fn take_out(
        &mut self,
        person: &PersonId,
        device: posthorn_proto::DeviceId,
    ) -> Result<(), Error> {
        let members = self.group(|group, _| group.members())?;
        let found = members.iter().find(|member| {
            PersonId::from(&member.credential.identity()) == *person && member.credential.device() == device
        });
        // Whoever said something since has been reached.
        if let Some(member) = found.filter(|member| member.inbox.is_none()) {
            let intent = Intent::remove(member.leaf, member.signature_key, *person, self.step.now);
            put_intent(self.step.tx, &self.id, &intent)?;
            self.look_again();
        }
        Ok(())
    }
}

impl Step<'_> {
    /// An invitation will never arrive.
    pub(in crate::engine) fn take_out_uninvited(
        &mut self,
        conversation: &ConversationId,
        errand: &Errand,
    ) -> Result<(), Error> {
        self.talk(conversation, |talk| {
            if talk.has_group() { talk.take_out(&errand.person, errand.device) } else { Ok(()) }
        })
        .map(drop)
    }
}
