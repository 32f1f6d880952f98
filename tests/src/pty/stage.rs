//! What a case plays on: a relay, people with profiles of their own, and the terminals that they sit at.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::Context as _;
use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tempfile::TempDir;
use tokio::time::timeout;

use super::terminal::{Answers, Key, Terminal, View};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

/// Everybody's.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// The programs that are tried.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `posthorn`.
    pub posthorn: PathBuf,
    /// The relay.
    pub relay: PathBuf,
}

/// Somebody with a home folder that nobody else uses.
pub struct Person {
    /// The handle.
    pub name: &'static str,
    folder: TempDir,
    posthorn: PathBuf,
}

impl Person {
    /// The folder of the profile.
    pub fn profile(&self) -> PathBuf {
        self.folder.path().join("profile")
    }

    /// What the folder of the profile holds: names of files.
    pub fn files(&self) -> anyhow::Result<Vec<String>> {
        let entries = std::fs::read_dir(self.profile())?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// Fails unless the profile was closed properly: nothing of deleted keys lies in a log.
    pub fn is_closed(&self) -> anyhow::Result<()> {
        let files = self.files()?;
        let left: Vec<_> =
            files.iter().filter(|name| name.contains("-wal") || name.contains("-shm")).collect();
        anyhow::ensure!(left.is_empty(), "{}'s profile was not closed: {left:?} is left", self.name);
        Ok(())
    }

    fn environment(&self) -> [(&'static str, std::ffi::OsString); 6] {
        [
            ("PATH", std::env::var_os("PATH").unwrap_or_default()),
            ("HOME", self.folder.path().into()),
            ("POSTHORN_HOME", self.profile().into()),
            ("TERM", "xterm-256color".into()),
            ("LANG", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
        ]
    }

    /// Runs `posthorn` without a terminal, to its end.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::new(&self.posthorn);
        command.env_clear().envs(self.environment()).env("POSTHORN_PASSPHRASE", PASSPHRASE);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        timeout(PATIENCE, command.output())
            .await
            .with_context(|| format!("posthorn {arguments:?} does not end"))?
            .context("posthorn does not start")
    }

    /// The same, which must go well; what it printed.
    pub async fn good(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "posthorn {arguments:?}, {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// An empty profile whose passphrase is cheap to check, for cases that are not about that.
    fn prepare(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.profile())?;
        let file = self.profile().join("posthorn.db");
        let passphrase = Passphrase::new(PASSPHRASE);
        Database::create(
            Location::File(&file),
            &passphrase,
            KdfCost::CHEAP,
            &mut ChaCha20Rng::from_os_rng(),
        )?;
        Ok(())
    }
}

/// The relay, and every screen that there was.
pub struct Stage {
    programs: Programs,
    /// The relay.
    pub relay: RelayProcess,
    views: Vec<View>,
}

impl Stage {
    /// A relay with an empty store.
    pub async fn set(programs: &Programs) -> anyhow::Result<Self> {
        let relay = RelayProcess::start(&RelayProgram::new(&programs.relay), &[]).await?;
        Ok(Self { programs: programs.clone(), relay, views: Vec::new() })
    }

    /// What is tried.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// All screens, for the report of a failure.
    pub fn screens(&self) -> String {
        self.views.iter().map(View::framed).collect()
    }

    /// Somebody new, without a profile.
    pub fn person(&self, name: &'static str) -> anyhow::Result<Person> {
        Ok(Person { name, folder: tempfile::tempdir()?, posthorn: self.programs.posthorn.clone() })
    }

    /// Somebody who has an account.
    pub async fn registered(&self, name: &'static str) -> anyhow::Result<Person> {
        self.registered_at(&self.relay, name).await
    }

    /// Somebody who has an account at this relay.
    pub async fn registered_at(&self, at: &RelayProcess, name: &'static str) -> anyhow::Result<Person> {
        let person = self.person(name)?;
        person.prepare()?;
        let (relay, invite) = (at.client_url(), at.invite());
        person.good(&["register", "--relay", &relay, "--handle", name, "--invite", invite]).await?;
        Ok(person)
    }

    /// Another relay with an empty store.
    pub async fn another_relay(&self) -> anyhow::Result<RelayProcess> {
        RelayProcess::start(&RelayProgram::new(&self.programs.relay), &[]).await
    }

    /// Somebody runs `posthorn` in a terminal that answers, and need not type the passphrase.
    pub fn posthorn(&mut self, person: &Person, arguments: &[&str]) -> anyhow::Result<Terminal> {
        self.posthorn_in(Answers::AtOnce, person, arguments)
    }

    /// The same, in such a terminal.
    pub fn posthorn_in(
        &mut self,
        answers: Answers,
        person: &Person,
        arguments: &[&str],
    ) -> anyhow::Result<Terminal> {
        let command = self.command(&person.posthorn, person).args(arguments);
        self.open(person.name, command.env("POSTHORN_PASSPHRASE", PASSPHRASE), answers)
    }

    /// Somebody runs a program in a terminal.
    pub fn run(&mut self, person: &Person, program: &Path, arguments: &[&str]) -> anyhow::Result<Terminal> {
        let command = self.command(program, person).args(arguments);
        self.open(person.name, command, Answers::AtOnce)
    }

    fn command(&self, program: &Path, person: &Person) -> pty_process::Command {
        pty_process::Command::new(program).env_clear().envs(person.environment())
    }

    fn open(
        &mut self,
        name: &str,
        command: pty_process::Command,
        answers: Answers,
    ) -> anyhow::Result<Terminal> {
        let terminal = Terminal::start(name, command, answers)?;
        self.views.push(terminal.view());
        Ok(terminal)
    }

    /// Two people, each in a chat, in a conversation that the second began.
    pub async fn conversation(&mut self) -> anyhow::Result<[(Person, Terminal); 2]> {
        let (alice, bob) = (self.registered("alice").await?, self.registered("bob").await?);
        bob.good(&["start", "alice"]).await?;
        let alices = self.posthorn(&alice, &["chat"])?;
        let bobs = self.posthorn(&bob, &["chat"])?;
        join(&alices, "bob").await?;
        bobs.wait_for(WRITE).await?;
        Ok([(alice, alices), (bob, bobs)])
    }
}

/// What the input says where something can be written to somebody.
pub const WRITE: &str = "Write a message, or /help";

/// The steps by which somebody who was invited in a chat gets to where they can write: all of them are here.
pub async fn join(terminal: &Terminal, from: &str) -> anyhow::Result<()> {
    terminal.wait_for(&format!("{from} invites you to a conversation")).await?;
    command(terminal, "/accept").await?;
    terminal.wait_for(&format!("{from} invited you")).await?;
    terminal.wait_for(WRITE).await
}

/// Types a command in a chat, as slowly as people do.
pub async fn command(terminal: &Terminal, text: &str) -> anyhow::Result<()> {
    terminal.type_slowly(text).await?;
    terminal.wait_for(&format!("> {text}")).await?;
    terminal.press(Key::Enter).await
}

/// Writes a message in a chat, and waits until it left the input.
pub async fn say(terminal: &Terminal, text: &str) -> anyhow::Result<()> {
    terminal.paste(text).await?;
    terminal.press(Key::Enter).await?;
    terminal.wait_for(WRITE).await
}

/// Writes something where nothing can be said yet: it stays in the input, and is then deleted.
pub async fn say_nothing(terminal: &Terminal, text: &str) -> anyhow::Result<()> {
    terminal.paste(text).await?;
    terminal.press(Key::Enter).await?;
    terminal.wait_for("answer the invitation first").await?;
    terminal.wait_for(&format!("> {text}")).await?;
    terminal.press(Key::Ctrl('u')).await?;
    terminal.wait_for("> /accept, /decline or /block").await
}
