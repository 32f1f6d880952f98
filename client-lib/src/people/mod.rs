//! What this device holds of people beside what they say of themselves: whom a relay's directory or a contact
//! link named under a handle (`pin.rs`), and from whom nothing is wanted (`block.rs`).
//!
//! Owns the tables `pin` and `blocked`. Nothing here is ever written because of what somebody claims to be.

pub(crate) mod block;
pub(crate) mod pin;
