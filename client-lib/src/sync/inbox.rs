//! Deliveries to the two inboxes: invitations, and answers to ours (rules 11, 13 and 14).

use rand::Rng as _;

use super::account::OwnDevice;
use super::profile::{self, Contact, Profile};
use super::reading::{self, Purpose, Reading};
use super::receive::Arrival;
use super::strangers::{ANSWERS, CONVERSATIONS};
use super::{EngineError, Event, Step};
use crate::content::{InboxMessage, Invitation, Receipt, WelcomeRefused};
use crate::conversation::{
    Cause, Conversation, ConversationState, Intent, Notice, intents, put_intent, update_intent,
};
use crate::outbox;
use crate::session::{
    KeyPackage, KeyPackageKind, Member, PendingJoin, Provider, Session, SessionError, UnverifiedKeyPackage,
};
use posthorn_proto::ReadKey;

/// A joiner updates its leaf within this time, milliseconds, jittered (rule 23); at once after a last-resort
/// join (rule 15).
const UPDATE_WITHIN: u64 = 30_000;

/// Why an invitation is not followed.
struct Declined {
    cause: Cause,
    text: String,
    /// Ask the inviter for another Welcome.
    ask_again: bool,
}

impl Declined {
    fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into(), ask_again: false }
    }
}

impl Step<'_> {
    pub(super) fn inbox_delivery(
        &mut self,
        purpose: Purpose,
        arrival: &Arrival<'_>,
    ) -> Result<(), EngineError> {
        let Some(profile) = Profile::load(self.tx)? else { return Ok(()) };
        let inbox =
            if purpose == Purpose::PublicInbox { &profile.public_inbox } else { &profile.private_inbox };
        let delivery = arrival.delivery;
        let Ok(data) = inbox.secret().open(&arrival.mailbox, &delivery.post_id, &delivery.envelope) else {
            // Anybody may write anything here: what does not open is nobody's alarm.
            return Ok(());
        };
        match InboxMessage::decode(&data) {
            Ok(InboxMessage::Invitation(unverified)) => {
                match unverified.verify(profile.device().id(), &profile.identity().key()) {
                    Ok(invitation) => self.invitation(&profile, &invitation),
                    Err(error) => self.inbox_alarm(None, Cause::BadInvitation, error.to_string()),
                }
            }
            Ok(InboxMessage::WelcomeRefused(refused)) => self.welcome_refused(&refused),
            Err(error) => self.inbox_alarm(None, Cause::BadInvitation, error.to_string()),
        }
    }

    fn invitation(&mut self, profile: &Profile, invitation: &Invitation) -> Result<(), EngineError> {
        match self.join(profile, invitation)? {
            Ok(()) => Ok(()),
            Err(declined) => {
                if declined.ask_again {
                    self.refuse_welcome(profile, invitation, declined.cause)?;
                }
                self.inbox_alarm(Some(invitation.conversation), declined.cause, declined.text)
            }
        }
    }

    /// Joins, if the Welcome is what the invitation says.
    fn join(
        &mut self,
        profile: &Profile,
        invitation: &Invitation,
    ) -> Result<Result<(), Declined>, EngineError> {
        let id = invitation.conversation;
        let known = Conversation::load(self.tx, &id)?;
        if let Err(declined) = self.fits_known(known.as_ref(), invitation)? {
            return Ok(Err(declined));
        }
        let own = OwnDevice::of(profile)?;
        let provider = Provider::new(self.tx);
        let join = match PendingJoin::new(&provider, &own.leaf(), &invitation.welcome) {
            Ok(join) => join,
            Err(error @ (SessionError::Store(_) | SessionError::Row(_))) => return Err(error.into()),
            Err(error) => {
                let mut declined = Declined::new(Cause::WelcomeUnreadable, error.to_string());
                // Against a Welcome that is malformed, or breaks our rules, another key package does not
                // help.
                declined.ask_again = matches!(error, SessionError::NoKeyPackage | SessionError::Invalid(_));
                return Ok(Err(declined));
            }
        };
        if let Err(declined) = fits(invitation, &join) {
            return Ok(Err(declined));
        }
        let decline = |text| Ok(Err(Declined::new(Cause::BadInvitation, text)));
        // Only members know a conversation's id; one that has ended for us may begin anew with others.
        let going_on = known.as_ref().is_some_and(|record| !record.has_ended());
        if going_on && join.replaces() && !is_the_same(&provider, invitation, &join)? {
            return decline(
                "an invitation into another group than the conversation's, or by somebody who is not in it",
            );
        }
        // What was said in an epoch is not said again: its keys would serve twice (C1).
        let was_there = |old: &Conversation| old.mailbox == invitation.mailbox && old.epoch >= join.epoch();
        if known.as_ref().is_some_and(was_there) {
            return decline("an invitation that is older than what we have");
        }
        if known.is_none() && !self.strangers(|today| &mut today.conversations, CONVERSATIONS)? {
            return decline("too many conversations were begun with this device today");
        }
        let by_last_resort = join.by_last_resort();
        let session = join.finish()?;
        // It was one of those that the relay has left, if it was one-time.
        self.live.stock = self.live.stock.map(|stock| stock.saturating_sub(u32::from(!by_last_resort)));
        let mut leaving = false;
        if let Some(old) = known {
            leaving = old.state == ConversationState::Leaving;
            // What is still to be said is said in the new epoch, under its message id.
            if going_on && old.mailbox == invitation.mailbox {
                old.commit_row.map(|row| outbox::remove(self.tx, row)).transpose()?;
            } else {
                outbox::remove_all(self.tx, &old.mailbox)?;
            }
            Reading::delete(self.tx, &old.mailbox)?;
        }
        Contact::meet(self.tx, &invitation.inviter)?;
        self.joined(&session, invitation, leaving)?;
        let wait = if by_last_resort { 0 } else { self.rng.random_range(1_000..UPDATE_WITHIN) };
        put_intent(self.tx, &id, &Intent::Update { not_before: self.now + wait })?;
        self.live.dirty.insert(id);
        Ok(Ok(()))
    }

    /// Whether the invitation fits what we know of its conversation and its mailbox, before its Welcome is
    /// looked at.
    fn fits_known(
        &self,
        known: Option<&Conversation>,
        invitation: &Invitation,
    ) -> Result<Result<(), Declined>, EngineError> {
        let decline = |text| Ok(Err(Declined::new(Cause::BadInvitation, text)));
        let Some(reading) = Reading::load(self.tx, &invitation.mailbox)? else { return Ok(Ok(())) };
        // The ids of our inboxes stand in our cards and leaves.
        if reading.purpose != Purpose::Conversation(invitation.conversation) {
            return decline("the invitation names a mailbox in which this device reads something else");
        }
        if known.is_some_and(|record| record.state == ConversationState::Active)
            && reading.seq >= invitation.seq
        {
            return decline("an invitation that is older than what we have");
        }
        Ok(Ok(()))
    }

    fn joined(
        &mut self,
        session: &Session<'_>,
        invitation: &Invitation,
        leaving: bool,
    ) -> Result<(), EngineError> {
        let id = invitation.conversation;
        let state = if leaving { ConversationState::Leaving } else { ConversationState::Active };
        let mut record = Conversation::new(&invitation.relay, invitation.mailbox, state);
        record.epoch = session.epoch();
        // What was said before we came counts as neither got nor read by us, and is not ours to confirm.
        record.receipt_sent = Receipt { delivered: invitation.seq, read: invitation.seq };
        record.read = invitation.seq;
        self.note_members(session, &mut record)?;
        record.save(self.tx, &id)?;
        let relay = invitation.relay.url.as_str();
        let read_key = ReadKey::random(self.rng);
        let reading = Reading::new(Purpose::Conversation(id), relay, invitation.reader, &read_key).invited(
            &invitation.read_key,
            invitation.seq,
            &invitation.chain,
        );
        reading.save(self.tx, &invitation.mailbox)?;
        reading::keep_chain(self.tx, &invitation.mailbox, invitation.seq, &invitation.chain)?;
        self.live.want_relay(relay, self.now);
        self.live.openings_dirty = true;
        let notice = Notice::Joined { by: invitation.inviter.handle().to_string() };
        self.notice(&id, Some(invitation.seq), notice)?;
        self.event(Event::Conversation { conversation: id });
        Ok(())
    }

    /// "Your Welcome does not open": with a fresh key package, to the inviter (rule 14). Only to our own
    /// relay, where whoever took our key package has its account: a stranger shall not make this device
    /// connect to a host of its choice.
    fn refuse_welcome(
        &mut self,
        profile: &Profile,
        invitation: &Invitation,
        cause: Cause,
    ) -> Result<(), EngineError> {
        let is_near = *invitation.inviter.relay() == profile.relay()?;
        if !is_near || !self.strangers(|today| &mut today.answers, ANSWERS)? {
            return Ok(());
        }
        Contact::meet(self.tx, &invitation.inviter)?;
        let own = OwnDevice::of(profile)?;
        let provider = Provider::new(self.tx);
        let made = KeyPackage::make(&provider, &own.leaf(), KeyPackageKind::OneTime, self.now)?;
        profile::note_key_package(self.tx, &made)?;
        let answer = WelcomeRefused {
            conversation: invitation.conversation,
            device: profile.device().id(),
            key_package: made.bytes,
            cause: cause.name().to_owned(),
        };
        let Some(contact) = Contact::load(self.tx, &invitation.inviter.identity())? else { return Ok(()) };
        for device in invitation.inviter.devices() {
            if let Some(inbox) = contact.inbox(&device.credential.device()) {
                self.post_to_inbox(&inbox, &answer.encode())?;
            }
        }
        Ok(())
    }

    /// Re-adds a device that could not open its Welcome. Anybody can send this, with a key package from the
    /// directory: so only a device that was never heard of since it was added is exchanged.
    pub(super) fn welcome_refused(&mut self, refused: &WelcomeRefused) -> Result<(), EngineError> {
        let id = refused.conversation;
        let active = |record: Conversation| record.state == ConversationState::Active;
        if !Conversation::load(self.tx, &id)?.is_some_and(active) {
            return Ok(());
        }
        let provider = Provider::new(self.tx);
        let session = Session::load(&provider, &id)?;
        let members = session.members()?;
        let genuine = |member: &&Member| {
            let package = UnverifiedKeyPackage::parse(&refused.key_package)
                .and_then(|p| p.verify(&provider, &member.credential.identity(), self.now));
            package.is_ok_and(|package| package.credential() == &member.credential)
        };
        let Some(member) = members.iter().filter(|m| m.credential.device() == refused.device).find(genuine)
        else {
            return Ok(());
        };
        // A device that joined has updated its leaf with its inbox soon after.
        if member.inbox.is_some() {
            return Ok(());
        }
        let wanted = *member.credential.identity().as_bytes();
        let key_package = refused.key_package.clone();
        let intent = Intent::Readmit { device: refused.device, identity: wanted, key_package };
        // However often it asks: one exchange is two commits.
        let same = |intent: &Intent| {
            matches!(intent, Intent::Readmit { device, identity, .. }
            if *device == refused.device && *identity == wanted)
        };
        match intents(self.tx, &id)?.into_iter().find(|(_, kept)| same(kept)) {
            Some((row, _)) => update_intent(self.tx, row, &intent)?,
            None => drop(put_intent(self.tx, &id, &intent)?),
        }
        self.live.dirty.insert(id);
        Ok(())
    }
}

