//! Comparing key hashes in constant time, so that how long an answer takes says nothing about those stored.

use posthorn_proto::KeyHash;
use subtle::ConstantTimeEq;

/// Whether two key hashes are equal.
pub(super) fn same_key(one: &KeyHash, other: &KeyHash) -> bool {
    one.0.ct_eq(&other.0).into()
}
