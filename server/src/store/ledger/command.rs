//! What can be asked of a [`Ledger`](super::Ledger), and what it answers.

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId, PostId};

use super::Record;
use crate::mailbox::change::ShortFingerprint;
use crate::store::{
    Advance, Append, BlobView, KeyPackageStock, NewAccount, NewBlob, NewInvite, NewMailbox, OpenReader,
    OpeningNumber, ReaderView, Spent, SpentOn,
};

/// A request that may change something. Each is a method of a [`Store`](crate::store::Store), where it is
/// documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Create(NewMailbox, Spent),
    Append(Append),
    Open(OpenReader),
    Advance(Advance),
    Destroy {
        mailbox: MailboxId,
        turn_key: KeyHash,
    },
    Expire,
    /// These posts can be recognised without the ledger: it forgets them, and notes how far they have gone.
    Forget {
        posts: Vec<Forget>,
        passed: Passed,
    },
    ConfirmClock,
    MintInvite(NewInvite),
    Register(NewAccount),
    RemoveAccount(Handle),
    PublishCard {
        device: DeviceId,
        version: u64,
        card: Bytes,
    },
    PublishKeyPackages {
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    },
    TakeKeyPackages(Handle),
    DrawTokens {
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    },
    Spend {
        token: KeyHash,
        on: SpentOn,
    },
    GiveBack(Spent),
    CreateBlob(NewBlob, Spent),
    ExtendBlob {
        blob: BlobId,
        holder: KeyHash,
        seconds: u32,
    },
    DeleteBlob {
        blob: BlobId,
        holder: KeyHash,
    },
    /// The store was restored from a backup. One-time key packages are discarded, because some may have been
    /// given out since (R10).
    Restored,
}

/// What a command comes to: the answer, and the records that must be durable, all or none of them, before it
/// is given. It may be thrown away and made again, here or by another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision<L> {
    pub(crate) outcome: Outcome<L>,
    pub(crate) records: Vec<Record>,
    pub(crate) unrecorded: Unrecorded,
}

/// What carrying out a decision changes beside its records, in memory only. It is lost with the process, and
/// nothing that was promised depends on it. See [`Ledger::carried_out`](super::Ledger::carried_out).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unrecorded {
    Nothing,
    /// The device drew so many new tokens on this day. On disk the count would link it to their hashes.
    Drew {
        device: DeviceId,
        purpose: TokenPurpose,
        day: u32,
        fresh: u32,
    },
    /// This number was given to an opening. Most openings come and go without a record.
    Opened(OpeningNumber),
    /// These mailboxes were looked at for expiry at this time of the clock of post ids, unix seconds, and had
    /// nothing to drop.
    Idle {
        mailboxes: Vec<MailboxId>,
        now: u64,
    },
}

/// The answer to a command, by the command that gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome<L> {
    /// To commands whose answer says nothing.
    Done,
    /// To `Append`: the seq.
    Posted(u64),
    /// To `Open`.
    Opened(ReaderView),
    /// To `PublishKeyPackages`.
    Stock(KeyPackageStock),
    /// To `TakeKeyPackages`.
    Taken(Vec<Taken<L>>),
    /// To `DrawTokens`: how many hashes were accepted, from the front.
    Drawn(u32),
    /// To `Spend`.
    Spent(Spent),
    /// To `CreateBlob` and `ExtendBlob`.
    Blob(BlobView),
    /// To `Expire`, which does a bounded amount of work; with `more` it must be asked again. The ledger would
    /// forget the posts of the `past`, in order of seq for each mailbox.
    Expired { more: bool, past: Vec<Past> },
}

/// What an outcome says, for whoever gave the command that is answered so.
macro_rules! answers {
    ($($answer:ident: $kind:ident($said:ty);)*) => {
        impl<L> Outcome<L> {
            $(pub(crate) fn $answer(self) -> $said {
                match self {
                    Self::$kind(said) => said,
                    _ => unreachable!(concat!("the command is answered with ", stringify!($kind))),
                }
            })*
        }
    };
}

answers! {
    posted: Posted(u64);
    opened: Opened(ReaderView);
    stock: Stock(KeyPackageStock);
    taken: Taken(Vec<Taken<L>>);
    drawn: Drawn(u32);
    spent: Spent(Spent);
    blob: Blob(BlobView);
}

/// A post that is trimmed, and whose id is no longer that of a new post: its repeats are answered without the
/// ledger from now on (rule 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) mailbox: MailboxId,
    /// The life of the mailbox in which it was posted.
    pub(crate) life: u64,
    pub(crate) seq: u64,
    pub(crate) post_id: PostId,
    pub(crate) fingerprint: ShortFingerprint,
}

/// How far posts have left the ledger. It becomes durable together with the forgetting, and after what it
/// says: so what is missing of it was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Passed {
    /// The newest time, unix seconds, in an id that was old when its post left. An id from then or before is
    /// that of no new post, whatever the policy is by now.
    pub(crate) made: u64,
    /// When posts left last, by the clock of post ids, unix seconds.
    pub(crate) at: u64,
    /// Since when posts that have left are recognised, by that clock, unix seconds; 0 = since ever.
    pub(crate) since: u64,
    /// Where they are kept in numbered parts: from which on all are there, the one that is being filled, and
    /// how many posts are in that.
    pub(crate) first: u64,
    pub(crate) number: u64,
    pub(crate) entries: u64,
}

/// The posts of a mailbox up to this seq are to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forget {
    pub(crate) mailbox: MailboxId,
    pub(crate) life: u64,
    pub(crate) to: u64,
}

impl Forget {
    /// All of these.
    pub(crate) fn all(past: &[Past]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for Past { mailbox, life, seq, .. } in past {
            match all.last_mut() {
                Some(last) if (last.mailbox, last.life) == (*mailbox, *life) => last.to = *seq,
                _ => all.push(Self { mailbox: *mailbox, life: *life, to: *seq }),
            }
        }
        all
    }
}

/// A key package to hand out. Its bytes must be read before its place can be reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken<L> {
    pub(crate) device: DeviceId,
    pub(crate) last_resort: bool,
    pub(crate) place: L,
}

/// A stored envelope, by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held<L> {
    pub(crate) seq: u64,
    pub(crate) post_id: PostId,
    /// Size of envelope and turn, bytes.
    pub(crate) bytes: u32,
    pub(crate) place: L,
}

/// An account's card, by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldCard<L> {
    pub(crate) identity_key: [u8; 32],
    /// 0 = none is published.
    pub(crate) version: u64,
    pub(crate) place: Option<L>,
}
