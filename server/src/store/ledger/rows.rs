//! Checkpoint rows: the ledger as keys and values for an index that may be thrown away.
//!
//! | key: tag, name | value |
//! |---|---|
//! | 1 | meta: newest version and time, version and time last believed, day before which tokens are void; how far posts have left, with the version of its record |
//! | 2, mailbox 16 | life, version, stated, [`Snapshot`] |
//! | 3, mailbox 16, chunk u64 BE | life, first seq, entries: the remembered posts with seqs in chunk × 64 .. + 63 |
//! | 4, handle | identity key, devices, perhaps the place of its record |
//! | 5, handle | card: version, digest, length, place, version of its record |
//! | 6, device 16 | key packages |
//! | 7, token hash 32 | version, day, perhaps the mailbox that it is spent on |
//! | 8, invite hash 32 | uses, expiry, version |
//! | 9, device 16 | of a removed account: the place of the record that says so |
//! | 10, upload token hash 32 | version, day, perhaps the blob that it is spent on |
//! | 11, blob 16 | life, version and place of its record, length, holder's key hash, end of the lease |
//!
//! Rows 1, 4 and 5 of earlier versions lack what comes last, and so do their snapshots (the openings).
//!
//! Every value begins with the format byte. In order of keys, a mailbox comes before its chunks.

use std::hash::Hash;

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId, PostId};

use super::{Ledger, Passed, Rebuild};
use crate::blob::Blob;
use crate::blob::change::Held;
use crate::directory::accounts::Account;
use crate::directory::cards::StoredCard;
use crate::directory::invites::Invite;
use crate::directory::key_packages::{LastResort, OneTime, Packages};
use crate::directory::tokens::Drawn;
use crate::mailbox::change::Snapshot;
use crate::mailbox::log::{Entry, Log};
use crate::mailbox::{At, NotedRows};
use crate::store::codec::{BadRecord, Parser, Writer};
use crate::store::keyed::Keyed;
use crate::store::tables::Map;

const FORMAT: u64 = 1;
/// Posts in a chunk row, by seq: few, so that a post makes little else be written again.
const CHUNK: u64 = 64;

/// A place that can stand in a row.
pub(crate) trait Place: Clone + PartialEq {
    /// Appends the place to a row.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes a place from the front of the input; `None` if there is none.
    fn take(input: &mut &[u8]) -> Option<Self>;
}

/// Names a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RowKey {
    Meta,
    Mailbox(MailboxId),
    Chunk(MailboxId, u64),
    Account(Handle),
    Card(Handle),
    Packages(DeviceId),
    Token(KeyHash),
    Invite(KeyHash),
    Gone(DeviceId),
    UploadToken(KeyHash),
    Blob(BlobId),
}

/// The chunk rows that no longer hold anything when posts are forgotten up to `forgotten`, where it was up to
/// `before`.
pub(super) fn forgotten_chunks(id: MailboxId, before: u64, forgotten: u64) -> impl Iterator<Item = RowKey> {
    ((before + 1) / CHUNK..(forgotten + 1) / CHUNK).map(move |chunk| RowKey::Chunk(id, chunk))
}

/// All chunk rows of a mailbox that remembers the posts after `forgotten` up to `head`.
pub(super) fn chunks(id: MailboxId, forgotten: u64, head: u64) -> impl Iterator<Item = RowKey> {
    let end = if head > forgotten { head / CHUNK + 1 } else { 0 };
    ((forgotten + 1) / CHUNK..end).map(move |chunk| RowKey::Chunk(id, chunk))
}

/// All chunk rows of a mailbox that may have been written and not removed, which includes the one that holds
/// the last forgotten post.
pub(super) fn remaining_chunks(id: MailboxId, forgotten: u64, head: u64) -> impl Iterator<Item = RowKey> {
    (forgotten / CHUNK..=head / CHUNK).map(move |chunk| RowKey::Chunk(id, chunk))
}

impl RowKey {
    /// The row of a token that was drawn for this.
    pub(super) fn of_token(purpose: TokenPurpose, token: KeyHash) -> Self {
        match purpose {
            TokenPurpose::CreateMailbox => Self::Token(token),
            TokenPurpose::UploadBlob => Self::UploadToken(token),
        }
    }

