//! The steps of `cargo xtask ci`, in the order in which they fail soonest.
//!
//! Everything that runs is built once, by one `cargo build --workspace --all-targets` in the dev profile
//! (dependencies optimized): the tests, the terminals, the simulation and the demo share its artifacts, which
//! keeps a cold run on two cores short.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::conformance::{self, Outcome};
use crate::face::{self, FaceArguments};
use crate::pty;
use crate::sim::SimArguments;
use crate::step::{Steps, cargo, root, target_directory};
use crate::tidy;

const WASM: &str = "wasm32-unknown-unknown";
/// What is simulated, by the name of its step: the profile, and how many seeds.
const SIMULATIONS: [(&str, &str, u64); 4] = [
    ("simulation", "plain", 40),
    ("siege", "hostile", 40),
    ("repair", "repair", 16),
    ("relay-gone", "gone", 6),
];

/// Runs all steps or, if `quick`, those that a developer waits for before each commit.
pub(crate) fn run(quick: bool) -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.run("format", "run `cargo fmt`", &mut cargo("fmt --all --check"))?;
    steps.run(
        "lints",
        "fix what clippy says; an exception needs `#[allow(..., reason = \"...\")]`",
        &mut cargo("clippy --workspace --all-targets -- -D warnings"),
    )?;
    steps.run(
        "lints of the relay as it is shipped",
        "the workspace's tests switch its features on: fix what is only there without them",
        &mut cargo("clippy --package posthorn-server --all-targets -- -D warnings"),
    )?;
    steps.run("build", "make it compile", &mut cargo("build --workspace --all-targets"))?;
    steps.call("tidy", "each line above names the rule and the place", tidy::run)?;
    steps.run(
        "tests",
        "run the failing test alone: `cargo test --package <crate> <name>`",
        &mut cargo("test --workspace"),
    )?;
    if !quick {
        thorough(&mut steps)?;
    }
    steps.summary();
    Ok(())
}

fn thorough(steps: &mut Steps) -> anyhow::Result<()> {
    steps.run(
        "docs",
        "fix the doc comment that rustdoc names",
        cargo("doc --workspace --no-deps --document-private-items --quiet")
            .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links --cfg inside"),
    )?;
    steps.call(
        "face",
        "if apps are meant to see these changes: `cargo xtask face --write`, and commit the list with them",
        || face::run(&FaceArguments { write: false }),
    )?;
    steps.call("wasm tools", "install rustup's wasm target and clang by hand, then run again", wasm_tools)?;
    steps.call(
        "proxies and browsers",
        "install nginx, haproxy, chromium and firefox-esr by hand, then run again",
        neighbours,
    )?;
    steps.call("s3", "run it alone: `cargo xtask conformance s3`", || match conformance::s3()? {
        Outcome::Played(0) => Ok(()),
        _ => bail!("the tests above failed"),
    })?;
    let mut wasm =
        cargo("build --package posthorn-proto --package posthorn-client --no-default-features --target");
    // The result is never run, and optimizing it would be the longest part of the step.
    wasm.arg(WASM).args(["--config", "profile.dev.package.\"*\".opt-level=0"]);
    steps.run(
        "wasm",
        "the client's core must build without threads, clock or sockets: put those behind `native`",
        &mut wasm,
    )?;

    steps.run(
        "terminals",
        "play the case that failed alone: `cargo xtask pty <words of its name>`; the screens are above",
        &mut pty::cases(None)?,
    )?;
    let built = target_directory()?.join("debug");
    steps.run(
        "drill",
        "play one alone: `cargo xtask drill move` or `restore`",
        Command::new(built.join("drill")).current_dir(root()),
    )?;
    for (name, profile, seeds) in SIMULATIONS {
        let (profile, rounds) = (profile.to_owned(), 40);
        let seeds = SimArguments { seeds, seed: None, rounds, profile, helpless: false };
        let mut sim = Command::new(built.join("sim"));
        steps.run(
            name,
            &format!(
                "replay the seed that it printed: `cargo xtask sim --seeds 1 --seed <seed> --profile {}`",
                seeds.profile
            ),
            seeds.give(&mut sim).current_dir(root()),
        )?;
    }
    steps.run(
        "faults",
        "run the program that failed alone, with the seed that it printed: `cargo xtask faults <program> --seed <seed>`",
        Command::new(built.join("faults")).args(["kill", "power", "descriptors", "memory", "corrupt", "blobs", "proxy", "browser", "soak"]).current_dir(root()),
    )?;
    let mut demo = Command::new(built.join("posthorn"));
    steps.run(
        "demo",
        "run `cargo run --release --bin posthorn -- demo` and read its table",
        demo.arg("demo").current_dir(root()),
    )
}

/// Makes sure that there are a C compiler for WebAssembly (SQLite is C) and the target's standard library.
fn wasm_tools() -> anyhow::Result<()> {
    let installed =
        Command::new("rustup").args(["target", "list", "--installed"]).current_dir(root()).output();
    let installed = installed.context("rustup does not start")?;
    if !String::from_utf8_lossy(&installed.stdout).lines().any(|target| target == WASM) {
        must(Command::new("rustup").args(["target", "add", WASM]).current_dir(root()))?;
    }
    let clang = Command::new("clang").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !clang.is_ok_and(|status| status.success()) {
        must(Command::new("apt-get").args(["update", "-qq"]))?;
        must(Command::new("apt-get").args(["install", "-y", "-qq", "clang"]))?;
    }
    Ok(())
}

/// Makes sure that the proxies and browsers are there that `faults` puts before the relay.
fn neighbours() -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if ["nginx", "haproxy", "chromium", "firefox-esr"].into_iter().all(is_there) {
        return Ok(());
    }
    must(Command::new("apt-get").args(["update", "-qq"]))?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    let packages = ["nginx-light", "haproxy", "chromium", "firefox-esr"];
    // Debian starts what it installs; not at this run level.
    must(Command::new("apt-get").env("RUNLEVEL", "1").args(install).args(packages))
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
