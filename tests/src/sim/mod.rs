//! Deterministic simulation: real engines of several devices, a real relay (its sessions, hub and rules, without sockets),
//! and between them a network and a clock that a seed drives. Connections break, frames are late, devices and the relay
//! crash; the same seed plays the same schedule again (C5).
//!
//! `world` is the network and the schedule, `device` a device with its database on disk, `relay` the relay, `scenario` what
//! the people do, `check` what must be true when everything has settled, `hostile` a relay that lies.

mod check;
mod device;
mod hostile;
mod relay;
mod scenario;
mod world;

pub use hostile::{LIES, Lie, lie};
pub use scenario::{Report, Scenario, run};
