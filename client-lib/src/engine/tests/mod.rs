//! The engine against those who mean harm: strangers who know a contact link, members, relays. Each test
//! plays one of them with this library's own parts, past its checks. What goes wrong by accident is the
//! simulation's (`tests/src/sim/`).

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod asking;
#[cfg(test)]
mod attacked;
#[cfg_attr(not(test), allow(dead_code, reason = "the fuzz target uses a part"))]
mod desk;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod gone;
pub(super) mod hostile;
#[cfg(test)]
mod members;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod relays;
#[cfg(test)]
mod returns;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod times;
