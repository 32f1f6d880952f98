//! The relay of the simulation: the real store rules, hub and sessions, on a clock that the world sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use posthorn_proto::frame::ClientFrame;
use posthorn_proto::{Incarnation, KeyHash, Limits, MailboxId};
use posthorn_server::command::{Context, ContextParts};
use posthorn_server::config::Rates;
use posthorn_server::gateway::session::Session;
use posthorn_server::live::Hub;
use posthorn_server::secret::RelaySecret;
use posthorn_server::store::memory::{MemoryImage, MemoryStore};
use posthorn_server::store::{Clock, Later, Mailboxes as _, Store, StoreError, StorePolicy};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _};

use super::world::Wire;

/// How often the relay looks for what is over, milliseconds.
const EXPIRY_EVERY: u64 = 10_000;

/// Time as the world has it, and by how much the relay's clock is ahead of that, milliseconds.
#[derive(Default)]
pub(super) struct SimClock {
    world: AtomicU64,
    ahead: AtomicI64,
}

impl SimClock {
    fn millis(&self) -> u64 {
        self.world.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn unix_seconds(&self) -> u64 {
        self.millis().saturating_add_signed(self.ahead.load(Ordering::Relaxed)) / 1000
    }

    fn monotonic_seconds(&self) -> u64 {
        self.millis() / 1000
    }
}

pub(super) struct SimRelay {
    clock: Arc<SimClock>,
    store: Arc<MemoryStore>,
    context: Arc<Context>,
    sessions: BTreeMap<Wire, Session>,
    identity: [u8; 32],
    kept: Option<MemoryImage>,
}

impl SimRelay {
    pub(super) fn new(now: u64, rng: &mut StdRng) -> Self {
        let clock = Arc::new(SimClock::default());
        clock.world.store(now, Ordering::Relaxed);
        let hub = Hub::new();
        let store = MemoryStore::restartable(StorePolicy::default(), clock.clone(), hub.clone(), rng);
        let mut identity = [0; 32];
        rng.fill_bytes(&mut identity);
        Self::with(clock, Arc::new(store), hub, identity, rng)
    }

    fn with(
        clock: Arc<SimClock>,
        store: Arc<MemoryStore>,
        hub: Arc<Hub>,
        identity: [u8; 32],
        rng: &mut StdRng,
    ) -> Self {
        let context = Context::new(ContextParts {
            mailboxes: store.clone(),
            directory: store.clone(),
            blobs: store.clone(),
            store: store.clone(),
            hub,
            limits: Limits::default(),
            outbox_bytes: 1 << 20,
            memory_bytes: 1 << 30,
            rates: Rates::off(),
            open_registration: true,
            open_directory: true,
            identity: RelaySecret::from_bytes(identity),
            seed: rng.random(),
            software: "simulation".to_owned(),
        });
        Self { clock, store, context, sessions: BTreeMap::new(), identity, kept: None }
    }

    /// Crashes and starts again: connections and openings are gone, what was answered is not.
    pub(super) fn restart(&mut self, rng: &mut StdRng) {
        self.sessions.clear();
        let image: MemoryImage = self.store.image().expect("made restartable");
        self.begin(image, rng);
    }

    /// Keeps a copy of what is durable now.
    pub(super) fn keep(&mut self) {
        self.kept = self.store.image();
    }

    /// Starts again on the copy, as after a restore: in a new life.
    pub(super) fn restore(&mut self, rng: &mut StdRng) {
        self.sessions.clear();
        let Some(image) = self.kept.take() else { return };
        self.begin(image, rng);
        self.done(self.store.renew(Incarnation::random(rng)));
    }

    /// Whoever has this turn key destroys a mailbox; whether it was good.
    pub(super) fn destroy(&self, mailbox: MailboxId, turn_key: KeyHash) -> bool {
        let done = self.store.destroy(mailbox, turn_key).now_or_never();
        done.expect("the memory engine answers at once").is_ok()
    }

    fn begin(&mut self, image: MemoryImage, rng: &mut StdRng) {
        let kept = self.kept.take();
        let hub = Hub::new();
        let store = MemoryStore::reopen(image, StorePolicy::default(), self.clock.clone(), hub.clone(), rng);
        *self = Self::with(self.clock.clone(), Arc::new(store), hub, self.identity, rng);
        self.kept = kept;
    }

    /// Time passes. What is over goes, and old post ids leave memory.
    pub(super) fn set_time(&self, now: u64) {
        let before = self.clock.world.swap(now, Ordering::Relaxed);
        if before / EXPIRY_EVERY != now / EXPIRY_EVERY {
            self.done(self.store.expire());
        }
    }

    /// Somebody sets the relay's clock, and perhaps vouches for it.
    pub(super) fn set_clock(&self, ahead: i64, confirmed: bool) {
        self.clock.ahead.store(ahead, Ordering::Relaxed);
        if confirmed {
            self.done(self.store.confirm_clock());
        }
    }

    fn done(&self, done: Later<'_, (), StoreError>) {
        done.now_or_never().expect("the memory engine answers at once").expect("it is running");
    }

    pub(super) fn connect(&mut self, wire: &Wire) {
        let millis = self.clock.millis();
        self.sessions.insert(wire.clone(), Session::new(self.context.clone(), None, millis));
    }

    pub(super) fn disconnect(&mut self, wire: &Wire) {
        self.sessions.remove(wire);
    }

    /// Gives a frame to its session.
    pub(super) fn take(&mut self, wire: &Wire, frame: Bytes) {
        let Some(session) = self.sessions.get_mut(wire) else { return };
        let millis = self.clock.millis();
        if let Some(work) = session.on_frame(ClientFrame::decode(frame), millis) {
            work.now_or_never().expect("the memory engine answers at once");
        }
    }

    /// What the sessions have to say, each in order.
    pub(super) fn outgoing(&mut self) -> Vec<(Wire, Bytes)> {
        let mut frames = Vec::new();
        for (wire, session) in &mut self.sessions {
            loop {
                while let Some(frame) = session.outbox().pop() {
                    frames.push((wire.clone(), frame));
                }
                match session.catch_up() {
                    Some(work) => work.now_or_never().expect("the memory engine answers at once"),
                    None => break,
                }
            }
        }
        frames
    }
}
