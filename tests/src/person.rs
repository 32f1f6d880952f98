//! A person with one device, inside of the test's process: a profile folder and, while it is open, a client.
//!
//! Owns the profile. Keeps the account's events from before the client is asked anything, so that no wait
//! misses one. Conversations are named by their group, which is the same for all: each device has an id of
//! its own for them.

use std::path::Path;

use anyhow::{Context as _, bail};
use posthorn_client::client::{Client, Conversation, EventStream};
use posthorn_client::content::Target;
use posthorn_client::conversation::{ConversationId, ConversationState, Entry, GroupId, MessageId};
use posthorn_client::engine::{Consent, ConversationSummary, Event, Page, Who};
use posthorn_client::identity::{PersonId, RelayUrl};
use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use posthorn_proto::Handle;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::relay::RelayProcess;
use crate::wire::PATIENCE;

/// A whole history: more than any test writes.
pub const EVERYTHING: Page = Page { before: None, after: None, limit: 100_000 };

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
    /// Which mailbox of the conversation, and its seq there; none while it is queued.
    pub at: Option<(u32, u64)>,
    /// Whose.
    pub sender: String,
    /// What.
    pub text: String,
}

/// The texts of a history in the mailbox's order, without notices.
pub fn texts(history: &[Entry]) -> Vec<Line> {
    let line = |entry: &Entry| {
        let text = entry.text()?.to_owned();
        Some(Line { at: entry.place.zip(entry.seq), sender: entry.handle.clone(), text })
    };
    let mut lines: Vec<Line> = history.iter().filter_map(line).collect();
    lines.sort_by_key(|line| line.at.unwrap_or((u32::MAX, u64::MAX)));
    lines
}

/// A person with one device.
#[derive(Debug)]
pub struct Person {
    /// Their handle.
    pub name: String,
    consent: Consent,
    profile: TempDir,
    open: Option<(Client, EventStream)>,
}

impl Person {
    /// Makes a profile and registers an account of somebody who follows everybody's invitations.
    pub async fn register(relay: &RelayProcess, name: &str) -> anyhow::Result<Self> {
        Self::register_with(relay, name, Consent::Everybody).await
    }

    /// Likewise, of somebody whom strangers have to ask.
    pub async fn register_shy(relay: &RelayProcess, name: &str) -> anyhow::Result<Self> {
        Self::register_with(relay, name, Consent::Ask).await
    }

    async fn register_with(relay: &RelayProcess, name: &str, consent: Consent) -> anyhow::Result<Self> {
        let mut person = Self { name: name.to_owned(), consent, profile: tempfile::tempdir()?, open: None };
        person.wake().await?;
        let url = RelayUrl::parse(&relay.client_url())?;
        let registering = person.client().register(url, Handle::parse(name)?, relay.invite());
        timeout(PATIENCE, registering).await.with_context(|| format!("{name} cannot register in time"))??;
        Ok(person)
    }

