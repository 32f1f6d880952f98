//! Blobs: what is too large for an envelope (rule 35). A blob has a length that was declared when it was
//! created, a holder, and a lease, at whose end it is gone; [`change`] is what can change of one.
//!
//! Pure, like [`crate::mailbox`]: here are the facts. The bytes lie elsewhere, as parts of
//! [`BLOB_PART_BYTES`](posthorn_proto::limits::BLOB_PART_BYTES). Invariant: nothing here names an account or
//! a mailbox. Reading needs the blob's name alone, which is 16 random bytes.

pub(crate) mod change;

use std::collections::BTreeSet;

use posthorn_proto::{BlobId, KeyHash};
use subtle::ConstantTimeEq as _;

use self::change::Held;
use crate::store::keyed::Keyed;
use crate::store::tables::Map;
use crate::store::{BlobView, NewBlob, StoreError};

impl BlobView {
    /// Whether this key may change the blob.
    pub(crate) fn check_holder(&self, holder: &KeyHash) -> Result<(), StoreError> {
        let same: bool = self.holder.0.ct_eq(&holder.0).into();
        if same { Ok(()) } else { Err(StoreError::HolderKeyWrong) }
    }
}

/// A blob, and where the record lies that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob<L> {
    /// Version of the record that created it: tells it from another blob that had its name before.
    pub(crate) life: u64,
    /// Version of the record that says how it is now.
    pub(crate) stated: u64,
    /// How it is now.
    pub(crate) held: Held,
    /// Where that record lies.
    pub(crate) place: L,
}

impl<L> Blob<L> {
    /// What can be told of it.
    pub(crate) fn view(&self) -> BlobView {
        self.held.view(self.life)
    }

    /// Whether this key may change it.
    pub(crate) fn check_holder(&self, holder: &KeyHash) -> Result<(), StoreError> {
        self.view().check_holder(holder)
    }

    /// Whether this creation would have made it. What was paid and for how long it was to be kept does not
    /// matter: whoever names its length and its holder has made it.
    pub(crate) fn is_as_created(&self, new: &NewBlob) -> bool {
        self.held.length == new.length && self.check_holder(&new.holder).is_ok()
    }
}

/// All blobs.
#[derive(Debug)]
pub(crate) struct Blobs<L> {
    all: Map<BlobId, Blob<L>>,
    /// When each lease ends: exactly one entry for each blob.
    due: BTreeSet<(u32, BlobId)>,
    /// Sum of the lengths. (It wraps, because an index that is damaged may say anything.)
    bytes: u64,
}

impl<L> Blobs<L> {
    /// No blobs yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { all: Map::new(keyed), due: BTreeSet::new(), bytes: 0 }
    }

    /// The blob of this name.
    pub(crate) fn get(&self, id: &BlobId) -> Option<&Blob<L>> {
        self.all.get(id)
    }

    /// The blob of this name in this life.
    pub(crate) fn in_life(&self, id: &BlobId, life: u64) -> Option<&Blob<L>> {
        self.all.get(id).filter(|blob| blob.life == life)
    }

    /// All of them.
    pub(crate) fn all(&self) -> &Map<BlobId, Blob<L>> {
        &self.all
    }

    /// How many bytes they have together, as declared.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Those whose lease has ended by now, the longest ago first.
    pub(crate) fn ended(&self, now: u64) -> impl Iterator<Item = (BlobId, u64)> {
        let ended = self.due.iter().take_while(move |(until, _)| u64::from(*until) <= now);
        ended.filter_map(|(_, id)| Some((*id, self.all.get(id)?.life)))
    }

    /// A record says how a blob is. What an older record says of it, or of a blob that had its name before,
    /// is passed over; a copy of the record that is known tells where that lies now.
    pub(crate) fn put(&mut self, id: BlobId, blob: Blob<L>) {
        let present = self.all.get(&id);
        if present.is_some_and(|present| (present.life, present.stated) > (blob.life, blob.stated)) {
            return;
        }
        self.take(&id);
        self.bytes = self.bytes.wrapping_add(blob.held.length);
        self.due.insert((blob.held.until, id));
        self.all.insert(id, blob);
    }

    /// The blob is gone, if this is its life.
    pub(crate) fn remove(&mut self, id: &BlobId, life: u64) {
        if self.in_life(id, life).is_some() {
            self.take(id);
        }
    }

    fn take(&mut self, id: &BlobId) {
        if let Some(old) = self.all.remove(id) {
            self.bytes = self.bytes.wrapping_sub(old.held.length);
            self.due.remove(&(old.held.until, *id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BlobId = BlobId([1; 16]);

    fn blob(life: u64, stated: u64, place: u8) -> Blob<u8> {
        let held = Held { length: 10 * life, holder: KeyHash([7; 32]), until: stated as u32 };
        Blob { life, stated, held, place }
    }

    #[test]
    fn the_newest_statement_of_the_newest_life_counts_in_any_order() {
        let mut blobs = Blobs::new(Keyed::new([1, 2]));
        for (put, life, stated, place) in [
            (blob(5, 5, 1), 5, 5, 1),
            (blob(5, 9, 2), 5, 9, 2),
            (blob(5, 5, 3), 5, 9, 2),
            (blob(5, 9, 4), 5, 9, 4),
            (blob(7, 7, 5), 7, 7, 5),
            (blob(5, 9, 6), 7, 7, 5),
        ] {
            blobs.put(ID, put);
            let there = blobs.get(&ID).expect("it is there");
            assert_eq!((there.life, there.stated, there.place), (life, stated, place));
            assert_eq!((blobs.bytes(), blobs.due.len()), (10 * life, 1));
        }
        blobs.remove(&ID, 5);
        assert!(blobs.get(&ID).is_some(), "another life");
        blobs.remove(&ID, 7);
        assert_eq!((blobs.get(&ID), blobs.bytes(), blobs.due.len()), (None, 0, 0));
    }
}
