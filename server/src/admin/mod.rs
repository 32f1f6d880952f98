//! What the relay's host does: invites, numbers, the clock. Spoken over a unix socket in the data folder,
//! which only the relay's user can reach; never over the network.
//!
//! [`invite`] is what an invite code is; [`socket`] the relay's side; [`mod@ask`] the side of
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
