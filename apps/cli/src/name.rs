//! What a person means by "family", "bob" or "k3ah": conversations and contacts by the names that people use
//! for them.

use std::collections::HashMap;

use posthorn_client::conversation::{Cause, ConversationId, ConversationState};
use posthorn_client::engine::{ConversationSummary, Known, Person, Who};
use posthorn_client::identity::{ContactLink, LinkError, PersonId};
use posthorn_proto::Handle;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;
use unicode_security::skeleton;

use crate::advice;
use crate::invitation::relay_name;
use crate::plain::plain_line;
use crate::problem::Problem;

/// Beginnings of ids shorter than this are not looked at: they would be taken for names.
const SHORTEST_PREFIX: usize = 4;
/// How many conversations a mistake lists.
const LISTED: usize = 5;

/// What a conversation is called on the screen: its name, else the other members, else those who shall be.
pub(crate) fn title(conversation: &ConversationSummary, me: &PersonId) -> String {
    if !conversation.name.trim().is_empty() {
        return plain_line(&conversation.name);
    }
    match (&others(conversation, me)[..], &conversation.adding[..]) {
        ([], []) => "(only you)".to_owned(),
        ([], adding) => plain_line(&adding.join(", ")),
        (others, _) => plain_line(&handles(others.iter().copied())),
    }
}

/// What all of them are called beside each other: where two look alike, the beginnings of their ids stand
/// behind.
pub(crate) fn titles(list: &[ConversationSummary], me: &PersonId) -> HashMap<ConversationId, String> {
    let titles: Vec<_> = list.iter().map(|known| (known.id, title(known, me))).collect();
    let mut looks: HashMap<String, usize> = HashMap::new();
    titles.iter().for_each(|(_, title)| *looks.entry(look(title)).or_default() += 1);
    let one = |(id, title): (ConversationId, String)| match looks.get(&look(&title)) {
        Some(2..) => (id, format!("{title} ({})", short(id))),
        _ => (id, title),
    };
    titles.into_iter().map(one).collect()
}

/// The same for all texts that a person takes for the same (UTS 39), whatever their case and their spaces.
fn look(title: &str) -> String {
    skeleton(&title.to_lowercase()).filter(|c| !c.is_whitespace()).collect()
}

/// The beginning of an id, as people type it.
fn short(id: ConversationId) -> String {
    id.to_string().chars().take(8).collect()
}

/// A name as it is meant: one form for all keyboards (NFC), without spaces around it.
pub(crate) fn meant(name: &str) -> String {
    name.trim().nfc().collect()
}

/// A name whatever its case.
fn folded(name: &str) -> String {
    meant(&meant(name).to_lowercase())
}

/// A name whatever its case and its accents: what somebody types whose keyboard lacks them.
fn bare(name: &str) -> String {
    let letters = name.trim().to_lowercase().nfd().filter(|c| !is_combining_mark(*c)).collect::<String>();
    // These have strokes, which are no marks.
    letters.replace('đ', "d").replace('ø', "o").replace('ł', "l").replace('ß', "ss")
}

/// Everybody in it but us.
pub(crate) fn others<'a>(conversation: &'a ConversationSummary, me: &PersonId) -> Vec<&'a Person> {
    conversation.members.iter().filter(|member| member.person != *me).collect()
}

/// Names in a row.
pub(crate) fn handles<'a>(people: impl IntoIterator<Item = &'a Person>) -> String {
    people.into_iter().map(|person| person.handle.as_str()).collect::<Vec<_>>().join(", ")
}

/// It has one other member, or shall have, who is called this.
fn is_with(conversation: &ConversationSummary, me: &PersonId, handle: &str) -> bool {
    match (&others(conversation, me)[..], &conversation.adding[..]) {
        ([other], _) => other.handle == handle,
        ([], [other]) => other == handle,
        _ => false,
    }
}

/// Somebody who is called this at another relay, or says so, and nobody else is known by it.
fn is_elsewhere(person: &Person, handle: &str) -> bool {
    let bare = person.handle.split_once(['@', '#']).map(|(bare, _)| bare);
    bare == Some(handle) && person.known != Known::Contradicted
}

/// It takes messages, at once or later.
pub(crate) fn is_live(conversation: &ConversationSummary) -> bool {
    conversation.state.takes_messages()
}

