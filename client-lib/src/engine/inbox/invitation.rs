//! Following an invitation: into a conversation of its own, whatever id its group has (rule 27). No session
//! that is live is touched by it.

use crate::content::{Invitation, Receipt};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, GroupId, Notice};
use crate::engine::mailbox::reading::{self, Purpose, Reading};
use crate::engine::{Error, Event, Step, people};
use crate::group::{GroupError, PendingJoin, Provider};
use crate::identity::RelayAddress;
use crate::store::table::Table;
use posthorn_proto::{MailboxId, ReadKey};
use serde::{Deserialize, Serialize};

/// A joiner updates its leaf within this time, milliseconds, jittered (rule 23); at once after a last-resort
/// join (rule 15).
pub(super) const UPDATE_WITHIN: u64 = 30_000;

/// Groups that were joined by the last-resort key package.
const JOINED: Table<[u8; 32], Joined> = Table::new("joined");
/// For how long that is known, milliseconds: 120 days, longer than the secret of any such package is kept.
const JOINED_KEPT: u64 = 120 * 24 * 3600 * 1000;

/// Where a group was joined.
#[derive(Debug, Serialize, Deserialize)]
struct Joined {
    epoch: u64,
    /// Unix milliseconds.
    at: u64,
}

/// Why an invitation is not followed.
#[derive(Clone)]
pub(super) struct Declined {
    pub(super) cause: Cause,
    pub(super) text: String,
    /// Ask the inviter for another Welcome.
    pub(super) ask_again: bool,
}

impl Declined {
    pub(super) fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into(), ask_again: false }
    }
}

impl From<Declined> for Error {
    fn from(declined: Declined) -> Self {
        let asked = if declined.ask_again { "; another invitation was asked for" } else { "" };
        Self::Failed { cause: declined.cause.name(), reason: format!("{}{asked}", declined.text) }
    }
}

impl Step<'_> {
    /// Joins, if the Welcome is what the invitation says.
    pub(super) fn join(
        &mut self,
        id: ConversationId,
        invitation: &Invitation,
        apart: bool,
    ) -> Result<Result<(), Declined>, Error> {
        let own = self.own()?;
        let provider = Provider::new(self.tx, Some(id));
        let join = match PendingJoin::new(&provider, &own.leaf()?, &invitation.welcome) {
            Ok(join) => join,
            Err(error) if error.is_storage() => return Err(error.into()),
            Err(error) => {
                let mut declined = Declined::new(Cause::WelcomeUnreadable, error.to_string());
                // Against a Welcome that is malformed, or breaks our rules, another key package does not
                // help.
                declined.ask_again = matches!(error, GroupError::NoKeyPackage | GroupError::Invalid(_));
                return Ok(Err(declined));
            }
        };
        if let Err(declined) = fits(invitation, &join) {
            return Ok(Err(declined));
        }
        let by_last_resort = join.by_last_resort();
        let (epoch, place) = (join.epoch(), join.info().place.number);
        if by_last_resort && !self.is_first_time(&join.id(), &invitation.mailbox, epoch)? {
            return Ok(Err(Declined::new(Cause::BadInvitation, "an invitation that was followed before")));
        }
        join.finish()?;
        // It was one of those that the relay has left, if it was one-time.
        self.live.stock = self.live.stock.map(|stock| stock.saturating_sub(u32::from(!by_last_resort)));
        people::meet(self.tx, &invitation.inviter)?;
        let by = people::of_card(self.tx, &own, &invitation.inviter)?;
        let relay = self.known_address(&invitation.relay)?;
        let reading = self.reading_of(id, invitation, &relay, apart)?;
        let mut record =
            Conversation::new(invitation.group, &relay, invitation.mailbox, ConversationState::Active);
        (record.epoch, record.place) = (epoch, place);
        record.inviter = Some(by.clone());
        record.healing.followed = invitation.repaired_before(epoch).map(|repaired| (repaired, self.now));
        (record.came, record.leaf_since, record.leaf_seq) = (self.now, self.now, invitation.seq);
        // What was said before we came counts as neither got nor read by us, and is not ours to confirm.
        record.receipt_sent = Receipt { delivered: invitation.seq, read: invitation.seq };
        record.read = invitation.seq;
        let seq = invitation.seq;
        self.begin_talk(id, record, |talk| {
            talk.set_reading(reading);
            talk.note_members()?;
            talk.notice(Some(seq), Notice::Joined { by })?;
            talk.wish_to_update(if by_last_resort { 0 } else { UPDATE_WITHIN })?;
            talk.look_again();
            Ok(())
        })?;
        self.event(Event::Conversation { conversation: id });
        Ok(Ok(()))
    }

    /// A last-resort key package opens the same Welcome again, and a relay can deliver it again: whoever
    /// followed would speak with keys that served already (C1).
    fn is_first_time(&mut self, group: &GroupId, mailbox: &MailboxId, epoch: u64) -> Result<bool, Error> {
        let (tx, now) = (self.tx, self.now);
        // Somebody else's group may have the same id; it is read in another mailbox.
        let key = JOINED.hidden(tx, &[group.0, mailbox.0].concat());
        if JOINED.get(tx, &key)?.is_some_and(|known| known.epoch >= epoch) {
            return Ok(false);
        }
        for (key, known) in JOINED.all(tx)? {
            if known.at.saturating_add(JOINED_KEPT) < now {
                JOINED.remove(tx, &key)?;
            }
        }
        JOINED.put(tx, &key, &Joined { epoch, at: now })?;
        Ok(true)
    }

    pub(super) fn reading_of(
        &mut self,
        id: ConversationId,
        invitation: &Invitation,
        relay: &RelayAddress,
        apart: bool,
    ) -> Result<Reading, Error> {
        let read_key = ReadKey::random(self.rng);
        let mut reading =
            Reading::new(Purpose::Conversation(id), relay.url.as_str(), invitation.reader, &read_key)
                .invited(&invitation.read_key, invitation.seq, &invitation.chain);
        reading.apart = apart;
        reading::keep_chain(self.tx, &invitation.mailbox, invitation.seq, &invitation.chain)?;
        Ok(reading)
    }
}

/// Whether the group is the one that the invitation speaks of, and the inviter is in it.
pub(super) fn fits(invitation: &Invitation, join: &PendingJoin<'_>) -> Result<(), Declined> {
    let wrong = |text: &str| Err(Declined::new(Cause::BadInvitation, text));
    let inviter = invitation.inviter.identity();
    let own = join.members().iter().find(|member| member.leaf == join.own_leaf());
    let place = &join.info().place;
    if join.id() != invitation.group {
        wrong("the invitation names another group than its Welcome")
    } else if place.mailbox != invitation.mailbox || place.relay != invitation.relay {
        wrong("the invitation names another mailbox than the conversation's")
    } else if own.is_none_or(|own| own.reader != invitation.reader) {
        wrong("the invitation names another reader than ours")
    } else if join.inviter().is_none_or(|member| member.credential.identity() != inviter) {
        wrong("the inviter is not the member that made the Welcome")
    } else {
        Ok(())
    }
}
