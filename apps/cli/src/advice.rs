//! The next command, as it can be typed: with the program's name and the profile as they were given to this
//! one.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

/// What stands before every command. Written once, by `main`.
static START: OnceLock<String> = OnceLock::new();

/// Remembers how this program was started.
pub(crate) fn remember(program: Option<&OsStr>, home: Option<&Path>) {
    // A second call cannot happen, and would change nothing.
    let _ = START.set(start(program, home));
}

/// `home` is what `--home` said; the environment's is there the next time too.
fn start(program: Option<&OsStr>, home: Option<&Path>) -> String {
    let program = program.map_or_else(|| "posthorn".to_owned(), |program| quoted(&program.to_string_lossy()));
    match home {
        Some(home) => format!("{program} --home {}", quoted(&home.to_string_lossy())),
        None => program,
    }
}

/// A command in backticks: `` `target/release/posthorn --home profiles/alice start HANDLE` ``.
pub(crate) fn command(rest: &str) -> String {
    format!("`{} {rest}`", START.get().map_or("posthorn", String::as_str))
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    // No argument has the byte that no shell can take.
    shlex::try_quote(word).unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_as_it_can_be_typed() {
        let start = |program: &str, home: Option<&str>| start(Some(OsStr::new(program)), home.map(Path::new));
        assert_eq!(start("posthorn", None), "posthorn");
        assert_eq!(
            start("target/release/posthorn", Some("profiles/alice")),
            "target/release/posthorn --home profiles/alice"
        );
        assert_eq!(start("posthorn", Some("my profile")), "posthorn --home 'my profile'");
        assert_eq!(quoted("it's"), r#""it's""#);
        assert_eq!(command("chat"), "`posthorn chat`");
    }
}
