//! What can change in a mailbox, and the bytes that say so. The ledger's records carry these changes and the
//! directory's.
//!
//! It owns the format of its own fields only: what comes before them in a record is the ledger's.

use std::sync::Arc;

use bytes::Bytes;
use posthorn_proto::{KeyHash, PostId, ReaderId, Turn};

use super::readers::{Active, Evicted};
use crate::store::OpeningNumber;
use crate::store::codec::{BadRecord, Parser, Writer};

/// By what the repeat of a post is recognised.
pub(crate) type ShortFingerprint = [u8; 16];

/// What a record says about a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MailboxChange {
    /// The envelope of this seq. Its turn has happened, and `oldest` is the oldest seq stored after that.
    Posted {
        seq: u64,
        oldest: u64,
        post_id: PostId,
        fingerprint: ShortFingerprint,
        turn: Option<Arc<Turn>>,
        envelope: Bytes,
    },
    /// A trimmed post that is still remembered (rule 2). Version and time are those of the post.
    Mark { seq: u64, post_id: PostId, fingerprint: ShortFingerprint },
    /// The reader's cursor, and the oldest seq stored, after an acknowledgement; and the opening that it came
    /// by, if that is another than the last time.
    Advanced { reader: ReaderId, cursor: u64, oldest: u64, opening: Option<OpeningNumber> },
    /// The reader's key, after an invitation's key was replaced.
    Claimed { reader: ReaderId, key: KeyHash },
    /// The last day (unix seconds / 86,400) on which it was opened.
    Opened { day: u32 },
    /// Expiry: the oldest seq stored, and the newest whose post id is forgotten.
    Cut { oldest: u64, forgotten: u64 },
    /// It is gone: destroyed, or removed because nobody opened it. A tombstone.
    Removed,
    /// Everything but the log, as it is at the record's version. Written by compaction; replaces every
    /// earlier record but posts.
    Snapshot(Box<Snapshot>),
}

/// All of a mailbox but its posts, as a record states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(super) head: u64,
    pub(super) oldest: u64,
    pub(super) forgotten: u64,
    pub(super) post_key: KeyHash,
    pub(super) turn_key: KeyHash,
    pub(super) quota: u64,
    pub(super) paid: u64,
    pub(super) expiry: u32,
    pub(super) opened: u32,
    pub(super) active: Vec<Active>,
    pub(super) evicted: Vec<Evicted>,
}

impl MailboxChange {
    /// The stable number of its kind, 10 to 18. A number is never reused.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Posted { .. } => 10,
            Self::Mark { .. } => 11,
            Self::Advanced { opening: None, .. } => 12,
            Self::Advanced { opening: Some(_), .. } => 18,
            Self::Claimed { .. } => 13,
            Self::Opened { .. } => 14,
            Self::Cut { .. } => 15,
            Self::Removed => 16,
            Self::Snapshot(_) => 17,
        }
    }

    /// Whether it is usually needed for a long time. The others are soon superseded by the next of their
    /// kind: the next cursor, the next day.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Posted { .. } | Self::Mark { .. } | Self::Snapshot(_))
    }

    /// Appends its bytes up to the envelope, which comes last.
    pub(crate) fn encode_head(&self, w: &mut Writer<'_>) {
        match self {
            Self::Posted { seq, oldest, post_id, fingerprint, turn, .. } => {
                w.number(*seq).number(*oldest).fixed(post_id).fixed(fingerprint).turn(turn.as_deref());
            }
            Self::Mark { seq, post_id, fingerprint } => {
                w.number(*seq).fixed(post_id).fixed(fingerprint);
            }
            Self::Advanced { reader, cursor, oldest, opening } => {
                w.fixed(reader).number(*cursor).number(*oldest);
                if let Some(OpeningNumber(opening)) = opening {
                    w.number(*opening);
                }
            }
            Self::Claimed { reader, key } => {
                w.fixed(reader).fixed(key);
            }
            Self::Opened { day } => {
                w.number(u64::from(*day));
            }
            Self::Cut { oldest, forgotten } => {
                w.number(*oldest).number(*forgotten);
            }
            Self::Removed => {}
            Self::Snapshot(snapshot) => snapshot.encode(w),
        }
    }

    /// Reads what [`MailboxChange::encode_head`] wrote, and the envelope.
    pub(crate) fn decode(kind: u8, p: &mut Parser) -> Result<Self, BadRecord> {
        Ok(match kind {
            10 => Self::Posted {
                seq: p.number()?,
                oldest: p.number()?,
                post_id: PostId(p.array()?),
                fingerprint: p.array()?,
                turn: p.turn()?,
                envelope: p.rest(),
            },
            11 => Self::Mark { seq: p.number()?, post_id: PostId(p.array()?), fingerprint: p.array()? },
            12 | 18 => Self::Advanced {
                reader: ReaderId(p.array()?),
                cursor: p.number()?,
                oldest: p.number()?,
                opening: if kind == 18 { Some(OpeningNumber(p.number()?)) } else { None },
            },
            13 => Self::Claimed { reader: ReaderId(p.array()?), key: p.key()? },
            14 => Self::Opened { day: p.small()? },
            15 => Self::Cut { oldest: p.number()?, forgotten: p.number()? },
            16 => Self::Removed,
            17 => Self::Snapshot(Box::new(Snapshot::decode(p)?)),
            _ => return Err(BadRecord("an unknown kind")),
        })
    }
}

