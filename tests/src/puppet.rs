//! A person as a process that can be killed. Orders go in as lines of JSON, and answers come out as such.
//!
//! [`act`] is the process's side (`src/bin/test-person.rs`); [`Puppet`] is the test's, which kills the
//! process by its id when dropped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use posthorn_client::client::{Client, Conversation};
use posthorn_client::conversation::{Entry, EntryState, GroupId, MessageId};
use posthorn_client::engine::{Consent, Event, Who};
use posthorn_client::identity::RelayUrl;
use posthorn_proto::Handle;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::person::{EVERYTHING, open_profile};
use crate::wire::PATIENCE;

/// Texts of one talker that may not be on the relay yet, so that a crash catches some under way.
const UNDER_WAY: usize = 6;

/// What the process is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Make an account.
    Register {
        /// The relay's URL.
        relay: String,
        /// The name of the account.
        handle: String,
        /// The invite code.
        invite: String,
    },
    /// Start a conversation with people of the same relay.
    Start {
        /// The handles of those people.
        members: Vec<String>,
    },
    /// Send `1`, `2`, `3` and so on, and go on behind what the history holds.
    Talk {
        /// The group of the conversation, which is the same for all.
        group: String,
    },
    /// Move the conversation to a fresh mailbox.
    Move {
        /// The group of the conversation.
        group: String,
    },
    /// Stop talking.
    Hush,
    /// Wait until everything is sent and read.
    Settle,
    /// Wait until there is a conversation, and tell its group.
    Conversation,
    /// Wait until the history has so many texts that the relay has, too.
    Read {
        /// The group of the conversation.
        group: String,
        /// How many.
        texts: usize,
    },
    /// Tell what the client waits for.
    State,
    /// Tell the whole history.
    History {
        /// The group of the conversation.
        group: String,
    },
}

/// What the process says, one per line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "saying", rename_all = "snake_case")]
pub enum Saying {
    /// The profile is open.
    Awake,
    /// An order was carried out.
    Done {
        /// What the order asked for.
        answer: serde_json::Value,
    },
    /// An order was not carried out.
    Failed {
        /// The reason, for people.
        why: String,
    },
    /// While talking: a number is durable in the outbox.
    Said {
        /// The number, which counts from 1.
        number: u64,
    },
    /// An alarm of the client.
    Alarm {
        /// The alarm's text and cause.
        text: String,
    },
}

fn print(saying: &Saying) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(saying)?)?;
    Ok(out.flush()?)
}

/// What the process does: it opens the profile, and obeys until its input ends.
pub async fn act(profile: &Path) -> anyhow::Result<()> {
    let client = Client::with_database(open_profile(profile)?)?;
    let mut events = client.events();
    client.consent(Consent::Everybody).await?;
    print(&Saying::Awake)?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut talk: Option<Talk> = None;
    loop {
        tokio::select! {
            line = orders.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                match serde_json::from_str(&line)? {
                    Order::Talk { group } => {
                        let conversation = conversation(&client, group.parse()?).await?;
                        talk = Some(Talk::begin(conversation).await?);
                        print(&Saying::Done { answer: serde_json::Value::Null })?;
                    }
                    Order::Hush => {
                        talk = None;
                        print(&Saying::Done { answer: serde_json::Value::Null })?;
                    }
                    order => print(&match obey(&client, order).await {
                        Ok(answer) => Saying::Done { answer },
                        Err(error) => Saying::Failed { why: format!("{error:#}") },
                    })?,
                }
            }
            event = events.next() => match event {
                Some(Event::Alarm { .. }) => print(&Saying::Alarm { text: format!("{event:?}") })?,
                Some(Event::Entry(entry) | Event::Changed(entry)) => {
                    if let Some(talk) = &mut talk && entry.mine && entry.state != EntryState::Queued {
                        talk.under_way.remove(&entry.id);
                    }
                }
                // It is no longer known which of ours are under way, so the history is asked.
                Some(Event::Missed { .. }) => {
                    if let Some(old) = talk.take() {
                        talk = Some(Talk::begin(old.conversation).await?);
                    }
                }
                Some(_) => {}
                None => bail!("the client stopped"),
            },
            // Sending happens in the handler, which nothing cancels, because the test itself must not send a
            // number twice.
            () = std::future::ready(()), if talk.as_ref().is_some_and(Talk::may_go_on) => {
                if let Some(talk) = &mut talk {
                    print(&Saying::Said { number: talk.next().await? })?;
                }
            }
        }
    }
}

/// Counting aloud in one conversation.
struct Talk {
    conversation: Conversation,
    last: u64,
    under_way: HashSet<MessageId>,
}

impl Talk {
    async fn begin(conversation: Conversation) -> anyhow::Result<Self> {
        let history = conversation.history(EVERYTHING).await?;
        let mine: Vec<&Entry> = history.iter().filter(|entry| entry.mine).collect();
        let number = |entry: &&Entry| entry.text().and_then(|text| text.parse().ok());
        let last = mine.iter().filter_map(number).max().unwrap_or(0);
        let queued = mine.iter().filter(|entry| entry.state == EntryState::Queued);
        let under_way = queued.map(|entry| entry.id).collect();
        Ok(Self { conversation, last, under_way })
    }

    fn may_go_on(&self) -> bool {
        self.under_way.len() < UNDER_WAY
    }

    async fn next(&mut self) -> anyhow::Result<u64> {
        let id = self.conversation.send_text(&(self.last + 1).to_string()).await?;
        self.last += 1;
        self.under_way.insert(id);
        Ok(self.last)
    }
}

