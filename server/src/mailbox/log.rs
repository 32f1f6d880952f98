//! The log of a mailbox: which seqs are stored, and which posts are remembered (rule 2).
//!
//! Seqs from `first` to the head are remembered; those from `oldest` on are also stored. Both limits only
//! move up. The log knows where a body lies (`L`), never what it says.

use posthorn_proto::PostId;
use posthorn_proto::limits::POST_OVERHEAD_BYTES;

use super::change::ShortFingerprint;
use super::pieces::Pieces;
use crate::store::keyed::Keyed;
use crate::store::tables::Tables;

/// Remembered posts, up to which they are searched one by one; beyond that an index is worth its memory.
const INDEX_ABOVE: usize = 48;

/// A remembered post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<L> {
    pub(crate) post_id: PostId,
    pub(crate) fingerprint: ShortFingerprint,
    /// When it was posted, unix seconds.
    pub(crate) time: u32,
    /// What it takes of the quota while stored, bytes: envelope and turn. 0 once trimmed.
    pub(crate) bytes: u32,
    /// Where its body lies; `None` once trimmed.
    pub(crate) place: Option<L>,
}

/// The remembered posts of one mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Log<L> {
    /// Seq of the first entry; head + 1 if there is none.
    first: u64,
    /// Oldest stored seq; head + 1 if none is.
    oldest: u64,
    /// `None` while no post is remembered, as in most mailboxes at most times.
    window: Option<Box<Window<L>>>,
}

/// The entries of the remembered posts, and the index over them.
#[derive(Debug, Clone)]
struct Window<L> {
    entries: Pieces<Entry<L>>,
    /// Sum of `bytes` over the stored ones.
    stored_bytes: u64,
    /// Low 32 bits of the seqs, by post id; only while there are more than [`INDEX_ABOVE`].
    index: Option<Box<Tables<u32>>>,
}

impl<L> Default for Window<L> {
    fn default() -> Self {
        Self { entries: Pieces::new(), stored_bytes: 0, index: None }
    }
}

/// Told about each body that is no longer needed: where it lies, and its size in bytes.
pub(crate) type Freed<'a, L> = &'a mut dyn FnMut(L, u32);

impl<L: Clone + PartialEq> Log<L> {
    /// A log of which only the ends are known: everything up to `forgotten` is forgotten, and `oldest` is the
    /// oldest stored.
    pub(crate) fn new(forgotten: u64, oldest: u64) -> Self {
        Self { first: forgotten + 1, oldest, window: None }
    }

    /// Newest seq; 0 = none yet.
    pub(crate) fn head(&self) -> u64 {
        self.first + self.remembered() - 1
    }

    /// Oldest stored seq; head + 1 if none.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Newest seq whose post id is forgotten; 0 = none.
    pub(crate) fn forgotten(&self) -> u64 {
        self.first - 1
    }

