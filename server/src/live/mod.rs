//! The live side: who has which mailbox open, and how a durable append reaches them.
//!
//! Reading order: [`hub`] (mailbox to openings), [`opening`] (one reader's place on one connection),
//! [`catch_up`] (serving an opening that fell behind from the store).
//!
//! Invariant: nothing here stores an envelope, and nothing queues without a bound. An envelope that cannot be
//! sent at once is not kept in memory: the opening is marked as behind, and reads it from the store once
//! there is room.

pub(crate) mod catch_up;
mod hub;
pub(crate) mod opening;

pub use hub::Hub;
pub(crate) use hub::{OPENING_BYTES, Seat};

#[cfg(test)]
mod tests;
