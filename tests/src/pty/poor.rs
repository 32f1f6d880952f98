//! Terminals that can do less than others: that are small, that do not answer.

use std::path::Path;

use super::stage::{self, PASSPHRASE, Stage, WRITE};
use super::terminal::{Answers, Key};

/// A terminal that never says where its cursor is can run the chat.
pub async fn a_terminal_that_answers_nothing(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    let alices = stage.posthorn_in(Answers::Never, &alice, &["chat"])?;
    alices.wait_for("● online").await?;
    alices.resize(60, 20).await?;
    alices.press(Key::Ctrl('l')).await?;
    bob.good(&["start", "alice"]).await?;
    stage::join(&alices, "bob").await?;
    bob.good(&["send", "alice", "do you see me? ❤️"]).await?;
    alices.wait_for("do you see me?").await?;
    alices.resize(80, 24).await?;
    alices.wait_for("do you see me?").await?;
    alices.never_asked()
}

/// A QR code in pieces is none: the link stands there, and what the code needs.
pub async fn a_qr_code_that_does_not_fit(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.registered("alice").await?;
    let card = format!("stty cols 40; POSTHORN_PASSPHRASE='{PASSPHRASE}' exec \"$0\" card");
    let program = stage.programs().posthorn.to_string_lossy().into_owned();
    let mut terminal = stage.run(&alice, Path::new("/bin/sh"), &["-c", &card, &program])?;
    terminal.wait_for("The QR code needs a window of").await?;
    terminal.ended().await?;
    anyhow::ensure!(!terminal.screen().contains(['▀', '█']), "it is drawn all the same");
    let chat = stage.posthorn(&alice, &["chat"])?;
    chat.wait_for("● online").await?;
    stage::command(&chat, "/card").await?;
    chat.wait_for("█ ▄▄▄▄▄ █").await?;
    chat.resize(40, 12).await?;
    chat.wait_for("The QR code needs a window").await?;
    chat.wait_gone("█").await
}

/// A window that is dragged small, and large again: what is said is shown in both.
pub async fn a_window_that_becomes_small_and_large_again(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (_bob, bobs)] = stage.conversation().await?;
    stage::say(&bobs, "before").await?;
    alices.wait_for("before").await?;
    alices.resize(40, 10).await?;
    stage::say(&bobs, "while it is small").await?;
    alices.wait_for("while it is small").await?;
    alices.wait_for(WRITE).await?;
    alices.resize(80, 24).await?;
    stage::say(&bobs, "when it is large").await?;
    for text in ["before", "while it is small", "when it is large", WRITE] {
        alices.wait_for(text).await?;
    }
    alices.never_asked()
}

/// A disk that takes nothing: what is typed is shown, what cannot be kept is told and stays in the input, and
/// it goes on when there is room. The chat can be ended meanwhile.
pub async fn a_disk_that_takes_nothing(stage: &mut Stage) -> anyhow::Result<()> {
    let [(alice, alices), (_bob, bobs)] = stage.conversation().await?;
    alices.close().await?;
    let chat = format!("trap '' XFSZ; POSTHORN_PASSPHRASE='{PASSPHRASE}' exec \"$0\" chat");
    let program = stage.programs().posthorn.to_string_lossy().into_owned();
    let mut alices = stage.run(&alice, Path::new("/bin/sh"), &["-c", &chat, &program])?;
    alices.wait_for(WRITE).await?;
    stage::say(&alices, "before").await?;
    bobs.wait_for("before").await?;
    alices.let_write(false)?;
    alices.type_slowly("in vain").await?;
    alices.press(Key::Enter).await?;
    alices.wait_for("database does not answer").await?;
    alices.wait_for("> in vain").await?;
    alices.type_slowly(", and more").await?;
    alices.wait_for("> in vain, and more").await?;
    alices.let_write(true)?;
    alices.wait_for("● online").await?;
    alices.press(Key::Enter).await?;
    bobs.wait_for("in vain, and more").await?;
    alices.let_write(false)?;
    stage::command(&alices, "lost?").await?;
    alices.press(Key::Ctrl('c')).await?;
    alices.ended().await?;
    alices.is_restored()
}

/// Keys that come at the moment of a resize are not kept until another key comes.
pub async fn keys_in_the_middle_of_a_resize(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), _bob] = stage.conversation().await?;
    for number in 1..=20 {
        alices.resize(if number % 2 == 0 { 80 } else { 60 }, 20).await?;
        alices.paste("x").await?;
        alices.wait_for(&format!("> {}", "x".repeat(number))).await?;
    }
    Ok(())
}
