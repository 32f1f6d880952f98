//! What may depend on what: the crates of the relay reach neither MLS nor the client library (R8), the
//! terminal client reaches no relay, nothing reaches a system TLS library, and everything linked has a
//! licence and a source that `deny.toml` allows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde_json::Value;

use super::Finding;
use crate::step::{metadata, root};

/// The crates that must not reach [`FORBIDDEN_TO_RELAY`].
const RELAY: &[&str] = &["posthorn-server", "posthorn-proto"];
/// What the relay must not reach: names, or beginnings of names with `*`.
const FORBIDDEN_TO_RELAY: &[&str] = &["openmls*", "hpke*", "posthorn-client", "posthorn", "posthorn-tests"];
/// The terminal client's crate, and what nobody who only wants to write messages should carry.
const CLIENT: &str = "posthorn";
const FORBIDDEN_TO_CLIENT: &[&str] =
    &["posthorn-server", "posthorn-heap", "posthorn-demo", "posthorn-tests", "sled"];
/// What the wire must not reach: it does no I/O.
const FORBIDDEN_TO_PROTO: &[&str] = &["tokio*", "rusqlite", "sled", "hyper*"];
/// The two kinds of machine that Posthorn is built for in CI.
const PLATFORMS: &[&str] = &["x86_64-unknown-linux-gnu", "wasm32-unknown-unknown"];

/// Checks the graph that cargo resolved.
pub(super) fn check() -> anyhow::Result<Vec<Finding>> {
    let policy = Policy::read()?;
    let mut findings = BTreeMap::new();
    for platform in PLATFORMS {
        let metadata = metadata(&format!("--all-features --filter-platform {platform}"))?;
        let graph = Graph::of(&metadata).context("cargo metadata has another form than expected")?;
        let mut found: Vec<Finding> = Vec::new();
        for relay in RELAY {
            found.extend(graph.forbidden(
                relay,
                FORBIDDEN_TO_RELAY,
                "R8: the relay must not be able to read",
            ));
        }
        if *platform == PLATFORMS[0] {
            found.extend(graph.forbidden(CLIENT, FORBIDDEN_TO_CLIENT, "a client carries no relay"));
            found.extend(graph.forbidden("posthorn-proto", FORBIDDEN_TO_PROTO, "the wire does no I/O"));
        }
        found.extend(policy.check(&metadata));
        findings.extend(found.into_iter().map(|finding| (finding.to_string(), finding)));
    }
    Ok(findings.into_values().collect())
}

/// Packages and their normal and build dependencies, by name. Tests may link what they like.
#[derive(Debug, Default)]
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of(metadata: &Value) -> Option<Self> {
        let mut graph = Self::default();
        let packages = metadata["packages"].as_array()?;
        let names: BTreeMap<&str, &str> = packages
            .iter()
            .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
            .collect();
        for node in metadata["resolve"]["nodes"].as_array()? {
            let from = names.get(node["id"].as_str()?)?;
            let edges = graph.edges.entry((*from).to_owned()).or_default();
            for dependency in node["deps"].as_array()? {
                let kinds = dependency["dep_kinds"].as_array()?;
                if kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev")) {
                    edges.insert((*names.get(dependency["pkg"].as_str()?)?).to_owned());
                }
            }
        }
        Some(graph)
    }

    /// One finding for each forbidden package that `from` reaches, with a way to it.
    fn forbidden(&self, from: &str, patterns: &[&str], why: &str) -> Vec<Finding> {
        if !self.edges.contains_key(from) {
            return vec![Finding::error(
                from,
                "this crate is not in the workspace: the rule about its dependencies checks nothing",
            )];
        }
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut waiting = vec![from];
        let mut findings = Vec::new();
        while let Some(name) = waiting.pop() {
            for next in self.edges.get(name).into_iter().flatten() {
                if next == from || came_from.contains_key(next.as_str()) {
                    continue;
                }
                came_from.insert(next, name);
                waiting.push(next);
                if patterns.iter().any(|pattern| matches(pattern, next)) {
                    findings.push(Finding::error(from, format!("reaches {} ({why})", way(&came_from, next))));
                }
            }
        }
        findings
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |beginning| name.starts_with(beginning))
}

fn way(came_from: &BTreeMap<&str, &str>, to: &str) -> String {
    let mut way = vec![to];
    while let Some(before) = came_from.get(way[way.len() - 1]) {
        way.push(before);
    }
    way.reverse();
    way.join(" -> ")
}

