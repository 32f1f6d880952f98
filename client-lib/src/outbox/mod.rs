//! The outbox: what has to reach a mailbox, kept until it was read back there (C2).
//!
//! A parcel is sealed at most once per epoch and its bytes are kept before they are posted, so that after any
//! crash the identical post goes out again under the same post id (rule 3).

use posthorn_proto::frame::Create;
use posthorn_proto::{DeviceId, KeyHash, MailboxId, PostId, PostKey, Reader, ReaderId, Token, Turn, TurnKey};
use serde::{Deserialize, Serialize};

use crate::content::{Named, Said};
use crate::conversation::{ConversationId, MessageId};
use crate::identity::PersonId;
use crate::store::table::Queue;
use crate::store::{StoreError, Transaction, record};

const TABLE: Queue<MailboxId, Parcel> = Queue::new("outbox");
/// How many parcels for a mailbox may wait to be read back before the next is posted.
pub(crate) const UNREAD_PARCELS: usize = 64;

/// Something on its way to a mailbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Parcel {
    /// A message to a conversation.
    Message {
        /// Kept across re-encryption.
        message: MessageId,
        /// Unix milliseconds.
        sent_at: u64,
        /// What is said.
        said: Said,
        /// Its encryption under one epoch; made when its turn comes.
        sealed: Option<SealedPost>,
    },
    /// A commit with its turn.
    Commit {
        /// The intent that it makes true.
        intent: i64,
        /// The commit, sealed under the epoch that it ends.
        sealed: SealedPost,
        /// The turn and the key that permits it.
        turn: SealedTurn,
        /// MLS Welcome for those who are added.
        welcome: Option<Vec<u8>>,
        /// Who is to be invited once the commit was read back.
        invitees: Vec<Invitee>,
        /// Who comes in and who goes, for the notice.
        added: Vec<Named>,
        removed: Vec<Named>,
        /// The mailbox that it moves the conversation to, which has to be there before it is posted.
        #[serde(default)]
        place: Option<Box<NewMailbox>>,
    },
    /// A commit that moves the conversation and goes to inboxes, because its mailbox is no place to go on in:
    /// once the new one is there.
    Repair {
        /// As MLS has it.
        #[serde(with = "serde_bytes")]
        commit: Vec<u8>,
        /// The new mailbox.
        place: Box<NewMailbox>,
    },
    /// Something sealed to an inbox.
    Inbox {
        /// The relay's URL.
        relay: String,
        /// The post.
        sealed: SealedPost,
        /// What it is for.
        errand: Errand,
    },
}

/// Something that has to reach a device's inbox: an obligation with an end, for who is a member and was never
/// invited keeps a place in the tree that nobody lives in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Errand {
    /// The conversation that it invites to.
    pub(crate) conversation: Option<ConversationId>,
    pub(crate) person: PersonId,
    pub(crate) device: DeviceId,
    /// Since when it is tried, unix milliseconds.
    pub(crate) since: u64,
    /// How many inboxes refused it.
    pub(crate) tries: u32,
    /// What is sealed, to be sealed anew for another inbox.
    #[serde(with = "serde_bytes")]
    pub(crate) data: Vec<u8>,
}

/// A post as it goes over the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SealedPost {
    pub(crate) post: PostId,
    pub(crate) post_key: record::Secret,
    #[serde(with = "serde_bytes")]
    pub(crate) envelope: Vec<u8>,
    /// The epoch under which it was sealed; 0 for inboxes.
    pub(crate) epoch: u64,
    /// The seq that the relay answered.
    pub(crate) posted: Option<u64>,
}

/// A turn as a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SealedTurn {
    turn_key: record::Secret,
    next_post: KeyHash,
    next_turn: KeyHash,
    admit: Vec<(ReaderId, KeyHash)>,
    evict: Vec<ReaderId>,
}

/// A mailbox that is made for a commit which moves the conversation there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewMailbox {
    pub(crate) mailbox: MailboxId,
    post: KeyHash,
    /// By which it is destroyed again if the commit loses its race.
    turn: record::Secret,
    readers: Vec<(ReaderId, KeyHash)>,
    /// The token that its creation is paid with, once it was tried; the same again after a crash.
    pub(crate) token: Option<record::Secret>,
    /// The relay has it.
    pub(crate) is_made: bool,
}

