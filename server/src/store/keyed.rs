//! Hashing under a secret key, for names that strangers choose: nobody can choose names that collide.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

/// Builds hashers that are keyed with the store's secret.
#[derive(Clone, Copy)]
pub(crate) struct Keyed {
    keys: [u64; 2],
}

impl Keyed {
    /// From 16 random bytes.
    pub(crate) fn new(keys: [u64; 2]) -> Self {
        Self { keys }
    }

    /// The keyed hash of a value.
    pub(crate) fn hash(&self, value: &impl Hash) -> u64 {
        self.hash_one(value)
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.keys[0]);
        hasher.write_u64(self.keys[1]);
        hasher
    }
}

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyed(secret)")
    }
}
