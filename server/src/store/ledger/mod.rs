//! The ledger: the whole live state of a store, in which every rule of the [`Store`](super::Store) trait
//! exists exactly once. Both engines run it; they differ in where records go and where bodies lie (`L`).
//!
//! ```text
//! command --decide--> answer + records --(the engine makes them durable)--> apply --> state
//! ```
//!
//! - [`Ledger::decide`] changes nothing: a decision that could not be made durable is made again. Everything
//!   changes by [`Ledger::apply`] of records, but for what must not or need not stand on the disk
//!   ([`Ledger::carried_out`]).
//! - No step takes longer the more is stored, because everybody waits for whoever changes the ledger. What
//!   there may be much of (to expire, to trim, to drop) is done a part at a time, as further `Expire`s or
//!   by [`Ledger::clear`], and tables grow by parts.
//! - For each command, in one critical section: decide, write its records to the journal, apply them. So the
//!   journal is in the order in which records were applied. Syncing and answering come later. No step can be
//!   undone, so make sure of disk space first.
//! - Records ([`record`]) are facts with absolute values. [`rebuild`] makes a ledger from checkpoint rows
//!   ([`rows`]) and records, in any order that compaction ([`keep`]) may leave them in.
//!
//! Sans-IO: reads no clock, no disk, no randomness.

mod command;
mod decide;
mod directory;
mod keep;
mod rebuild;
mod record;
mod rows;
#[cfg(test)]
pub(in crate::store) mod tests;

use std::collections::BTreeSet;

use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::limits::POST_OVERHEAD_BYTES;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId};

pub(crate) use self::command::{
    Command, Decision, Forget, Held, HeldCard, Outcome, Passed, Past, Taken, Unrecorded,
};
pub(crate) use self::keep::Keep;
pub(crate) use self::rebuild::{Missing, Rebuild};
pub(crate) use self::record::{Change, News, Record};
use self::rows::Dirty;
pub(crate) use self::rows::{Listing, Place, RowKey, Rows};
use super::clock::OFF_SECONDS;
use super::keyed::Keyed;
use super::tables::Map;
use super::{
    BlobView, DeviceRecord, NewMailbox, OpenReader, OpeningNumber, ReadRange, Stats, StoreError, StorePolicy,
};
use crate::blob::change::BlobChange;
use crate::blob::{Blob, Blobs};
use crate::directory::accounts::Accounts;
use crate::directory::cards::Cards;
use crate::directory::invites::Invites;
use crate::directory::key_packages::KeyPackages;
use crate::directory::tokens::Tokens;
use crate::mailbox::change::MailboxChange;
use crate::mailbox::log::{Freed, Log};
use crate::mailbox::retention::CUT_AT_ONCE;
use crate::mailbox::{At, Mailbox, Stray};

/// What a record takes for a mailbox without readers, and for each reader, in bytes.
const MAILBOX_BYTES: u64 = 256;
const READER_BYTES: u64 = 64;

/// Sums over all mailboxes, kept up to date so that checking a quota costs nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    envelopes: u64,
    envelope_bytes: u64,
    posts: u64,
    readers: u64,
}

/// All state of a store, with bodies at places `L`.
#[derive(Debug)]
pub(crate) struct Ledger<L> {
    policy: StorePolicy,
    keyed: Keyed,
    /// Version and time of the newest record applied.
    newest: At,
    /// Version and time of the newest `Clock` record: the last time that was certainly believed.
    believed: At,
    /// How far posts have left, and the version of the record that says so.
    passed: (u64, Passed),
    mailboxes: Map<MailboxId, Box<Mailbox<L>>>,
    /// When each mailbox will be looked at for expiry: exactly one entry for each, and later than needed by
    /// at most what the policy allows.
    due: BTreeSet<(u32, MailboxId)>,
    /// What is left of large mailboxes that are gone. See [`Ledger::clear`].
    buried: Vec<(MailboxId, Log<L>)>,
    totals: Totals,
    accounts: Accounts<L>,
    cards: Cards<L>,
    packages: KeyPackages<L>,
    /// Bytes of all cards and key packages.
    directory_bytes: u64,
    tokens: Tokens,
    uploads: Tokens,
    blobs: Blobs<L>,
    invites: Invites,
    /// The newest number that was given to an opening, or may have been in an earlier start. In memory only.
    newest_opening: OpeningNumber,
    /// The rows that differ from the last checkpoint; `None` if nobody makes checkpoints.
    dirty: Option<Dirty>,
}

