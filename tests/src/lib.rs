//! Whole-system tests of Posthorn, and what they are made of.
//!
//! Reading guide: [`relay`] runs real relay processes, [`wire`] is a bare connection that can also say what
//! no client would, [`mailbox`] the keys and requests for it. [`person`] is somebody with a client library
//! inside of the test, [`puppet`] somebody in a process of their own, that can be killed. [`sim`] is the
//! deterministic simulation, [`faults`] breaks relays on purpose, [`seaweed`] is an S3 server for their
//! blobs, [`drill`] moves a conversation while people talk, [`pty`] sits at the terminal
//! client's screen. The tests themselves are in `tests/tests`.
//!
//! Invariant: a test awaits an event or a process, never a length of time; every wait is bounded, and running
//! into the bound is a failure.

pub mod drill;
pub mod faults;
pub mod http;
pub mod mailbox;
pub mod person;
pub mod pty;
pub mod puppet;
pub mod relay;
pub mod seaweed;
pub mod sim;
pub mod wire;