    /// The row that holds this post.
    pub(super) fn chunk_of(id: MailboxId, seq: u64) -> Self {
        Self::Chunk(id, seq / CHUNK)
    }

    /// The key's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (tag, name, more): (u8, &[u8], &[u8]) = match self {
            Self::Meta => (1, &[], &[]),
            Self::Mailbox(id) => (2, id.as_ref(), &[]),
            Self::Chunk(id, chunk) => (3, id.as_ref(), &chunk.to_be_bytes()),
            Self::Account(handle) => (4, handle.as_str().as_bytes(), &[]),
            Self::Card(handle) => (5, handle.as_str().as_bytes(), &[]),
            Self::Packages(device) => (6, device.as_ref(), &[]),
            Self::Token(hash) => (7, hash.as_ref(), &[]),
            Self::Invite(hash) => (8, hash.as_ref(), &[]),
            Self::Gone(device) => (9, device.as_ref(), &[]),
            Self::UploadToken(hash) => (10, hash.as_ref(), &[]),
            Self::Blob(id) => (11, id.as_ref(), &[]),
        };
        [&[tag], name, more].concat()
    }

    /// Reads what [`RowKey::bytes`] wrote.
    fn parse(bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut p = Parser::new(Bytes::copy_from_slice(bytes));
        let [tag] = p.array()?;
        let handle = |p: &mut Parser| {
            let text = p.rest();
            let text = std::str::from_utf8(&text).map_err(|_| BadRecord("a handle that is not text"))?;
            Handle::parse(text).map_err(|_| BadRecord("a handle with other characters"))
        };
        let key = match tag {
            1 => Self::Meta,
            2 => Self::Mailbox(MailboxId(p.array()?)),
            3 => Self::Chunk(MailboxId(p.array()?), u64::from_be_bytes(p.array()?)),
            4 => Self::Account(handle(&mut p)?),
            5 => Self::Card(handle(&mut p)?),
            6 => Self::Packages(DeviceId(p.array()?)),
            7 => Self::Token(p.key()?),
            8 => Self::Invite(p.key()?),
            9 => Self::Gone(DeviceId(p.array()?)),
            10 => Self::UploadToken(p.key()?),
            11 => Self::Blob(BlobId(p.array()?)),
            _ => return Err(BadRecord("an unknown row")),
        };
        p.end()?;
        Ok(key)
    }
}

/// The rows that have changed since a checkpoint was begun.
#[derive(Debug)]
pub(super) struct Dirty {
    rows: Map<RowKey, ()>,
    /// Which checkpoint they are noted for, counted from 1.
    checkpoint: u32,
}

impl Dirty {
    fn new(keyed: Keyed) -> Self {
        Self { rows: only_meta(keyed), checkpoint: 1 }
    }

    /// Notes a mailbox's row, and the one that holds a post. Which these were the last time the mailbox
    /// itself says, so that a post finds out by a comparison, and not by two look-ups, that they are noted.
    pub(super) fn note(&mut self, id: &MailboxId, noted: &mut NotedRows, post: Option<u64>) {
        if noted.checkpoint != self.checkpoint {
            *noted = NotedRows { checkpoint: self.checkpoint, posts: None };
            self.rows.insert(RowKey::Mailbox(*id), ());
        }
        if let Some(seq) = post {
            let chunk = Some((seq / CHUNK) as u32);
            if noted.posts != chunk {
                noted.posts = chunk;
                self.rows.insert(RowKey::chunk_of(*id, seq), ());
            }
        }
    }

    fn take(&mut self, keyed: Keyed) -> Map<RowKey, ()> {
        self.checkpoint += 1;
        std::mem::replace(&mut self.rows, only_meta(keyed))
    }
}

fn only_meta(keyed: Keyed) -> Map<RowKey, ()> {
    let mut rows = Map::new(keyed);
    rows.insert(RowKey::Meta, ());
    rows
}

fn put_place<L: Place>(w: &mut Writer<'_>, place: &L) {
    let mut bytes = Vec::new();
    place.put(&mut bytes);
    w.counted(&bytes);
}

fn take_place<L: Place>(p: &mut Parser) -> Result<L, BadRecord> {
    let len = p.count(1)?;
    let bytes = p.bytes(len)?;
    L::take(&mut &bytes[..]).ok_or(BadRecord("not a place"))
}

