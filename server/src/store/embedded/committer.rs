//! The committer: the one thread that writes. It takes whatever is queued, decides it against the ledger,
//! writes one batch, syncs once and answers all of it, while the next batch gathers.
//!
//! The order within a round: first space is taken ([`Journal::begin`]); then each command is decided, and its
//! records are put into the batch and applied to the ledger; then a step of [`Upkeep`] rides in the batch;
//! then the batch is synced; then what happened is published; then everything is answered. After a failed
//! sync nothing of the round is answered, and the thread ends (rule 19).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::acknowledged::{Acknowledgement, Acknowledgements};
use super::checkpointer::Checkpointer;
use super::journal::{Batch, BeginError, Fatal, Journal, Location, Resume};
use super::queue::{Ask, Asker, Queue, Request};
use super::shared::{Pinned, Shared, State};
use super::upkeep::Upkeep;
use super::{KIND_MARK, KIND_RECORD, MARK_BYTES};
use crate::store::clock::Now;
use crate::store::ledger::{Command, Decision, News, Outcome, Record, Taken};
use crate::store::{Clock, OpenReader, Published, StoreError};

/// Most commands in a round.
const ROUND_COMMANDS: usize = 1024;
/// Most acknowledgements that nobody waits for in a round.
const SETTLE_AT_ONCE: usize = 256;
/// Records of a round, in bytes, from which on it takes no more commands.
const ROUND_BYTES: usize = 4 << 20;
/// What a record takes beside the opaque bytes that it carries, in bytes. An estimate, which may turn out too
/// low.
const RECORD_BYTES: usize = 256;

/// The committer's state, owned by its thread.
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) journal: Journal,
    pub(super) queue: Queue,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) published: Arc<dyn Published>,
    pub(super) upkeep: Upkeep,
    pub(super) checkpointer: Option<Checkpointer>,
    /// Free space on the disk, in bytes, below which only commands that lead to more space are carried out.
    pub(super) headroom: u64,
    /// How much is written between the beginnings of checkpoints, in bytes; more if the last one was large.
    pub(super) checkpoint_every: u64,
    /// How much was written since the last checkpoint began, in bytes.
    pub(super) since_checkpoint: u64,
    pub(super) waiting: VecDeque<Request>,
    /// Whether the ledger still holds something of what is gone ([`Ledger::clear`](crate::store::ledger)).
    pub(super) clearing: bool,
    /// Acknowledgements that nobody waits for, and when they were last taken, in seconds of the clock that
    /// never steps.
    pub(super) settling: Acknowledgements,
    pub(super) settled: u64,
    /// The present second of that clock.
    pub(super) second: u64,
    /// The records of one command up to their bodies, encoded one behind the other, and where each ends.
    pub(super) heads: Vec<u8>,
    pub(super) ends: Vec<usize>,
    /// A round's lists, to be used again: they are long, and freeing long ones is dear. Empty between rounds.
    pub(super) lists: (Vec<News>, Vec<Answered>),
    /// Whom to wake at the end of a round. Empty between rounds.
    pub(super) wakers: Vec<Waker>,
}

/// Makes sure that whoever waits hears of the end, even if that is a panic.
struct LastWord<'a>(&'a Shared);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(State::Failed);
        }
    }
}

/// What a round has in hand until it is synced.
struct Round {
    /// `None` if the disk is full.
    batch: Option<Batch>,
    news: Vec<News>,
    answers: Vec<Answered>,
    now: Now,
    /// Whether the disk is nearly full.
    tight: bool,
}

/// An answer that waits for the sync.
pub(super) struct Answered {
    asker: Asker,
    answer: Result<Outcome<Location>, StoreError>,
    units: u32,
}