    /// How many posts are remembered.
    pub(crate) fn remembered(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.entries.len() as u64)
    }

    /// How many envelopes are stored.
    pub(crate) fn stored(&self) -> u64 {
        (self.head() + 1).saturating_sub(self.oldest)
    }

    /// Bytes of stored envelopes and their turns.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.stored_bytes)
    }

    /// What the log takes of the quota, bytes.
    pub(crate) fn cost(&self) -> u64 {
        self.stored_bytes() + self.remembered() * POST_OVERHEAD_BYTES
    }

    /// The entry of this seq, if remembered.
    pub(crate) fn get(&self, seq: u64) -> Option<&Entry<L>> {
        self.window.as_ref()?.entries.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }

    /// Remembered entries from this seq on, with their seqs.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = (u64, &Entry<L>)> {
        let start = seq.max(self.first);
        let skip = usize::try_from(start - self.first).unwrap_or(usize::MAX);
        let entries = self.window.iter().flat_map(move |window| window.entries.from(skip));
        (start..).zip(entries)
    }

    /// The post of this id, if it is remembered.
    pub(crate) fn find(&self, post_id: &PostId, keyed: &Keyed) -> Option<(u64, &Entry<L>)> {
        let window = self.window.as_ref()?;
        let Some(index) = &window.index else {
            return self.from(self.first).find(|(_, entry)| entry.post_id == *post_id);
        };
        let is_it = |low: &u32| window.at(self.first, *low).is_some_and(|entry| entry.post_id == *post_id);
        let low = index.find(keyed.hash(post_id), is_it)?;
        let seq = self.first + u64::from(low.wrapping_sub(self.first as u32));
        self.get(seq).map(|entry| (seq, entry))
    }

    /// Adds the entry of this seq if it is the next one, or renews the place of one that is there. An entry
    /// beyond the next is handed back: it happens only while a store is rebuilt.
    pub(crate) fn insert(
        &mut self,
        seq: u64,
        entry: Entry<L>,
        keyed: &Keyed,
        freed: Freed<'_, L>,
    ) -> Result<(), Entry<L>> {
        if seq < self.first {
            entry.place.into_iter().for_each(|place| freed(place, entry.bytes));
            return Ok(());
        }
        if seq <= self.head() {
            self.renew(seq, entry, freed);
            return Ok(());
        }
        if seq > self.head() + 1 {
            return Err(entry);
        }
        self.push(entry, keyed, freed);
        Ok(())
    }

    /// A copy of an entry was found. From now on the body is read where the later copy lies.
    fn renew(&mut self, seq: u64, entry: Entry<L>, freed: Freed<'_, L>) {
        let stored = seq >= self.oldest;
        let at = (seq - self.first) as usize;
        let (Some(place), Some(window)) = (entry.place, &mut self.window) else { return };
        if !stored {
            return freed(place, entry.bytes);
        }
        let Some(present) = window.entries.get_mut(at) else { return };
        if let Some(old) = present.place.replace(place) {
            freed(old, present.bytes);
        } else {
            present.bytes = entry.bytes;
            window.stored_bytes += u64::from(entry.bytes);
        }
    }

    fn push(&mut self, mut entry: Entry<L>, keyed: &Keyed, freed: Freed<'_, L>) {
        let seq = self.head() + 1;
        let window = self.window.get_or_insert_default();
        if seq < self.oldest {
            let bytes = std::mem::take(&mut entry.bytes);
            entry.place.take().into_iter().for_each(|place| freed(place, bytes));
        } else if entry.place.is_some() {
            window.stored_bytes += u64::from(entry.bytes);
        }
        window.push(self.first, entry, keyed);
    }

    /// Drops the bodies below `oldest`; the posts stay remembered. Never moves down.
    pub(crate) fn trim(&mut self, oldest: u64, freed: Freed<'_, L>) {
        if oldest <= self.oldest {
            return;
        }
        let (from, to) = (self.oldest.max(self.first), oldest.min(self.head() + 1));
        self.oldest = oldest;
        let Some(window) = &mut self.window else { return };
        for seq in from..to {
            let Some(entry) = window.entries.get_mut((seq - self.first) as usize) else { break };
            let bytes = std::mem::take(&mut entry.bytes);
            if let Some(place) = entry.place.take() {
                window.stored_bytes -= u64::from(bytes);
                freed(place, bytes);
            }
        }
    }

    /// Forgets posts up to and including `forgotten`. Never moves down, never forgets what is stored.
    pub(crate) fn forget(&mut self, forgotten: u64, keyed: &Keyed) {
        while self.first <= forgotten && self.first < self.oldest {
            if !self.window.as_mut().is_some_and(|window| window.pop(self.first, keyed)) {
                self.first = forgotten + 1;
                break;
            }
            self.first += 1;
        }
        match &mut self.window {
            Some(window) if !window.entries.is_empty() => window.shrink(),
            _ => self.window = None,
        }
    }
}

impl<L> Window<L> {
    /// The entry whose seq ends in these 32 bits, where the first entry has the seq `first`.
    fn at(&self, first: u64, low: u32) -> Option<&Entry<L>> {
        self.entries.get(low.wrapping_sub(first as u32) as usize)
    }

