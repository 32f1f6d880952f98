//! The history: rows of what was said, what happened and what could not be read, and how entries are made of
//! them (rules 33 and 34).
//!
//! Owns the table `entry`. A change is a row, too, found by the hidden name of what it changes, so that it
//! may come before that. What was said is kept as it came and read when it is shown: a kind that this version
//! does not know comes to life after an update.

use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use super::{Body, Cause, ConversationId, Entry, EntryState, MessageId, Notice, Unreadable};
use crate::content::kind::Altered;
use crate::content::{Author, Change, Class, Receipt, Said};
use crate::identity::PersonId;
use crate::store::{StoreError, Transaction, record};

const TABLE: &str = "entry";
/// Where what is not on the relay yet stands: behind everything.
const QUEUED: (i64, i64) = (1 << 33, 1 << 54);
/// The columns of where something lies: what was said once, and what was said again.
const LIES: [[&str; 2]; 2] = [["again_place IS NULL AND place", "seq"], ["again_place", "again_seq"]];

/// Something that is said, to be inserted.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) id: MessageId,
    pub(crate) author: Author,
    /// What they are called now.
    pub(crate) handle: String,
    pub(crate) mine: bool,
    pub(crate) said: Said,
    pub(crate) sent_at: u64,
    /// Place number and seq; none while it is queued.
    pub(crate) place: Option<(u32, u64)>,
    pub(crate) unread: bool,
}

/// By how much others have got: the place in which they said so, and what they had said in earlier ones.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub(crate) place: u32,
    pub(crate) everyone: Receipt,
    pub(crate) earlier: Vec<(u32, Receipt)>,
}

impl Marks {
    /// What everybody has got and read of a place at least.
    fn of(&self, place: u32) -> Receipt {
        if place == self.place {
            return self.everyone;
        }
        let known = self.earlier.iter().find(|(earlier, _)| *earlier == place);
        known.map(|(_, everyone)| *everyone).unwrap_or_default()
    }
}

/// Where an unreadable envelope was recorded.
pub(crate) struct Run {
    pub(crate) row: u64,
    /// It begins a run.
    pub(crate) is_new: bool,
}

/// What the sealed value holds; the columns beside it are for finding it.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    id: MessageId,
    author: Option<Author>,
    handle: String,
    mine: bool,
    what: What,
    sent_at: u64,
    place: Option<(u32, u64)>,
    /// Where it lies since we said it again; it is shown where it was said first.
    #[serde(default)]
    again: Option<(u32, u64)>,
    failed: Option<Cause>,
}

#[derive(Clone, Serialize, Deserialize)]
enum What {
    Said(Said),
    Notice(Notice),
    Unreadable(Unreadable),
}

impl Record {
    fn columns(&self) -> (i64, i64) {
        self.place.map_or(QUEUED, |(place, seq)| (i64::from(place), seq as i64))
    }

    fn class(&self) -> Class {
        match &self.what {
            What::Said(said) => said.class(),
            What::Notice(_) | What::Unreadable(_) => Class::Entry,
        }
    }

    fn state(&self, marks: &Marks) -> EntryState {
        match (self.failed, self.mine, self.again.or(self.place)) {
            (Some(cause), _, _) => EntryState::Failed(cause),
            (None, false, _) => EntryState::Received,
            (None, true, None) => EntryState::Queued,
            (None, true, Some((place, seq))) => match marks.of(place) {
                Receipt { read, .. } if read >= seq => EntryState::Read,
                Receipt { delivered, .. } if delivered >= seq => EntryState::Delivered,
                _ => EntryState::Sent,
            },
        }
    }
}

fn class_number(class: Class) -> i64 {
    match class {
        Class::Entry => 0,
        Class::Change => 1,
        Class::Quiet => 2,
    }
}

/// Names what a person said. People choose message ids: only with the person they name something.
fn hidden(tx: &Transaction<'_>, person: &PersonId, id: &MessageId) -> [u8; 32] {
    tx.hidden_name(TABLE, &[&person.0[..], &id.0].concat())
}

