//! Everything that can be asked beside a client, once for both ends: a guest makes a request of a command, a
//! host a command of the request.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::ENTRIES;
use crate::content::{Kind, Said, SaidError, Target};
use crate::conversation::{ConversationId, MessageId};
use crate::engine::{Command, Error, Page, Reply, Who};
use crate::identity::{BadRoute, PersonId, RelayUrl, Route, SafetyNumber};

/// Called once, with the answer.
pub(super) type Then = Box<dyn FnOnce(Result<Value, Error>) + Send>;

/// A method and its parameters. `docs/json-rpc.md` has an example of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Whose profile it is.
    Account {},
    /// How far everything is.
    State {},
    /// All conversations, most recent first.
    Conversations {},
    /// Everybody who was met.
    People {},
    /// The members' devices of a conversation.
    Members {
        /// Which.
        conversation: ConversationId,
    },
    /// Entries of a conversation, oldest first.
    History {
        /// Which.
        conversation: ConversationId,
        /// Entries before this row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// Entries after this row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// The last so many, or the first so many behind `after`.
        #[serde(default = "a_page")]
        limit: usize,
    },
    /// Say something.
    Send {
        /// Where.
        conversation: ConversationId,
        /// What.
        said: Kind,
        /// What it alters, if it is a change.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Target>,
        /// What people are shown whose client does not know the kind.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        fallback: String,
        /// The caller's own choice, so that a repeat says nothing twice.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<MessageId>,
    },
    /// Everything was seen, or everything up to a row.
    MarkRead {
        /// Where.
        conversation: ConversationId,
        /// Up to here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        up_to: Option<u64>,
    },
    /// Start a conversation.
    Start {
        /// With whom.
        members: Vec<Somebody>,
        /// Its name.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        name: String,
        /// Another one, although there is one with this one person.
        #[serde(default)]
        again: bool,
        /// The caller's own choice, so that a repeat begins nothing new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<ConversationId>,
    },
    /// Add people.
    Add {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        members: Vec<Somebody>,
    },
    /// Remove somebody.
    Remove {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        person: PersonId,
    },
    /// Go on in a fresh mailbox.
    Move {
        /// What.
        conversation: ConversationId,
        /// On this relay, which must be our own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay: Option<RelayUrl>,
    },
    /// Leave.
    Leave {
        /// What.
        conversation: ConversationId,
    },
    /// Follow an invitation.
    Accept {
        /// Which.
        conversation: ConversationId,
        /// Also to a relay that is not used yet.
        #[serde(default)]
        foreign_relay: bool,
    },
    /// Forget an invitation, or a conversation that has ended.
    Forget {
        /// Which.
        conversation: ConversationId,
    },
    /// Put a conversation away, or take it out again.
    Archive {
        /// Which.
        conversation: ConversationId,
        /// Whether it is away from now on.
        archived: bool,
    },
    /// Somebody's invitations leave no trace any more, or wait again.
    Block {
        /// Whose.
        person: PersonId,
        /// Whether they are blocked from now on.
        blocked: bool,
    },
    /// Somebody's key was compared, or was not.
    Verify {
        /// Whose.
        person: PersonId,
        /// Whether they are marked from now on.
        verified: bool,
    },
    /// The safety number with somebody.
    SafetyNumber {
        /// With whom.
        person: PersonId,
    },
    /// The relays that are in use, our own first.
    Relays {},
    /// A relay is in use from now on.
    UseRelay {
        /// Its URL.
        relay: String,
    },
    /// A relay is reached like this from now on.
    Route {
        /// Its URL.
        relay: String,
        /// `direct`, or a SOCKS5 proxy; like our own relay if it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
    },
    /// Write all of the profile into a file.
    Backup {
        /// Its whole path.
        file: PathBuf,
    },
    /// Answered when everything is sent and read.
    Settled {
        /// Or with an error after so many milliseconds.
        #[serde(default = "a_minute")]
        timeout_ms: u64,
    },
    /// From now on events are told.
    Subscribe {},
}

fn a_page() -> usize {
    100
}

fn a_minute() -> u64 {
    60_000
}

/// The names of all methods.
pub(super) const METHODS: [&str; 25] = [
    "account",
    "state",
    "conversations",
    "people",
    "members",
    "history",
    "send",
    "mark_read",
    "start",
    "add",
    "remove",
    "move",
    "leave",
    "accept",
    "forget",
    "archive",
    "block",
    "verify",
    "safety_number",
    "relays",
    "use_relay",
    "route",
    "backup",
    "settled",
    "subscribe",
];

/// Somebody to talk to, as text: a contact link, a handle at our own relay, `handle@host` at another one, or
/// the id of somebody who was met.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Somebody(Who);