    /// Opens the profile.
    pub async fn wake(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.open.is_none(), "{} is awake already", self.name);
        let client = Client::with_database(open_profile(self.profile.path())?)?;
        let events = client.events();
        client.consent(self.consent).await?;
        self.open = Some((client, events));
        Ok(())
    }

    /// Closes the profile: offline, until woken.
    pub async fn sleep(&mut self) -> anyhow::Result<()> {
        let (client, _) = self.open.take().with_context(|| format!("{} sleeps already", self.name))?;
        Ok(client.close().await?)
    }

    /// The client of a person who is awake.
    pub fn client(&self) -> &Client {
        &self.open.as_ref().expect("the test woke this person").0
    }

    /// How others of the same relay reach this person.
    pub fn contact(&self) -> anyhow::Result<Who> {
        Ok(Who::Handle(Handle::parse(&self.name)?))
    }

    /// Who this is.
    pub async fn id(&self) -> anyhow::Result<PersonId> {
        Ok(self.client().account().await?.context("no account")?.person)
    }

    /// The summary of a group's conversation: the newest that this device has of it.
    pub async fn summary(&self, group: GroupId) -> anyhow::Result<Option<ConversationSummary>> {
        let mut of_group = self.client().conversations().await?;
        of_group.retain(|summary| summary.group == group);
        // Whoever came back has two of them, and the one that is open counts.
        of_group.sort_by_key(|summary| has_ended(&summary.state));
        Ok(of_group.into_iter().next())
    }

    /// A group's conversation.
    pub async fn conversation(&self, group: GroupId) -> anyhow::Result<Conversation> {
        let summary = self.summary(group).await?;
        let summary = summary.with_context(|| format!("{} has no such conversation", self.name))?;
        Ok(self.client().conversation(summary.id))
    }

    /// Sends a text.
    pub async fn say(&self, group: GroupId, text: &str) -> anyhow::Result<MessageId> {
        Ok(self.conversation(group).await?.send_text(text).await?)
    }

    /// Puts a sign beside the entry with this text; "" takes it back.
    pub async fn react(&self, group: GroupId, text: &str, sign: &str) -> anyhow::Result<()> {
        let target = self.target(group, text).await?;
        self.conversation(group).await?.react(target, sign).await?;
        Ok(())
    }

    /// What a change of the entry with this text names.
    pub async fn target(&self, group: GroupId, text: &str) -> anyhow::Result<Target> {
        let history = self.history(group).await?;
        let entry = history.iter().find(|entry| entry.text() == Some(text));
        entry.and_then(Entry::target).with_context(|| format!("{} has no {text:?}", self.name))
    }

    /// The whole history of a conversation.
    pub async fn history(&self, group: GroupId) -> anyhow::Result<Vec<Entry>> {
        Ok(self.conversation(group).await?.history(EVERYTHING).await?)
    }

    /// The texts of a conversation in the mailbox's order.
    pub async fn texts(&self, group: GroupId) -> anyhow::Result<Vec<Line>> {
        Ok(texts(&self.history(group).await?))
    }

    /// The reactions to the entry with this text: whose, and the sign.
    pub async fn reactions(&self, group: GroupId, text: &str) -> anyhow::Result<Vec<(String, String)>> {
        let history = self.history(group).await?;
        let entry = history.iter().find(|entry| entry.text() == Some(text));
        let entry = entry.with_context(|| format!("{} has no {text:?}", self.name))?;
        Ok(entry.reactions().map(|(change, sign)| (change.handle.clone(), sign.to_owned())).collect())
    }

    /// Waits until everything is sent, and everything that the relay has is read.
    pub async fn settle(&self) -> anyhow::Result<()> {
        self.client().settled(PATIENCE).await.with_context(|| format!("{} does not settle", self.name))
    }

    /// Waits until this person's history of the conversation has a text.
    pub async fn reads(&mut self, group: GroupId, text: &str) -> anyhow::Result<()> {
        let wanted = format!("{} reads {text:?}", self.name);
        self.until(&wanted, async |person| {
            Ok(person.texts(group).await?.iter().any(|line| line.text == text && line.at.is_some()))
        })
        .await
    }

    /// Waits until these reactions stand beside a text: whose, and the sign.
    pub async fn sees_reactions(
        &mut self,
        group: GroupId,
        text: &str,
        reactions: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let wanted = format!("{} sees {reactions:?} beside {text:?}", self.name);
        self.until(&wanted, async |person| {
            let seen = person.reactions(group, text).await?;
            Ok(seen.iter().map(|(who, sign)| (who.as_str(), sign.as_str())).eq(reactions.iter().copied()))
        })
        .await
    }

    /// Waits until the conversation is open and has exactly these members for this person (in any order).
    pub async fn sees_members(&mut self, group: GroupId, members: &[&str]) -> anyhow::Result<()> {
        let mut members: Vec<String> = members.iter().map(|name| (*name).to_owned()).collect();
        members.sort();
        let wanted = format!("{} sees the members {members:?}", self.name);
        self.until(&wanted, async |person| {
            let Some(summary) = person.summary(group).await? else { return Ok(false) };
            let mut seen: Vec<String> = summary.members.into_iter().map(|member| member.handle).collect();
            seen.sort();
            Ok(matches!(summary.state, ConversationState::Active) && seen == members)
        })
        .await
    }

    /// Waits until somebody's invitation waits for an answer.
    pub async fn is_invited(&mut self) -> anyhow::Result<ConversationId> {
        let mut invited = None;
        let wanted = format!("{} is invited", self.name);
        self.until(&wanted, async |person| {
            let all = person.client().conversations().await?;
            invited = all.into_iter().find(|summary| summary.state == ConversationState::Invited);
            Ok(invited.is_some())
        })
        .await?;
        Ok(invited.context("the loop above ends with one")?.id)
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
                if events.next().await.is_none() {
                    bail!("the client stopped");
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

    /// Waits for an event.
    pub async fn hears(
        &mut self,
        wanted: &str,
        mut is_it: impl FnMut(&Event) -> bool,
    ) -> anyhow::Result<Event> {
        let (_, events) = self.open.as_mut().context("asleep")?;
        let waiting = async {
            loop {
                let event = events.next().await.context("the client stopped")?;
                if is_it(&event) {
                    return anyhow::Ok(event);
                }
            }
        };
        timeout(PATIENCE, waiting).await.with_context(|| format!("{} waits in vain: {wanted}", self.name))?
    }
}

/// Whether nothing more comes of a conversation.
fn has_ended(state: &ConversationState) -> bool {
    matches!(state, ConversationState::Left | ConversationState::Removed)
}
