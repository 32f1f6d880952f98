//! The servers that are measured, each of which is started as a process of its own on a free loopback port,
//! with an empty data folder.
//!
//! Owns how each is started and which protocol a client speaks with it. Never measures.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use posthorn_proto::MailboxId;
use tempfile::TempDir;

use crate::clock;
use crate::process::Process;
use crate::wire::socket::{Door, Socket};
use crate::wire::speaker::Speaker;
use crate::wire::{limit, mqtt, nats, posthorn};

/// How long a server may take until it listens, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// The next poster's name, from which its post ids begin: no other poster of this run has it.
static NAMES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

/// What can be measured, in the order of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    LimitMem,
    LimitWal,
    Mosquitto,
    Nats,
    NatsAlways,
    /// Another build of the relay, such as the one before a change.
    Other,
    Posthorn,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::LimitMem,
        Self::LimitWal,
        Self::Mosquitto,
        Self::Nats,
        Self::NatsAlways,
        Self::Other,
        Self::Posthorn,
    ];

    /// Whether it speaks Posthorn's protocol.
    pub(crate) fn is_posthorn(self) -> bool {
        matches!(self, Self::Other | Self::Posthorn)
    }

    /// Its name in the head of the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LimitMem => "limit-mem",
            Self::LimitWal => "limit-wal",
            Self::Mosquitto => "Mosquitto",
            Self::Nats => "NATS",
            Self::NatsAlways => "NATS always",
            Self::Other => "other build",
            Self::Posthorn => "Posthorn",
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The relay that is measured, `posthorn-server`.
    pub(crate) relay: PathBuf,
    /// Another build of it, to compare with.
    pub(crate) other: Option<PathBuf>,
    /// What is set of it beside what every workload needs, as `key=value`.
    pub(crate) settings: Vec<&'static str>,
    /// The peers that are there, each `None` otherwise.
    pub(crate) mosquitto: Option<PathBuf>,
    pub(crate) nats: Option<PathBuf>,
}

/// A running server.
pub(crate) struct Host {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    address: SocketAddr,
    folder: TempDir,
    programs: Programs,
    /// For Posthorn, the mailboxes that pairs and groups use, in their order.
    pub(crate) mailboxes: Vec<MailboxId>,
}

