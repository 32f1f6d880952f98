//! Conversations: `start`, `conversations`, `archive`, `unarchive`, `accept`, `forget`, `members`, `add`,
//! `remove`, `move`, `leave`.

use std::io::IsTerminal as _;

use posthorn_client::conversation::{ConversationId, ConversationState, Entry};
use posthorn_client::engine::ConversationSummary;
use posthorn_client::identity::PersonId;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::wait;
use crate::args::{Accept, Add, Conversations, Leave, Move, Named, Remove, Start};
use crate::output::{
    adding_text, body_text, conversation_state, is_said, member_line, sender, suspended_text,
};
use crate::plain::plain_line;
use crate::print::{line, object, tell};
use crate::problem::Problem;
use crate::profile::Session;
use crate::{advice, clock, invitation, name};

/// The conversation that was named; if it is not known yet, it may just have arrived at the relay.
pub(super) async fn find(session: &Session, json: bool, text: &str) -> Result<ConversationSummary, Problem> {
    let me = session.me();
    let list = session.client.conversations().await?;
    if let Ok(found) = name::find(&list, me, text) {
        return Ok(found.clone());
    }
    wait::catch_up(session, json).await;
    let list = session.client.conversations().await?;
    name::find(&list, me, text).cloned()
}

async fn summary(session: &Session, id: ConversationId) -> Result<ConversationSummary, Problem> {
    let list = session.client.conversations().await?;
    list.into_iter()
        .find(|conversation| conversation.id == id)
        .ok_or_else(|| Problem::new("UNKNOWN_CONVERSATION", "the conversation is gone"))
}

async fn print(session: &Session, json: bool, id: ConversationId, what: &str) -> Result<(), Problem> {
    let conversation = summary(session, id).await?;
    let me = session.me();
    if json {
        object(&json!(conversation));
    } else {
        line(&format!(
            "{what} {} ({id}); members: {}",
            name::title(&conversation, me),
            plain_line(&name::handles(&conversation.members))
        ));
    }
    Ok(())
}

/// `start`.
pub(super) async fn start(session: &Session, json: bool, arguments: &Start) -> Result<(), Problem> {
    let members = name::contacts(&arguments.members)?;
    let kept = "the invitations go out the next time that this profile is online; do not start it again";
    let before = session.client.conversations().await?;
    let name = name::meant(&arguments.name);
    let call = session.client.start_as(arguments.id, &name, members, arguments.again);
    let started =
        wait::answer(session, arguments.patience, kept, call).await.map_err(Problem::if_inviting)?;
    wait::let_go_out(&session.client).await;
    let was_there = before.iter().any(|known| known.id == started.id());
    print(session, json, started.id(), if was_there { "There already is" } else { "Started" }).await?;
    if was_there && arguments.id.is_none() && !json {
        let members = started.members().await?;
        let waits = members.iter().all(|member| member.me || !member.joined);
        let waits = if waits { "it is not accepted yet, and whoever declines does not say so; " } else { "" };
        let again = advice::command(&format!("start {} --again", arguments.members.join(" ")));
        match why_suspended(&summary(session, started.id()).await?) {
            Some(why) => line(&format!("It is {why}")),
            None => line(&format!("{waits}{again} starts another")),
        }
    }
    Ok(())
}

/// `conversations`.
pub(super) async fn list(session: &Session, json: bool, which: &Conversations) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let list = session.client.conversations().await?;
    let me = session.me();
    if json {
        list.iter().for_each(|conversation| object(&json!(conversation)));
        return Ok(());
    }
    if list.is_empty() {
        line(&format!("No conversations yet: {} begins one.", advice::command("start HANDLE_OR_LINK")));
    }
    let (now, zone) = (clock::now_ms(), clock::local_zone());
    let (away, here): (Vec<_>, Vec<_>) = list.iter().partition(|conversation| conversation.archived);
    for conversation in if which.archived { &away } else { &here } {
        let id: String = conversation.id.to_string().chars().take(8).collect();
        let unread =
            if conversation.unread == 0 { String::new() } else { format!(" ({} new)", conversation.unread) };
        let state = conversation_state(&conversation.state);
        let state = state.map(|state| format!(" [{state}]")).unwrap_or_default();
        line(&format!("{id}  {}{unread}{state}", name::title(conversation, me)));
        let time = conversation.last.as_ref().map(|last| clock::short(last.sent_at, now, &zone));
        let time = time.unwrap_or_default();
        if name::is_invitation(conversation) {
            line(&format!("          {time}  {}", invited_line(conversation, &id)));
            continue;
        }
        let more = adding_text(&conversation.adding).into_iter().chain(why_suspended(conversation));
        more.for_each(|more| line(&format!("          {more}")));
        if let Some(last) = &conversation.last {
            line(&format!("          {time}  {}", last_line(last, me)));
        }
    }
    if !which.archived && !away.is_empty() {
        let how = advice::command("conversations --archived");
        line(&format!("({} put away: {how} lists them)", away.len()));
    }
    Ok(())
}

