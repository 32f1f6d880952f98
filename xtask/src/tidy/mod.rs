//! The house rules that a program can check. An error stops CI; a warning is a question to whoever changes
//! that place.
//!
//! Reading guide: [`edges`] looks at the graph of crates, [`sources`] at source text, [`width`] at how wide
//! prose is, [`numbers`] at the promises and rules that anything refers to, [`map`] at ARCHITECTURE.md,
//! [`docs`] at what the other documents name. Each rule is a function from text or graph to findings, and is
//! tested on text made for it.

mod docs;
mod edges;
mod map;
mod numbers;
mod sources;
mod width;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::step::root;

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    grave: bool,
    place: String,
    text: String,
}

impl Finding {
    fn error(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { grave: true, place: place.into(), text: text.into() }
    }

    fn warning(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { grave: false, place: place.into(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", if self.grave { "error" } else { "warning" }, self.place, self.text)
    }
}

/// A file that git tracks, or would track if it were added now.
#[derive(Debug)]
struct TrackedFile {
    /// The path from the root of the checkout, with `/`.
    path: String,
    /// `None` if it is not UTF-8 (fuzz corpora, fixtures).
    text: Option<String>,
}

/// Checks every rule and prints what it found.
pub(crate) fn run() -> anyhow::Result<()> {
    let files = tracked_files(root())?;
    let mut findings = edges::check()?;
    findings.extend(files.iter().flat_map(sources::check));
    findings.extend(files.iter().flat_map(width::check));
    findings.extend(numbers::check(&files));
    findings.extend(map::check(&files));
    findings.extend(docs::check(&files)?);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.grave).count();
    println!("tidy: {} files, {errors} errors, {} warnings", files.len(), findings.len() - errors);
    if errors > 0 {
        bail!("{errors} house rules are broken");
    }
    Ok(())
}

fn tracked_files(root: &Path) -> anyhow::Result<Vec<TrackedFile>> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("git does not start")?;
    if !listing.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listing.stderr).trim());
    }
    let listing = String::from_utf8(listing.stdout).context("a file name is not UTF-8")?;
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that was just removed is still listed.
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
        files.push(TrackedFile { path: path.to_owned(), text: String::from_utf8(bytes).ok() });
    }
    Ok(files)
}
