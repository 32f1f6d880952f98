//! Where mailboxes and the directory live: the [`Store`] trait, its roles, and its engines.
//!
//! A store has three roles, [`Mailboxes`], [`Directory`] and [`Blobs`], and whoever asks it asks one of them.
//! They are in the words of the product and know no engine: [`memory`] is the readable one, [`embedded`] the
//! durable default (a journal with sled as its checkpoint and index). Every engine passes `conformance`.
//!
//! What all engines promise:
//! - **Durable before answered.** When a method that changes something returns `Ok`, the change is on stable
//!   storage (R1).
//! - **Nothing undurable is disclosed.** No method returns, and no [`Published`] event says, what a power cut
//!   could undo.
//! - **Atomic.** A call happens as a whole or not at all.
//! - **Linearizable.** Calls happen as if one after another, each between its beginning and its answer: no
//!   call returns a state older than any that was answered before, on whatever relay. (A client takes an
//!   older one for a restored store, rule 8, and repairs it.) That goes for refusals, too.
//! - **Repeatable.** Where a method says so, the identical call again gives the same answer.
//!
//! Keys arrive here as hashes: an engine never holds a key that opens a mailbox.

mod blobs;
pub(crate) mod clock;
pub(crate) mod codec;
mod directory;
pub(crate) mod effort;
pub mod embedded;
mod error;
mod fingerprint;
pub mod fuzzing;
pub(crate) mod keyed;
pub(crate) mod ledger;
mod mailboxes;
pub mod memory;
pub mod paying;
mod policy;
mod published;
pub(crate) mod tables;
mod words;

#[cfg(test)]
pub(crate) mod conformance;

use std::future::Future;
use std::pin::Pin;

use posthorn_proto::Incarnation;

pub use self::blobs::{BlobView, Blobs, NewBlob};
pub use self::clock::Clock;
pub use self::directory::Directory;
pub use self::error::StoreError;
pub use self::mailboxes::Mailboxes;
pub(crate) use self::policy::NewIds;
pub use self::policy::StorePolicy;
pub use self::published::{Published, Standing, Ticket, Unheard};
pub use self::words::{
    Advance, Append, CardRecord, DeviceRecord, KeyPackageStock, NewAccount, NewInvite, NewMailbox,
    OpenReader, OpeningNumber, ReadRange, ReaderView, Spent, SpentOn, Stats, Stored, TakenKeyPackage,
};

/// What a store method returns: engines may need the disk or a network.
pub type Later<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A store engine: its roles, and what goes for all of them together.
pub trait Store: Mailboxes + Directory + Blobs {
    /// This life of the store (R10). It may change while the store runs; who opens a mailbox then is told.
    fn incarnation(&self) -> Incarnation;

    /// What is stored may be older than what was answered: one-time key packages are discarded, because some
    /// may have been given out since, and then the store becomes this other one (R10). If it fails, it must
    /// be repeated.
    fn renew(&self, next: Incarnation) -> Later<'_, (), StoreError>;

    /// Resolves when the store has failed: it answers nothing any more, and only a new start mends that (rule
    /// 19). What was answered is still there then, and of what was not, the next start finds out by what is
    /// stored whether it has happened: nothing is written again under another version.
    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Drops what has expired by now: envelopes (prefixes only, rule 20), mailboxes that nobody opened (their
    /// last day counts in full), invites, tokens (after 7 days), and blobs whose lease has ended. Does
    /// nothing while a jump of the clock is unconfirmed: the wall clock is more than 1 h off the steady one,
    /// or at start was more than 1 h before or 7 days after the newest record. Until it is confirmed, records
    /// are stamped as if there had been no jump (at start: with the later of the two times).
    ///
    /// Post ids that are no longer those of new posts leave memory in any case, and their posts stop
    /// counting.
    fn expire(&self) -> Later<'_, (), StoreError>;

    /// The operator vouches for the clock: expiry goes on.
    fn confirm_clock(&self) -> Later<'_, (), StoreError>;

    /// Numbers for the operator: of the whole store, whichever relay is asked.
    fn stats(&self) -> Stats;

    /// Answers what has been asked, writes what makes the next start fast, and stops. Later calls get
    /// `Stopped`.
    fn close(&self) -> Later<'_, (), StoreError>;
}
