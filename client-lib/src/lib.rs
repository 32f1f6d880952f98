#![doc = include_str!("../README.md")]

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
