//! The relay of Posthorn: stores and forwards envelopes that it cannot read.
//!
//! Reading guide, in the order in which a request passes: [`cli_main`] (the program) -> [`relay`]
//! (composition) -> [`gateway`] (listener, connection, session) -> [`command`] (one file per request) ->
//! [`store`] (the trait, its ledger of [`mailbox`], [`directory`] and [`blob`] rules, the engines) ->
//! [`live`] (who has a mailbox open hears of it) -> [`outbox`] (what waits to be sent). The bytes of blobs
//! lie in `parts`. [`config`] is what can be set, [`admin`] what the host asks over a local socket, [`clock`]
//! the only clock, [`secret`] the relay's own keys.
//!
//! Invariant: nothing here depends on MLS or on the client library. The relay has keys' hashes and opaque
//! bytes, and logs neither these nor names nor addresses at the default level (R8).

pub mod admin;
mod advice;
pub mod blob;
mod cli;
pub mod clock;
pub mod command;
pub mod config;
mod descriptors;
pub mod directory;
pub mod gateway;
#[cfg(test)]
mod heard;
pub mod live;
pub mod mailbox;
pub mod outbox;
mod panics;
mod parts;
pub mod relay;
pub mod secret;
pub mod store;

pub use admin::Invite;
pub use cli::cli_main;
pub use config::{Config, Engine, Rates};
pub use relay::{Relay, StartError};
pub use secret::RelaySecret;
