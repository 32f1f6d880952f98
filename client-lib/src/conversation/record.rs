//! The conversation's own row.

use posthorn_proto::{MailboxId, RelayIdentity};
use serde::{Deserialize, Serialize};

use super::healing::Healing;
use super::history::Marks;
use super::{Cause, ConversationId, GroupId};
use crate::content::{Author, Named, Receipt};
use crate::identity::{PersonId, RelayAddress};
use crate::store::record::Secret;
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<ConversationId, Conversation> = Table::new("conversation");
/// Places whose marks are kept.
const MARKS_KEPT: usize = 64;

/// Where a conversation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConversationState {
    /// Somebody invites us, and nothing was answered yet.
    Invited,
    /// Its mailbox is not yet made.
    Creating,
    /// Open for reading and writing.
    Active,
    /// We said that we leave, and wait to see that said.
    Leaving,
    /// We left.
    Left,
    /// A commit removed us.
    Removed,
    /// It cannot go on for now; everything that waits is kept.
    Suspended(Suspension),
}

/// Why a conversation cannot go on, and from where it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Why.
    pub cause: Cause,
    /// Unix milliseconds.
    pub since: u64,
    /// The last seq that was good.
    pub seq: u64,
    /// The chain there.
    pub chain: [u8; 32],
    /// We were about to leave.
    pub leaving: bool,
}

/// Somebody who said that they leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leaver {
    pub(crate) person: PersonId,
    pub(crate) leaf: u32,
    pub(crate) signature_key: [u8; 32],
    /// In which epoch they said so.
    pub(crate) epoch: u64,
    /// An MLS proposal of that epoch that proves it; may be empty.
    #[serde(with = "serde_bytes")]
    pub(crate) proposal: Vec<u8>,
}

/// What the engine knows of a conversation beside MLS's state. Written by `engine::talk` only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Conversation {
    pub(crate) state: ConversationState,
    /// The MLS group.
    pub(crate) group: GroupId,
    /// Its name, "" if it has none; a copy of what the group context says.
    pub(crate) name: String,
    /// Its relay.
    pub(crate) relay_url: String,
    /// Its relay's key.
    pub(crate) relay_identity: RelayIdentity,
    /// Its mailbox.
    pub(crate) mailbox: MailboxId,
    /// Which of its mailboxes that is, from 1 (rule 34).
    pub(crate) place: u32,
    /// The members, own included; a copy of what MLS says, that outlives it.
    pub(crate) members: Vec<Named>,
    /// Who invited us.
    pub(crate) inviter: Option<Named>,
    /// MLS epoch.
    pub(crate) epoch: u64,
    /// The epoch in which our keys may have served before, so that nothing is said in it.
    pub(crate) doubtful: Option<u64>,
    /// Since when this device takes part; unix milliseconds.
    #[serde(default)]
    pub(crate) came: u64,
    /// Since when our leaf has its keys, and when we updated it last (0 = never); unix milliseconds.
    pub(crate) leaf_since: u64,
    pub(crate) updated_at: u64,
    /// Who said that they leave and is still in.
    pub(crate) leaving: Vec<Leaver>,
    /// What every other member has got and read at least, in this place.
    pub(crate) everyone: Receipt,
    /// The parcel of our commit that is on its way.
    pub(crate) commit_row: Option<i64>,
    /// The token that the mailbox's creation is paid with, while it is being created.
    pub(crate) token: Option<Secret>,
    /// The receipt that we sent last.
    pub(crate) receipt_sent: Receipt,
    /// Read up to this seq by our user, in this place.
    pub(crate) read: u64,
    /// Unix milliseconds at which a receipt of its own is due; 0 = none is.
    pub(crate) receipt_due: u64,
    /// Alarms raised: the day, and how many on it.
    pub(crate) alarms: (u64, u32),
    /// Moves that were followed: the day, and how many on it.
    #[serde(default)]
    pub(crate) moves: (u64, u32),
    /// What is done about it where it cannot go on.
    #[serde(default)]
    pub(crate) healing: Healing,
    /// Where our leaf got its keys: the seq, in this place.
    #[serde(default)]
    pub(crate) leaf_seq: u64,
    /// Our user has put it away.
    #[serde(default)]
    pub(crate) archived: bool,
    /// Who was taken out because they had asked to be taken back in, and is not in again yet.
    #[serde(default)]
    pub(crate) away: Vec<Away>,
    /// Devices that were taken out lately, at which place number and seq, and when, unix milliseconds.
    #[serde(default)]
    pub(crate) out: Vec<(Author, (u32, u64), u64)>,
    /// What every other member had got and read in earlier places, the latest of them.
    #[serde(default)]
    pub(crate) earlier: Vec<(u32, Receipt)>,
}

/// Whoever is not in again within this time was removed, milliseconds.
pub(crate) const BACK_WITHIN: u64 = 10 * 60_000;

/// Somebody who was taken out and is about to come in again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Away {
    pub(crate) who: Named,
    /// Who took them out.
    pub(crate) by: Named,
    /// Place number and seq.
    pub(crate) place: (u32, u64),
    /// Unix milliseconds.
    pub(crate) since: u64,
}

