//! What can be typed after a slash. Pure.

use posthorn_client::engine::Who;

use crate::name;

/// A command, understood.
#[derive(Debug, PartialEq)]
pub(super) enum Slash {
    New {
        members: Vec<Who>,
        name: String,
        /// Although there is one with the same person.
        again: bool,
    },
    Add(Vec<Who>),
    Remove(String),
    Leave {
        sure: bool,
    },
    /// The open conversation goes on at one's own relay.
    Move {
        sure: bool,
    },
    /// An invitation is followed; whoever is sure means also to a relay that is not used yet.
    Accept {
        sure: bool,
    },
    Decline,
    /// Puts the open conversation away, or takes it out again.
    Archive(bool),
    /// Shows those that are away, too, or not any more.
    ShowArchived,
    Forget {
        sure: bool,
    },
    /// Whoever invites, or somebody else.
    Block(Option<String>),
    Unblock(String),
    /// "" takes it back.
    React(String),
    People,
    Verify(Option<String>),
    /// Marks somebody's number as compared, or takes that back; of the only other member, if nobody is named.
    Mark {
        who: Option<String>,
        verified: bool,
    },
    Members,
    Card,
    Help,
    Quit,
}

/// The commands with what they take and do, for the help.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("/new MEMBER...", "start a conversation with handles or contact links"),
    ("    --name NAME, --again", "with a name; another one with the same person"),
    ("/accept, /decline", "answer an invitation; /block refuses all of somebody's"),
    ("/react SIGN", "to the newest or chosen message; alone: take it back"),
    ("/add WHO..., /remove WHO", "add people to this conversation, remove somebody"),
    ("/leave, /move, /forget", "leave it; to my relay; forget an ended one: all ask"),
    ("/members, /people, /card", "who is in it; everybody you have met; my contact link"),
    ("/block X, /unblock X", "take no invitations of somebody; take them again"),
    ("/verify [X] [--mark]", "the safety number with somebody; mark it as compared"),
    ("/archive, /unarchive", "put it away until something new comes; /archived shows"),
    ("/help, /quit", "this help (also F1); end (also Ctrl+C, Ctrl+Q)"),
    ("//text", "send a text that begins with a slash"),
];

/// Signs that are typed more easily than they are found on a keyboard.
const SIGNS: &[(&str, &str)] =
    &[("+1", "👍"), ("-1", "👎"), ("<3", "❤️"), (":)", "🙂"), (":D", "😂"), (":o", "😮"), (":(", "😢")];

/// `/new` makes another conversation with the same person.
const AGAIN: &str = "--again";

