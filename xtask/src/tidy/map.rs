//! ARCHITECTURE.md is a true map: every path that it names exists, and every folder of code is on it.
//!
//! A section gives its folder once, in its heading; paths below it are relative to that folder, to the `src`
//! in it, or to the checkout.

use std::collections::BTreeSet;

use super::{Finding, TrackedFile};

/// The map.
pub(super) const MAP: &str = "ARCHITECTURE.md";

/// All rules on the map.
pub(super) fn check(files: &[TrackedFile]) -> Vec<Finding> {
    let paths = Paths::of(files);
    let Some(map) = files.iter().find(|file| file.path == MAP) else { return Vec::new() };
    let (named, mut findings) = named(map.text.as_deref().unwrap_or_default(), &paths);
    findings.extend(unnamed_folders(&named, &paths));
    findings
}

/// The files of the checkout and every folder that holds one.
#[derive(Debug, Default)]
pub(super) struct Paths {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Paths {
    pub(super) fn of(files: &[TrackedFile]) -> Self {
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

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.contains(path) || self.folders.contains(path)
    }
}

/// The sections that a line stands in, outermost first: how deep each is, and the folders that its heading
/// names.
type Sections = Vec<(usize, Vec<String>)>;

/// What the map names, from the root of the checkout, and a finding for each name of nothing.
fn named(text: &str, paths: &Paths) -> (BTreeSet<String>, Vec<Finding>) {
    let (mut named, mut findings) = (BTreeSet::new(), Vec::new());
    let mut sections = Sections::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let depth = line.chars().take_while(|c| *c == '#').count();
        if depth > 0 {
            sections.retain(|(above, _)| *above < depth);
        }
        let mut folders = Vec::new();
        for name in line.split('`').skip(1).step_by(2).filter(|name| is_like_a_path(name)) {
            match resolve(name, &sections, paths) {
                Some(path) => {
                    folders.extend(paths.folders.contains(&path).then(|| path.clone()));
                    named.insert(path);
                }
                None => findings.push(Finding::error(
                    format!("{MAP}:{}", number + 1),
                    format!("names `{name}`, which does not exist"),
                )),
            }
        }
        if depth > 0 {
            // A crate's heading stands for its sources too.
            let sources = folders.iter().map(|folder| format!("{folder}/src"));
            let sources: Vec<String> = sources.filter(|folder| paths.folders.contains(folder)).collect();
            named.extend(sources.iter().cloned());
            sections.push((depth, [sources, folders].concat()));
        }
    }
    (named, findings)
}

/// Whether a name has a slash or the ending of a source file.
fn is_like_a_path(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && !name.starts_with('/')
        && (name.contains('/')
            || [".rs", ".proto", ".md", ".toml", ".sql"].iter().any(|end| name.ends_with(end)))
}

/// The path that a name means: in the folders of its section, of those around it, or in the checkout.
fn resolve(name: &str, sections: &Sections, paths: &Paths) -> Option<String> {
    let name = name.trim_end_matches('/');
    let folders = sections.iter().rev().flat_map(|(_, folders)| folders);
    let in_folders = folders.map(|folder| format!("{folder}/{name}"));
    in_folders.chain([name.to_owned()]).find(|path| paths.has(path))
}

/// Every folder under a crate's `src` that holds code is named.
fn unnamed_folders(named: &BTreeSet<String>, paths: &Paths) -> Vec<Finding> {
    // Tests stand beside what they test: naming that names them.
    let holds_code = |folder: &str| {
        let names = paths.files.iter().filter_map(|file| file.strip_prefix(folder)?.strip_prefix('/'));
        names.into_iter().any(|name| name.ends_with(".rs") && name != "tests.rs" && !name.contains('/'))
    };
    let in_tests = |folder: &str| {
        folder.split_once("/src/").is_some_and(|(_, below)| below.split('/').any(|part| part == "tests"))
    };
    let folders = paths.folders.iter().filter(|folder| format!("{folder}/").contains("/src/"));
    let folders = folders.filter(|folder| holds_code(folder) && !in_tests(folder));
    folders
        .filter(|folder| !named.contains(*folder))
        .map(|folder| Finding::error(MAP, format!("does not name the folder {folder}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[&str] = &[
        "server/src/main.rs",
        "server/src/gateway/mod.rs",
        "server/src/gateway/tests/held.rs",
        "server/src/store/ledger/mod.rs",
        "server/src/store/memory/tests.rs",
        "client-lib/src/store/mod.rs",
        "docs/protocol.md",
    ];

    fn found(map: &str) -> Vec<String> {
        let mut files: Vec<TrackedFile> =
            FILES.iter().map(|path| TrackedFile { path: (*path).to_owned(), text: None }).collect();
        files.push(TrackedFile { path: MAP.to_owned(), text: Some(map.to_owned()) });
        check(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_section_gives_its_folder_once() {
        let map = "# Map\n\nSee `docs/protocol.md`.\n\n\
            ### `server/` (the relay)\n\nFrom `main.rs` to `gateway/`, not `Client::send`, `/v1/ws` or `a/b c`.\n\
            #### `store/`\n\n`ledger/`, `ledger/mod.rs`, `gateway/mod.rs` and `docs/protocol.md`\n\n\
            ### `client-lib/`\n\n```text\n`gone/`\n```\n`store/`, `client-lib/src/store/mod.rs`\n";
        assert_eq!(found(map), [""; 0]);
    }

    #[test]
    fn names_of_nothing_and_folders_without_a_name_are_found() {
        let all = "### `server/`\n\n`gateway/` `store/ledger/`\n\n### `client-lib/`\n\n`store/`\n";
        assert_eq!(found(all), [""; 0]);
        let gone = found(&format!("{all}`gateway/`\n"));
        assert_eq!(gone, ["error: ARCHITECTURE.md:8: names `gateway/`, which does not exist"]);
        let in_heading = found(&format!("{all}### `gone/`\n"));
        assert_eq!(in_heading, ["error: ARCHITECTURE.md:8: names `gone/`, which does not exist"]);
        let unnamed = found(&all.replace(" `store/ledger/`", ""));
        assert_eq!(unnamed, ["error: ARCHITECTURE.md: does not name the folder server/src/store/ledger"]);
        let in_text = found(&all.replace(" `store/ledger/`", " server/src/store/ledger"));
        assert_eq!(in_text, unnamed, "a name stands between backticks");
    }
}