/// Whether it waits while this relay, which is not our own, cannot be reached: it lives there, or somebody of
/// there is being added.
pub(crate) fn needs(conversation: &ConversationSummary, relay: &str) -> bool {
    let host = format!("@{}", relay_name(relay));
    let is_there =
        conversation.relay == relay || conversation.adding.iter().any(|name| name.ends_with(&host));
    is_live(conversation) && is_there
}

/// Somebody asks us to join.
pub(crate) fn is_invitation(conversation: &ConversationSummary) -> bool {
    conversation.state == ConversationState::Invited
}

/// It moved to a relay that is not in use here, and waits until the person agrees.
pub(crate) fn awaits_consent(conversation: &ConversationSummary) -> bool {
    matches!(&conversation.state, ConversationState::Suspended(why) if why.cause == Cause::ForeignRelay)
}

/// The conversation that `text` names: by id, by a beginning of its id, by name, or by its only other member.
pub(crate) fn find<'a>(
    list: &'a [ConversationSummary],
    me: &PersonId,
    text: &str,
) -> Result<&'a ConversationSummary, Problem> {
    let text = text.trim();
    if let Ok(id) = text.parse::<ConversationId>()
        && let Some(found) = list.iter().find(|conversation| conversation.id == id)
    {
        return Ok(found);
    }
    let (folded_text, bare_text) = (folded(text), bare(text));
    let named =
        |conversation: &&ConversationSummary| !text.is_empty() && folded(&conversation.name) == folded_text;
    let nearly_named =
        |conversation: &&ConversationSummary| !text.is_empty() && bare(&conversation.name) == bare_text;
    let with = |conversation: &&ConversationSummary| is_with(conversation, me, text);
    let begins = |conversation: &&ConversationSummary| {
        text.len() >= SHORTEST_PREFIX && conversation.id.to_string().starts_with(&folded_text)
    };
    // A conversation without a name is what "bob" means; one with a name may have only bob in it by chance.
    let unnamed_with =
        |conversation: &&ConversationSummary| conversation.name.is_empty() && with(conversation);
    let called = |conversation: &&ConversationSummary| named(conversation) || unnamed_with(conversation);
    // Somebody at another relay, by the name there alone.
    let with_elsewhere = |conversation: &&ConversationSummary| match &others(conversation, me)[..] {
        [other] => is_elsewhere(other, text),
        _ => false,
    };
    let ways: [&dyn Fn(&&ConversationSummary) -> bool; 5] =
        [&called, &with, &begins, &with_elsewhere, &nearly_named];
    for matching in ways {
        let found: Vec<_> = list.iter().filter(matching).collect();
        let live: Vec<_> = found.iter().copied().filter(|conversation| is_live(conversation)).collect();
        // Whoever begins a conversation names it: what is meant for bob does not go to one that is called so.
        let shadows = found.iter().any(named) && found.iter().any(unnamed_with);
        match (&found[..], &live[..]) {
            ([], _) => {}
            ([only], _) => return Ok(only),
            (_, [only]) if !shadows => return Ok(only),
            (several, _) => {
                let message = format!(
                    "\"{text}\" can mean {}: type what stands in brackets instead of the name",
                    listing(several, me)
                );
                return Err(Problem::new("AMBIGUOUS", message));
            }
        }
    }
    Err(unknown(list, me, text))
}

fn unknown(list: &[ConversationSummary], me: &PersonId, text: &str) -> Problem {
    if list.is_empty() {
        let message = format!(
            "no conversation is called \"{text}\", and there are none yet: {} begins one",
            advice::command("start MEMBER")
        );
        return Problem::new("UNKNOWN_CONVERSATION", message);
    }
    let mut near: Vec<(usize, &ConversationSummary)> = list
        .iter()
        .map(|conversation| {
            let names = [
                title(conversation, me),
                conversation.id.to_string().chars().take(text.chars().count()).collect(),
            ];
            let nearest = names.iter().map(|name| distance(&name.to_lowercase(), &text.to_lowercase())).min();
            (nearest.unwrap_or(usize::MAX), conversation)
        })
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    let near: Vec<_> = near.into_iter().take(LISTED).map(|(_, conversation)| conversation).collect();
    let rest = if list.len() > near.len() { ", ..." } else { "" };
    let there = format!("no conversation is called \"{text}\"; there is {}{rest}", listing(&near, me));
    // Somebody who is known from a group only: there may be one with them.
    let is_member = list.iter().any(|known| others(known, me).iter().any(|member| member.handle == text));
    let begin = match is_member && Handle::parse(text).is_ok() {
        true => format!("; {} begins one with {text}", advice::command(&format!("start {text}"))),
        false => String::new(),
    };
    Problem::new("UNKNOWN_CONVERSATION", format!("{there}{begin}"))
}

