//! Records: what has happened, as facts with absolute values. They are what the journal consists of.
//!
//! A record says what is the case from then on (a cursor *is* 7, the oldest stored seq *is* 5), never what to
//! add, so that replaying it twice, or replaying a copy of it late, changes nothing. Each has a `version`,
//! counted over the life of the store, and the `time` at which it was decided; replay reads no clock. A
//! mailbox is named by its id and its *life*, which is the version of the record that created it, so that
//! nothing of a removed mailbox can return in a later one with the same id.
//!
//! Format: `format(1) kind(1) version time fields`, numbers as varints; a body (envelope, card, key package)
//! comes last and reaches to the end.

use bytes::Bytes;
use posthorn_proto::{KeyHash, MailboxId, Reader};

use super::Passed;
use crate::blob::change::BlobChange;
use crate::directory::change::DirectoryChange;
use crate::mailbox::change::MailboxChange;
use crate::store::codec::{BadRecord, Parser, Writer};
use crate::store::{Published, Stored};

/// The format that this code writes, and the only one it reads.
pub(crate) const FORMAT: u8 = 1;

/// One fact, with its version and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Counts records over the life of the store, from 1.
    pub(crate) version: u64,
    /// When it was decided, unix seconds.
    pub(crate) time: u32,
    /// What is the case from then on.
    pub(crate) change: Change,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Only that this was the time.
    Clock,
    /// How far posts have left the ledger.
    Passed(Passed),
    /// A mailbox exists; its life is the record's version. The token is spent.
    Created {
        mailbox: MailboxId,
        token: KeyHash,
        post_key: KeyHash,
        turn_key: KeyHash,
        readers: Vec<Reader>,
        expiry: u32,
        quota: u64,
    },
    /// Something about one life of a mailbox.
    Mailbox { mailbox: MailboxId, life: u64, change: MailboxChange },
    /// Something about a blob.
    Blob(BlobChange),
    /// Something about the directory.
    Directory(DirectoryChange),
}

/// What a record says to the live side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// An envelope was appended.
    Appended(MailboxId, Stored),
    /// A mailbox is gone.
    Gone(MailboxId),
}

impl News {
    pub(crate) fn tell(&self, published: &dyn Published) {
        match self {
            Self::Appended(mailbox, stored) => published.appended(mailbox, stored),
            Self::Gone(mailbox) => published.destroyed(mailbox),
        }
    }
}

impl Record {
    /// The envelope that it holds, if it is an append.
    pub(crate) fn stored(&self) -> Option<(MailboxId, Stored)> {
        let Change::Mailbox {
            mailbox,
            change: MailboxChange::Posted { seq, post_id, turn, envelope, .. },
            ..
        } = &self.change
        else {
            return None;
        };
        Some((
            *mailbox,
            Stored { seq: *seq, post_id: *post_id, envelope: envelope.clone(), turn: turn.clone() },
        ))
    }

    /// What the live side is told of it once it is durable, by whoever applies it, wherever it was made.
    pub(crate) fn news(&self) -> Option<News> {
        match &self.change {
            Change::Mailbox { mailbox, change: MailboxChange::Removed, .. } => Some(News::Gone(*mailbox)),
            _ => self.stored().map(|(mailbox, stored)| News::Appended(mailbox, stored)),
        }
    }

    /// The opaque bytes that it carries.
    pub(crate) fn body(&self) -> Option<&Bytes> {
        match &self.change {
            Change::Mailbox { change: MailboxChange::Posted { envelope, .. }, .. } => Some(envelope),
            Change::Directory(change) => change.body(),
            _ => None,
        }
    }

    /// Whether it is usually needed for a long time. The others are soon superseded by the next of their
    /// kind: the next cursor, the next day.
    pub(crate) fn is_lasting(&self) -> bool {
        match &self.change {
            Change::Clock | Change::Passed(_) => false,
            Change::Created { .. } => true,
            Change::Mailbox { change, .. } => change.is_lasting(),
            Change::Blob(change) => change.is_lasting(),
            Change::Directory(change) => change.is_lasting(),
        }
    }