fn put_option<T>(w: &mut Writer<'_>, option: Option<&T>, put: impl FnOnce(&mut Writer<'_>, &T)) {
    w.number(u64::from(option.is_some()));
    if let Some(value) = option {
        put(w, value);
    }
}

fn take_option<T>(
    p: &mut Parser,
    take: impl FnOnce(&mut Parser) -> Result<T, BadRecord>,
) -> Result<Option<T>, BadRecord> {
    if p.flag()? { take(p).map(Some) } else { Ok(None) }
}

impl<L: Clone + PartialEq> Ledger<L> {
    /// Notes from now on which rows change.
    pub(crate) fn track(&mut self) {
        self.dirty.get_or_insert_with(|| Dirty::new(self.keyed));
    }

    pub(super) fn mark(&mut self, key: impl FnOnce() -> RowKey) {
        if let Some(dirty) = &mut self.dirty {
            dirty.rows.insert(key(), ());
        }
    }

    pub(super) fn mark_all(&mut self, keys: impl IntoIterator<Item = RowKey>) {
        if let Some(dirty) = &mut self.dirty {
            for key in keys {
                dirty.rows.insert(key, ());
            }
        }
    }

    /// How many rows may have changed since they were last taken.
    pub(crate) fn dirty(&self) -> usize {
        self.dirty.as_ref().map_or(0, |dirty| dirty.rows.len())
    }

    /// The rows that may have changed since the last call, in any order, and always the meta row.
    pub(crate) fn take_dirty(&mut self) -> Map<RowKey, ()> {
        let keyed = self.keyed;
        self.dirty.as_mut().map_or_else(|| only_meta(keyed), |dirty| dirty.take(keyed))
    }

    /// Lists rows, from where a listing has come: those of at most some hundred mailboxes or other things.
    /// `None` at the end. What is there all the time is listed once at least, whatever happens in between.
    pub(crate) fn list(&self, listing: &mut Listing) -> Option<Vec<Rows>> {
        let part = listing.part;
        let (parts, rows) = match listing.kind {
            0 => (1, vec![Rows::One(RowKey::Meta)]),
            1 => {
                let rows = |id: &MailboxId, log: &Log<L>| Rows::Mailbox(*id, log.forgotten(), log.head());
                let mailboxes = self.mailboxes.part(part);
                (self.mailboxes.parts(), mailboxes.map(|(id, mailbox)| rows(id, &mailbox.log)).collect())
            }
            2 => names(self.accounts.all(), part, RowKey::Account),
            3 => names(self.cards.all(), part, RowKey::Card),
            4 => names(self.packages.all(), part, RowKey::Packages),
            5 => names(self.tokens.all(), part, RowKey::Token),
            6 => names(self.invites.all(), part, RowKey::Invite),
            7 => names(self.accounts.all_gone(), part, RowKey::Gone),
            8 => names(self.uploads.all(), part, RowKey::UploadToken),
            9 => names(self.blobs.all(), part, RowKey::Blob),
            _ => return None,
        };
        let is_last = part + 1 >= parts;
        *listing =
            Listing { kind: listing.kind + usize::from(is_last), part: if is_last { 0 } else { part + 1 } };
        Some(rows)
    }

    /// The keys of all rows at once.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> impl Iterator<Item = RowKey> {
        let mut listing = Listing::default();
        std::iter::from_fn(move || self.list(&mut listing)).flatten().flat_map(Rows::keys)
    }
}

/// The rows of one part of a map, and how many parts there are.
fn names<K: Hash + Eq + Clone, V>(
    map: &Map<K, V>,
    part: usize,
    row: impl Fn(K) -> RowKey,
) -> (usize, Vec<Rows>) {
    (map.parts(), map.part(part).map(|(name, _)| Rows::One(row(name.clone()))).collect())
}

/// How far a listing of all rows has come.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    kind: usize,
    part: usize,
}

/// Rows that were listed.
#[derive(Debug)]
pub(crate) enum Rows {
    One(RowKey),
    /// A mailbox, of which the posts up to the first number are forgotten, and its newest.
    Mailbox(MailboxId, u64, u64),
}

