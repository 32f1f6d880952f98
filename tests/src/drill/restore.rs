//! The operator's nightmare: the disk is gone, and yesterday's copy of the data folder is put back (R10,
//! rule 8). What was said since then is on the people's devices, and nowhere else.

use anyhow::Context as _;

use super::stage::{Programs, Stage};

/// What everybody says before the copy, after it, and once the relay is back.
const SAID: u64 = 12;

pub(super) async fn run(programs: &Programs) -> anyhow::Result<String> {
    let mut stage = Stage::begin(programs).await?;
    stage.goes_on(SAID).await?;
    // As docs/storage.md says it: a copy of the folder of a relay that does not run.
    stage.relay.stop().await?;
    let backup = stage.relay.back_up()?;
    stage.relay.restart().await?;
    stage.goes_on(SAID).await.context("after the copy")?;
    // Nobody is to know this, not even by their own devices' being online.
    stage.people[2].kill().await?;
    stage.people[0].says_more(SAID).await?;
    stage.relay.kill().await?;
    stage.relay.put_back(&backup).await?;
    stage.relay.restart().await?;
    stage.people[2].wake().await?;
    stage.talks(2).await?;
    let since = crate::faults::now();
    stage.goes_on(SAID).await.context("after the copy was put back")?;
    let healed = since.elapsed().as_secs_f64();
    let all = stage.end().await?;
    Ok(format!("{all} messages of three people, each with everybody once; they went on after {healed:.1} s"))
}
