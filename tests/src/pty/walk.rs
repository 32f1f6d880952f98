//! The README's walk, and what two people do who talk.

use std::time::Duration;

use anyhow::Context as _;

use super::stage::{self, PASSPHRASE, Person, Stage, WRITE};
use super::terminal::{Key, Terminal};

/// Hands are kept off the keys for this long: whatever the program waits for, no key shall help it.
const HANDS_OFF: Duration = Duration::from_secs(5);
/// Signs of several characters: a heart with a variation selector, a family with joiners, a flag.
const SIGNS: [(&str, &str); 3] =
    [("a heart ❤️", "a heart ❤"), ("a family 👩‍👩‍👧", "a family 👩"), ("a flag 🇻🇳", "a flag 🇻")];

/// Registers as the README says, with the passphrase typed twice.
async fn register(stage: &mut Stage, person: &Person) -> anyhow::Result<()> {
    let (relay, invite) = (stage.relay.client_url(), stage.relay.invite().to_owned());
    let arguments = ["register", "--relay", &relay, "--handle", person.name, "--invite", &invite];
    let program = stage.programs().posthorn.clone();
    let mut terminal = stage.run(person, &program, &arguments)?;
    for prompt in ["New passphrase", "The same again"] {
        terminal.wait_for(prompt).await?;
        terminal.wait_hidden().await?;
        terminal.paste(PASSPHRASE).await?;
        terminal.press(Key::Enter).await?;
    }
    terminal.wait_for(&format!("Registered {}", person.name)).await?;
    anyhow::ensure!(!terminal.screen().contains(PASSPHRASE), "the passphrase stands on the screen");
    anyhow::ensure!(terminal.ended().await?.success());
    Ok(())
}

/// Opens the chat as the README says, with the passphrase typed.
async fn open_chat(stage: &mut Stage, person: &Person) -> anyhow::Result<Terminal> {
    let program = stage.programs().posthorn.clone();
    let terminal = stage.run(person, &program, &["chat"])?;
    terminal.wait_for("Passphrase").await?;
    terminal.wait_hidden().await?;
    terminal.paste(PASSPHRASE).await?;
    terminal.press(Key::Enter).await?;
    terminal.wait_for("● online").await?;
    Ok(terminal)
}

/// Register, open two chats, type `/new alice`, and keep hands off; then write.
pub async fn the_readme_from_registering_to_the_other_screen(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.person("alice")?, stage.person("bob")?);
    register(stage, &alice).await?;
    register(stage, &bob).await?;
    let alices = open_chat(stage, &alice).await?;
    let bobs = open_chat(stage, &bob).await?;

    stage::command(&bobs, "/new alice").await?;
    tokio::time::sleep(HANDS_OFF).await;
    bobs.wait_for(WRITE).await?;
    stage::join(&alices, "bob").await?;

    for (text, shown) in SIGNS {
        stage::say(&bobs, text).await?;
        alices.wait_for(shown).await?;
        bobs.wait_for(shown).await?;
    }
    tokio::time::sleep(HANDS_OFF).await;
    stage::say(&bobs, "a plain message").await?;
    alices.wait_for("a plain message").await?;
    alices.type_slowly("and an answer").await?;
    alices.press(Key::Enter).await?;
    bobs.wait_for("and an answer").await?;

    for terminal in [alices, bobs] {
        terminal.never_asked()?;
        anyhow::ensure!(terminal.close().await?.code() == Some(129));
    }
    alice.is_closed()?;
    bob.is_closed()
}

/// What the README shows under its walk is what Bob sees; only times, dates and the port differ.
pub async fn the_readme_shows_what_is_seen(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (_bob, bobs)] = stage.conversation().await?;
    bobs.resize(80, 16).await?;
    let said = [
        (&bobs, "Hello Alice, did you get home well?"),
        (&alices, "Yes, ten minutes ago. Shall we meet at eight tomorrow?"),
        (&bobs, "Eight is good. I bring the map,\nyou bring the coffee ☕"),
        (&alices, "Deal!"),
    ];
    for (terminal, text) in said {
        stage::say(terminal, text).await?;
        let beginning = text.split(' ').next().unwrap_or_default();
        alices.wait_for(beginning).await?;
        bobs.wait_for(beginning).await?;
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    let block = readme.split_once("What you get:\n\n```text\n").and_then(|(_, rest)| rest.split_once("```"));
    let shown = essence(block.context("the README shows no screen")?.0);
    let what = format!("the screen to be what the README shows, which is\n{shown}\n");
    bobs.wait_until(&what, |screen| essence(&screen.contents()) == shown).await
}