/// Whether the group is the one that the invitation speaks of, and the inviter is in it.
fn fits(invitation: &Invitation, join: &PendingJoin<'_>) -> Result<(), Declined> {
    let wrong = |text: &str| Err(Declined::new(Cause::BadInvitation, text));
    let inviter = invitation.inviter.identity();
    let own = join.members().iter().find(|member| member.leaf == join.own_leaf());
    if join.id() != invitation.conversation {
        wrong("the invitation names another conversation than its Welcome")
    } else if join.info().mailbox != invitation.mailbox || join.info().relay != invitation.relay {
        wrong("the invitation names another mailbox than the conversation's")
    } else if own.is_none_or(|own| own.reader != invitation.reader) {
        wrong("the invitation names another reader than ours")
    } else if join.inviter().is_none_or(|member| member.credential.identity() != inviter) {
        wrong("the inviter is not the member that made the Welcome")
    } else {
        Ok(())
    }
}

/// Whether the join would go on with the session that it replaces: in the same place, with the same names for
/// its readers, by a member. A member could make another group of the same id, and have us alone in it.
fn is_the_same(
    provider: &Provider<'_>,
    invitation: &Invitation,
    join: &PendingJoin<'_>,
) -> Result<bool, EngineError> {
    let session = Session::load(provider, &invitation.conversation)?;
    let inviter = invitation.inviter.identity();
    let by_member = session.members()?.iter().any(|member| member.credential.identity() == inviter);
    Ok(by_member && session.info().is_same_place(join.info()))
}