impl Snapshot {
    /// The newest seq; 0 = none yet.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Appends the snapshot's bytes.
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.number(self.head).number(self.oldest).number(self.forgotten);
        w.fixed(self.post_key).fixed(self.turn_key).number(self.quota).fixed(self.paid.to_le_bytes());
        w.number(u64::from(self.expiry)).number(u64::from(self.opened));
        w.number(self.active.len() as u64);
        for reader in &self.active {
            w.fixed(reader.id).fixed(reader.key).number(reader.cursor);
        }
        w.number(self.evicted.len() as u64);
        for Evicted { reader, until } in &self.evicted {
            w.fixed(reader.id).fixed(reader.key).number(reader.cursor).number(*until);
        }
        if self.openings().any(|opening| opening != OpeningNumber::default()) {
            self.openings().for_each(|OpeningNumber(opening)| {
                w.number(opening);
            });
        }
    }

    /// The latest opening of each reader. They come last, and only where there are any, because the first
    /// relays knew none.
    fn openings(&self) -> impl Iterator<Item = OpeningNumber> {
        let evicted = self.evicted.iter().map(|evicted| &evicted.reader);
        self.active.iter().chain(evicted).map(|reader| reader.opening)
    }

    /// Reads what [`Snapshot::encode`] wrote, and nothing behind it may be left.
    pub(crate) fn decode(p: &mut Parser) -> Result<Self, BadRecord> {
        let (head, oldest, forgotten) = (p.number()?, p.number()?, p.number()?);
        if forgotten >= oldest || oldest.checked_sub(1).is_none_or(|below| below > head) {
            return Err(BadRecord("seqs out of order"));
        }
        let reader = |p: &mut Parser| {
            let (id, key, cursor) = (ReaderId(p.array()?), p.key()?, p.number()?);
            Ok::<_, BadRecord>(Active { id, key, cursor, opening: OpeningNumber::default() })
        };
        let mut snapshot =
            Self {
                head,
                oldest,
                forgotten,
                post_key: p.key()?,
                turn_key: p.key()?,
                quota: p.number()?,
                paid: u64::from_le_bytes(p.array()?),
                expiry: p.small()?,
                opened: p.small()?,
                active: {
                    let count = p.count(49)?;
                    (0..count).map(|_| reader(p)).collect::<Result<_, _>>()?
                },
                evicted: {
                    let count = p.count(50)?;
                    (0..count)
                        .map(|_| Ok(Evicted { reader: reader(p)?, until: p.number()? }))
                        .collect::<Result<_, BadRecord>>()?
                },
            };
        if p.end().is_err() {
            let evicted = snapshot.evicted.iter_mut().map(|evicted| &mut evicted.reader);
            for reader in snapshot.active.iter_mut().chain(evicted) {
                reader.opening = OpeningNumber(p.number()?);
            }
            if snapshot.openings().all(|opening| opening == OpeningNumber::default()) {
                return Err(BadRecord("openings that say nothing"));
            }
        }
        Ok(snapshot)
    }
}
