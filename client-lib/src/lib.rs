//! .

pub mod envelope;
pub mod identity;
pub mod inbox;
pub mod store;