/// The parts of `deny.toml` that need neither a network nor cargo-deny.
#[derive(Debug)]
struct Policy {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
}

impl Policy {
    fn read() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(root().join("deny.toml")).context("deny.toml")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let table: toml::Table = text.parse().context("deny.toml")?;
        let list = |section: &str, name: &str| {
            let list =
                table.get(section).and_then(|section| section.get(name)).and_then(toml::Value::as_array);
            list.cloned().with_context(|| format!("deny.toml has no list `{name}` under [{section}]"))
        };
        let licences =
            list("licenses", "allow")?.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect();
        let banned = list("bans", "deny")?;
        let banned = banned.iter().filter_map(|ban| ban.get("crate")?.as_str()).map(str::to_owned).collect();
        Ok(Self { licences, banned })
    }

    fn check(&self, metadata: &Value) -> Vec<Finding> {
        let mut findings = Vec::new();
        let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| node["id"].as_str())
            .collect();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            if !package["id"].as_str().is_some_and(|id| used.contains(id)) {
                continue;
            }
            let name = package["name"].as_str().unwrap_or_default();
            let licence = package["license"].as_str().unwrap_or_default();
            if !self.allows(licence) {
                findings.push(Finding::error(
                    name,
                    format!("its licence `{licence}` is not allowed by deny.toml"),
                ));
            }
            if self.banned.contains(name) {
                findings.push(Finding::error(name, "is banned by deny.toml"));
            }
            match package["source"].as_str() {
                None | Some("registry+https://github.com/rust-lang/crates.io-index") => {}
                Some(source) => {
                    findings.push(Finding::error(name, format!("comes from {source}, not from crates.io")))
                }
            }
        }
        findings
    }

    /// Whether an SPDX expression can be satisfied: of an `OR` one side, of an `AND` both.
    fn allows(&self, expression: &str) -> bool {
        let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
        // `(A OR B) AND C` occurs; `A OR B AND C` without parentheses does not. Splitting at AND first does
        // for both.
        expression
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|licence| self.licences.contains(licence.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let edges = [
            ("server", vec!["a", "b"]),
            ("a", vec!["openmls_traits"]),
            ("b", vec!["server"]),
            ("openmls_traits", vec![]),
        ];
        let edges = edges
            .into_iter()
            .map(|(from, to)| (from.to_owned(), to.into_iter().map(str::to_owned).collect()));
        Graph { edges: edges.collect() }
    }

    #[test]
    fn a_forbidden_crate_is_found_with_the_way_to_it() {
        let findings = graph().forbidden("server", &["openmls*"], "why");
        assert_eq!(findings.len(), 1);
        assert!(findings[0].to_string().contains("server -> a -> openmls_traits"), "{}", findings[0]);
        assert!(graph().forbidden("b", &["nothing"], "why").is_empty());
        assert_eq!(
            graph().forbidden("gone", &["nothing"], "why").len(),
            1,
            "a rule about no crate must not pass"
        );
    }

    #[test]
    fn dev_dependencies_are_no_edges() {
        let metadata = serde_json::json!({
            "packages": [{"id": "s", "name": "server"}, {"id": "m", "name": "openmls"}, {"id": "x", "name": "x"}],
            "resolve": {"nodes": [
                {"id": "s", "deps": [
                    {"pkg": "m", "dep_kinds": [{"kind": "dev"}]},
                    {"pkg": "x", "dep_kinds": [{"kind": "dev"}, {"kind": "build"}]}]},
                {"id": "m", "deps": []}, {"id": "x", "deps": []}]}
        });
        let graph = Graph::of(&metadata).expect("well formed");
        assert_eq!(graph.edges["server"], BTreeSet::from(["x".to_owned()]));
    }

    #[test]
    fn licences() {
        let policy =
            Policy::parse("licenses = { allow = ['MIT', 'ISC'] }\nbans = { deny = [{ crate = 'openssl' }] }");
        let policy = policy.expect("well formed");
        for (expression, allowed) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("MIT AND GPL-3.0", false),
            ("Apache-2.0/MIT", true),
            ("(MIT OR Apache-2.0) AND ISC", true),
            ("", false),
        ] {
            assert_eq!(policy.allows(expression), allowed, "{expression}");
        }
        assert!(policy.banned.contains("openssl"));
    }
}
