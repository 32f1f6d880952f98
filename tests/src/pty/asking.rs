//! What is asked at a terminal before something is done, and what the answers do.

use super::stage::{PASSPHRASE, Stage};
use super::terminal::Key;

/// Leaving cannot be undone: whoever does not say yes is still in.
pub async fn leaving_is_asked_about(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, _bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    alice.good(&["start", "bob"]).await?;
    for (answer, code, told) in [("no", 1, "you are still in bob"), ("yes", 0, "You left bob.")] {
        let mut terminal = stage.posthorn(&alice, &["leave", "bob"])?;
        terminal.wait_for("Type yes to leave").await?;
        terminal.type_slowly(answer).await?;
        terminal.press(Key::Enter).await?;
        terminal.wait_for(told).await?;
        anyhow::ensure!(terminal.ended().await?.code() == Some(code), "after {answer:?}");
    }
    let history = alice.good(&["history", "bob"]).await?;
    anyhow::ensure!(history.ends_with("-- you left\n"), "{history}");
    alice.is_closed()
}

/// The passphrase is changed by who has the old one, and a short one is warned of.
pub async fn a_passphrase_is_changed(stage: &mut Stage) -> anyhow::Result<()> {
    const NEW: &str = "seven77";
    let alice = stage.registered("alice").await?;
    let program = stage.programs().posthorn.clone();
    let mut terminal = stage.run(&alice, &program, &["passphrase"])?;
    for (prompt, answer) in
        [("Passphrase: ", PASSPHRASE), ("New passphrase for this profile", NEW), ("The same again", NEW)]
    {
        terminal.wait_for(prompt).await?;
        terminal.wait_hidden().await?;
        terminal.paste(answer).await?;
        terminal.press(Key::Enter).await?;
    }
    terminal.wait_for("fewer than 8 characters").await?;
    terminal.wait_for("The passphrase is changed.").await?;
    anyhow::ensure!(!terminal.screen().contains(NEW), "the passphrase stands on the screen");
    anyhow::ensure!(terminal.ended().await?.success());
    alice.is_closed()?;
    let old = alice.run(&["--json", "card"]).await?;
    anyhow::ensure!(String::from_utf8_lossy(&old.stderr).contains("WRONG_PASSPHRASE"), "{old:?}");

    let terminal = stage.run(&alice, &program, &["card"])?;
    terminal.wait_for("Passphrase: ").await?;
    terminal.wait_hidden().await?;
    terminal.paste(NEW).await?;
    terminal.press(Key::Enter).await?;
    terminal.wait_for("Whoever has this link").await
}
