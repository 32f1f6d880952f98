//! A relay within the test, and people who have accounts there.
//!
//! Owns the relay, its data folder, everybody's profiles and the time; all of it ends with the value.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use posthorn_client::sans_io::{Database, KdfCost, Location, Passphrase};
use posthorn_client::{Client, Clock, Error, Handle, RelayUrl, Who};
use posthorn_server::clock::SystemClock;
use posthorn_server::{Config, Engine, Rates, Relay};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::Network;

/// How many accounts the invite makes: more than any test needs.
const ACCOUNTS: u32 = 10_000;
/// What protects the profiles, which hold nobody's secrets.
const PASSPHRASE: &str = "correct horse";

/// A relay in this process, on a free port of this machine, behind a [`Network`]. It runs on the runtime that
/// started it, and ends when it is dropped.
pub struct TestRelay {
    network: Network,
    relay: Option<Relay>,
    /// By how much the clocks are ahead of the machine's.
    ahead: watch::Sender<Duration>,
    invite: String,
    // The folders go last.
    data: TempDir,
    profiles: TempDir,
}

impl std::fmt::Debug for TestRelay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRelay").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl TestRelay {
    /// Starts a relay with an empty store. It listens when this returns.
    pub async fn start() -> Self {
        let folder = || tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let (data, profiles) = (folder(), folder());
        let ahead = watch::Sender::new(Duration::ZERO);
        let relay = begin(data.path(), &ahead).await;
        let invite = relay.mint_invite(ACCOUNTS, 1).await;
        let invite = invite.unwrap_or_else(|error| panic!("the relay makes no invite: {error}")).code;
        let network = Network::start(relay.address()).await;
        Self { network, relay: Some(relay), ahead, invite, data, profiles }
    }

    /// Where clients find it. It stays the same when the relay is restarted.
    pub fn url(&self) -> RelayUrl {
        let url = format!("ws://{}", self.network.address());
        RelayUrl::parse(&url).expect("a socket address after ws:// is a relay's URL")
    }

    /// A code to register with, as often as wanted.
    pub fn invite(&self) -> &str {
        &self.invite
    }

    /// What lies between the clients and the relay.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Somebody at this relay, by name.
    pub fn who(&self, name: &str) -> Who {
        Who::Handle(handle(name))
    }

    /// A client with an account of this name. After its `close`, the same name opens the same profile.
    ///
    /// As in life, the others' invitations wait for `accept`, unless `Client::consent` says otherwise.
    pub async fn client(&self, name: &str) -> Client {
        let clock = Clock::ahead(self.ahead.subscribe());
        let path = self.profiles.path().join(format!("{}.db", handle(name)));
        let opening = tokio::task::spawn_blocking(move || -> Result<Client, Error> {
            let (location, passphrase) = (Location::File(&path), Passphrase::new(PASSPHRASE));
            let database = if Database::exists(location)? {
                Database::open(location, &passphrase)?
            } else {
                // Searching for this passphrase need not be slow, and tests open many profiles.
                Database::create(location, &passphrase, KdfCost::CHEAP, &mut ChaCha20Rng::from_os_rng())?
            };
            Client::with_clock(database, clock)
        });
        let registered = async {
            let client = opening.await.map_err(|_| Error::Stopped)??;
            if !client.account().await?.is_some_and(|account| account.registered) {
                client.register(self.url(), handle(name), &self.invite).await?;
            }
            Ok::<_, Error>(client)
        };
        registered.await.unwrap_or_else(|error| panic!("no client for {name} ({}): {error}", error.code()))
    }

    /// Lets time pass at once, for the relay and for every client of this kit: what is due by then is done
    /// (keys are renewed, envelopes expire), as if all had slept. The relay may drop what has expired up to a
    /// minute late.
    pub async fn pass(&self, time: Duration) {
        self.ahead.send_modify(|ahead| *ahead += time);
        if let Some(relay) = &self.relay {
            relay.expire().await.unwrap_or_else(|error| panic!("the relay drops nothing: {error}"));
        }
    }

    /// Stops the relay in order: clients are told, and try to reach it again and again. Does nothing if it
    /// is stopped.
    pub async fn stop(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        self.network.lead_to(None);
        relay.shutdown().await.unwrap_or_else(|error| panic!("the relay does not stop: {error}"));
    }

    /// Starts the relay again on its data, after it was stopped if it ran.
    pub async fn restart(&mut self) {
        self.stop().await;
        let relay = begin(self.data.path(), &self.ahead).await;
        self.network.lead_to(Some(relay.address()));
        self.relay = Some(relay);
    }
}

async fn begin(data: &Path, ahead: &watch::Sender<Duration>) -> Relay {
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data: data.to_owned(),
        engine: Engine::Embedded,
        // Tests ask for more than people do.
        rates: Rates::off(),
        ..Config::default()
    };
    let clock = SystemClock::ahead(ahead.subscribe());
    Relay::start_by(config, clock).await.unwrap_or_else(|error| panic!("the relay does not start: {error}"))
}

fn handle(name: &str) -> Handle {
    Handle::parse(name).unwrap_or_else(|error| panic!("{name:?} is no name: {error}"))
}
