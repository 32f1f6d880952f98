//! Every way to fail, as one line that says what to do.

use std::path::Path;

use posthorn_client::client::ClientError;
use posthorn_client::store::StoreError;
use posthorn_client::sync::CommandError;
use serde_json::json;

use crate::output::plain_line;

/// A stable code for programs, a line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    code: String,
    message: String,
}

impl Problem {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The command was typed wrongly: exit status 2.
    pub(crate) fn is_usage(&self) -> bool {
        self.code == "USAGE"
    }

    pub(crate) fn print(&self, json: bool) {
        if json {
            eprintln!("{}", json!({"error": {"code": self.code, "message": self.message}}));
        } else {
            eprintln!("posthorn: {}", plain_line(&self.message));
        }
    }

    /// No profile where one is needed.
    pub(crate) fn no_profile(home: &Path) -> Self {
        let message = format!(
            "there is no profile in {} yet: make one with `posthorn register --relay URL --handle NAME`",
            home.display()
        );
        Self::new("NO_PROFILE", message)
    }

    /// The relay does not answer. `kept` says what becomes of what was asked.
    pub(crate) fn unreachable(relay: &str, reason: &str, kept: &str) -> Self {
        let reason = reason.trim_start_matches("cannot reach ");
        let reason = reason.strip_prefix(relay).map_or(reason, |rest| rest.trim_start_matches(": "));
        Self::new("RELAY_UNREACHABLE", format!("the relay at {relay} cannot be reached ({reason}): {kept}"))
    }
}

/// The database, as the person who typed the command sees it.
pub(crate) fn of_store(error: &StoreError, home: &Path) -> Problem {
    match error {
        StoreError::NotFound { .. } => Problem::no_profile(home),
        StoreError::AlreadyOpen { .. } => Problem::new(
            "PROFILE_IN_USE",
            format!(
                "the profile in {} is in use by another process (a chat or listen?): close that one, or use another --home",
                home.display()
            ),
        ),
        StoreError::WrongPassphrase => Problem::new(
            "WRONG_PASSPHRASE",
            format!("that is not the passphrase of the profile in {}: try again", home.display()),
        ),
        other => Problem::new(other.cause(), other.to_string()),
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        let message = match &error {
            ClientError::Command(CommandError::NoAccount) => {
                "this profile has no account yet: make one with `posthorn register --relay URL --handle NAME`"
                    .to_owned()
            }
            ClientError::Command(CommandError::UnknownPerson(handle)) => {
                format!("nobody called {handle} is known here: `posthorn members CONVERSATION` lists who is")
            }
            ClientError::Command(CommandError::Refused { code, message }) => refused(code, message),
            other => other.to_string(),
        };
        let code = match &error {
            ClientError::Command(CommandError::Refused { code, .. }) => code.clone(),
            other => other.code().to_owned(),
        };
        Self { code, message }
    }
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

    #[test]
    fn refusals_say_what_to_do() {
        let error = ClientError::Command(CommandError::Refused { code: "HANDLE_TAKEN".into(), message: String::new() });
        let problem = Problem::from(error);
        assert_eq!(problem.code(), "HANDLE_TAKEN");
        assert!(problem.message().contains("choose another"));
    }

    #[test]
    fn an_unreachable_relay_is_named_once() {
        let problem = Problem::unreachable("ws://h:1", "cannot reach ws://h:1: refused", "nothing was lost");
        assert_eq!(problem.message(), "the relay at ws://h:1 cannot be reached (refused): nothing was lost");
    }
}
