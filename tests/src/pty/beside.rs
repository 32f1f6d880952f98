//! Scripts beside the chat: what other processes ask of the one that has the profile.

use rustix::process::Signal;

use super::stage::Stage;
use super::terminal::Key;

/// What is sent from a shell stands in the chat that is open, and on the other screen.
pub async fn a_message_is_sent_beside_an_open_chat(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (bob, bobs)] = stage.conversation().await?;
    let sent = bob.good(&["send", "alice", "from another terminal"]).await?;
    anyhow::ensure!(sent == "sent\n", "{sent}");
    bobs.wait_for("from another terminal").await?;
    alices.wait_for("from another terminal").await?;
    let history = bob.good(&["history", "alice"]).await?;
    anyhow::ensure!(history.contains("you: from another terminal"), "{history}");
    let members = bob.good(&["members", "alice"]).await?;
    anyhow::ensure!(members.lines().count() == 2, "{members}");
    Ok(())
}

/// A second chat is a guest of the first one. When that is quit, it says so and ends; nothing is lost.
pub async fn a_chat_beside_a_chat(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (bob, mut bobs)] = stage.conversation().await?;
    let mut second = stage.posthorn(&bob, &["chat"])?;
    second.wait_for("● online").await?;
    super::stage::say(&second, "from the second").await?;
    bobs.wait_for("from the second").await?;
    alices.wait_for("from the second").await?;
    bobs.press(Key::Ctrl('c')).await?;
    anyhow::ensure!(bobs.ended().await?.success());
    second.wait_for("the process that had this profile open has ended").await?;
    anyhow::ensure!(second.ended().await?.code() == Some(1));
    second.is_restored()?;
    bob.is_closed()
}

/// What a chat that was killed leaves behind stands in nobody's way.
pub async fn a_command_works_after_a_chat_was_killed(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (bob, mut bobs)] = stage.conversation().await?;
    bobs.signal(Signal::KILL)?;
    bobs.ended().await?;
    anyhow::ensure!(bob.files()?.iter().any(|name| name == "posthorn.sock"), "it was killed");
    bob.good(&["send", "alice", "after the end"]).await?;
    alices.wait_for("after the end").await
}