    /// Changes the index, if there is one. `change` is also told how to hash what it holds.
    fn change_index(
        &mut self,
        first: u64,
        keyed: &Keyed,
        change: impl FnOnce(&mut Tables<u32>, &dyn Fn(&u32) -> u64),
    ) {
        let Some(mut index) = self.index.take() else { return };
        change(&mut index, &|low| self.at(first, *low).map_or(0, |entry| keyed.hash(&entry.post_id)));
        self.index = Some(index);
    }

    fn push(&mut self, first: u64, entry: Entry<L>, keyed: &Keyed) {
        let seq = first + self.entries.len() as u64;
        self.entries.push(entry);
        if self.index.is_some() {
            self.enter(first, seq, keyed);
        } else if self.entries.len() > INDEX_ABOVE {
            self.index = Some(Box::new(Tables::new()));
            (first..=seq).for_each(|seq| self.enter(first, seq, keyed));
        }
    }

    fn enter(&mut self, first: u64, seq: u64, keyed: &Keyed) {
        let low = seq as u32;
        self.change_index(first, keyed, |index, hash_of| index.insert(hash_of(&low), low, hash_of));
    }

    /// Forgets the first entry, whose seq is `first`. `false` if there is none.
    fn pop(&mut self, first: u64, keyed: &Keyed) -> bool {
        let low = first as u32;
        self.change_index(first, keyed, |index, hash_of| {
            index.remove(hash_of(&low), |seq| *seq == low, hash_of);
            index.join(hash_of);
        });
        self.entries.pop().is_some()
    }

    fn shrink(&mut self) {
        if self.entries.len() <= INDEX_ABOVE / 2 {
            self.index = None;
        }
        self.entries.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry<u64> {
        let post_id = PostId(std::array::from_fn(|at| (n >> (at % 8 * 8)) as u8));
        Entry { post_id, fingerprint: [0; 16], time: 0, bytes: 10, place: Some(n) }
    }

    #[test]
    fn the_index_holds_what_is_remembered_and_no_more() {
        let keyed = Keyed::new([1, 2]);
        // Seqs beyond the 32 bits that the index keeps of them.
        let start = u64::from(u32::MAX) - 100;
        let mut log = Log::new(start, start + 1);
        let mut freed = Vec::new();
        for n in 1..=400 {
            let seq = start + n;
            log.insert(seq, entry(seq), &keyed, &mut |place, _| freed.push(place)).expect("it is the next");
            if n > 100 {
                log.trim(seq - 99, &mut |place, _| freed.push(place));
                log.forget(seq - 100, &keyed);
            }
            let indexed =
                log.window.as_ref().and_then(|window| window.index.as_ref()).map_or(0, |index| index.len());
            assert!(indexed == 0 || indexed as u64 == log.remembered(), "{indexed} of {}", log.remembered());
        }
        assert!(log.window.as_ref().is_some_and(|window| window.index.is_some()));
        assert_eq!(freed, (1..=300).map(|n| start + n).collect::<Vec<_>>());
        for n in 1..=400 {
            let found = log.find(&entry(start + n).post_id, &keyed).map(|(seq, _)| seq);
            assert_eq!(found, (n > 300).then_some(start + n));
        }
        assert_eq!((log.stored(), log.stored_bytes(), log.remembered()), (100, 1000, 100));
    }

    #[test]
    fn memory_follows_what_is_remembered() {
        let keyed = Keyed::new([1, 2]);
        let mut log = Log::new(0, 1);
        for n in 1..=1000 {
            log.insert(n, entry(n), &keyed, &mut |_, _| ()).expect("it is the next");
        }
        let capacity = |log: &Log<u64>| log.window.as_ref().map_or(0, |window| window.entries.capacity());
        assert!(capacity(&log) <= 1130, "{}", capacity(&log));
        log.trim(991, &mut |_, _| ());
        log.forget(990, &keyed);
        assert!(capacity(&log) <= 40, "{}", capacity(&log));
        assert!(log.window.as_ref().is_some_and(|window| window.index.is_none()));
        log.trim(1001, &mut |_, _| ());
        log.forget(1000, &keyed);
        assert!(log.window.is_none());
    }
}