/// Somebody whom a commit adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invitee {
    pub(crate) device: DeviceId,
    pub(crate) identity: [u8; 32],
    /// `InboxAddress`, encoded.
    #[serde(with = "serde_bytes")]
    pub(crate) inbox: Vec<u8>,
    pub(crate) reader: ReaderId,
    /// The one-time key of the invitation.
    pub(crate) read_key: record::Secret,
}

impl SealedPost {
    pub(crate) fn new(post: PostId, post_key: &PostKey, envelope: Vec<u8>, epoch: u64) -> Self {
        Self { post, post_key: record::Secret(*post_key.expose()), envelope, epoch, posted: None }
    }
}

impl SealedTurn {
    pub(crate) fn new(turn_key: &TurnKey, turn: &Turn) -> Self {
        Self {
            turn_key: record::Secret(*turn_key.expose()),
            next_post: turn.post_key_hash,
            next_turn: turn.turn_key_hash,
            admit: turn.admit.iter().map(|reader| (reader.id, reader.key_hash)).collect(),
            evict: turn.evict.clone(),
        }
    }

    pub(crate) fn key(&self) -> TurnKey {
        TurnKey::from_bytes(self.turn_key.0)
    }

    pub(crate) fn turn(&self) -> Turn {
        Turn {
            post_key_hash: self.next_post,
            turn_key_hash: self.next_turn,
            admit: self.admit.iter().map(|(id, key_hash)| Reader { id: *id, key_hash: *key_hash }).collect(),
            evict: self.evict.clone(),
        }
    }
}

impl NewMailbox {
    pub(crate) fn new(mailbox: MailboxId, post: &PostKey, turn: &TurnKey, readers: &[Reader]) -> Self {
        Self {
            mailbox,
            post: post.hash(),
            turn: record::Secret(*turn.expose()),
            readers: readers.iter().map(|reader| (reader.id, reader.key_hash)).collect(),
            token: None,
            is_made: false,
        }
    }

    pub(crate) fn turn_key(&self) -> TurnKey {
        TurnKey::from_bytes(self.turn.0)
    }

    /// The request that makes it, once there is a token.
    pub(crate) fn creation(&self, expiry: u32) -> Option<Create> {
        Some(Create {
            mailbox: self.mailbox,
            token: Token::from_bytes(self.token.as_ref()?.0),
            post_key_hash: self.post,
            turn_key_hash: self.turn_key().hash(),
            readers: self
                .readers
                .iter()
                .map(|(id, key_hash)| Reader { id: *id, key_hash: *key_hash })
                .collect(),
            expiry,
            quota: 0,
        })
    }
}

impl Parcel {
    /// By which it is found when it is read back.
    fn label(&self) -> Option<&[u8]> {
        self.sealed().map(|sealed| &sealed.post.0[..])
    }

    /// The post's bytes, if there are any yet.
    pub(crate) fn sealed(&self) -> Option<&SealedPost> {
        match self {
            Self::Message { sealed, .. } => sealed.as_ref(),
            Self::Repair { .. } => None,
            Self::Commit { sealed, .. } | Self::Inbox { sealed, .. } => Some(sealed),
        }
    }

    /// The mailbox that has to be made for it, to be changed.
    pub(crate) fn place_mut(&mut self) -> Option<&mut NewMailbox> {
        match self {
            Self::Commit { place, .. } => place.as_deref_mut(),
            Self::Repair { place, .. } => Some(place),
            Self::Message { .. } | Self::Inbox { .. } => None,
        }
    }

    /// [`Self::sealed`], to be changed.
    pub(crate) fn sealed_mut(&mut self) -> Option<&mut SealedPost> {
        match self {
            Self::Message { sealed, .. } => sealed.as_mut(),
            Self::Repair { .. } => None,
            Self::Commit { sealed, .. } | Self::Inbox { sealed, .. } => Some(sealed),
        }
    }
}

