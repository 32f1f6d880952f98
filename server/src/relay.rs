//! The relay put together: store, hub, listener, admin socket, and the tasks that keep them going.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use posthorn_proto::{PATH, RelayIdentity};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Desk, Invite};
use crate::clock::SystemClock;
use crate::command::{Context, ContextParts};
use crate::config::{BlobsIn, Config, ConfigError, Engine};
use crate::descriptors;
use crate::gateway::listener::{self, Listener};
use crate::gateway::{Certificates, TlsError};
use crate::live::Hub;
use crate::parts;
use crate::parts::folder::FolderParts;
use crate::parts::memory::MemoryParts;
use crate::parts::sweep::Sweep;
use crate::parts::{PartError, Parts};
use crate::secret::{RelaySecret, SecretError};
use crate::store::embedded::{self, EmbeddedStore};
use crate::store::memory::MemoryStore;
use crate::store::{Blobs, Clock, Store, StoreError};

/// How often what has expired is dropped. Each mailbox has its turn once a minute, so that what there is to
/// do is spread over the minute.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked for what is left of blobs that are gone, on one of 256 shelves.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often certificates are read again and memory is given back, in expiry intervals.
const CHORES_EVERY: u32 = 60;
/// Longest path of a unix socket on Linux, in bytes, without the final zero.
const SOCKET_PATH_BYTES: usize = 107;

/// A running relay. Dropping it ends every task at once; [`Relay::shutdown`] is the polite way.
pub struct Relay {
    address: SocketAddr,
    desk: Arc<Desk>,
    drain: watch::Sender<bool>,
    certificates: Option<Arc<Certificates>>,
    /// The listener, which owns the connections.
    listener: JoinSet<()>,
    /// Expiry and the admin socket.
    upkeep: JoinSet<()>,
}

/// Why a relay does not start. Each says what to do in one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be made.
    #[error("the data folder {0} cannot be made: {1}")]
    Data(PathBuf, io::Error),
    /// The address is taken, or not ours.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// See [`TlsError`].
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// See [`SecretError`].
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// See [`embedded::StartError`].
    #[error(transparent)]
    Store(#[from] embedded::StartError),
    /// The admin socket cannot be made.
    #[error("the admin socket in {0} cannot be made: {1}")]
    Admin(PathBuf, io::Error),
    /// Blobs cannot be kept where the configuration says.
    #[error("{0}")]
    Blobs(String),
    /// A defect: opening the store panicked.
    #[error("opening the store failed: this is a defect")]
    Defect,
}

