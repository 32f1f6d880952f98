//! The processes of the tour: one relay at a time, and a process for each thing that a person does. Every
//! process is ended by its own handle, and none outlives the stage.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::profile::CHEAP_VARIABLE;

/// Nothing in the tour takes as long as this.
const LONGEST: Duration = Duration::from_secs(60);

/// What went wrong, in words. The tour has one audience.
pub(super) type Failure = String;

/// Somebody in the tour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Person(pub(super) &'static str);

pub(super) const ANNA: Person = Person("anna");
pub(super) const BORIS: Person = Person("boris");
pub(super) const CLARA: Person = Person("clara");
pub(super) const DAVID: Person = Person("david");
pub(super) const ELENA: Person = Person("elena");
pub(super) const EVERYBODY: [Person; 5] = [ANNA, BORIS, CLARA, DAVID, ELENA];

/// Where the relay is.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) url: String,
    pub(super) invite: String,
    pub(super) port: u16,
}

/// The folder and the relay.
pub(super) struct Stage {
    folder: TempDir,
    program: PathBuf,
    relay: Mutex<Option<Child>>,
}

impl Stage {
    pub(super) fn new() -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("posthorn-demo-").tempdir()?;
        Ok(Self { folder, program: std::env::current_exe()?, relay: Mutex::new(None) })
    }

    /// The relay's data.
    pub(super) fn relay_data(&self) -> PathBuf {
        self.folder.path().join("relay")
    }

    /// A person's profile.
    pub(super) fn home(&self, person: Person) -> PathBuf {
        self.folder.path().join(person.0)
    }

    /// Starts the relay on a port (0 = a free one), and waits until it listens.
    pub(super) async fn start_relay(&self, port: u16) -> Result<Address, Failure> {
        let mut command = self.command(&self.relay_data());
        command.args(["demo-relay", "--port", &port.to_string(), "--data"]).arg(self.relay_data());
        let mut child = command.spawn().map_err(|error| format!("the relay cannot be started: {error}"))?;
        let output = child.stdout.take().ok_or("the relay has no output")?;
        let first = tokio::time::timeout(LONGEST, BufReader::new(output).lines().next_line()).await;
        let Ok(Ok(Some(first))) = first else {
            return Err(format!("the relay did not start: {}", errors_of(child).await));
        };
        let value: Value = serde_json::from_str(&first).map_err(|_| format!("the relay said: {first}"))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let port = value["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        *self.relay.lock().await = Some(child);
        Ok(Address { url: text("url"), invite: text("invite"), port })
    }

    /// Ends the relay without a warning, as a power cut or the kernel would.
    pub(super) async fn kill_relay(&self) -> Result<(), Failure> {
        match self.relay.lock().await.take() {
            Some(mut relay) => {
                relay.kill().await.map_err(|error| format!("the relay cannot be killed: {error}"))
            }
            None => Err("there is no relay to kill".to_owned()),
        }
    }

    /// Removes everything.
    pub(super) async fn strike(self) {
        if let Some(mut relay) = self.relay.into_inner() {
            let _ = relay.kill().await;
        }
        let path = self.folder.path().to_owned();
        if let Err(error) = self.folder.close() {
            crate::print::line(&format!("The folder {} could not be removed: {error}", path.display()));
        }
    }

    fn command(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("POSTHORN_HOME", home)
            .env("POSTHORN_PASSPHRASE", "a passphrase for the tour")
            .env(CHEAP_VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command of a person to its end; returns the objects that it printed.
    pub(super) async fn run(&self, person: Person, arguments: &[&str]) -> Result<Vec<Value>, Failure> {
        self.run_with_input(person, arguments, "").await
    }

    /// The same, with something on standard input.
    pub(super) async fn run_with_input(
        &self,
        person: Person,
        arguments: &[&str],
        input: &str,
    ) -> Result<Vec<Value>, Failure> {
        let what = || format!("{}: posthorn {}", person.0, arguments.first().unwrap_or(&""));
        let mut child = self.spawn(person, arguments)?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let written = input.to_owned();
        let feeding = async move {
            // A command that does not read its input ends before it is written.
            let _ = stdin.write_all(written.as_bytes()).await;
        };
        let waiting = async { tokio::join!(feeding, child.wait_with_output()).1 };
        let output = tokio::time::timeout(LONGEST, waiting)
            .await
            .map_err(|_| format!("{} took longer than {} s", what(), LONGEST.as_secs()))?
            .map_err(|error| format!("{}: {error}", what()))?;
        if !output.status.success() {
            return Err(format!("{} said: {}", what(), String::from_utf8_lossy(&output.stderr).trim()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(|line| parse(&what(), line)).collect()
    }

    /// Runs the same command for several people at once.
    pub(super) async fn run_all(
        &self,
        people: &[Person],
        arguments: &[&str],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        futures_util::future::try_join_all(people.iter().map(|person| self.run(*person, arguments))).await
    }

    fn spawn(&self, person: Person, arguments: &[&str]) -> Result<Child, Failure> {
        let mut command = self.command(&self.home(person));
        command.args(arguments).arg("--json");
        command.spawn().map_err(|error| format!("{} cannot be started: {error}", person.0))
    }

    /// Starts a command that goes on beside others.
    pub(super) fn begin(&self, person: Person, arguments: &[&str]) -> Result<Running, Failure> {
        let mut child = self.spawn(person, arguments)?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no standard output")?;
        Ok(Running { person, child, input, output: BufReader::new(output).lines() })
    }
}

fn parse(what: &str, line: &str) -> Result<Value, Failure> {
    serde_json::from_str(line).map_err(|_| format!("{what} printed something that is not JSON: {line}"))
}

async fn errors_of(child: Child) -> String {
    match tokio::time::timeout(Duration::from_secs(2), child.wait_with_output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        _ => "it says nothing".to_owned(),
    }
}

/// A command under way.
pub(super) struct Running {
    person: Person,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Its standard input, to be written beside reading what it prints. Dropping it ends the input.
    pub(super) fn take_input(&mut self) -> Result<ChildStdin, Failure> {
        self.input.take().ok_or_else(|| "its input is closed".to_owned())
    }

    /// The next object that it prints; `None` when it has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let line = tokio::time::timeout(LONGEST, self.output.next_line())
            .await
            .map_err(|_| format!("{} printed nothing for {} s", self.person.0, LONGEST.as_secs()))?
            .map_err(|error| format!("{}: {error}", self.person.0))?;
        line.map(|line| parse(self.person.0, &line)).transpose()
    }

    /// Waits for its end; an error if it failed.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        let output = tokio::time::timeout(LONGEST, self.child.wait_with_output())
            .await
            .map_err(|_| format!("{} did not end", self.person.0))?
            .map_err(|error| format!("{}: {error}", self.person.0))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                Err(format!("{} said: {}", self.person.0, String::from_utf8_lossy(&output.stderr).trim()))
            }
        }
    }

    /// Ends it without a warning.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| format!("{} cannot be killed: {error}", self.person.0))
    }
}
