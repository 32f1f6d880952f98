//! Documents name what exists: paths and folders in ARCHITECTURE.md, links in every document, commands in the
//! ones that a newcomer types from.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::{Finding, TrackedFile};
use crate::step::{metadata, root, target_directory};

const MAP: &str = "ARCHITECTURE.md";
/// Documents whose commands are typed as they stand.
const TYPED: &[&str] = &["README.md", "CONTRIBUTING.md", "docs/testing.md"];

/// All rules on the documents.
pub(super) fn check(files: &[TrackedFile]) -> anyhow::Result<Vec<Finding>> {
    let paths = Paths::of(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let text = file.text.as_deref().unwrap_or_default();
        findings.extend(links(&file.path, text, &paths));
        if file.path == MAP {
            findings.extend(named_paths(text, &paths));
            findings.extend(unnamed_folders(text, &paths));
        }
        if TYPED.contains(&file.path.as_str()) {
            findings.extend(commands(&file.path, text, &Programs::read()?));
        }
    }
    for needed in std::iter::once(&MAP).chain(TYPED) {
        if !paths.files.contains(*needed) {
            findings.push(Finding::error(*needed, "is missing"));
        }
    }
    Ok(findings)
}

/// The files of the checkout and every folder that holds one.
#[derive(Debug, Default)]
struct Paths {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Paths {
    fn of(files: &[TrackedFile]) -> Self {
        let mut paths = Self::default();
        for file in files {
            let mut folder = file.path.as_str();
            while let Some((above, _)) = folder.rsplit_once('/') {
                paths.folders.insert(above.to_owned());
                folder = above;
            }
            paths.files.insert(file.path.clone());
        }
        paths
    }

    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.contains(path) || self.folders.contains(path)
    }
}

/// Every `path` in the map's text that has a slash or the ending of a source file.
fn named_paths(text: &str, paths: &Paths) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for name in line.split('`').skip(1).step_by(2) {
            let like_a_path = name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
                && (name.contains('/')
                    || [".rs", ".proto", ".md", ".toml", ".sql"].iter().any(|end| name.ends_with(end)));
            if like_a_path && !name.starts_with('/') && !paths.has(name) {
                findings.push(Finding::error(
                    format!("{MAP}:{}", number + 1),
                    format!("names `{name}`, which does not exist"),
                ));
            }
        }
    }
    findings
}

/// Every folder under a crate's `src` is named on the map.
fn unnamed_folders(text: &str, paths: &Paths) -> Vec<Finding> {
    let holds_code = |folder: &str| {
        paths.files.iter().any(|file| {
            file.ends_with(".rs") && file.rsplit_once('/').is_some_and(|(above, _)| above == folder)
        })
    };
    // Tests stand beside what they test: naming that names them.
    let in_tests = |folder: &str| {
        folder.split_once("/src/").is_some_and(|(_, below)| below.split('/').any(|part| part == "tests"))
    };
    let folders = paths.folders.iter().filter(|folder| format!("{folder}/").contains("/src/"));
    let folders = folders.filter(|folder| holds_code(folder) && !in_tests(folder));
    folders
        .filter(|folder| !text.contains(folder.as_str()))
        .map(|folder| Finding::error(MAP, format!("does not name the folder {folder}")))
        .collect()
}

/// Relative links lead to something.
fn links(document: &str, text: &str, paths: &Paths) -> Vec<Finding> {
    let above = document.rsplit_once('/').map_or("", |(above, _)| above);
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            let mut parts: Vec<&str> = above.split('/').filter(|part| !part.is_empty()).collect();
            for part in path.split('/') {
                match part {
                    ".." => drop(parts.pop()),
                    "." | "" => {}
                    part => parts.push(part),
                }
            }
            if !paths.has(&parts.join("/")) {
                findings.push(Finding::error(
                    format!("{document}:{}", number + 1),
                    format!("links to {path}, which does not exist"),
                ));
            }
        }
    }
    findings
}

/// What a document may tell a reader to run.
#[derive(Debug, Default)]
struct Programs {
    packages: BTreeSet<String>,
    binaries: BTreeSet<String>,
    xtasks: BTreeSet<String>,
    /// Subcommands of `posthorn`; empty if it is not built, and then they are not checked.
    posthorn: BTreeSet<String>,
}

impl Programs {
    fn read() -> anyhow::Result<Self> {
        let metadata = metadata("--no-deps")?;
        let mut programs = Self { xtasks: crate::commands().into_iter().collect(), ..Self::default() };
        for package in metadata["packages"].as_array().into_iter().flatten() {
            programs.packages.extend(package["name"].as_str().map(str::to_owned));
            for target in package["targets"].as_array().into_iter().flatten() {
                let binary = target["kind"].as_array().into_iter().flatten().any(|kind| kind == "bin");
                programs.binaries.extend(target["name"].as_str().filter(|_| binary).map(str::to_owned));
            }
        }
        programs.posthorn = subcommands(&target_directory()?.join("debug/posthorn"));
        Ok(programs)
    }
}