fn listing(conversations: &[&ConversationSummary], me: &PersonId) -> String {
    let one = |conversation: &&ConversationSummary| {
        format!("{} ({})", title(conversation, me), short(conversation.id))
    };
    conversations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Levenshtein's; a text that contains the other is near whatever its length.
fn distance(one: &str, other: &str) -> usize {
    if other.chars().count() > 1 && one.contains(other) {
        return 1;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let cost = (diagonal + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[other.len()]
}

/// Somebody to talk to: a contact link, a handle at our own relay, or one at another (`bob@relay.example`).
pub(crate) fn contact(text: &str) -> Result<Who, Problem> {
    let text = text.trim();
    if let Some(elsewhere) = Who::elsewhere(text) {
        return Ok(elsewhere);
    }
    if text.contains("://") {
        return text.parse::<ContactLink>().map(Who::Link).map_err(|error: LinkError| {
            Problem::new("BAD_LINK", format!("that contact link cannot be used: {error}"))
        });
    }
    let handle = text.strip_prefix('@').unwrap_or(text);
    Handle::parse(handle).map(Who::Handle).map_err(|error| {
        let message =
            format!("\"{handle}\" is neither a contact link nor a handle: {error}{}", perhaps(handle));
        Problem::new("BAD_HANDLE", message)
    })
}

/// The handle that somebody may have meant, as a question.
pub(crate) fn perhaps(text: &str) -> String {
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(*c);
    let near: String = bare(text).replace(' ', "_").chars().filter(allowed).collect();
    match Handle::parse(&near) {
        Ok(handle) => format!("; did you mean {handle}?"),
        Err(_) => String::new(),
    }
}

/// All of them, or the first mistake; commas may stand between them.
pub(crate) fn contacts(texts: &[String]) -> Result<Vec<Who>, Problem> {
    let each = texts.iter().flat_map(|text| text.split(',')).filter(|text| !text.trim().is_empty());
    each.map(contact).collect()
}

/// Whoever is a member cannot be added. Links are not asked about: they name an identity, and a handle is
/// only a name.
pub(crate) fn none_is_member(contacts: &[Who], conversation: &ConversationSummary) -> Result<(), Problem> {
    for contact in contacts {
        let handle = match contact {
            Who::Handle(handle) => handle.to_string(),
            Who::Elsewhere(handle, relay) => format!("{handle}@{}", relay.host()),
            _ => continue,
        };
        if conversation.members.iter().any(|member| member.handle == handle) {
            return Err(Problem::new(
                "ALREADY_MEMBER",
                format!("{handle} is a member already: nothing was changed"),
            ));
        }
    }
    Ok(())
}

/// The conversation with exactly this other person, or their invitation to one: without a name before with
/// one.
pub(crate) fn alone_with<'a>(
    list: &'a [ConversationSummary],
    me: &PersonId,
    handle: &str,
) -> Option<&'a ConversationSummary> {
    let with = |wanted: fn(&ConversationSummary) -> bool| {
        list.iter().filter(move |known| wanted(known) && is_with(known, me, handle))
    };
    let unnamed = with(is_live).find(|known| known.name.is_empty());
    unnamed.or_else(|| with(is_live).next()).or_else(|| with(is_invitation).next())
}

/// The person whom `text` names: by what they are called here, by that and the beginning of their id
/// (`bob#k3ahq2`), or by the id.
pub(crate) fn person<'a>(
    people: impl IntoIterator<Item = &'a Person>,
    text: &str,
) -> Result<&'a Person, Problem> {
    let text = text.trim().trim_start_matches('@');
    let people: Vec<&Person> = people.into_iter().collect();
    let id = text.parse::<PersonId>().ok();
    let (name, beginning) = text.split_once('#').unwrap_or((text, ""));
    let known_as = |person: &Person| person.handle.split('#').next().unwrap_or_default().to_owned();
    let ways: [&dyn Fn(&&&Person) -> bool; 4] = [
        &|known| Some(known.person) == id,
        &|known| known.handle == text,
        &|known| {
            let id = known.person.to_string();
            !beginning.is_empty() && known_as(known) == name && id.starts_with(&beginning.to_lowercase())
        },
        &|known| is_elsewhere(known, text),
    ];
    for matching in ways {
        let mut found: Vec<&Person> = people.iter().filter(matching).copied().collect();
        found.sort_by_key(|known| known.person);
        found.dedup_by_key(|known| known.person);
        match found[..] {
            [] => {}
            [only] => return Ok(only),
            _ => {
                let one = |known: &&Person| format!("{}#{}", known_as(known), known.person.short());
                let list = found.iter().map(one).collect::<Vec<_>>().join(", ");
                let message = format!("\"{text}\" can mean {list}: type one of these");
                return Err(Problem::new("AMBIGUOUS", message));
            }
        }
    }
    Err(Problem::new("UNKNOWN_PERSON", format!("nobody called {text} is known here")))
}

