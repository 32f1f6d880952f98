//! `listen`: what happens, as it happens.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use posthorn_client::conversation::{Body, Cause, ConversationId, ConversationState, Entry, Notice};
use posthorn_client::engine::{Consent, Error, Event};
use serde_json::json;

use super::conversation::why_suspended;
use super::wait;
use crate::args::Listen;
use crate::chat::wrap::fit;
use crate::output::{body_text, is_said, reactions_text, sender};
use crate::plain::plain_line;
use crate::print::{line, object, tell};
use crate::problem::Problem;
use crate::profile::Session;
use crate::signal::{Signal, Signals};
use crate::{advice, clock, disk, invitation, name};

/// `--until-settled` without `--for` gives up after this long.
const LONGEST_SETTLE: Duration = Duration::from_secs(60);
/// Columns of a message that are repeated with the reactions to it.
const QUOTED: usize = 40;

/// `listen`.
pub(super) async fn listen(session: &Session, json: bool, arguments: &Listen) -> Result<ExitCode, Problem> {
    let mut events = session.client.events();
    let mut signals = Signals::new()
        .map_err(|error| Problem::new("SIGNALS", format!("cannot listen for signals: {error}")))?;
    let mut printer = Printer {
        session,
        json,
        titles: HashMap::new(),
        suspended: HashMap::new(),
        reactions: HashMap::new(),
        offline: None,
        disk_was_full: false,
    };
    if !json && std::io::stderr().is_terminal() {
        tell(&format!("listening as {}; ctrl-c ends it", session.account.handle));
    }
    if !json {
        printer.look().await?;
    }
    if arguments.accept {
        accept_everybody(session).await?;
    }
    let limit = arguments.seconds.map(Duration::from_secs);
    let over = async {
        match (arguments.until_settled, limit) {
            (true, limit) => match session.client.settled(limit.unwrap_or(LONGEST_SETTLE)).await {
                Ok(()) => End::Settled,
                Err(_) => End::NotSettled,
            },
            (false, Some(limit)) => {
                tokio::time::sleep(limit).await;
                End::Done
            }
            (false, None) => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let end = loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(event) => {
                    printer.show(&event, arguments.peek).await?;
                    if arguments.accept && session.is_guest {
                        follow(session, &event).await?;
                    }
                }
                None => return Err(Error::Stopped.into()),
            },
            end = &mut over => break end,
            signal = signals.next() => break End::Signal(signal),
        }
    };
    while let Some(event) = events.try_next() {
        printer.show(&event, arguments.peek).await?;
    }
    // Whoever gave a time is not kept longer.
    if !arguments.peek && !matches!(end, End::NotSettled) {
        wait::let_go_out(&session.client).await;
    }
    ended(session, json, end).await
}