async fn conversation(client: &Client, group: GroupId) -> anyhow::Result<Conversation> {
    let all = client.conversations().await?;
    let summary = all.iter().find(|summary| summary.group == group).context("no such conversation")?;
    Ok(client.conversation(summary.id))
}

async fn obey(client: &Client, order: Order) -> anyhow::Result<serde_json::Value> {
    Ok(match order {
        Order::Register { relay, handle, invite } => {
            client.register(RelayUrl::parse(&relay)?, Handle::parse(&handle)?, &invite).await?;
            serde_json::Value::Null
        }
        Order::Start { members } => {
            let members =
                members.iter().map(|name| Handle::parse(name).map(Who::Handle)).collect::<Result<_, _>>()?;
            client.start("", members).await?.summary().await?.group.to_string().into()
        }
        Order::Conversation => {
            let mut events = client.events();
            loop {
                if let [summary, ..] = &client.conversations().await?[..] {
                    return Ok(summary.group.to_string().into());
                }
                events.next().await.context("the client stopped")?;
            }
        }
        Order::Settle => {
            client.settled(PATIENCE).await?;
            serde_json::Value::Null
        }
        Order::Read { group, texts } => {
            let mut events = client.events();
            let conversation = conversation(client, group.parse()?).await?;
            let is_there = |entry: &&Entry| entry.text().is_some() && entry.seq.is_some();
            while conversation.history(EVERYTHING).await?.iter().filter(is_there).count() < texts {
                events.next().await.context("the client stopped")?;
            }
            serde_json::Value::Null
        }
        Order::Move { group } => {
            conversation(client, group.parse()?).await?.move_to(None).await?;
            serde_json::Value::Null
        }
        Order::State => {
            let conversations = client.conversations().await?;
            format!("{:?}; {conversations:?}", client.state().await?).into()
        }
        Order::History { group } => {
            let conversation = conversation(client, group.parse()?).await?;
            serde_json::to_value(conversation.history(EVERYTHING).await?)?
        }
        Order::Talk { .. } | Order::Hush => unreachable!("`act` takes these itself"),
    })
}

/// The test's side of the process.
#[derive(Debug)]
pub struct Puppet {
    /// Names the person in messages.
    pub name: String,
    program: PathBuf,
    profile: TempDir,
    running: Option<Running>,
    /// All alarms that were heard, in all lives of the process.
    pub alarms: Vec<String>,
    /// The largest number that was said to be durable.
    pub said: u64,
    /// How long it may say nothing while something is waited for.
    pub patience: Duration,
}

#[derive(Debug)]
struct Running {
    child: Child,
    orders: ChildStdin,
    sayings: Lines<BufReader<ChildStdout>>,
}

impl Puppet {
    /// Starts the process on a new profile.
    pub async fn start(program: impl Into<PathBuf>, name: &str) -> anyhow::Result<Self> {
        let profile = tempfile::tempdir()?;
        // Settling may use up its whole patience before it fails with a reason.
        let (name, program, patience) = (name.to_owned(), program.into(), PATIENCE * 2);
        let mut puppet =
            Self { name, program, profile, running: None, alarms: Vec::new(), said: 0, patience };
        puppet.wake().await?;
        Ok(puppet)
    }

    /// Starts the process again on the profile that is there.
    pub async fn wake(&mut self) -> anyhow::Result<()> {
        let mut child = Command::new(&self.program)
            .arg(self.profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let orders = child.stdin.take().context("stdin is piped")?;
        let sayings = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        self.running = Some(Running { child, orders, sayings });
        match self.hear().await? {
            Saying::Awake => Ok(()),
            other => bail!("{} woke with {other:?}", self.name),
        }
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the person does not run")?;
        Ok(running.child.kill().await?)
    }

    /// Gives an order, whose answer nobody waits for.
    pub async fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        let running = self.running.as_mut().context("the person does not run")?;
        let line = format!("{}\n", serde_json::to_string(order)?);
        running.orders.write_all(line.as_bytes()).await?;
        Ok(running.orders.flush().await?)
    }

    /// Gives an order and waits for its answer.
    pub async fn order(&mut self, order: &Order) -> anyhow::Result<serde_json::Value> {
        self.tell(order).await?;
        loop {
            match self.hear().await? {
                Saying::Done { answer } => return Ok(answer),
                Saying::Failed { why } => bail!("{} cannot {order:?}: {why}", self.name),
                Saying::Said { .. } | Saying::Alarm { .. } => {}
                Saying::Awake => bail!("{} woke twice", self.name),
            }
        }
    }

    /// Waits until a talker has said `more` further numbers.
    pub async fn says_more(&mut self, more: u64) -> anyhow::Result<()> {
        let goal = self.said + more;
        while self.said < goal {
            if let Err(error) = self.hear().await {
                let state = self.order(&Order::State).await;
                bail!("{error:#} after {} of {goal}; alarms {:?}; {state:?}", self.said, self.alarms);
            }
        }
        Ok(())
    }

    async fn hear(&mut self) -> anyhow::Result<Saying> {
        let running = self.running.as_mut().context("the person does not run")?;
        let line = timeout(self.patience, running.sayings.next_line())
            .await
            .with_context(|| format!("{} is mute", self.name))??;
        let Some(line) = line else { bail!("{} ended: {}", self.name, running.child.wait().await?) };
        let saying = serde_json::from_str(&line).with_context(|| format!("{} said {line}", self.name))?;
        match &saying {
            Saying::Said { number } => self.said = self.said.max(*number),
            Saying::Alarm { text } => self.alarms.push(text.clone()),
            _ => {}
        }
        Ok(saying)
    }
}
