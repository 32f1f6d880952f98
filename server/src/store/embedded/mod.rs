//! The durable engine.
pub(crate) mod journal;
