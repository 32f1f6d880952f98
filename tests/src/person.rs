//! A person with one device, inside of the test's process: a profile folder and, while it is open, a client.
//!
//! Owns the profile. Keeps the account's events from before the client is asked anything, so that no wait
//! misses one.

use std::path::Path;

use anyhow::{Context as _, bail};
use posthorn_client::client::Client;
use posthorn_client::conversation::{Body, ConversationId, ConversationState, Message};
use posthorn_client::identity::RelayUrl;
use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use posthorn_client::sync::{Contact, ConversationSummary, Event};
use posthorn_proto::Handle;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::relay::RelayProcess;
use crate::wire::PATIENCE;

/// More than any test writes.
pub const EVERYTHING: usize = 100_000;

/// Creates or opens the profile in a folder.
pub fn open_profile(folder: &Path) -> anyhow::Result<Database> {
    let file = folder.join("profile.db");
    let passphrase = Passphrase::new("correct horse");
    if file.exists() {
        return Ok(Database::open(Location::File(&file), &passphrase)?);
    }
    let mut rng = ChaCha20Rng::from_os_rng();
    Ok(Database::create(Location::File(&file), &passphrase, KdfCost::CHEAP, &mut rng)?)
}

/// A line of a history, as two people compare them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its place in the mailbox; none while it is queued.
    pub seq: Option<u64>,
    /// Whose.
    pub sender: String,
    /// What.
    pub text: String,
}

/// The texts of a history in the mailbox's order, without notices.
pub fn texts(history: &[Message]) -> Vec<Line> {
    let text = |message: &Message| match &message.body {
        Body::Text(text) => {
            Some(Line { seq: message.seq, sender: message.sender.clone(), text: text.clone() })
        }
        _ => None,
    };
    let mut lines: Vec<Line> = history.iter().filter_map(text).collect();
    lines.sort_by_key(|line| line.seq.unwrap_or(u64::MAX));
    lines
}

/// A person with one device.
#[derive(Debug)]
pub struct Person {
    /// Their handle.
    pub name: String,
    profile: TempDir,
    open: Option<(Client, broadcast::Receiver<Event>)>,
}

impl Person {
    /// Makes a profile and registers an account.
    pub async fn register(relay: &RelayProcess, name: &str) -> anyhow::Result<Self> {
        let mut person = Self { name: name.to_owned(), profile: tempfile::tempdir()?, open: None };
        person.wake()?;
        let url = RelayUrl::parse(&relay.client_url())?;
        let registering = person.client().register(url, Handle::parse(name)?, relay.invite().to_owned());
        timeout(PATIENCE, registering).await.with_context(|| format!("{name} cannot register in time"))??;
        Ok(person)
    }

    /// Opens the profile.
    pub fn wake(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.open.is_none(), "{} is awake already", self.name);
        let client = Client::open(open_profile(self.profile.path())?)?;
        let events = client.subscribe();
        self.open = Some((client, events));
        Ok(())
    }

    /// Closes the profile: offline, until woken.
    pub async fn sleep(&mut self) -> anyhow::Result<()> {
        let (client, _) = self.open.take().with_context(|| format!("{} sleeps already", self.name))?;
        client.close().await;
        Ok(())
    }

    /// The client of a person who is awake.
    pub fn client(&self) -> &Client {
        &self.open.as_ref().expect("the test woke this person").0
    }

    /// How others reach this person.
    pub fn contact(&self) -> anyhow::Result<Contact> {
        Ok(Contact::Handle(Handle::parse(&self.name)?))
    }

    /// Sends a text.
    pub async fn say(&self, conversation: ConversationId, text: &str) -> anyhow::Result<()> {
        self.client().send(conversation, text.to_owned()).await?;
        Ok(())
    }

    /// The texts of a conversation in the mailbox's order.
    pub async fn texts(&self, conversation: ConversationId) -> anyhow::Result<Vec<Line>> {
        Ok(texts(&self.client().history(conversation, None, EVERYTHING).await?))
    }

    /// The summary of one conversation.
    pub async fn summary(&self, conversation: ConversationId) -> anyhow::Result<Option<ConversationSummary>> {
        Ok(self.client().conversations().await?.into_iter().find(|summary| summary.id == conversation))
    }

    /// Waits until everything is sent, and everything that the relay has is read.
    pub async fn settle(&self) -> anyhow::Result<()> {
        self.client().settled(PATIENCE).await.with_context(|| format!("{} does not settle", self.name))
    }

    /// Waits until this person's history of the conversation has a text.
    pub async fn reads(&mut self, conversation: ConversationId, text: &str) -> anyhow::Result<()> {
        let wanted = format!("{} reads {text:?}", self.name);
        self.until(&wanted, async |person| {
            Ok(person.texts(conversation).await?.iter().any(|line| line.text == text && line.seq.is_some()))
        })
        .await
    }

    /// Waits until the conversation has exactly these members for this person (in any order).
    pub async fn sees_members(
        &mut self,
        conversation: ConversationId,
        members: &[&str],
    ) -> anyhow::Result<()> {
        let mut members: Vec<String> = members.iter().map(|name| (*name).to_owned()).collect();
        members.sort();
        let wanted = format!("{} sees the members {members:?}", self.name);
        self.until(&wanted, async |person| {
            let Some(summary) = person.summary(conversation).await? else { return Ok(false) };
            let mut seen = summary.members;
            seen.sort();
            Ok(matches!(summary.state, ConversationState::Active) && seen == members)
        })
        .await
    }

    /// Waits until a condition holds, looking again at every event of the client.
    pub async fn until(
        &mut self,
        wanted: &str,
        mut holds: impl AsyncFnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                if holds(self).await? {
                    return anyhow::Ok(());
                }
                let (_, events) = self.open.as_mut().context("asleep")?;
                match events.recv().await {
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => bail!("the client stopped"),
                }
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(done) => done.with_context(|| format!("while waiting until {wanted}")),
            Err(_) => {
                let state = self.client().state().await?;
                let conversations = self.client().conversations().await?;
                bail!("in vain: {wanted}\nstate: {state:?}\nconversations: {conversations:#?}")
            }
        }
    }
}
