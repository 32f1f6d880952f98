//! A conversation moves again and again while everybody talks, and in the middle of it the relay is killed,
//! or whoever moves it (rule 34).

use anyhow::Context as _;

use super::stage::{Programs, Stage};

/// What everybody says between two moves.
const SAID: u64 = 12;

pub(super) async fn run(programs: &Programs) -> anyhow::Result<String> {
    let mut stage = Stage::begin(programs).await?;
    stage.goes_on(SAID).await?;
    stage.moves(0).await?;
    stage.goes_on(SAID).await.context("after a move")?;
    stage.begins_to_move(1).await?;
    stage.relay.kill().await?;
    stage.relay.restart().await?;
    stage.goes_on(SAID).await.context("after a move during which the relay was killed")?;
    stage.begins_to_move(2).await?;
    stage.people[2].kill().await?;
    // The others do not know yet, or have gone on already.
    stage.people[0].says_more(SAID).await?;
    stage.people[2].wake().await?;
    stage.talks(2).await?;
    stage.goes_on(SAID).await.context("after a move during which the mover was killed")?;
    // Who comes back finds the conversation two places further.
    stage.people[0].kill().await?;
    stage.moves(1).await?;
    stage.people[1].says_more(SAID).await?;
    stage.moves(2).await?;
    stage.people[2].says_more(SAID).await?;
    stage.people[0].wake().await?;
    stage.talks(0).await?;
    stage.goes_on(SAID).await.context("after two moves of which one did not know")?;
    let all = stage.end().await?;
    Ok(format!("{all} messages of three people through five moves, each with everybody once"))
}
