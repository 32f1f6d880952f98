//! Rebuilds a ledger, from a checkpoint's rows and the journal's tail behind it, or from the whole journal.
//!
//! Records come in the order of the journal, where compaction has put copies of old records behind newer
//! ones. So a post may come before its predecessors, and before anything says that its mailbox exists; such a
//! post waits until the end. Reads no clock: everything is in the records.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use posthorn_proto::{MailboxId, PostId};

use super::{Change, Ledger, Passed, Record, RowKey};
use crate::mailbox::change::{MailboxChange, Snapshot};
use crate::mailbox::log::{Entry, Log};
use crate::mailbox::{At, Mailbox, stored_bytes};
use crate::store::StorePolicy;
use crate::store::keyed::Keyed;

/// A mailbox in one of its lives.
type Life = (MailboxId, u64);

/// A ledger in the making.
#[derive(Debug)]
pub(crate) struct Rebuild<L> {
    pub(super) ledger: Ledger<L>,
    /// Posts that came before their turn in a known log, or without one.
    strays: HashMap<Life, BTreeMap<u64, Entry<L>>, Keyed>,
    /// Lives of which a *record* was a stray. (A row may be a leftover of a mailbox that is gone.)
    told: BTreeSet<Life>,
    /// The newest seq that a snapshot or a row mentions.
    heads: HashMap<Life, u64, Keyed>,
}

/// A post that should be there and is not, because the journal was damaged. Whoever reads it is told that it
/// is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The mailbox that it was posted to.
    pub(crate) mailbox: MailboxId,
    /// The seq that it had.
    pub(crate) seq: u64,
}

impl<L: Clone + PartialEq> Rebuild<L> {
    /// Begins with nothing. The hash keys are those of [`Ledger::new`].
    pub(crate) fn new(policy: StorePolicy, hash_keys: [u64; 2]) -> Self {
        let ledger = Ledger::new(policy, hash_keys);
        let (strays, heads) = (HashMap::with_hasher(ledger.keyed), HashMap::with_hasher(ledger.keyed));
        Self { ledger, strays, told: BTreeSet::new(), heads }
    }

    /// Notes from now on which rows change. To be called after the rows and before the records.
    pub(crate) fn track(&mut self) {
        self.ledger.track();
    }

    /// Makes a record's change, unless a later record has been applied.
    pub(crate) fn apply(&mut self, record: &Record, place: L) {
        if let Change::Mailbox { mailbox, life, change } = &record.change {
            match change {
                MailboxChange::Snapshot(snapshot) => self.know_head((*mailbox, *life), snapshot.head()),
                MailboxChange::Removed => drop(self.strays.remove(&(*mailbox, *life))),
                MailboxChange::Posted { .. } | MailboxChange::Mark { .. } if self.life(mailbox) < *life => {
                    if let Some((seq, entry)) = entry(change, record.time, place) {
                        self.told.insert((*mailbox, *life));
                        self.stray((*mailbox, *life), seq, entry);
                    }
                    self.ledger.know(At { version: record.version, time: record.time });
                    return;
                }
                _ => {}
            }
        }
        let stray = self.ledger.apply_any(record, place, &mut |_, _| ());
        while self.ledger.clear(&mut |_, _| ()) {}
        if let (Some((seq, entry)), Change::Mailbox { mailbox, life, .. }) = (stray, &record.change) {
            self.stray((*mailbox, *life), seq, entry);
        }
    }

    fn life(&self, mailbox: &MailboxId) -> u64 {
        self.ledger.mailboxes.get(mailbox).map_or(0, |present| present.life)
    }

    fn know_head(&mut self, life: Life, head: u64) {
        let known = self.heads.entry(life).or_insert(0);
        *known = head.max(*known);
    }

    /// Keeps a post for later. Of several copies the last one that has a body stays.
    fn stray(&mut self, life: Life, seq: u64, entry: Entry<L>) {
        self.ledger.mark(|| RowKey::chunk_of(life.0, seq));
        let strays = self.strays.entry(life).or_default();
        if entry.place.is_some() || !strays.contains_key(&seq) {
            strays.insert(seq, entry);
        }
    }

    /// Takes over the newest version and time, those that were last believed, the day before which tokens are
    /// void, and how far posts have left.
    pub(super) fn import_meta(&mut self, newest: At, believed: At, void_before: u32, passed: (u64, Passed)) {
        self.ledger.know(newest);
        self.ledger.believe(believed);
        self.ledger.note_passed(passed.0, passed.1);
        self.ledger.tokens.void(void_before);
        self.ledger.uploads.void(void_before);
    }

    /// Takes over everything of a mailbox but its posts.
    pub(super) fn import_mailbox(
        &mut self,
        id: MailboxId,
        life: u64,
        version: u64,
        stated: u64,
        snapshot: &Snapshot,
    ) {
        self.know_head((id, life), snapshot.head());
        if self.life(&id) < life {
            self.ledger.remove_mailbox(&id, &mut |_, _| ());
            let mut mailbox = Mailbox::restore(snapshot, life, version);
            mailbox.stated = stated;
            self.ledger.insert_mailbox(id, mailbox);
        }
    }

