//! What things look like for people. For programs they are the client library's own JSON, which `docs/cli.md`
//! lists. Nothing here prints: that is `print`.

use jiff::tz::TimeZone;
use posthorn_client::content::{Kind, Named};
use posthorn_client::conversation::{Body, Cause, ConversationState, Entry, EntryState, Notice, Unreadable};
use posthorn_client::engine::{ConversationSummary, Known, MemberSummary, Person};
use posthorn_client::identity::PersonId;
use serde_json::Value;

use crate::clock;
use crate::invitation::relay_name;
use crate::plain::{plain, plain_line};

/// One line about something that happened to a conversation; `me` is "you".
pub(crate) fn notice_text(notice: &Notice, me: &PersonId) -> String {
    let one = |who: &Named| if who.person == *me { "you".to_owned() } else { who.handle.clone() };
    let list = |people: &[Named]| match people.iter().map(one).collect::<Vec<_>>().as_slice() {
        [] => "nobody".to_owned(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    };
    let text = match notice {
        Notice::Invited { by } => format!("{} invites you", by.handle),
        Notice::Joined { by } => format!("{} invited you", by.handle),
        Notice::Added { by, who } => format!("{} added {}", one(by), list(who)),
        Notice::Removed { by, who } => format!("{} removed {}", one(by), list(who)),
        Notice::Left { who } => format!("{} left", one(who)),
        Notice::Returned { by } => format!("{} brought this device back into the conversation", one(by)),
        Notice::Moved { by, relay } => format!("{} moved this conversation to {relay}", one(by)),
        Notice::Repaired { by, .. } => {
            format!("the conversation was repaired by {}, and goes on in another mailbox", one(by))
        }
        Notice::Back { who } if who.len() == 1 => format!("{} is back", list(who)),
        Notice::Back { who } => format!("{} are back", list(who)),
        _ => "something happened that needs a newer version to be told".to_owned(),
    };
    plain_line(&text)
}

/// What an entry says, for people.
pub(crate) fn body_text(body: &Body, me: &PersonId) -> String {
    match body {
        Body::Said(Kind::Text(text)) => plain(&text.text),
        Body::Said(kind) => plain_line(&format!("[{}]", kind.line())),
        Body::Notice(notice) => notice_text(notice, me),
        Body::Unreadable(run) => unreadable_text(run),
        _ => "something came that needs a newer version to be shown".to_owned(),
    }
}

fn unreadable_text(run: &Unreadable) -> String {
    match run.count {
        1 => format!("a message came that cannot be read ({})", run.cause),
        count => format!("{count} messages came that cannot be read ({})", run.cause),
    }
}

/// The reactions to an entry: each sign once, with how many and who, the most frequent first.
pub(crate) fn reactions(entry: &Entry) -> Vec<(String, Vec<String>)> {
    let mut signs: Vec<(String, Vec<String>)> = Vec::new();
    for (change, emoji) in entry.reactions() {
        let who = if change.mine { "you".to_owned() } else { plain_line(&change.handle) };
        let emoji = plain_line(emoji);
        match signs.iter_mut().find(|(sign, _)| *sign == emoji) {
            Some((_, people)) => people.push(who),
            None => signs.push((emoji, vec![who])),
        }
    }
    signs.sort_by_key(|(_, people)| std::cmp::Reverse(people.len()));
    signs
}

/// Reactions on one line, if there are any: `👍 2 (you, bob)  ❤️ cleo`.
pub(crate) fn reactions_text(entry: &Entry) -> Option<String> {
    let one = |(sign, people): &(String, Vec<String>)| match &people[..] {
        [only] => format!("{sign} {only}"),
        several => format!("{sign} {} ({})", several.len(), several.join(", ")),
    };
    let signs = reactions(entry);
    (!signs.is_empty()).then(|| signs.iter().map(one).collect::<Vec<_>>().join("  "))
}

/// The sign for how far a message got.
pub(crate) fn mark(state: EntryState) -> String {
    match state {
        EntryState::Queued => "…".to_owned(),
        EntryState::Sent => "✓".to_owned(),
        EntryState::Delivered => "✓✓".to_owned(),
        EntryState::Read => "✓✓ read".to_owned(),
        EntryState::Failed(cause) => format!("✗ {cause}"),
        _ => String::new(),
    }
}

/// The stable name of a state.
pub(crate) fn state_name(state: EntryState) -> &'static str {
    match state {
        EntryState::Queued => "queued",
        EntryState::Sent => "sent",
        EntryState::Delivered => "delivered",
        EntryState::Read => "read",
        EntryState::Failed(_) => "failed",
        _ => "received",
    }
}

