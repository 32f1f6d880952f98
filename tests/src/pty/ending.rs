//! Every way in which the program, or the terminal that it is in, comes to its end. The terminal is given
//! back as it was, and the profile is closed, so that nothing of used keys is left in its log.

use std::process::ExitStatus;

use rustix::process::Signal;

use super::stage::{Person, Stage};
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
    let terminal = stage.posthorn(&person, &["listen", "--json"])?;
    terminal.wait_for("connected").await?;
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
