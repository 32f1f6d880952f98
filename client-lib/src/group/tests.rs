//! The whole life of groups, on real databases. People are `Party`s: an identity, one device, one database in
//! memory.

mod faults;
mod fixture;
mod flow;
mod interop;
mod keys;
mod leaving;
mod measure;
mod party;
mod refusals;
mod scopes;
