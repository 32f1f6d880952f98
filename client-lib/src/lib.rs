//! .

pub mod envelope;
pub mod identity;
pub mod inbox;
pub mod session;
pub mod store;