    /// The mailbox of which it turns the key.
    pub(crate) fn turned(&self) -> Option<&MailboxId> {
        match &self.change {
            Change::Mailbox { mailbox, change: MailboxChange::Posted { turn: Some(_), .. }, .. } => {
                Some(mailbox)
            }
            _ => None,
        }
    }

    /// Whether it only remembers a post whose envelope is gone. Applying it again to a log that remembers the
    /// post changes nothing.
    pub(crate) fn is_mark(&self) -> bool {
        matches!(&self.change, Change::Mailbox { change: MailboxChange::Mark { .. }, .. })
    }

    /// Appends the record's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(192 + self.body().map_or(0, Bytes::len));
        self.encode_head(out);
        out.extend_from_slice(self.body().map_or(&[], Bytes::as_ref));
    }

    /// Appends the record's bytes up to its body, which comes last: whoever can put that behind them from
    /// where it lies need not copy it twice.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[FORMAT, kind(&self.change)]);
        let mut w = Writer(out);
        w.number(self.version).number(u64::from(self.time));
        match &self.change {
            Change::Clock => {}
            Change::Passed(passed) => passed.encode(&mut w),
            Change::Created { mailbox, token, post_key, turn_key, readers, expiry, quota } => {
                w.fixed(mailbox).fixed(token).fixed(post_key).fixed(turn_key).readers(readers);
                w.number(u64::from(*expiry)).number(*quota);
            }
            Change::Mailbox { mailbox, life, change } => {
                w.fixed(mailbox).number(*life);
                change.encode_head(&mut w);
            }
            Change::Blob(change) => change.encode(&mut w),
            Change::Directory(change) => change.encode_head(&mut w),
        }
    }

    /// Reads what [`Record::encode`] wrote and nothing else: whatever is accepted is the encoding of what is
    /// returned.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, BadRecord> {
        let mut p = Parser::new(bytes);
        let [format, kind] = p.array()?;
        if format != FORMAT {
            return Err(BadRecord("another format"));
        }
        let (version, time) = (p.number()?, p.small()?);
        let change = decode_change(kind, &mut p)?;
        p.end()?;
        Ok(Self { version, time, change })
    }
}

impl Passed {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.number(self.made).number(self.at).number(self.since);
        w.number(self.first).number(self.number).number(self.entries);
    }

    pub(super) fn decode(p: &mut Parser) -> Result<Self, BadRecord> {
        let (made, at, since) = (p.number()?, p.number()?, p.number()?);
        Ok(Self { made, at, since, first: p.number()?, number: p.number()?, entries: p.number()? })
    }
}

/// The stable number of each kind of record: 10 to 18 are a mailbox's, 20 to 22 a blob's, those from 30 on
/// the directory's. A number is never reused.
fn kind(change: &Change) -> u8 {
    match change {
        Change::Clock => 1,
        Change::Created { .. } => 2,
        Change::Passed(_) => 3,
        Change::Mailbox { change, .. } => change.kind(),
        Change::Blob(change) => change.kind(),
        Change::Directory(change) => change.kind(),
    }
}

fn decode_change(kind: u8, p: &mut Parser) -> Result<Change, BadRecord> {
    Ok(match kind {
        1 => Change::Clock,
        2 => Change::Created {
            mailbox: MailboxId(p.array()?),
            token: p.key()?,
            post_key: p.key()?,
            turn_key: p.key()?,
            readers: p.readers()?,
            expiry: p.small()?,
            quota: p.number()?,
        },
        3 => Change::Passed(Passed::decode(p)?),
        10..=18 => Change::Mailbox {
            mailbox: MailboxId(p.array()?),
            life: p.number()?,
            change: MailboxChange::decode(kind, p)?,
        },
        20..=22 => Change::Blob(BlobChange::decode(kind, p)?),
        _ => Change::Directory(DirectoryChange::decode(kind, p)?),
    })
}