/// What is said at the end, and the exit status.
async fn ended(session: &Session, json: bool, end: End) -> Result<ExitCode, Problem> {
    match end {
        End::NotSettled => {
            let state = session.client.state().await?;
            let missing = match (&state.waiting, state.connected, state.caught_up) {
                (Some(waiting), true, _) => wait::in_words(waiting),
                (_, false, _) => "the relay cannot be reached".to_owned(),
                (None, true, false) => "not everything is read from the relay yet".to_owned(),
                (None, true, true) => "not everything could be sent yet".to_owned(),
            };
            Err(Problem::new(
                "NOT_SETTLED",
                format!("{missing}: it goes on the next time that this profile is online"),
            ))
        }
        End::Settled if json => {
            object(&json!({"event": "settled"}));
            Ok(ExitCode::SUCCESS)
        }
        // Ctrl-C is how people end it.
        End::Signal(signal) if signal != Signal::Interrupt => Ok(signal.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Follows invitations to relays that are in use: those that wait, and those that come.
pub(super) async fn accept_everybody(session: &Session) -> Result<(), Problem> {
    if !session.is_guest {
        session.client.consent(Consent::Everybody).await?;
    }
    for invited in session.client.conversations().await?.iter().filter(|known| name::is_invitation(known)) {
        accept(session, invited.id).await?;
    }
    Ok(())
}

/// What somebody else's process is asked to do about an invitation: its consent is its own.
pub(super) async fn follow(session: &Session, event: &Event) -> Result<(), Problem> {
    match event {
        Event::Invited { conversation, foreign_relay: false, .. } => accept(session, *conversation).await,
        _ => Ok(()),
    }
}

async fn accept(session: &Session, invited: ConversationId) -> Result<(), Problem> {
    match session.client.conversation(invited).accept(false).await {
        // Those are for a person to decide on; others may have gone meanwhile, or lead nowhere.
        Err(Error::ForeignRelay(_) | Error::UnknownConversation | Error::Failed { .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Why listening ends.
enum End {
    Done,
    Settled,
    NotSettled,
    Signal(Signal),
}

struct Printer<'a> {
    session: &'a Session,
    json: bool,
    titles: HashMap<ConversationId, String>,
    /// The conversations that cannot go on, and why: that was told.
    suspended: HashMap<ConversationId, Cause>,
    /// What was told of the reactions to entries, by row.
    reactions: HashMap<u64, String>,
    /// Why the relay cannot be reached, once that was told. There are two connections, and many tries.
    offline: Option<String>,
    /// The disk was full when it was looked at last, which was told then.
    disk_was_full: bool,
}

impl Printer<'_> {
    async fn show(&mut self, event: &Event, peek: bool) -> Result<(), Problem> {
        if self.json {
            object(&json!(event));
        } else {
            self.show_text(event).await?;
        }
        // A client whose database failed connects anew after it, again and again.
        if let Event::Connected = event {
            let full = disk::full();
            let is_news = !std::mem::replace(&mut self.disk_was_full, full.is_some());
            if let Some(full) = full.filter(|_| is_news) {
                full.print(self.json);
            }
        }
        // Printing is reading; our own messages need no mark.
        if let Event::Entry(entry) = event
            && !peek
            && !entry.mine
        {
            let there = self.session.client.conversation(entry.conversation);
            match there.mark_read(Some(entry.row)).await {
                // It may have been forgotten since, as an invitation is when another takes its place.
                Ok(()) | Err(Error::UnknownConversation) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn show_text(&mut self, event: &Event) -> Result<(), Problem> {
        match event {
            // Told by the event of its own.
            Event::Entry(entry) if matches!(entry.body, Body::Notice(Notice::Invited { .. })) => {}
            Event::Entry(entry) => {
                let title = self.title(entry.conversation).await?;
                let time = clock::time_of_day(entry.sent_at, &clock::local_zone());
                // What somebody wrote in a second line is no line of another's.
                let text = body_text(&entry.body, self.session.me()).replace('\n', "\n      ");
                match is_said(entry) {
                    true => line(&format!("{time} [{title}] {}: {text}", sender(entry))),
                    false => line(&format!("{time} [{title}] -- {text}")),
                }
            }
            Event::Changed(entry) => self.show_reactions(entry).await?,
            Event::Invited { conversation, inviter, relay, foreign_relay } => {
                let (far, place) = match foreign_relay {
                    true => (" --foreign-relay", format!(" to {}", invitation::relay_name(relay))),
                    false => ("", String::new()),
                };
                let id: String = conversation.to_string().chars().take(8).collect();
                let accept = advice::command(&format!("accept {id}{far}"));
                line(&format!("-- {} invites you{place}: {accept}", plain_line(&inviter.handle)));
            }
            Event::Waiting(waiting) => {
                let seconds = waiting.until.saturating_sub(clock::now_ms()).div_ceil(1000);
                line(&format!("-- {}; next try in {seconds} s", wait::in_words(waiting)));
            }
            Event::Missed { events } => {
                let history = advice::command("history CONVERSATION");
                line(&format!(
                    "-- {events} events came too fast to be shown; nothing is lost, see {history}"
                ));
            }
            Event::Disconnected { reason, retry_in_ms } if self.offline.as_ref() != Some(reason) => {
                self.offline = Some(reason.clone());
                line(&format!(
                    "-- offline ({}); next try in {} s",
                    plain_line(reason),
                    retry_in_ms.div_ceil(1000)
                ));
            }
            Event::Relay { relay, unreachable } => {
                line(&format!("-- {}", wait::elsewhere(relay, unreachable)))
            }
            // Told by what follows from it, in better words.
            Event::Alarm { conversation: Some(id), cause, .. } if self.suspended.get(id) == Some(cause) => {}
            Event::Alarm { conversation, cause, text, .. } => {
                let place = match conversation {
                    Some(id) => format!(" [{}]", self.title(*id).await?),
                    None => String::new(),
                };
                line(&format!("!! {cause}{place}: {}", plain_line(text)));
            }
            Event::Conversation { .. } => self.look().await?,
            Event::Connected if self.offline.take().is_some() => line("-- online again"),
            _ => {}
        }
        Ok(())
    }

    /// Looks at all conversations again: titles can change with the members, and with what stands beside
    /// them; and one that cannot go on any more, or goes on again, is worth a line.
    async fn look(&mut self) -> Result<(), Problem> {
        let list = self.session.client.conversations().await?;
        self.titles = name::titles(&list, self.session.me());
        self.suspended.retain(|id, _| list.iter().any(|known| known.id == *id));
        for known in &list {
            let title = self.titles.get(&known.id).map_or("", String::as_str);
            match &known.state {
                ConversationState::Suspended(why) => {
                    if self.suspended.insert(known.id, why.cause) != Some(why.cause) {
                        let text = why_suspended(known).unwrap_or_default();
                        line(&format!("!! {} [{title}]: {text}", why.cause));
                    }
                }
                ConversationState::Active if self.suspended.remove(&known.id).is_some() => {
                    line(&format!("-- [{title}] goes on"));
                }
                _ => drop(self.suspended.remove(&known.id)),
            }
        }
        Ok(())
    }

    /// An entry is shown differently: worth a line if somebody put a sign beside it, or took theirs back.
    async fn show_reactions(&mut self, entry: &Entry) -> Result<(), Problem> {
        let signs = reactions_text(entry).unwrap_or_default();
        let before = self.reactions.insert(entry.row, signs.clone()).unwrap_or_default();
        if signs != before && is_said(entry) {
            let title = self.title(entry.conversation).await?;
            let text = plain_line(&body_text(&entry.body, self.session.me()));
            let signs = if signs.is_empty() { "(no reactions any more)" } else { &signs };
            line(&format!("-- [{title}] {signs} to: {}", fit(&text, QUOTED)));
        }
        Ok(())
    }

    async fn title(&mut self, id: ConversationId) -> Result<String, Problem> {
        if let Some(title) = self.titles.get(&id) {
            return Ok(title.clone());
        }
        self.look().await?;
        Ok(self.titles.get(&id).cloned().unwrap_or_else(|| id.to_string()))
    }
}
