//! The Posthorn client library: everything that an app needs to talk through a relay that cannot read it.
//!
//! Reading guide, outermost first: `client` is what an app holds (it drives, over `transport`, the engine);
//! [`sync`] is that engine, sans-IO; [`conversation`] and `outbox` are its records; [`content`] is what
//! members say; [`session`] is MLS (the only module that names OpenMLS); [`envelope`] and [`inbox`] seal what
//! a relay stores; [`identity`] is who people and devices are; [`store`] is the local database under all of
//! it.
//!
//! Invariants: no module but `client` and `transport` (feature `native`) opens a socket, reads a clock or
//! starts a task. Without that feature the crate builds for `wasm32-unknown-unknown`.

#[cfg(feature = "native")]
pub mod client;
pub mod content;
pub mod conversation;
pub mod engine;
pub mod envelope;
pub mod group;
pub mod identity;
pub mod inbox;
mod outbox;
mod people;
pub mod store;
#[cfg(feature = "native")]
mod transport;
