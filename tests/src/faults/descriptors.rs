//! Descriptors: they run out, because of a crowd at the door or of everybody else on the machine, and so does
//! memory. What takes space is refused for as long as that lasts; the relay goes on, nothing is taken for
//! damage, and afterwards everything that was answered is there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use posthorn_proto::ErrorCode;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tokio::net::TcpStream;

use super::book::Book;
use super::kill::SMALL;
use super::load::{self, Plan};
use super::shim::{EMFILE, ENFILE, ENOMEM, Shim};
use super::{Run, Tally, now, verify};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

/// What a relay may answer while it lasts.
const TOLERATED: &[ErrorCode] = &[ErrorCode::StoreUnavailable, ErrorCode::MailboxFull];
/// Descriptors of a relay before a crowd, and how many come.
const DESCRIPTORS: u32 = 320;
const CROWD: usize = 1000;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let name = format!("descriptors: {CROWD} idle connections at a relay that may open {DESCRIPTORS} files");
    tally.count(&name, crowd(run).await);
    for (name, errno) in [("EMFILE", EMFILE), ("ENFILE", ENFILE), ("ENOMEM", ENOMEM)] {
        let rounds = if run.long { 20 } else { 2 };
        tally.count(&format!("descriptors: no file opens, {name}"), opens(run, errno, rounds).await);
    }
}

/// Strangers who connect and say nothing, half of them for long enough to be let in.
async fn crowd(run: &Run) -> anyhow::Result<String> {
    let limited = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
    let program = RelayProgram {
        program: "/bin/sh".into(),
        first: vec!["-c".into(), limited.into(), run.relay.clone().into()],
    };
    let mut relay = RelayProcess::start(&program, SMALL).await?;
    let book = Arc::new(Book::default());
    load::prepare(&relay.url(), &book, run.seed).await?;
    let plan = Plan { lengths: 8_000..60_000, tolerated: TOLERATED, ..Plan::default() };
    let load = load::start(&relay.url(), &book, &plan, run.seed);
    let data = relay.data().to_owned();
    let begun = newest(&data)?;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        // One that is turned away has met the relay, too.
        crowd.extend(TcpStream::connect(relay.address()).await);
    }
    until_newest(&mut relay, &data, begun + 8).await?;
    let all = newest(&data)?;
    drop(crowd);
    ends_well(&mut relay, &book, load, run.seed).await?;
    Ok(format!("{} segments were begun meanwhile", all - begun))
}

/// Every file of the data folder that is to be opened fails to.
async fn opens(run: &Run, errno: u32, rounds: u32) -> anyhow::Result<String> {
    let (shim, data) = (Shim::new()?, tempfile::tempdir()?);
    let root = data.path().join("data");
    let folder = format!("data={}", root.display());
    let options = [SMALL, &["--set", &folder]].concat();
    let mut relay = RelayProcess::start(&shim.program(&run.relay, &root), &options).await?;
    let book = Arc::new(Book::default());
    load::prepare(&relay.url(), &book, run.seed).await?;
    let plan = Plan { lengths: 8_000..60_000, lag: 10, tolerated: TOLERATED, ..Plan::default() };
    for round in 0..rounds {
        let context = || format!("round {round}");
        let seed = run.seed + u64::from(round);
        let load = load::start(&relay.url(), &book, &plan, seed);
        let begun = newest(&root)?;
        until_newest(&mut relay, &root, begun + 2).await.with_context(context)?;
        let before = shim.failed()?;
        shim.fail_opens(errno)?;
        let until = now() + PATIENCE;
        while shim.failed()? < before + 20 {
            ensure!(now() < until, "{}: nothing is opened", context());
            relay.alive().with_context(context)?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        shim.fail_opens(0)?;
        let stuck = newest(&root)?;
        until_newest(&mut relay, &root, stuck + 2).await.with_context(context)?;
        ensure!(!root.join("damage").exists(), "{}: damage was seen:\n{}", context(), relay.said());
        ends_well(&mut relay, &book, load, seed).await.with_context(context)?;
    }
    let failed = shim.failed()?;
    relay.kill().await?;
    Ok(format!("{failed} files were not opened"))
}

/// The relay is as it was, and all that it answered is there after it has died, too.
async fn ends_well(
    relay: &mut RelayProcess,
    book: &Arc<Book>,
    load: tokio::task::JoinSet<anyhow::Result<()>>,
    seed: u64,
) -> anyhow::Result<()> {
    relay.alive()?;
    let said = relay.said();
    ensure!(!said.contains("damage") && !said.contains("panicked"), "{said}");
    relay.kill().await?;
    load::finish(load).await?;
    relay.restart().await?;
    verify::on_wire(&relay.url(), book, &mut ChaCha20Rng::seed_from_u64(seed)).await?;
    Ok(())
}

/// The number of the newest segment in a data folder.
pub(super) fn newest(data: &Path) -> anyhow::Result<u64> {
    let mut newest = 0;
    for entry in std::fs::read_dir(data.join("journal"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let digits: String = name.chars().take_while(char::is_ascii_hexdigit).collect();
        newest = newest.max(u64::from_str_radix(&digits, 16).unwrap_or(0));
    }
    Ok(newest)
}

/// Waits for a segment.
pub(super) async fn until_newest(relay: &mut RelayProcess, data: &Path, number: u64) -> anyhow::Result<()> {
    let until = now() + PATIENCE;
    while newest(data)? < number {
        relay.alive()?;
        ensure!(now() < until, "segment {number} is not begun:\n{}", relay.said());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
