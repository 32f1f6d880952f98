//! What stands around a request, an answer and an event on a line: JSON-RPC 2.0.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::request::{METHODS, Request};
use crate::engine::{Error, Event};

/// JSON-RPC's own codes.
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
/// What was understood was not done: `data.code` says why.
const NOT_DONE: i64 = -32000;

/// The name under which events are told.
pub(super) const EVENT: &str = "event";

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    code: i64,
    message: String,
    data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Data {
    /// This project's stable code.
    code: String,
    /// What the message is about: a name, or the reason alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
    /// The code is the relay's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_relay: bool,
}

impl Failure {
    fn new(code: i64, name: &str, message: impl Into<String>) -> Self {
        let data = Data { code: name.to_owned(), detail: String::new(), by_relay: false };
        Self { code, message: message.into(), data }
    }

    fn malformed(code: i64, message: impl Into<String>) -> Self {
        let name = match code {
            PARSE_ERROR => "BAD_JSON",
            METHOD_NOT_FOUND => "UNKNOWN_METHOD",
            INVALID_PARAMS => "BAD_PARAMS",
            _ => "BAD_REQUEST",
        };
        Self::new(code, name, message)
    }

    /// A line of more than this many bytes.
    pub(super) fn too_long(most: usize) -> Self {
        Self::new(INVALID_REQUEST, "LINE_TOO_LONG", format!("a request is one line of at most {most} bytes"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (message, code) = (error.to_string(), error.code().to_owned());
        let (code, detail, by_relay) = match error {
            Error::Refused { code, message } => (code, message, true),
            Error::Failed { reason, .. } => (code, reason, false),
            Error::UnknownPerson(detail)
            | Error::ForeignRelay(detail)
            | Error::PlainRelay(detail)
            | Error::NotActive(detail)
            | Error::BadContent(detail)
            | Error::NotSettled(detail) => (code, detail, false),
            _ => (code, String::new(), false),
        };
        Self { code: NOT_DONE, message, data: Data { code, detail, by_relay } }
    }
}

impl From<Failure> for Error {
    fn from(Failure { message, data: Data { code, detail, by_relay }, .. }: Failure) -> Self {
        if by_relay {
            return Self::Refused { code, message: detail };
        }
        match code.as_str() {
            "NO_ACCOUNT" => Self::NoAccount,
            "UNKNOWN_CONVERSATION" => Self::UnknownConversation,
            "NOT_ACTIVE" => Self::NotActive(detail),
            "STILL_IN" => Self::StillIn,
            "BAD_CONTENT" => Self::BadContent(detail),
            "ID_TAKEN" => Self::IdTaken,
            "UNKNOWN_PERSON" => Self::UnknownPerson(detail),
            "YOURSELF" => Self::Yourself,
            "NOBODY" => Self::Nobody,
            "FOREIGN_RELAY" => Self::ForeignRelay(detail),
            "PLAIN_RELAY" => Self::PlainRelay(detail),
            "STOPPED" => Self::Stopped,
            "UNAVAILABLE" => Self::Unavailable,
            "INTERNAL" => Self::Internal,
            "NOT_SETTLED" => Self::NotSettled(detail),
            code => {
                let reason = if detail.is_empty() { message } else { detail };
                Self::Failed { cause: lasting(code), reason }
            }
        }
    }
}

/// Different codes that are remembered; there are fewer.
const CODES: usize = 512;

/// A code of another process, for as long as this one lives: each is kept once.
fn lasting(code: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let Ok(mut known) = KNOWN.lock() else { return "INTERNAL" };
    if let Some(code) = known.get(code) {
        return code;
    }
    if known.len() == CODES {
        return "INTERNAL";
    }
    let code: &'static str = Box::leak(code.into());
    known.insert(code);
    code
}

/// A request that was not understood, and whom that concerns, if anybody waits for an answer.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) id: Option<Value>,
    pub(super) failure: Failure,
}

/// Reads a guest's line: a request, and the id under which it is answered, if it is.
pub(super) fn read_request(line: &[u8]) -> Result<(Option<Value>, Request), Malformed> {
    let malformed =
        |id: Option<Value>, code, why: &str| Err(Malformed { id, failure: Failure::malformed(code, why) });
    let mut line = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(line)) => line,
        Ok(_) => return malformed(Some(Value::Null), INVALID_REQUEST, "a request is one object: {...}"),
        Err(error) => {
            return malformed(Some(Value::Null), PARSE_ERROR, &format!("this line is no JSON: {error}"));
        }
    };
    let id = line.remove("id");
    if !matches!(id, None | Some(Value::Null | Value::String(_) | Value::Number(_))) {
        return malformed(Some(Value::Null), INVALID_REQUEST, "an id is a text or a number");
    }
    if line.get("jsonrpc") != Some(&json!("2.0")) {
        return malformed(id.or(Some(Value::Null)), INVALID_REQUEST, "\"jsonrpc\" must be \"2.0\"");
    }
    let Some(Value::String(method)) = line.remove("method") else {
        return malformed(id.or(Some(Value::Null)), INVALID_REQUEST, "\"method\" is missing");
    };
    if !METHODS.contains(&method.as_str()) {
        return malformed(id, METHOD_NOT_FOUND, &format!("no such method; there are {}", METHODS.join(", ")));
    }
    let params = line.remove("params").filter(|params| !params.is_null()).unwrap_or_else(|| json!({}));
    match serde_json::from_value(json!({"method": method, "params": params})) {
        Ok(request) => Ok((id, request)),
        Err(error) => malformed(id, INVALID_PARAMS, &format!("{method}: {error}")),
    }
}

/// A request's line.
pub(super) fn request(id: u64, request: &Request) -> Vec<u8> {
    let mut value = json!(request);
    if let Value::Object(members) = &mut value {
        members.insert("jsonrpc".to_owned(), json!("2.0"));
        members.insert("id".to_owned(), json!(id));
    }
    line(&value)
}

/// An answer's line.
pub(super) fn answer(id: &Value, answer: Result<Value, Failure>) -> Vec<u8> {
    line(&match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(failure) => json!({"jsonrpc": "2.0", "id": id, "error": failure}),
    })
}

/// An event's line.
pub(super) fn event(event: &Event) -> Vec<u8> {
    line(&json!({"jsonrpc": "2.0", "method": EVENT, "params": event}))
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// What a guest hears.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(u64, Result<Value, Error>),
    Event(Box<Event>),
    /// Something of a later version.
    Other,
}

/// Reads a host's line.
pub(super) fn heard(line: &[u8]) -> Heard {
    #[derive(Deserialize)]
    struct Line {
        id: Option<u64>,
        #[serde(default)]
        result: Value,
        error: Option<Failure>,
        method: Option<String>,
        #[serde(default)]
        params: Value,
    }
    match serde_json::from_slice::<Line>(line) {
        Ok(Line { id: Some(id), error: Some(failure), .. }) => Heard::Answer(id, Err(failure.into())),
        Ok(Line { id: Some(id), result, .. }) => Heard::Answer(id, Ok(result)),
        Ok(Line { method: Some(method), params, .. }) if method == EVENT => {
            serde_json::from_value(params).map_or(Heard::Other, |event| Heard::Event(Box::new(event)))
        }
        _ => Heard::Other,
    }
}
