//! One opening: a reader's place in a mailbox on one connection.
//!
//! Owns everything that decides whether an envelope may be sent now: the next seq, credit, eviction, the end
//! of the opening. Never waits, never reads the store, and is never locked while anything waits.

use std::sync::Arc;

use parking_lot::Mutex;
use posthorn_proto::frame::{Delivery, Refusal, ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, MailboxId, ReaderId};

use crate::outbox::{Answered, Delivered, Message, Outbox};
use crate::store::{Advance, OpeningNumber, ReadRange, ReaderView, Standing, StoreError, Stored};

/// A reader's place in a mailbox on one connection.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) mailbox: MailboxId,
    pub(crate) reader: ReaderId,
    outbox: Arc<Outbox>,
    /// Locked alone or under the hub's shard lock; the outbox may be locked while this is held.
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    phase: Phase,
    /// The number that the store gave to this opening.
    number: OpeningNumber,
    /// The next seq to deliver: everything below was delivered, or is not owed.
    next: u64,
    /// The newest durable seq that we know of.
    head: u64,
    /// The last seq that an evicted reader may read.
    until: Option<u64>,
    /// How many more envelopes the client wants.
    credit: u64,
    /// Whether it is on the outbox's list of openings that are behind.
    queued: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The store has not said yet whether the key fits; the opening only listens.
    Asked,
    /// The key fits: this opening owns the reader. Nothing is delivered before the answer is on its way.
    Owner,
    /// Envelopes are being delivered.
    Live,
    /// Over, for this reason. `Closed` is sent by whoever ends a live opening.
    Ended(ErrorCode),
}

/// An append and its encoding, which all openings share; it is encoded when the first of them needs it.
pub(crate) struct Shared<'a> {
    mailbox: &'a MailboxId,
    pub(crate) stored: &'a Stored,
    encoded: Option<Message>,
}

impl<'a> Shared<'a> {
    pub(crate) fn new(mailbox: &'a MailboxId, stored: &'a Stored) -> Self {
        Self { mailbox, stored, encoded: None }
    }

    fn message(&mut self) -> &Message {
        self.encoded.get_or_insert_with(|| encode(self.mailbox, self.stored))
    }

    fn evicts(&self, reader: &ReaderId) -> bool {
        self.stored.turn.as_ref().is_some_and(|turn| turn.evict.contains(reader))
    }
}

fn encode(mailbox: &MailboxId, stored: &Stored) -> Message {
    let delivery = Delivery {
        mailbox: *mailbox,
        seq: stored.seq,
        post_id: stored.post_id,
        envelope: stored.envelope.clone(),
        turn: stored.turn.as_deref().cloned(),
    };
    match delivery.head() {
        Some(head) => Message::split(head, delivery.envelope),
        None => ServerFrame::push(ServerBody::Delivery(delivery)).encode().into(),
    }
}

impl Opening {
    pub(crate) fn new(mailbox: MailboxId, reader: ReaderId, outbox: Arc<Outbox>, credit: u32) -> Self {
        let progress = Progress {
            phase: Phase::Asked,
            number: OpeningNumber::default(),
            next: 0,
            head: 0,
            until: None,
            credit: credit.into(),
            queued: false,
        };
        Self { mailbox, reader, outbox, progress: Mutex::new(progress) }
    }

