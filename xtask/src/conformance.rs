//! Conformance: suites that others wrote, against the relay's own code, and the relay's own against what
//! others wrote. `websocket` is Autobahn's, the suite by which WebSocket implementations are compared;
//! docs/testing.md has its result. `s3` is what every engine of parts promises, against a real S3 server.
//!
//! Autobahn's suite needs Python 2.7, which hardly a machine has any more: it is no part of CI, and whoever
//! has none is told what to install.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};

use crate::step::{cargo, target_directory};

/// The suite, by its name and version in the registry of Python's packages.
const SUITE: &str = "autobahntestsuite==25.10.1";
/// What starts Python 2.7 if it is not called so.
const PYTHON: &str = "POSTHORN_PYTHON2";

/// Which suite.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArguments {
    suite: Suite,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Suite {
    /// Autobahn's, against an echo on the relay's own decoder.
    Websocket,
    /// The relay's own for where parts of blobs lie, against SeaweedFS, which pip fetches.
    S3,
}

/// What came of a suite.
pub(crate) enum Outcome {
    /// It was played, and so many cases failed.
    Played(usize),
    /// It cannot be played here, for want of this.
    Missing(String),
}

/// Plays the suite. The last line is `N passed, M failed`.
pub(crate) fn run(arguments: &ConformanceArguments) -> anyhow::Result<Outcome> {
    match arguments.suite {
        Suite::Websocket => websocket(),
        Suite::S3 => s3(),
    }
}

/// Starts a server and plays what the relay's tests have for it.
pub(crate) fn s3() -> anyhow::Result<Outcome> {
    // The whole workspace, as CI builds it: with S3.
    let mut build = cargo("build --quiet --workspace --bin test-s3");
    ensure!(build.status()?.success(), "the server's starter does not build");
    let server = Server::start(&target_directory()?.join("debug/test-s3"))?;
    let mut tests = cargo("test --workspace --lib -- parts:: --include-ignored");
    let status = tests.env("POSTHORN_TEST_S3", &server.told).status()?;
    println!("{}", if status.success() { "1 passed, 0 failed" } else { "0 passed, 1 failed" });
    Ok(Outcome::Played(usize::from(!status.success())))
}

/// Builds the echo, plays the suite, and prints its table.
fn websocket() -> anyhow::Result<Outcome> {
    let Some(python) = python() else {
        return Ok(Outcome::Missing(format!(
            "Autobahn's suite needs Python 2.7 with pip: install it (such as by `pyenv install 2.7.18`), and name it in \
             {PYTHON} if it is not called python2"
        )));
    };
    let target = target_directory()?;
    let folder = target.join("conformance");
    let site = install(&python, &folder)?;
    let mut build = cargo("build --quiet --package posthorn-server --example websocket_echo");
    ensure!(build.status()?.success(), "the echo does not build");
    let echo = Server::start(&target.join("debug/examples/websocket_echo"))?;
    let reports = folder.join("reports");
    if reports.exists() {
        std::fs::remove_dir_all(&reports).context("the former reports cannot be removed")?;
    }
    play(&python, &site, &reports, &echo.told)?;
    tell(&reports)
}

/// How Python 2.7 is called here.
fn python() -> Option<String> {
    let names = std::env::var(PYTHON).ok().into_iter().chain(["python2.7", "python2"].map(str::to_owned));
    names.into_iter().find(|name| {
        let mut asked = Command::new(name);
        asked.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok_and(|status| status.success())
    })
}

/// Puts the suite into a folder of its own, unless it is there.
fn install(python: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    let site = folder.join(SUITE);
    if !site.join("bin/wstest").exists() {
        std::fs::create_dir_all(&site)?;
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(&site)
            .arg(SUITE);
        ensure!(pip.status()?.success(), "pip does not install {SUITE}");
    }
    // A namespace that only an installation into the system would make a package.
    std::fs::write(site.join("zope/__init__.py"), "")?;
    Ok(site)
}

fn play(python: &str, site: &Path, reports: &Path, address: &str) -> anyhow::Result<()> {
    let plan = serde_json::json!({
        "outdir": reports,
        "servers": [{"agent": "posthorn", "url": format!("ws://{address}")}],
        "cases": ["*"],
        // Compression, which the relay does not offer.
        "exclude-cases": ["12.*", "13.*"],
        "exclude-agent-cases": {},
    });
    let file = site.with_file_name("plan.json");
    std::fs::write(&file, plan.to_string())?;
    let mut suite = Command::new(python);
    suite.arg(site.join("bin/wstest")).args(["-m", "fuzzingclient", "-s"]).arg(&file);
    let status = suite.env("PYTHONPATH", site).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the suite ended with {status}");
    Ok(())
}

/// Prints how many cases of each group came out how, and every one that is not plainly good.
fn tell(reports: &Path) -> anyhow::Result<Outcome> {
    let text = std::fs::read_to_string(reports.join("index.json")).context("the suite reports nothing")?;
    let index: serde_json::Value = serde_json::from_str(&text)?;
    let cases = index["posthorn"].as_object().context("the suite reports nothing about the relay")?;
    let mut groups: BTreeMap<u32, BTreeMap<String, usize>> = BTreeMap::new();
    let (mut passed, mut failed) = (0, 0);
    for (case, told) in cases {
        let word = |key: &str| told[key].as_str().unwrap_or("?").to_owned();
        let (behaviour, closing) = (word("behavior"), word("behaviorClose"));
        let is_good = |word: &str| matches!(word, "OK" | "NON-STRICT" | "INFORMATIONAL");
        if is_good(&behaviour) && is_good(&closing) {
            passed += 1;
        } else {
            failed += 1;
        }
        if behaviour != "OK" || closing != "OK" {
            println!("{case}: {behaviour}, closing {closing}");
        }
        let group = case.split('.').next().and_then(|group| group.parse().ok()).unwrap_or(0);
        *groups.entry(group).or_default().entry(behaviour).or_default() += 1;
    }
    for (group, words) in groups {
        let words: Vec<String> = words.iter().map(|(word, count)| format!("{count} {word}")).collect();
        println!("{group:>3}: {}", words.join(", "));
    }
    println!("{passed} passed, {failed} failed");
    Ok(Outcome::Played(failed))
}

/// A server that says in one line where it listens, and ends when its standard input does.
struct Server {
    child: Child,
    told: String,
}

impl Server {
    fn start(program: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("stdout is piped")?;
        BufReader::new(out).read_line(&mut line)?;
        if line.trim().is_empty() {
            bail!("{} does not listen", program.display());
        }
        Ok(Self { child, told: line.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may have ended by itself.
        let _ = self.child.wait();
    }
}
