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
//! Time is the machine's until [`TestRelay::pass`] moves it on, for everybody at once: a month passes within
//! a test. (Tokio's paused time is of no use here: the clients run on threads of their own.)
//!
//! Whatever a test can do nothing about panics, with what to do: a port that cannot be had, a wait that runs
//! into its bound.

mod network;
mod relay;
mod until;

pub use network::{Faults, Network};
pub use relay::TestRelay;
pub use until::{PATIENCE, next_invitation, next_text, until};
