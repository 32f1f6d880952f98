//! The client's side of every protocol that is measured, lean enough to share two cores with the server.
//!
//! Reading guide: [`socket`] is a WebSocket client over a TCP stream that encodes into one buffer and decodes
//! in place; [`speaker`] is what all protocols have in common; [`posthorn`], [`limit`], [`mqtt`] and [`nats`]
//! are one protocol each; [`mod@line`] puts a speaker on a socket. [`blob`] is HTTP, for blobs.
//!
//! Invariant: a client verifies what it counts. A payload that is missing, repeated, out of order or changed
//! ends the run. (Of a blob it counts the bytes.)

pub(crate) mod blob;
pub(crate) mod limit;
pub(crate) mod line;
pub(crate) mod mqtt;
pub(crate) mod nats;
pub(crate) mod posthorn;
pub(crate) mod socket;
pub(crate) mod speaker;
