//! A server process and what the kernel says about it: processor time, memory, bytes written.
//!
//! Owns the child: ends it by its id, at the latest on drop. Never reads what a server says about itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// How long a server may take to end by itself, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ticks per second in `/proc/<pid>/stat`, which is the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// A running server.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. What it prints goes to `log`, which is emptied first.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails, with what the process printed, if it has ended.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended with {status}: {}", self.said()),
        }
    }

    /// The end of what it printed.
    pub(crate) fn said(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, and waits until the process has ended by itself.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let id = Pid::from_raw(self.child.id().cast_signed()).context("a process has an id")?;
        kill_process(id, Signal::TERM)?;
        let begun = clock::now();
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "the server does not stop");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> anyhow::Result<String> {
        file(self.child.id(), name)
    }

    /// Processor time used so far, user and system, in seconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = self.file("stat")?;
        // The second field is the program's name in parentheses, which may hold spaces, so count behind it.
        let fields: Vec<&str> = stat.rsplit_once(") ").context("no name in stat")?.1.split(' ').collect();
        Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) as f64 / TICKS)
    }

    /// Bytes that it has caused to be written to disk (in whole pages, as the kernel counts).
    pub(crate) fn written(&self) -> anyhow::Result<u64> {
        number(&self.file("io")?, "write_bytes:")
    }

    /// Its calls of the system that write: to files, to sockets with several buffers, to wake threads. (What
    /// is sent to a socket from one buffer is not counted.)
    pub(crate) fn writes(&self) -> anyhow::Result<u64> {
        number(&self.file("io")?, "syscw:")
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.watch().memory()
    }

    /// Its resident memory, to be looked at while something else is done with the process.
    pub(crate) fn watch(&self) -> Watch {
        Watch { process: self.child.id() }
    }

    /// Resident memory at rest, bytes: once it has stayed the same within 1 % for a second, or else whatever
    /// it is after 10 s.
    pub(crate) async fn memory_at_rest(&self) -> anyhow::Result<u64> {
        let (mut memory, mut same) = (self.memory()?, 0);
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = self.memory()?;
            same = if now.abs_diff(memory) * 100 <= memory { same + 1 } else { 0 };
            if same == 4 {
                break;
            }
            memory = now;
        }
        self.memory()
    }

    /// The most resident memory that it has had, bytes.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        Ok(number(&self.file("status")?, "VmHWM:")? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind `name` at the beginning of a line.
/// The resident memory of a process.
pub(crate) struct Watch {
    process: u32,
}

impl Watch {
    fn memory(&self) -> anyhow::Result<u64> {
        Ok(number(&file(self.process, "status")?, "VmRSS:")? * 1024)
    }

    /// Does this work, and looks at the memory twice a second meanwhile: MiB.
    pub(crate) async fn during<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Vec<f64>)> {
        let mut every = tokio::time::interval(Duration::from_millis(500));
        let mut seen = Vec::new();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok((done?, seen)),
                _ = every.tick() => seen.push(self.memory()? as f64 / f64::from(1 << 20)),
            }
        }
    }
}

fn file(process: u32, name: &str) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{process}/{name}"))?)
}

fn number(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Raises this process's limit of open files as far as it may, which servers inherit. Returns the limit.
pub(crate) fn raise_file_limit() -> anyhow::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