#[cfg(test)]
pub(crate) mod tests {
    use posthorn_client::conversation::GroupId;
    use serde_json::json;

    use super::*;

    /// Somebody of this name; the same each time.
    pub(crate) fn id_of(handle: &str) -> PersonId {
        let mut bytes = [0; 32];
        handle.bytes().zip(bytes.iter_mut()).for_each(|(letter, byte)| *byte = letter);
        PersonId(bytes)
    }

    pub(crate) fn someone(handle: &str) -> Person {
        let value = json!({"person": id_of(handle), "handle": handle, "known": "pinned", "accepted": true,
            "blocked": false, "verified": false});
        serde_json::from_value(value).expect("a person")
    }

    pub(crate) fn conversation(first_byte: u8, name: &str, members: &[&str]) -> ConversationSummary {
        let id = ConversationId([first_byte; 16]);
        let members: Vec<Person> = members.iter().map(|member| someone(member)).collect();
        let value = json!({"id": id, "group": GroupId([first_byte; 16]), "name": name, "members": members,
            "adding": [], "state": "active", "archived": false, "inviter": null, "relay": "ws://127.0.0.1:4100",
            "foreign_relay": false, "unread": 0, "first_unread": null, "last": null, "epoch": 1});
        serde_json::from_value(value).expect("a summary")
    }

    /// One that ann began while the relay could not be reached.
    pub(crate) fn begun_offline(first_byte: u8, with: &str) -> ConversationSummary {
        let mut begun = conversation(first_byte, "", &["ann"]);
        (begun.state, begun.adding) = (ConversationState::Creating, vec![with.to_owned()]);
        begun
    }

    /// An invitation that waits.
    pub(crate) fn invitation(first_byte: u8, by: &str, relay: &str) -> ConversationSummary {
        let mut invitation = conversation(first_byte, "", &[by]);
        invitation.state = ConversationState::Invited;
        invitation.inviter = Some(someone(by));
        invitation.foreign_relay = relay != invitation.relay;
        invitation.relay = relay.to_owned();
        invitation
    }

    fn list() -> Vec<ConversationSummary> {
        vec![
            conversation(0x00, "", &["ann", "bob"]),
            conversation(0x11, "Família", &["ann", "bob", "cleo"]),
            conversation(0x22, "Work", &["ann", "dan"]),
        ]
    }

    fn found(text: &str) -> u8 {
        let list = list();
        find(&list, &id_of("ann"), text).expect(text).id.0[0]
    }

    #[test]
    fn all_four_ways_of_naming() {
        let list = list();
        assert_eq!(found("bob"), 0x00, "the only other member");
        assert_eq!(found("família"), 0x11, "the name, whatever its case");
        assert_eq!(found("dan"), 0x22, "the only other member of a conversation with a name");
        assert_eq!(found(&list[1].id.to_string()), 0x11, "the id");
        assert_eq!(found(&list[2].id.to_string()[..4]), 0x22, "a beginning of the id");
    }

