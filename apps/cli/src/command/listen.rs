//! `listen`: what happens, as it happens.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use posthorn_client::conversation::{Body, ConversationId};
use posthorn_client::sync::Event;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::wait;
use crate::args::Listen;
use crate::output::{body_text, event_json, sender};
use crate::plain::plain_line;
use crate::print::{line, object, tell};
use crate::problem::{Problem, why};
use crate::profile::Session;
use crate::signal::{Signal, Signals};
use crate::{advice, clock, disk, name};

/// `--until-settled` without `--for` gives up after this long.
const LONGEST_SETTLE: Duration = Duration::from_secs(60);

/// `listen`.
pub(super) async fn listen(session: &Session, json: bool, arguments: &Listen) -> Result<ExitCode, Problem> {
    let mut events = session.client.subscribe();
    let mut signals = Signals::new()
        .map_err(|error| Problem::new("SIGNALS", format!("cannot listen for signals: {error}")))?;
    let mut printer = Printer { session, json, titles: HashMap::new(), offline: None, disk_was_full: false };
    if !json && std::io::stderr().is_terminal() {
        tell(&format!("listening as {}; ctrl-c ends it", session.account.handle));
    }
    let limit = match (arguments.seconds, arguments.until_settled) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        (None, true) => Some(LONGEST_SETTLE),
        (None, false) => None,
    };
    let time_is_up = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let settled = async {
        match arguments.until_settled {
            true => {
                session
                    .client
                    .settled(limit.unwrap_or(LONGEST_SETTLE).saturating_add(Duration::from_secs(1)))
                    .await
            }
            false => std::future::pending().await,
        }
    };
    tokio::pin!(time_is_up, settled);
    let mut end = End::Open;
    while matches!(end, End::Open) {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => printer.show(&event, arguments.peek).await?,
                Err(RecvError::Lagged(missed)) => printer.missed(missed),
                Err(RecvError::Closed) => end = End::Done,
            },
            settled = &mut settled => end = if settled.is_ok() { End::Settled } else { End::NotSettled },
            () = &mut time_is_up => end = if arguments.until_settled { End::NotSettled } else { End::Done },
            signal = signals.next() => end = End::Signal(signal),
        }
    }
    while let Ok(event) = events.try_recv() {
        printer.show(&event, arguments.peek).await?;
    }
    // Whoever gave a time is not kept longer.
    if !arguments.peek && !matches!(end, End::NotSettled) {
        wait::let_go_out(&session.client).await;
    }
    match end {
        End::NotSettled => {
            let state = session.client.state().await?;
            let missing = match (state.connected, state.caught_up) {
                (false, _) => "the relay cannot be reached",
                (true, false) => "not everything is read from the relay yet",
                (true, true) => "not everything could be sent yet",
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

/// Why listening ends.
enum End {
    Open,
    Done,
    Settled,
    NotSettled,
    Signal(Signal),
}

struct Printer<'a> {
    session: &'a Session,
    json: bool,
    titles: HashMap<ConversationId, String>,
    /// Why the relay cannot be reached, once that was told. There are two connections, and many tries.
    offline: Option<String>,
    /// The disk was full when it was looked at last, which was told then.
    disk_was_full: bool,
}

impl Printer<'_> {
    async fn show(&mut self, event: &Event, peek: bool) -> Result<(), Problem> {
        if self.json {
            object(&event_json(event));
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
        if let Event::Message(message) = event
            && !peek
            && !message.mine
        {
            self.session.client.mark_read(message.conversation).await?;
        }
        Ok(())
    }

    async fn show_text(&mut self, event: &Event) -> Result<(), Problem> {
        match event {
            Event::Message(message) => {
                let title = self.title(message.conversation).await?;
                let time = clock::time_of_day(message.sent_at, &clock::local_zone());
                let text = body_text(&message.body, &self.session.account.handle);
                match &message.body {
                    Body::Text(_) => line(&format!("{time} [{title}] {}: {text}", sender(message))),
                    _ => line(&format!("{time} [{title}] -- {text}")),
                }
            }
            Event::Disconnected { reason, retry_in_ms } if self.offline.as_ref() != Some(reason) => {
                self.offline = Some(reason.clone());
                line(&format!(
                    "-- offline ({}); next try in {} s",
                    plain_line(&why(&self.session.account.relay, reason)),
                    retry_in_ms.div_ceil(1000)
                ));
            }
            Event::Alarm { conversation, cause, text, .. } => {
                let place = match conversation {
                    Some(id) => format!(" [{}]", self.title(*id).await?),
                    None => String::new(),
                };
                line(&format!("!! {cause}{place}: {}", plain_line(text)));
            }
            // Titles can change with the members, and with what stands beside them.
            Event::Conversation { .. } => self.titles.clear(),
            Event::Connected => {
                if self.offline.take().is_some() {
                    line("-- online again");
                }
            }
            Event::Disconnected { .. } | Event::MessageState { .. } => {}
        }
        Ok(())
    }

    fn missed(&self, events: u64) {
        if self.json {
            object(&json!({"event": "missed", "events": events}));
        } else {
            let history = advice::command("history CONVERSATION");
            line(&format!("-- {events} events came too fast to be shown; nothing is lost, see {history}"));
        }
    }

    async fn title(&mut self, id: ConversationId) -> Result<String, Problem> {
        if let Some(title) = self.titles.get(&id) {
            return Ok(title.clone());
        }
        let list = self.session.client.conversations().await?;
        self.titles = name::titles(&list, &self.session.account.handle);
        Ok(self.titles.get(&id).cloned().unwrap_or_else(|| id.to_string()))
    }
}
