//! Messages: `send`, `react` and `history`.

use std::collections::HashSet;
use std::io::Read as _;
use std::time::Duration;

use posthorn_client::client::{Conversation, EventStream};
use posthorn_client::content::{Said, Text};
use posthorn_client::conversation::{ConversationId, ConversationState, Entry, EntryState, MessageId};
use posthorn_client::engine::{ConversationSummary, Error, Event, Page};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::BufReader;
use tokio::time::Instant;

use super::lines::Lines;
use super::wait::Obstacle;
use super::{conversation, wait};
use crate::args::{History, Patience, React, Send};
use crate::output::{adding_text, entry_line, merge, state_name};
use crate::print::{line, object, tell};
use crate::problem::Problem;
use crate::profile::Session;
use crate::{advice, clock, name};

/// How many entries are looked at together.
const LOOK_BACK: usize = 1000;
/// What `react` takes for the last message of the others.
const LAST: &str = "last";
/// Beginnings of ids shorter than this are not looked at.
const SHORTEST_BEGINNING: usize = 4;
/// Lines that may wait to be sent: while there are more, whoever writes them waits, too.
const MOST_QUEUED: usize = 1000;
/// A relay that did not answer for so long is worth a word.
const SILENCE: Duration = Duration::from_secs(1);

/// `send`.
pub(super) async fn send(session: &Session, json: bool, arguments: &Send) -> Result<(), Problem> {
    let found = conversation::find(session, json, &arguments.conversation).await?;
    check_not_invited(&found)?;
    let conversation = found.id;
    if arguments.lines {
        return send_lines(session, json, arguments, &found).await;
    }
    let mut events = session.client.events();
    let text = arguments.text.as_deref().unwrap_or_default();
    let said = Said::new(Text::new(text)).map_err(Error::from)?;
    let id = session.client.conversation(conversation).send_as(arguments.id, said).await?;
    let mut waiting = Waiting::new(session, json || arguments.no_wait, arguments.patience, &found);
    waiting.queued.insert(id);
    // Of what was sent before nothing more may happen.
    let before = if arguments.may_be_there { waiting.look().await?.pop() } else { None };
    let state = if let Some((_, state)) = before {
        state
    } else if arguments.no_wait {
        EntryState::Queued
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
        // Waiting does not help where the person has to agree first.
        let patience =
            if name::awaits_consent(&found) { Duration::ZERO } else { arguments.patience.duration() };
        match tokio::time::timeout(patience, sent).await {
            Ok(state) => state?,
            Err(_) => return Err(waiting.too_late(kept).await),
        }
    };
    print_sent(json, conversation, id, state);
    fail_if_failed(state)
}

/// What is done once, before the profile is opened.
pub(super) fn prepare(arguments: &mut Send) -> Result<(), Problem> {
    if arguments.text.as_deref() == Some("-") {
        arguments.text = Some(standard_input()?);
    }
    if let Some(text) = &arguments.text {
        check_words(text)?;
        arguments.may_be_there = arguments.id.is_some();
        arguments.id.get_or_insert_with(|| MessageId::random(&mut StdRng::from_os_rng()));
    }
    Ok(())
}

