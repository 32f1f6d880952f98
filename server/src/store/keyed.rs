//! Hashing under a secret key, for names that strangers choose: nobody can choose names that collide.

use std::hash::{BuildHasher, Hash};

use siphasher::sip::SipHasher13;

/// Builds hashers that are keyed with the store's secret.
#[derive(Clone, Copy)]
pub(crate) struct Keyed {
    /// Has taken in the key and nothing else. A post is looked up some twenty times, and preparing a hasher
    /// each time costs more than the name.
    keyed: SipHasher13,
}

impl Keyed {
    /// From 16 random bytes.
    pub(crate) fn new(keys: [u64; 2]) -> Self {
        Self { keyed: SipHasher13::new_with_keys(keys[0], keys[1]) }
    }

    /// The keyed hash of a value.
    pub(crate) fn hash(&self, value: &impl Hash) -> u64 {
        self.hash_one(value)
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        self.keyed
    }
}

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyed(secret)")
    }
}

#[cfg(test)]
mod tests {
    use posthorn_proto::MailboxId;

    use super::*;

    #[test]
    fn the_hash_depends_on_the_key_and_on_all_of_the_name() {
        let name = MailboxId(std::array::from_fn(|at| at as u8));
        let (one, other) = (Keyed::new([1, 2]), Keyed::new([1, 3]));
        assert_eq!(one.hash(&name), one.hash(&name));
        assert_ne!(one.hash(&name), other.hash(&name));
        for at in 0..16 {
            let mut changed = name;
            changed.0[at] ^= 1;
            assert_ne!(one.hash(&name), one.hash(&changed), "byte {at}");
        }
        assert_eq!(format!("{one:?}"), "Keyed(secret)");
    }
}
