//! A relay to measure, with mailboxes on it.

use anyhow::Context as _;
use posthorn_tests::mailbox::{BareDevice, BareMailbox};
use posthorn_tests::relay::{RelayProcess, RelayProgram};
use posthorn_tests::wire::Wire;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

/// The word that makes this program the relay.
pub(crate) const RELAY: &str = "relay";
/// Larger requests would be refused.
const TOKENS_PER_REQUEST: usize = 50;

/// A running relay on an empty store.
pub(crate) struct Bench {
    pub(crate) relay: RelayProcess,
    pub(crate) rng: ChaCha20Rng,
}

/// Starts a relay with the default configuration but without limits on rates, for they would be what is measured.
pub(crate) async fn start() -> anyhow::Result<Bench> {
    let program = RelayProgram { first: vec![RELAY.into()], ..RelayProgram::new(std::env::current_exe()?) };
    let relay = RelayProcess::start(&program, posthorn_tests::relay::NO_RATES).await.context("starting the relay")?;
    Ok(Bench { relay, rng: ChaCha20Rng::from_os_rng() })
}

impl Bench {
    /// Creates mailboxes, as many as one device may.
    pub(crate) async fn mailboxes(&mut self, count: usize) -> anyhow::Result<Vec<BareMailbox>> {
        let mut account = self.relay.connect().await?;
        let device = BareDevice::new(&mut self.rng);
        device.register(&mut account, "bench", self.relay.invite()).await?;
        let mut mailboxes = Vec::with_capacity(count);
        let mut wire = self.relay.connect().await?;
        while mailboxes.len() < count {
            let some = TOKENS_PER_REQUEST.min(count - mailboxes.len());
            for token in device.draw(&mut account, some, &mut self.rng).await? {
                let mailbox = BareMailbox::new(&mut self.rng);
                mailbox.create(&mut wire, token).await?;
                mailboxes.push(mailbox);
            }
        }
        Ok(mailboxes)
    }

    /// Connections to the relay.
    pub(crate) async fn connections(&self, count: usize) -> anyhow::Result<Vec<Wire>> {
        let mut wires = Vec::with_capacity(count);
        for _ in 0..count {
            wires.push(self.relay.connect().await?);
        }
        Ok(wires)
    }
}
