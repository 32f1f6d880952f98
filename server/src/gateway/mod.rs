//! From the socket to a session, and back.
//!
//! Reading order: [`listener`] accepts and caps; [`http`] answers the few plain requests and upgrades to WebSocket;
//! [`connection`] moves frames between the socket and a session; [`session`] is one client's conversation with the relay,
//! without a socket; [`peer`] is what its requests share; [`outbox`] is what waits to be sent; [`rate`] is how often
//! something may happen.
//!
//! Invariant: below [`session`] nothing knows that sockets exist. The simulation drives sessions by hand.

pub(crate) mod connection;
#[doc(hidden)]
pub mod fuzzing;
mod gulp;
mod http;
pub(crate) mod listener;
pub mod outbox;
pub(crate) mod peer;
pub(crate) mod rate;
pub mod session;
mod tls;

pub(crate) use http::PATH as WS_PATH;
pub use tls::TlsError;

#[cfg(test)]
mod tests;
