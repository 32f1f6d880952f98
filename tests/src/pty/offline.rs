//! The relay is not there, and comes back.

use super::stage::{self, Stage, WRITE};

/// What is begun while the relay is away says with whom, and what is written leaves soon after its return.
pub async fn what_is_begun_offline_goes_out_later(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, _bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    stage.relay.kill().await?;
    let alices = stage.posthorn(&alice, &["chat"])?;
    alices.wait_for("○ offline").await?;
    stage::command(&alices, "/new bob").await?;
    alices.wait_for("bob · being made… · inviting bob").await?;
    alices.wait_for(WRITE).await?;
    stage::say(&alices, "are you there?").await?;
    stage.relay.restart().await?;
    stage::say(&alices, "and now?").await?;
    alices.wait_for("● online").await?;
    for text in ["are you there?", "and now?"] {
        let is_sent = |line: &str| line.contains(text) && line.trim_end().ends_with('✓');
        alices.wait_until("it to be sent", |screen| screen.contents().lines().any(is_sent)).await?;
    }
    anyhow::ensure!(!alices.screen().contains("inviting bob"), "bob is invited");
    Ok(())
}
