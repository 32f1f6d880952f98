//! Tests of the ledger as such; what it decides is tested through the stores, by the conformance suite.

mod budget;
mod carrying;
pub(in crate::store) mod format;
mod holds;
