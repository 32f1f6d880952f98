//! Registers, says hello to somebody, and waits for the answer.
//!
//! In terminals of their own: a relay, which prints an invite code, and somebody who answers. Then this:
//!
//! ```sh
//! cargo run --bin posthorn-server -- --print-invite 10
//! cargo run -p posthorn-client --example echo_bot -- ws://127.0.0.1:4100 CODE echo
//! cargo run -p posthorn-client --example hello -- ws://127.0.0.1:4100 CODE ann echo
//! ```

use anyhow::Context as _;
use std::time::Duration;

use posthorn_client::{Client, Event, Handle, Page, RelayUrl, Who};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [relay, invite, me, other] = &arguments[..] else {
        anyhow::bail!("usage: hello RELAY INVITE MY_NAME THEIR_NAME");
    };

    // A profile is a folder with one encrypted file in it. The next run finds everything there again.
    let passphrase = std::env::var("POSTHORN_PASSPHRASE").unwrap_or_default();
    let client = Client::builder(format!("profiles/{me}")).passphrase(passphrase).open_or_create().await?;
    if !client.account().await?.is_some_and(|account| account.registered) {
        client.register(RelayUrl::parse(relay)?, Handle::parse(me)?, invite).await?;
    }

    // Events are told from here on: begin to listen before something can happen.
    let mut events = client.events();
    // Once there is a conversation with this one person, `start` gives that.
    let talk = client.start("", vec![Who::Handle(Handle::parse(other)?)]).await?;
    // When this returns, the text is on this device's disk, and gets there whatever happens.
    talk.send_text("Hello!").await?;
    println!("said hello to {other}; an answer comes when they accept the invitation (Ctrl+C: do not wait)");

    let answer = loop {
        let entry = match events.next().await.context("the client has stopped")? {
            Event::Entry(entry) => *entry,
            // This reader was too slow. Here only the newest entry matters; others would read from where
            // they stopped.
            Event::Missed { .. } => match talk.history(Page { limit: 1, ..Page::default() }).await?.pop() {
                Some(entry) => entry,
                None => continue,
            },
            _ => continue,
        };
        if entry.conversation == talk.id() && !entry.mine && entry.text().is_some() {
            break entry;
        }
    };
    // Names and texts are somebody else's: {:?} keeps their control characters out of the terminal.
    println!("{:?} answers {:?}", answer.handle, answer.text().unwrap_or_default());
    talk.mark_read(Some(answer.row)).await?;

    // The others' clients show "read" once the receipt is out. It would also go with the next run.
    client.settled(Duration::from_secs(10)).await?;
    client.close().await?;
    Ok(())
}
