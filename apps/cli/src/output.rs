//! What things look like: for people as text, for programs as JSON with stable keys (`docs/cli.md` lists
//! them). Nothing here prints: that is `print`.

use jiff::tz::TimeZone;
use posthorn_client::conversation::{Body, Cause, ConversationState, Message, MessageState, Notice};
use posthorn_client::sync::{Account, ConversationSummary, Event, MemberSummary};
use serde_json::{Value, json};

use crate::plain::{plain, plain_line};
use crate::{clock, name};

/// One line about something that happened to a conversation; whoever is called `me` is "you".
pub(crate) fn notice_text(notice: &Notice, me: &str) -> String {
    let one = |name: &String| if name == me { "you".to_owned() } else { name.clone() };
    let list = |names: &[String]| match names.iter().map(one).collect::<Vec<_>>().as_slice() {
        [] => "nobody".to_owned(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    };
    let text = match notice {
        Notice::Added { by, who } => format!("{} added {}", one(by), list(who)),
        // The commit that says by whom is not to be had any more.
        Notice::Removed { by, who } if by.is_empty() => format!("removed: {}", list(who)),
        Notice::Removed { by, who } => format!("{} removed {}", one(by), list(who)),
        Notice::Joined { by } => format!("{by} invited you"),
        Notice::Left { who } => format!("{} left", one(who)),
    };
    plain_line(&text)
}

/// What an entry says, for people.
pub(crate) fn body_text(body: &Body, me: &str) -> String {
    match body {
        Body::Text(text) => plain(text),
        Body::Notice(notice) => notice_text(notice, me),
        Body::Unreadable(cause) => format!("a message came that cannot be read ({cause})"),
    }
}

/// The sign for how far a message got.
pub(crate) fn mark(state: MessageState) -> String {
    match state {
        MessageState::Queued => "…".to_owned(),
        MessageState::Sent => "✓".to_owned(),
        MessageState::Delivered => "✓✓".to_owned(),
        MessageState::Read => "✓✓ read".to_owned(),
        MessageState::Received => String::new(),
        MessageState::Failed(cause) => format!("✗ {cause}"),
    }
}

/// The stable name of a state.
pub(crate) fn state_name(state: MessageState) -> &'static str {
    match state {
        MessageState::Queued => "queued",
        MessageState::Sent => "sent",
        MessageState::Delivered => "delivered",
        MessageState::Read => "read",
        MessageState::Received => "received",
        MessageState::Failed(_) => "failed",
    }
}

/// The stable name of where a conversation stands, and why if it stopped.
pub(crate) fn conversation_state(state: ConversationState) -> (&'static str, Option<Cause>) {
    match state {
        ConversationState::Creating => ("creating", None),
        ConversationState::Active => ("active", None),
        ConversationState::Leaving => ("leaving", None),
        ConversationState::Left => ("left", None),
        ConversationState::Removed => ("removed", None),
        ConversationState::Stopped(cause) => ("stopped", Some(cause)),
    }
}

/// Who says it, for people.
pub(crate) fn sender(message: &Message) -> String {
    if message.mine { "you".to_owned() } else { plain_line(&message.sender) }
}

/// A line of a history.
pub(crate) fn message_line(message: &Message, me: &str, zone: &TimeZone) -> String {
    let time = clock::date_and_time(message.sent_at, zone);
    let text = body_text(&message.body, me);
    if !matches!(message.body, Body::Text(_)) {
        return format!("{time}  -- {text}");
    }
    let indent = format!("\n{:18}", "");
    let mark = mark(message.state);
    let gap = if mark.is_empty() { "" } else { "  " };
    format!("{time}  {}: {}{gap}{mark}", sender(message), text.replace('\n', &indent))
}

/// The identity key as contact links have it: lower-case base32.
pub(crate) fn identity(key: &[u8]) -> String {
    data_encoding::BASE32_NOPAD.encode(key).to_ascii_lowercase()
}

/// An account, for programs.
pub(crate) fn account_json(account: &Account) -> Value {
    with_identity(json!(account), &account.identity_key)
}

/// A member's device, for programs.
pub(crate) fn member_json(member: &MemberSummary) -> Value {
    with_identity(json!(member), &member.identity_key)
}

/// The key in the one form that people see everywhere.
fn with_identity(mut value: Value, key: &[u8]) -> Value {
    merge(&mut value, json!({"identity_key": identity(key)}));
    value
}

/// A member's device in a list, with this much room for the handle.
pub(crate) fn member_line(member: &MemberSummary, room: usize) -> String {
    let me = if member.me { "  (you)" } else { "" };
    format!("{:room$} identity {}{me}", plain_line(&member.handle), identity(&member.identity_key))
}

/// A safety number's twelve groups in three rows.
pub(crate) fn safety_rows<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<String> {
    groups.collect::<Vec<_>>().chunks(4).map(|row| row.join("  ")).collect()
}