    #[test]
    fn a_name_is_the_same_from_every_keyboard() {
        let mut list = list();
        list.push(conversation(0x33, "H\u{1ed9}i b\u{1ea1}n Đà Lạt", &["ann", "bob", "eve"]));
        let found = |list: &[ConversationSummary], text: &str| {
            find(list, &id_of("ann"), text).map(|found| found.id.0[0])
        };
        for text in [
            "H\u{1ed9}i b\u{1ea1}n Đà Lạt",
            "ho\u{323}\u{302}i ba\u{323}n đà lạt",
            "hoi ban da lat",
            "HOI BAN ĐA LAT",
        ] {
            assert_eq!(found(&list, text), Ok(0x33), "{text}");
        }
        list.push(conversation(0x44, "hoi ban da lat", &["ann", "bob", "eve"]));
        assert_eq!(found(&list, "hoi ban da lat"), Ok(0x44), "as it is called, before what is near");
        let problem = found(&list, "hội ban da lat").expect_err("two are near");
        assert_eq!(problem.code(), "AMBIGUOUS");
    }

    #[test]
    fn two_that_look_alike_are_told_apart() {
        let mut list = list();
        list.push(conversation(0x33, "Work", &["ann", "eve", "bob"]));
        list.push(conversation(0x44, "W\u{43e}rk\u{200b}", &["ann", "eve", "bob"]));
        list.push(conversation(0x55, "W\u{43e}rk", &["ann", "eve", "bob"]));
        let titles = titles(&list, &id_of("ann"));
        let titled = |byte: u8| titles[&ConversationId([byte; 16])].as_str();
        assert_eq!(titled(0x11), "Família");
        assert!(titled(0x44).starts_with("W\u{43e}rk⟨200b⟩") && !titled(0x44).contains('('), "{titles:?}");
        for byte in [0x22, 0x33, 0x55] {
            assert!(
                titled(byte).ends_with(&format!("({})", short(ConversationId([byte; 16])))),
                "{titles:?}"
            );
        }
    }

    #[test]
    fn a_mistake_lists_what_is_near() {
        let problem = find(&list(), &id_of("ann"), "wrok").expect_err("unknown");
        assert_eq!(problem.code(), "UNKNOWN_CONVERSATION");
        let message = problem.message();
        assert!(message.find("Work").expect("listed") < message.find("bob").expect("listed"), "{message}");
        let problem = find(&list(), &id_of("ann"), "cleo").expect_err("known from a group only");
        assert!(problem.message().ends_with("`posthorn start cleo` begins one with cleo"), "{problem:?}");
        let problem = find(&[], &id_of("ann"), "x").expect_err("none");
        assert!(problem.message().contains("posthorn start"));
    }

    #[test]
    fn two_of_a_name_are_told_apart_by_id_unless_one_is_over() {
        let mut two = vec![
            conversation(1, "Trip", &["ann", "bob", "eve"]),
            conversation(2, "trip", &["ann", "dan", "eve"]),
        ];
        let problem = find(&two, &id_of("ann"), "TRIP").expect_err("two");
        assert_eq!(problem.code(), "AMBIGUOUS");
        let id = two[1].id.to_string();
        assert!(problem.message().contains(&id[..8]) && problem.message().contains("in brackets"));
        assert_eq!(find(&two, &id_of("ann"), &id[..8]).expect("that works").id, two[1].id);
        two[0].state = ConversationState::Left;
        assert_eq!(find(&two, &id_of("ann"), "TRIP").expect("one is left").id.0[0], 2);
    }

    /// Whoever begins a conversation names it.
    #[test]
    fn a_conversation_that_is_called_like_a_person_does_not_take_their_place() {
        for ended in [false, true] {
            let mut list = list();
            list.push(conversation(0x66, "bob", &["ann", "mallory"]));
            if ended {
                list[0].state = ConversationState::Left;
            }
            let found = find(&list, &id_of("ann"), "bob").expect_err("it could be either");
            assert_eq!(found.code(), "AMBIGUOUS", "{ended}");
        }
    }

    #[test]
    fn who_is_there_already_is_told() {
        let list = list();
        let bob = contacts(&["dan,".into(), "bob".into()]).expect("handles");
        assert_eq!(contacts(&["dan,bob".into()]).as_ref(), Ok(&bob));
        let problem = none_is_member(&bob, &list[0]).expect_err("a member");
        assert_eq!(problem.code(), "ALREADY_MEMBER");
        assert!(problem.message().starts_with("bob is a member already"));
        assert_eq!(none_is_member(&bob[..1], &list[0]), Ok(()));
    }