/// Where a conversation stands, in a word or two; nothing if it is open.
pub(crate) fn conversation_state(state: &ConversationState) -> Option<String> {
    Some(match state {
        ConversationState::Active => return None,
        ConversationState::Invited => "invitation".to_owned(),
        ConversationState::Creating => "creating".to_owned(),
        ConversationState::Leaving => "leaving".to_owned(),
        ConversationState::Left => "left".to_owned(),
        ConversationState::Removed => "removed".to_owned(),
        ConversationState::Suspended(why) => format!("suspended: {}", why.cause),
        _ => "needs a newer version".to_owned(),
    })
}

/// Who is being added to a conversation, if anybody is: they are no members before the relay has answered.
pub(crate) fn adding_text(adding: &[String]) -> Option<String> {
    (!adding.is_empty()).then(|| format!("inviting {}", plain_line(&adding.join(", "))))
}

/// Since when a conversation is suspended, why, and what is done about it, for people: wherever that is told.
/// `None` if it is not. `another` is what to type for another one with somebody, `accept` to agree to the
/// relay where it is now.
pub(crate) fn suspended_text(
    conversation: &ConversationSummary,
    (another, accept): (&str, &str),
    (now, zone): (u64, &TimeZone),
) -> Option<String> {
    let ConversationState::Suspended(suspension) = &conversation.state else { return None };
    let cause = suspension.cause;
    if cause == Cause::ForeignRelay {
        // What to type stands at the beginning: there may be no room for the rest.
        return Some(format!(
            "waiting: it moved to {}, which you do not use yet: {accept} goes on there, and shows that relay your \
             address ({cause}); what you write is kept until then",
            relay_name(&conversation.relay)
        ));
    }
    let why = match cause {
        Cause::ChainMismatch => "the relay showed its members different histories",
        Cause::Gap => "the relay left something out",
        Cause::BadTurn | Cause::BadCommit | Cause::CommitWithoutTurn => {
            "somebody changed it in a way that is not allowed"
        }
        Cause::RolledBack => "this profile is an older copy of itself",
        Cause::RelayRolledBack | Cause::RelayRestored => "the relay was put back to an earlier state",
        Cause::KeyMismatch => "its lock at the relay is not the one of its members",
        Cause::Lapsed => "the relay deleted what was not read in time",
        Cause::MailboxGone => "the relay no longer has it",
        Cause::Evicted => "the relay says that you were removed",
        Cause::ReadKeyRefused => "the relay does not let this device read it",
        Cause::OpenedElsewhere => "this profile is open somewhere else, too: a copy of it",
        Cause::RelayChanged => "the relay is not the one that it was",
        Cause::Damaged => "the relay lost a part of it",
        Cause::UpdateNeeded => "it needs a newer version of this program",
        Cause::Internal => "something went wrong in this program",
        _ => "something is wrong with it",
    };
    let way_out = match cause {
        Cause::RelayChanged => format!("; if it stays so, start another: {another}"),
        cause if cause.what_is_done().is_empty() => String::new(),
        cause => format!("; {}", cause.what_is_done()),
    };
    let since = clock::short(suspension.since, now, zone);
    Some(format!(
        "suspended since {since}, because {why} ({cause}); what you write is kept until it goes on{way_out}"
    ))
}

/// Who says it, for people.
pub(crate) fn sender(entry: &Entry) -> String {
    if entry.mine { "you".to_owned() } else { plain_line(&entry.handle) }
}

/// Somebody says it, whatever it is.
pub(crate) fn is_said(entry: &Entry) -> bool {
    entry.said().is_some()
}

/// A line of a history, and one below it for its reactions.
pub(crate) fn entry_line(entry: &Entry, me: &PersonId, zone: &TimeZone) -> String {
    let time = clock::date_and_time(entry.sent_at, zone);
    let text = body_text(&entry.body, me);
    if !is_said(entry) {
        return format!("{time}  -- {text}");
    }
    let indent = format!("\n{:18}", "");
    let mark = mark(entry.state);
    let gap = if mark.is_empty() { "" } else { "  " };
    let below = reactions_text(entry).map(|text| format!("{indent}{text}")).unwrap_or_default();
    format!("{time}  {}: {}{gap}{mark}{below}", sender(entry), text.replace('\n', &indent))
}