impl<L: Clone + PartialEq> Ledger<L> {
    /// An empty ledger. The hash keys must be random and secret: they keep strangers from choosing ids that
    /// collide.
    pub(crate) fn new(policy: StorePolicy, hash_keys: [u64; 2]) -> Self {
        let keyed = Keyed::new(hash_keys);
        Self {
            policy,
            keyed,
            newest: At { version: 0, time: 0 },
            believed: At { version: 0, time: 0 },
            passed: (0, Passed::default()),
            mailboxes: Map::new(keyed),
            due: BTreeSet::new(),
            buried: Vec::new(),
            totals: Totals::default(),
            accounts: Accounts::new(keyed),
            cards: Cards::new(keyed),
            packages: KeyPackages::new(keyed),
            directory_bytes: 0,
            tokens: Tokens::new(keyed),
            uploads: Tokens::new(keyed),
            blobs: Blobs::new(keyed),
            invites: Invites::new(keyed),
            newest_opening: OpeningNumber::default(),
            dirty: None,
        }
    }

    /// Numbers openings above all that earlier starts of the store may have numbered. A later start has a
    /// higher number.
    pub(crate) fn number_openings(&mut self, start: u32) {
        self.newest_opening = OpeningNumber(u64::from(start) << 32);
    }

    /// How names are hashed that strangers choose.
    pub(crate) fn keyed(&self) -> Keyed {
        self.keyed
    }

    /// Version of the newest record applied.
    pub(crate) fn version(&self) -> u64 {
        self.newest.version
    }

    /// The time of the newest record whose time can be believed, unix seconds; 0 = there is none. Once a day
    /// a `Clock` record says which time is believed. A record much later than that was written in doubt, and
    /// must not make the next start believe a wrong clock.
    pub(crate) fn latest(&self) -> u64 {
        let (newest, believed) = (u64::from(self.newest.time), u64::from(self.believed.time));
        if self.believed.version > 0 && newest > believed + OFF_SECONDS { believed } else { newest }
    }

    /// How far posts have left.
    pub(crate) fn passed(&self) -> Passed {
        self.passed.1
    }

    /// Notes how far posts had left at a start, as they say where they are: that may be further than the
    /// records do.
    pub(crate) fn found_passed(&mut self, passed: Passed) {
        self.passed.1 = passed;
    }

    /// What the clock of post ids is known to have shown, unix seconds: it never goes back.
    pub(crate) fn posts_clock(&self) -> u64 {
        let newest = |mailbox: &Mailbox<L>| mailbox.log.from(0).map(|(_, entry)| entry.time).max();
        let posted = self.mailboxes.iter().filter_map(|(_, mailbox)| newest(mailbox)).max();
        self.passed().at.max(posted.unwrap_or(0).into())
    }

    /// Version of the newest record about the mailbox; 0 = no such mailbox. What was read of the mailbox may
    /// be disclosed once this version is durable.
    pub(crate) fn mailbox_version(&self, mailbox: &MailboxId) -> u64 {
        self.mailboxes.get(mailbox).map_or(0, |mailbox| mailbox.version)
    }

    /// The version of the record that created the mailbox; 0 = no such mailbox.
    pub(crate) fn life(&self, mailbox: &MailboxId) -> u64 {
        self.mailboxes.get(mailbox).map_or(0, |mailbox| mailbox.life)
    }

