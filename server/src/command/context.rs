//! What every command works with: the parts of one relay, without sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use posthorn_proto::{Limits, RelayIdentity};
use tokio::sync::Semaphore;

use super::neighbourhood::AddressBuckets;
use super::rate::{Buckets, Rate};
use crate::config::Rates;
use crate::live::Hub;
use crate::outbox::Budget;
use crate::secret::{Ephemerals, RelaySecret};
use crate::store::{Blobs, Directory, Mailboxes, Store};

/// Readers that fell behind are served from the store by so many at once; each holds one batch.
const READS: usize = 64;
/// So many `Open`s are carried out at once; each may hold a kilobyte for each of its mailboxes.
const OPENS: usize = 64;
/// Most keys that one kind of rate remembers: bounds memory at a few megabytes.
const REMEMBERED: usize = 100_000;
const HOUR: u32 = 3600;

/// What a [`Context`] is made of.
pub struct ContextParts {
    /// Where mailboxes live. It must publish to `hub`.
    pub mailboxes: Arc<dyn Mailboxes>,
    /// Where accounts, cards, key packages, tokens and invites live.
    pub directory: Arc<dyn Directory>,
    /// Where it is known which blobs there are.
    pub blobs: Arc<dyn Blobs>,
    /// All of these together.
    pub store: Arc<dyn Store>,
    /// Who has what open.
    pub hub: Arc<Hub>,
    /// What is announced and enforced.
    pub limits: Limits,
    /// How often things may happen.
    pub rates: Rates,
    /// Most bytes of deliveries that wait for one connection.
    pub outbox_bytes: usize,
    /// Most bytes that are held for all clients together.
    pub memory_bytes: usize,
    /// Whether anybody may register.
    pub open_registration: bool,
    /// Whether the directory answers who has no account here.
    pub open_directory: bool,
    /// The relay's long-term key.
    pub identity: RelaySecret,
    /// Seeds the nonces and ephemeral keys.
    pub seed: [u8; 32],
    /// Name and version, for people.
    pub software: String,
}

/// One relay as its commands see it. Shared by all sessions.
pub struct Context {
    pub(crate) mailboxes: Arc<dyn Mailboxes>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) blobs: Arc<dyn Blobs>,
    /// What concerns all of these. What one role can do is asked of that.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) limits: Limits,
    pub(crate) outbox_bytes: usize,
    pub(crate) budget: Arc<Budget>,
    /// Who holds a permit may read a batch from the store.
    pub(crate) reads: Semaphore,
    /// Who holds a permit may have an `Open` under way.
    pub(crate) opens: Semaphore,
    pub(crate) open_registration: bool,
    pub(crate) open_directory: bool,
    pub(crate) identity: RelaySecret,
    pub(crate) ephemerals: Ephemerals,
    pub(crate) software: String,
    pub(crate) rates: ContextRates,
    /// Set once, when the relay begins to stop.
    draining: AtomicBool,
}

/// The rates, made ready.
pub(crate) struct ContextRates {
    pub(crate) requests: Rate,
    pub(crate) bad_requests: Rate,
    pub(crate) takes_by_asker: Buckets,
    pub(crate) takes_of_target: Buckets,
    pub(crate) takes_of_target_by_strangers: Buckets,
    pub(crate) takes_by_asker_of_target: Buckets,
    /// What those without an account ask of the directory.
    pub(crate) strangers: AddressBuckets,
    pub(crate) registrations: AddressBuckets,
    pub(crate) requests_of_address: AddressBuckets,
    pub(crate) connects: AddressBuckets,
}

impl Context {
    /// Puts a relay together.
    pub fn new(parts: ContextParts) -> Arc<Self> {
        let rates = &parts.rates;
        let hourly = |events: u32| Buckets::new(Rate::new(events, HOUR, events), REMEMBERED);
        let by_address =
            |events: u32, seconds, burst| AddressBuckets::new(events, seconds, burst, REMEMBERED);
        let (together, connects, registrations, strangers) = (
            rates.requests_per_address_per_second,
            rates.connects_per_address_per_minute,
            rates.registrations_per_address_per_hour,
            rates.strangers_per_address_per_hour,
        );
        Arc::new(Self {
            rates: ContextRates {
                requests: Rate::new(rates.requests_per_second, 1, rates.requests_burst),
                bad_requests: Rate::new(rates.bad_requests_per_minute, 60, rates.bad_requests_per_minute),
                takes_by_asker: hourly(rates.takes_per_asker_per_hour),
                takes_of_target: hourly(rates.takes_per_target_per_hour),
                takes_of_target_by_strangers: hourly(rates.takes_by_strangers_per_target_per_hour),
                takes_by_asker_of_target: hourly(rates.takes_per_asker_and_target_per_hour),
                strangers: by_address(strangers, HOUR, strangers),
                registrations: by_address(registrations, HOUR, registrations),
                requests_of_address: by_address(together, 1, together.saturating_mul(4)),
                connects: by_address(connects, 60, connects),
            },
            mailboxes: parts.mailboxes,
            directory: parts.directory,
            blobs: parts.blobs,
            store: parts.store,
            hub: parts.hub,
            limits: parts.limits,
            outbox_bytes: parts.outbox_bytes,
            budget: Arc::new(Budget::new(parts.memory_bytes)),
            reads: Semaphore::new(READS),
            opens: Semaphore::new(OPENS),
            open_registration: parts.open_registration,
            open_directory: parts.open_directory,
            identity: parts.identity,
            ephemerals: Ephemerals::new(parts.seed),
            software: parts.software,
            draining: AtomicBool::new(false),
        })
    }

    /// The relay's public name.
    pub fn identity(&self) -> RelayIdentity {
        self.identity.identity()
    }

    /// From now on new requests are refused with `SHUTTING_DOWN`.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the relay is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
