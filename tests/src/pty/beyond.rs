//! What the chat asks of a terminal beyond drawing: its title, its bell, its clipboard, links that it opens.

use super::stage::{self, Stage};
use super::terminal::{Beyond, Key};

/// The title has the number of unread messages and is given back; the bell rings for who looks elsewhere.
pub async fn a_title_and_a_bell(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, mut alices), (_bob, bobs)] = stage.conversation().await?;
    alices.wait_beyond("a title", |beyond| beyond.title == "Posthorn").await?;
    stage::say(&bobs, "somebody looks").await?;
    alices.wait_for("somebody looks").await?;
    alices.look_away().await?;
    stage::say(&bobs, "nobody looks").await?;
    alices.wait_beyond("a bell", |beyond| beyond.bells == 1).await?;
    alices.wait_beyond("a number", |beyond| beyond.title == "Posthorn (1)").await?;
    alices.look().await?;
    alices.wait_beyond("no number", |beyond| beyond.title == "Posthorn").await?;
    alices.press(Key::Ctrl('c')).await?;
    alices.ended().await?;
    alices.is_restored()
}

/// `--quiet` leaves both alone.
pub async fn a_quiet_chat(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    bob.good(&["start", "alice"]).await?;
    alice.good(&["accept", "bob"]).await?;
    let mut terminal = stage.posthorn(&alice, &["chat", "--quiet"])?;
    terminal.wait_for("bob invited you").await?;
    terminal.look_away().await?;
    bob.good(&["send", "alice", "psst"]).await?;
    terminal.wait_for("psst").await?;
    terminal.press(Key::Ctrl('c')).await?;
    terminal.ended().await?;
    let beyond = terminal.beyond();
    anyhow::ensure!((beyond.title.as_str(), beyond.bells) == ("", 0), "{beyond:?}");
    Ok(())
}

/// A message is copied as it is shown, and what it says that can be opened can be.
pub async fn a_message_is_copied_and_its_link_can_be_opened(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (bob, bobs)] = stage.conversation().await?;
    bob.good(&["send", "alice", "look: https://example.org/a, and\u{7}"]).await?;
    alices.wait_for("https://example.org/a, and␇").await?;
    alices.press(Key::Ctrl('y')).await?;
    alices.wait_for("copied").await?;
    alices.wait_beyond("a copy", |beyond| beyond.copied == "look: https://example.org/a, and␇").await?;
    let opened = |beyond: &Beyond| beyond.links.first().is_some_and(|link| link == "https://example.org/a");
    alices.wait_beyond("a link", opened).await?;
    stage::say(&bobs, "file:///etc/passwd is none").await?;
    alices.wait_for("is none").await?;
    // It may be drawn more than once, and is closed each time.
    let links = alices.beyond().links;
    anyhow::ensure!(links.chunks(2).all(|pair| pair == ["https://example.org/a", ""]), "{links:?}");
    Ok(())
}
