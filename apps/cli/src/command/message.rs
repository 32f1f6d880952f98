//! Messages: `send` and `history`.

use std::collections::HashSet;
use std::io::Read as _;
use std::time::Duration;

use posthorn_client::conversation::{ConversationId, ConversationState, MessageId, MessageState};
use posthorn_client::sync::Event;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{conversation, wait};
use crate::args::{History, Patience, Send};
use crate::output::{merge, message_json, message_line, state_name};
use crate::print::{line, object, tell};
use crate::problem::Problem;
use crate::profile::Session;
use crate::{advice, clock};

/// How many of the newest entries are looked at when events were missed.
const LOOK_BACK: usize = 1000;
/// A relay that did not answer for so long is worth a word.
const SILENCE: Duration = Duration::from_secs(1);

/// `send`.
pub(super) async fn send(session: &Session, json: bool, arguments: &Send) -> Result<(), Problem> {
    let conversation = conversation::find(session, json, &arguments.conversation).await?.id;
    if arguments.lines {
        return send_lines(session, json, arguments, conversation).await;
    }
    let text = match arguments.text.as_deref() {
        Some("-") => standard_input()?,
        text => text.unwrap_or_default().to_owned(),
    };
    let mut events = session.client.subscribe();
    let id = session.client.send(conversation, text).await?;
    let mut waiting = Waiting::new(session, json, arguments, conversation);
    waiting.queued.insert(id);
    let state = if arguments.no_wait {
        MessageState::Queued
    } else {
        let sent = async {
            loop {
                if let Some((_, state)) = waiting.next(&mut events).await?.into_iter().next() {
                    return Ok::<_, Problem>(state);
                }
            }
        };
        let kept = "the message is queued and leaves the next time that this profile is online; do not send it again";
        session.keeps(kept);
        match tokio::time::timeout(arguments.patience.duration(), sent).await {
            Ok(state) => state?,
            Err(_) => {
                return Err(wait::too_late(session, arguments.patience, waiting.offline.as_deref(), kept));
            }
        }
    };
    print_sent(json, conversation, id, state);
    fail_if_failed(state)
}

fn standard_input() -> Result<String, Problem> {
    let mut bytes = Vec::new();
    let most = posthorn_client::content::TEXT_BYTES;
    std::io::stdin()
        .lock()
        // One more may be the line end, and another tells that it is too long.
        .take(most as u64 + 2)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::new("STDIN", format!("cannot read standard input: {error}")))?;
    // Cut in the middle of a character, it is too long and not malformed.
    let cut = bytes.len() > most + 1;
    let mut text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if cut => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        Err(_) => return Err(Problem::new("BAD_TEXT", "standard input is not UTF-8: convert it first")),
    };
    // What `echo` and every editor put at the end is no part of the message.
    if text.ends_with('\n') {
        text.pop();
    }
    if text.len() > most {
        return Err(Problem::new(
            "BAD_TEXT",
            format!("a message has at most {most} bytes, standard input has more: send it in parts"),
        ));
    }
    Ok(text)
}