    fn mailbox(&self, mailbox: &MailboxId) -> Result<&Mailbox<L>, StoreError> {
        self.mailboxes.get(mailbox).map(AsRef::as_ref).ok_or(StoreError::MailboxUnknown)
    }

    /// The places of stored envelopes, in order of seq: the first one whatever its size, then as many as the
    /// range has bytes for.
    pub(crate) fn read(&self, mailbox: &MailboxId, range: ReadRange) -> Result<Vec<Held<L>>, StoreError> {
        let log = &self.mailbox(mailbox)?.log;
        let (mut found, mut bytes) = (Vec::new(), 0usize);
        for (seq, entry) in log.from(range.from.max(log.oldest())) {
            bytes = bytes.saturating_add(entry.bytes as usize);
            if seq > range.to || (bytes > range.bytes && !found.is_empty()) {
                break;
            }
            let Some(place) = entry.place.clone() else {
                return if found.is_empty() { Err(StoreError::Damaged) } else { Ok(found) };
            };
            found.push(Held { seq, post_id: entry.post_id, bytes: entry.bytes, place });
        }
        Ok(found)
    }

    /// Whether this is the mailbox's current post key.
    pub(crate) fn check_post_key(&self, mailbox: &MailboxId, post_key: &KeyHash) -> Result<(), StoreError> {
        self.mailbox(mailbox)?.lock.check(post_key, None)
    }

    /// Whether this opening would be refused.
    pub(crate) fn may_open(&self, open: &OpenReader) -> Result<(), StoreError> {
        self.mailbox(&open.mailbox)?.readers.open(open).map(drop)
    }

    /// What authenticating as a device needs.
    pub(crate) fn device(&self, device: &DeviceId) -> Result<DeviceRecord, StoreError> {
        self.accounts.device(device)
    }

    /// The card of an account, by its place.
    pub(crate) fn card(&self, handle: &Handle) -> Result<HeldCard<L>, StoreError> {
        let identity_key = self.accounts.get(handle)?.identity_key;
        let card = self.cards.get(handle);
        Ok(HeldCard {
            identity_key,
            version: card.map_or(0, |card| card.version),
            place: card.map(|card| card.place.clone()),
        })
    }

    /// What is known of a blob.
    pub(crate) fn blob(&self, blob: &BlobId) -> Result<BlobView, StoreError> {
        self.blobs.get(blob).map(Blob::view).ok_or(StoreError::BlobUnknown)
    }

    /// Version of the record that says how a blob is now; 0 = no such blob.
    pub(crate) fn blob_version(&self, blob: &BlobId) -> u64 {
        self.blobs.get(blob).map_or(0, |blob| blob.stated)
    }

