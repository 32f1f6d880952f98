//! A hash table that grows by linear hashing: many small tables, of which one is split when all of them
//! together have become too full. So no single insertion moves more than a part of one of them, however much
//! is stored. (A usual table moves everything at each doubling, and everybody who needs it waits.)

use std::hash::Hash;

use hashbrown::HashTable;

use super::effort::touched;
use super::keyed::Keyed;

/// Entries in a table, on average, from which on one is split. Those not yet split hold up to twice as many.
const FULL: usize = 256;
/// Room of a table that is never worth giving back, in values.
const ROOMY: usize = 32;

/// Values by their hashes, which the caller knows how to make.
#[derive(Debug, Clone)]
pub(crate) struct Tables<T> {
    /// At least one. Where their number is no power of two, those that were split since the last one and the
    /// halves that came of them are told apart by one bit of the hash more than the others.
    tables: Vec<HashTable<T>>,
    len: usize,
}

impl<T> Tables<T> {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self { tables: vec![HashTable::new()], len: 0 }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of this hash that is meant.
    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.tables[self.place(hash)].find(hash, is_it)
    }

    /// The same, to be changed.
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let place = self.place(hash);
        self.tables[place].find_mut(hash, is_it)
    }

    /// Adds a value, which the caller knows is not there yet. `hash_of` gives the hash of what is.
    pub(crate) fn insert(&mut self, hash: u64, value: T, hash_of: impl Fn(&T) -> u64) {
        let place = self.place(hash);
        let table = &mut self.tables[place];
        touched(1);
        if table.len() == table.capacity() {
            touched(table.len());
            renew(table, &hash_of);
        }
        table.insert_unique(hash, value, &hash_of);
        self.len += 1;
        if self.len > FULL * self.tables.len() {
            self.split(hash_of);
        }
    }

    /// Takes a value out, and gives back what room its table has far too much of.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        touched(1);
        let place = self.place(hash);
        let table = &mut self.tables[place];
        let (value, _) = table.find_entry(hash, is_it).ok()?.remove();
        self.len -= 1;
        if table.capacity() > ROOMY && table.len() < table.capacity() / 8 {
            touched(table.len());
            table.shrink_to(table.len() * 2, hash_of);
        }
        Some(value)
    }

    /// Joins two tables if there are far too many. To be asked once for every few values that were removed.
    pub(crate) fn join(&mut self, hash_of: impl Fn(&T) -> u64) {
        if self.tables.len() > 1 && self.len < FULL / 4 * self.tables.len() {
            let last = self.tables.pop().into_iter().flatten();
            let into = split_from(self.tables.len());
            for value in last {
                touched(1);
                self.tables[into].insert_unique(hash_of(&value), value, &hash_of);
            }
        }
    }

    /// How many tables there are, for whoever looks at one after the other.
    pub(crate) fn parts(&self) -> usize {
        self.tables.len()
    }

    /// The values of one table, in any order. A value that is there all the time may move into a later table
    /// meanwhile, but unless [`Tables::join`] is called never into an earlier one.
    pub(crate) fn part(&self, part: usize) -> impl Iterator<Item = &T> {
        self.tables.get(part).into_iter().flatten().inspect(|_| touched(1))
    }

    /// All values, in any order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.tables.iter().flatten().inspect(|_| touched(1))
    }

    /// Takes the values out of one table for which `goes`.
    pub(crate) fn extract(&mut self, part: usize, goes: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(table) = self.tables.get_mut(part) else { return Vec::new() };
        touched(table.len());
        let gone: Vec<T> = table.extract_if(|value| goes(value)).collect();
        self.len -= gone.len();
        gone
    }

    /// Which table a hash belongs to. hashbrown takes the lowest bits for the place in a table and the
    /// highest seven as a tag, so the bits are taken from between.
    fn place(&self, hash: u64) -> usize {
        let (bits, tables) = ((hash >> 24) as usize, self.tables.len());
        let whole = tables.next_power_of_two();
        let place = bits & (whole - 1);
        if place < tables { place } else { place - whole / 2 }
    }

    /// Makes one more table, of what belongs there of the one that is next to be split. What is dear about it
    /// is hashing.
    fn split(&mut self, hash_of: impl Fn(&T) -> u64) {
        let new = self.tables.len();
        let old = split_from(new);
        self.tables.push(HashTable::new());
        let values = std::mem::take(&mut self.tables[old]).into_iter();
        let hashed: Vec<(u64, T)> = values.map(|value| (hash_of(&value), value)).collect();
        touched(hashed.len());
        let moved = hashed.iter().filter(|(hash, _)| self.place(*hash) == new).count();
        self.tables[old].reserve(hashed.len() - moved, &hash_of);
        self.tables[new].reserve(moved, &hash_of);
        for (hash, value) in hashed {
            let place = self.place(hash);
            self.tables[place].insert_unique(hash, value, &hash_of);
        }
    }
}

/// Makes the table anew, with room for an eighth more than is in it. hashbrown would count the marks that
/// removed values leave as values, and double a table that is more than half full: one in which as many come
/// as go would end up with twice its room.
fn renew<T>(table: &mut HashTable<T>, hash_of: impl Fn(&T) -> u64) {
    let values = std::mem::take(table);
    table.reserve(values.len() + values.len() / 7 + 1, &hash_of);
    for value in values {
        table.insert_unique(hash_of(&value), value, &hash_of);
    }
}

