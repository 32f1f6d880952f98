//! Documents name what exists: links in every document, commands in the ones that a newcomer types from.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use super::map::Paths;
use super::{Finding, TrackedFile, map};
use crate::step::{metadata, root, target_directory};

/// Documents whose commands are typed as they stand.
const TYPED: &[&str] = &["README.md", "CONTRIBUTING.md", "docs/testing.md"];

/// All rules on the documents.
pub(super) fn check(files: &[TrackedFile]) -> anyhow::Result<Vec<Finding>> {
    let paths = Paths::of(files);
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    let documents: BTreeMap<&str, &str> =
        documents.map(|file| (file.path.as_str(), file.text.as_deref().unwrap_or_default())).collect();
    let mut findings = Vec::new();
    for (path, text) in &documents {
        findings.extend(links(path, text, &paths, &documents));
        if TYPED.contains(path) {
            findings.extend(commands(path, text, &Programs::read()?));
        }
    }
    for needed in std::iter::once(&map::MAP).chain(TYPED) {
        if !documents.contains_key(needed) {
            findings.push(Finding::error(*needed, "is missing"));
        }
    }
    Ok(findings)
}

/// Relative links lead to something, and to a heading that is there if they name one.
fn links(document: &str, text: &str, paths: &Paths, documents: &BTreeMap<&str, &str>) -> Vec<Finding> {
    let above = document.rsplit_once('/').map_or("", |(above, _)| above);
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.contains("://") || path.starts_with("mailto:") {
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
            let to = if path.is_empty() { document.to_owned() } else { parts.join("/") };
            let problem = if !paths.has(&to) {
                format!("links to {path}, which does not exist")
            } else if documents.get(to.as_str()).is_some_and(|text| !has_anchor(text, anchor)) {
                format!("links to #{anchor}, which is no heading of {to}")
            } else {
                continue;
            };
            findings.push(Finding::error(format!("{document}:{}", number + 1), problem));
        }
    }
    findings
}

/// Whether a document has the heading that an anchor names. Anchors are made as GitHub makes them: in lower
/// case, with hyphens for spaces and without other signs.
fn has_anchor(text: &str, anchor: &str) -> bool {
    let of = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    anchor.is_empty() || text.lines().filter(|line| line.starts_with('#')).any(|line| of(line) == anchor)
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

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn links_lead_somewhere() {
        let documents = BTreeMap::from([
            ("README.md", "# Posthorn\n\n## What works, and what does not\n"),
            ("docs/design.md", "### R1\n\n#### Rule 7\n"),
        ]);
        let files = documents
            .iter()
            .map(|(path, text)| TrackedFile { path: (*path).to_owned(), text: Some((*text).to_owned()) });
        let paths = Paths::of(&files.collect::<Vec<_>>());
        let found = |document: &str, text: &str| links(document, text, &paths, &documents).len();
        for (document, good) in [
            ("docs/design.md", "[a](../README.md) [b](https://x.y/#z) [c](#r1)"),
            ("docs/design.md", "[a](../README.md#what-works-and-what-does-not)"),
            ("README.md", "[a](docs/design.md#rule-7) [b](docs/) [c](#posthorn)"),
        ] {
            assert_eq!(found(document, good), 0, "{good}");
        }
        for (document, bad) in [
            ("README.md", "[a](docs/gone.md)"),
            ("docs/design.md", "[a](README.md), which is relative to the document"),
            ("README.md", "[a](docs/design.md#rule-8)"),
            ("README.md", "[a](#rule-7)"),
        ] {
            assert_eq!(found(document, bad), 1, "{bad}");
        }
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
