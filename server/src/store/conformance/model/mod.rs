//! An independent model of a store: a few maps, written as directly as the trait's documentation reads,
//! without a thought of speed. All that it shares with the ledger are the types of the trait.

mod blobs;
mod directory;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use posthorn_proto::limits::{ENVELOPE_BYTES, POST_OVERHEAD_BYTES};
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId, Reader, ReaderId, Turn};

use super::START;
use crate::store::{
    Advance, Append, NewAccount, NewBlob, NewInvite, NewMailbox, OpenReader, OpeningNumber, ReadRange,
    ReaderView, SpentOn, Stats, StoreError, StorePolicy, Stored,
};

const DAY: u64 = 86_400;

#[derive(Debug, Clone)]
struct ModelReader {
    id: ReaderId,
    key: KeyHash,
    cursor: u64,
    /// The opening that last moved the cursor.
    opening: OpeningNumber,
    until: Option<u64>,
}

#[derive(Debug, Clone)]
struct ModelPost {
    append: Append,
    time: u64,
}

#[derive(Debug, Clone)]
struct ModelMailbox {
    created: NewMailbox,
    post_key: KeyHash,
    turn_key: KeyHash,
    /// In order of admission; those with an `until` are evicted, and in order of eviction.
    readers: Vec<ModelReader>,
    /// All posts that ever were, by seq.
    posts: BTreeMap<u64, ModelPost>,
    stored: BTreeSet<u64>,
    /// Those that are held in memory.
    remembered: BTreeSet<u64>,
    opened_day: u64,
}

