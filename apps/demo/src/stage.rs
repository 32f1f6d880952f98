//! The processes of the tour: the relays, and a process for each thing that a person does. Every
//! process is ended by its own handle, and none outlives the stage.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::report::line;

/// Everybody's passphrase.
const PASSPHRASE: &str = "a passphrase for the tour";
/// Accounts that the relay's invite makes: more than there are people.
const ACCOUNTS: &str = "16";
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
/// At another relay than the five.
pub(super) const FELIX: Person = Person("felix");
pub(super) const EVERYBODY: [Person; 5] = [ANNA, BORIS, CLARA, DAVID, ELENA];

/// A relay of the tour: the one of the five, and another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    First,
    Other,
}

/// Where a relay is.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) url: String,
    pub(super) invite: String,
    pub(super) port: u16,
}

/// The folder, and the relays that run.
pub(super) struct Stage {
    folder: TempDir,
    posthorn: PathBuf,
    server: PathBuf,
    relays: Mutex<BTreeMap<Which, Child>>,
}

impl Stage {
    pub(super) fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("posthorn-demo-")
            .tempdir()
            .map_err(|error| format!("no temporary folder can be made: {error}"))?;
        let (posthorn, server) = (beside("posthorn")?, beside("posthorn-server")?);
        Ok(Self { folder, posthorn, server, relays: Mutex::default() })
    }

    /// A relay's data.
    pub(super) fn data_of(&self, which: Which) -> PathBuf {
        self.folder.path().join(match which {
            Which::First => "relay",
            Which::Other => "other-relay",
        })
    }

    /// A person's profile.
    pub(super) fn home(&self, person: Person) -> PathBuf {
        self.folder.path().join(person.0)
    }

    /// Makes a person's profile, so that `register` finds one whose passphrase is cheap to check.
    pub(super) fn prepare(&self, person: Person) -> Result<(), Failure> {
        let (home, mut rng) = (self.home(person), StdRng::from_os_rng());
        let failed = |error: &dyn std::fmt::Display| format!("{}'s profile: {error}", person.0);
        std::fs::create_dir_all(&home).map_err(|error| failed(&error))?;
        let file = home.join("posthorn.db");
        let passphrase = Passphrase::new(PASSPHRASE);
        Database::create(Location::File(&file), &passphrase, KdfCost::CHEAP, &mut rng)
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Starts a relay on a port (0 = a free one), and waits until it listens.
    pub(super) async fn start_relay(&self, which: Which, port: u16) -> Result<Address, Failure> {
        let mut command = quiet(&self.server);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--print-invite", ACCOUNTS]);
        command.args(["--log-level", "error", "--data"]).arg(self.data_of(which));
        let mut child = command.spawn().map_err(|error| format!("the relay cannot be started: {error}"))?;
        let output = child.stdout.take().ok_or("the relay has no output")?;
        match tokio::time::timeout(LONGEST, address(BufReader::new(output).lines())).await {
            Ok(Some(address)) => {
                self.relays.lock().await.insert(which, child);
                Ok(address)
            }
            _ => Err(format!("the relay did not start: {}", errors_of(child).await)),
        }
    }

    /// Ends a relay without a warning, as a power cut or the kernel would.
    pub(super) async fn kill_relay(&self, which: Which) -> Result<(), Failure> {
        match self.relays.lock().await.remove(&which) {
            Some(mut relay) => {
                relay.kill().await.map_err(|error| format!("the relay cannot be killed: {error}"))
            }
            None => Err("there is no relay to kill".to_owned()),
        }
    }

    fn copy_of(&self, which: Which) -> PathBuf {
        self.data_of(which).with_extension("copy")
    }

    /// Copies the data of a relay that does not run.
    pub(super) fn copy_relay(&self, which: Which) -> Result<(), Failure> {
        copy(&self.data_of(which), &self.copy_of(which))
    }

    /// Puts the copy in the place of what is there.
    pub(super) fn put_back_relay(&self, which: Which) -> Result<(), Failure> {
        remove(&self.data_of(which))?;
        copy(&self.copy_of(which), &self.data_of(which))
    }

    /// Removes a person's profile.
    pub(super) fn lose_profile(&self, person: Person) -> Result<(), Failure> {
        remove(&self.home(person))
    }

    /// Removes everything.
    pub(super) async fn strike(self) {
        for (_, mut relay) in self.relays.into_inner() {
            let _ = relay.kill().await;
        }
        let path = self.folder.path().to_owned();
        if let Err(error) = self.folder.close() {
            line(&format!("The folder {} could not be removed: {error}", path.display()));
        }
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
        let mut command = quiet(&self.posthorn);
        command.env("POSTHORN_HOME", self.home(person)).env("POSTHORN_PASSPHRASE", PASSPHRASE);
        command.args(arguments).arg("--json");
        command.spawn().map_err(|error| format!("{} cannot be started: {error}", person.0))
    }

    /// Starts a command that goes on beside others.
    pub(super) fn begin(&self, person: Person, arguments: &[&str]) -> Result<Running, Failure> {
        let mut child = self.spawn(person, arguments)?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no standard output")?;
        Ok(Running { person, child, input, output: Some(BufReader::new(output).lines()) })
    }
}

fn remove(folder: &Path) -> Result<(), Failure> {
    std::fs::remove_dir_all(folder)
        .map_err(|error| format!("{} cannot be removed: {error}", folder.display()))
}

/// Copies the files of a folder. A relay that was killed leaves its socket there, too.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let copied = || -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                copy(&from, &to).map_err(std::io::Error::other)?;
            } else if kind.is_file() {
                std::fs::copy(&from, &to)?;
            }
        }
        Ok(())
    };
    copied().map_err(|error| format!("{} cannot be copied: {error}", from.display()))
}

/// A program that must lie where this one does.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let program = here.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    match program.is_file() {
        true => Ok(program),
        false => {
            Err(format!("{} is missing: `cargo build --release` makes all three programs", program.display()))
        }
    }
}

/// A process whose streams are ours, that is not configured from outside, and that ends with its handle.
fn quiet(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("POSTHORN")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What the relay tells on its standard output when it is ready; `None` if it ends before.
async fn address(mut lines: Lines<BufReader<ChildStdout>>) -> Option<Address> {
    let (mut place, mut invite) = (None, None);
    while let Some(line) = lines.next_line().await.ok()? {
        if let Some((_, rest)) = line.split_once("ws://") {
            place = rest.split('/').next().and_then(|text| text.parse::<SocketAddr>().ok());
        }
        invite = line.strip_prefix("invite: ").map(str::to_owned).or(invite);
        if let (Some(place), Some(invite)) = (place, &invite) {
            return Some(Address {
                url: format!("ws://{place}"),
                invite: invite.clone(),
                port: place.port(),
            });
        }
    }
    None
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
    output: Option<Lines<BufReader<ChildStdout>>>,
}

impl Running {
    /// Its standard input, to be written beside reading what it prints. Dropping it ends the input.
    pub(super) fn take_input(&mut self) -> Result<ChildStdin, Failure> {
        self.input.take().ok_or_else(|| "its input is closed".to_owned())
    }

    /// What it prints, to be read beside it.
    pub(super) fn take_output(&mut self) -> Result<Lines<BufReader<ChildStdout>>, Failure> {
        self.output.take().ok_or_else(|| "its output is taken".to_owned())
    }

    /// The next object that it prints; `None` when it has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let output = self.output.as_mut().ok_or("its output is taken")?;
        let line = tokio::time::timeout(LONGEST, output.next_line())
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