impl Committer {
    /// What the thread does, from start to end.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _last_word = LastWord(&shared);
        let end = match self.serve() {
            Ok(closing) => self.close().map(|()| closing),
            Err(fatal) => Err(fatal),
        };
        match end {
            Ok(closing) => {
                self.shared.stop(State::Closed);
                if let Some(Asker::Waits(reply)) = closing {
                    let _ = reply.send(Ok(Outcome::Done));
                }
            }
            Err(fatal) => {
                tracing::error!(%fatal, "the store has failed; nothing undurable was answered");
                self.shared.stop(State::Failed);
                if let Some(checkpointer) = self.checkpointer.take() {
                    checkpointer.finish();
                }
            }
        }
    }

    /// Serves until asked to close. Returns where to answer that.
    fn serve(&mut self) -> Result<Option<Asker>, Fatal> {
        let mut drained = Vec::with_capacity(ROUND_COMMANDS);
        loop {
            let disk_bytes = self.journal.segments().values().map(|usage| usage.len).sum();
            self.shared.disk_bytes.store(disk_bytes, Ordering::Relaxed);
            if !self.gather(&mut drained) {
                return Ok(None);
            }
            self.second = self.clock.monotonic_seconds();
            self.take_acknowledgements();
            let has_to_write = self.upkeep.has_to_write() || !self.settling.is_empty();
            if (!self.waiting.is_empty() || has_to_write)
                && let Some(closing) = self.round()?
            {
                return Ok(Some(closing));
            }
            let journal = &mut self.journal;
            let note = &mut |freed, _| journal.note_dead(freed, MARK_BYTES);
            self.clearing = self.shared.ledger.write().clear(note);
            self.checkpoint_if_due()?;
            let is_idle = self.queue.requests.is_empty() && self.waiting.is_empty();
            self.upkeep.plan(&mut self.journal, &self.shared, is_idle, self.second)?;
        }
    }

    /// Takes what is queued, and waits for something if there is nothing else to do. `false` once nobody can
    /// ask any more.
    fn gather(&mut self, drained: &mut Vec<Request>) -> bool {
        let is_busy = self.upkeep.is_busy() || self.clearing || !self.settling.is_empty();
        if self.waiting.is_empty() && !is_busy {
            self.queue.requests.blocking_recv_many(drained, ROUND_COMMANDS);
            if drained.is_empty() {
                return false;
            }
        } else {
            while drained.len() + self.waiting.len() < ROUND_COMMANDS {
                match self.queue.requests.try_recv() {
                    Ok(request) => drained.push(request),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected)
                        if self.waiting.is_empty() && drained.is_empty() =>
                    {
                        return false;
                    }
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            }
        }
        self.waiting.extend(drained.drain(..));
        true
    }

    /// One batch. If somebody asked to close, returns where to answer that.
    fn round(&mut self) -> Result<Option<Asker>, Fatal> {
        let now = self.shared.now(self.clock.as_ref());
        let version = self.shared.ledger.read().version();
        self.journal.stamp(version);
        let tight = self.journal.free_bytes().is_ok_and(|free| free < self.headroom);
        let (news, answers) = std::mem::take(&mut self.lists);
        let mut round = Round { batch: None, news, answers, now, tight };
        let (count, bytes) = self.size_up(tight);
        let room = self.upkeep.room(&self.journal, bytes);
        let settle = self.settling.len().min(SETTLE_AT_ONCE);
        let bytes = bytes + settle * RECORD_BYTES;
        let rides = self.begin_round(&mut round, bytes, room)?;
        self.note_space(tight, round.batch.is_some());
        let mut closing = None;
        for _ in 0..count {
            let Some(Request { ask, asker, units }) = self.waiting.pop_front() else { break };
            let answer = match ask {
                Ask::Command(command) => self.execute(*command, &mut round)?,
                Ask::ForgetDamage => {
                    self.flush(&mut round)?;
                    self.forget_damage()?.map(|()| Outcome::Done)
                }
                Ask::Close => {
                    closing = Some(asker);
                    break;
                }
            };
            round.answers.push(Answered { asker, answer, units });
        }
        for one in self.settling.take_some(settle) {
            self.settle(one, &mut round)?;
        }
        if let (Some(batch), true) = (&mut round.batch, rides) {
            let (_, before) = batch.size();
            self.upkeep.ride(&mut self.journal, &self.shared, batch)?;
            self.since_checkpoint += (batch.size().1 - before) as u64;
        }
        self.flush(&mut round)?;
        self.lists = (round.news, round.answers);
        self.upkeep.leave(&mut self.journal, &self.shared)?;
        if room > 0 && !rides {
            self.upkeep.alone(&mut self.journal, &self.shared)?;
        }
        Ok(closing)
    }

    /// Takes the acknowledgements of the last second or so.
    fn take_acknowledgements(&mut self) {
        if self.settling.is_empty() && self.second != self.settled {
            (self.settling, self.settled) = (self.shared.acknowledged.take_all(), self.second);
        }
    }

    /// Makes an acknowledgement count that nobody waits for. What is refused (the mailbox or the reader is
    /// gone) is nobody's concern; what finds no space comes again.
    fn settle(&mut self, one: Acknowledgement, round: &mut Round) -> Result<(), Fatal> {
        if self.shared.ledger.read().life(&one.to.mailbox) > one.version {
            return Ok(());
        }
        if let Err(StoreError::Unavailable) = self.execute(Command::Advance(one.to), round)? {
            self.shared.acknowledged.note(one);
        }
        Ok(())
    }

    /// Begins the batch of a round, with room for a step of upkeep if there is space for that, too. Returns
    /// whether there is.
    fn begin_round(&mut self, round: &mut Round, bytes: usize, room: usize) -> Result<bool, Fatal> {
        if room > 0 {
            match self.journal.begin(bytes + room) {
                Ok(batch) => round.batch = Some(batch),
                Err(BeginError::Later(_)) => {}
                Err(BeginError::Fatal(fatal)) => return Err(fatal),
            }
        }
        let rides = round.batch.is_some();
        if !rides {
            round.batch = self.begin(bytes)?;
        }
        Ok(rides)
    }

    /// How many of the waiting commands make a round, and how many bytes their records may take. On a nearly
    /// full disk no space is taken for what will be refused, so that some is left for what makes room.
    fn size_up(&self, tight: bool) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for request in self.waiting.iter().take(ROUND_COMMANDS) {
            let more = match &request.ask {
                Ask::ForgetDamage => 0,
                Ask::Command(command) if tight && takes_space(command) => 0,
                Ask::Command(command) => size_of(command),
                Ask::Close => 0,
            };
            if count > 0 && bytes + more > ROUND_BYTES {
                break;
            }
            (count, bytes) = (count + 1, bytes + more);
        }
        (count, bytes)
    }

    /// Tells the operator when the disk is nearly full, and when it no longer is.
    fn note_space(&self, tight: bool, writes: bool) {
        let was_full = self.shared.full.swap(tight || !writes, Ordering::Relaxed);
        if tight && !was_full {
            let free = self.journal.free_bytes().unwrap_or(0);
            tracing::warn!(
                free,
                headroom = self.headroom,
                "the disk is nearly full: what takes space is refused until there is more; free some, or lower \
                 store.headroom_bytes"
            );
        } else if was_full && !tight && writes {
            tracing::info!("there is space on the disk again");
        }
    }

    fn begin(&mut self, bytes: usize) -> Result<Option<Batch>, Fatal> {
        match self.journal.begin(bytes) {
            Ok(batch) => Ok(Some(batch)),
            Err(BeginError::Later(error)) => {
                if !self.shared.full.load(Ordering::Relaxed) {
                    tracing::warn!(%error, "nothing can be stored for now: what takes space is refused");
                }
                Ok(None)
            }
            Err(BeginError::Fatal(fatal)) => Err(fatal),
        }
    }

    /// Decides a command, puts its records into the batch and applies them. The inner result is what the
    /// caller gets.
    fn execute(
        &mut self,
        command: Command,
        round: &mut Round,
    ) -> Result<Result<Outcome<Location>, StoreError>, Fatal> {
        let forgets = matches!(&command, Command::Forget { .. });
        let is_own = forgets || matches!(&command, Command::Expire);
        match &command {
            // The reader is not given again what it has acknowledged.
            Command::Open(OpenReader { mailbox, reader, .. }) => {
                let earlier = self.settling.take(*mailbox, *reader);
                let noted = self.shared.acknowledged.take(*mailbox, *reader);
                for one in earlier.into_iter().chain(noted) {
                    self.settle(one, round)?;
                }
            }
            Command::ConfirmClock => round.now = self.shared.confirm_clock(self.clock.as_ref()),
            _ => {}
        }
        let refused = round.tight && takes_space(&command);
        // Where there is no space, the day of an opening goes unnoted, so that reading goes on.
        let needs_no_note = matches!(&command, Command::Open(open) if open.claim.is_none());
        let decided = self.shared.ledger.read().decide(command, round.now);
        let Decision { outcome, records, unrecorded } = match decided {
            Ok(decision) => decision,
            Err(error) => return Ok(Err(error)),
        };
        if records.is_empty() {
            self.shared.carried_out(&unrecorded);
            return Ok(Ok(outcome));
        }
        if refused {
            return Ok(Err(StoreError::Unavailable));
        }
        if needs_no_note && round.batch.is_none() {
            self.shared.carried_out(&unrecorded);
            return Ok(Ok(outcome));
        }
        if !self.write(&records, round)? {
            return Ok(Err(StoreError::Unavailable));
        }
        self.shared.carried_out(&unrecorded);
        self.upkeep.wrote(is_own, forgets, self.second);
        Ok(Ok(outcome))
    }

    /// Puts records into the batch and applies them. `false` if there is no space for them.
    fn write(&mut self, records: &[Record], round: &mut Round) -> Result<bool, Fatal> {
        self.heads.clear();
        self.ends.clear();
        let mut cost = records.len() * Batch::cost(0);
        for record in records {
            record.encode_head(&mut self.heads);
            cost += record.body().map_or(0, Bytes::len);
            self.ends.push(self.heads.len());
        }
        cost += self.heads.len();
        if !round.batch.as_ref().is_some_and(|batch| batch.has_room(cost)) {
            // The estimate was too low. The decision still holds, because only this thread changes the
            // ledger.
            self.flush(round)?;
            round.batch = self.begin(cost)?;
        }
        let Some(batch) = &mut round.batch else { return Ok(false) };
        let mut ledger = self.shared.ledger.write();
        let mut start = 0;
        for (record, end) in records.iter().zip(self.ends.drain(..)) {
            let body = record.body().map_or(&[][..], Bytes::as_ref);
            let place = batch.push(KIND_RECORD, &[&self.heads[start..end], body]);
            start = end;
            if record.is_lasting() {
                self.journal.note_live(place);
            }
            if let Some(mailbox) = record.turned() {
                self.journal.note_needed(place, ledger.statement_bytes(mailbox));
            }
            ledger.apply(record, place, &mut |freed, _| self.journal.note_dead(freed, MARK_BYTES));
            self.shared.applied(place);
            round.news.extend(record.news());
        }
        self.since_checkpoint += cost as u64;
        Ok(true)
    }

    /// Makes the round durable, then publishes and answers it.
    fn flush(&mut self, round: &mut Round) -> Result<(), Fatal> {
        if let Some(batch) = round.batch.take() {
            self.journal.commit(batch)?;
        }
        let version = self.shared.ledger.read().version();
        self.shared.publish(version, self.journal.position());
        for news in round.news.drain(..) {
            news.tell(self.published.as_ref());
        }
        self.answer(round);
        self.shared.moved(self.clock.as_ref());
        Ok(())
    }

    /// Answers what was asked. Whoever has something to read is woken at last, so that each connection wakes
    /// once, and finds all of it.
    fn answer(&mut self, round: &mut Round) {
        let told = round.answers.iter().filter(|answered| matches!(answered.asker, Asker::Told(_))).count();
        // First: whoever hears of it must not find that it is still waiting.
        self.shared.told(told as u64);
        let mut units = 0;
        for Answered { asker, answer, units: more } in round.answers.drain(..) {
            units += more as usize;
            match asker {
                // A caller that no longer waits does not hear of it; it has happened all the same.
                Asker::Waits(reply) => {
                    let _ = reply.send(answer.map(|outcome| self.pin(outcome)));
                }
                Asker::Told(ticket) => self.wakers.extend(ticket.tell(posted(answer))),
            }
        }
        self.queue.room.add_permits(units);
        self.published.told();
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Makes sure that the key packages that are being handed out are still there when they are read.
    fn pin(&self, outcome: Outcome<Location>) -> Outcome<Pinned> {
        match outcome {
            Outcome::Taken(all) => {
                let pinned = all.into_iter().map(|Taken { device, last_resort, place }| Taken {
                    device,
                    last_resort,
                    place: Pinned::new(&self.shared, place),
                });
                Outcome::Taken(pinned.collect())
            }
            Outcome::Done => Outcome::Done,
            Outcome::Posted(seq) => Outcome::Posted(seq),
            Outcome::Opened(view) => Outcome::Opened(view),
            Outcome::Stock(stock) => Outcome::Stock(stock),
            Outcome::Drawn(accepted) => Outcome::Drawn(accepted),
            Outcome::Spent(spent) => Outcome::Spent(spent),
            Outcome::Blob(view) => Outcome::Blob(view),
            Outcome::Expired { more, past } => Outcome::Expired { more, past },
        }
    }

    fn checkpoint_if_due(&mut self) -> Result<(), Fatal> {
        let Some(checkpointer) = &self.checkpointer else { return Ok(()) };
        let changed = self.shared.ledger.read().dirty();
        if checkpointer.is_due(self.since_checkpoint, self.checkpoint_every, changed) {
            self.begin_checkpoint()?;
        }
        Ok(())
    }

    /// Begins a checkpoint. Nothing is in flight now, so the journal up to here is exactly what the ledger
    /// says. The mark that follows makes sure that a later batch is durable: only the journal's last batch
    /// can ever be rewritten elsewhere by a start.
    fn begin_checkpoint(&mut self) -> Result<(), Fatal> {
        let Some(mut mark) = self.begin(Batch::cost(0))? else { return Ok(()) };
        let Some(checkpointer) = &self.checkpointer else { return Ok(()) };
        let version = self.shared.ledger.read().version();
        let resume = Resume { position: self.journal.position(), stamp: version };
        mark.push(KIND_MARK, &[]);
        self.journal.commit(mark)?;
        self.shared.publish(version, self.journal.position());
        checkpointer.begin(resume, &self.shared);
        self.since_checkpoint = 0;
        Ok(())
    }

    /// Writes the last checkpoint, and ends the journal.
    fn close(&mut self) -> Result<(), Fatal> {
        self.queue.close();
        self.waiting.clear();
        while !self.settling.is_empty() {
            self.round()?;
        }
        self.settling = self.shared.acknowledged.take_all();
        while !self.settling.is_empty() {
            self.round()?;
        }
        if self
            .checkpointer
            .as_ref()
            .is_some_and(|checkpointer| self.since_checkpoint > 0 || checkpointer.is_behind())
        {
            self.begin_checkpoint()?;
        }
        if let Some(checkpointer) = self.checkpointer.take() {
            checkpointer.finish();
        }
        self.journal.close()
    }
}