/// `archive` and `unarchive`.
pub(super) async fn archive(
    session: &Session,
    json: bool,
    arguments: &Named,
    archived: bool,
) -> Result<(), Problem> {
    let conversation = find(session, json, &arguments.conversation).await?;
    if name::is_invitation(&conversation) {
        let answers = invited_line(&conversation, &conversation.id.to_string());
        return Err(Problem::new("NOT_ACTIVE", format!("an invitation wants an answer: {answers}")));
    }
    session.client.conversation(conversation.id).archive(archived).await?;
    let title = name::title(&conversation, session.me());
    if json {
        object(&json!(summary(session, conversation.id).await?));
    } else if archived {
        let back = if conversation.state.has_ended() { "" } else { " until something new comes" };
        line(&format!("{title} is put away{back}."));
    } else {
        line(&format!("{title} is listed again."));
    }
    Ok(())
}

/// Why one does not go on, and what to type about that; `None` if it does.
pub(super) fn why_suspended(conversation: &ConversationSummary) -> Option<String> {
    let id: String = conversation.id.to_string().chars().take(8).collect();
    let accept = advice::command(&format!("accept {id} --foreign-relay"));
    let another = advice::command("start NAME --again");
    suspended_text(conversation, (&another, &accept), (clock::now_ms(), &clock::local_zone()))
}

/// Who invites, and what to type.
pub(super) fn invited_line(conversation: &ConversationSummary, named: &str) -> String {
    let foreign = conversation.foreign_relay;
    let far = if foreign { " --foreign-relay" } else { "" };
    let place =
        if foreign { format!(" to {}", invitation::relay_name(&conversation.relay)) } else { String::new() };
    let (accept, forget) =
        (advice::command(&format!("accept {named}{far}")), advice::command(&format!("forget {named}")));
    format!("{} invites you{place}: {accept}, or {forget}", invitation::inviter(conversation))
}

/// The invitation that was named, before a conversation of that name.
async fn find_invitation(session: &Session, json: bool, text: &str) -> Result<ConversationSummary, Problem> {
    let among = |list: Vec<ConversationSummary>| {
        let list: Vec<_> = list.into_iter().filter(name::is_invitation).collect();
        name::find(&list, session.me(), text).cloned()
    };
    if let Ok(found) = among(session.client.conversations().await?) {
        return Ok(found);
    }
    let known = find(session, json, text).await;
    among(session.client.conversations().await?).or(known)
}

/// `accept`.
pub(super) async fn accept(session: &Session, json: bool, arguments: &Accept) -> Result<(), Problem> {
    let invited = find_invitation(session, json, &arguments.conversation).await?;
    if !name::is_invitation(&invited) && !name::is_live(&invited) {
        let title = name::title(&invited, session.me());
        return Err(Problem::new("NOT_ACTIVE", format!("{title} is no invitation: it has ended for you")));
    }
    session.client.conversation(invited.id).accept(arguments.foreign_relay).await?;
    let done = if name::is_invitation(&invited) { "You joined" } else { "You follow" };
    let kept = "you have joined, and what was said is read the next time that this profile is online";
    let settled = session.client.settled(arguments.patience.duration());
    if wait::answer(session, arguments.patience, kept, settled).await.is_err() && !json {
        tell(&format!("not everything is read from the relay yet: {kept}"));
    }
    print(session, json, invited.id, done).await
}

/// `forget`.
pub(super) async fn forget(session: &Session, json: bool, arguments: &Named) -> Result<(), Problem> {
    let conversation = find_invitation(session, json, &arguments.conversation).await?;
    let title = name::title(&conversation, session.me());
    if !may_be_forgotten(&conversation) {
        let leave = advice::command(&format!("leave {}", conversation.id));
        let message = format!("you are still in {title}: {leave} first, so that the others know");
        return Err(Problem::new("STILL_IN", message));
    }
    session.client.conversation(conversation.id).forget().await?;
    if json {
        object(&json!({"conversation": conversation.id, "forgotten": true}));
    } else if name::is_invitation(&conversation) {
        let inviter = invitation::inviter(&conversation);
        line(&format!("The invitation by {inviter} is forgotten; {inviter} is not told."));
    } else {
        line(&format!("{title} is forgotten, with its history."));
    }
    Ok(())
}

/// Whoever is in one has to leave it first.
pub(crate) fn may_be_forgotten(conversation: &ConversationSummary) -> bool {
    name::is_invitation(conversation) || conversation.state.has_ended()
}