/// Which table is split to make this one.
fn split_from(new: usize) -> usize {
    new - (new + 1).next_power_of_two() / 2
}

/// Values by name, for names that strangers choose.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    tables: Tables<(K, V)>,
    keyed: Keyed,
}

impl<K: Hash + Eq, V> Map<K, V> {
    /// An empty map.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { tables: Tables::new(), keyed }
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.tables.len()
    }

    /// What has this name.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.tables.find(self.keyed.hash(key), |(name, _)| name == key).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.tables.find_mut(self.keyed.hash(key), |(name, _)| name == key).map(|(_, value)| value)
    }

    /// Gives a name to a value, and returns what had it before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(present) = self.get_mut(&key) {
            return Some(std::mem::replace(present, value));
        }
        let keyed = self.keyed;
        self.tables.insert(keyed.hash(&key), (key, value), |(name, _)| keyed.hash(name));
        None
    }

    /// Takes what has this name out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let keyed = self.keyed;
        let found =
            self.tables.remove(keyed.hash(key), |(name, _)| name == key, |(name, _)| keyed.hash(name));
        found.map(|(_, value)| value)
    }

    /// What has this name; if there is nothing, it is made.
    pub(crate) fn or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Clone,
    {
        if self.get(&key).is_none() {
            self.insert(key.clone(), make());
        }
        self.get_mut(&key).expect("it is there now")
    }

    /// Those of one part, in any order. See [`Tables::part`].
    pub(crate) fn part(&self, part: usize) -> impl Iterator<Item = (&K, &V)> {
        self.tables.part(part).map(|(key, value)| (key, value))
    }

    /// See [`Tables::parts`].
    pub(crate) fn parts(&self) -> usize {
        self.tables.parts()
    }

    /// Takes those out of one part for which `goes`.
    pub(crate) fn extract(&mut self, part: usize, goes: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
        self.tables.extract(part, |(key, value)| goes(key, value))
    }

    /// How many names there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.tables.tables.iter().map(HashTable::capacity).sum()
    }

    /// All of them, in any order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.tables.iter().map(|(key, value)| (key, value))
    }

    /// All names, in any order, without what they name.
    pub(crate) fn into_keys(self) -> impl Iterator<Item = K> {
        self.tables.tables.into_iter().flatten().map(|(key, _)| key)
    }

    /// All names, in any order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::effort::taken;
    use super::*;

    #[test]
    fn what_is_there_is_found_while_tables_are_split_and_joined() {
        let keyed = Keyed::new([1, 2]);
        let mut tables = Tables::new();
        let hash_of = |n: &u64| keyed.hash(n);
        for n in 0..5000 {
            tables.insert(keyed.hash(&n), n, hash_of);
        }
        assert!(tables.parts() > 8 && tables.len() == 5000, "{} tables", tables.parts());
        let mut all: Vec<u64> = (0..tables.parts()).flat_map(|part| tables.part(part).copied()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..5000), "each is in one of them");
        for n in 0..4990 {
            assert_eq!(tables.remove(keyed.hash(&n), |found| *found == n, hash_of), Some(n));
            tables.join(hash_of);
            for n in [n + 1, n + 7, 4999] {
                let found = tables.find(keyed.hash(&n), |found| *found == n);
                assert_eq!(found, Some(&n).filter(|n| **n < 5000), "{n}");
            }
        }
        assert_eq!((tables.parts(), tables.len()), (1, 10));
    }

    /// As ids of posts come and go: as many, and always others.
    #[test]
    fn what_comes_and_goes_takes_no_more_and_more_room() {
        let keyed = Keyed::new([1, 2]);
        let hash_of = |n: &u32| keyed.hash(n);
        let mut tables = Tables::new();
        let room = |tables: &Tables<u32>| tables.tables.iter().map(HashTable::allocation_size).sum::<usize>();
        let (mut grown, mut moved) = (0, 0);
        for n in 0..400_000_u32 {
            taken();
            tables.insert(keyed.hash(&n), n, hash_of);
            if n < 20_000 {
                grown = room(&tables);
                continue;
            }
            moved += taken();
            let old = n - 20_000;
            tables.remove(keyed.hash(&old), |found| *found == old, hash_of).expect("it is there");
            tables.join(hash_of);
        }
        assert!(room(&tables) * 4 <= grown * 5, "{grown} bytes grew to {}", room(&tables));
        assert!(moved < 4 * 380_000, "{moved} entries moved for 380,000 insertions");
    }

    #[test]
    fn no_insertion_and_no_removal_moves_much() {
        let mut map = Map::new(Keyed::new([1, 2]));
        taken();
        let mut most = 0;
        for n in 0..100_000 {
            map.insert(n, n);
            most = most.max(taken());
        }
        for n in 0..100_000 {
            assert_eq!(map.remove(&n), Some(n));
            most = most.max(taken());
        }
        assert!(most < 8 * FULL, "{most} entries at once");
    }
}
