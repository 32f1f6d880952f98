//! `demo`: the tour. A relay and five people, each command a process of its own, on this machine and nowhere
//! else.
//!
//! `script` is what happens, in acts; `stage` starts and ends the processes; `stored` looks at what the relay
//! has on disk; `report` keeps the checks and draws the tables. Everything lies in a temporary folder that is
//! removed at the end.

mod report;
mod script;
mod stage;
mod stored;

use std::net::SocketAddr;
use std::process::ExitCode;

use posthorn_server::{Config, Engine, Relay};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::args::DemoRelay;
use crate::print;
use crate::problem::Problem;
use report::Report;
use stage::Stage;

/// Invites that the tour's relay gives out: more than there are people.
const INVITE_USES: u32 = 16;

/// Plays the tour; the exit status says whether every check passed.
pub(crate) async fn run() -> Result<ExitCode, Problem> {
    let mut report = Report::default();
    let stage =
        Stage::new().map_err(|error| Problem::new("DEMO", format!("cannot set up the tour: {error}")))?;
    let ended = tokio::select! {
        played = script::play(&stage, &mut report) => played,
        // Leaving drops the stage, and that ends the processes and removes the folder.
        _ = tokio::signal::ctrl_c() => Err("it was interrupted".to_owned()),
    };
    report.check("the tour was played to its end", ended.is_ok(), ended.err().unwrap_or_default());
    stage.strike().await;
    Ok(if report.conclude() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The relay of the tour, in a process of its own. It tells where it listens, and ends with whoever started
/// it.
pub(crate) async fn relay_process(arguments: DemoRelay) -> Result<ExitCode, Problem> {
    let mut config = Config::for_tests();
    config.engine = Engine::Embedded;
    config.data = arguments.data;
    config.listen = SocketAddr::from(([127, 0, 0, 1], arguments.port));
    let failed = |error: &dyn std::fmt::Display| Problem::new("RELAY", error.to_string());
    let relay = Relay::start(config).await.map_err(|error| failed(&error))?;
    let invite = relay.mint_invite(INVITE_USES, 1).await.map_err(|error| failed(&error))?;
    print::object(&json!({"url": relay.public_url(), "invite": invite.code, "port": relay.address().port()}));
    let mut ignored = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    relay.shutdown().await.map_err(|error| failed(&error))?;
    Ok(ExitCode::SUCCESS)
}