impl Relay {
    /// Starts a relay. It listens when this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_by(config, SystemClock::start()).await
    }

    /// Likewise, by a clock that a test moves on.
    pub async fn start_by(mut config: Config, clock: SystemClock) -> Result<Self, StartError> {
        config.check()?;
        let (total, transfers) = descriptors::admit(config.connections.total, config.blobs.transfers);
        (config.connections.total, config.blobs.transfers) = (total, transfers);
        let mut rng = StdRng::from_os_rng();
        let on_disk = config.engine == Engine::Embedded;
        if on_disk {
            make_folder(&config)?;
        }
        let certificates = Certificates::load(&config.tls)?;
        // The port first: two relays on one port is the commoner mistake, and costs nothing to find.
        let listen = |error| StartError::Listen(config.listen, error);
        let tcp = listener::listen(config.listen).map_err(listen)?;
        let address = tcp.local_addr().map_err(listen)?;

        let hub = Hub::new();
        let store = open_store(&config, clock.clone(), hub.clone(), &mut rng).await?;
        let identity = identity(&config, store.stats().accounts > 0, &mut rng)?;
        let context = context(&config, store, hub, identity, &mut rng);

        let (drain, draining) = watch::channel(false);
        let parts = open_parts(&config, context.identity(), context.store.stats().blobs)?;
        // What it finds is told by the log, and by whoever asks what is refused. A server elsewhere may be
        // long about it, and no message waits for that: there the sweep is the first that looks.
        if config.blobs.store == BlobsIn::Folder {
            let _ = parts.look().await;
        }
        let gate = Listener::new(
            tcp,
            &config,
            certificates.clone(),
            context.clone(),
            clock.clone(),
            parts.clone(),
            draining,
        );
        let url = config.public_url.clone().unwrap_or_else(|| {
            let scheme = if config.tls.certificate.is_some() { "wss" } else { "ws" };
            format!("{scheme}://{address}")
        });
        let desk = Arc::new(Desk {
            context: context.clone(),
            doors: gate.doors(),
            clock,
            parts: parts.clone(),
            url,
            rng: Mutex::new(rng),
        });
        let mut upkeep = JoinSet::new();
        if on_disk {
            let socket =
                admin::listen(&config.data).map_err(|e| StartError::Admin(config.data.clone(), e))?;
            upkeep.spawn(desk.clone().run(socket));
        }
        upkeep.spawn(every_second(context.store.clone(), certificates.clone()));
        upkeep.spawn(sweep(context.blobs.clone(), parts.clone()));
        let mut listener = JoinSet::new();
        listener.spawn(gate.run());
        Ok(Self { address, desk, drain, certificates, listener, upkeep })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients are told to connect to: the public URL, or the listening address, without a path.
    pub fn public_url(&self) -> &str {
        &self.desk.url
    }

    /// Where WebSocket is spoken, such as `ws://127.0.0.1:4100/v1/ws`.
    pub fn url(&self) -> String {
        format!("{}{}", self.desk.url.trim_end_matches('/'), PATH)
    }

    /// Its long-term public key.
    pub fn identity(&self) -> RelayIdentity {
        self.desk.context.identity()
    }

    /// Mints an invite for `uses` accounts within `days`.
    pub async fn mint_invite(&self, uses: u32, days: u32) -> Result<Invite, StoreError> {
        self.desk.mint(uses, days).await
    }

    /// Drops what has expired, which it does by itself every second. Each mailbox has its turn once in a
    /// minute, so something may be dropped up to a minute later than it expired.
    pub async fn expire(&self) -> Result<(), StoreError> {
        self.desk.context.store.expire().await
    }

    /// Removes what is left of blobs that are gone, which it does by itself, within some five minutes.
    pub async fn sweep(&self) {
        // What fails is told by the log, and is tried again.
        let _ = Sweep::default().all(self.desk.context.blobs.as_ref(), self.desk.parts.as_ref()).await;
    }

    /// Reads the TLS certificate again, if there is one. New connections get it; if it cannot be used, that
    /// is logged, and they get the former. The relay looks by itself once a minute whether it has changed.
    pub async fn reload(&self) {
        let Some(certificates) = self.certificates.clone() else {
            tracing::info!("there is no TLS certificate to be read again");
            return;
        };
        // A defect in it has been reported by its panic, and the former certificate stays.
        let _ = tokio::task::spawn_blocking(move || certificates.reload()).await;
    }

    /// Its numbers now.
    pub fn numbers(&self) -> admin::Numbers {
        self.desk.numbers()
    }

    /// Resolves if the store failed. It is the only one, so the process must stop (rule 19).
    pub async fn failed(&self) {
        self.desk.context.store.failed().await;
    }

    /// Stops politely: no new connections, clients are told, what was asked is answered (for as long as
    /// configured), then the store is closed.
    pub async fn shutdown(mut self) -> Result<(), StoreError> {
        self.desk.context.drain();
        self.drain.send_replace(true);
        while self.listener.join_next().await.is_some() {}
        self.upkeep.shutdown().await;
        self.desk.context.store.close().await
    }
}

fn make_folder(config: &Config) -> Result<(), StartError> {
    let failed = |error| StartError::Data(config.data.clone(), error);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data).map_err(failed)?;
    let socket = config.data.as_os_str().len() + "/admin.sock".len();
    if socket > SOCKET_PATH_BYTES {
        return Err(failed(io::Error::other(format!(
            "its path is too long for a unix socket by {} bytes: choose a shorter one with --data",
            socket - SOCKET_PATH_BYTES
        ))));
    }
    Ok(())
}

async fn open_store(
    config: &Config,
    clock: SystemClock,
    hub: Arc<Hub>,
    rng: &mut StdRng,
) -> Result<Arc<dyn Store>, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(clock);
    match config.engine {
        Engine::Memory => Ok(Arc::new(MemoryStore::new(config.policy(), clock, hub, rng))),
        Engine::Embedded => {
            let (embedded, mut rng) = (config.embedded(), StdRng::from_rng(rng));
            let opening =
                tokio::task::spawn_blocking(move || EmbeddedStore::open(&embedded, clock, hub, &mut rng));
            Ok(Arc::new(opening.await.map_err(|_| StartError::Defect)??))
        }
    }
}

