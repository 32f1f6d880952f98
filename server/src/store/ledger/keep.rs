//! What is still needed of an old journal segment, and in which form it is carried forward (rule 18).
//!
//! Three kinds of records, and why nothing is lost when a segment goes:
//! - *Bodies and marks* (posts, cards, key packages, accounts): needed while the state still points at
//!   exactly this place, or remembers exactly this number.
//! - *Statements about a mailbox* (turns, claims, cursors): needed until a later snapshot of the mailbox is
//!   in the journal. If one is still needed, either it is the newest of its kind and is copied, or a fresh
//!   snapshot is written instead.
//! - *Tombstones*: needed while an older segment may hold what they bury. `floor` says whether.

use posthorn_proto::{KeyHash, MailboxId};

use super::{Change, Ledger, Record};
use crate::blob::change::BlobChange;
use crate::directory::change::DirectoryChange;
use crate::directory::invites::Invite;
use crate::directory::tokens::Tokens;
use crate::mailbox::Mailbox;
use crate::mailbox::change::MailboxChange;

/// What compaction must do about one record in a segment that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Keep {
    /// Write the record again, byte for byte.
    pub(crate) copy: bool,
    /// Write these, before it or instead of it.
    pub(crate) write: Vec<Record>,
}

impl Keep {
    const DROP: Self = Self { copy: false, write: Vec::new() };
    const COPY: Self = Self { copy: true, write: Vec::new() };

    fn copy_if(copy: bool) -> Self {
        Self { copy, write: Vec::new() }
    }

    fn write(record: Record) -> Self {
        Self { copy: false, write: vec![record] }
    }
}

impl<L: Clone + PartialEq> Ledger<L> {
    /// Says what must be carried forward of `record`, which was found at `place`. Ask, write the answer to
    /// the journal and [`apply`](Self::apply) it (the copy with its new place) in one critical section: a
    /// snapshot is right only at the place in the journal where it is the state.
    ///
    /// `floor` is what [`version`](Self::version) was when the oldest remaining segment was begun. Whatever
    /// remains was written with all records up to `floor` in effect, so tombstones up to there no longer bury
    /// anything.
    pub(crate) fn keep(&self, record: &Record, place: &L, floor: u64) -> Keep {
        // The newest record stays, whatever it says, so that no version is ever given out twice.
        let tombstone = Keep::copy_if(record.version > floor || record.version == self.newest.version);
        match &record.change {
            Change::Clock => Keep::copy_if(record.version == self.believed.version),
            Change::Passed(_) => Keep::copy_if(record.version == self.passed.0),
            Change::Created { mailbox, token, .. } => {
                let present = self.mailboxes.get(mailbox).filter(|present| present.life == record.version);
                let mut keep = Keep::DROP;
                match present {
                    Some(present) if present.version == record.version => return Keep::COPY,
                    // A mere copy would stand behind what has happened since, which would find no mailbox.
                    Some(present) if present.stated == record.version => {
                        keep.write.push(self.state(mailbox, present));
                    }
                    _ => {}
                }
                if tombstone.copy {
                    keep.write.push(Record {
                        change: Change::Directory(DirectoryChange::TokenSpent { token: *token }),
                        ..*record
                    });
                }
                keep
            }
            Change::Mailbox { mailbox, life, change } => {
                let present = self.mailboxes.get(mailbox).filter(|present| present.life == *life);
                match (present, change) {
                    (Some(present), _) => self.keep_of_mailbox(present, record, place),
                    (None, MailboxChange::Removed) => tombstone,
                    (None, _) => Keep::DROP,
                }
            }
            Change::Blob(change) => self.keep_of_blob(change, record, place, tombstone),
            Change::Directory(change) => self.keep_of_directory(change, record, place, tombstone),
        }
    }

    fn keep_of_blob(&self, change: &BlobChange, record: &Record, place: &L, tombstone: Keep) -> Keep {
        let is_stated_here = |blob, life| {
            let present = self.blobs.in_life(blob, life);
            present.is_some_and(|present| present.place == *place)
        };
        match change {
            BlobChange::Created { blob, .. } if is_stated_here(blob, record.version) => Keep::COPY,
            BlobChange::Created { token, .. } if tombstone.copy => {
                let spent = DirectoryChange::UploadTokenSpent { token: *token };
                Keep::write(Record { change: Change::Directory(spent), ..*record })
            }
            BlobChange::Created { .. } => Keep::DROP,
            BlobChange::Extended { blob, life, .. } => Keep::copy_if(is_stated_here(blob, *life)),
            BlobChange::Removed { blob, life } => match self.blobs.in_life(blob, *life) {
                Some(_) => Keep::DROP,
                None => tombstone,
            },
        }
    }

