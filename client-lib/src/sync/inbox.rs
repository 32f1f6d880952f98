//! Deliveries to the two inboxes: invitations, and answers to ours (rules 11, 13 and 14).

use rand::Rng as _;

use super::account::OwnDevice;
use super::profile::{self, Contact, Profile};
use super::reading::{self, Purpose, Reading};
use super::receive::Arrival;
use super::{EngineError, Event, Step};
use crate::content::{InboxMessage, Invitation, Receipt, WelcomeRefused};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Intent, Notice, put_intent};
use crate::outbox;
use crate::session::{KeyPackage, KeyPackageKind, PendingJoin, Provider, Session, SessionError, UnverifiedKeyPackage};
use posthorn_proto::ReadKey;

/// A joiner updates its leaf within this time, milliseconds, jittered (rule 23); at once after a last-resort join (rule 15).
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
    pub(super) fn inbox_delivery(&mut self, purpose: Purpose, arrival: &Arrival<'_>) -> Result<(), EngineError> {
        let Some(profile) = Profile::load(self.tx)? else { return Ok(()) };
        let inbox = if purpose == Purpose::PublicInbox { &profile.public_inbox } else { &profile.private_inbox };
        let delivery = arrival.delivery;
        let Ok(data) = inbox.secret().open(&arrival.mailbox, &delivery.post_id, &delivery.envelope) else {
            // Anybody may write anything here: what does not open is nobody's alarm.
            return Ok(());
        };
        match InboxMessage::decode(&data) {
            Ok(InboxMessage::Invitation(unverified)) => {
                match unverified.verify(profile.device().id(), &profile.identity().key()) {
                    Ok(invitation) => self.invitation(&profile, &invitation),
                    Err(error) => {
                        self.alarm(None, Cause::BadInvitation, None, error.to_string());
                        Ok(())
                    }
                }
            }
            Ok(InboxMessage::WelcomeRefused(refused)) => self.welcome_refused(&refused),
            Err(error) => {
                self.alarm(None, Cause::BadInvitation, None, error.to_string());
                Ok(())
            }
        }
    }

    fn invitation(&mut self, profile: &Profile, invitation: &Invitation) -> Result<(), EngineError> {
        match self.join(profile, invitation)? {
            Ok(()) => Ok(()),
            Err(declined) => {
                if declined.ask_again {
                    self.refuse_welcome(profile, invitation, declined.cause)?;
                }
                self.alarm(Some(invitation.conversation), declined.cause, None, declined.text);
                Ok(())
            }
        }
    }

    /// Joins, if the Welcome is what the invitation says.
    fn join(&mut self, profile: &Profile, invitation: &Invitation) -> Result<Result<(), Declined>, EngineError> {
        let id = invitation.conversation;
        let known = Conversation::load(self.tx, &id)?;
        let own = OwnDevice::of(profile)?;
        let provider = Provider::new(self.tx);
        let join = match PendingJoin::new(&provider, &own.leaf(), &invitation.welcome) {
            Ok(join) => join,
            Err(error @ (SessionError::Store(_) | SessionError::Row(_))) => return Err(error.into()),
            Err(error) => {
                let mut declined = Declined::new(Cause::WelcomeUnreadable, error.to_string());
                declined.ask_again = true;
                return Ok(Err(declined));
            }
        };
        if let Err(declined) = fits(invitation, &join) {
            return Ok(Err(declined));
        }
        // Only members know a conversation's id; one that has ended for us may begin anew with others.
        let going_on = known.as_ref().is_some_and(|record| !record.has_ended());
        if going_on && join.replaces() && !was_member(&provider, invitation)? {
            let text = "an invitation to a conversation that we are in, by somebody who is not";
            return Ok(Err(Declined::new(Cause::BadInvitation, text)));
        }
        if known
            .as_ref()
            .is_some_and(|record| record.state == ConversationState::Active && record.epoch >= join.epoch())
        {
            return Ok(Err(Declined::new(Cause::BadInvitation, "an invitation that is older than what we have")));
        }
        let by_last_resort = join.by_last_resort();
        let session = join.finish()?;
        if let Some(old) = known {
            outbox::remove_all(self.tx, &old.mailbox)?;
            Reading::delete(self.tx, &old.mailbox)?;
        }
        Contact::meet(self.tx, &invitation.inviter)?;
        self.joined(&session, invitation)?;
        let wait = if by_last_resort { 0 } else { self.rng.random_range(1_000..UPDATE_WITHIN) };
        put_intent(self.tx, &id, &Intent::Update { not_before: self.now + wait })?;
        self.live.dirty.insert(id);
        Ok(Ok(()))
    }

    fn joined(&mut self, session: &Session<'_>, invitation: &Invitation) -> Result<(), EngineError> {
        let id = invitation.conversation;
        let mut record = Conversation::new(&invitation.relay, invitation.mailbox, ConversationState::Active);
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

    /// "Your Welcome does not open": with a fresh key package, to the inviter (rule 14).
    fn refuse_welcome(&mut self, profile: &Profile, invitation: &Invitation, cause: Cause) -> Result<(), EngineError> {
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

    /// Re-adds a device that could not open its Welcome. Anybody can send this, with a key package from the directory: so
    /// only a device that was never heard of since it was added is exchanged.
    fn welcome_refused(&mut self, refused: &WelcomeRefused) -> Result<(), EngineError> {
        let id = refused.conversation;
        let active = |record: Conversation| record.state == ConversationState::Active;
        if !Conversation::load(self.tx, &id)?.is_some_and(active) {
            return Ok(());
        }
        let provider = Provider::new(self.tx);
        let session = Session::load(&provider, &id)?;
        let members = session.members()?;
        let Some(member) = members.iter().find(|member| member.credential.device() == refused.device) else {
            return Ok(());
        };
        // A device that joined has updated its leaf with its inbox soon after.
        let heard_of = member.inbox.is_some();
        let package = UnverifiedKeyPackage::parse(&refused.key_package)
            .and_then(|p| p.verify(&provider, &member.credential.identity(), self.now));
        let genuine = package.is_ok_and(|package| package.credential() == &member.credential);
        if heard_of || !genuine {
            return Ok(());
        }
        let identity = *member.credential.identity().as_bytes();
        let key_package = refused.key_package.clone();
        let intent = Intent::Readmit { device: refused.device, identity, key_package };
        put_intent(self.tx, &id, &intent)?;
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
    } else if !join.members().iter().any(|member| member.credential.identity() == inviter) {
        wrong("the inviter is not a member")
    } else {
        Ok(())
    }
}

/// Whether the inviter was a member of the session that the join would replace.
fn was_member(provider: &Provider<'_>, invitation: &Invitation) -> Result<bool, EngineError> {
    let session = Session::load(provider, &ConversationId(invitation.conversation.0))?;
    let inviter = invitation.inviter.identity();
    Ok(session.members()?.iter().any(|member| member.credential.identity() == inviter))
}
