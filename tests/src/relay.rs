//! Real relay processes: started on a free loopback port, restarted on the same data, and killed by their id
//! when dropped.
//!
//! Owns the process and its data folder. Never reaches into the relay: whatever it learns is on the relay's
//! standard output.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::wire::{PATIENCE, Wire};

/// Options of a relay that limits no rates, for tests and measurements that ask for more than people do.
pub const NO_RATES: &[&str] = &["--no-rates", "--set", "connections.total=20000"];

/// Everybody in a test comes from this machine, where a limit by address would be one for all of them.
/// Options that say something else come later, and win.
const EVERYBODY_IS_HERE: &str = "rates.exempt=[\"127.0.0.0/8\", \"::1\"]";

/// How many accounts the first start's invite makes: more than any test needs.
const ACCOUNTS: &str = "1000";

/// A program that was built beside this one.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("where are the programs?")?;
    Ok(here.with_file_name(name))
}

/// How to start a relay: the program, and the arguments that come before the relay's own options.
#[derive(Debug, Clone)]
pub struct RelayProgram {
    /// The executable to start.
    pub program: PathBuf,
    /// Its first arguments.
    pub first: Vec<OsString>,
}

impl RelayProgram {
    /// An executable that takes the relay's options itself.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), first: Vec::new() }
    }
}

/// A relay process and its data.
#[derive(Debug)]
pub struct RelayProcess {
    program: RelayProgram,
    options: Vec<String>,
    data: TempDir,
    /// Fixed after the first start, so that clients find the relay again.
    address: SocketAddr,
    invite: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Reads the relay's output to its end; dropped with the process.
    readers: JoinSet<()>,
    said: Arc<Mutex<Vec<String>>>,
}

impl RelayProcess {
    /// Starts a relay with an empty store and these options, and waits until it listens.
    pub async fn start(program: &RelayProgram, options: &[&str]) -> anyhow::Result<Self> {
        Self::begin(program, options, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts another relay, on a fresh data folder, at an address where one was before.
    pub async fn start_at(program: &RelayProgram, address: SocketAddr) -> anyhow::Result<Self> {
        Self::begin(program, &[], address).await
    }

    async fn begin(program: &RelayProgram, options: &[&str], address: SocketAddr) -> anyhow::Result<Self> {
        let mut relay = Self {
            program: program.clone(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            data: tempfile::tempdir()?,
            address,
            invite: String::new(),
            running: None,
        };
        relay.restart().await?;
        Ok(relay)
    }

    /// Starts the relay again, on its data and on the address that it had, and waits until it listens.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.running.is_none(), "the relay runs already");
        let mut child = Command::new(&self.program.program)
            .args(&self.program.first)
            .arg("--listen")
            .arg(self.address.to_string())
            .arg("--data")
            .arg(self.data.path())
            .args(["--set", EVERYBODY_IS_HERE])
            .args(&self.options)
            .args(self.invite.is_empty().then_some(["--print-invite", ACCOUNTS]).into_iter().flatten())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.program.display()))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let (heard, mut lines) = tokio::sync::mpsc::channel(64);
        let mut readers = JoinSet::new();
        let out = child.stdout.take().context("stdout is piped")?;
        let err = child.stderr.take().context("stderr is piped")?;
        readers.spawn(read(BufReader::new(out), Arc::clone(&said), Some(heard)));
        readers.spawn(read(BufReader::new(err), Arc::clone(&said), None));
        self.running = Some(Running { child, readers, said });

        let mut address = None;
        while address.is_none() || self.invite.is_empty() {
            let line = timeout(PATIENCE, lines.recv()).await.context("the relay says nothing")?;
            let Some(line) = line else {
                // Why, it may say last of all.
                if let Some(running) = &mut self.running {
                    let all = async { while running.readers.join_next().await.is_some() {} };
                    let _ = timeout(PATIENCE, all).await;
                }
                bail!("the relay ended instead of listening:\n{}", self.said())
            };
            address = address.or_else(|| address_in(&line));
            if let Some(code) = invite_in(&line) {
                self.invite = code;
            }
        }
        self.address = address.context("the loop above ends with an address")?;
        Ok(())
    }

    /// What people type to name this relay.
    pub fn client_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The URL of its WebSocket.
    pub fn url(&self) -> String {
        format!("ws://{}{}", self.address, posthorn_proto::PATH)
    }

    /// Host and port, for what is not WebSocket.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The relay's data folder.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// An invite code to register with.
    pub fn invite(&self) -> &str {
        &self.invite
    }