/// Understands a line that begins with one slash. Errors are for the person.
pub(super) fn parse(line: &str) -> Result<Slash, String> {
    let (command, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    let rest = rest.trim();
    match command {
        "/new" => {
            let again = rest.split_whitespace().any(|word| word == AGAIN);
            let rest = rest.replace(AGAIN, " ");
            let (members, name) = match rest.split_once("--name") {
                None => (rest.as_str(), ""),
                Some((members, name)) => (members, name.trim().trim_matches('"').trim()),
            };
            if name.is_empty() && rest.contains("--name") {
                return Err("--name what? Say it after it: /new HANDLE --name Weekend".to_owned());
            }
            Ok(Slash::New { members: contacts(members, command)?, name: name.to_owned(), again })
        }
        "/add" => Ok(Slash::Add(contacts(rest, command)?)),
        "/remove" if !rest.is_empty() => Ok(Slash::Remove(rest.trim_start_matches('@').to_owned())),
        "/remove" => Err("/remove whom? Say it: /remove HANDLE".to_owned()),
        "/leave" => Ok(Slash::Leave { sure: rest == "yes" }),
        "/move" => Ok(Slash::Move { sure: rest == "yes" }),
        "/accept" => Ok(Slash::Accept { sure: rest == "yes" }),
        "/decline" => Ok(Slash::Decline),
        "/archive" => Ok(Slash::Archive(true)),
        "/unarchive" => Ok(Slash::Archive(false)),
        "/archived" => Ok(Slash::ShowArchived),
        "/forget" => Ok(Slash::Forget { sure: rest == "yes" }),
        "/block" => Ok(Slash::Block((!rest.is_empty()).then(|| rest.trim_start_matches('@').to_owned()))),
        "/unblock" if !rest.is_empty() => Ok(Slash::Unblock(rest.trim_start_matches('@').to_owned())),
        "/unblock" => Err("/unblock whom? Say it: /unblock HANDLE; /people lists who is blocked".to_owned()),
        "/react" => {
            let sign = SIGNS.iter().find(|(typed, _)| *typed == rest).map_or(rest, |(_, sign)| sign);
            Ok(Slash::React(sign.to_owned()))
        }
        "/people" => Ok(Slash::People),
        "/verify" => Ok(verify(rest)),
        "/members" => Ok(Slash::Members),
        "/card" => Ok(Slash::Card),
        "/help" => Ok(Slash::Help),
        "/quit" => Ok(Slash::Quit),
        other => Err(format!(
            "{other} is no command; /help lists them, and //... sends a text that begins with a slash"
        )),
    }
}

/// `bob`, `bob --mark`, `--unmark`.
fn verify(rest: &str) -> Slash {
    let (marks, names): (Vec<&str>, Vec<&str>) =
        rest.split_whitespace().partition(|word| word.starts_with("--"));
    let who = names.first().map(|who| who.trim_start_matches('@').to_owned());
    match marks[..] {
        ["--mark"] => Slash::Mark { who, verified: true },
        ["--unmark"] => Slash::Mark { who, verified: false },
        _ => Slash::Verify(who),
    }
}

fn contacts(text: &str, command: &str) -> Result<Vec<Who>, String> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match name::contacts(&words) {
        Ok(nobody) if nobody.is_empty() => {
            Err(format!("{command} whom? Say it: {command} HANDLE, or a contact link"))
        }
        done => done.map_err(|problem| problem.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_they_take() {
        let Ok(Slash::New { members, name, again: false }) = parse("/new bob, cleo --name Trip to Ålesund")
        else {
            panic!("new")
        };
        assert_eq!((members.len(), name.as_str()), (2, "Trip to Ålesund"));
        let Ok(Slash::New { members, again: true, .. }) = parse("/new bob --again") else { panic!("again") };
        assert_eq!(members.len(), 1);
        assert_eq!(parse("/remove @bob"), Ok(Slash::Remove("bob".into())));
        assert_eq!(parse("/leave yes"), Ok(Slash::Leave { sure: true }));
        assert_eq!(parse("/move yes"), Ok(Slash::Move { sure: true }));
        assert_eq!(parse("/verify"), Ok(Slash::Verify(None)));
        assert_eq!(parse("/verify @bob --mark"), Ok(Slash::Mark { who: Some("bob".into()), verified: true }));
        assert_eq!(parse("/verify --unmark"), Ok(Slash::Mark { who: None, verified: false }));
        assert_eq!(parse("/quit"), Ok(Slash::Quit));
        assert_eq!(parse("/accept"), Ok(Slash::Accept { sure: false }));
        assert_eq!(parse("/block"), Ok(Slash::Block(None)));
        assert_eq!(parse("/block @bob"), Ok(Slash::Block(Some("bob".into()))));
        assert_eq!(parse("/react 👍"), Ok(Slash::React("👍".into())));
        assert_eq!(parse("/react <3"), Ok(Slash::React("❤️".into())));
        assert_eq!(parse("/react"), Ok(Slash::React(String::new())));
    }

    #[test]
    fn mistakes_say_what_to_do() {
        assert!(parse("/new").expect_err("nobody").contains("/new HANDLE"));
        assert!(parse("/new bob --name").expect_err("no name").contains("--name what"));
        assert!(parse("/new bob --name  \"\"").expect_err("no name").contains("--name what"));
        assert!(parse("/add Bob").expect_err("no handle").contains("neither"));
        assert!(parse("/unblock").expect_err("nobody").contains("/people"));
        assert!(parse("/nwe bob").expect_err("unknown").contains("/help"));
    }
}
