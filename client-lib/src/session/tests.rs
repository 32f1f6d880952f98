//! The whole life of groups, on real databases. People are `Party`s: an identity, one device, one database in memory.

mod faults;
mod flow;
mod party;
