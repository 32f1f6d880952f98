//! What several test files share: a running relay with one registered device.
#![allow(dead_code, reason = "each test file uses a part")]

use posthorn_proto::Token;
use posthorn_tests::mailbox::{BareDevice, BareMailbox};
use posthorn_tests::relay::{RelayProcess, RelayProgram};
use posthorn_tests::wire::Wire;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

/// The handle of the fixture's device.
pub(crate) const HANDLE: &str = "fixture";

/// A generator whose seed stands in the test.
pub(crate) fn seeded(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// The relay as this package's tests start it.
pub(crate) fn relay_program() -> RelayProgram {
    RelayProgram::new(env!("CARGO_BIN_EXE_test-relay"))
}

/// A relay, and a device that may create mailboxes on it.
pub(crate) struct Fixture {
    pub(crate) relay: RelayProcess,
    pub(crate) device: BareDevice,
    account: Wire,
    rng: ChaCha20Rng,
}

/// Starts a relay and registers a device.
pub(crate) async fn fixture() -> anyhow::Result<Fixture> {
    fixture_with(&[]).await
}

/// The same with options for the relay.
pub(crate) async fn fixture_with(options: &[&str]) -> anyhow::Result<Fixture> {
    let mut rng = seeded(1);
    let relay = RelayProcess::start(&relay_program(), options).await?;
    let device = BareDevice::new(&mut rng);
    let mut account = relay.connect().await?;
    device.register(&mut account, HANDLE, relay.invite()).await?;
    Ok(Fixture { relay, device, account, rng })
}

impl Fixture {
    /// A creation token.
    pub(crate) async fn token(&mut self) -> anyhow::Result<Token> {
        Ok(self.device.draw(&mut self.account, 1, &mut self.rng).await?.remove(0))
    }

    /// A new mailbox.
    pub(crate) async fn mailbox(&mut self) -> anyhow::Result<BareMailbox> {
        let token = self.token().await?;
        let mailbox = BareMailbox::new(&mut self.rng);
        let mut wire = self.relay.connect().await?;
        mailbox.create(&mut wire, token).await?;
        wire.close().await;
        Ok(mailbox)
    }
}