    #[test]
    fn the_conversation_with_one_person() {
        let mut list = list();
        let found = |list: &[ConversationSummary], who: &str| {
            alone_with(list, &id_of("ann"), who).map(|found| found.id.0[0])
        };
        assert_eq!(found(&list, "bob"), Some(0x00));
        assert_eq!(found(&list, "dan"), Some(0x22));
        assert_eq!(found(&list, "cleo"), None, "only with others");
        list.push(begun_offline(0x44, "cleo"));
        assert_eq!(found(&list, "cleo"), Some(0x44), "who is to be a member counts");
        list[0].state = ConversationState::Left;
        assert_eq!(found(&list, "bob"), None);
        list.push(invitation(0x33, "bob", "ws://127.0.0.1:4100"));
        assert_eq!(found(&list, "bob"), Some(0x33), "who is invited need not invite");
    }

    #[test]
    fn people_are_named_by_handle_or_by_id() {
        let mut other = someone("bob");
        other.person = PersonId([0xff; 32]);
        let people = [someone("ann"), someone("bob"), someone("cleo"), someone("cleo")];
        let found = |text: &str| person(&people, text).map(|found| found.person);
        assert_eq!(found("@bob"), Ok(id_of("bob")));
        assert_eq!(found(&id_of("bob").to_string()), Ok(id_of("bob")));
        assert_eq!(found("cleo"), Ok(id_of("cleo")), "the same one, met twice");
        assert_eq!(found("dan").expect_err("unknown").code(), "UNKNOWN_PERSON");
        let people = [someone("bob"), other.clone()];
        let problem = person(&people, "bob").expect_err("two");
        assert_eq!(problem.code(), "AMBIGUOUS");
        let typed = format!("bob#{}", other.person.short());
        assert!(problem.message().contains(&typed), "{problem:?}");
        assert_eq!(person(&people, &typed).map(|found| found.person), Ok(other.person));
        other.handle = typed.clone();
        let people = [someone("bob"), other.clone()];
        assert_eq!(person(&people, "bob").map(|found| found.person), Ok(id_of("bob")), "who is that");
        assert_eq!(person(&people, &typed).map(|found| found.person), Ok(other.person));
        // Somebody at another relay is meant by the name there alone, as long as nobody here has it.
        let there = someone("cleo@relay.example");
        let people = [someone("bob"), there.clone()];
        for text in ["cleo", "@cleo", "cleo@relay.example"] {
            assert_eq!(person(&people, text).map(|found| found.person), Ok(there.person), "{text}");
        }
        let people = [someone("cleo"), there.clone()];
        assert_eq!(person(&people, "cleo").map(|found| found.person), Ok(id_of("cleo")));
    }

    #[test]
    fn what_a_conversation_is_called() {
        let list = list();
        assert_eq!(title(&list[0], &id_of("ann")), "bob");
        assert_eq!(title(&list[1], &id_of("ann")), "Família");
        assert_eq!(title(&conversation(1, "", &["ann"]), &id_of("ann")), "(only you)");
        let begun = begun_offline(1, "bob");
        assert_eq!(title(&begun, &id_of("ann")), "bob", "offline, too");
        assert_eq!(find(&[begun], &id_of("ann"), "bob").map(|found| found.id.0[0]), Ok(1));
    }

    #[test]
    fn contacts_are_links_or_handles() {
        assert!(matches!(contact("bob"), Ok(Who::Handle(_))));
        assert!(matches!(contact("@bob"), Ok(Who::Handle(_))));
        let at = |text: &str| match contact(text) {
            Ok(Who::Elsewhere(handle, relay)) => format!("{handle} {relay}"),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(at("bob@relay.example"), "bob wss://relay.example");
        assert_eq!(at("bob@relay.example:4100"), "bob wss://relay.example:4100");
        assert_eq!(at("bob@127.0.0.1:4100"), "bob ws://127.0.0.1:4100");
        assert_eq!(at("bob@ws://10.0.0.1:4100"), "bob ws://10.0.0.1:4100");
        let problem = contact("Bob").expect_err("upper case");
        assert_eq!(problem.code(), "BAD_HANDLE");
        assert!(problem.message().ends_with("; did you mean bob?"), "{problem:?}");
        assert_eq!(perhaps("Nguyễn Văn"), "; did you mean nguyen_van?");
        assert_eq!(perhaps("日本"), "");
        assert_eq!(contact("https://example.org").expect_err("no link").code(), "BAD_LINK");
    }
}