    /// Numbers for the operator. Those that only the engine knows are left at 0.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            mailboxes: self.mailboxes.len() as u64,
            envelopes: self.totals.envelopes,
            envelope_bytes: self.totals.envelope_bytes,
            posts: self.totals.posts,
            past_bytes: 0,
            past_since: 0,
            accounts: self.accounts.len() as u64,
            blobs: self.blobs.all().len() as u64,
            blob_bytes: self.blobs.bytes(),
            disk_bytes: 0,
            expiry_paused: false,
            damaged: 0,
            full: false,
            stalled_seconds: 0,
        }
    }

    /// Roughly what everything takes as records, in bytes, where a post that is only remembered takes `mark`
    /// bytes.
    pub(crate) fn recorded_bytes(&self, mark: u64) -> u64 {
        /// Sizes of the records of a mailbox without readers, an account, a reader, and a blob, in bytes.
        const OTHERS: [u64; 4] = [MAILBOX_BYTES, 256, READER_BYTES, 128];
        let (mailboxes, accounts) = (self.mailboxes.len() as u64, self.accounts.len() as u64);
        let counts = [mailboxes, accounts, self.totals.readers, self.blobs.all().len() as u64];
        let others: u64 = OTHERS.iter().zip(counts).map(|(bytes, count)| bytes * count).sum();
        self.totals.envelope_bytes + self.totals.posts * mark + self.directory_bytes + others
    }

    /// Roughly what a record takes that states all of a mailbox but its posts, in bytes.
    pub(crate) fn statement_bytes(&self, mailbox: &MailboxId) -> u64 {
        let readers = self.mailboxes.get(mailbox).map_or(0, |present| present.readers.count() as u64);
        MAILBOX_BYTES + readers * READER_BYTES
    }

    /// Notes what no record says of a decision that was carried out.
    pub(crate) fn carried_out(&mut self, unrecorded: &Unrecorded) {
        match unrecorded {
            Unrecorded::Nothing => {}
            Unrecorded::Drew { device, purpose, day, fresh } => {
                self.tokens_for(*purpose).count(*device, *day, *fresh);
            }
            Unrecorded::Opened(number) => self.newest_opening = self.newest_opening.max(*number),
            Unrecorded::Idle { mailboxes, now } => {
                mailboxes.iter().for_each(|mailbox| self.postpone(mailbox, *now));
            }
        }
    }

    /// Schedules a mailbox that was looked at for its next time, which is after `now`.
    fn postpone(&mut self, id: &MailboxId, now: u64) {
        let Some(mailbox) = self.mailboxes.get_mut(id) else { return };
        let due = mailbox.past_due(&self.policy).into_iter().fold(mailbox.due(&self.policy), u64::min);
        let later = self.policy.turn_of(id, due.max(now + 1), now);
        self.due.remove(&(mailbox.scheduled, *id));
        self.due.insert((later, *id));
        mailbox.scheduled = later;
    }

    /// Makes a record's change. `place` is where the record lies, and its body with it; `freed` is told of
    /// each body that is no longer needed. What a record means depends on nothing that can be configured;
    /// only when a mailbox is looked at for expiry does.
    pub(crate) fn apply(&mut self, record: &Record, place: L, freed: Freed<'_, L>) {
        let stray = self.apply_any(record, place, freed);
        debug_assert!(stray.is_none(), "a post arrived out of order");
    }

    /// Like [`Ledger::apply`], but hands back a post that is not the next one.
    fn apply_any(&mut self, record: &Record, place: L, freed: Freed<'_, L>) -> Stray<L> {
        let at = At { version: record.version, time: record.time };
        self.know(at);
        match &record.change {
            Change::Clock => self.believe(at),
            Change::Passed(passed) => self.note_passed(at.version, *passed),
            Change::Created { mailbox, token, post_key, turn_key, readers, expiry, quota } => {
                self.paid(TokenPurpose::CreateMailbox, token, at.version);
                let new = NewMailbox {
                    mailbox: *mailbox,
                    token: *token,
                    post_key: *post_key,
                    turn_key: *turn_key,
                    readers: readers.clone(),
                    expiry: *expiry,
                    quota: *quota,
                };
                if self.mailboxes.get(mailbox).is_none_or(|present| present.life < at.version) {
                    self.remove_mailbox(mailbox, freed);
                    self.insert_mailbox(*mailbox, Mailbox::create(&new, at));
                }
            }
            Change::Mailbox { mailbox, life, change } => {
                return self.apply_mailbox(*mailbox, *life, change, at, place, freed);
            }
            Change::Blob(change) => self.apply_blob(change, at, place),
            Change::Directory(change) => self.apply_directory(change, at, place, freed),
        }
        None
    }

    /// Notes that a record of this version and time was seen.
    fn know(&mut self, at: At) {
        if at.version > self.newest.version {
            self.newest = at;
        }
    }

    /// Notes that the time of this record was believed.
    fn believe(&mut self, at: At) {
        if at.version > self.believed.version {
            self.believed = at;
        }
    }

    /// Notes how far posts have left, as the record of this version says.
    fn note_passed(&mut self, version: u64, passed: Passed) {
        if version > self.passed.0 {
            self.passed = (version, passed);
        }
    }

    fn apply_blob(&mut self, change: &BlobChange, at: At, place: L) {
        let stated = at.version;
        let id = match change {
            BlobChange::Created { blob, token, held } => {
                self.paid(TokenPurpose::UploadBlob, token, stated);
                self.blobs.put(*blob, Blob { life: stated, stated, held: *held, place });
                blob
            }
            BlobChange::Extended { blob, life, held } => {
                self.blobs.put(*blob, Blob { life: *life, stated, held: *held, place });
                blob
            }
            BlobChange::Removed { blob, life } => {
                self.blobs.remove(blob, *life);
                blob
            }
        };
        self.mark(|| RowKey::Blob(*id));
    }

    fn apply_mailbox(
        &mut self,
        id: MailboxId,
        life: u64,
        change: &MailboxChange,
        at: At,
        place: L,
        freed: Freed<'_, L>,
    ) -> Stray<L> {
        match change {
            MailboxChange::Removed if self.life(&id) == life => self.remove_mailbox(&id, freed),
            MailboxChange::Snapshot(snapshot) if self.life(&id) < life => {
                self.remove_mailbox(&id, freed);
                self.insert_mailbox(id, Mailbox::restore(snapshot, life, at.version));
            }
            _ => {
                let keyed = self.keyed;
                let post = match change {
                    MailboxChange::Posted { seq, .. } | MailboxChange::Mark { seq, .. } => Some(*seq),
                    _ => None,
                };
                let renews = matches!(change, MailboxChange::Cut { .. });
                let apply = |mailbox: &mut Mailbox<L>| mailbox.apply(change, at, place, &keyed, freed);
                return self.change_in(&id, Within { life: Some(life), post, renews }, apply).flatten();
            }
        }
        None
    }

    /// Changes a mailbox, and keeps the totals and the schedule right. Usually a mailbox is looked at too
    /// early rather than scheduled anew each time that something goes.
    fn change<T>(&mut self, id: &MailboxId, change: impl FnOnce(&mut Mailbox<L>) -> T) -> Option<T> {
        self.change_in(id, Within::default(), change)
    }

    /// The same. Whatever is to be known of the mailbox is found by one look-up.
    fn change_in<T>(
        &mut self,
        id: &MailboxId,
        Within { life, post, renews }: Within,
        change: impl FnOnce(&mut Mailbox<L>) -> T,
    ) -> Option<T> {
        let mailbox = self.mailboxes.get_mut(id)?;
        if life.is_some_and(|life| mailbox.life != life) {
            return None;
        }
        let before = Totals::of(mailbox);
        let forgotten = mailbox.log.forgotten();
        let result = change(mailbox);
        self.totals.replace(before, Totals::of(mailbox));
        let due = due(id, mailbox, &self.policy, u64::from(self.newest.time), renews);
        if due < mailbox.scheduled || renews {
            self.due.remove(&(mailbox.scheduled, *id));
            self.due.insert((due, *id));
            mailbox.scheduled = due;
        }
        let kept = mailbox.log.forgotten();
        if let Some(dirty) = &mut self.dirty {
            dirty.note(id, &mut mailbox.noted, post);
        }
        self.mark_all(rows::forgotten_chunks(*id, forgotten, kept));
        Some(result)
    }

    fn insert_mailbox(&mut self, id: MailboxId, mailbox: Mailbox<L>) {
        self.totals.replace(Totals::default(), Totals::of(&mailbox));
        self.due.insert((mailbox.scheduled, id));
        self.mailboxes.insert(id, Box::new(mailbox));
        self.change(&id, |_| ());
    }

    fn remove_mailbox(&mut self, id: &MailboxId, freed: Freed<'_, L>) {
        let Some(mailbox) = self.mailboxes.remove(id) else { return };
        self.totals.replace(Totals::of(&mailbox), Totals::default());
        self.due.remove(&(mailbox.scheduled, *id));
        self.mark(|| RowKey::Mailbox(*id));
        let few = mailbox.log.remembered() <= CUT_AT_ONCE;
        self.buried.push((*id, mailbox.log));
        if few {
            self.clear_log(freed);
        }
    }

    /// Drops a bounded part of what is gone already and still takes memory: the logs of large mailboxes, void
    /// tokens. Returns whether there is more. To be asked between commands, so that none of them waits for
    /// all of it.
    pub(crate) fn clear(&mut self, freed: Freed<'_, L>) -> bool {
        if self.buried.is_empty() {
            let void = self.tokens.sweep();
            self.mark_all(void.into_iter().map(RowKey::Token));
            let void = self.uploads.sweep();
            self.mark_all(void.into_iter().map(RowKey::UploadToken));
        } else {
            self.clear_log(freed);
        }
        !self.buried.is_empty() || self.tokens.is_sweeping() || self.uploads.is_sweeping()
    }

    /// Drops a bounded part of the log that was buried last.
    fn clear_log(&mut self, freed: Freed<'_, L>) {
        let Some((id, mut log)) = self.buried.pop() else { return };
        let forgotten = log.forgotten();
        let to = log.head().min(forgotten + CUT_AT_ONCE);
        self.mark_all(rows::remaining_chunks(id, forgotten, to));
        log.trim(to + 1, freed);
        log.forget(to, &self.keyed);
        if log.remembered() > 0 {
            self.buried.push((id, log));
        }
    }

    /// What counts towards the relay's bytes: envelopes, posts that are remembered, cards, key packages.
    fn held_bytes(&self) -> u64 {
        let Totals { envelope_bytes, posts, .. } = self.totals;
        envelope_bytes + posts * POST_OVERHEAD_BYTES + self.directory_bytes
    }
}