/// On what word a name stands, if that is worth a word.
pub(crate) fn known_text(known: Known) -> &'static str {
    match known {
        Known::Pinned => "",
        Known::Contradicted => "somebody else is known by this name",
        _ => "the name is their own word",
    }
}

/// Whose safety number was compared.
fn verified_word(person: &Person) -> &'static str {
    if person.verified { "verified" } else { "" }
}

/// Those that say something, in brackets.
fn remarks<const N: usize>(remarks: [&str; N]) -> String {
    let remarks = remarks.into_iter().filter(|remark| !remark.is_empty()).collect::<Vec<_>>().join("; ");
    if remarks.is_empty() { remarks } else { format!("  ({remarks})") }
}

/// Of how many of these people the safety number was compared, if of any.
pub(crate) fn verified_of(people: &[&Person]) -> Option<String> {
    match (people.iter().filter(|person| person.verified).count(), people.len()) {
        (0, _) => None,
        (verified, all) if verified == all => Some("verified".to_owned()),
        (verified, all) => Some(format!("{verified} of {all} verified")),
    }
}

/// A member's device in a list, with this much room for the handle.
pub(crate) fn member_line(member: &MemberSummary, room: usize) -> String {
    let word = match (member.me, member.joined) {
        (true, _) => "you",
        (false, false) => "invited, or came in just now",
        (false, true) => known_text(member.person.known),
    };
    let remark = remarks([verified_word(&member.person), word]);
    format!("{:room$} {}{remark}", plain_line(&member.person.handle), member.person.person)
}

/// A person in a list, with this much room for the handle.
pub(crate) fn person_line(person: &Person, room: usize) -> String {
    let consent = match (person.blocked, person.accepted) {
        (true, _) => "blocked",
        (false, true) => "",
        (false, false) => "their invitations wait until you accept them",
    };
    let remarks = remarks([verified_word(person), known_text(person.known), consent]);
    format!("{:room$} {}{remarks}", plain_line(&person.handle), person.person)
}

/// A safety number's twelve groups in three rows.
pub(crate) fn safety_rows<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<String> {
    groups.collect::<Vec<_>>().chunks(4).map(|row| row.join("  ")).collect()
}