impl ConversationState {
    /// Whether it is over for us, so that nothing of it is kept but its history.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Left | Self::Removed)
    }

    /// Whether it takes messages, at once or later.
    pub fn takes_messages(&self) -> bool {
        matches!(self, Self::Active | Self::Creating | Self::Suspended(_))
    }

    /// Why it takes nothing, in words.
    pub fn in_words(&self) -> String {
        match self {
            Self::Invited => "you are invited: accept the invitation first".to_owned(),
            Self::Creating => "it is being made".to_owned(),
            Self::Active => "it is open".to_owned(),
            Self::Leaving | Self::Left => "you left".to_owned(),
            Self::Removed => "you were removed".to_owned(),
            Self::Suspended(suspension) => match suspension.cause.what_is_done() {
                "" => format!("it is suspended ({})", suspension.cause),
                done => format!("it is suspended ({}); {done}", suspension.cause),
            },
        }
    }
}

/// Whether whoever was taken out then is out for good. Of a clock that was put back since it is not waited
/// for that it comes there again.
pub(crate) fn is_out_for_good(since: u64, now: u64) -> bool {
    since > now || now - since >= BACK_WITHIN
}

impl Conversation {
    /// An invitation leads there.
    pub(crate) fn leads_to(&mut self, relay: &RelayAddress, mailbox: MailboxId) {
        relay.url.as_str().clone_into(&mut self.relay_url);
        (self.relay_identity, self.mailbox) = (relay.identity, mailbox);
    }

    /// Whether somebody is a member, or about to be one again.
    pub(crate) fn has(&self, person: &PersonId, now: u64) -> bool {
        let mut away = self.away.iter().filter(|away| !is_out_for_good(away.since, now));
        self.members.iter().any(|member| member.person == *person)
            || away.any(|away| away.who.person == *person)
    }

    /// A conversation at a place, about which nothing else is known yet.
    pub(crate) fn new(
        group: GroupId,
        relay: &RelayAddress,
        mailbox: MailboxId,
        state: ConversationState,
    ) -> Self {
        Self {
            state,
            group,
            name: String::new(),
            relay_url: relay.url.as_str().to_owned(),
            relay_identity: relay.identity,
            mailbox,
            place: 1,
            members: Vec::new(),
            inviter: None,
            epoch: 0,
            doubtful: None,
            came: 0,
            leaf_since: 0,
            leaf_seq: 0,
            updated_at: 0,
            leaving: Vec::new(),
            everyone: Receipt::default(),
            commit_row: None,
            token: None,
            receipt_sent: Receipt::default(),
            read: 0,
            receipt_due: 0,
            alarms: (0, 0),
            moves: (0, 0),
            archived: false,
            healing: Healing::default(),
            away: Vec::new(),
            out: Vec::new(),
            earlier: Vec::new(),
        }
    }

    /// See [`ConversationState::has_ended`].
    pub(crate) fn has_ended(&self) -> bool {
        self.state.has_ended()
    }

    /// Whether this device takes part in it.
    pub(crate) fn is_read(&self) -> bool {
        !self.has_ended() && self.state != ConversationState::Invited
    }

    /// Whether it cannot go on for now.
    pub(crate) fn is_suspended(&self) -> bool {
        matches!(self.state, ConversationState::Suspended(_))
    }

    /// Whether we are about to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        match &self.state {
            ConversationState::Leaving => true,
            ConversationState::Suspended(suspension) => suspension.leaving,
            _ => false,
        }
    }

    /// Since when it is where it is at the latest, as far as this device knows, unix milliseconds.
    pub(crate) fn here_since(&self) -> u64 {
        let repaired = self.healing.followed.map_or(0, |(_, at)| at);
        // The day is known, so it was by the end of that.
        let moved = if self.moves.1 > 0 { (self.moves.0 + 1) * 24 * 3600 * 1000 } else { 0 };
        self.came.max(repaired).max(moved)
    }

    /// Whether it moved to a relay that this device does not use, and the person was not asked yet.
    pub(crate) fn awaits_consent(&self) -> bool {
        matches!(&self.state, ConversationState::Suspended(why) if why.cause == Cause::ForeignRelay)
    }

    /// The relay, if [`Self::awaits_consent`].
    pub(crate) fn moved_away(&self) -> Option<String> {
        self.awaits_consent().then(|| self.relay_url.clone())
    }

    /// Whether it is an invitation by this person that waits.
    pub(crate) fn is_invited_by(&self, person: &PersonId) -> bool {
        self.state == ConversationState::Invited
            && self.inviter.as_ref().is_some_and(|by| by.person == *person)
    }

    /// By what the marks of entries are computed.
    pub(crate) fn marks(&self) -> Marks {
        Marks { place: self.place, everyone: self.everyone, earlier: self.earlier.clone() }
    }

    /// It goes on in another place: what others have got in this one stays known.
    pub(crate) fn keep_marks(&mut self) {
        let (place, everyone) = (self.place, self.everyone);
        self.earlier.retain(|(earlier, _)| *earlier != place);
        self.earlier.push((place, everyone));
        let more = self.earlier.len().saturating_sub(MARKS_KEPT);
        self.earlier.drain(..more);
    }

    pub(crate) fn load(tx: &Transaction<'_>, id: &ConversationId) -> Result<Option<Self>, StoreError> {
        TABLE.get(tx, id)
    }

    /// Every conversation, in order of id.
    pub(crate) fn all(tx: &Transaction<'_>) -> Result<Vec<(ConversationId, Self)>, StoreError> {
        TABLE.all(tx)
    }

    /// Their ids.
    pub(crate) fn ids(tx: &Transaction<'_>) -> Result<Vec<ConversationId>, StoreError> {
        TABLE.keys(tx)
    }

    pub(crate) fn save(&self, tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
        TABLE.put(tx, id, self)
    }

    pub(super) fn delete(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
        TABLE.remove(tx, id).map(drop)
    }
}
