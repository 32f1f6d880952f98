//! What the relay's operator can do: make invites, see numbers, confirm the clock. It goes over a unix socket
//! in the data folder, which only the relay's user can reach, and never over the network.
//!
//! [`invite`] says what an invite code is, [`socket`] is the relay's side, and [`mod@ask`] that of
//! `posthorn-server invite` and its siblings.

mod ask;
pub(crate) mod invite;
mod socket;

pub use ask::{AskError, ask};
pub use invite::Invite;
pub use socket::{Answer, Ask, Numbers};
pub(crate) use socket::{Desk, listen};

/// The socket's name in the data folder.
const SOCKET: &str = "admin.sock";
