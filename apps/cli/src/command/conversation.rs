//! Conversations: `start`, `conversations`, `members`, `add`, `remove`, `leave`.

use posthorn_client::conversation::{Body, ConversationId, ConversationState, Message};
use posthorn_client::sync::ConversationSummary;

use super::wait;
use crate::args::{Add, In, Remove, Start};
use crate::output::{body_text, conversation_json, conversation_state, member_json, member_line, sender};
use crate::plain::plain_line;
use crate::print::{line, object};
use crate::problem::Problem;
use crate::profile::Session;
use crate::{advice, clock, name};

/// The conversation that was named; if it is not known yet, it may just have arrived at the relay.
pub(super) async fn find(session: &Session, json: bool, text: &str) -> Result<ConversationSummary, Problem> {
    let me = &session.account.handle;
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
    let me = &session.account.handle;
    if json {
        object(&conversation_json(&conversation, me));
    } else {
        line(&format!(
            "{what} {} ({id}); members: {}",
            name::title(&conversation, me),
            conversation.members.join(", ")
        ));
    }
    Ok(())
}

/// `start`.
pub(super) async fn start(session: &Session, json: bool, arguments: &Start) -> Result<(), Problem> {
    let members = name::contacts(&arguments.members)?;
    let kept = "the invitations go out the next time that this profile is online; do not start it again";
    let call = session.client.start(name::meant(&arguments.name), members);
    let id = wait::answer(session, arguments.patience, kept, call).await.map_err(Problem::if_inviting)?;
    wait::let_go_out(&session.client).await;
    print(session, json, id, "Started").await
}

/// `conversations`.
pub(super) async fn list(session: &Session, json: bool) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let list = session.client.conversations().await?;
    let me = &session.account.handle;
    if json {
        list.iter().for_each(|conversation| object(&conversation_json(conversation, me)));
        return Ok(());
    }
    if list.is_empty() {
        line(&format!("No conversations yet: {} begins one.", advice::command("start HANDLE_OR_LINK")));
    }
    let (now, zone) = (clock::now_ms(), clock::local_zone());
    for conversation in &list {
        let id: String = conversation.id.to_string().chars().take(8).collect();
        let unread =
            if conversation.unread == 0 { String::new() } else { format!(" ({} new)", conversation.unread) };
        let state = match conversation_state(conversation.state) {
            ("active", _) => String::new(),
            (state, None) => format!(" [{state}]"),
            (state, Some(cause)) => format!(" [{state}: {cause}]"),
        };
        line(&format!("{id}  {}{unread}{state}", name::title(conversation, me)));
        if let Some(last) = &conversation.last {
            let time = clock::short(last.sent_at, now, &zone);
            line(&format!("          {time}  {}", last_line(last, me)));
        }
    }
    Ok(())
}

/// The newest entry on one line, with its sender.
fn last_line(last: &Message, me: &str) -> String {
    let text = plain_line(&body_text(&last.body, me));
    let text = if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text };
    match &last.body {
        Body::Text(_) => format!("{}: {text}", sender(last)),
        _ => text,
    }
}

/// `members`.
pub(super) async fn members(session: &Session, json: bool, arguments: &In) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let conversation = find(session, json, &arguments.conversation).await?;
    let members = session.client.members(conversation.id).await?;
    if members.is_empty() && !json {
        line("You are not in this conversation any more: who is in it now is not known here.");
    }
    for member in members {
        if json {
            object(&member_json(&member));
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
    let call = session.client.add(conversation.id, members);
    wait::answer(session, arguments.patience, kept, call).await.map_err(Problem::if_inviting)?;
    wait::let_go_out(&session.client).await;
    print(session, json, conversation.id, "Changed").await
}

/// `remove`.
pub(super) async fn remove(session: &Session, json: bool, arguments: &Remove) -> Result<(), Problem> {
    let conversation = find(session, json, &arguments.conversation).await?;
    let handle = arguments.handle.trim_start_matches('@').to_owned();
    if !conversation.members.contains(&handle) {
        let members = conversation.members.join(", ");
        return Err(Problem::new(
            "UNKNOWN_PERSON",
            format!("{handle} is not a member; members are {members}"),
        ));
    }
    let kept = "the removal goes on the next time that this profile is online";
    let call = session.client.remove(conversation.id, handle);
    wait::answer(session, arguments.patience, kept, call).await?;
    wait::let_go_out(&session.client).await;
    print(session, json, conversation.id, "Changed").await
}

/// `leave`.
pub(super) async fn leave(session: &Session, json: bool, arguments: &In) -> Result<(), Problem> {
    let conversation = find(session, json, &arguments.conversation).await?;
    let mut events = session.client.subscribe();
    session.client.leave(conversation.id).await?;
    let gone = async {
        while summary(session, conversation.id).await?.state == ConversationState::Leaving {
            wait::next(&mut events).await;
        }
        Ok::<_, Problem>(())
    };
    match tokio::time::timeout(arguments.patience.duration(), gone).await {
        Ok(gone) => gone?,
        Err(_) => {
            let kept = "the others are told the next time that this profile is online";
            return Err(wait::too_late(session, arguments.patience, Some("no answer"), kept));
        }
    }
    if json {
        object(&conversation_json(&summary(session, conversation.id).await?, &session.account.handle));
    } else {
        line(&format!(
            "You left {}. Its history stays in this profile.",
            name::title(&conversation, &session.account.handle)
        ));
    }
    Ok(())
}