/// What requests are answered with.
fn context(
    config: &Config,
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    identity: RelaySecret,
    rng: &mut StdRng,
) -> Arc<Context> {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    Context::new(ContextParts {
        mailboxes: store.clone(),
        directory: store.clone(),
        blobs: store.clone(),
        store,
        hub,
        limits: config.announced(),
        rates: config.rates.clone(),
        outbox_bytes: config.connections.outbox_bytes as usize,
        memory_bytes: usize::try_from(config.connections.memory_bytes).unwrap_or(usize::MAX),
        open_registration: config.open_registration,
        open_directory: config.open_directory,
        identity,
        seed,
        software: concat!("posthorn-server ", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// The relay's own key: the one in the data folder, or a new one.
fn identity(config: &Config, has_accounts: bool, rng: &mut StdRng) -> Result<RelaySecret, SecretError> {
    if config.engine == Engine::Memory {
        return Ok(RelaySecret::random(rng));
    }
    if has_accounts && !RelaySecret::is_in(&config.data) {
        tracing::error!(
            "relay-identity.key is missing: the relay begins with a new identity, and cards that name the old one are void; \
             if there is a backup of the file, stop the relay and put it back"
        );
    }
    RelaySecret::load_or_create(&config.data, rng)
}

#[cfg(not(feature = "s3"))]
const WITHOUT_S3: &str = "this program was built without s3";

/// Opens where the parts lie of so many blobs.
fn open_parts(config: &Config, identity: RelayIdentity, blobs: u64) -> Result<Arc<dyn Parts>, StartError> {
    match (config.engine, config.blobs.store) {
        (Engine::Memory, _) => Ok(Arc::new(MemoryParts::default())),
        (Engine::Embedded, BlobsIn::Folder) => in_folder(config, blobs),
        (Engine::Embedded, BlobsIn::S3) => in_bucket(config, identity, blobs),
    }
}

#[cfg(feature = "s3")]
fn in_bucket(config: &Config, identity: RelayIdentity, blobs: u64) -> Result<Arc<dyn Parts>, StartError> {
    let parts = parts::s3::S3Parts::new(&config.s3, identity, blobs);
    Ok(Arc::new(parts.map_err(|error| StartError::Blobs(error.to_string()))?))
}

#[cfg(not(feature = "s3"))]
fn in_bucket(_: &Config, _: RelayIdentity, _: u64) -> Result<Arc<dyn Parts>, StartError> {
    Err(StartError::Blobs(WITHOUT_S3.to_owned()))
}

/// Refuses what is wrong about where blobs are to be kept, as far as that is seen without asking anybody.
pub(crate) fn check_blobs(config: &Config) -> Result<(), StartError> {
    match (config.engine, config.blobs.store) {
        (Engine::Embedded, BlobsIn::S3) => check_bucket(config),
        _ => Ok(()),
    }
}

#[cfg(feature = "s3")]
fn check_bucket(config: &Config) -> Result<(), StartError> {
    parts::s3::check(&config.s3).map_err(|error| StartError::Blobs(error.to_string()))
}

#[cfg(not(feature = "s3"))]
fn check_bucket(_: &Config) -> Result<(), StartError> {
    Err(StartError::Blobs(WITHOUT_S3.to_owned()))
}

fn in_folder(config: &Config, blobs: u64) -> Result<Arc<dyn Parts>, StartError> {
    let folder = config.data.join(parts::folder::NAME);
    // Whatever the disk has left is the journal's: blobs stop before it does.
    let headroom = config.store.headroom_bytes.saturating_mul(2);
    // Each start has made it, so without it this is another folder, such as where a disk is not mounted.
    let is_another = blobs > 0 && !folder.join(parts::folder::INCOMING).exists();
    let unusable =
        |error| StartError::Blobs(format!("the folder {} cannot be used: {error}", folder.display()));
    let parts = FolderParts::open(&config.data, headroom).map_err(unusable)?;
    if is_another {
        tracing::error!(
            blobs,
            "the folder blobs/ is missing, or is not the one that was there, and with it what was put of these blobs, \
             which is answered PART_MISSING: stop the relay, and mount the disk that has it, put a copy back, or set \
             blobs.store as it was"
        );
    }
    Ok(Arc::new(parts))
}

/// Removes what is left of blobs: everything at the start, then a shelf every second, or as seldom as the
/// engine wants it.
async fn sweep(blobs: Arc<dyn Blobs>, parts: Arc<dyn Parts>) {
    let mut sweep = Sweep::default();
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_start = true;
    for second in 1u64.. {
        interval.tick().await;
        // What fails is told by the log, and is tried again.
        let _ = parts.look().await;
        if is_start {
            // As soon as they can be reached at all.
            is_start = sweep.all(blobs.as_ref(), parts.as_ref()).await == Err(PartError::Away);
        } else if second.is_multiple_of(parts.seconds_per_shelf()) {
            let _ = sweep.step(blobs.as_ref(), parts.as_ref()).await;
        }
    }
}

/// What the relay does by itself every second.
async fn every_second(store: Arc<dyn Store>, certificates: Option<Arc<Certificates>>) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut paused, mut failing) = (false, false);
    for second in 0u32.. {
        interval.tick().await;
        let expired = store.expire().await;
        if let (Err(error), false) = (expired, failing) {
            tracing::warn!(%error, "cannot drop what has expired; it is tried again every second");
        }
        failing = expired.is_err();
        let now_paused = store.stats().expiry_paused;
        if now_paused && !paused {
            tracing::warn!(
                "the clock jumped: nothing expires until it is right again, or until `posthorn-server confirm-clock`"
            );
        }
        paused = now_paused;
        if second % CHORES_EVERY > 0 {
            continue;
        }
        let certificates = certificates.clone();
        let chores = move || {
            if let Some(certificates) = certificates {
                certificates.refresh();
            }
            // What many connections at once, or a long catch-up, have left behind.
            posthorn_heap::trim();
        };
        let _ = tokio::task::spawn_blocking(chores).await;
    }
}
