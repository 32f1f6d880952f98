//! What can go wrong in a call, and what to do about it. Needs no relay.
//!
//! ```sh
//! cargo run -p posthorn-client --example errors
//! ```
//!
//! Every [`Error`] has a code, which never changes its meaning (docs/causes.md has all of them), one line for
//! people that says what to do, and an answer to whether the same call may succeed later. What goes wrong
//! after a call has returned is told otherwise: `Event::Alarm`, `EntryState::Failed`, a suspended
//! conversation.

use std::time::Duration;

use posthorn_client::{Client, Error, Handle, RelayUrl, StoreError, TEXT_BYTES, Who};

/// What an app does with an error that it did not expect.
fn tell(doing: &str, error: &Error) {
    let advice = match error {
        // Some are worth a question to the person, not a message.
        Error::Store(StoreError::WrongPassphrase) => "ask for the passphrase again",
        Error::Store(StoreError::NotFound { .. }) | Error::NoAccount => "show the page where one registers",
        error if error.is_passing() => "try the same again in a while",
        _ => "show the message: it says what to do",
    };
    println!("{doing}:\n  {}: {error}\n  -> {advice}", error.code());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("posthorn-errors-{}", std::process::id()));
    let profile = || Client::builder(&folder);

    if let Err(error) = profile().open().await {
        tell("opening a profile that is not there", &error);
    }
    let client = profile().passphrase("right").create().await?;
    if let Err(error) = profile().passphrase("right").open().await {
        tell("opening it twice", &error);
    }
    let bob = vec![Who::Handle(Handle::parse("bob")?)];
    if let Err(error) = client.start("", bob).await {
        tell("talking without an account", &error);
    }

    // Calls that need a relay wait for it. Giving up the wait does not take back what was asked: that is
    // saved, and goes on, also after a restart. Port 1 has no relay, so that this one waits for good.
    let nowhere = RelayUrl::parse("ws://127.0.0.1:1")?;
    let registering = client.register(nowhere, Handle::parse("ann")?, "no-code");
    if tokio::time::timeout(Duration::from_secs(1), registering).await.is_err() {
        println!("registering where no relay is:\n  no answer yet; it goes on");
    }
    if let Err(error) = client.settled(Duration::from_secs(1)).await {
        tell("waiting until everything is sent", &error);
    }
    // What is wrong with a text is told before it goes anywhere.
    if let Err(error) = posthorn_client::Said::new(posthorn_client::Text::new("x".repeat(TEXT_BYTES + 1))) {
        tell("saying too much", &Error::from(error));
    }

    client.clone().close().await?;
    if let Err(error) = client.account().await {
        tell("asking a client that was closed", &error);
    }
    if let Err(error) = profile().passphrase("wrong").open().await {
        tell("opening with a wrong passphrase", &error);
    }
    Ok(std::fs::remove_dir_all(folder)?)
}