/// What a change to a mailbox is about.
#[derive(Default)]
struct Within {
    /// Which life of the mailbox, if not whichever it is in.
    life: Option<u64>,
    /// The post of this seq.
    post: Option<u64>,
    /// The time at which it is looked at next is found anew.
    renews: bool,
}

/// When a mailbox is to be looked at next. Posts that leave memory wait for its turn, unless it has just had
/// it: so in a mailbox that is read all the time it is one record a minute.
fn due<L: Clone + PartialEq>(
    id: &MailboxId,
    mailbox: &Mailbox<L>,
    policy: &StorePolicy,
    now: u64,
    has_turn: bool,
) -> u32 {
    let due = policy.turn_of(id, mailbox.due(policy), now);
    let past = mailbox
        .past_due(policy)
        .map(|at| if has_turn || policy.late_seconds == 0 { at } else { at.max(now + 1) });
    past.map_or(due, |at| due.min(policy.turn_of(id, at, now)))
}

impl Totals {
    fn of<L: Clone + PartialEq>(mailbox: &Mailbox<L>) -> Self {
        Self {
            envelopes: mailbox.log.stored(),
            envelope_bytes: mailbox.log.stored_bytes(),
            posts: mailbox.log.remembered(),
            readers: mailbox.readers.count() as u64,
        }
    }

    /// Counts `new` instead of `old`, which has been counted before.
    fn replace(&mut self, old: Self, new: Self) {
        let swap = |sum: &mut u64, old: u64, new: u64| *sum = *sum + new - old;
        swap(&mut self.envelopes, old.envelopes, new.envelopes);
        swap(&mut self.envelope_bytes, old.envelope_bytes, new.envelope_bytes);
        swap(&mut self.posts, old.posts, new.posts);
        swap(&mut self.readers, old.readers, new.readers);
    }
}
