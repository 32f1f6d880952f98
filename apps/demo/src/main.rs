//! `posthorn demo`: the tour. Two relays and six people, each command a process of its own, on this machine
//! and nowhere else.
//!
//! Reading guide: `script` is what happens, in acts; `elsewhere` has those with the other relay, and
//! `mending` the one in which disks die; `stage` starts and ends the processes; `stored` looks at what a
//! relay has on disk; `report` keeps the checks and draws the tables.
//!
//! Invariant: the programs are those that people use, `posthorn` and `posthorn-server`, found beside this
//! one; nothing of them is linked here. Only the profiles are made beforehand, with a passphrase that is
//! cheap to check: what a person waits for at each command would be most of the tour.

mod elsewhere;
mod mending;
mod report;
mod script;
mod stage;
mod stored;

use std::process::ExitCode;

use report::Report;
use stage::Stage;

#[tokio::main]
async fn main() -> ExitCode {
    let stage = match Stage::new() {
        Ok(stage) => stage,
        Err(failure) => {
            eprintln!("posthorn-demo: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    let ended = tokio::select! {
        played = script::play(&stage, &mut report) => played,
        // Striking the stage ends the processes and removes the folder.
        () = told_to_end() => Err("it was interrupted".to_owned()),
    };
    report.check("the tour was played to its end", ended.is_ok(), ended.err().unwrap_or_default());
    stage.strike().await;
    if report.conclude() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ctrl-C, or another wish of the system that this ends.
#[cfg(unix)]
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let waiting = kinds.into_iter().filter_map(|kind| signal(kind).ok()).map(|mut wish| {
        Box::pin(async move {
            wish.recv().await;
        })
    });
    futures_util::future::select_all(waiting).await;
}

/// Ctrl-C.
#[cfg(not(unix))]
async fn told_to_end() {
    // An error means that there is nothing to wait for.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
