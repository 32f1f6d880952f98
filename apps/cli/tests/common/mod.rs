//! What these tests share: the program, profiles that are cheap to open, and a relay.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use posthorn_server::{Config, Relay};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub(crate) const POSTHORN: &str = env!("CARGO_BIN_EXE_posthorn");
const PASSPHRASE: &str = "correct horse";

/// `posthorn` on a profile.
pub(crate) fn posthorn(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(POSTHORN);
    command.arg("--home").arg(home).args(arguments);
    command.env("POSTHORN_PASSPHRASE", PASSPHRASE).stdin(Stdio::null());
    command
}

pub(crate) fn run(home: &Path, arguments: &[&str]) -> Output {
    posthorn(home, arguments).output().expect("posthorn starts")
}

pub(crate) fn good(home: &Path, arguments: &[&str]) -> String {
    let output = run(home, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An empty profile whose passphrase is cheap to check: `register` goes on with it.
pub(crate) fn prepare(home: &Path) {
    // Made once and copied: whoever opens one here holds its lock, and so does, for a moment, each program
    // that another test starts just then.
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    let empty = EMPTY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, mut rng) = (folder.path().join("posthorn.db"), StdRng::from_os_rng());
        Database::create(Location::File(&file), &Passphrase::new(PASSPHRASE), KdfCost::CHEAP, &mut rng)
            .expect("an empty profile");
        std::fs::read(file).expect("the profile")
    });
    std::fs::create_dir_all(home).expect("a folder");
    std::fs::write(home.join("posthorn.db"), empty).expect("the profile");
}

/// A relay in this process. Dropping it is its death.
pub(crate) struct TestRelay {
    pub(crate) url: String,
    pub(crate) invite: String,
    relay: Option<Relay>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestRelay {
    pub(crate) fn start() -> Self {
        Self::with(Config::for_tests())
    }

    pub(crate) fn with(config: Config) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (relay, invite) = runtime.block_on(async {
            let relay = Relay::start(config).await.expect("a relay");
            let invite = relay.mint_invite(16, 1).await.expect("an invite");
            (relay, invite.code)
        });
        Self { url: relay.public_url().to_owned(), invite, relay: Some(relay), runtime: Some(runtime) }
    }

    /// Somebody who has an account here.
    pub(crate) fn register(&self, home: &Path, handle: &str) -> String {
        prepare(home);
        good(home, &["register", "--relay", &self.url, "--handle", handle, "--invite", &self.invite])
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        drop(self.relay.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