    fn keep_of_directory(
        &self,
        change: &DirectoryChange,
        record: &Record,
        place: &L,
        tombstone: Keep,
    ) -> Keep {
        let about = |change| Record { change: Change::Directory(change), ..*record };
        match change {
            DirectoryChange::Registered { handle, device, invite, .. } => {
                match (self.accounts.made_by(handle, device), invite) {
                    (Some(account), _) => Keep::copy_if(account.place.as_ref().is_none_or(|at| at == place)),
                    // Of an account that is gone nothing is needed but what it left of its invite.
                    (None, Some((hash, _))) if tombstone.copy => match self.invites.get(hash) {
                        Some(invite) if invite.version == record.version => {
                            Keep::write(self.state_of_invite(*hash, invite))
                        }
                        Some(_) => Keep::DROP,
                        None => Keep::write(about(DirectoryChange::InviteGone { hash: *hash })),
                    },
                    (None, _) => Keep::DROP,
                }
            }
            DirectoryChange::AccountRemoved { devices, .. } => {
                let here = |device: &_| self.accounts.gone(device) == Some(place);
                Keep::copy_if(devices.iter().any(here))
            }
            DirectoryChange::CardPublished { handle, .. } => {
                Keep::copy_if(self.cards.get(handle).is_some_and(|card| card.place == *place))
            }
            DirectoryChange::KeyPackageAdded { device, number, .. }
            | DirectoryChange::KeyPackageMark { device, number, .. } => {
                let packages = self.packages.get(device);
                let Some(package) = packages.and_then(|all| all.one_time.get(number)) else {
                    return Keep::DROP;
                };
                match &package.place {
                    Some((present, _)) => Keep::copy_if(present == place),
                    None => {
                        let (device, number, digest) = (*device, *number, package.digest);
                        Keep::write(about(DirectoryChange::KeyPackageMark { device, number, digest }))
                    }
                }
            }
            DirectoryChange::LastResort { device, .. } => {
                let last = self.packages.get(device).and_then(|packages| packages.last_resort.as_ref());
                Keep::copy_if(last.is_some_and(|last| last.place == *place))
            }
            DirectoryChange::KeyPackagesTaken { device, first } => {
                Keep::copy_if(self.packages.get(device).is_some_and(|packages| packages.first == *first))
            }
            DirectoryChange::InviteMinted { hash, .. } => {
                let Some(invite) = self.invites.get(hash) else { return Keep::DROP };
                Keep::write(self.state_of_invite(*hash, invite))
            }
            DirectoryChange::InviteGone { .. } => tombstone,
            tokens => self.keep_of_tokens(tokens, record, tombstone),
        }
    }

    fn keep_of_tokens(&self, change: &DirectoryChange, record: &Record, tombstone: Keep) -> Keep {
        let about = |change| Record { change: Change::Directory(change), ..*record };
        let is_said_here = |tokens: &Tokens, token: &KeyHash| {
            Keep::copy_if(tokens.get(token).is_some_and(|drawn| drawn.version == record.version))
        };
        match change {
            DirectoryChange::TokensDrawn { day, hashes } => {
                match unspent(&self.tokens, hashes, record.version) {
                    hashes if hashes.is_empty() => Keep::DROP,
                    hashes => Keep::write(about(DirectoryChange::TokensDrawn { day: *day, hashes })),
                }
            }
            DirectoryChange::UploadTokensDrawn { day, hashes } => {
                match unspent(&self.uploads, hashes, record.version) {
                    hashes if hashes.is_empty() => Keep::DROP,
                    hashes => Keep::write(about(DirectoryChange::UploadTokensDrawn { day: *day, hashes })),
                }
            }
            // What has changed since says so itself, and buries the drawing.
            DirectoryChange::TokenSpentOn { token, .. } => is_said_here(&self.tokens, token),
            DirectoryChange::UploadTokenSpentOn { token, .. } => is_said_here(&self.uploads, token),
            DirectoryChange::TokensExpired { before } => {
                Keep::copy_if(tombstone.copy && self.tokens.void_before() == *before)
            }
            DirectoryChange::TokenSpent { .. } | DirectoryChange::UploadTokenSpent { .. } => tombstone,
            _ => Keep::DROP,
        }
    }