/// Sends each line as it comes, prints each state that is final for this command, and ends when all are sent.
async fn send_lines(
    session: &Session,
    json: bool,
    arguments: &Send,
    conversation: ConversationId,
) -> Result<(), Problem> {
    let mut events = session.client.subscribe();
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut waiting = Waiting::new(session, json, arguments, conversation);
    let (mut open, mut failed) = (true, None);
    let mut deadline = None;
    while open || !waiting.queued.is_empty() {
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = input.next_line(), if open => match line {
                Ok(Some(text)) if text.is_empty() => {}
                Ok(Some(text)) => {
                    waiting.queued.insert(session.client.send(conversation, text).await?);
                    session.keeps(waiting.kept());
                }
                Ok(None) => open = false,
                Err(error) => return Err(Problem::new("STDIN", format!("cannot read standard input: {error}"))),
            },
            done = waiting.next(&mut events) => for (id, state) in done? {
                print_sent(json, conversation, id, state);
                session.keeps(waiting.kept());
                failed = failed.or(fail_if_failed(state).err());
                deadline = None;
            },
            () = patience => {
                return Err(wait::too_late(session, arguments.patience, waiting.offline.as_deref(), &waiting.kept()));
            }
        }
        if !open && deadline.is_none() {
            deadline = Some(tokio::time::Instant::now() + arguments.patience.duration());
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Our messages that are not sent yet.
struct Waiting<'a> {
    session: &'a Session,
    conversation: ConversationId,
    queued: HashSet<MessageId>,
    /// Why the relay cannot be reached, if it cannot.
    offline: Option<String>,
    patience: Patience,
    /// When it is told that the relay does not answer: once, and never to programs, which get one error at
    /// the end.
    tell_at: Option<Instant>,
}

impl<'a> Waiting<'a> {
    fn new(session: &'a Session, json: bool, arguments: &Send, conversation: ConversationId) -> Self {
        let tell_at = (!json && !arguments.no_wait).then(|| Instant::now() + SILENCE);
        Self {
            session,
            conversation,
            queued: HashSet::new(),
            offline: None,
            patience: arguments.patience,
            tell_at,
        }
    }

    /// What becomes of them; empty if there are none.
    fn kept(&self) -> String {
        let when = "the next time that this profile is online; do not send";
        match self.queued.len() {
            0 => String::new(),
            1 => format!("1 message is queued and leaves {when} it again"),
            count => format!("{count} messages are queued and leave {when} them again"),
        }
    }

    /// Says once that the relay does not answer.
    fn tell(&mut self, reason: &str) {
        if self.queued.is_empty() || self.tell_at.take().is_none() {
            return;
        }
        let what = if self.queued.len() == 1 { "the message is queued" } else { "the messages are queued" };
        let seconds = self.patience.wait;
        let kept = format!(
            "{what}; waiting up to {seconds} s for the relay (--wait SECONDS), ctrl-c stops the waiting"
        );
        tell(Problem::unreachable(&self.session.account.relay, reason, &kept).message());
    }

    /// Waits for an event; returns which of our messages are not queued any more by it.
    async fn next(
        &mut self,
        events: &mut Receiver<Event>,
    ) -> Result<Vec<(MessageId, MessageState)>, Problem> {
        let silence = async {
            match self.tell_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = events.recv() => event,
            () = silence => {
                if self.session.client.state().await?.connected {
                    // It answers, and takes its time.
                    self.tell_at = Some(Instant::now() + SILENCE);
                } else {
                    self.tell("no answer yet");
                }
                return Ok(Vec::new());
            }
        };
        match event {
            Ok(Event::MessageState { id, state, .. }) if state != MessageState::Queued => {
                Ok(if self.queued.remove(&id) { vec![(id, state)] } else { Vec::new() })
            }
            Ok(Event::Disconnected { reason, .. }) => {
                self.tell(&reason);
                self.offline = Some(reason);
                Ok(Vec::new())
            }
            Ok(Event::Connected) => {
                self.offline = None;
                Ok(Vec::new())
            }
            // Waiting for a conversation that has ended would never end.
            Ok(Event::Conversation { .. }) | Err(RecvError::Lagged(_)) => self.look().await,
            Ok(_) => Ok(Vec::new()),
            Err(RecvError::Closed) => Err(posthorn_client::client::ClientError::Stopped.into()),
        }
    }

    async fn look(&mut self) -> Result<Vec<(MessageId, MessageState)>, Problem> {
        let mut done = Vec::new();
        for message in self.session.client.history(self.conversation, None, LOOK_BACK).await? {
            if message.state != MessageState::Queued && self.queued.remove(&message.id) {
                done.push((message.id, message.state));
            }
        }
        let list = self.session.client.conversations().await?;
        let live =
            list.iter().find(|conversation| conversation.id == self.conversation).map(|found| found.state);
        match live {
            _ if self.queued.is_empty() => Ok(done),
            Some(ConversationState::Active | ConversationState::Creating) => Ok(done),
            _ => {
                let message = "the conversation ended before the message was sent: start another";
                Err(Problem::new("NOT_ACTIVE", message))
            }
        }
    }
}

fn print_sent(json: bool, conversation: ConversationId, id: MessageId, state: MessageState) {
    if json {
        object(&sent_json(conversation, id, state));
    } else {
        line(state_name(state));
    }
}

fn sent_json(conversation: ConversationId, id: MessageId, state: MessageState) -> Value {
    let mut value = json!({"conversation": conversation, "id": id, "state": state_name(state)});
    if let MessageState::Failed(cause) = state {
        merge(&mut value, json!({"cause": cause}));
    }
    value
}

fn fail_if_failed(state: MessageState) -> Result<(), Problem> {
    match state {
        MessageState::Failed(cause) => {
            let list = advice::command("conversations");
            let message =
                format!("the message will not be sent ({cause}): {list} shows how the conversation stands");
            Err(Problem::new(cause.name(), message))
        }
        _ => Ok(()),
    }
}

/// `history`.
pub(super) async fn history(session: &Session, json: bool, arguments: &History) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let conversation = conversation::find(session, json, &arguments.conversation).await?;
    let zone = clock::local_zone();
    for message in session.client.history(conversation.id, arguments.before, arguments.limit).await? {
        if json {
            object(&message_json(&message));
        } else {
            line(&message_line(&message, &session.account.handle, &zone));
        }
    }
    if !arguments.peek && arguments.before.is_none() && conversation.unread > 0 {
        session.client.mark_read(conversation.id).await?;
        wait::let_go_out(&session.client).await;
    }
    Ok(())
}