/// A screen without what differs each time: numbers, the date, and how wide gaps are.
fn essence(screen: &str) -> String {
    let line = |line: &str| -> String {
        let is_date = line.contains(", ") && line.contains(" 20") && line.contains("── ");
        let digits =
            if is_date { "(date)".to_owned() } else { line.replace(|c: char| c.is_ascii_digit(), "0") };
        let mut plain = String::new();
        for c in digits.trim_end().chars() {
            let repeats = matches!(c, ' ' | '─' | '0') && plain.ends_with(c);
            if !repeats {
                plain.push(c);
            }
        }
        plain
    };
    screen.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A paste of many lines, larger than any buffer on its way, is one message, whole.
pub async fn a_long_paste_arrives_whole(stage: &mut Stage) -> anyhow::Result<()> {
    let [(alice, alices), (_bob, bobs)] = stage.conversation().await?;
    let lines: Vec<String> =
        (1..=700).map(|number| format!("line {number} of a paste; 日本語, ❤️")).collect();
    stage::say(&bobs, &lines.join("\n")).await?;
    alices.wait_for("line 1 of a paste").await?;
    alices.close().await?;
    let history = alice.good(&["--json", "history", "bob", "--limit", "1"]).await?;
    let entry: serde_json::Value = serde_json::from_str(&history)?;
    anyhow::ensure!(entry["said"]["text"] == lines.join("\n"), "it arrived as {entry}");
    Ok(())
}

/// Whoever sits before an empty list and touches nothing gets a first conversation.
pub async fn an_idle_chat_gets_its_first_conversation(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    let alices = stage.posthorn(&alice, &["chat"])?;
    alices.wait_for("No conversations yet").await?;
    alices.wait_for("● online").await?;
    bob.good(&["start", "alice"]).await?;
    stage::join(&alices, "bob").await?;
    bob.good(&["send", "alice", "are you there?"]).await?;
    alices.wait_for("are you there?").await?;
    alices.never_asked()
}

/// Nothing of a stranger is read before the invitation is accepted; then all of it is there, and the
/// stranger sees that it was read.
pub async fn an_invitation_is_accepted(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    let alices = stage.posthorn(&alice, &["chat"])?;
    alices.wait_for("● online").await?;
    let bobs = stage.posthorn(&bob, &["chat"])?;
    bobs.wait_for("● online").await?;
    stage::command(&bobs, "/new alice").await?;
    bobs.wait_for(WRITE).await?;
    stage::say(&bobs, "are you there?").await?;
    bobs.wait_for("✓").await?;
    alices.wait_for("bob invites you to a conversation").await?;
    alices.wait_for("It lives at your relay").await?;
    stage::say_nothing(&alices, "too early").await?;
    tokio::time::sleep(HANDS_OFF).await;
    anyhow::ensure!(!alices.screen().contains("are you there?"), "it was followed without consent");
    anyhow::ensure!(!bobs.screen().contains("✓✓"), "something was answered without consent");
    stage::join(&alices, "bob").await?;
    alices.wait_for("are you there?").await?;
    let is_read = |line: &str| line.contains("are you there?") && line.trim_end().ends_with("read");
    bobs.wait_until("the message to be read", |screen| screen.contents().lines().any(is_read)).await?;
    stage::say(&alices, "now I am").await?;
    bobs.wait_for("now I am").await
}

/// An invitation that is declined goes away; one by somebody who is blocked goes, and no other comes.
pub async fn an_invitation_is_declined(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    let alices = stage.posthorn(&alice, &["chat"])?;
    alices.wait_for("● online").await?;
    for answer in ["/decline", "/block"] {
        bob.good(&["start", "alice", "--again"]).await?;
        alices.wait_for("bob invites you to a conversation").await?;
        stage::command(&alices, answer).await?;
        alices.wait_for("No conversations yet").await?;
    }
    bob.good(&["start", "alice", "--again"]).await?;
    // Of this one nothing can be seen: by the time that another person's came, it would be there.
    let cleo = stage.registered("cleo").await?;
    cleo.good(&["start", "alice"]).await?;
    alices.wait_for("cleo invites you to a conversation").await?;
    let is_listed = alices.screen().lines().any(|line| line.trim_start().starts_with("bob"));
    anyhow::ensure!(!is_listed, "an invitation of somebody who is blocked is shown");
    stage::join(&alices, "cleo").await
}

/// What somebody writes into a second line is no line of somebody else's.
pub async fn a_message_forges_no_line_of_another(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.registered("alice").await?, stage.registered("bob").await?);
    bob.good(&["start", "alice"]).await?;
    alice.good(&["accept", "bob"]).await?;
    let listening = stage.posthorn(&alice, &["listen"])?;
    listening.wait_for("listening as alice").await?;
    bob.good(&["send", "alice", "hi\n09:12 [Week End] carol: I quit"]).await?;
    listening.wait_for("I quit").await?;
    let screen = listening.screen();
    let forged = screen.lines().find(|line| line.starts_with("09:12 [Week End]"));
    anyhow::ensure!(forged.is_none(), "it reads as carol's: {forged:?}");
    Ok(())
}

/// A sign that one puts beside a message is seen by the other, and goes when it is taken back.
pub async fn a_reaction_is_seen_on_the_other_screen(stage: &mut Stage) -> anyhow::Result<()> {
    let [(_alice, alices), (_bob, bobs)] = stage.conversation().await?;
    stage::say(&bobs, "shall we meet at eight?").await?;
    alices.wait_for("shall we meet at eight?").await?;
    stage::command(&alices, "/react 👍").await?;
    alices.wait_for("👍 you").await?;
    bobs.wait_for("👍 alice").await?;
    stage::command(&bobs, "/react <3").await?;
    alices.wait_for("❤").await?;
    stage::command(&alices, "/react").await?;
    bobs.wait_until("the sign to go", |screen| !screen.contents().contains("👍")).await?;
    bobs.wait_for("shall we meet at eight?").await
}