impl Serialize for Somebody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Who::Link(link) => serializer.collect_str(link),
            Who::Handle(handle) => serializer.collect_str(handle),
            // With the whole address, which may be one without TLS.
            Who::Elsewhere(handle, relay) => serializer.collect_str(&format_args!("{handle}@{relay}")),
            Who::Person(person) => person.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Somebody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let who = if let Some(elsewhere) = Who::elsewhere(&text) {
            elsewhere
        } else if text.contains("://") {
            Who::Link(text.parse().map_err(serde::de::Error::custom)?)
        } else if let Ok(person) = text.parse() {
            Who::Person(person)
        } else {
            Who::Handle(posthorn_proto::Handle::parse(&text).map_err(serde::de::Error::custom)?)
        };
        Ok(Self(who))
    }
}

/// What a host does for a request.
pub(super) enum Doing {
    /// Gives the command to its engine, which answers.
    Command(Command),
    /// Writes all of the profile into a file.
    Backup(PathBuf, Reply<()>),
    /// Waits until everything is settled, for so long at most.
    Settle(Duration, Then),
    /// Tells events from now on.
    Subscribe(Then),
}

/// The answer of a command, as JSON.
fn answer<T: Serialize + Send + 'static>(then: Then) -> Reply<T> {
    answer_as(then, |answer| json!(answer))
}

fn answer_as<T: Send + 'static>(then: Then, form: impl FnOnce(T) -> Value + Send + 'static) -> Reply<T> {
    Reply::new(move |result| then(result.map(form)))
}

/// What was asked for is not what a client takes.
fn said(kind: Kind, target: Option<Target>, fallback: &str) -> Result<Said, SaidError> {
    match target {
        Some(target) => Said::change(kind, target)?,
        None => Said::new(kind)?,
    }
    .with_fallback(fallback)
}

fn route_of(relay: &str, route: Option<&str>) -> Result<(RelayUrl, Option<Route>), Error> {
    let relay = RelayUrl::parse(relay).map_err(|error| Error::BadContent(error.to_string()))?;
    let route = route.map(str::parse).transpose();
    Ok((relay, route.map_err(|error: BadRoute| Error::BadContent(error.to_string()))?))
}

fn who(members: Vec<Somebody>) -> Vec<Who> {
    members.into_iter().map(|somebody| somebody.0).collect()
}

impl Request {
    /// What is to be done; the answer goes to `then`, at once if there is nothing to do but to refuse.
    pub(super) fn doing(self, then: Then) -> Option<Doing> {
        let command = match self {
            Self::Account {} => Command::Account(answer(then)),
            Self::State {} => Command::State(answer(then)),
            Self::Conversations {} => Command::Conversations(answer(then)),
            Self::People {} => Command::People(answer(then)),
            Self::Members { conversation } => Command::Members(conversation, answer(then)),
            Self::History { conversation, before, after, limit } => {
                let page = Page { before, after, limit: limit.min(ENTRIES) };
                Command::History { conversation, page, reply: answer(then) }
            }
            Self::Send { conversation, said: kind, target, fallback, id } => {
                match said(kind, target, &fallback) {
                    Ok(said) => {
                        let reply = answer_as(then, |id: MessageId| json!({"id": id}));
                        Command::Send { conversation, id, said, reply }
                    }
                    Err(error) => {
                        then(Err(error.into()));
                        return None;
                    }
                }
            }
            Self::MarkRead { conversation, up_to } => {
                Command::MarkRead { conversation, up_to, reply: answer(then) }
            }
            Self::Start { members, name, again, id } => {
                let reply = answer_as(then, |id: ConversationId| json!({"conversation": id}));
                Command::Start { id, name, members: who(members), again, reply }
            }
            Self::Add { conversation, members } => {
                Command::Add { conversation, members: who(members), reply: answer(then) }
            }
            Self::Remove { conversation, person } => {
                Command::Remove { conversation, person, reply: answer(then) }
            }
            Self::Move { conversation, relay } => Command::Move { conversation, relay, reply: answer(then) },
            Self::Leave { conversation } => Command::Leave(conversation, answer(then)),
            Self::Accept { conversation, foreign_relay } => {
                Command::Accept { conversation, foreign_relay, reply: answer(then) }
            }
            Self::Forget { conversation } => Command::Forget(conversation, answer(then)),
            Self::Archive { conversation, archived } => {
                Command::Archive { conversation, archived, reply: answer(then) }
            }
            Self::Block { person, blocked } => Command::Block { person, blocked, reply: answer(then) },
            Self::Verify { person, verified } => Command::Verify { person, verified, reply: answer(then) },
            Self::SafetyNumber { person } => {
                let form = |number: SafetyNumber| {
                    let groups = number.groups().collect::<Vec<_>>();
                    json!({"digits": number.digits(), "groups": groups})
                };
                Command::SafetyNumber(person, answer_as(then, form))
            }
            Self::Relays {} => Command::Relays(answer(then)),
            Self::UseRelay { relay } => match RelayUrl::parse(&relay) {
                Ok(relay) => Command::UseRelay(relay, answer(then)),
                Err(error) => {
                    then(Err(Error::BadContent(error.to_string())));
                    return None;
                }
            },
            Self::Route { relay, route } => match route_of(&relay, route.as_deref()) {
                Ok((relay, route)) => Command::Route { relay, route, reply: answer(then) },
                Err(error) => {
                    then(Err(error));
                    return None;
                }
            },
            Self::Backup { file } => return Some(Doing::Backup(file, answer(then))),
            Self::Settled { timeout_ms } => {
                return Some(Doing::Settle(Duration::from_millis(timeout_ms), then));
            }
            Self::Subscribe {} => return Some(Doing::Subscribe(then)),
        };
        Some(Doing::Command(command))
    }