    /// What a record would say of an invite now.
    fn state_of_invite(&self, hash: KeyHash, invite: &Invite) -> Record {
        let (uses, expires) = (invite.uses, invite.expires);
        let change = Change::Directory(DirectoryChange::InviteMinted { hash, uses, expires });
        Record { version: invite.version, time: self.newest.time, change }
    }

    fn keep_of_mailbox(&self, mailbox: &Mailbox<L>, record: &Record, place: &L) -> Keep {
        let Change::Mailbox { mailbox: id, life, change } = &record.change else { return Keep::DROP };
        let unstated = record.version > mailbox.stated;
        let about = |version, time, change| Record {
            version,
            time,
            change: Change::Mailbox { mailbox: *id, life: *life, change },
        };
        let snapshot = || vec![self.state(id, mailbox)];
        match change {
            MailboxChange::Posted { seq, post_id, fingerprint, turn, .. } => {
                let mark = || MailboxChange::Mark { seq: *seq, post_id: *post_id, fingerprint: *fingerprint };
                let mut keep =
                    self.keep_post(mailbox, *seq, place, || about(record.version, record.time, mark()));
                let names_head = *seq == mailbox.log.head() && mailbox.log.get(*seq).is_none();
                if unstated && (turn.is_some() || names_head) {
                    keep.write.splice(..0, snapshot());
                }
                keep
            }
            MailboxChange::Mark { seq, .. } => {
                let mut keep = self.keep_post(mailbox, *seq, place, || record.clone());
                if unstated && *seq == mailbox.log.head() && mailbox.log.get(*seq).is_none() {
                    keep.write.splice(..0, snapshot());
                }
                keep
            }
            MailboxChange::Advanced { reader, cursor, opening, .. } if unstated => {
                match mailbox.readers.get(reader) {
                    Some(present) if present.cursor == *cursor => Keep::COPY,
                    // The one record that names the opening.
                    Some(present) if *opening == Some(present.opening) => {
                        let (cursor, oldest) = (present.cursor, mailbox.log.oldest());
                        let (reader, opening) = (*reader, *opening);
                        let change = MailboxChange::Advanced { reader, cursor, oldest, opening };
                        Keep::write(about(record.version, record.time, change))
                    }
                    // If it is not its reader's newest, then the newest also names the oldest seq stored.
                    Some(_) => Keep::DROP,
                    // The reader has gone since the last statement, which still names it.
                    None => Keep { copy: false, write: snapshot() },
                }
            }
            MailboxChange::Claimed { .. } if unstated => Keep { copy: false, write: snapshot() },
            MailboxChange::Opened { day } if unstated => Keep::copy_if(mailbox.opened() == *day),
            MailboxChange::Cut { oldest, forgotten } if unstated => {
                match (mailbox.log.oldest() == *oldest, mailbox.log.forgotten() == *forgotten) {
                    (true, true) => Keep::COPY,
                    // Cut or trimmed further since. This may be the last record that says what is forgotten.
                    (false, true) => Keep { copy: false, write: snapshot() },
                    (_, false) => Keep::DROP,
                }
            }
            MailboxChange::Snapshot(_) if record.version == mailbox.stated => {
                Keep { copy: false, write: snapshot() }
            }
            _ => Keep::DROP,
        }
    }

    /// A snapshot of a mailbox as it is now.
    pub(super) fn state(&self, id: &MailboxId, mailbox: &Mailbox<L>) -> Record {
        let change = MailboxChange::Snapshot(Box::new(mailbox.snapshot()));
        let change = Change::Mailbox { mailbox: *id, life: mailbox.life, change };
        Record { version: mailbox.version, time: self.newest.time, change }
    }

    /// What is kept of a post itself: its envelope if that is stored here, or the mark that it is remembered.
    fn keep_post(&self, mailbox: &Mailbox<L>, seq: u64, place: &L, mark: impl FnOnce() -> Record) -> Keep {
        match mailbox.log.get(seq) {
            Some(entry) if seq < mailbox.log.oldest() && entry.place.is_none() => Keep::write(mark()),
            Some(entry) => Keep::copy_if(entry.place.as_ref() == Some(place)),
            None => Keep::DROP,
        }
    }
}

/// The tokens of which the record of this version still says how they are.
fn unspent(tokens: &Tokens, hashes: &[KeyHash], version: u64) -> Vec<KeyHash> {
    let drawn = |hash: &&KeyHash| tokens.get(hash).is_some_and(|drawn| drawn.version == version);
    hashes.iter().filter(drawn).copied().collect()
}
