//! Every way in which the program, or the terminal that it is in, comes to its end. The terminal is given
//! back as it was, and the profile is closed, so that nothing of used keys is left in its log.

use std::path::Path;
use std::process::ExitStatus;

use rustix::process::Signal;

use super::stage::{PASSPHRASE, Person, Stage};
use super::terminal::{Key, Terminal};

/// What a shell says of a program that a signal ended.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;
const HUNG_UP: i32 = 129;

fn is(status: ExitStatus, code: i32) -> anyhow::Result<()> {
    anyhow::ensure!(status.code() == Some(code), "it ended with {status}, not with exit status {code}");
    Ok(())
}

async fn chat(stage: &mut Stage) -> anyhow::Result<(Person, Terminal)> {
    let person = stage.registered("alice").await?;
    let terminal = stage.posthorn(&person, &["chat"])?;
    terminal.wait_for("● online").await?;
    Ok((person, terminal))
}

async fn listen(stage: &mut Stage) -> anyhow::Result<(Person, Terminal)> {
    let person = stage.registered("alice").await?;
    let terminal = stage.posthorn(&person, &["listen"])?;
    terminal.wait_for("listening as alice").await?;
    Ok((person, terminal))
}

/// Ctrl+C in the chat is its key for the end.
pub async fn the_chat_ends_by_its_key(stage: &mut Stage) -> anyhow::Result<()> {
    let (person, mut terminal) = chat(stage).await?;
    terminal.press(Key::Ctrl('c')).await?;
    is(terminal.ended().await?, 0)?;
    terminal.is_restored()?;
    person.is_closed()
}

/// SIGTERM, SIGINT and SIGHUP, each with something over the screen that hides the cursor.
pub async fn the_chat_ends_by_signals(stage: &mut Stage) -> anyhow::Result<()> {
    let person = stage.registered("alice").await?;
    for (signal, code) in [(Signal::TERM, TERMINATED), (Signal::INT, INTERRUPTED), (Signal::HUP, HUNG_UP)] {
        let mut terminal = stage.posthorn(&person, &["chat"])?;
        terminal.wait_for("● online").await?;
        terminal.type_slowly("/help").await?;
        terminal.press(Key::Enter).await?;
        terminal.wait_for("any key closes").await?;
        terminal.signal(signal)?;
        is(terminal.ended().await?, code)?;
        terminal.is_restored()?;
        person.is_closed()?;
    }
    Ok(())
}

/// Ctrl+Z gives the terminal to the shell, and `fg` takes it back.
pub async fn the_chat_is_suspended_and_comes_back(stage: &mut Stage) -> anyhow::Result<()> {
    let person = stage.registered("alice").await?;
    let posthorn = stage.programs().posthorn.clone();
    let mut shell = stage.run(&person, Path::new("sh"), &["-i"])?;
    let command = format!("POSTHORN_PASSPHRASE='{PASSPHRASE}' {} chat", posthorn.display());
    shell.paste(&format!("PS1=ready; {command}\n")).await?;
    shell.wait_for("● online").await?;
    shell.press(Key::Ctrl('z')).await?;
    shell.wait_for("Stopped").await?;
    shell.is_restored()?;
    shell.paste("fg\n").await?;
    shell.wait_for("● online").await?;
    shell.type_slowly("still here").await?;
    shell.wait_for("> still here").await?;
    shell.press(Key::Ctrl('c')).await?;
    shell.wait_until("the chat to end", |screen| !screen.alternate_screen()).await?;
    shell.paste("exit\n").await?;
    shell.ended().await?;
    person.is_closed()
}

/// Where no shell waits, Ctrl+Z does nothing.
pub async fn the_chat_is_not_suspended_for_nobody(stage: &mut Stage) -> anyhow::Result<()> {
    let (_person, terminal) = chat(stage).await?;
    terminal.press(Key::Ctrl('z')).await?;
    terminal.type_slowly("still here").await?;
    terminal.wait_for("> still here").await
}

/// Ctrl+C at the question for the passphrase.
pub async fn a_question_for_the_passphrase_can_be_broken_off(stage: &mut Stage) -> anyhow::Result<()> {
    let person = stage.registered("alice").await?;
    let posthorn = stage.programs().posthorn.clone();
    let mut terminal = stage.run(&person, &posthorn, &["card"])?;
    terminal.wait_for("Passphrase").await?;
    terminal.wait_hidden().await?;
    terminal.press(Key::Ctrl('c')).await?;
    is(terminal.ended().await?, INTERRUPTED)?;
    terminal.is_restored()
}

/// The window of the chat is closed: standard error is as dead as the screen.
pub async fn the_chat_ends_with_its_window(stage: &mut Stage) -> anyhow::Result<()> {
    let (person, terminal) = chat(stage).await?;
    is(terminal.close().await?, HUNG_UP)?;
    person.is_closed()
}

/// The same while the cursor is hidden, and while keys are still coming.
pub async fn the_chat_ends_with_its_window_in_the_middle_of_something(
    stage: &mut Stage,
) -> anyhow::Result<()> {
    let (person, terminal) = chat(stage).await?;
    terminal.type_slowly("/help").await?;
    terminal.press(Key::Enter).await?;
    terminal.wait_for("any key closes").await?;
    terminal.paste(&"a text that is typed while the window closes ".repeat(40)).await?;
    is(terminal.close().await?, HUNG_UP)?;
    person.is_closed()
}

/// `listen` ends by SIGTERM as a service manager wants it.
pub async fn listen_ends_by_sigterm(stage: &mut Stage) -> anyhow::Result<()> {
    let (person, mut terminal) = listen(stage).await?;
    terminal.signal(Signal::TERM)?;
    is(terminal.ended().await?, TERMINATED)?;
    person.is_closed()
}

/// Ctrl+C is how people end it: that is no failure.
pub async fn listen_ends_by_its_key(stage: &mut Stage) -> anyhow::Result<()> {
    let (person, mut terminal) = listen(stage).await?;
    terminal.press(Key::Ctrl('c')).await?;
    is(terminal.ended().await?, 0)?;
    person.is_closed()
}

/// The window of `listen` is closed.
pub async fn listen_ends_with_its_window(stage: &mut Stage) -> anyhow::Result<()> {
    let (person, terminal) = listen(stage).await?;
    is(terminal.close().await?, HUNG_UP)?;
    person.is_closed()
}

/// `send --lines` reads from the terminal, and does not wait for another line when it is to end.
pub async fn a_command_that_reads_ends_at_once(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    alice.good(&["start", "bob"]).await?;
    let mut terminal = stage.posthorn(&alice, &["send", "bob", "--lines"])?;
    terminal.type_slowly("one line").await?;
    terminal.press(Key::Enter).await?;
    terminal.wait_for("sent").await?;
    terminal.press(Key::Ctrl('c')).await?;
    is(terminal.ended().await?, INTERRUPTED)?;
    alice.is_closed()?;
    drop(bob);
    Ok(())
}
