//! Deterministic simulation: real engines of several devices, a real relay (its sessions, hub and rules,
//! without sockets), and between them a network and a clock that a seed drives. Connections break, frames are
//! late, devices and the relay crash, clocks are hours off and are set; the same seed plays the same schedule
//! again (C5).
//!
//! `world` is the network and the schedule, `device` a device with its database on disk, `relay` the relay,
//! `scenario` what the people do, `check` what must be true when everything has settled, `watch` what must be
//! true of every frame, `repair` what does not pass by itself, `traitor` a member who means harm meanwhile,
//! `gone` a relay that is gone for days,
//! `hostile` a relay that lies, `siege` everybody who means harm at once, `rules` one step for each rule of
//! the design that the others would not miss.

mod check;
mod device;
mod gone;
mod hostile;
mod relay;
mod repair;
mod rules;
mod scenario;
mod siege;
mod traitor;
mod watch;
mod world;

pub use gone::gone;
pub use hostile::{LIES, Lie, lie};
pub use repair::{Healed, repair};
pub use rules::{STEPS, Step};
pub use scenario::{Report, Scenario, run};
#[cfg(feature = "fuzzing")]
pub use siege::member;
pub use siege::siege;
