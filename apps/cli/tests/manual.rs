//! What shells and `man` are told of this program.

mod common;

use std::process::Command;

use common::{POSTHORN, good, run};

/// Commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = Command::new(POSTHORN).arg("--help").output().expect("posthorn starts");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let (_, list) = help.split_once("Commands:\n").expect("a list");
    let rows = list.lines().take_while(|row| !row.is_empty()).filter(|row| !row.starts_with("   "));
    let names = rows.filter_map(|row| row.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

#[test]
fn every_shell_knows_every_command() {
    let home = tempfile::tempdir().expect("a folder");
    assert!(commands().len() > 20, "{:?}", commands());
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = good(home.path(), &["completions", shell]);
        for word in commands().iter().map(String::as_str).chain(["passphrase-file", "foreign-relay"]) {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    let output = run(home.path(), &["completions", "command.com"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn every_command_has_a_page() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("share/man/man1");
    good(home.path(), &["man", &folder.display().to_string()]);
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a page");
    assert!(page("posthorn.1").contains("posthorn\\-register(1)"), "{}", page("posthorn.1"));
    for command in commands() {
        assert!(page(&format!("posthorn-{command}.1")).starts_with(".ie"), "{command}");
    }
    assert!(page("posthorn-register.1").contains("\\-\\-invite"));
    let file = folder.join("posthorn.1").display().to_string();
    let refused = run(home.path(), &["man", &file, "--json"]);
    assert!(common::errors(&refused).contains("NOT_WRITTEN"), "{refused:?}");
}
