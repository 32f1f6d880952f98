//! A bot that answers everybody with their own words, until Ctrl+C.
//!
//! ```sh
//! cargo run --bin posthorn-server -- --print-invite 10
//! cargo run -p posthorn-client --example echo_bot -- ws://127.0.0.1:4100 CODE echo
//! ```
//!
//! Stop and start the relay, or kill the bot: it connects again by itself, answers what came meanwhile, and
//! answers nothing twice.

use posthorn_client::{Client, Conversation, Error, Event, Handle, Page, RelayUrl, Said, Text};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [relay, invite, name] = &arguments[..] else {
        anyhow::bail!("usage: echo_bot RELAY INVITE NAME");
    };
    let passphrase = std::env::var("POSTHORN_PASSPHRASE").unwrap_or_default();
    let client = Client::builder(format!("profiles/{name}"))
        .passphrase(passphrase)
        // Without this, strangers' invitations would wait for `accept`.
        .accept_everybody()
        .open_or_create()
        .await?;
    let mut events = client.events();
    if !client.account().await?.is_some_and(|account| account.registered) {
        client.register(RelayUrl::parse(relay)?, Handle::parse(name)?, invite).await?;
    }
    if let Some(account) = client.account().await? {
        println!("talk to {:?}, or by {}", account.handle, account.link);
    }

    answer_all(&client).await;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = tokio::signal::ctrl_c() => None,
        };
        match event {
            Some(Event::Entry(entry)) if !entry.mine => {
                told(answer(&client.conversation(entry.conversation)).await)
            }
            // This reader was too slow; the truth is in the conversations.
            Some(Event::Missed { .. }) => answer_all(&client).await,
            Some(Event::Connected) => println!("connected"),
            Some(Event::Disconnected { reason, retry_in_ms }) => {
                println!("not connected ({reason}); the next try is in {retry_in_ms} ms");
            }
            Some(Event::Alarm { cause, text, .. }) => println!("{cause}: {text}"),
            Some(_) => {}
            None => break,
        }
    }
    // Waits until the profile is closed in order. What is still in the outbox goes out next time.
    client.close().await?;
    Ok(())
}

async fn answer_all(client: &Client) {
    for summary in client.conversations().await.unwrap_or_default() {
        told(answer(&client.conversation(summary.id)).await);
    }
}

/// Answers what is unread in a conversation, and marks it as read. A bot that may be away for more than this
/// one page would go back through the pages, as `reading_history.rs` does.
async fn answer(talk: &Conversation) -> Result<(), Error> {
    let Some(first) = talk.summary().await?.first_unread else { return Ok(()) };
    let entries = talk.history(Page { limit: 1000, ..Page::default() }).await?;
    for entry in entries.iter().skip_while(|entry| entry.row != first).filter(|entry| !entry.mine) {
        if let Some(text) = entry.text() {
            // Ids are an author's own, so that the answer can have the id of what it answers. If this
            // program is killed before the mark, the same answer is asked for again, and not sent again.
            talk.send_as(Some(entry.id), Said::new(Text::new(text))?).await?;
        }
        talk.mark_read(Some(entry.row)).await?;
    }
    Ok(())
}

/// One conversation's trouble (it has ended, say) is not the others'.
fn told(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        println!("{}: {error}", error.code());
    }
}
