//! A relay and three people, who count aloud in one conversation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use posthorn_client::conversation::Entry;

use crate::puppet::{Order, Puppet};
use crate::relay::{RelayProcess, RelayProgram};

/// How long a conversation may take to go on by itself: who looks at a suspended mailbox again does so after
/// a minute, and then after two.
const HEALED_WITHIN: Duration = Duration::from_secs(300);

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    /// The relay.
    pub relay: PathBuf,
    /// A person.
    pub person: PathBuf,
}

/// The relay and the people.
#[derive(Debug)]
pub struct Stage {
    /// The relay.
    pub relay: RelayProcess,
    /// The people, who talk.
    pub people: Vec<Puppet>,
    group: String,
}

impl Stage {
    /// Three people begin a conversation, and begin to count.
    pub async fn begin(programs: &Programs) -> anyhow::Result<Self> {
        let relay = RelayProcess::start(&RelayProgram::new(&programs.relay), &[]).await?;
        let mut people = Vec::new();
        for name in ["alice", "bob", "carl"] {
            let mut person = Puppet::start(&programs.person, name).await?;
            let (handle, invite) = (name.to_owned(), relay.invite().to_owned());
            person.order(&Order::Register { relay: relay.client_url(), handle, invite }).await?;
            person.patience = HEALED_WITHIN;
            people.push(person);
        }
        let members = vec!["bob".to_owned(), "carl".to_owned()];
        let group = people[0].order(&Order::Start { members }).await?;
        let group = group.as_str().context("an id")?.to_owned();
        for person in &mut people[1..] {
            ensure!(person.order(&Order::Conversation).await? == group.as_str(), "another conversation");
        }
        let mut stage = Self { relay, people, group };
        for person in 0..stage.people.len() {
            stage.talks(person).await?;
        }
        Ok(stage)
    }

    /// One of them begins to count, or goes on after having been away.
    pub async fn talks(&mut self, person: usize) -> anyhow::Result<()> {
        let group = self.group.clone();
        self.people[person].order(&Order::Talk { group }).await.map(drop)
    }

    /// Everybody says so much more, which nobody can without the others being told of what was said before.
    pub async fn goes_on(&mut self, more: u64) -> anyhow::Result<()> {
        for person in &mut self.people {
            person.says_more(more).await?;
        }
        Ok(())
    }

    /// One of them moves the conversation, and it has moved.
    pub async fn moves(&mut self, person: usize) -> anyhow::Result<()> {
        let group = self.group.clone();
        self.people[person].order(&Order::Move { group }).await.map(drop)
    }

    /// Likewise, and whatever happens then happens in the middle of it.
    pub async fn begins_to_move(&mut self, person: usize) -> anyhow::Result<()> {
        let group = self.group.clone();
        self.people[person].tell(&Order::Move { group }).await
    }

    /// Everybody stops, and has everything that anybody said, once. Returns how much that was.
    pub async fn end(mut self) -> anyhow::Result<usize> {
        for person in &mut self.people {
            person.order(&Order::Hush).await?;
        }
        let group = self.group;
        let mut all = 0;
        for person in &mut self.people {
            let history = person.order(&Order::History { group: group.clone() }).await?;
            let history: Vec<Entry> = serde_json::from_value(history)?;
            all += history.iter().filter(|entry| entry.mine && entry.text().is_some()).count();
        }
        for person in &mut self.people {
            person.order(&Order::Read { group: group.clone(), texts: all }).await?;
        }
        let said: BTreeMap<String, u64> =
            self.people.iter().map(|person| (person.name.clone(), person.said)).collect();
        for person in &mut self.people {
            let history = person.order(&Order::History { group: group.clone() }).await?;
            let history: Vec<Entry> = serde_json::from_value(history)?;
            check(&said, &history).with_context(|| format!("what {} has", person.name))?;
        }
        self.relay.alive()?;
        Ok(all)
    }
}

/// Whether a history has every number that was said durably, once.
fn check(said: &BTreeMap<String, u64>, history: &[Entry]) -> anyhow::Result<()> {
    for (name, last) in said {
        let of_them = history.iter().filter(|entry| entry.handle == *name).filter_map(Entry::text);
        let mut numbers = of_them.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        numbers.sort_unstable();
        if let Some((at, number)) = (1..).zip(&numbers).find(|(at, number)| at != *number) {
            bail!("of {name}'s numbers the {at}. is {number}: one is missing, or stands twice");
        }
        let count = numbers.len() as u64;
        ensure!(count >= *last, "{name} said {last} durably, and {count} are here");
    }
    Ok(())
}