/// Blanks alone are a slip, not a message.
fn check_words(text: &str) -> Result<(), Problem> {
    match text.trim().is_empty() {
        true => Err(Problem::new("BAD_TEXT", "there is nothing to send: the message is blank")),
        false => Ok(()),
    }
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
    found: &ConversationSummary,
) -> Result<(), Problem> {
    let conversation = found.id;
    let mut events = session.client.events();
    let mut input = Lines::of(BufReader::new(tokio::io::stdin()));
    let mut waiting = Waiting::new(session, json || arguments.no_wait, arguments.patience, found);
    // Whoever types them one after the other should know at the first.
    if let Some(why) = conversation::why_suspended(found).filter(|_| !json) {
        tell(&format!("the conversation is {why}"));
    }
    let (mut open, mut failed) = (true, None);
    let mut deadline = None;
    while open || !waiting.queued.is_empty() {
        let full = waiting.queued.len() >= MOST_QUEUED;
        match (open && !full, deadline) {
            (true, _) => deadline = None,
            (false, None) => deadline = Some(Instant::now() + arguments.patience.duration()),
            (false, Some(_)) => {}
        }
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let mut done = Vec::new();
        tokio::select! {
            line = input.next(), if open && !full => match line {
                Ok(Some(Ok(text))) if text.trim().is_empty() => {}
                Ok(Some(Err(bad))) if arguments.skip_bad => tell(&format!("{bad}: it is left out")),
                Ok(Some(Err(bad))) => {
                    // What came before it is sent.
                    let what = format!("{bad}: nothing from there on was sent, --skip-bad leaves such lines out");
                    (open, failed) = (false, failed.or(Some(Problem::new("BAD_TEXT", what))));
                }
                Ok(Some(Ok(text))) => {
                    waiting.queued.insert(session.client.conversation(conversation).send_text(&text).await?);
                    session.keeps(waiting.kept());
                }
                Ok(None) => open = false,
                Err(error) => return Err(Problem::new("STDIN", format!("cannot read standard input: {error}"))),
            },
            heard = waiting.listen(&mut events) => done = waiting.hear(heard).await?,
            () = patience => {
                done = waiting.look().await?;
                if done.is_empty() {
                    let mut kept = waiting.kept();
                    if open {
                        kept += &format!("; from line {} on nothing was read", input.next_number());
                    }
                    return Err(waiting.too_late(&kept).await);
                }
            }
        }
        for (id, state) in done {
            print_sent(json, conversation, id, state);
            session.keeps(waiting.kept());
            failed = failed.or(fail_if_failed(state).err());
            deadline = None;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What was waited for.
enum Heard {
    /// An event; `None` = there are no more.
    Event(Option<Event>),
    /// For a while there was none.
    Silence,
}

/// Our messages that are not sent yet.
struct Waiting<'a> {
    session: &'a Session,
    conversation: ConversationId,
    /// Where that lives.
    relay: String,
    queued: HashSet<MessageId>,
    /// What is between us and that relay, if something is.
    obstacle: Option<Obstacle>,
    patience: Patience,
    /// When it is told that the relay does not answer: once, and never to programs, which get one error at
    /// the end.
    tell_at: Option<Instant>,
}

impl<'a> Waiting<'a> {
    fn new(session: &'a Session, quiet: bool, patience: Patience, found: &ConversationSummary) -> Self {
        let tell_at = (!quiet).then(|| Instant::now() + SILENCE);
        Self {
            session,
            conversation: found.id,
            relay: found.relay.clone(),
            queued: HashSet::new(),
            obstacle: None,
            patience,
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

    fn is_own_relay(&self) -> bool {
        self.relay == self.session.account.relay
    }

    /// The relay of the conversation cannot be reached, or can be again.
    fn is_away(&mut self, reason: Option<String>) {
        let obstacle = reason.map(Obstacle::Distance);
        if let Some(obstacle) = &obstacle {
            self.tell(obstacle);
        }
        self.obstacle = obstacle;
    }

    /// Says once that the relay does not answer, or what it answers.
    fn tell(&mut self, obstacle: &Obstacle) {
        if self.queued.is_empty() || self.tell_at.take().is_none() {
            return;
        }
        let what = if self.queued.len() == 1 { "the message is queued" } else { "the messages are queued" };
        let seconds = self.patience.seconds();
        let kept = format!(
            "{what}; waiting up to {seconds} s for the relay (--wait SECONDS), ctrl-c stops the waiting"
        );
        tell(&obstacle.in_words(&self.relay, &kept));
    }

    /// Waits for an event; returns which of our messages are not queued any more by it. Not to be dropped
    /// halfway.
    async fn next(&mut self, events: &mut EventStream) -> Result<Vec<(MessageId, EntryState)>, Problem> {
        let heard = self.listen(events).await;
        self.hear(heard).await
    }

    /// Waits for an event, or until it is time to say that the relay does not answer. If it is dropped,
    /// nothing is lost.
    async fn listen(&self, events: &mut EventStream) -> Heard {
        let silence = async {
            match self.tell_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => Heard::Event(event),
            () = silence => Heard::Silence,
        }
    }

    async fn hear(&mut self, heard: Heard) -> Result<Vec<(MessageId, EntryState)>, Problem> {
        let event = match heard {
            Heard::Event(event) => event,
            Heard::Silence => {
                if let Err(why) = self.check_goes_on().await {
                    // Why, and what is done, stands at the end, if it does not go on by then.
                    if self.tell_at.take().is_some() && !self.queued.is_empty() {
                        let seconds = self.patience.seconds();
                        tell(&format!(
                            "the conversation cannot go on for now ({}): waiting up to {seconds} s for it \
                             (--wait SECONDS), ctrl-c stops the waiting",
                            why.code()
                        ));
                    }
                    return Ok(Vec::new());
                }
                let state = self.session.client.state().await?;
                let away = state.unreachable.into_iter().find(|away| away.relay == self.relay);
                match (away, state.waiting) {
                    (Some(away), _) => self.tell(&Obstacle::Distance(away.reason)),
                    (None, Some(waiting)) => self.tell(&Obstacle::Refusal(waiting)),
                    // It answers, and takes its time.
                    (None, None) if state.connected || !self.is_own_relay() => {
                        self.tell_at = Some(Instant::now() + SILENCE);
                    }
                    (None, None) => self.tell(&Obstacle::Distance("no answer yet".to_owned())),
                }
                return Ok(Vec::new());
            }
        };
        match event {
            Some(Event::Changed(entry)) if entry.mine && entry.state != EntryState::Queued => {
                let is_ours = entry.conversation == self.conversation && self.queued.remove(&entry.id);
                Ok(if is_ours { vec![(entry.id, entry.state)] } else { Vec::new() })
            }
            Some(Event::Disconnected { reason, .. }) if self.is_own_relay() => {
                self.is_away(Some(reason));
                Ok(Vec::new())
            }
            Some(Event::Relay { relay, unreachable }) if relay == self.relay => {
                self.is_away(unreachable);
                Ok(Vec::new())
            }
            Some(Event::Waiting(waiting)) => {
                self.obstacle = Some(Obstacle::Refusal(waiting));
                Ok(Vec::new())
            }
            Some(Event::Connected) => {
                self.obstacle = None;
                Ok(Vec::new())
            }
            Some(Event::Missed { .. }) => self.look().await,
            // Waiting for a conversation that has ended would never end.
            Some(Event::Conversation { conversation }) if conversation == self.conversation => {
                match self.check_goes_on().await {
                    Ok(()) => Ok(Vec::new()),
                    Err(_) => self.look().await,
                }
            }
            Some(_) => Ok(Vec::new()),
            None => Err(Error::Stopped.into()),
        }
    }

    /// Looks for those that are not queued any more, until it has seen all of them.
    async fn look(&mut self) -> Result<Vec<(MessageId, EntryState)>, Problem> {
        let mut done = Vec::new();
        let mut page = Page { limit: LOOK_BACK, ..Page::default() };
        let there = self.session.client.conversation(self.conversation);
        let mut unseen = self.queued.len();
        while unseen > 0 {
            let entries = there.history(page).await?;
            for entry in entries.iter().filter(|entry| entry.mine && self.queued.contains(&entry.id)) {
                unseen = unseen.saturating_sub(1);
                if entry.state != EntryState::Queued {
                    done.push((entry.id, entry.state));
                }
            }
            match entries.first() {
                Some(first) if entries.len() == LOOK_BACK => page.before = Some(first.row),
                _ => break,
            }
        }
        for (id, _) in &done {
            self.queued.remove(id);
        }
        if !self.queued.is_empty() {
            self.check_goes_on().await?;
        }
        Ok(done)
    }

    /// What is said when patience ends: what is known of the conversation, or else of its relay.
    async fn too_late(&self, kept: &str) -> Problem {
        match self.check_goes_on().await {
            Ok(()) => wait::too_late(&self.relay, self.patience, self.obstacle.as_ref(), kept),
            Err(why) => why,
        }
    }

    /// Nothing leaves a conversation that has ended or is suspended.
    async fn check_goes_on(&self) -> Result<(), Problem> {
        let summary = self.session.client.conversation(self.conversation).summary().await;
        if let Ok(summary) = &summary
            && let ConversationState::Suspended(why) = &summary.state
        {
            let text = conversation::why_suspended(summary).unwrap_or_default();
            let message = format!("the conversation is {text}: do not send it again");
            return Err(Problem::new(why.cause.name(), message));
        }
        match summary.map(|summary| summary.state) {
            Ok(ConversationState::Active | ConversationState::Creating) => Ok(()),
            _ => {
                let message = "the conversation ended before the message was sent: start another";
                Err(Problem::new("NOT_ACTIVE", message))
            }
        }
    }
}

/// To say something, one has to be in it.
fn check_not_invited(conversation: &ConversationSummary) -> Result<(), Problem> {
    if !name::is_invitation(conversation) {
        return Ok(());
    }
    let id: String = conversation.id.to_string().chars().take(8).collect();
    let answers = conversation::invited_line(conversation, &id);
    Err(Problem::new("NOT_ACTIVE", format!("you are not in it yet: {answers}")))
}

fn print_sent(json: bool, conversation: ConversationId, id: MessageId, state: EntryState) {
    if json {
        object(&sent_json(conversation, id, state));
    } else {
        line(state_name(state));
    }
}

fn sent_json(conversation: ConversationId, id: MessageId, state: EntryState) -> Value {
    let mut value = json!({"conversation": conversation, "id": id, "state": state_name(state)});
    if let EntryState::Failed(cause) = state {
        merge(&mut value, json!({"cause": cause}));
    }
    value
}

fn fail_if_failed(state: EntryState) -> Result<(), Problem> {
    match state {
        EntryState::Failed(cause) => {
            let list = advice::command("conversations");
            let message =
                format!("the message will not be sent ({cause}): {list} shows how the conversation stands");
            Err(Problem::new(cause.name(), message))
        }
        _ => Ok(()),
    }
}

/// `react`.
pub(super) async fn react(session: &Session, json: bool, arguments: &React) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let found = conversation::find(session, json, &arguments.conversation).await?;
    check_not_invited(&found)?;
    let entry = find_entry(session, found.id, &arguments.message).await?;
    let target = entry.target().ok_or_else(|| {
        Problem::new("UNKNOWN_MESSAGE", "nobody said that: a sign goes beside what somebody said")
    })?;
    let emoji = arguments.emoji.as_deref().unwrap_or_default().trim();
    session.client.conversation(found.id).react(target, emoji).await?;
    let kept = "the sign is queued and leaves the next time that this profile is online";
    let settled = session.client.settled(arguments.patience.duration());
    wait::answer(session, arguments.patience, kept, settled).await?;
    // Nobody waits for what is kept in a conversation that cannot go on.
    if session.client.conversation(found.id).summary().await?.queued > 0 {
        return Err(Waiting::new(session, true, arguments.patience, &found).too_late(kept).await);
    }
    if json {
        object(&json!({"conversation": found.id, "target": target, "emoji": emoji}));
    } else {
        line(if emoji.is_empty() { "taken back" } else { "sent" });
    }
    Ok(())
}

/// The entry that was named: `last`, an id, or the beginning of one.
async fn find_entry(session: &Session, conversation: ConversationId, text: &str) -> Result<Entry, Problem> {
    let there = session.client.conversation(conversation);
    let text = text.trim().to_ascii_lowercase();
    if text != LAST && text.len() < SHORTEST_BEGINNING {
        let message =
            format!("a message is named by `{LAST}`, its id, or {SHORTEST_BEGINNING} letters of it");
        return Err(Problem::new("UNKNOWN_MESSAGE", message));
    }
    let is_meant = |entry: &Entry| match text.as_str() {
        LAST => !entry.mine && entry.said().is_some(),
        text => entry.id.to_string().starts_with(text),
    };
    let mut page = Page { limit: LOOK_BACK, ..Page::default() };
    loop {
        let mut entries = there.history(page).await?;
        if let Some(at) = entries.iter().rposition(is_meant) {
            return Ok(entries.swap_remove(at));
        }
        match entries.first() {
            Some(first) if entries.len() == LOOK_BACK => page.before = Some(first.row),
            _ => break,
        }
    }
    let message = match text.as_str() {
        LAST => "nobody else has said anything there yet".to_owned(),
        text => {
            let history = advice::command("--json history CONVERSATION");
            format!("no message there has an id that begins with {text}: {history} shows ids")
        }
    };
    Err(Problem::new("UNKNOWN_MESSAGE", message))
}

/// The newest so many entries before a row, oldest first. A page at a time, for whoever has the profile may
/// be another process.
async fn newest(there: &Conversation, before: Option<u64>, limit: usize) -> Result<Vec<Entry>, Error> {
    let (mut before, mut left, mut pages) = (before, limit, Vec::new());
    while left > 0 {
        let limit = left.min(LOOK_BACK);
        let page = there.history(Page { before, limit, ..Page::default() }).await?;
        before = page.first().map(|first| first.row);
        left = if page.len() == limit { left - limit } else { 0 };
        pages.push(page);
    }
    Ok(pages.into_iter().rev().flatten().collect())
}

/// `history`.
pub(super) async fn history(session: &Session, json: bool, arguments: &History) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let conversation = conversation::find(session, json, &arguments.conversation).await?;
    wait::tell_if_away(session, json, &conversation.relay).await;
    let zone = clock::local_zone();
    let there = session.client.conversation(conversation.id);
    for entry in newest(&there, arguments.before, arguments.limit).await? {
        if json {
            object(&json!(entry));
        } else {
            line(&entry_line(&entry, session.me(), &zone));
        }
    }
    if let Some(adding) = adding_text(&conversation.adding).filter(|_| !json && arguments.before.is_none()) {
        line(&format!("-- {adding}"));
    }
    if !arguments.peek && arguments.before.is_none() && conversation.unread > 0 {
        there.mark_read(None).await?;
        wait::let_go_out(&session.client).await;
    }
    Ok(())
}