/// Keeps a parcel; returns its row.
pub(crate) fn put(tx: &Transaction<'_>, mailbox: &MailboxId, parcel: &Parcel) -> Result<i64, StoreError> {
    TABLE.put(tx, mailbox, parcel.label(), parcel)
}

/// Replaces a parcel.
pub(crate) fn update(tx: &Transaction<'_>, row: i64, parcel: &Parcel) -> Result<(), StoreError> {
    TABLE.update(tx, row, parcel.label(), parcel)
}

/// Forgets what the relay answered about parcels for a mailbox whose seqs are like this: they will be posted
/// again, the identical bytes.
pub(crate) fn unpost(
    tx: &Transaction<'_>,
    mailbox: &MailboxId,
    like: impl Fn(u64) -> bool,
) -> Result<(), StoreError> {
    for (row, mut parcel) in oldest(tx, mailbox, UNREAD_PARCELS)? {
        if let Some(sealed) = parcel.sealed_mut()
            && sealed.posted.is_some_and(&like)
        {
            sealed.posted = None;
            update(tx, row, &parcel)?;
        }
    }
    Ok(())
}

/// What is to be said in one mailbox is to be said in another now, and sealed anew for it.
pub(crate) fn readdress(tx: &Transaction<'_>, from: &MailboxId, to: &MailboxId) -> Result<(), StoreError> {
    for (row, parcel) in all(tx, from)? {
        if let Parcel::Message { message, sent_at, said, .. } = parcel {
            put(tx, to, &Parcel::Message { message, sent_at, said, sealed: None })?;
        }
        remove(tx, row)?;
    }
    Ok(())
}

/// Forgets a parcel.
pub(crate) fn remove(tx: &Transaction<'_>, row: i64) -> Result<(), StoreError> {
    TABLE.remove(tx, row)
}

/// Forgets all parcels for a mailbox.
pub(crate) fn remove_all(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<(), StoreError> {
    TABLE.remove_all(tx, mailbox)
}

/// One parcel.
pub(crate) fn get(tx: &Transaction<'_>, row: i64) -> Result<Option<Parcel>, StoreError> {
    TABLE.get(tx, row)
}

/// The parcel that was posted to `mailbox` under this post id.
pub(crate) fn by_post(
    tx: &Transaction<'_>,
    mailbox: &MailboxId,
    post: &PostId,
) -> Result<Option<(i64, Parcel)>, StoreError> {
    TABLE.find(tx, mailbox, &post.0)
}

/// The oldest parcels for a mailbox.
pub(crate) fn oldest(
    tx: &Transaction<'_>,
    mailbox: &MailboxId,
    limit: usize,
) -> Result<Vec<(i64, Parcel)>, StoreError> {
    TABLE.oldest(tx, mailbox, limit)
}

/// All parcels for a mailbox.
pub(crate) fn all(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<Vec<(i64, Parcel)>, StoreError> {
    TABLE.oldest(tx, mailbox, usize::MAX)
}

/// How many parcels wait for a mailbox.
pub(crate) fn count(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<u64, StoreError> {
    TABLE.count(tx, mailbox)
}

/// How many parcels wait for inboxes at relays like this.
pub(crate) fn count_in_inboxes(tx: &Transaction<'_>, like: impl Fn(&str) -> bool) -> Result<u64, StoreError> {
    let is_there = |parcel: &Parcel| matches!(parcel, Parcel::Inbox { relay, .. } if like(relay));
    let there = inbox_parcels(tx)?.into_iter().filter(|(_, _, parcel)| is_there(parcel));
    there.map(|(_, mailbox, _)| count(tx, &mailbox)).sum()
}

/// The oldest parcel for each inbox.
pub(crate) fn inbox_parcels(tx: &Transaction<'_>) -> Result<Vec<(i64, MailboxId, Parcel)>, StoreError> {
    let mut parcels = Vec::new();
    for mailbox in TABLE.owners(tx)? {
        let oldest = TABLE.oldest(tx, &mailbox, 1)?.pop();
        parcels.extend(
            oldest
                .filter(|(_, parcel)| matches!(parcel, Parcel::Inbox { .. }))
                .map(|(row, parcel)| (row, mailbox, parcel)),
        );
    }
    Ok(parcels)
}
