//! People and conversations of other relays, as they are met in the chat: what is to be read and typed there
//! stands in a window of the common size, and in a small one.

use super::stage::{self, Person, Stage, WRITE};
use super::terminal::Terminal;
use crate::relay::RelayProcess;

/// Columns and rows of the windows, the one that is typed in last.
const SIZES: [(u16, u16); 2] = [(40, 10), (80, 24)];

/// Alice of the stage's relay, and Carol of another, each in a chat.
struct Two {
    other: RelayProcess,
    alice: Person,
    alices: Terminal,
    carols: Terminal,
}

impl Two {
    async fn meet(stage: &mut Stage) -> anyhow::Result<Self> {
        let other = stage.another_relay().await?;
        let alice = stage.registered("alice").await?;
        let carol = stage.registered_at(&other, "carol").await?;
        let (alices, carols) = (stage.posthorn(&alice, &["chat"])?, stage.posthorn(&carol, &["chat"])?);
        alices.wait_for("● online").await?;
        carols.wait_for("● online").await?;
        Ok(Self { other, alice, alices, carols })
    }

    /// How Carol is called where Alice is.
    fn name(&self) -> String {
        format!("carol@{}", self.other.address())
    }

    /// Alice begins a conversation, and Carol joins after she was asked about Alice's relay.
    async fn begin(&self, stage: &Stage) -> anyhow::Result<()> {
        stage::command(&self.alices, &format!("/new {}", self.name())).await?;
        self.alices.wait_for(WRITE).await?;
        stands(&self.carols, &["invites you"]).await?;
        for text in [&*stage.relay.address().to_string(), "/accept yes", "/decline", "/block"] {
            self.carols.wait_for(text).await?;
        }
        answers(&self.carols, "/accept", "Type /accept yes").await?;
        stage::command(&self.carols, "/accept yes").await?;
        self.carols.wait_for(WRITE).await
    }
}

/// Makes the window another size, and waits until all of it is drawn.
async fn resize(terminal: &Terminal, (columns, rows): (u16, u16)) -> anyhow::Result<()> {
    terminal.resize(columns, rows).await?;
    let is_drawn = |screen: &vt100::Screen| {
        let footer = screen.rows(0, columns).last().unwrap_or_default();
        footer.contains("Enter send")
            && footer.trim_end().ends_with(if columns < 80 { "…" } else { "quit" })
    };
    terminal.wait_until("the last row to be drawn", is_drawn).await
}

/// Waits until all of these stand in a window of each size.
async fn stands(terminal: &Terminal, texts: &[&str]) -> anyhow::Result<()> {
    for size in SIZES {
        resize(terminal, size).await?;
        for text in texts {
            terminal.wait_for(text).await?;
        }
    }
    Ok(())
}

/// Types a command in a window of each size, and waits for what is said to it.
async fn answers(terminal: &Terminal, command: &str, text: &str) -> anyhow::Result<()> {
    for size in SIZES {
        resize(terminal, size).await?;
        stage::command(terminal, command).await?;
        terminal.wait_for(text).await?;
    }
    Ok(())
}

/// Somebody of another relay is found, agrees to the relay where the conversation is, and is talked with.
pub async fn somebody_of_another_relay_is_talked_with(stage: &mut Stage) -> anyhow::Result<()> {
    let two = Two::meet(stage).await?;
    let nobody = format!("/new nobody@{}", two.other.address());
    answers(&two.alices, &nobody, "no account").await?;
    two.begin(stage).await?;
    stage::say(&two.alices, "over there").await?;
    two.carols.wait_for("over there").await?;
    stage::say(&two.carols, "over here").await?;
    stands(&two.alices, &["over here", WRITE]).await?;
    stands(&two.carols, &["over here", "read", WRITE]).await
}

/// The relay of a conversation goes and comes back: that stands there while it is so, and what was written
/// meanwhile arrives.
pub async fn another_relay_goes_and_comes_back(stage: &mut Stage) -> anyhow::Result<()> {
    let two = Two::meet(stage).await?;
    two.begin(stage).await?;
    stage.relay.kill().await?;
    stage::say(&two.carols, "hello?").await?;
    stands(&two.carols, &["cannot be reached", "hello?", "● online"]).await?;
    stage.relay.restart().await?;
    two.alices.wait_for("hello?").await?;
    two.carols.wait_gone("cannot be reached").await?;
    two.carols.wait_for("✓").await
}

/// A relay without TLS somewhere in the network is used by nobody who has not named it.
pub async fn a_relay_without_tls_is_named_first(stage: &mut Stage) -> anyhow::Result<()> {
    const PLAIN: &str = "/new bob@ws://10.255.255.1:9";
    let alice = stage.registered("alice").await?;
    let alices = stage.posthorn(&alice, &["chat"])?;
    alices.wait_for("● online").await?;
    answers(&alices, PLAIN, "relay use").await?;
    alice.good(&["relay", "use", "ws://10.255.255.1:9"]).await?;
    stage::command(&alices, PLAIN).await?;
    alices.wait_for("inviting bob@").await
}

/// Whoever has never used the relay that a conversation moves to is asked, and goes on there.
pub async fn a_conversation_that_moved_is_followed(stage: &mut Stage) -> anyhow::Result<()> {
    let two = Two::meet(stage).await?;
    let bob = stage.registered("bob").await?;
    bob.good(&["start", &two.name(), "alice", "--name", "Trio"]).await?;
    stage::join(&two.alices, "bob").await?;
    two.carols.wait_for("invites you").await?;
    stage::command(&two.carols, "/accept yes").await?;
    two.carols.wait_for(WRITE).await?;
    answers(&two.carols, "/move", "/move yes").await?;
    stage::command(&two.carols, "/move yes").await?;
    two.carols.wait_for("moved this conversation").await?;
    let there = two.other.address().to_string();
    stands(&two.alices, &["it moved to", &there, "/accept yes"]).await?;
    stage::say(&two.alices, "wait for me").await?;
    answers(&two.alices, "/accept", "go on at").await?;
    stage::command(&two.alices, "/accept yes").await?;
    two.carols.wait_for("wait for me").await?;
    two.alices.wait_gone("it moved to").await?;
    let listed = two.alice.good(&["relay", "list"]).await?;
    let is_there = |line: &str| line.contains(&there) && line.contains("1 conversation");
    anyhow::ensure!(listed.lines().any(is_there), "{listed}");
    Ok(())
}
