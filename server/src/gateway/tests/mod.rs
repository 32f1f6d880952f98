//! Sessions against the memory engine, each promise of the wire by itself; and the few things that only
//! sockets show.

mod account;
mod blobs;
mod certificates;
mod corpus;
mod delivery;
mod held;
mod identity;
mod manners;
mod pace;
mod pipelining;
mod proxied;
mod sockets;
mod support;
