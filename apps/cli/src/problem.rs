//! Every way to fail, as one line that says what to do.

use std::path::Path;

use posthorn_client::engine::Error;
use posthorn_client::store::StoreError;
use serde_json::json;

use crate::plain::plain_line;
use crate::signal::Signal;
use crate::{advice, disk, print};

/// Codes of what was typed wrongly.
const TYPED_WRONGLY: [&str; 8] =
    ["USAGE", "BAD_RELAY", "BAD_PROXY", "BAD_HANDLE", "BAD_LINK", "BAD_TEXT", "BAD_CONTENT", "BAD_NAME"];

/// A stable code for programs, a line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    code: String,
    message: String,
    /// What ended the waiting, if something did.
    signal: Option<Signal>,
}

impl Problem {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), signal: None }
    }

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// 2 = typed wrongly, 128 and a signal's number (what shells say), 1 = not done.
    pub(crate) fn exit_status(&self) -> u8 {
        match (self.code.as_str(), self.signal) {
            (_, Some(signal)) => signal.exit_status(),
            (code, _) if TYPED_WRONGLY.contains(&code) => 2,
            _ => 1,
        }
    }

    /// A signal while waiting. `kept` says what becomes of what was asked.
    pub(crate) fn interrupted(signal: Signal, kept: &str) -> Self {
        let problem = Self::new("INTERRUPTED", format!("not waiting any longer: {kept}"));
        Self { signal: Some(signal), ..problem }
    }

    /// The process that has the profile ended while this one asked it. `kept` says what becomes of what was
    /// asked, if that is known.
    pub(crate) fn holder_gone(kept: &str) -> Self {
        let kept = match kept {
            "" => format!(
                "whether this was done is not known: see {} before you do it again",
                advice::command("conversations")
            ),
            kept => kept.to_owned(),
        };
        Self::new("HOLDER_GONE", format!("the process that had this profile open has ended: {kept}"))
    }

    /// Somebody is to be invited who is there already: oneself.
    pub(crate) fn if_inviting(self) -> Self {
        match self.code.as_str() {
            "YOURSELF" => {
                Self::new(self.code, "that is you, and you are always a member: name somebody else")
            }
            _ => self,
        }
    }

    /// In the chat there are the chat's commands, for the profile is in use.
    pub(crate) fn in_chat(error: Error) -> Self {
        match &error {
            Error::UnknownPerson(handle) => Self::unknown_in_chat(handle),
            Error::ForeignRelay(relay) => {
                Self::new(error.code(), format!("{}: /accept yes does that, too", foreign(relay)))
            }
            _ => error.into(),
        }
    }

    /// Nobody of this name, where only the chat's commands can be typed.
    pub(crate) fn unknown_in_chat(handle: &str) -> Self {
        Self::new("UNKNOWN_PERSON", format!("nobody called {handle} is known here: /members lists who is"))
    }

    pub(crate) fn print(&self, json: bool) {
        if json {
            print::error_line(&json!({"error": {"code": self.code, "message": self.message}}).to_string());
        } else {
            print::tell(&self.message);
        }
    }

    /// No profile where one is needed.
    pub(crate) fn no_profile(home: &Path) -> Self {
        let message = format!(
            "there is no profile in {} yet: make one with {}",
            home.display(),
            advice::command("register --relay URL --handle NAME --invite CODE")
        );
        Self::new("NO_PROFILE", message)
    }

    /// The relay does not answer. `kept` says what becomes of what was asked.
    pub(crate) fn unreachable(relay: &str, reason: &str, kept: &str) -> Self {
        let reason = plain_line(reason);
        Self::new("RELAY_UNREACHABLE", format!("the relay at {relay} cannot be reached ({reason}): {kept}"))
    }
}

/// The database, as the person who typed the command sees it.
pub(crate) fn of_store(error: &StoreError, home: &Path) -> Problem {
    match error {
        StoreError::NotFound { .. } => Problem::no_profile(home),
        StoreError::AlreadyOpen { .. } => Problem::new(
            error.cause(),
            format!(
                "the profile in {} is in use by another process (a chat?), and this needs it alone: close that one, or use another --home",
                home.display()
            ),
        ),
        StoreError::WrongPassphrase => Problem::new(
            error.cause(),
            format!("that is not the passphrase of the profile in {}: try again", home.display()),
        ),
        other => disk_full(other).unwrap_or_else(|| Problem::new(other.cause(), other.to_string())),
    }
}

