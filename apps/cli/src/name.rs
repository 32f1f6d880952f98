//! What a person means by "family", "bob" or "k3ah": conversations and contacts by the names that people use
//! for them.

use posthorn_client::conversation::{ConversationId, ConversationState};
use posthorn_client::identity::{ContactLink, LinkError};
use posthorn_client::sync::{Contact, ConversationSummary};
use posthorn_proto::Handle;

use crate::advice;
use crate::plain::plain_line;
use crate::problem::Problem;

/// Beginnings of ids shorter than this are not looked at: they would be taken for names.
const SHORTEST_PREFIX: usize = 4;
/// How many conversations a mistake lists.
const LISTED: usize = 5;

/// What a conversation is called on the screen: its name, else the other members.
pub(crate) fn title(conversation: &ConversationSummary, me: &str) -> String {
    if !conversation.name.trim().is_empty() {
        return plain_line(&conversation.name);
    }
    let others = others(conversation, me);
    if others.is_empty() { "(only you)".to_owned() } else { others.join(", ") }
}

fn others<'a>(conversation: &'a ConversationSummary, me: &str) -> Vec<&'a str> {
    conversation.members.iter().map(String::as_str).filter(|member| *member != me).collect()
}

/// It takes messages.
pub(crate) fn is_live(conversation: &ConversationSummary) -> bool {
    matches!(conversation.state, ConversationState::Active | ConversationState::Creating)
}