impl Rows {
    /// Their keys.
    pub(crate) fn keys(self) -> impl Iterator<Item = RowKey> {
        let (one, (id, forgotten, head)) = match self {
            Self::One(row) => (row, (MailboxId([0; 16]), 0, 0)),
            Self::Mailbox(id, forgotten, head) => (RowKey::Mailbox(id), (id, forgotten, head)),
        };
        std::iter::once(one).chain(chunks(id, forgotten, head))
    }
}

impl<L: Place> Ledger<L> {
    /// The row's value; `None` if there is no such row, or no longer.
    pub(crate) fn export(&self, key: &RowKey) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut w = Writer(&mut out);
        w.number(FORMAT);
        match key {
            RowKey::Meta => {
                for at in [self.newest, self.believed] {
                    w.number(at.version).number(u64::from(at.time));
                }
                w.number(u64::from(self.tokens.void_before()));
                w.number(self.passed.0);
                self.passed.1.encode(&mut w);
            }
            RowKey::Mailbox(id) => {
                let mailbox = self.mailboxes.get(id)?;
                w.number(mailbox.life).number(mailbox.version).number(mailbox.stated);
                mailbox.snapshot().encode(&mut w);
            }
            RowKey::Chunk(id, chunk) => self.export_chunk(id, *chunk, &mut w)?,
            RowKey::Account(handle) => {
                let account = self.accounts.get(handle).ok()?;
                w.fixed(account.identity_key).number(account.devices.len() as u64);
                for (device, key) in &account.devices {
                    w.fixed(device).fixed(key);
                }
                put_option(&mut w, account.place.as_ref(), put_place);
            }
            RowKey::Gone(device) => put_place(&mut w, self.accounts.gone(device)?),
            RowKey::Card(handle) => {
                let card = self.cards.get(handle)?;
                w.number(card.version).fixed(card.digest).number(u64::from(card.bytes));
                put_place(&mut w, &card.place);
                w.number(card.stated);
            }
            RowKey::Packages(device) => put_packages(self.packages.get(device)?, &mut w),
            RowKey::Token(hash) => put_token(self.tokens.get(hash)?, &mut w),
            RowKey::UploadToken(hash) => put_token(self.uploads.get(hash)?, &mut w),
            RowKey::Blob(id) => {
                let blob = self.blobs.get(id)?;
                w.number(blob.life).number(blob.stated);
                put_place(&mut w, &blob.place);
                blob.held.encode(&mut w);
            }
            RowKey::Invite(hash) => {
                let invite = self.invites.get(hash)?;
                w.number(u64::from(invite.uses)).number(invite.expires).number(invite.version);
            }
        }
        Some(out)
    }

    fn export_chunk(&self, id: &MailboxId, chunk: u64, w: &mut Writer<'_>) -> Option<()> {
        let mailbox = self.mailboxes.get(id)?;
        let end = (chunk + 1).saturating_mul(CHUNK);
        let mut entries = mailbox.log.from(chunk * CHUNK).take_while(|(seq, _)| *seq < end).peekable();
        let (first, _) = entries.peek()?;
        w.number(mailbox.life).number(*first);
        for (_, entry) in entries {
            w.fixed(entry.post_id).fixed(entry.fingerprint).number(u64::from(entry.time));
            w.number(u64::from(entry.bytes));
            put_option(w, entry.place.as_ref(), put_place);
        }
        Some(())
    }
}

fn put_token(drawn: &Drawn, w: &mut Writer<'_>) {
    w.number(drawn.version).number(u64::from(drawn.day));
    if let Some(name) = &drawn.on {
        w.fixed(**name);
    }
}

fn take_token(p: &mut Parser) -> Result<Drawn, BadRecord> {
    let (version, day) = (p.number()?, p.small()?);
    let on = if p.end().is_ok() { None } else { Some(Box::new(p.array()?)) };
    Ok(Drawn { version, day, on })
}

fn put_packages<L: Place>(packages: &Packages<L>, w: &mut Writer<'_>) {
    w.number(packages.first);
    put_option(w, packages.last_resort.as_ref(), |w, last| {
        w.number(last.version).number(u64::from(last.since)).fixed(last.digest.to_le_bytes());
        w.number(u64::from(last.bytes));
        put_place(w, &last.place);
    });
    w.number(packages.one_time.len() as u64);
    for (number, package) in &packages.one_time {
        w.number(*number).fixed(package.digest.to_le_bytes());
        put_option(w, package.place.as_ref(), |w, (place, bytes)| {
            w.number(u64::from(*bytes));
            put_place(w, place);
        });
    }
}