/// A full disk is told in one way, whatever the database says.
fn disk_full(error: &StoreError) -> Option<Problem> {
    match error {
        StoreError::DiskFull => {
            Some(disk::full().unwrap_or_else(|| Problem::new(error.cause(), error.to_string())))
        }
        StoreError::Sqlite(_) | StoreError::Io { .. } => disk::full(),
        _ => None,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let full = match &error {
            Error::Store(error) => disk_full(error),
            error if error.is_fatal() || matches!(error, Error::Stopped | Error::Unavailable) => disk::full(),
            _ => None,
        };
        if let Some(full) = full {
            return full;
        }
        let message = match &error {
            Error::NoAccount => {
                let register = advice::command("register --relay URL --handle NAME --invite CODE");
                format!("this profile has no account yet: make one with {register}")
            }
            Error::UnknownPerson(handle) => {
                let people = advice::command("people");
                format!("nobody called {handle} is known here: {people} lists who is")
            }
            Error::ForeignRelay(relay) => {
                format!("{}: add --foreign-relay if that is meant", foreign(relay))
            }
            Error::PlainRelay(relay) => {
                let name = advice::command(&format!("relay use {relay}"));
                format!(
                    "{relay} is without TLS: {name} if you mean that; whoever is on the way there sees what a \
                     relay sees"
                )
            }
            // The code is told beside it.
            Error::Failed { reason, .. } => reason.clone(),
            Error::Refused { code, message } => refused(code, message),
            other => other.to_string(),
        };
        let code = match &error {
            Error::Refused { code, .. } => code.clone(),
            other => other.code().to_owned(),
        };
        Self::new(code, message)
    }
}

/// What it means to follow an invitation there.
fn foreign(relay: &str) -> String {
    format!(
        "this conversation lives at {relay}, a relay that you do not use yet: whoever runs it would see your \
         address, and when you are online"
    )
}

/// What the relay's refusals mean to somebody who types.
fn refused(code: &str, message: &str) -> String {
    match code {
        "INVITE_INVALID" => {
            "the relay does not take this invite (unknown, used up or expired): ask whoever runs it for another"
                .to_owned()
        }
        "HANDLE_TAKEN" => "this handle is taken on the relay: choose another with --handle".to_owned(),
        _ if message.is_empty() => format!("the relay refused: {code}"),
        _ => format!("the relay refused ({code}): {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes with which a `Problem` is made, wherever this program says it, however it is broken into
    /// lines.
    fn codes_in(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).expect("sources").map(|entry| entry.expect("one").path()) {
            if entry.is_dir() {
                codes_in(&entry, found);
                continue;
            }
            let text = std::fs::read_to_string(&entry).expect("text");
            for (at, call) in text.match_indices("Problem::new(") {
                let argument = text[at + call.len()..].trim_start();
                let code = argument.strip_prefix('"').and_then(|rest| rest.split('"').next());
                let is_code =
                    |code: &&str| code.len() > 1 && code.chars().all(|c| c == '_' || c.is_ascii_uppercase());
                found.extend(code.filter(is_code).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_code_is_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let documented = std::fs::read_to_string(root.join("../../docs/cli.md")).expect("docs/cli.md");
        let mut codes = Vec::new();
        codes_in(&root.join("src"), &mut codes);
        assert!(codes.len() > 30, "{codes:?}");
        for code in codes {
            let code = if code.starts_with("STORE_") { "STORE_..." } else { &code };
            assert!(documented.contains(&format!("`{code}`")), "{code} is not in docs/cli.md");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let error = Error::Refused { code: "HANDLE_TAKEN".into(), message: String::new() };
        let problem = Problem::from(error);
        assert_eq!(problem.code(), "HANDLE_TAKEN");
        assert!(problem.message().contains("choose another"));
    }

    #[test]
    fn advice_fits_the_place() {
        let unknown = || Error::UnknownPerson("bob".into());
        assert!(Problem::from(unknown()).message().contains("`posthorn people"));
        let problem = Problem::in_chat(unknown());
        assert_eq!(problem.code(), "UNKNOWN_PERSON");
        assert!(problem.message().contains("/members") && !problem.message().contains("posthorn"));
        let far = || Error::ForeignRelay("wss://far.example".into());
        assert!(Problem::from(far()).message().ends_with("add --foreign-relay if that is meant"));
        assert!(Problem::in_chat(far()).message().contains("/accept yes"));
        let myself = Problem::from(Error::Yourself).if_inviting();
        assert_eq!(myself.code(), "YOURSELF");
        assert!(myself.message().contains("that is you,") && !myself.message().contains("leave"));
    }

    #[test]
    fn a_code_is_told_once() {
        let error = Error::Failed { cause: "CANNOT_ADD", reason: "bob cannot be added: unknown".into() };
        let problem = Problem::from(error);
        assert_eq!((problem.code(), problem.message()), ("CANNOT_ADD", "bob cannot be added: unknown"));
    }
}
