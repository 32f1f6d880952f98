//! The engine against those who mean harm: strangers who know a contact link, members, relays. Each test
//! plays one of them with this library's own parts, past its checks. What goes wrong by accident is the
//! simulation's (`tests/src/sim/`).

mod accounts;
mod desk;
mod directory;
mod members;
mod relays;
mod strangers;
