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

use std::sync::Arc;

use bytes::Bytes;
use posthorn_proto::{DeviceId, Handle, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};

use super::codec::{BadRecord, Parser, Writer};
use crate::mailbox::Snapshot;
use crate::store::Stored;

/// The format that this code writes, and the only one it reads.
pub(crate) const FORMAT: u8 = 1;

/// The first 16 bytes of a post's fingerprint, which is all that is kept of it: enough that no two posts
/// share one.
pub(crate) type ShortFingerprint = [u8; 16];

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
    /// An account with its first device exists, and this many uses of the invite are left.
    Registered {
        handle: Handle,
        identity_key: [u8; 32],
        device: DeviceId,
        device_key: [u8; 32],
        invite: Option<(KeyHash, u32)>,
    },
    /// This is the account's card.
    CardPublished { handle: Handle, card_version: u64, card: Bytes },
    /// The device has this one-time key package. They are numbered from 1 and handed out in order.
    KeyPackageAdded { device: DeviceId, number: u64, key_package: Bytes },
    /// The key package of this number, which is gone, had this digest; kept so that a repeated publication is
    /// recognised.
    KeyPackageMark { device: DeviceId, number: u64, digest: u64 },
    /// This has been the device's last-resort key package since the record's time.
    LastResort { device: DeviceId, key_package: Bytes },
    /// One-time key packages below this number are gone.
    KeyPackagesTaken { device: DeviceId, first: u64 },
    /// These tokens may be spent. The day is unix seconds / 86,400.
    TokensDrawn { day: u32, hashes: Vec<KeyHash> },
    /// A tombstone: copied forward from `Created` while a draw of this token may still stand in an older
    /// segment.
    TokenSpent { token: KeyHash },
    /// Tokens drawn before this day are void.
    TokensExpired { before: u32 },
    /// An invite exists with this many uses.
    InviteMinted { hash: KeyHash, uses: u32, expires: u64 },
    /// The invite is gone.
    InviteGone { hash: KeyHash },
}

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
    /// The reader's cursor, and the oldest seq stored, after an acknowledgement.
    Advanced { reader: ReaderId, cursor: u64, oldest: u64 },
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

impl Record {
    /// What the live side is told of an append, if this is one.
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

    /// The mailbox that this removes, if it removes one.
    pub(crate) fn destroyed(&self) -> Option<MailboxId> {
        match &self.change {
            Change::Mailbox { mailbox, change: MailboxChange::Removed, .. } => Some(*mailbox),
            _ => None,
        }
    }

    /// The opaque bytes that it carries.
    pub(crate) fn body(&self) -> Option<&Bytes> {
        match &self.change {
            Change::Mailbox { change: MailboxChange::Posted { envelope, .. }, .. } => Some(envelope),
            Change::CardPublished { card, .. } => Some(card),
            Change::KeyPackageAdded { key_package, .. } | Change::LastResort { key_package, .. } => {
                Some(key_package)
            }
            _ => None,
        }
    }

