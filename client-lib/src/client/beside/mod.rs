//! Other programs beside a client: one process has the profile, and does for others what they ask.
//!
//! They speak JSON-RPC 2.0, one object a line; `docs/json-rpc.md` is its description. In reading order:
//! `request` is everything that can be asked, once for both ends; `message` is what stands around it on a
//! line; `host` answers on one stream; `guest` is a client that asks instead of having the profile; `socket`
//! is where they meet, in the profile's folder.
//!
//! Whoever can open the socket is the profile's owner: the passphrase is never asked for here, and never
//! sent. What a host keeps for its guests is bounded by the constants below.

#[cfg(unix)]
mod guest;
mod host;
mod message;
mod request;
#[cfg(unix)]
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

#[cfg(unix)]
pub(super) use guest::Guest;
pub(super) use host::serve;
#[cfg(unix)]
pub use socket::Share;
#[cfg(unix)]
pub(super) use socket::{connect, guest_stream, share};

/// The longest line that is read from a guest, in bytes: a text of 64 KiB, each of whose bytes may take six.
const LINE_BYTES: usize = 512 * 1024;
/// Requests of one guest that wait for their answers; the next is not read before one is given.
const IN_FLIGHT: usize = 64;
/// Whoever asks nothing more gets the answers that come within this time.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// Guests at a time; others wait until one has gone.
#[cfg(unix)]
const GUESTS: usize = 64;
/// The most entries of a history that are answered at once.
const ENTRIES: usize = 10_000;