#[derive(Debug, Default)]
struct ModelDevice {
    account: Option<NewAccount>,
    card: Option<(u64, Bytes)>,
    packages: Vec<Bytes>,
    taken: Vec<Bytes>,
    last_resort: Option<(Bytes, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct ModelToken {
    day: u64,
    /// What it is spent on, and which spending that was.
    spent: Option<(SpentOn, u64)>,
}

/// A store as the documentation of the trait describes it.
pub(crate) struct Model {
    policy: StorePolicy,
    pub(crate) now: u64,
    mailboxes: BTreeMap<MailboxId, ModelMailbox>,
    tokens: BTreeMap<KeyHash, ModelToken>,
    uploads: BTreeMap<KeyHash, ModelToken>,
    /// How often a token was spent.
    spendings: u64,
    drawn: BTreeMap<(DeviceId, bool, u64), usize>,
    /// Each as it was created, and when its lease ends.
    blobs: BTreeMap<BlobId, (NewBlob, u64)>,
    invites: BTreeMap<KeyHash, NewInvite>,
    accounts: BTreeMap<Handle, ModelDevice>,
    gone: BTreeSet<DeviceId>,
}

fn turn_bytes(turn: Option<&Turn>) -> u64 {
    turn.map_or(0, |turn| 64 + 48 * turn.admit.len() as u64 + 16 * turn.evict.len() as u64)
}

/// Whether this may be a new post: its id was made at most so long ago, and at most 5 minutes ahead.
fn is_of_now(append: &Append, now: u64, policy: &StorePolicy) -> bool {
    let made = append.post_id.seconds();
    (now + 1..=now + 300 + u64::from(policy.fresh_seconds))
        .contains(&(made + u64::from(policy.fresh_seconds)))
}

fn bytes_of(append: &Append) -> u64 {
    append.envelope.len() as u64 + turn_bytes(append.turn.as_ref().map(|(_, turn)| turn))
}

impl ModelReader {
    fn new(reader: &Reader, cursor: u64) -> Self {
        let opening = OpeningNumber::default();
        Self { id: reader.id, key: reader.key_hash, cursor, opening, until: None }
    }
}

impl ModelMailbox {
    fn head(&self) -> u64 {
        self.posts.len() as u64
    }

    fn oldest(&self) -> u64 {
        self.stored.first().copied().unwrap_or(self.head() + 1)
    }

    fn used(&self) -> u64 {
        let stored: u64 = self.stored.iter().map(|seq| bytes_of(&self.posts[seq].append)).sum();
        stored + self.remembered.len() as u64 * POST_OVERHEAD_BYTES
    }

    fn active(&self) -> impl Iterator<Item = &ModelReader> {
        self.readers.iter().filter(|reader| reader.until.is_none())
    }

    /// Trims what every reader has acknowledged that is not evicted and has not missed anything yet.
    fn settle(&mut self) {
        let oldest = self.oldest();
        let waiting = self.active().map(|reader| reader.cursor).filter(|cursor| cursor + 1 >= oldest);
        if let Some(low) = waiting.min() {
            self.stored.retain(|seq| *seq > low);
        }
        let oldest = self.oldest();
        self.readers
            .retain(|reader| reader.until.is_none_or(|until| reader.cursor < until && until >= oldest));
    }

    fn check_turn(&self, turn: &Turn, limit: usize) -> Result<(), StoreError> {
        let bad = Err(StoreError::BadTurn("any"));
        let there: BTreeSet<ReaderId> = self.active().map(|reader| reader.id).collect();
        let admitted: BTreeSet<ReaderId> = turn.admit.iter().map(|reader| reader.id).collect();
        let evicted: BTreeSet<ReaderId> = turn.evict.iter().copied().collect();
        if admitted.len() < turn.admit.len() || evicted.len() < turn.evict.len() {
            return bad;
        }
        if !evicted.is_subset(&there) || !admitted.is_disjoint(&there) {
            return bad;
        }
        if there.len() - evicted.len() + admitted.len() > limit { bad } else { Ok(()) }
    }

    fn turn(&mut self, turn: &Turn, seq: u64) {
        (self.post_key, self.turn_key) = (turn.post_key_hash, turn.turn_key_hash);
        let (mut leaving, staying): (Vec<_>, Vec<_>) = self
            .readers
            .drain(..)
            .partition(|reader| turn.evict.contains(&reader.id) && reader.until.is_none());
        self.readers = staying;
        leaving.sort_by_key(|reader| reader.id);
        self.readers.extend(leaving.into_iter().map(|reader| ModelReader { until: Some(seq), ..reader }));
        for new in &turn.admit {
            self.readers.retain(|reader| reader.id != new.id);
            self.readers.push(ModelReader::new(new, seq));
        }
        while self.readers.iter().filter(|reader| reader.until.is_some()).count() > 4096 {
            let first = self.readers.iter().position(|reader| reader.until.is_some());
            self.readers.remove(first.expect("there are some"));
        }
    }
}

impl Model {
    /// An empty store.
    pub(crate) fn new(policy: StorePolicy) -> Self {
        Self {
            policy,
            now: START,
            mailboxes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            uploads: BTreeMap::new(),
            spendings: 0,
            drawn: BTreeMap::new(),
            blobs: BTreeMap::new(),
            invites: BTreeMap::new(),
            accounts: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    fn at(&mut self, mailbox: MailboxId) -> Result<&mut ModelMailbox, StoreError> {
        self.mailboxes.get_mut(&mailbox).ok_or(StoreError::MailboxUnknown)
    }

    fn all_readers(&self) -> u64 {
        self.mailboxes.values().map(|mailbox| mailbox.readers.len() as u64).sum()
    }

    /// Whether this mailbox would be made.
    fn may_create(&self, new: &NewMailbox) -> Result<bool, StoreError> {
        if let Some(mailbox) = self.mailboxes.get(&new.mailbox) {
            let claimed = new.readers.iter().any(|new| {
                !mailbox.readers.iter().any(|reader| reader.id == new.id && reader.key == new.key_hash)
            });
            let as_set = |new: &NewMailbox| {
                let mut new = new.clone();
                new.readers.sort_by_key(|reader| reader.id);
                new
            };
            let same = as_set(&mailbox.created) == as_set(new) && mailbox.posts.is_empty() && !claimed;
            return if same { Ok(false) } else { Err(StoreError::MailboxExists) };
        }
        let ids: BTreeSet<_> = new.readers.iter().map(|reader| reader.id).collect();
        if ids.len() < new.readers.len() || ids.len() > self.policy.readers_per_mailbox {
            return Err(StoreError::BadTurn("any"));
        }
        if self.mailboxes.len() as u64 >= self.policy.mailboxes {
            return Err(StoreError::Quota("mailboxes"));
        }
        if !new.readers.is_empty() && self.all_readers() + new.readers.len() as u64 > self.policy.readers {
            return Err(StoreError::Quota("readers"));
        }
        Ok(true)
    }

    /// Spends the token and makes the mailbox.
    pub(crate) fn create(&mut self, new: NewMailbox) -> Result<(), StoreError> {
        if !self.may_create(&new)? {
            return Ok(());
        }
        let number = self.spend(new.token, SpentOn::Mailbox(new.mailbox))?;
        self.make(new, number)
    }

    /// Makes the mailbox with what was spent under this number.
    pub(crate) fn make(&mut self, new: NewMailbox, number: u64) -> Result<(), StoreError> {
        if !self.may_create(&new)? {
            return Ok(());
        }
        self.pay(new.token, SpentOn::Mailbox(new.mailbox), number)?;
        let readers = new.readers.iter().map(|reader| ModelReader::new(reader, 0));
        let mailbox = ModelMailbox {
            post_key: new.post_key,
            turn_key: new.turn_key,
            readers: readers.collect(),
            posts: BTreeMap::new(),
            stored: BTreeSet::new(),
            remembered: BTreeSet::new(),
            opened_day: self.now / DAY,
            created: new.clone(),
        };
        self.mailboxes.insert(new.mailbox, mailbox);
        Ok(())
    }

    pub(crate) fn append(&mut self, append: Append) -> Result<u64, StoreError> {
        let (policy, now) = (self.policy, self.now);
        let used = self.held();
        let readers = self.all_readers();
        let mailbox = self.at(append.mailbox)?;
        // The time for which ids are remembered is longer than any list of operations.
        for (seq, post) in &mailbox.posts {
            if post.append.post_id == append.post_id {
                let same = post.append.fingerprint == append.fingerprint;
                return if same { Ok(*seq) } else { Err(StoreError::PostIdReused) };
            }
        }
        if !is_of_now(&append, now, &policy) {
            return Err(StoreError::PostIdTime { now });
        }
        if append.post_key != mailbox.post_key {
            return Err(StoreError::KeyTurned);
        }
        let mut admitted = 0;
        if let Some((key, turn)) = &append.turn {
            if *key != mailbox.turn_key {
                return Err(StoreError::KeyTurned);
            }
            mailbox.check_turn(turn, policy.readers_per_mailbox)?;
            admitted = turn.admit.len() as u64;
        }
        let quota = mailbox.created.quota;
        let four = 4 * (ENVELOPE_BYTES as u64 + POST_OVERHEAD_BYTES);
        let reserve = if append.turn.is_some() { 0 } else { four.max(quota / 10).min(quota / 2) };
        let bytes = bytes_of(&append) + POST_OVERHEAD_BYTES;
        if mailbox.used() + bytes > quota - reserve {
            return Err(StoreError::MailboxFull);
        }
        if used + bytes > policy.total_bytes {
            return Err(StoreError::Quota("bytes"));
        }
        if admitted > 0 && readers + admitted > policy.readers {
            return Err(StoreError::Quota("readers"));
        }
        let seq = mailbox.head() + 1;
        mailbox.posts.insert(seq, ModelPost { append: append.clone(), time: now });
        mailbox.stored.insert(seq);
        mailbox.remembered.insert(seq);
        if let Some((_, turn)) = &append.turn {
            mailbox.turn(turn, seq);
            mailbox.settle();
        }
        Ok(seq)
    }

    /// The view, with the number 0: numbers are the store's.
    pub(crate) fn open(&mut self, open: &OpenReader) -> Result<ReaderView, StoreError> {
        let now = self.now;
        let mailbox = self.at(open.mailbox)?;
        let found = mailbox.readers.iter_mut().find(|reader| reader.id == open.reader);
        let reader = found.ok_or(StoreError::ReaderUnknown)?;
        if reader.key != open.key {
            if open.claim != Some(reader.key) {
                return Err(StoreError::ReadKeyWrong);
            }
            reader.key = open.key;
        }
        let (cursor, until) = (reader.cursor, reader.until);
        mailbox.opened_day = now / DAY;
        Ok(ReaderView {
            opening: OpeningNumber::default(),
            head: mailbox.head(),
            oldest: mailbox.oldest(),
            cursor,
            until,
            post_key: mailbox.post_key,
            turn_key: mailbox.turn_key,
        })
    }

    pub(crate) fn read(&mut self, mailbox: MailboxId, range: ReadRange) -> Result<Vec<Stored>, StoreError> {
        let mailbox = self.at(mailbox)?;
        let (mut read, mut bytes) = (Vec::new(), 0);
        for seq in mailbox.stored.iter().copied().filter(|seq| (range.from..=range.to).contains(seq)) {
            let append = &mailbox.posts[&seq].append;
            bytes += bytes_of(append) as usize;
            if bytes > range.bytes && !read.is_empty() {
                break;
            }
            let turn = append.turn.clone().map(|(_, turn)| turn.into());
            read.push(Stored { seq, post_id: append.post_id, envelope: append.envelope.clone(), turn });
        }
        Ok(read)
    }

    pub(crate) fn advance(&mut self, to: Advance) -> Result<(), StoreError> {
        let mailbox = self.at(to.mailbox)?;
        let head = mailbox.head();
        let found = mailbox.readers.iter_mut().find(|found| found.id == to.reader);
        let reader = found.ok_or(StoreError::ReaderUnknown)?;
        if to.opening < reader.opening {
            return Err(StoreError::OpenedElsewhere);
        }
        let cursor = to.seq.min(reader.until.unwrap_or(head));
        if cursor > reader.cursor {
            (reader.cursor, reader.opening) = (cursor, to.opening);
        }
        mailbox.settle();
        Ok(())
    }

    pub(crate) fn check_post_key(&mut self, mailbox: MailboxId, key: KeyHash) -> Result<(), StoreError> {
        if self.at(mailbox)?.post_key == key { Ok(()) } else { Err(StoreError::KeyTurned) }
    }

    pub(crate) fn destroy(&mut self, mailbox: MailboxId, key: KeyHash) -> Result<(), StoreError> {
        if self.at(mailbox)?.turn_key != key {
            return Err(StoreError::KeyTurned);
        }
        self.mailboxes.remove(&mailbox);
        Ok(())
    }

    pub(crate) fn expire(&mut self) {
        let (policy, now) = (self.policy, self.now);
        self.mailboxes.retain(|_, mailbox| now < (mailbox.opened_day + 1) * DAY + policy.unopened_seconds);
        for mailbox in self.mailboxes.values_mut() {
            let (expiry, posts) = (u64::from(mailbox.created.expiry), &mailbox.posts);
            while mailbox.stored.first().is_some_and(|seq| posts[seq].time + expiry <= now) {
                mailbox.stored.pop_first();
            }
            mailbox.settle();
            let (oldest, posts) = (mailbox.oldest(), &mailbox.posts);
            // They go from the first on, once that one was posted long enough ago.
            let fresh = u64::from(policy.fresh_seconds);
            let due = mailbox.remembered.first().is_some_and(|seq| posts[seq].time + fresh <= now);
            let is_past = |seq: &u64| due && *seq < oldest && !is_of_now(&posts[seq].append, now, &policy);
            while mailbox.remembered.first().is_some_and(is_past) {
                mailbox.remembered.pop_first();
            }
        }
        self.invites.retain(|_, invite| now < invite.expires);
        self.tokens.retain(|_, token| token.day + 7 >= now / DAY);
        self.uploads.retain(|_, token| token.day + 7 >= now / DAY);
        self.blobs.retain(|_, (_, until)| now < *until);
    }

    /// What counts towards the relay's bytes.
    fn held(&self) -> u64 {
        let of = |device: &ModelDevice| {
            let card = device.card.as_ref().map(|(_, card)| card);
            let last = device.last_resort.as_ref().map(|(package, _)| package);
            device.packages.iter().chain(card).chain(last).map(|body| body.len() as u64).sum::<u64>()
        };
        self.mailboxes.values().map(ModelMailbox::used).sum::<u64>()
            + self.accounts.values().map(of).sum::<u64>()
    }

    /// Forgets what a store holds in memory only.
    pub(crate) fn restart(&mut self) {
        self.drawn.clear();
    }

    pub(crate) fn stats(&self) -> Stats {
        let all = || self.mailboxes.values();
        let stored =
            |mailbox: &ModelMailbox| mailbox.used() - mailbox.remembered.len() as u64 * POST_OVERHEAD_BYTES;
        Stats {
            mailboxes: self.mailboxes.len() as u64,
            envelopes: all().map(|mailbox| mailbox.stored.len() as u64).sum(),
            envelope_bytes: all().map(stored).sum(),
            posts: all().map(|mailbox| mailbox.remembered.len() as u64).sum(),
            past_bytes: 0,
            past_since: 0,
            accounts: self.accounts.len() as u64,
            blobs: self.blobs.len() as u64,
            blob_bytes: self.blob_bytes(),
            disk_bytes: 0,
            expiry_paused: false,
            damaged: 0,
            full: false,
            stalled_seconds: 0,
        }
    }
}