    /// Whether it is usually needed for a long time. The others are soon superseded by the next of their
    /// kind: the next cursor, the next day.
    pub(crate) fn is_lasting(&self) -> bool {
        match &self.change {
            Change::Mailbox { change, .. } => {
                matches!(
                    change,
                    MailboxChange::Posted { .. } | MailboxChange::Mark { .. } | MailboxChange::Snapshot(_)
                )
            }
            Change::Clock
            | Change::KeyPackagesTaken { .. }
            | Change::TokenSpent { .. }
            | Change::TokensExpired { .. }
            | Change::InviteGone { .. } => false,
            _ => true,
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
        out.extend_from_slice(&[FORMAT, kind(&self.change)]);
        let mut w = Writer(out);
        w.number(self.version).number(u64::from(self.time));
        match &self.change {
            Change::Clock => {}
            Change::Created { mailbox, token, post_key, turn_key, readers, expiry, quota } => {
                w.fixed(mailbox).fixed(token).fixed(post_key).fixed(turn_key).readers(readers);
                w.number(u64::from(*expiry)).number(*quota);
            }
            Change::Mailbox { mailbox, life, change } => {
                w.fixed(mailbox).number(*life);
                encode_mailbox_change(change, &mut w);
            }
            Change::Registered { handle, identity_key, device, device_key, invite } => {
                w.counted(handle.as_str().as_bytes()).fixed(identity_key).fixed(device).fixed(device_key);
                w.number(u64::from(invite.is_some()));
                if let Some((hash, left)) = invite {
                    w.fixed(hash).number(u64::from(*left));
                }
            }
            Change::CardPublished { handle, card_version, card } => {
                w.counted(handle.as_str().as_bytes()).number(*card_version).fixed(card);
            }
            Change::KeyPackageAdded { device, number, key_package } => {
                w.fixed(device).number(*number).fixed(key_package);
            }
            Change::LastResort { device, key_package } => {
                w.fixed(device).fixed(key_package);
            }
            Change::KeyPackageMark { device, number, digest } => {
                w.fixed(device).number(*number).fixed(digest.to_le_bytes());
            }
            Change::KeyPackagesTaken { device, first } => {
                w.fixed(device).number(*first);
            }
            Change::TokensDrawn { day, hashes } => {
                w.number(u64::from(*day)).number(hashes.len() as u64);
                for hash in hashes {
                    w.fixed(hash);
                }
            }
            Change::TokenSpent { token } => {
                w.fixed(token);
            }
            Change::TokensExpired { before } => {
                w.number(u64::from(*before));
            }
            Change::InviteMinted { hash, uses, expires } => {
                w.fixed(hash).number(u64::from(*uses)).number(*expires);
            }
            Change::InviteGone { hash } => {
                w.fixed(hash);
            }
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

/// The stable number of each kind of record. A number is never reused.
fn kind(change: &Change) -> u8 {
    match change {
        Change::Clock => 1,
        Change::Created { .. } => 2,
        Change::Mailbox { change, .. } => match change {
            MailboxChange::Posted { .. } => 10,
            MailboxChange::Mark { .. } => 11,
            MailboxChange::Advanced { .. } => 12,
            MailboxChange::Claimed { .. } => 13,
            MailboxChange::Opened { .. } => 14,
            MailboxChange::Cut { .. } => 15,
            MailboxChange::Removed => 16,
            MailboxChange::Snapshot(_) => 17,
        },
        Change::Registered { .. } => 30,
        Change::CardPublished { .. } => 31,
        Change::KeyPackageAdded { .. } => 32,
        Change::KeyPackageMark { .. } => 33,
        Change::LastResort { .. } => 34,
        Change::KeyPackagesTaken { .. } => 35,
        Change::TokensDrawn { .. } => 40,
        Change::TokenSpent { .. } => 41,
        Change::TokensExpired { .. } => 42,
        Change::InviteMinted { .. } => 43,
        Change::InviteGone { .. } => 44,
    }
}

fn encode_mailbox_change(change: &MailboxChange, w: &mut Writer<'_>) {
    match change {
        MailboxChange::Posted { seq, oldest, post_id, fingerprint, turn, envelope } => {
            w.number(*seq)
                .number(*oldest)
                .fixed(post_id)
                .fixed(fingerprint)
                .turn(turn.as_deref())
                .fixed(envelope);
        }
        MailboxChange::Mark { seq, post_id, fingerprint } => {
            w.number(*seq).fixed(post_id).fixed(fingerprint);
        }
        MailboxChange::Advanced { reader, cursor, oldest } => {
            w.fixed(reader).number(*cursor).number(*oldest);
        }
        MailboxChange::Claimed { reader, key } => {
            w.fixed(reader).fixed(key);
        }
        MailboxChange::Opened { day } => {
            w.number(u64::from(*day));
        }
        MailboxChange::Cut { oldest, forgotten } => {
            w.number(*oldest).number(*forgotten);
        }
        MailboxChange::Removed => {}
        MailboxChange::Snapshot(snapshot) => snapshot.encode(w),
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
        10..=17 => Change::Mailbox {
            mailbox: MailboxId(p.array()?),
            life: p.number()?,
            change: decode_mailbox_change(kind, p)?,
        },
        30 => Change::Registered {
            handle: p.handle()?,
            identity_key: p.array()?,
            device: DeviceId(p.array()?),
            device_key: p.array()?,
            invite: if p.flag()? { Some((p.key()?, p.small()?)) } else { None },
        },
        31 => Change::CardPublished { handle: p.handle()?, card_version: p.number()?, card: p.rest() },
        32 => Change::KeyPackageAdded {
            device: DeviceId(p.array()?),
            number: p.number()?,
            key_package: p.rest(),
        },
        33 => Change::KeyPackageMark {
            device: DeviceId(p.array()?),
            number: p.number()?,
            digest: u64::from_le_bytes(p.array()?),
        },
        34 => Change::LastResort { device: DeviceId(p.array()?), key_package: p.rest() },
        35 => Change::KeyPackagesTaken { device: DeviceId(p.array()?), first: p.number()? },
        40 => {
            let day = p.small()?;
            let count = p.count(KeyHash::LEN)?;
            Change::TokensDrawn { day, hashes: (0..count).map(|_| p.key()).collect::<Result<_, _>>()? }
        }
        41 => Change::TokenSpent { token: p.key()? },
        42 => Change::TokensExpired { before: p.small()? },
        43 => Change::InviteMinted { hash: p.key()?, uses: p.small()?, expires: p.number()? },
        44 => Change::InviteGone { hash: p.key()? },
        _ => return Err(BadRecord("an unknown kind")),
    })
}

fn decode_mailbox_change(kind: u8, p: &mut Parser) -> Result<MailboxChange, BadRecord> {
    Ok(match kind {
        10 => MailboxChange::Posted {
            seq: p.number()?,
            oldest: p.number()?,
            post_id: PostId(p.array()?),
            fingerprint: p.array()?,
            turn: p.turn()?,
            envelope: p.rest(),
        },
        11 => MailboxChange::Mark { seq: p.number()?, post_id: PostId(p.array()?), fingerprint: p.array()? },
        12 => {
            MailboxChange::Advanced { reader: ReaderId(p.array()?), cursor: p.number()?, oldest: p.number()? }
        }
        13 => MailboxChange::Claimed { reader: ReaderId(p.array()?), key: p.key()? },
        14 => MailboxChange::Opened { day: p.small()? },
        15 => MailboxChange::Cut { oldest: p.number()?, forgotten: p.number()? },
        16 => MailboxChange::Removed,
        17 => MailboxChange::Snapshot(Box::new(Snapshot::decode(p)?)),
        _ => return Err(BadRecord("an unknown kind")),
    })
}