/// The answer to an append.
pub(super) fn posted<P>(reply: Result<Outcome<P>, StoreError>) -> Result<u64, StoreError> {
    match reply? {
        Outcome::Posted(seq) => Ok(seq),
        _ => unreachable!("an append is answered with its seq"),
    }
}

/// Whether a command would take space, so that it is refused while the disk is nearly full.
fn takes_space(command: &Command) -> bool {
    match command {
        Command::Create(..)
        | Command::Append(_)
        | Command::MintInvite(_)
        | Command::Register(_)
        | Command::PublishCard { .. }
        | Command::PublishKeyPackages { .. }
        | Command::DrawTokens { .. }
        | Command::Spend { .. }
        | Command::CreateBlob(..)
        | Command::ExtendBlob { .. } => true,
        Command::Open(_)
        | Command::Advance(_)
        | Command::Destroy { .. }
        | Command::Expire
        | Command::Forget { .. }
        | Command::ConfirmClock
        | Command::RemoveAccount(_)
        | Command::TakeKeyPackages(_)
        | Command::GiveBack(_)
        | Command::DeleteBlob { .. }
        | Command::Restored => false,
    }
}

/// What a command's records may take, in bytes, which is also its share of the queue.
pub(super) fn size_of(command: &Command) -> usize {
    RECORD_BYTES
        + match command {
            Command::Create(new, _) => 48 * new.readers.len(),
            Command::Append(append) => {
                let turn =
                    append.turn.as_ref().map_or(0, |(_, turn)| 48 * turn.admit.len() + 16 * turn.evict.len());
                append.envelope.len() + turn
            }
            Command::PublishCard { card, .. } => card.len(),
            Command::PublishKeyPackages { one_time, last_resort, .. } => {
                one_time.iter().chain(last_resort).map(|package| package.len() + RECORD_BYTES).sum()
            }
            Command::DrawTokens { hashes, .. } => 32 * hashes.len(),
            Command::Forget { posts, .. } => RECORD_BYTES * posts.len(),
            _ => 0,
        }
}