    /// What a guest asks for a backup.
    pub(super) fn backup(file: PathBuf, reply: Reply<()>) -> (Self, Then) {
        (Self::Backup { file }, read(reply))
    }

    /// What a guest asks for a command, and who takes the answer. `None`, with the answer given: it is for
    /// whoever has the profile alone.
    pub(super) fn of(command: Command) -> Option<(Self, Then)> {
        Some(match command {
            Command::Account(reply) => (Self::Account {}, read(reply)),
            Command::State(reply) => (Self::State {}, read(reply)),
            Command::Conversations(reply) => (Self::Conversations {}, read(reply)),
            Command::People(reply) => (Self::People {}, read(reply)),
            Command::Members(conversation, reply) => (Self::Members { conversation }, read(reply)),
            Command::History { conversation, page: Page { before, after, limit }, reply } => {
                (Self::History { conversation, before, after, limit }, read(reply))
            }
            Command::Send { conversation, id, said, reply } => {
                let (target, fallback) = (said.target(), said.fallback().to_owned());
                let request = Self::Send { conversation, said: said.read(), target, fallback, id };
                (request, read_field(reply, "id"))
            }
            Command::MarkRead { conversation, up_to, reply } => {
                (Self::MarkRead { conversation, up_to }, read(reply))
            }
            Command::Start { id, name, members, again, reply } => {
                let members = members.into_iter().map(Somebody).collect();
                (Self::Start { members, name, again, id }, read_field(reply, "conversation"))
            }
            Command::Add { conversation, members, reply } => (
                Self::Add { conversation, members: members.into_iter().map(Somebody).collect() },
                read(reply),
            ),
            Command::Remove { conversation, person, reply } => {
                (Self::Remove { conversation, person }, read(reply))
            }
            Command::Move { conversation, relay, reply } => (Self::Move { conversation, relay }, read(reply)),
            Command::Leave(conversation, reply) => (Self::Leave { conversation }, read(reply)),
            Command::Accept { conversation, foreign_relay, reply } => {
                (Self::Accept { conversation, foreign_relay }, read(reply))
            }
            Command::Forget(conversation, reply) => (Self::Forget { conversation }, read(reply)),
            Command::Archive { conversation, archived, reply } => {
                (Self::Archive { conversation, archived }, read(reply))
            }
            Command::Block { person, blocked, reply } => (Self::Block { person, blocked }, read(reply)),
            Command::Verify { person, verified, reply } => (Self::Verify { person, verified }, read(reply)),
            Command::SafetyNumber(person, reply) => {
                (Self::SafetyNumber { person }, read_field(reply, "digits"))
            }
            Command::Relays(reply) => (Self::Relays {}, read(reply)),
            Command::UseRelay(relay, reply) => (Self::UseRelay { relay: relay.to_string() }, read(reply)),
            Command::Route { relay, route, reply } => {
                let (relay, route) = (relay.to_string(), route.map(|route| route.to_string()));
                (Self::Route { relay, route }, read(reply))
            }
            Command::Register { reply, .. } => return for_the_holder(reply),
            Command::Consent(_, reply) => return for_the_holder(reply),
            Command::RemoveAccount(reply) => return for_the_holder(reply),
        })
    }
}

fn for_the_holder<T: Send + 'static>(reply: Reply<T>) -> Option<(Request, Then)> {
    let reason = "this is for the process that has the profile: close that one first".to_owned();
    reply.give(Err(Error::Failed { cause: "PROFILE_IN_USE", reason }));
    None
}

/// The answer of a host, read.
fn read<T: for<'de> Deserialize<'de> + Send + 'static>(reply: Reply<T>) -> Then {
    read_as(reply, Some)
}

fn read_field<T: for<'de> Deserialize<'de> + Send + 'static>(reply: Reply<T>, field: &'static str) -> Then {
    read_as(reply, move |mut answer| answer.get_mut(field).map(Value::take))
}

fn read_as<T: for<'de> Deserialize<'de> + Send + 'static>(
    reply: Reply<T>,
    form: impl FnOnce(Value) -> Option<Value> + Send + 'static,
) -> Then {
    Box::new(move |answered: Result<Value, Error>| {
        let read = |value| form(value).and_then(|value| serde_json::from_value(value).ok());
        reply.give(answered.and_then(|value| read(value).ok_or(Error::Internal)));
    })
}