/// The newest entry on one line, with its sender.
fn last_line(last: &Entry, me: &PersonId) -> String {
    let text = plain_line(&body_text(&last.body, me));
    let text = if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text };
    if is_said(last) { format!("{}: {text}", sender(last)) } else { text }
}

/// `members`.
pub(super) async fn members(session: &Session, json: bool, arguments: &Named) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let conversation = find(session, json, &arguments.conversation).await?;
    let members = session.client.conversation(conversation.id).members().await?;
    if members.is_empty() && !json {
        line("You are not in this conversation any more: who is in it now is not known here.");
    }
    for member in members {
        if json {
            object(&json!(member));
        } else {
            line(&member_line(&member, 32));
        }
    }
    Ok(())
}

/// `add`.
pub(super) async fn add(session: &Session, json: bool, arguments: &Add) -> Result<(), Problem> {
    let members = name::contacts(&arguments.members)?;
    let conversation = find(session, json, &arguments.conversation).await?;
    name::none_is_member(&members, &conversation)?;
    let kept = "they are added the next time that this profile is online; do not add them again";
    let there = session.client.conversation(conversation.id);
    let call = there.add(members);
    wait::answer(session, arguments.patience, kept, call).await.map_err(Problem::if_inviting)?;
    wait::let_go_out(&session.client).await;
    print(session, json, conversation.id, "Changed").await
}

/// `remove`.
pub(super) async fn remove(session: &Session, json: bool, arguments: &Remove) -> Result<(), Problem> {
    let conversation = find(session, json, &arguments.conversation).await?;
    let person = name::person(&conversation.members, &arguments.handle).map_err(|problem| {
        let members = plain_line(&name::handles(&conversation.members));
        match problem.code() {
            "UNKNOWN_PERSON" => Problem::new(
                "UNKNOWN_PERSON",
                format!("{} is not a member; members are {members}", arguments.handle),
            ),
            _ => problem,
        }
    })?;
    let kept = "the removal goes on the next time that this profile is online";
    let there = session.client.conversation(conversation.id);
    let call = there.remove(person.person);
    wait::answer(session, arguments.patience, kept, call).await?;
    wait::let_go_out(&session.client).await;
    print(session, json, conversation.id, "Changed").await
}

/// Asks at a terminal; a program has to say that it is sure. `kept` is how it stands without that.
pub(super) async fn make_sure(json: bool, kept: String, question: &str) -> Result<(), Problem> {
    if json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let message = format!("{kept}: this cannot be undone, add --yes if it is meant");
        return Err(Problem::new("NOT_CONFIRMED", message));
    }
    tell(question);
    let answer = BufReader::new(tokio::io::stdin()).lines().next_line().await;
    match answer.ok().flatten().is_some_and(|answer| answer.trim().eq_ignore_ascii_case("yes")) {
        true => Ok(()),
        false => Err(Problem::new("NOT_CONFIRMED", kept)),
    }
}

/// `move`.
pub(super) async fn move_to(session: &Session, json: bool, arguments: &Move) -> Result<(), Problem> {
    let conversation = find(session, json, &arguments.conversation).await?;
    let there = session.client.conversation(conversation.id);
    let kept = "it moves the next time that this profile is online";
    wait::answer(session, arguments.patience, kept, there.move_to(arguments.relay.clone())).await?;
    if json {
        object(&json!(summary(session, conversation.id).await?));
    } else {
        let title = name::title(&conversation, session.me());
        line(&format!("{title} goes on in a fresh mailbox; whoever reads the old one to its end follows."));
    }
    Ok(())
}

/// `leave`.
pub(super) async fn leave(session: &Session, json: bool, arguments: &Leave) -> Result<(), Problem> {
    let conversation = find(session, json, &arguments.conversation).await?;
    if name::is_invitation(&conversation) {
        let answers = invited_line(&conversation, &conversation.id.to_string());
        return Err(Problem::new("NOT_ACTIVE", format!("you are not in it yet: {answers}")));
    }
    let title = name::title(&conversation, session.me());
    if !arguments.yes && !conversation.state.has_ended() {
        let question = format!("Leave {title}? Only an invitation brings you back. Type yes to leave:");
        make_sure(json, format!("you are still in {title}"), &question).await?;
    }
    let there = session.client.conversation(conversation.id);
    let mut events = session.client.events();
    there.leave().await?;
    let gone = async {
        while there.summary().await?.state == ConversationState::Leaving {
            events.next().await;
        }
        Ok(())
    };
    let kept = "the others are told the next time that this profile is online";
    wait::answer(session, arguments.patience, kept, gone).await?;
    if json {
        object(&json!(summary(session, conversation.id).await?));
    } else {
        line(&format!("You left {title}. Its history stays in this profile."));
    }
    Ok(())
}
