//! The role of a store that keeps mailboxes.

use bytes::Bytes;
use posthorn_proto::{KeyHash, MailboxId};

use super::{
    Advance, Append, Later, NewMailbox, OpenReader, ReadRange, ReaderView, Spent, StoreError, Stored, Ticket,
};

/// Mailboxes: ordered logs of envelopes, their locks and their readers.
pub trait Mailboxes: Send + Sync + 'static {
    /// Whether [`Mailboxes::create`] would make this mailbox as things stand, whatever pays for it; `false`
    /// if it is there, as this would make it. Refuses with `MailboxExists`, `BadTurn` if a reader is named
    /// twice or there are too many, `Quota`, in this order. `true` promises nothing.
    fn may_create(&self, new: NewMailbox) -> Later<'_, bool, StoreError>;

    /// Creates a mailbox with what its token was spent as. The identical call again (readers in any order) is
    /// `Ok` while the mailbox is still as it was created: nothing posted, no key claimed. Refuses as
    /// [`Mailboxes::may_create`] does, and then with `TokenUnknown` if this pays for something else, has paid
    /// before, even for a mailbox that is gone, or was given back.
    ///
    /// See [`paying`](super::paying) for who calls this, and how it is kept by more than one machine.
    fn create(&self, new: NewMailbox, spent: Spent) -> Later<'_, (), StoreError>;

    /// Appends, and turns the lock if asked to, atomically; returns the seq, from 1 on, without holes. The
    /// order of the checks: post id (a repeat gets the old seq, rule 2; a different post under the same id
    /// `PostIdReused`; an unknown id that was not made in the last minutes `PostIdTime`), keys (`KeyTurned`),
    /// the turn (`BadTurn`), the mailbox's quota (`MailboxFull`, with a
    /// reserve for appends that carry a turn, rule 5: a tenth and at least 4 of the largest envelopes, but at
    /// most half), then the relay's (`Quota`).
    ///
    /// A repeat is recognised for [`post_id_seconds`](super::StorePolicy::post_id_seconds) after it was
    /// posted, and while the envelope is stored. The id `PostIdTime` refuses was not posted in that time, and
    /// never will be under this id.
    ///
    /// A post costs [`POST_OVERHEAD_BYTES`](posthorn_proto::limits::POST_OVERHEAD_BYTES) while it is held in
    /// memory, which is as long as it is stored and as its id may be that of a new post
    /// ([`fresh_seconds`](super::StorePolicy::fresh_seconds)), and, while it is stored, its envelope and its
    /// turn (64 bytes, 48 for each reader admitted, 16 for each evicted).
    ///
    /// A turn may admit only readers that are not there and evict only readers that are. Those admitted begin
    /// with this append as their cursor. Those evicted may read up to it, hold nothing back, and are gone
    /// once they have acknowledged it or it is no longer stored; of them only the newest 4,096 are kept.
    fn append(&self, append: Append) -> Later<'_, u64, StoreError>;

    /// The same without a task that waits: if there is room for it now, it is handed over in the order of the
    /// calls, and the ticket will be told. Else both come back, and the caller has to wait with
    /// [`Mailboxes::append`].
    fn append_soon(&self, append: Append, ticket: Ticket) -> Option<(Append, Ticket)> {
        Some((append, ticket))
    }

    /// The time by which post ids are judged, unix seconds. It never goes back, whatever the clock does.
    fn posts_time(&self) -> u64;

    /// Whether [`Mailboxes::open`] would be refused as things stand, with the same error; cheaper than asking
    /// that. `Ok` promises nothing.
    fn may_open(&self, open: OpenReader) -> Later<'_, (), StoreError>;

    /// Opens as a reader: checks the key (`ReaderUnknown`, `ReadKeyWrong`), makes a claim good, notes once a
    /// day that the mailbox was opened, and numbers the opening.
    fn open(&self, open: OpenReader) -> Later<'_, ReaderView, StoreError>;

    /// Reads stored envelopes in order of seq, from the later of `range.from` and the oldest stored. Needs no
    /// key: the caller holds an opening.
    fn read(&self, mailbox: MailboxId, range: ReadRange) -> Later<'_, Vec<Stored>, StoreError>;

    /// Moves a reader's cursor to `seq`, never back and never above the head (or, of an evicted reader, above
    /// the last seq that it may read). Once an opening has moved the cursor, every earlier opening is refused
    /// with `OpenedElsewhere` for good, whatever it asks for (rule 10). An opening that never moved it leaves
    /// no trace, because most do not: until it does, only the live side tells the former one.
    ///
    /// What all readers have acknowledged is trimmed. Nobody waits for evicted readers, nor for a reader that
    /// has missed something by expiry, until it has acknowledged up to the oldest stored again (R3). In a
    /// mailbox without readers nothing is trimmed but by expiry.
    fn advance(&self, to: Advance) -> Later<'_, (), StoreError>;

    /// The same for an acknowledgement that nobody waits for, and that promises nothing: within some two
    /// seconds it is what `advance` makes of it, the highest of the latest opening standing for those of one
    /// reader. At the latest it is before this reader opens the mailbox again and before the store is closed;
    /// a crash may undo it, and then the reader gets again what it had acknowledged.
    fn advance_soon(&self, to: Advance);

    /// Tells whoever has the mailbox open, if this is its current post key (`KeyTurned`). A signal is stored
    /// nowhere, and may be lost (rule 21). Returns how many openings on this relay it was forwarded to.
    fn signal(&self, mailbox: MailboxId, post_key: KeyHash, payload: Bytes) -> Later<'_, usize, StoreError>;

    /// Removes a mailbox, if this is the current turn key.
    fn destroy(&self, mailbox: MailboxId, turn_key: KeyHash) -> Later<'_, (), StoreError>;
}
