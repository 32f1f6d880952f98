//! Prints everything that a profile holds, page by page. Needs no relay.
//!
//! With a profile that `hello.rs` or another example made (`POSTHORN_PASSPHRASE` as it was then):
//!
//! ```sh
//! cargo run -p posthorn-client --example reading_history -- profiles/ann
//! ```

use anyhow::Context as _;
use posthorn_client::{Body, Client, Conversation, Entry, Error, Kind, Named, Notice, Page};

/// Entries of one page.
const PAGE: usize = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).context("usage: reading_history PROFILE")?;
    let passphrase = std::env::var("POSTHORN_PASSPHRASE").unwrap_or_default();
    let client = Client::builder(folder).passphrase(passphrase).open().await?;
    for summary in client.conversations().await? {
        let people: Vec<&str> = summary.members.iter().map(|person| person.handle.as_str()).collect();
        println!("{:?} with {people:?}: {}", summary.name, summary.state.in_words());
        for entry in everything(&client.conversation(summary.id)).await? {
            print(&entry);
        }
    }
    Ok(client.close().await?)
}

/// From the newest page back to the first. Rows are names, not numbers to count with: the next page is what
/// comes before the first row of this one.
async fn everything(talk: &Conversation) -> Result<Vec<Entry>, Error> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let mut page = talk.history(Page { before, limit: PAGE, ..Page::default() }).await?;
        let Some(first) = page.first() else { return Ok(all) };
        before = Some(first.row);
        page.append(&mut all);
        all = page;
    }
}

fn print(entry: &Entry) {
    let who = if entry.mine { "you" } else { entry.handle.as_str() };
    match &entry.body {
        Body::Said(Kind::Text(text)) => println!("  {who:?} ({:?}): {:?}", entry.state, text.text),
        // What this program has no form for has a line; so has what only later versions know.
        Body::Said(kind) => println!("  {who:?} ({:?}): {:?}", entry.state, kind.line()),
        Body::Notice(notice) => println!("  -- {}", told(notice)),
        // A run of envelopes that cannot be shown is one entry. Nothing vanishes without a trace.
        Body::Unreadable(run) => println!("  -- {} that cannot be shown: {}", run.count, run.cause),
        _ => println!("  -- something that needs a newer version"),
    }
    for (change, sign) in entry.reactions() {
        println!("      {sign:?} by {:?}", change.handle);
    }
}

fn told(notice: &Notice) -> String {
    let names =
        |who: &[Named]| who.iter().map(|who| format!("{:?}", who.handle)).collect::<Vec<_>>().join(", ");
    match notice {
        Notice::Invited { by } => format!("{:?} invites you", by.handle),
        Notice::Joined { by } => format!("you came in; {:?} had invited you", by.handle),
        Notice::Added { by, who } => format!("{:?} added {}", by.handle, names(who)),
        Notice::Removed { by, who } => format!("{:?} removed {}", by.handle, names(who)),
        Notice::Left { who } => format!("{:?} left", who.handle),
        _ => "something happened that needs a newer version to be told".to_owned(),
    }
}
