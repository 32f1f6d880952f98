//! Acknowledgements that nobody waits for, from when they are made until the committer takes them, about once
//! a second: the highest of each reader stands for all of them. So a group whose members acknowledge each
//! envelope costs one record a reader and second, instead of one a reader and envelope.
//!
//! It holds at most one for each opening that was used since the committer last took them.

use hashbrown::HashMap;
use parking_lot::Mutex;
use posthorn_proto::{MailboxId, ReaderId};

use crate::store::keyed::Keyed;
use crate::store::{Advance, OpeningNumber};

/// How far one reader has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    pub(super) to: Advance,
    /// The store's durable version when it was first noted. It does not concern a mailbox of this name that
    /// was created later.
    pub(super) version: u64,
}

/// Acknowledgements of different readers: the latest opening of each, its highest seq, and the version.
pub(super) struct Acknowledgements(HashMap<(MailboxId, ReaderId), (OpeningNumber, u64, u64), Keyed>);

impl Acknowledgements {
    /// None.
    pub(super) fn new(keyed: Keyed) -> Self {
        Self(HashMap::with_hasher(keyed))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn note(&mut self, new: Acknowledgement) {
        let Advance { mailbox, reader, opening, seq } = new.to;
        let noted = self.0.entry((mailbox, reader)).or_insert((opening, seq, new.version));
        // Of two openings, what the former one has acknowledged so late is nobody's concern (rule 10).
        (noted.0, noted.1) = (noted.0, noted.1).max((opening, seq));
        noted.2 = noted.2.min(new.version);
    }

    /// Takes that of one reader.
    pub(super) fn take(&mut self, mailbox: MailboxId, reader: ReaderId) -> Option<Acknowledgement> {
        self.0.remove(&(mailbox, reader)).map(|noted| told(((mailbox, reader), noted)))
    }

    /// Takes some, at most so many.
    pub(super) fn take_some(&mut self, most: usize) -> Vec<Acknowledgement> {
        self.0.extract_if(|_, _| true).take(most).map(told).collect()
    }
}

type Entry = ((MailboxId, ReaderId), (OpeningNumber, u64, u64));

fn told(((mailbox, reader), (opening, seq, version)): Entry) -> Acknowledgement {
    Acknowledgement { to: Advance { mailbox, reader, opening, seq }, version }
}

/// Those that the committer has yet to take. Connections write it.
pub(super) struct Acknowledged {
    noted: Mutex<Acknowledgements>,
    keyed: Keyed,
}

impl Acknowledged {
    /// None yet.
    pub(super) fn new(keyed: Keyed) -> Self {
        Self { noted: Mutex::new(Acknowledgements::new(keyed)), keyed }
    }

    /// Notes one.
    pub(super) fn note(&self, new: Acknowledgement) {
        self.noted.lock().note(new);
    }

    /// Takes that of one reader.
    pub(super) fn take(&self, mailbox: MailboxId, reader: ReaderId) -> Option<Acknowledgement> {
        self.noted.lock().take(mailbox, reader)
    }

    /// Takes all of them.
    pub(super) fn take_all(&self) -> Acknowledgements {
        std::mem::replace(&mut *self.noted.lock(), Acknowledgements::new(self.keyed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_each_reader_is_kept() {
        let all = Acknowledged::new(Keyed::new([1, 2]));
        let by = |n, opening, seq, version| Acknowledgement {
            to: Advance {
                mailbox: MailboxId([1; 16]),
                reader: ReaderId([n; 16]),
                opening: OpeningNumber(opening),
                seq,
            },
            version,
        };
        let one = |n, seq, version| by(n, 8, seq, version);
        for (n, seq, version) in [(1, 3, 50), (2, 9, 51), (1, 7, 52), (1, 5, 53), (3, 1, 54)] {
            all.note(one(n, seq, version));
        }
        assert_eq!(all.take(MailboxId([1; 16]), ReaderId([1; 16])), Some(one(1, 7, 50)));
        assert_eq!(all.take(MailboxId([1; 16]), ReaderId([1; 16])), None);
        let mut taken = all.take_all();
        assert!(all.take_all().is_empty());
        let (first, second) = (taken.take_some(1), taken.take_some(9));
        assert_eq!((first.len(), second.len(), taken.len()), (1, 1, 0));
        assert!(first.contains(&one(2, 9, 51)) || second.contains(&one(2, 9, 51)));
        // The opening that took over has the say.
        [by(1, 8, 9, 60), by(1, 9, 4, 61), by(1, 8, 10, 62)].into_iter().for_each(|one| all.note(one));
        assert_eq!(all.take(MailboxId([1; 16]), ReaderId([1; 16])), Some(by(1, 9, 4, 60)));
    }
}