fn take_packages<L: Place>(p: &mut Parser) -> Result<Packages<L>, BadRecord> {
    let first = p.number()?;
    let last_resort = take_option(p, |p| {
        Ok(LastResort {
            version: p.number()?,
            since: p.small()?,
            digest: u64::from_le_bytes(p.array()?),
            bytes: p.small()?,
            place: take_place(p)?,
        })
    })?;
    let count = p.count(10)?;
    let mut packages = Packages { first, last_resort, ..Packages::default() };
    for _ in 0..count {
        let (number, digest) = (p.number()?, u64::from_le_bytes(p.array()?));
        let place = take_option(p, |p| {
            let bytes = p.small()?;
            Ok((take_place(p)?, bytes))
        })?;
        packages.one_time.insert(number, OneTime { digest, place });
    }
    Ok(packages)
}

impl<L: Place> Rebuild<L> {
    /// Takes over a checkpoint row. Rows may come in any order (order of keys is fastest), and may be of
    /// different moments if the journal is then replayed from before the earliest of them.
    pub(crate) fn import(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRecord> {
        let key = RowKey::parse(key)?;
        let mut p = Parser::new(Bytes::copy_from_slice(value));
        if p.number()? != FORMAT {
            return Err(BadRecord("another format"));
        }
        match key {
            RowKey::Meta => {
                let newest = At { version: p.number()?, time: p.small()? };
                let believed = At { version: p.number()?, time: p.small()? };
                let void_before = p.small()?;
                let passed = match p.end() {
                    Ok(()) => (0, Passed::default()),
                    Err(_) => (p.number()?, Passed::decode(&mut p)?),
                };
                self.import_meta(newest, believed, void_before, passed);
            }
            RowKey::Mailbox(id) => {
                let (life, version, stated) = (p.number()?, p.number()?, p.number()?);
                let snapshot = Snapshot::decode(&mut p)?;
                self.import_mailbox(id, life, version, stated, &snapshot);
            }
            RowKey::Chunk(id, _) => {
                let (life, mut seq) = (p.number()?, p.number()?);
                while p.end().is_err() {
                    let entry = Entry {
                        post_id: PostId(p.array()?),
                        fingerprint: p.array()?,
                        time: p.small()?,
                        bytes: p.small()?,
                        place: take_option(&mut p, take_place)?,
                    };
                    self.offer(id, life, seq, entry);
                    seq = seq.checked_add(1).ok_or(BadRecord("seqs out of range"))?;
                }
            }
            RowKey::Account(handle) => {
                let identity_key = p.array()?;
                let count = p.count(48)?;
                let devices = (0..count).map(|_| Ok((DeviceId(p.array()?), p.array()?)));
                let devices = devices.collect::<Result<_, BadRecord>>()?;
                let place = if p.end().is_ok() { None } else { take_option(&mut p, take_place)? };
                self.ledger.accounts.enter(&handle, Account { identity_key, devices, place });
            }
            RowKey::Card(handle) => {
                let (version, digest, bytes) = (p.number()?, p.array()?, p.small()?);
                let place = take_place(&mut p)?;
                let stated = if p.end().is_ok() { 0 } else { p.number()? };
                let card = StoredCard { version, stated, digest, bytes, place };
                self.ledger.cards.put(&handle, card);
            }
            RowKey::Gone(device) => self.ledger.accounts.remove(device, take_place(&mut p)?),
            RowKey::Packages(device) => self.ledger.packages.restore(device, take_packages(&mut p)?),
            RowKey::Token(hash) => self.ledger.tokens.enter(hash, take_token(&mut p)?),
            RowKey::UploadToken(hash) => self.ledger.uploads.enter(hash, take_token(&mut p)?),
            RowKey::Blob(id) => {
                let (life, stated) = (p.number()?, p.number()?);
                let place = take_place(&mut p)?;
                let held = Held::decode(&mut p)?;
                self.ledger.blobs.put(id, Blob { life, stated, held, place });
            }
            RowKey::Invite(hash) => {
                let invite = Invite { uses: p.small()?, expires: p.number()?, version: p.number()? };
                self.ledger.invites.put(hash, invite);
            }
        }
        p.end()
    }
}
