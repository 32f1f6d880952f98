//! From the socket to a session, and back.
//!
//! Reading order: [`listener`] accepts, [`doors`] counts, [`origin`] finds out where a connection comes from;
//! [`http`] answers the few plain requests and upgrades to WebSocket; [`websocket`] makes messages of bytes
//! and [`socket`] moves them; [`connection`] stands between a socket and a session; [`session`] is one
//! client's conversation with the relay, without a socket; [`handshakes`] is how many connections may be half
//! open.
//!
//! Invariant: below [`session`] nothing knows that sockets exist. The simulation drives sessions by hand.

#[doc(hidden)]
pub mod conformance;
pub(crate) mod connection;
pub(crate) mod doors;
#[doc(hidden)]
pub mod fuzzing;
mod handshakes;
mod http;
pub(crate) mod listener;
mod origin;
mod recycled;
pub mod session;
mod socket;
mod tls;
mod websocket;

pub(crate) use tls::Certificates;
pub use tls::TlsError;

#[cfg(test)]
mod tests;