/// Inserts something that is said; `None` if it is a repeat of what is there.
pub(crate) fn insert(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    new: &NewEntry,
) -> Result<Option<u64>, StoreError> {
    let name = hidden(tx, &new.author.person, &new.id);
    let record = Record {
        id: new.id,
        author: Some(new.author),
        handle: new.handle.clone(),
        mine: new.mine,
        what: What::Said(new.said.clone()),
        sent_at: new.sent_at,
        place: new.place,
        again: None,
        failed: None,
    };
    put(tx, conversation, &name, &record, new.unread)
}

/// Inserts what happened; its row.
pub(crate) fn insert_notice(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    id: MessageId,
    notice: Notice,
    now: u64,
    place: Option<(u32, u64)>,
) -> Result<u64, StoreError> {
    let unread = matches!(notice, Notice::Joined { .. } | Notice::Invited { .. });
    insert_unsaid(tx, conversation, id, What::Notice(notice), now, place.or(Some((0, 0))), unread)
}

/// Records that an envelope cannot be shown. One right behind another is the same entry, counted: whoever
/// makes them without end makes no rows without end.
pub(crate) fn insert_unreadable(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    cause: Cause,
    (place, seq): (u32, u64),
    id: MessageId,
    now: u64,
) -> Result<Run, StoreError> {
    let last =
        select(tx, conversation, "place = ?2 ORDER BY seq DESC, row DESC LIMIT 1", (place, 0i64))?.pop();
    if let Some((row, mut record)) = last
        && let What::Unreadable(run) = &mut record.what
    {
        (run.count, run.to) = (run.count + 1, seq);
        update(tx, row, &record)?;
        return Ok(Run { row, is_new: false });
    }
    let what = What::Unreadable(Unreadable { cause, count: 1, to: seq });
    let row = insert_unsaid(tx, conversation, id, what, now, Some((place, seq)), true)?;
    Ok(Run { row, is_new: true })
}

fn insert_unsaid(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    id: MessageId,
    what: What,
    now: u64,
    place: Option<(u32, u64)>,
    unread: bool,
) -> Result<u64, StoreError> {
    let name = tx.hidden_name(TABLE, &id.0);
    let record = Record {
        id,
        author: None,
        handle: String::new(),
        mine: false,
        what,
        sent_at: now,
        place,
        again: None,
        failed: None,
    };
    // The id is random.
    put(tx, conversation, &name, &record, unread)?.ok_or(StoreError::Damaged(TABLE))
}

fn put(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    name: &[u8; 32],
    record: &Record,
    unread: bool,
) -> Result<Option<u64>, StoreError> {
    let target = match &record.what {
        What::Said(said) => said.target().map(|target| hidden(tx, &target.person, &target.message)),
        What::Notice(_) | What::Unreadable(_) => None,
    };
    let ((place, seq), class) = (record.columns(), class_number(record.class()));
    let inserted = tx
        .sql()
        .prepare_cached(
            "INSERT INTO entry (conversation, name, place, seq, class, target, unread, value)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, x'') ON CONFLICT DO NOTHING",
        )?
        .execute((&conversation.0[..], &name[..], place, seq, class, target, unread))?;
    if inserted == 0 {
        return Ok(None);
    }
    let row = tx.sql().last_insert_rowid() as u64;
    let value = record::seal(tx, TABLE, &row.to_be_bytes(), record);
    tx.sql().prepare_cached("UPDATE entry SET value = ?2 WHERE row = ?1")?.execute((row, value))?;
    Ok(Some(row))
}

fn update(tx: &Transaction<'_>, row: u64, record: &Record) -> Result<(), StoreError> {
    let (place, seq) = record.columns();
    let (again_place, again_seq) = record.again.map(|(place, seq)| (place, seq as i64)).unzip();
    let value = record::seal(tx, TABLE, &row.to_be_bytes(), record);
    tx.sql()
        .prepare_cached(
            "UPDATE entry SET place = ?2, seq = ?3, again_place = ?4, again_seq = ?5, value = ?6
             WHERE row = ?1",
        )?
        .execute((row, place, seq, again_place, again_seq, value))?;
    Ok(())
}