/// The conversation that `text` names: by id, by a beginning of its id, by name, or by its only other member.
pub(crate) fn find<'a>(
    list: &'a [ConversationSummary],
    me: &str,
    text: &str,
) -> Result<&'a ConversationSummary, Problem> {
    let text = text.trim();
    if let Ok(id) = text.parse::<ConversationId>()
        && let Some(found) = list.iter().find(|conversation| conversation.id == id)
    {
        return Ok(found);
    }
    let lower = text.to_lowercase();
    let named =
        |conversation: &&ConversationSummary| !text.is_empty() && conversation.name.to_lowercase() == lower;
    let with = |conversation: &&ConversationSummary| matches!(others(conversation, me)[..], [other] if other == text);
    let begins = |conversation: &&ConversationSummary| {
        text.len() >= SHORTEST_PREFIX && conversation.id.to_string().starts_with(&lower)
    };
    // A conversation without a name is what "bob" means; one with a name may have only bob in it by chance.
    let unnamed_with =
        |conversation: &&ConversationSummary| conversation.name.is_empty() && with(conversation);
    for matching in [&named as &dyn Fn(&&ConversationSummary) -> bool, &unnamed_with, &with, &begins] {
        let found: Vec<_> = list.iter().filter(matching).collect();
        let live: Vec<_> = found.iter().copied().filter(|conversation| is_live(conversation)).collect();
        match (&found[..], &live[..]) {
            ([], _) => {}
            ([only], _) | (_, [only]) => return Ok(only),
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

fn unknown(list: &[ConversationSummary], me: &str, text: &str) -> Problem {
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
    let message = format!("no conversation is called \"{text}\"; there is {}{rest}", listing(&near, me));
    Problem::new("UNKNOWN_CONVERSATION", message)
}

fn listing(conversations: &[&ConversationSummary], me: &str) -> String {
    let one = |conversation: &&ConversationSummary| {
        let id: String = conversation.id.to_string().chars().take(8).collect();
        format!("{} ({id})", title(conversation, me))
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

/// Somebody to talk to: a contact link, or a handle at our own relay.
pub(crate) fn contact(text: &str) -> Result<Contact, Problem> {
    let text = text.trim();
    if text.contains("://") {
        return text.parse::<ContactLink>().map(Contact::Link).map_err(|error: LinkError| {
            Problem::new("BAD_LINK", format!("that contact link cannot be used: {error}"))
        });
    }
    let handle = text.strip_prefix('@').unwrap_or(text);
    Handle::parse(handle).map(Contact::Handle).map_err(|error| {
        Problem::new("BAD_HANDLE", format!("\"{handle}\" is neither a contact link nor a handle: {error}"))
    })
}

/// All of them, or the first mistake.
pub(crate) fn contacts(texts: &[String]) -> Result<Vec<Contact>, Problem> {
    texts.iter().map(|text| contact(text)).collect()
}

/// Whoever is a member cannot be added. Links are not asked about: they name an identity, and a handle is
/// only a name.
pub(crate) fn none_is_member(
    contacts: &[Contact],
    conversation: &ConversationSummary,
) -> Result<(), Problem> {
    for contact in contacts {
        if let Contact::Handle(handle) = contact
            && conversation.members.iter().any(|member| member == handle.as_str())
        {
            return Err(Problem::new(
                "ALREADY_MEMBER",
                format!("{handle} is a member already: nothing was changed"),
            ));
        }
    }
    Ok(())
}

/// The conversation with exactly this other person; one without a name before one with.
pub(crate) fn alone_with<'a>(
    list: &'a [ConversationSummary],
    me: &str,
    handle: &str,
) -> Option<&'a ConversationSummary> {
    let with = || {
        list.iter()
            .filter(|known| is_live(known) && matches!(others(known, me)[..], [other] if other == handle))
    };
    with().find(|known| known.name.is_empty()).or_else(|| with().next())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn conversation(first_byte: u8, name: &str, members: &[&str]) -> ConversationSummary {
        ConversationSummary {
            id: ConversationId([first_byte; 16]),
            name: name.to_owned(),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            state: ConversationState::Active,
            unread: 0,
            last: None,
            epoch: 1,
        }
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
        find(&list, "ann", text).expect(text).id.0[0]
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
    fn a_mistake_lists_what_is_near() {
        let problem = find(&list(), "ann", "wrok").expect_err("unknown");
        assert_eq!(problem.code(), "UNKNOWN_CONVERSATION");
        let message = problem.message();
        assert!(message.find("Work").expect("listed") < message.find("bob").expect("listed"), "{message}");
        let problem = find(&[], "ann", "x").expect_err("none");
        assert!(problem.message().contains("posthorn start"));
    }

    #[test]
    fn two_of_a_name_are_told_apart_by_id_unless_one_is_over() {
        let mut two = vec![
            conversation(1, "Trip", &["ann", "bob", "eve"]),
            conversation(2, "trip", &["ann", "dan", "eve"]),
        ];
        let problem = find(&two, "ann", "TRIP").expect_err("two");
        assert_eq!(problem.code(), "AMBIGUOUS");
        let id = two[1].id.to_string();
        assert!(problem.message().contains(&id[..8]) && problem.message().contains("in brackets"));
        assert_eq!(find(&two, "ann", &id[..8]).expect("that works").id, two[1].id);
        two[0].state = ConversationState::Left;
        assert_eq!(find(&two, "ann", "TRIP").expect("one is left").id.0[0], 2);
    }

    #[test]
    fn who_is_there_already_is_told() {
        let list = list();
        let bob = contacts(&["dan".into(), "bob".into()]).expect("handles");
        let problem = none_is_member(&bob, &list[0]).expect_err("a member");
        assert_eq!(problem.code(), "ALREADY_MEMBER");
        assert!(problem.message().starts_with("bob is a member already"));
        assert_eq!(none_is_member(&bob[..1], &list[0]), Ok(()));
    }

    #[test]
    fn the_conversation_with_one_person() {
        let mut list = list();
        let found =
            |list: &[ConversationSummary], who: &str| alone_with(list, "ann", who).map(|found| found.id.0[0]);
        assert_eq!(found(&list, "bob"), Some(0x00));
        assert_eq!(found(&list, "dan"), Some(0x22));
        assert_eq!(found(&list, "cleo"), None, "only with others");
        list[0].state = ConversationState::Left;
        assert_eq!(found(&list, "bob"), None);
    }

    #[test]
    fn titles() {
        let list = list();
        assert_eq!(title(&list[0], "ann"), "bob");
        assert_eq!(title(&list[1], "ann"), "Família");
        assert_eq!(title(&conversation(1, "", &["ann"]), "ann"), "(only you)");
    }

    #[test]
    fn contacts_are_links_or_handles() {
        assert!(matches!(contact("bob"), Ok(Contact::Handle(_))));
        assert!(matches!(contact("@bob"), Ok(Contact::Handle(_))));
        assert_eq!(contact("Bob").expect_err("upper case").code(), "BAD_HANDLE");
        assert_eq!(contact("https://example.org").expect_err("no link").code(), "BAD_LINK");
    }
}