    /// Takes over a post from a checkpoint row.
    pub(super) fn offer(&mut self, id: MailboxId, life: u64, seq: u64, entry: Entry<L>) {
        let keyed = self.ledger.keyed;
        let stray = if self.life(&id) == life {
            let inserted =
                self.ledger.change(&id, |mailbox| mailbox.log.insert(seq, entry, &keyed, &mut |_, _| ()));
            inserted.and_then(Result::err)
        } else {
            Some(entry)
        };
        if let Some(entry) = stray {
            self.stray((id, life), seq, entry);
        }
    }

    /// The ledger, and the posts that are missing in it.
    pub(crate) fn finish(self) -> (Ledger<L>, Vec<Missing>) {
        self.finish_where(&|_| true)
    }

    /// The same, if some places may be gone; what lay there is missing.
    pub(crate) fn finish_where(mut self, is_there: &dyn Fn(&L) -> bool) -> (Ledger<L>, Vec<Missing>) {
        let mut missing = Vec::new();
        let lives: Vec<Life> =
            self.ledger.mailboxes.iter().map(|(id, mailbox)| (*id, mailbox.life)).collect();
        let keyed = self.ledger.keyed;
        for life in lives {
            let head = self.heads.get(&life).copied().unwrap_or(0);
            let short =
                |ledger: &Ledger<L>| ledger.mailboxes.get(&life.0).is_some_and(|m| m.log.head() < head);
            let strays = self.strays.remove(&life);
            if strays.is_some() || short(&self.ledger) {
                let strays = strays.unwrap_or_default();
                self.ledger.change(&life.0, |mailbox| {
                    let most = mailbox.most_posts();
                    join(&mut mailbox.log, strays, head, (&keyed, most));
                });
            }
            let Some(log) = self.ledger.mailboxes.get(&life.0).map(|mailbox| &mailbox.log) else { continue };
            let lost =
                log.from(log.oldest()).filter(|(_, entry)| !entry.place.as_ref().is_some_and(is_there));
            missing.extend(lost.map(|(seq, _)| Missing { mailbox: life.0, seq }));
        }
        // Posts of a mailbox whose keys are lost. (A mailbox that was removed has taken its posts along.)
        for ((mailbox, life), strays) in &self.strays {
            if self.told.contains(&(*mailbox, *life)) {
                missing.extend(strays.keys().map(|seq| Missing { mailbox: *mailbox, seq: *seq }));
            }
            // Or rows that are left over. The next checkpoint removes them.
            self.ledger.mark_all(strays.keys().map(|seq| RowKey::chunk_of(*mailbox, *seq)));
        }
        self.ledger.directory_bytes = self.ledger.cards.bytes() + self.ledger.packages.bytes();
        (self.ledger, missing)
    }
}

/// Puts the posts that waited into the log, in order, and where one is missing an entry in its place.
fn join<L: Clone + PartialEq>(
    log: &mut Log<L>,
    strays: BTreeMap<u64, Entry<L>>,
    head: u64,
    (keyed, most): (&Keyed, u64),
) {
    // A head beyond all bounds can only be damage, and must not make us allocate for it.
    let fill = |log: &mut Log<L>, head: u64| {
        while log.head() < head && log.remembered() < most {
            let lost =
                Entry { post_id: PostId([0; 16]), fingerprint: [0; 16], time: 0, bytes: 0, place: None };
            let _ = log.insert(log.head() + 1, lost, keyed, &mut |_, _| ());
        }
    };
    for (seq, entry) in strays {
        // What the log has already came later in the journal, so only gaps are filled.
        if seq > log.head() || log.get(seq).is_some_and(|present| present.place.is_none()) {
            fill(log, seq.saturating_sub(1));
            let _ = log.insert(seq, entry, keyed, &mut |_, _| ());
        }
    }
    fill(log, head);
}

/// The log entry that a post or a mark makes.
fn entry<L>(change: &MailboxChange, time: u32, place: L) -> Option<(u64, Entry<L>)> {
    match change {
        MailboxChange::Posted { seq, post_id, fingerprint, turn, envelope, .. } => {
            let bytes = stored_bytes(envelope.len(), turn.as_deref());
            let (post_id, fingerprint) = (*post_id, *fingerprint);
            Some((*seq, Entry { post_id, fingerprint, time, bytes, place: Some(place) }))
        }
        MailboxChange::Mark { seq, post_id, fingerprint } => {
            let (post_id, fingerprint) = (*post_id, *fingerprint);
            Some((*seq, Entry { post_id, fingerprint, time, bytes: 0, place: None }))
        }
        _ => None,
    }
}