    /// Whether both belong to the same connection.
    pub(crate) fn same_connection(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.outbox, &other.outbox)
    }

    /// Where it delivers to.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether this opening owns its reader (rule 10).
    pub(crate) fn owns(&self) -> bool {
        matches!(self.progress.lock().phase, Phase::Owner | Phase::Live)
    }

    /// Why the opening is over, if it is.
    pub(crate) fn ended(&self) -> Option<ErrorCode> {
        match self.progress.lock().phase {
            Phase::Ended(code) => Some(code),
            _ => None,
        }
    }

    /// The store accepted the key. Returns `false` if the opening has ended in the meantime.
    pub(crate) fn own(&self) -> bool {
        let mut progress = self.progress.lock();
        if progress.phase == Phase::Asked {
            progress.phase = Phase::Owner;
        }
        progress.phase == Phase::Owner
    }

    /// The answer is in the outbox, so deliver from now on. If the opening was ended in between, its client
    /// is told.
    pub(crate) fn begin(&self, view: &ReaderView, _: &Answered) {
        let mut progress = self.progress.lock();
        match progress.phase {
            Phase::Owner => {}
            Phase::Ended(code) => return self.tell_closed(code),
            Phase::Asked | Phase::Live => return,
        }
        progress.phase = Phase::Live;
        progress.number = view.opening;
        progress.next = (view.cursor + 1).max(view.oldest);
        progress.head = progress.head.max(view.head);
        // An eviction that the hub reported is newer than the view only if its append is.
        progress.until = match progress.until {
            Some(heard) if heard > view.head => Some(heard),
            _ => view.until,
        };
        self.settle(&mut progress);
    }

    /// An append became durable. Called in order of seq. Returns the outbox to wake for it, if any.
    pub(crate) fn appended(&self, shared: &mut Shared<'_>) -> Option<&Arc<Outbox>> {
        let seq = shared.stored.seq;
        let mut progress = self.progress.lock();
        progress.head = progress.head.max(seq);
        if progress.phase != Phase::Live {
            if shared.evicts(&self.reader) {
                progress.until = Some(seq);
            }
            return None;
        }
        if progress.until.is_none() && shared.evicts(&self.reader) {
            progress.until = Some(seq);
        }
        let next =
            progress.next == seq && progress.credit > 0 && progress.until.is_none_or(|until| seq <= until);
        let delivered = if next { self.outbox.deliver(shared.message()) } else { Delivered::Refused };
        if delivered != Delivered::Refused {
            progress.next += 1;
            progress.credit -= 1;
        }
        self.settle(&mut progress);
        (delivered == Delivered::First).then_some(&self.outbox)
    }

    /// Appends may have gone by that nobody told us of; this is how the reader stands now. What it is owed,
    /// it is sent from the store.
    pub(crate) fn resynced(&self, standing: Result<Standing, StoreError>) {
        let mut progress = self.progress.lock();
        match standing {
            // Whoever still asks is answered by the store.
            Err(_) if progress.phase == Phase::Asked => {}
            Err(error) => return self.over(&mut progress, error.code(), false),
            Ok(standing) if progress.phase == Phase::Live && standing.opening > progress.number => {
                return self.over(&mut progress, ErrorCode::OpenedElsewhere, false);
            }
            Ok(standing) => {
                progress.head = progress.head.max(standing.head);
                progress.until = standing.until.or(progress.until);
            }
        }
        self.settle(&mut progress);
    }

    /// Forwards a signal if there is room. Signals may be lost (rule 21).
    pub(crate) fn signal(&self, message: &Message) {
        if self.progress.lock().phase == Phase::Live && self.outbox.deliver(message) == Delivered::First {
            self.outbox.wake();
        }
    }

    /// What to read next from the store, when it is this opening's turn to catch up.
    pub(crate) fn wants(&self, bytes: usize) -> Option<ReadRange> {
        let mut progress = self.progress.lock();
        progress.queued = false;
        let to = progress.owed()?;
        let to = to.min(progress.next.saturating_add(progress.credit - 1));
        Some(ReadRange { from: progress.next, to, bytes })
    }

    /// Puts what was read into the outbox, as much as there is room for. If there is more to send, the
    /// opening queues again, behind the others of its connection.
    pub(crate) fn fill(&self, range: ReadRange, batch: &[Stored]) {
        let mut progress = self.progress.lock();
        if progress.phase != Phase::Live {
            return;
        }
        for stored in batch.iter().filter(|stored| stored.seq >= range.from) {
            if stored.seq < progress.next || stored.seq > range.to || progress.credit == 0 {
                break;
            }
            if self.outbox.deliver(&encode(&self.mailbox, stored)) == Delivered::Refused {
                break;
            }
            // A jump means that what lies between has expired; the client can tell by the seq (R3).
            progress.next = stored.seq + 1;
            progress.credit -= 1;
        }
        if batch.is_empty() {
            // The whole range has expired in the meantime; go on behind it.
            progress.next = progress.next.max(range.to.saturating_add(1));
        }
        self.settle(&mut progress);
    }

    /// The envelope of this seq cannot be read back: tell the client, and go on behind it.
    pub(crate) fn skip(&self, seq: u64) {
        let mut progress = self.progress.lock();
        if progress.phase != Phase::Live || progress.next > seq {
            return;
        }
        let reason =
            Refusal::new(ErrorCode::Damaged, "the relay's disk has lost this envelope: it will never come");
        let lost = ServerBody::Lost { mailbox: self.mailbox, seq, reason };
        // It waits for room like the delivery in whose place it comes: a lost segment may hold thousands.
        if self.outbox.deliver(&ServerFrame::push(lost).encode().into()) != Delivered::Refused {
            progress.next = seq.saturating_add(1);
        }
        self.settle(&mut progress);
    }

    /// Takes an acknowledgement, and the credit that it gives; returns what to tell the store. It may name
    /// what an earlier opening delivered, because one that nobody waited for is lost when the relay is
    /// killed: what the client has is not sent again. `BadRequest` if there is nothing yet that the seq could
    /// stand for.
    pub(crate) fn acknowledge(&self, seq: u64, credit: u32) -> Result<Advance, ErrorCode> {
        let mut progress = self.progress.lock();
        match progress.phase {
            Phase::Live => {}
            Phase::Ended(code) => return Err(code),
            Phase::Asked | Phase::Owner => return Err(ErrorCode::NotOpen),
        }
        if seq > progress.last() {
            return Err(ErrorCode::BadRequest);
        }
        progress.next = progress.next.max(seq + 1);
        progress.credit = progress.credit.saturating_add(credit.into());
        self.settle(&mut progress);
        Ok(Advance { mailbox: self.mailbox, reader: self.reader, opening: progress.number, seq })
    }

    /// Whether the reader was evicted. Then the store no longer keeps its cursor, for which the client is not
    /// to blame.
    pub(crate) fn is_evicted(&self) -> bool {
        self.progress.lock().until.is_some()
    }

    /// Ends the opening. The client of a live one is told, unless `quietly` is set.
    pub(crate) fn end(&self, code: ErrorCode, quietly: bool) {
        self.over(&mut self.progress.lock(), code, quietly);
    }

    fn over(&self, progress: &mut Progress, code: ErrorCode, quietly: bool) {
        let before = std::mem::replace(&mut progress.phase, Phase::Ended(code));
        match before {
            Phase::Live if !quietly => self.tell_closed(code),
            Phase::Ended(earlier) => progress.phase = Phase::Ended(earlier),
            _ => {}
        }
    }

    /// To be called after every change: queues for catching up if something can be sent, and ends the opening
    /// if an evicted reader has read everything it may.
    fn settle(&self, progress: &mut Progress) {
        if progress.phase != Phase::Live {
            return;
        }
        if progress.until.is_some_and(|until| progress.next > until) {
            progress.phase = Phase::Ended(ErrorCode::ReaderUnknown);
            self.tell_closed(ErrorCode::ReaderUnknown);
        } else if progress.owed().is_some() && !progress.queued {
            progress.queued = true;
            self.outbox.mark_behind(self.mailbox);
        }
    }

    fn tell_closed(&self, code: ErrorCode) {
        let reason = Refusal::new(code, closing_words(code));
        self.outbox.note_ended(self.mailbox);
        self.outbox.answer(ServerFrame::push(ServerBody::Closed { mailbox: self.mailbox, reason }).encode());
    }
}

impl Progress {
    /// The last seq that this reader may know of.
    fn last(&self) -> u64 {
        self.until.map_or(self.head, |until| until.min(self.head))
    }

    /// The last seq that may be sent now, if there is one to send.
    fn owed(&self) -> Option<u64> {
        let last = self.last();
        (self.phase == Phase::Live && self.credit > 0 && self.next <= last).then_some(last)
    }
}

/// Why an opening ended, in one line for people.
pub(crate) fn closing_words(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::OpenedElsewhere => "a later opening of the same reader took over",
        ErrorCode::ReaderUnknown => "the reader was evicted, and all that it may read is delivered",
        ErrorCode::MailboxUnknown => "the mailbox was destroyed",
        ErrorCode::NotOpen => "this connection has not opened the mailbox",
        ErrorCode::BadRequest => "the acknowledged seq is above the newest envelope",
        _ => "the opening ended",
    }
}