/// Rows of a conversation; `which` may use two parameters, ?2 and ?3.
fn select(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    which: &str,
    (first, second): (impl rusqlite::ToSql, impl rusqlite::ToSql),
) -> Result<Vec<(u64, Record)>, StoreError> {
    // Every statement has the same three parameters.
    let sql = format!("SELECT row, value FROM entry WHERE conversation = ?1 AND ?3 IS NOT NULL AND {which}");
    let mut statement = tx.sql().prepare_cached(&sql)?;
    let rows = statement.query_map((&conversation.0[..], first, second), |row| {
        Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    rows.map(|row| {
        let (row, value) = row?;
        Ok((row, record::open(tx, TABLE, &row.to_be_bytes(), &value)?))
    })
    .collect()
}

fn load(tx: &Transaction<'_>, conversation: &ConversationId, row: u64) -> Result<Option<Record>, StoreError> {
    Ok(select(tx, conversation, "row = ?2", (row, 0i64))?.pop().map(|(_, record)| record))
}

/// The row of what a person said.
pub(crate) fn row_of(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    person: &PersonId,
    id: &MessageId,
) -> Result<Option<u64>, StoreError> {
    let name = hidden(tx, person, id);
    Ok(tx
        .sql()
        .prepare_cached("SELECT row FROM entry WHERE conversation = ?1 AND name = ?2")?
        .query_row((&conversation.0[..], &name[..]), |row| row.get(0))
        .optional()?)
}

/// What a person said under an id, as it was said.
pub(crate) fn said(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    person: &PersonId,
    id: &MessageId,
) -> Result<Option<Said>, StoreError> {
    let Some(row) = row_of(tx, conversation, person, id)? else { return Ok(None) };
    Ok(load(tx, conversation, row)?.and_then(|record| match record.what {
        What::Said(said) => Some(said),
        What::Notice(_) | What::Unreadable(_) => None,
    }))
}

/// An entry as it is shown now; none if the row is something else.
pub(crate) fn entry(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    row: u64,
    marks: &Marks,
) -> Result<Option<Entry>, StoreError> {
    let record = load(tx, conversation, row)?.filter(|record| record.class() == Class::Entry);
    record.map(|record| show(tx, conversation, row, record, marks)).transpose()
}

/// The most changes of an entry that are looked at, and the most bytes of them in all: the newest. More of
/// them than people have would otherwise cost more with each that comes.
const MOST_CHANGES: i64 = 1024;
const MOST_CHANGED_BYTES: usize = 256 * 1024;

/// The newest changes of an entry, in order.
fn newest_changes(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    name: &[u8; 32],
) -> Result<Vec<Record>, StoreError> {
    // Else SQLite walks the whole conversation in order, for each entry that is shown.
    let mut statement = tx.sql().prepare_cached(
        "SELECT row, value FROM entry INDEXED BY entry_by_target WHERE conversation = ?1 AND target = ?2
         ORDER BY place DESC, seq DESC, row DESC LIMIT ?3",
    )?;
    let mut rows = statement.query((&conversation.0[..], &name[..], MOST_CHANGES))?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (row, value): (u64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        bytes += value.len();
        if bytes > MOST_CHANGED_BYTES && !changes.is_empty() {
            break;
        }
        changes.push(record::open(tx, TABLE, &row.to_be_bytes(), &value)?);
    }
    changes.reverse();
    Ok(changes)
}

/// Makes an entry of its row and of what changes it.
fn show(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    row: u64,
    record: Record,
    marks: &Marks,
) -> Result<Entry, StoreError> {
    let state = record.state(marks);
    let (body, changes) = match (record.what, &record.author) {
        (What::Said(said), Some(author)) => {
            let name = hidden(tx, &author.person, &record.id);
            let mut altered = Altered { said: said.read(), changes: Vec::new() };
            for change in newest_changes(tx, conversation, &name)? {
                if let (What::Said(said), Some(by)) = (change.what, change.author) {
                    let change = Change {
                        author: by,
                        handle: change.handle,
                        mine: change.mine,
                        sent_at: change.sent_at,
                        said: said.read(),
                    };
                    altered.apply(&author.person, change);
                }
            }
            (Body::Said(altered.said), altered.changes)
        }
        (What::Said(_), None) => return Err(StoreError::Damaged(TABLE)),
        (What::Notice(notice), _) => (Body::Notice(notice), Vec::new()),
        (What::Unreadable(run), _) => (Body::Unreadable(run), Vec::new()),
    };
    Ok(Entry {
        row,
        id: record.id,
        conversation: *conversation,
        author: record.author,
        handle: record.handle,
        mine: record.mine,
        body,
        sent_at: record.sent_at,
        state,
        place: record.place.map(|(place, _)| place),
        seq: record.place.map(|(_, seq)| seq),
        changes,
    })
}

/// Entries in order: the last ones before a row (or of all), or the first ones behind one.
pub(crate) fn page(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    before: Option<u64>,
    after: Option<u64>,
    limit: usize,
    marks: &Marks,
) -> Result<Vec<Entry>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let place = "(SELECT place, seq, row FROM entry WHERE row = ?2)";
    let rows = match (before, after) {
        (_, Some(after)) => {
            let which =
                format!("class = 0 AND (place, seq, row) > {place} ORDER BY place, seq, row LIMIT ?3");
            let mut rows = select(tx, conversation, &which, (row_of_sql(after), limit))?;
            if let Some(before) = before {
                let end = rows.iter().position(|(row, _)| *row == before);
                rows.truncate(end.unwrap_or(rows.len()));
            }
            rows
        }
        (Some(before), None) => {
            let which = format!(
                "class = 0 AND (place, seq, row) < {place} ORDER BY place DESC, seq DESC, row DESC LIMIT ?3"
            );
            let mut rows = select(tx, conversation, &which, (row_of_sql(before), limit))?;
            rows.reverse();
            rows
        }
        (None, None) => {
            let which = "class = 0 AND ?2 = 0 ORDER BY place DESC, seq DESC, row DESC LIMIT ?3";
            let mut rows = select(tx, conversation, which, (0i64, limit))?;
            rows.reverse();
            rows
        }
    };
    rows.into_iter().map(|(row, record)| show(tx, conversation, row, record, marks)).collect()
}

/// The newest entry.
pub(crate) fn last(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    marks: &Marks,
) -> Result<Option<Entry>, StoreError> {
    Ok(page(tx, conversation, None, None, 1, marks)?.pop())
}

/// Notes where something of ours was stored. Its row, if that is news. What was said before stays where it
/// is shown: there the others have it.
pub(crate) fn set_place(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    own: &PersonId,
    id: &MessageId,
    place: (u32, u64),
) -> Result<Option<u64>, StoreError> {
    change(tx, conversation, own, id, |record| {
        let is_news = record.again.or(record.place) != Some(place);
        if is_news {
            let lies = if record.place.is_none() { &mut record.place } else { &mut record.again };
            (*lies, record.failed) = (Some(place), None);
        }
        is_news
    })
}

/// Notes that something of ours will not be sent. Its row, if it was queued.
pub(crate) fn fail(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    own: &PersonId,
    id: &MessageId,
    cause: Cause,
) -> Result<Option<u64>, StoreError> {
    change(tx, conversation, own, id, |record| {
        let is_queued = record.place.is_none();
        if is_queued {
            record.failed = Some(cause);
        }
        is_queued
    })
}

fn change(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    own: &PersonId,
    id: &MessageId,
    work: impl FnOnce(&mut Record) -> bool,
) -> Result<Option<u64>, StoreError> {
    let Some(row) = row_of(tx, conversation, own, id)? else { return Ok(None) };
    let Some(mut record) = load(tx, conversation, row)? else { return Ok(None) };
    if !work(&mut record) {
        return Ok(None);
    }
    update(tx, row, &record)?;
    Ok(Some(row))
}

/// Among how many entries, of everybody, those of ours are looked for.
const MOST_LOOKED_AT: u32 = 8192;

/// What of ours lies in a place behind a seq: id, when, and what; the newest so many, oldest first.
pub(crate) fn own_said_above(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    place: u32,
    above: u64,
    most: usize,
) -> Result<Vec<(MessageId, u64, Said)>, StoreError> {
    let mut found = Vec::new();
    for [at, seq] in LIES {
        let sql = format!(
            "SELECT row, value FROM entry WHERE conversation = ?1 AND {at} = ?2 AND {seq} > ?3 AND class < 2
             ORDER BY {seq} DESC LIMIT {MOST_LOOKED_AT}"
        );
        let mut statement = tx.sql().prepare_cached(&sql)?;
        let mut rows = statement.query((&conversation.0[..], place, above as i64))?;
        let mut wanted = most;
        while wanted > 0
            && let Some(row) = rows.next()?
        {
            let (row, value): (u64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let record: Record = record::open(tx, TABLE, &row.to_be_bytes(), &value)?;
            if let What::Said(said) = record.what
                && record.mine
                && record.failed.is_none()
            {
                found.push((record.again.or(record.place), (record.id, record.sent_at, said)));
                wanted -= 1;
            }
        }
    }
    found.sort_by_key(|(lies, _)| *lies);
    Ok(found.split_off(found.len().saturating_sub(most)).into_iter().map(|(_, said)| said).collect())
}

/// Our own entries that lie in a place at a seq in `(after, up_to]`: those whose mark a receipt changes.
pub(crate) fn own_rows_between(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    place: u32,
    after: u64,
    up_to: u64,
) -> Result<Vec<u64>, StoreError> {
    let mut found = Vec::new();
    for [at, seq] in LIES {
        let which = format!("{at} = {place} AND class = 0 AND {seq} > ?2 AND {seq} <= ?3");
        found.extend(select(tx, conversation, &which, (after as i64, up_to as i64))?);
    }
    let has_marks = |record: &Record| match &record.what {
        What::Said(said) => record.mine && said.read().has_marks(said.class()),
        What::Notice(_) | What::Unreadable(_) => false,
    };
    found.retain(|(_, record)| has_marks(record));
    found.sort_by_key(|(_, record)| record.again.or(record.place));
    Ok(found.into_iter().map(|(row, _)| row).collect())
}

/// How many entries were not seen yet.
pub(crate) fn unread_count(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<u64, StoreError> {
    let sql = "SELECT COUNT(*) FROM entry WHERE conversation = ?1 AND unread = 1";
    Ok(tx.sql().prepare_cached(sql)?.query_row([&conversation.0[..]], |row| row.get(0))?)
}

/// How many things that we said wait to be sent. What never will be has no place either.
pub(crate) fn queued_count(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<u64, StoreError> {
    let rows = select(tx, conversation, "place = ?2 AND seq = ?3", QUEUED)?;
    Ok(rows.iter().filter(|(_, record)| record.failed.is_none()).count() as u64)
}

/// The first entry that was not seen yet.
pub(crate) fn first_unread(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT row FROM entry INDEXED BY entry_unread WHERE conversation = ?1 AND unread = 1
               ORDER BY place, seq, row LIMIT 1";
    Ok(tx.sql().prepare_cached(sql)?.query_row([&conversation.0[..]], |row| row.get(0)).optional()?)
}

/// Any number may be named; no row has one beyond SQLite's.
fn row_of_sql(row: u64) -> i64 {
    i64::try_from(row).unwrap_or(i64::MAX)
}

/// Everything was seen, or everything up to a row. Whether that is news.
pub(crate) fn mark_read(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    up_to: Option<u64>,
) -> Result<bool, StoreError> {
    let sql = "UPDATE entry SET unread = 0 WHERE conversation = ?1 AND unread = 1
               AND (?2 IS NULL OR (place, seq, row) <= (SELECT place, seq, row FROM entry WHERE row = ?2))";
    Ok(tx.sql().prepare_cached(sql)?.execute((&conversation.0[..], up_to.map(row_of_sql)))? > 0)
}

/// The seq of a place up to which everything was seen; 0 = nothing.
pub(crate) fn read_up_to(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    place: u32,
) -> Result<u64, StoreError> {
    let sql = "SELECT COALESCE(MAX(seq), 0) FROM entry WHERE conversation = ?1 AND place = ?2 AND seq <
               COALESCE((SELECT MIN(seq) FROM entry INDEXED BY entry_unread
                         WHERE conversation = ?1 AND place = ?2 AND unread = 1), ?3)";
    Ok(tx.sql().prepare_cached(sql)?.query_row((&conversation.0[..], place, QUEUED.1), |row| row.get(0))?)
}

/// Whether nothing was said there yet.
pub(crate) fn is_empty(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<bool, StoreError> {
    Ok(select(tx, conversation, "?2 = 0 LIMIT 1", (0i64, 0i64))?.is_empty())
}

/// Forgets everything.
pub(super) fn forget(tx: &Transaction<'_>, conversation: &ConversationId) -> Result<(), StoreError> {
    tx.sql().prepare_cached("DELETE FROM entry WHERE conversation = ?1")?.execute([&conversation.0[..]])?;
    Ok(())
}