    /// Copies the data folder of a relay that does not run.
    pub fn back_up(&self) -> anyhow::Result<TempDir> {
        anyhow::ensure!(self.running.is_none(), "only a relay that does not run is copied");
        let to = tempfile::tempdir()?;
        crate::faults::power::copy(self.data(), to.path())?;
        Ok(to)
    }

    /// Puts a copy in the place of the data, of which nothing is left, and tells the store so.
    pub async fn put_back(&mut self, backup: &TempDir) -> anyhow::Result<()> {
        anyhow::ensure!(self.running.is_none(), "only a relay that does not run gets other data");
        let data = tempfile::tempdir()?;
        crate::faults::power::copy(backup.path(), data.path())?;
        self.data = data;
        let mut restored = Command::new(&self.program.program);
        restored.args(&self.program.first).arg("restored").arg("--data").arg(self.data.path());
        let output = restored.output().await.context("`restored` does not start")?;
        anyhow::ensure!(output.status.success(), "restored: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Makes a bare connection.
    pub async fn connect(&self) -> anyhow::Result<Wire> {
        Wire::connect(&self.url()).await
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the relay does not run")?;
        running.child.kill().await.context("cannot kill the relay")
    }

    /// Sends SIGTERM, and waits until the process has ended by itself. Fails if it ends badly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let mut running = self.running.take().context("the relay does not run")?;
        let status = timeout(PATIENCE, running.child.wait()).await.context("the relay does not stop")??;
        anyhow::ensure!(status.success(), "the relay ended with {status}");
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = Pid::from_raw(i32::try_from(self.process_id()?)?).context("no process is number 0")?;
        rustix::process::kill_process(id, signal).with_context(|| format!("cannot send {signal:?}"))
    }

    /// Waits until the process ends by itself. Returns how it ended, and what it said.
    pub async fn ended(&mut self) -> anyhow::Result<(ExitStatus, String)> {
        let mut running = self.running.take().context("the relay does not run")?;
        let status = timeout(PATIENCE, running.child.wait()).await.context("the relay does not end")??;
        // Its output ends with it.
        while timeout(PATIENCE, running.readers.join_next())
            .await
            .context("the relay's output does not end")?
            .is_some()
        {}
        let said = running.said.lock().expect("nothing panics while it holds this lock").join("\n");
        Ok((status, said))
    }

    /// Fails unless the process still runs.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        let said = self.said();
        let running = self.running.as_mut().context("the relay was stopped")?;
        match running.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the relay ended with {status}:\n{said}"),
        }
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    /// Processor time that the process has used, in seconds.
    pub fn processor_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id()?))?;
        // The second field is the program's name in parentheses, which may hold spaces, so count behind it.
        let fields = stat.rsplit_once(") ").context("no name in stat")?.1;
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / 100.0)
    }

    /// Waits until the relay has printed this: that takes a moment, or it does so by itself.
    pub async fn says(&self, words: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.said().contains(words) {
            ensure!(begun.elapsed() < PATIENCE, "the relay does not say {words}:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What the relay has printed since it was started, for messages about failures.
    pub fn said(&self) -> String {
        let Some(running) = &self.running else { return String::new() };
        running.said.lock().expect("nothing panics while it holds this lock").join("\n")
    }

    fn process_id(&self) -> anyhow::Result<u32> {
        self.running.as_ref().and_then(|running| running.child.id()).context("the relay does not run")
    }
}

/// Reads to the end, so that the relay never blocks on a full pipe. Lines are passed on until nobody wants
/// any more.
async fn read(
    from: BufReader<impl tokio::io::AsyncRead + Unpin>,
    said: Arc<Mutex<Vec<String>>>,
    mut heard: Option<tokio::sync::mpsc::Sender<String>>,
) {
    let mut lines = from.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        {
            let mut said = said.lock().expect("nothing panics while it holds this lock");
            if said.len() < 1000 {
                said.push(line.clone());
            }
        }
        if let Some(sender) = &heard
            && sender.send(line).await.is_err()
        {
            heard = None;
        }
    }
}

/// The address in `... ws://127.0.0.1:4100 ...`, or with `wss`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let after = line.split("://").nth(1)?;
    after.split(['/', ' ', '"', ',']).next()?.parse().ok()
}

/// The code in `invite: CODE`.
fn invite_in(line: &str) -> Option<String> {
    line.strip_prefix("invite: ").map(str::to_owned)
}
