//! `demo`: starts the tour, which is a program of its own (`posthorn-demo`), so that nobody's client carries
//! a relay.
//!
//! It and the relay lie beside this program. Whoever built only this one with cargo has them built first:
//! `cargo run --bin posthorn -- demo` is all that one needs to type.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::problem::Problem;

/// The tour, and the relay that it starts.
const PROGRAMS: [&str; 2] = ["posthorn-demo", "posthorn-server"];

/// Runs the tour in the place of this program.
pub(crate) fn run() -> Result<ExitCode, Problem> {
    let here = std::env::current_exe().map_err(|error| problem(format!("where is this program? {error}")))?;
    let there = |name: &str| here.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let missing = PROGRAMS.iter().any(|name| !there(name).is_file());
    let by_cargo = by_cargo();
    // Whom `cargo run` started may have changed something since the others were built: cargo knows.
    if missing || by_cargo.is_some() {
        match target(&here, by_cargo) {
            Some(target) => target.build(missing)?,
            None if missing => {
                let [demo, server] = PROGRAMS;
                let folder = here.parent().unwrap_or(Path::new(".")).display();
                return Err(problem(format!(
                    "the tour needs {demo} and {server} in {folder}: put them there"
                )));
            }
            None => {}
        }
    }
    start(&there(PROGRAMS[0]))
}

fn problem(message: String) -> Problem {
    Problem::new("DEMO", message)
}

/// Where this program's package lies, if `cargo run` started it.
fn by_cargo() -> Option<PathBuf> {
    let ours = std::env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == env!("CARGO_PKG_NAME"));
    std::env::var_os("CARGO_MANIFEST_DIR").filter(|_| ours).map(PathBuf::from)
}

/// Where cargo built this program, and how.
struct Target {
    /// `release`, `dev`, or a profile of one's own.
    profile: String,
    /// In the checkout: where cargo is to be started.
    checkout: PathBuf,
}

/// Recognizes cargo's folder by the tag that it puts into it. The checkout is where the package lies, or
/// above that folder.
fn target(program: &Path, package: Option<PathBuf>) -> Option<Target> {
    let folder = program.parent()?;
    let target = folder.parent()?;
    if !target.join("CACHEDIR.TAG").is_file() {
        return None;
    }
    let profile = match folder.file_name()?.to_str()? {
        "debug" => "dev",
        name => name,
    };
    let checkout = package.or_else(|| target.parent().map(Path::to_owned))?;
    checkout.join("Cargo.toml").is_file().then(|| Target { profile: profile.to_owned(), checkout })
}

impl Target {
    /// Builds what is not up to date, of the packages that cargo builds if none is named: with others, it
    /// would build what they share anew.
    fn build(&self, aloud: bool) -> Result<(), Problem> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--profile", &self.profile]).current_dir(&self.checkout);
        command.args((!aloud).then_some("--quiet")).args(["--package", env!("CARGO_PKG_NAME")]);
        command.args(PROGRAMS.iter().flat_map(|name| ["--package", name, "--bin", name]));
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(problem(format!("the tour could not be built: cargo ended with {status}"))),
            Err(error) => {
                Err(problem(format!("the tour is not built, and cargo cannot be started: {error}")))
            }
        }
    }
}

/// The tour takes this program's place, so that signals and the exit status are its own.
#[cfg(unix)]
fn start(program: &Path) -> Result<ExitCode, Problem> {
    use std::os::unix::process::CommandExt as _;
    let error = Command::new(program).exec();
    Err(problem(format!("{} cannot be started: {error}", program.display())))
}

/// Here no program takes another's place.
#[cfg(not(unix))]
fn start(program: &Path) -> Result<ExitCode, Problem> {
    let status = Command::new(program).status();
    let status =
        status.map_err(|error| problem(format!("{} cannot be started: {error}", program.display())))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cargo_built_is_built_by_cargo() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("target/debug/posthorn");
        assert!(target(&program, None).is_none(), "installed somewhere");
        std::fs::create_dir_all(folder.path().join("target")).expect("a folder");
        std::fs::write(folder.path().join("target/CACHEDIR.TAG"), "").expect("a file");
        std::fs::write(folder.path().join("Cargo.toml"), "").expect("a file");
        assert_eq!(target(&program, None).map(|target| target.profile).as_deref(), Some("dev"));
        let release = folder.path().join("target/release/posthorn");
        assert_eq!(target(&release, None).map(|target| target.profile).as_deref(), Some("release"));
    }
}
