//! Rules about source text: one module names OpenMLS, lengths, and no path of somebody's machine.

use super::{Finding, TrackedFile};

/// Lines of a file, beyond which it is a question: what second thing lives here?
const FILE_LINES: usize = 600;
/// Lines of a function, beyond which it is the same question.
const FUNCTION_LINES: usize = 70;
/// Beginnings of paths that exist on one machine only. Split, so that this file does not break its own rule.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tm", "p/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
];
/// Home folders of nobody, for examples and tests.
const MADE_UP: &[&str] = &["a", "alice", "bob", "you"];
/// The only place of the client library that may name OpenMLS.
const GROUP: &str = "client-lib/src/group";

/// All rules on one file.
pub(super) fn check(file: &TrackedFile) -> Vec<Finding> {
    let Some(text) = &file.text else { return Vec::new() };
    let mut findings = machine_paths(&file.path, text);
    if file.path.ends_with(".rs") {
        findings.extend(openmls(&file.path, text));
        findings.extend(lengths(&file.path, text));
    }
    findings
}

fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for beginning in MACHINE_PATHS {
            // A path begins after something that is not part of a longer path (`target/tmp/x` is fine).
            let found = line.match_indices(beginning).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let name = line[at + beginning.len()..]
                    .split(|c: char| !c.is_alphanumeric())
                    .next()
                    .unwrap_or_default();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-/$}".contains(c))
                    && !MADE_UP.contains(&name)
            });
            if found {
                findings.push(Finding::error(
                    format!("{path}:{}", number + 1),
                    format!("names the path of one machine ({beginning}...)"),
                ));
            }
        }
    }
    findings
}

fn openmls(path: &str, text: &str) -> Vec<Finding> {
    if !path.starts_with("client-lib/src/") || path.starts_with(GROUP) {
        return Vec::new();
    }
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.filter(|(_, line)| line.contains("openmls"))
        .map(|(number, _)| {
            Finding::error(format!("{path}:{}", number + 1), format!("only {GROUP}/ may name openmls"))
        })
        .collect()
}

fn lengths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > FILE_LINES {
        findings.push(Finding::warning(
            path,
            format!("{} lines (the question starts at {FILE_LINES})", lines.len()),
        ));
    }
    for (number, length) in functions(&lines).filter(|(_, length)| *length > FUNCTION_LINES) {
        let text = format!("a function of {length} lines (the question starts at {FUNCTION_LINES})");
        findings.push(Finding::warning(format!("{path}:{number}"), text));
    }
    findings
}

/// The line number and the length of every function. Relies on rustfmt: a function ends at the first line
/// that is a closing brace indented as its `fn` line is.
fn functions<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = (usize, usize)> + 'a {
    lines.iter().enumerate().filter(|(_, line)| is_function(line)).filter_map(|(start, line)| {
        let indent = line.len() - line.trim_start().len();
        let end =
            lines[start..].iter().position(|line| line.trim_end() == format!("{}}}", " ".repeat(indent)))?;
        Some((start + 1, end + 1))
    })
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    let words = line.split_whitespace().take_while(|word| !word.starts_with('(') && !word.contains("=="));
    let mut words = words.take(6);
    !line.starts_with("//")
        && words.any(|word| word == "fn")
        && line.contains('(')
        && !line.ends_with(';')
        && !line.ends_with('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = TrackedFile { path: path.to_owned(), text: Some(text.to_owned()) };
        check(&file).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn paths_of_a_machine() {
        for path in MACHINE_PATHS {
            assert_eq!(found("README.md", &format!("see {path}x")).len(), 1, "{path}");
            assert_eq!(found("README.md", &format!("\"{path}x\"")).len(), 1, "{path}");
            assert!(found("README.md", &format!("target{path}x")).is_empty(), "{path}");
            assert!(found("README.md", &format!("{path}alice/x")).is_empty(), "{path}");
        }
    }

    #[test]
    fn openmls_is_named_in_one_module() {
        let text = "use openmls::group::MlsGroup;\n";
        assert_eq!(found("client-lib/src/engine/mod.rs", text).len(), 1);
        assert!(found("client-lib/src/group/seat.rs", text).is_empty());
        assert!(found("client-lib/src/engine/mod.rs", "/// Only group knows openmls.\n").is_empty());
    }

    #[test]
    fn long_functions_and_files() {
        let body = "    let x = 1;\n".repeat(FUNCTION_LINES);
        let long = format!("impl A {{\n    pub(crate) async fn f(&self) {{\n{body}    }}\n}}\n");
        let findings = found("a.rs", &long);
        assert_eq!(
            findings,
            [format!(
                "warning: a.rs:2: a function of {} lines (the question starts at 70)",
                FUNCTION_LINES + 2
            )]
        );
        assert!(found("a.rs", "fn f(a: u8);\nfn g() {\n    a();\n}\n").is_empty());
        assert_eq!(found("a.rs", &"// x\n".repeat(FILE_LINES + 1)).len(), 1);
    }
}