impl Host {
    /// Starts a server on an empty folder, and waits until it listens.
    pub(crate) async fn start(kind: Kind, programs: &Programs) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench").tempdir()?;
        // This port was free a moment ago, and nobody else is likely to take it.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = launch(kind, programs, address, folder.path())?;
        let mailboxes = Vec::new();
        let mut host = Self { kind, process, address, folder, programs: programs.clone(), mailboxes };
        host.listens().await?;
        Ok(host)
    }

    /// Starts it again on its data after it was killed or stopped. Returns how long it took until it
    /// listened.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Duration> {
        let begun = clock::now();
        self.process = launch(self.kind, &self.programs, self.address, self.folder.path())?;
        self.listens().await?;
        Ok(begun.elapsed())
    }

    /// Waits until a client is served, because a port may be open long before that.
    async fn listens(&mut self) -> anyhow::Result<()> {
        let begun = clock::now();
        while !self.welcomes().await {
            self.process.must_run()?;
            if begun.elapsed() > PATIENCE {
                bail!("{} does not listen: {}", self.kind.name(), self.process.said());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn welcomes(&self) -> bool {
        let Ok(mut socket) = Socket::connect(&self.door(), 4096).await else { return false };
        // A relay speaks first, with a hello; the others wait for the client.
        !self.kind.is_posthorn() || posthorn::hear(&mut socket).await.is_ok()
    }

    /// Where clients connect.
    pub(crate) fn door(&self) -> Door {
        let (path, subprotocol) = match self.kind {
            Kind::Other | Kind::Posthorn => (posthorn_proto::PATH, posthorn_proto::SUBPROTOCOL),
            Kind::Mosquitto => ("/mqtt", "mqtt"),
            _ => ("/", ""),
        };
        Door { address: self.address, path, subprotocol, from: None }
    }

    /// A client that posts to the topic, or mailbox, with this index, which has `before` messages already.
    pub(crate) fn poster(&self, index: usize, before: u64) -> Box<dyn Speaker> {
        let name = NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.kind {
            Kind::LimitMem | Kind::LimitWal => Box::new(limit::Poster::new(vec![index as u32])),
            Kind::Mosquitto => Box::new(mqtt::Client::poster(format!("p{name}"), index as u32)),
            Kind::Nats | Kind::NatsAlways => Box::new(nats::Client::poster(index)),
            Kind::Other | Kind::Posthorn => {
                Box::new(posthorn::Poster::new(vec![self.mailboxes[index]], before, name))
            }
        }
    }

    /// A client that reads it, as the reader with this number. A `lasting` reader also gets what is posted
    /// while it is away.
    pub(crate) fn reader(&self, index: usize, reader: usize, lasting: bool) -> Box<dyn Speaker> {
        let topic = index as u32;
        match self.kind {
            Kind::LimitMem | Kind::LimitWal => Box::new(limit::Reader { topics: vec![topic] }),
            Kind::Mosquitto => {
                Box::new(mqtt::Client::reader(format!("r{index}.{reader}"), vec![topic], lasting))
            }
            Kind::Nats | Kind::NatsAlways => Box::new(nats::Client::reader(index, reader)),
            Kind::Other | Kind::Posthorn => Box::new(posthorn::Reader::new(self.mailboxes[index], reader)),
        }
    }

    /// A client that posts to these topics in turns.
    pub(crate) fn rounds_of(&self, topics: &[usize]) -> anyhow::Result<Box<dyn Speaker>> {
        let name = NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(match self.kind {
            Kind::LimitMem | Kind::LimitWal => {
                Box::new(limit::Poster::new(topics.iter().map(|topic| *topic as u32).collect()))
            }
            Kind::Other | Kind::Posthorn => {
                let mailboxes = topics.iter().map(|topic| self.mailboxes[*topic]).collect();
                Box::new(posthorn::Poster::new(mailboxes, 0, name))
            }
            _ => bail!("its clients have one topic each here"),
        })
    }

    /// A client that is a member of several groups: of each topic the reader with the number beside it. It
    /// acknowledges whatever comes at once.
    pub(crate) fn member(&self, groups: &[(usize, usize)]) -> anyhow::Result<Box<dyn Speaker>> {
        Ok(match self.kind {
            Kind::LimitMem | Kind::LimitWal => {
                Box::new(limit::Member::new(groups.iter().map(|(topic, _)| *topic as u32).collect()))
            }
            Kind::Other | Kind::Posthorn => {
                let groups = groups.iter().map(|(topic, reader)| (self.mailboxes[*topic], *reader));
                Box::new(posthorn::Member::new(groups))
            }
            _ => bail!("its clients have one topic each here"),
        })
    }

    /// One of many readers of the same topic, which get what is posted while they are there.
    pub(crate) fn listener(&self, index: usize, reader: usize) -> Box<dyn Speaker> {
        match self.kind {
            Kind::Nats | Kind::NatsAlways => Box::new(nats::Client::listener(vec![index])),
            _ => self.reader(index, reader, false),
        }
    }

    /// A client that reads these topics, or mailboxes, and will get nothing. `number` is unique.
    pub(crate) fn idle(&self, number: usize, topics: std::ops::Range<usize>) -> Box<dyn Speaker> {
        let names = topics.clone().map(|topic| topic as u32).collect();
        match self.kind {
            Kind::LimitMem | Kind::LimitWal => Box::new(limit::Reader { topics: names }),
            Kind::Mosquitto => Box::new(mqtt::Client::reader(format!("i{number}"), names, false)),
            Kind::Nats | Kind::NatsAlways => Box::new(nats::Client::listener(topics.collect())),
            Kind::Other | Kind::Posthorn => {
                Box::new(posthorn::Idle { mailboxes: self.mailboxes[topics].to_vec() })
            }
        }
    }
}

fn launch(kind: Kind, programs: &Programs, address: SocketAddr, folder: &Path) -> anyhow::Result<Process> {
    let mut command = match kind {
        Kind::LimitMem | Kind::LimitWal => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([crate::LIMIT, &address.to_string()]);
            command.args((kind == Kind::LimitWal).then_some(folder));
            command
        }
        Kind::Posthorn => relay(&programs.relay, programs, address, folder),
        Kind::Other => {
            relay(programs.other.as_ref().context("there is no other build")?, programs, address, folder)
        }
        Kind::Mosquitto => mosquitto(programs, address, folder)?,
        Kind::Nats | Kind::NatsAlways => nats_server(programs, address, folder, kind == Kind::NatsAlways)?,
    };
    Process::start(&mut command, &folder.join("output.txt"))
}

/// The relay with bounds that no workload reaches, and without limits on rates.
fn relay(relay: &Path, programs: &Programs, address: SocketAddr, folder: &Path) -> Command {
    let mut command = Command::new(relay);
    command.args(["--no-rates", "--open-registration", "--listen", &address.to_string(), "--data"]);
    command.arg(folder.join("data"));
    let usual = [
        "connections.total=30000",
        "store.total_bytes=200000000000",
        "store.mailboxes=4000000",
        "store.readers=8000000",
        "store.tokens=4000000",
    ];
    for setting in usual.iter().chain(&programs.settings) {
        command.args(["--set", setting]);
    }
    command
}

/// Mosquitto as it is distributed, but without bounds that would drop messages. It keeps messages in memory
/// only.
fn mosquitto(programs: &Programs, address: SocketAddr, folder: &Path) -> anyhow::Result<Command> {
    let program = programs.mosquitto.as_ref().context("mosquitto is not there")?;
    // It refuses to start if WebSocket is all that it is to speak.
    let plain = another_port(address)?;
    let configuration = format!(
        "listener {} 127.0.0.1\nlistener {} 127.0.0.1\nprotocol websockets\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
         max_inflight_messages 1000\nmax_queued_messages 0\nlog_dest stderr\nlog_type error\nconnection_messages false\nuser root\n",
        plain.port(),
        address.port()
    );
    std::fs::write(folder.join("mosquitto.conf"), configuration)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("mosquitto.conf"));
    Ok(command)
}

/// Another free port than this one.
fn another_port(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    let _taken = TcpListener::bind(address)?;
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn nats_server(
    programs: &Programs,
    address: SocketAddr,
    folder: &Path,
    always: bool,
) -> anyhow::Result<Command> {
    let program = programs.nats.as_ref().context("nats-server is not there")?;
    let client = another_port(address)?;
    let sync = if always { "sync_interval: always" } else { "" };
    let configuration = format!(
        "listen: \"{client}\"\nmax_connections: 30000\nwebsocket {{ listen: \"{address}\", no_tls: true, compression: false }}\n\
         jetstream {{ store_dir: \"{}\"\n{sync} }}\n",
        folder.join("jetstream").display()
    );
    std::fs::write(folder.join("nats.conf"), configuration)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("nats.conf"));
    Ok(command)
}
