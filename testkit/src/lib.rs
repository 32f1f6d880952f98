//! For tests of apps that talk through Posthorn: a relay within the test, people with profiles that vanish
//! with it, and a network between them that can be made bad.
//!
//! ```
//! use posthorn_testkit::{TestRelay, next_invitation, next_text};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), posthorn_client::Error> {
//! let relay = TestRelay::start().await;
//! let (alice, bob) = (relay.client("alice").await, relay.client("bob").await);
//! let mut told = bob.events();
//!
//! let talk = alice.start("", vec![relay.who("bob")]).await?;
//! talk.send_text("Are you there?").await?;
//!
//! bob.conversation(next_invitation(&mut told).await).accept(false).await?;
//! assert_eq!(next_text(&mut told).await.text(), Some("Are you there?"));
//! # Ok(())
//! # }
//! ```
//!
//! [`TestRelay`] is the relay's own library, in this process, on a store on disk (`relay.rs`);
//! [`Network`] carries the bytes to it, delays them, cuts connections and refuses them, if asked by a seed
//! (`network.rs`); [`until()`] and what is made of it await what a client tells (`until.rs`).
//!
//! Whatever a test can do nothing about panics, with what to do: a port that cannot be had, a wait that runs
//! into its bound. The relay's clock and the clients' are the machine's and cannot be moved: what takes days
//! (expiry, ages of keys) is tested in this project's own crates, which give the time as a parameter. So is
//! tokio's paused time of no use here: the clients run on threads of their own.

mod network;
mod relay;
mod until;

pub use network::{Faults, Network};
pub use relay::TestRelay;
pub use until::{PATIENCE, next_invitation, next_text, until};