/// Adds the members of one object to another.
pub(crate) fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use posthorn_client::content::{Change, Text};
    use posthorn_client::conversation::{ConversationId, MessageId};
    use posthorn_client::engine::Event;
    use serde_json::json;

    use super::*;
    use crate::name::tests::{id_of, someone};

    pub(crate) fn named(handle: &str) -> Named {
        Named { person: id_of(handle), handle: handle.to_owned() }
    }

    pub(crate) fn text(text: &str) -> Body {
        Body::Said(Text::new(text).into())
    }

    /// An entry of conversation 7; it is ours unless it was received.
    pub(crate) fn entry(row: u64, sender: &str, body: Body, state: EntryState) -> Entry {
        let is_queued = state == EntryState::Queued;
        let seq = (!is_queued).then_some(row);
        let mut value = json!({"row": row, "id": MessageId([row as u8; 16]),
            "conversation": ConversationId([7; 16]), "handle": sender, "mine": state != EntryState::Received,
            "sent_at": 1_795_392_180_000 + row * 60_000, "state": state, "place": seq.map(|_| 1), "seq": seq,
            "changes": []});
        merge(&mut value, json!(body));
        if matches!(body, Body::Said(_)) {
            let device = "aeaqcaibaeaqcaibaeaqcaibae";
            merge(&mut value, json!({"person": id_of(sender), "device": device}));
        }
        serde_json::from_value(value).expect("an entry")
    }

    /// The same with a reaction of somebody.
    pub(crate) fn reacted(mut entry: Entry, who: &str, emoji: &str) -> Entry {
        let author =
            entry.author.map(|author| posthorn_client::content::Author { person: id_of(who), ..author });
        entry.changes.push(Change {
            author: author.expect("said"),
            handle: who.to_owned(),
            mine: who == "ann",
            sent_at: entry.sent_at,
            said: posthorn_client::content::Reaction::new(emoji).into(),
        });
        entry
    }

    #[test]
    fn the_keys_of_an_entry_are_those_of_the_documentation() {
        let hi = entry(1, "ann", text("hi"), EntryState::Sent);
        let value = json!({"row": 1, "id": hi.id, "conversation": hi.conversation, "person": id_of("ann"),
            "device": "aeaqcaibaeaqcaibaeaqcaibae", "handle": "ann", "mine": true,
            "said": {"kind": "text", "text": "hi"}, "sent_at": 1_795_392_240_000_u64, "state": "sent",
            "place": 1, "seq": 1, "changes": []});
        assert_eq!(json!(hi), value);
        let mut event = json!({"event": "entry"});
        merge(&mut event, value);
        assert_eq!(json!(Event::Entry(Box::new(hi))), event);
        let notice = Notice::Added { by: named("ann"), who: vec![named("bob"), named("cleo")] };
        let value = json!(entry(2, "", Body::Notice(notice), EntryState::Received));
        assert_eq!(value["notice"]["added"]["who"][1]["handle"], "cleo");
        assert_eq!(value["notice"]["added"]["by"]["person"], json!(id_of("ann")));
        let run = Body::Unreadable(Unreadable { cause: Cause::Gap, count: 2, to: 9 });
        let value = json!(entry(3, "", run, EntryState::Failed(Cause::Full)));
        assert_eq!(value["unreadable"], json!({"cause": "GAP", "count": 2, "to": 9}));
        assert_eq!(value["state"], json!({"failed": "FULL"}));
    }

    #[test]
    fn a_run_of_what_cannot_be_read_is_counted() {
        let run = |count| Unreadable { cause: Cause::Gap, count, to: 9 };
        assert_eq!(unreadable_text(&run(1)), "a message came that cannot be read (GAP)");
        assert_eq!(unreadable_text(&run(3)), "3 messages came that cannot be read (GAP)");
    }

    #[test]
    fn members_are_told_with_what_is_known_of_them() {
        let mut value = json!(someone("bob"));
        merge(&mut value, json!({"device": "aeaqcaibaeaqcaibaeaqcaibae", "me": false, "joined": true}));
        let member =
            |value: &Value| serde_json::from_value::<MemberSummary>(value.clone()).expect("a member");
        assert_eq!(member_line(&member(&value), 8), format!("bob      {}", id_of("bob")));
        merge(&mut value, json!({"verified": true}));
        assert!(member_line(&member(&value), 8).ends_with("  (verified)"));
        merge(&mut value, json!({"known": "claimed", "verified": false}));
        assert!(member_line(&member(&value), 8).ends_with("(the name is their own word)"));
        merge(&mut value, json!({"joined": false}));
        assert!(member_line(&member(&value), 8).ends_with("(invited, or came in just now)"));
        assert_eq!(id_of("bob").to_string().len(), 52, "as contact links have it");
    }

    #[test]
    fn people_are_told_with_what_their_invitations_do() {
        let mut bob = someone("bob");
        assert_eq!(person_line(&bob, 8), format!("bob      {}", id_of("bob")));
        bob.accepted = false;
        assert!(person_line(&bob, 8).ends_with("  (their invitations wait until you accept them)"));
        (bob.blocked, bob.known) = (true, Known::Claimed);
        assert!(person_line(&bob, 8).ends_with("  (the name is their own word; blocked)"));
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
        let (me, utc) = (id_of("ann"), TimeZone::UTC);
        let two = entry(1, "ann", text("one\ntwo"), EntryState::Delivered);
        assert_eq!(entry_line(&two, &me, &utc), "2026-11-23 00:04  you: one\n                  two  ✓✓");
        let hi = entry(1, "bob", text("hi"), EntryState::Received);
        assert_eq!(entry_line(&hi, &me, &utc), "2026-11-23 00:04  bob: hi");
        let hi = reacted(reacted(reacted(hi, "dan", "❤️"), "ann", "👍"), "cleo", "👍");
        assert_eq!(
            entry_line(&hi, &me, &utc),
            "2026-11-23 00:04  bob: hi\n                  👍 2 (you, cleo)  ❤️ dan"
        );
    }
}