/// An entry of a history, for programs.
pub(crate) fn message_json(message: &Message) -> Value {
    let mut value = json!({
        "id": message.id,
        "conversation": message.conversation,
        "row": message.row,
        "seq": message.seq,
        "sender": message.sender,
        "mine": message.mine,
        "sent_at": clock::rfc3339(message.sent_at),
        "sent_at_ms": message.sent_at,
        "state": state_name(message.state),
    });
    let more = match &message.body {
        Body::Text(text) => json!({"kind": "text", "text": text}),
        Body::Unreadable(cause) => json!({"kind": "unreadable", "cause": cause}),
        Body::Notice(notice) => {
            let mut value = match notice {
                Notice::Added { by, who } => json!({"notice": "added", "by": by, "who": who}),
                Notice::Removed { by, who } => json!({"notice": "removed", "by": by, "who": who}),
                Notice::Joined { by } => json!({"notice": "joined", "by": by}),
                Notice::Left { who } => json!({"notice": "left", "who": [who]}),
            };
            merge(&mut value, json!({"kind": "notice", "text": notice_text(notice, "")}));
            value
        }
    };
    merge(&mut value, more);
    if let MessageState::Failed(cause) = message.state {
        merge(&mut value, json!({"cause": cause}));
    }
    value
}

/// A conversation in a list, for programs.
pub(crate) fn conversation_json(conversation: &ConversationSummary, me: &str) -> Value {
    let (state, cause) = conversation_state(conversation.state);
    let mut value = json!({
        "id": conversation.id,
        "name": conversation.name,
        "title": name::title(conversation, me),
        "members": conversation.members,
        "state": state,
        "unread": conversation.unread,
        "epoch": conversation.epoch,
        "last": conversation.last.as_ref().map(message_json),
    });
    if let Some(cause) = cause {
        merge(&mut value, json!({"cause": cause}));
    }
    value
}

/// An event, for programs.
pub(crate) fn event_json(event: &Event) -> Value {
    let (name, more) = match event {
        Event::Connected => ("connected", json!({})),
        Event::Disconnected { reason, retry_in_ms } => {
            ("disconnected", json!({"reason": reason, "retry_in_ms": retry_in_ms}))
        }
        Event::Message(message) => ("message", message_json(message)),
        Event::MessageState { conversation, id, state } => {
            let mut more = json!({"conversation": conversation, "id": id, "state": state_name(*state)});
            if let MessageState::Failed(cause) = state {
                merge(&mut more, json!({"cause": cause}));
            }
            ("message_state", more)
        }
        Event::Conversation { conversation } => ("conversation", json!({"conversation": conversation})),
        Event::Alarm { conversation, cause, seq, text } => {
            ("alarm", json!({"conversation": conversation, "cause": cause, "seq": seq, "text": text}))
        }
    };
    let mut value = json!({"event": name});
    merge(&mut value, more);
    value
}

/// Adds the members of one object to another.
pub(crate) fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use posthorn_client::conversation::{ConversationId, MessageId};

    use super::*;

    pub(crate) fn message(row: u64, sender: &str, body: Body, state: MessageState) -> Message {
        Message {
            row,
            id: MessageId([row as u8; 16]),
            conversation: ConversationId([7; 16]),
            sender: sender.to_owned(),
            mine: state != MessageState::Received,
            body,
            sent_at: 1_795_392_180_000 + row * 60_000,
            state,
            seq: (state != MessageState::Queued).then_some(row),
        }
    }

    #[test]
    fn the_keys_of_a_message_are_those_of_the_documentation() {
        let text = message(1, "ann", Body::Text("hi".into()), MessageState::Sent);
        assert_eq!(
            message_json(&text),
            json!({"id": text.id, "conversation": text.conversation, "row": 1, "seq": 1, "sender": "ann", "mine": true,
                "sent_at": "2026-11-23T00:04:00.000Z", "sent_at_ms": 1_795_392_240_000_u64, "state": "sent",
                "kind": "text", "text": "hi"})
        );
        let notice = Body::Notice(Notice::Added { by: "ann".into(), who: vec!["bob".into(), "cleo".into()] });
        let value = message_json(&message(2, "ann", notice, MessageState::Received));
        assert_eq!(value["notice"], "added");
        assert_eq!(value["who"], json!(["bob", "cleo"]));
        assert_eq!(value["text"], "ann added bob and cleo");
        let value =
            message_json(&message(3, "", Body::Unreadable(Cause::Gap), MessageState::Failed(Cause::Full)));
        assert_eq!(
            (&value["kind"], &value["cause"], &value["state"]),
            (&json!("unreadable"), &json!("FULL"), &json!("failed"))
        );
    }

    #[test]
    fn an_identity_has_one_form() {
        let key = [7; 32];
        let member = MemberSummary { handle: "bob".into(), identity_key: key, device: [1; 16], me: false };
        assert!(member_line(&member, 8).ends_with(&identity(&key)));
        assert_eq!(member_json(&member)["identity_key"], identity(&key));
        assert_eq!(identity(&key).len(), 52, "as contact links have it");
    }

    #[test]
    fn twelve_groups_make_three_rows() {
        let groups: Vec<String> = (0..12).map(|n| format!("{n:05}")).collect();
        let rows = safety_rows(groups.iter().map(String::as_str));
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[2], "00008  00009  00010  00011");
    }

    #[test]
    fn lines_of_a_history_are_indented() {
        let text = message(1, "ann", Body::Text("one\ntwo".into()), MessageState::Delivered);
        assert_eq!(
            message_line(&text, "ann", &TimeZone::UTC),
            "2026-11-23 00:04  you: one\n                  two  ✓✓"
        );
        let text = message(1, "bob", Body::Text("hi".into()), MessageState::Received);
        assert_eq!(message_line(&text, "ann", &TimeZone::UTC), "2026-11-23 00:04  bob: hi");
    }
}