/// The subcommands that a program's `--help` lists; none if it cannot be run.
fn subcommands(program: &std::path::Path) -> BTreeSet<String> {
    let output = Command::new(program).arg("--help").current_dir(root()).stdin(Stdio::null()).output();
    let help = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    listed
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// Every command line in a fenced block names packages, programs and subcommands that exist.
fn commands(document: &str, text: &str, programs: &Programs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let words: Vec<&str> = line.trim_start().trim_start_matches("$ ").split_whitespace().collect();
        if !fenced || words.is_empty() {
            continue;
        }
        for problem in problems(&words, programs) {
            findings.push(Finding::error(format!("{document}:{}", number + 1), problem));
        }
    }
    findings
}

fn problems(words: &[&str], programs: &Programs) -> Vec<String> {
    let mut problems = Vec::new();
    let words = &words[words.iter().take_while(|word| word.contains('=')).count()..];
    let mut expect = |what: &str, name: Option<&&str>, known: &BTreeSet<String>| {
        if let Some(name) = name.filter(|name| !known.contains(**name)) {
            problems.push(format!("there is no {what} `{name}`"));
        }
    };
    let program = words.first().map(|word| word.rsplit('/').next().unwrap_or(word));
    if program == Some("cargo") {
        if words.get(1) == Some(&"xtask") {
            expect("xtask", words.get(2), &programs.xtasks);
        }
        for (at, word) in words.iter().enumerate().take_while(|(_, word)| **word != "--") {
            match *word {
                "-p" | "--package" => expect("package", words.get(at + 1), &programs.packages),
                "--bin" => expect("program", words.get(at + 1), &programs.binaries),
                _ => {}
            }
        }
    }
    // `posthorn x`, `target/release/posthorn x`, `cargo run ... --bin posthorn -- x`, each perhaps with
    // options first.
    let runs_posthorn = words.windows(2).any(|pair| pair == ["--bin", "posthorn"]);
    let arguments = match words.iter().position(|word| *word == "--") {
        Some(at) if runs_posthorn => &words[at + 1..],
        _ if program == Some("posthorn") => &words[1..],
        _ => return problems,
    };
    if let Some(subcommand) = subcommand(arguments).filter(|_| !programs.posthorn.is_empty()) {
        expect("subcommand of posthorn", Some(&subcommand), &programs.posthorn);
    }
    problems
}

/// The first word that is neither an option nor the value of `--option value`.
fn subcommand<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    let mut arguments = arguments.iter();
    while let Some(word) = arguments.next() {
        match word.strip_prefix("--") {
            None => return Some(word),
            Some(option) if option.contains('=') || option == "json" => {}
            Some(_) => drop(arguments.next()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        let files = ["server/src/gateway/mod.rs", "server/src/main.rs", "docs/protocol.md", "README.md"];
        Paths::of(&files.map(|path| TrackedFile { path: path.to_owned(), text: None }))
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_map_names_what_exists_and_all_folders() {
        let good = "see `server/src/gateway/` and `server/src/main.rs`; not `Client::send` or `a/b c`";
        assert_eq!(named_paths(good, &paths()), []);
        assert_eq!(named_paths("`server/src/gone.rs`", &paths()).len(), 1);
        assert_eq!(unnamed_folders("`server/src/gateway/`", &paths()), []);
        assert_eq!(unnamed_folders("`server/src`", &paths()).len(), 1);
    }

    #[test]
    fn links_lead_somewhere() {
        assert_eq!(links("docs/protocol.md", "[a](../README.md) [b](https://x.y) [c](#here)", &paths()), []);
        assert_eq!(links("README.md", "[a](docs/gone.md)", &paths()).len(), 1);
        assert_eq!(
            links("docs/protocol.md", "[a](README.md)", &paths()).len(),
            1,
            "relative to the document"
        );
    }

    #[test]
    fn commands_exist() {
        let programs = Programs {
            packages: set(&["posthorn-server"]),
            binaries: set(&["posthorn", "posthorn-server"]),
            xtasks: set(&["ci"]),
            posthorn: set(&["demo", "chat"]),
        };
        let found = |line: &str| commands("README.md", &format!("```sh\n{line}\n```"), &programs).len();
        for good in [
            "cargo run --release --bin posthorn -- demo",
            "POSTHORN_PASSPHRASE=x target/release/posthorn --profile alice chat",
            "cargo xtask ci --quick",
            "cargo test -p posthorn-server",
            "ls -l",
        ] {
            assert_eq!(found(good), 0, "{good}");
        }
        for bad in [
            "cargo run --bin posthorm -- demo",
            "cargo run --bin posthorn -- dance",
            "posthorn --json dance",
            "cargo xtask cj",
            "cargo test -p gone",
        ] {
            assert_eq!(found(bad), 1, "{bad}");
        }
        assert_eq!(commands("README.md", "cargo xtask cj", &programs), [], "outside of a block it is prose");
    }
}
