//! Entries: what a person sees of a conversation.

use serde::{Deserialize, Serialize};

use super::{Cause, ConversationId, MessageId};
use crate::content::{Author, Change, Kind, Named, Target};

/// One entry of a conversation's history, with everything that was said about it since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// Its name in the local history, for paging; never reused, and no order.
    pub row: u64,
    /// Its name in the conversation, together with its author.
    pub id: MessageId,
    /// Where.
    pub conversation: ConversationId,
    /// Who said it; nobody did where it only tells what happened.
    #[serde(flatten)]
    pub author: Option<Author>,
    /// What they were called when it came.
    pub handle: String,
    /// Whether this account said it.
    pub mine: bool,
    /// What it shows.
    #[serde(flatten)]
    pub body: Body,
    /// Unix milliseconds by the sender's clock.
    pub sent_at: u64,
    /// How far it got.
    pub state: EntryState,
    /// Which mailbox of the conversation it stands in, 1 for the first; none while it is queued.
    pub place: Option<u32>,
    /// Its seq there.
    pub seq: Option<u64>,
    /// What was said about it and is shown beside it, in the order of the mailbox.
    pub changes: Vec<Change>,
}

/// What an entry shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Body {
    /// Something that somebody said.
    Said(Kind),
    /// Something happened to the conversation.
    Notice(Notice),
    /// Envelopes came that cannot be shown.
    Unreadable(Unreadable),
}

/// A run of envelopes that cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Why the first of them cannot.
    pub cause: Cause,
    /// How many.
    pub count: u64,
    /// Seq of the last.
    pub to: u64,
}

/// What can happen to a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Notice {
    /// Somebody invites us.
    Invited {
        /// Who.
        by: Named,
    },
    /// We came in.
    Joined {
        /// By whose invitation.
        by: Named,
    },
    /// Somebody added somebody.
    Added {
        /// Who.
        by: Named,
        /// Whom.
        who: Vec<Named>,
    },
    /// Somebody removed somebody.
    Removed {
        /// Who.
        by: Named,
        /// Whom.
        who: Vec<Named>,
    },
    /// Somebody said that they leave.
    Left {
        /// Who.
        who: Named,
    },
    /// This device had lost the thread, and was taken back in.
    Returned {
        /// By whom.
        by: Named,
    },
    /// Somebody moved the conversation to another mailbox.
    Moved {
        /// Who.
        by: Named,
        /// The URL of the relay that it is on now.
        relay: String,
    },
    /// It could not go on where it was, and somebody has repaired it: it goes on in another mailbox.
    Repaired {
        /// Who.
        by: Named,
        /// The URL of the relay that it is on now.
        relay: String,
    },
    /// Devices of others had lost the thread, and were taken back in.
    Back {
        /// Whose.
        who: Vec<Named>,
    },
}

/// How far an entry got (C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntryState {
    /// In our outbox.
    Queued,
    /// On the relay's stable storage.
    Sent,
    /// Every other member's device has it.
    Delivered,
    /// Every other member has seen it.
    Read,
    /// It came from somebody else.
    Received,
    /// It will not be sent.
    Failed(Cause),
}

impl Entry {
    /// What a change of this entry names; none where nobody said it.
    pub fn target(&self) -> Option<Target> {
        self.author.map(|author| Target { person: author.person, message: self.id })
    }

    /// What it says, if somebody said it.
    pub fn said(&self) -> Option<&Kind> {
        match &self.body {
            Body::Said(kind) => Some(kind),
            Body::Notice(_) | Body::Unreadable(_) => None,
        }
    }

    /// Its words, if it is a text.
    pub fn text(&self) -> Option<&str> {
        match self.said() {
            Some(Kind::Text(text)) => Some(&text.text),
            _ => None,
        }
    }

    /// The reactions to it: who, and the sign; one a person at most.
    pub fn reactions(&self) -> impl Iterator<Item = (&Change, &str)> {
        self.changes.iter().filter_map(|change| match &change.said {
            Kind::Reaction(reaction) => Some((change, reaction.emoji.as_str())),
            _ => None,
        })
    }
}
