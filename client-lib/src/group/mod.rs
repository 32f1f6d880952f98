//! MLS groups: what a conversation's members agree on, and the secrets that follow from it.
//!
//! This is the only module that names OpenMLS; its interface speaks of members, keys and changes. In reading
//! order: [`Provider`] binds OpenMLS to one transaction of the database (`provider.rs`, `storage.rs`);
//! [`GroupInfo`] is what members agree on (`info.rs`); a [`KeyPackage`] is how a device can be added
//! (`key_package.rs`); [`Group`] is this device's seat in a group (`seat.rs`); `commit.rs` judges changes of
//! it; [`PendingJoin`] is a group that we are invited to (`join.rs`).
//!
//! **No group outlives its transaction but by being kept.** A [`Group`] borrows the [`Provider`], which
//! borrows the transaction, so that after a rollback there is no object left that is ahead of the database:
//! it would reuse or skip message keys. [`Group::keep`] gives what the next transaction may go on with, if
//! this one is committed; whoever rolls back drops it. Inside a transaction every method that writes is
//! atomic: when it fails, its rows are rolled back to a savepoint and the group is loaded anew, as if it had
//! not been called; the caller may go on, record the cause, and commit. Loading costs 0.1 ms for two members,
//! 0.3 ms for ten, 2.4 ms for a hundred (optimized; `tests/measure.rs`), below the fsync of the transaction.
//!
//! **What comes from others is judged before it counts**: [`Group::receive`] gives a [`StagedChange`] that
//! the caller inspects and then applies or drops; [`PendingJoin`] likewise. Credentials are verified in
//! between, not by the caller. Whether a commit is valid is a pure function of group and commit: no clock, no
//! directory (fine print, rule 6).
//!
//! This module knows no mailbox, envelope or relay beyond their names, and never decides who may do what in a
//! group.

mod commit;
mod error;
mod info;
mod join;
mod key_package;
mod keys;
mod member;
mod provider;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod raw;
mod seat;
mod storage;
#[cfg(test)]
mod tests;

use openmls::prelude::Ciphersuite;

pub use crate::conversation::GroupId;
pub use commit::{Change, Outcome, Staged, StagedChange};
pub use error::{GroupError, Refusal};
pub use info::{About, GroupInfo, KNOWN_RULES, MOVING_RULES, NAME_BYTES, Place, RULES, ReaderSecret};
pub use join::PendingJoin;
pub use key_package::{
    KeyPackage, KeyPackageError, KeyPackageKind, KeyPackageRef, LIFETIME_SECONDS, MadeKeyPackage,
    UnverifiedKeyPackage,
};
pub use keys::EpochKeys;
pub use member::{Member, OwnLeaf};
pub use provider::Provider;
pub use seat::{Group, KeptGroup, Received};

/// The one suite: X-Wing, ChaCha20-Poly1305, SHA-256, Ed25519.
const SUITE: Ciphersuite = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;

/// Longest MLS message or Welcome that is looked at, in bytes: a Welcome with the tree of some 4,000 members.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Most leaves of a group, so that nobody can make its commits slow without end.
const MOST_LEAVES: usize = 1024;
/// Most epochs of a group.
const MOST_EPOCHS: u64 = 1 << 53;

mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated from the schema, which is documented"
    )]
    include!(concat!(env!("OUT_DIR"), "/posthorn.group.v2.rs"));
}
