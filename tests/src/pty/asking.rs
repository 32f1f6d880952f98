//! What is asked at a terminal before something is done, and what the answers do.

use anyhow::Context as _;

use super::stage::{self, PASSPHRASE, Stage};
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

/// A safety number is compared once, and what came of it stays with the key.
pub async fn a_safety_number_is_compared_and_marked(stage: &mut Stage) -> anyhow::Result<()> {
    let [(alice, alices), (bob, bobs)] = stage.conversation().await?;
    stage::command(&alices, "/verify").await?;
    alices.wait_for("Safety number of alice and bob").await?;
    let number = bob.good(&["verify", "alice"]).await?;
    let row = number.lines().find(|line| line.starts_with("    ")).context("a row of it")?.trim();
    anyhow::ensure!(alices.screen().contains(row), "bob sees another number: {number}");
    alices.press(Key::Escape).await?;
    // What follows Escape at once is taken for a key with Alt.
    alices.wait_gone("Safety number of alice and bob").await?;
    stage::command(&alices, "/verify --mark").await?;
    alices.wait_for("✓ verified").await?;
    let members = alice.good(&["members", "bob"]).await?;
    anyhow::ensure!(members.contains("(verified)"), "{members}");
    anyhow::ensure!(!bobs.screen().contains("verified"), "it is alice's own word");
    alice.good(&["verify", "bob", "--unmark"]).await?;
    alices.wait_gone("✓ verified").await
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
