//! The directory: accounts and their devices ([`accounts`]), contact cards ([`cards`]), key packages
//! ([`key_packages`]), creation tokens ([`tokens`]) and invites ([`invites`]); and what can change in it
//! ([`change`]).
//!
//! Pure, like [`crate::mailbox`]: a request becomes changes, and applying them is a separate step. Cards and
//! key packages are opaque, and are held by their place `L`. Invariant: nothing here names a mailbox, and no
//! token names a device: who created a mailbox is not kept (rule 16).

pub(crate) mod accounts;
pub(crate) mod cards;
pub(crate) mod change;
pub(crate) mod invites;
pub(crate) mod key_packages;
pub(crate) mod tokens;

use sha2::{Digest, Sha256};

/// The first bytes of the SHA-256, by which a body is recognised without having it at hand.
pub(crate) fn digest<const N: usize>(body: &[u8]) -> [u8; N] {
    let hash = Sha256::digest(body);
    std::array::from_fn(|at| hash[at])
}
