//! Waiting for the relay: how long, and what is said when it does not answer.

use std::future::Future;
use std::time::Duration;

use posthorn_client::client::Client;
use posthorn_client::engine::{Account, Error, Event, Waiting};

use crate::advice;
use crate::args::Patience;
use crate::invitation::relay_name;
use crate::plain::plain_line;
use crate::print::tell;
use crate::problem::Problem;
use crate::profile::Session;

/// Reading commands wait this long for what is new.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Small things that follow from a command (a receipt, a farewell) get this long.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// What is between us and the relay.
pub(crate) enum Obstacle {
    /// It cannot be reached, and why.
    Distance(String),
    /// It answers, and refuses for now.
    Refusal(Waiting),
    /// Another relay cannot be reached: which, and why.
    Elsewhere(String, String),
}

impl Obstacle {
    /// What it is, and what becomes of what was asked.
    pub(super) fn in_words(&self, relay: &str, kept: &str) -> String {
        match self {
            Self::Distance(reason) => Problem::unreachable(relay, reason, kept).message().to_owned(),
            Self::Refusal(waiting) => format!("{}: {kept}", in_words(waiting)),
            Self::Elsewhere(relay, reason) => format!("{}: {kept}", away(relay, reason)),
        }
    }
}

/// Gets what is new, if the relay answers soon; says on standard error if it does not, and what is shown is
/// what is here.
pub(crate) async fn catch_up(session: &Session, json: bool) {
    let mut events = session.client.events();
    let offline = async {
        loop {
            match events.next().await {
                Some(Event::Disconnected { reason, .. }) => return reason,
                Some(_) => {}
                None => return "closed".to_owned(),
            }
        }
    };
    let kept = "this is what the profile has";
    let problem = tokio::select! {
        settled = session.client.settled(CATCH_UP) => match settled {
            Ok(()) => return,
            Err(error) => format!("{error}: {kept}"),
        },
        reason = offline => Problem::unreachable(&session.account.relay, &reason, kept).message().to_owned(),
    };
    if !json {
        match session.client.state().await {
            Ok(state) if state.unknown => tell(&format!("{}: {kept}", unknown_there(&session.account))),
            _ => tell(&problem),
        }
    }
}

/// Says on standard error if the relay where a conversation lives, which is not our own, cannot be reached:
/// nobody waited for it.
pub(crate) async fn tell_if_away(session: &Session, json: bool, relay: &str) {
    let Ok(state) = session.client.state().await else { return };
    if let Some(there) = state.unreachable.iter().find(|there| there.relay == relay).filter(|_| !json) {
        tell(&format!("{}: this is what the profile has", away(relay, &there.reason)));
    }
}

/// The relay does not know the account, and what to do about that.
pub(crate) fn unknown_there(account: &Account) -> String {
    let Account { relay, handle, .. } = account;
    let again = advice::command(&format!("register --relay {relay} --handle {handle} --invite CODE"));
    format!(
        "the relay does not know this account any more (restored from an older backup?): {again} gives it back"
    )
}

/// Lets what follows from a command leave, if the relay is there. Whatever does not is kept and leaves the
/// next time.
pub(crate) async fn let_go_out(client: &Client) {
    if !client.state().await.is_ok_and(|state| state.connected) {
        return;
    }
    let _ = client.settled(AFTERWARDS).await;
}

/// The answer to a call that needs the relay; if it does not come in time, `kept` says what becomes of it.
pub(crate) async fn answer<T>(
    session: &Session,
    patience: Patience,
    kept: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Problem> {
    let mut obstacle = None;
    let mut events = session.client.events();
    let watched = async {
        tokio::pin!(call);
        loop {
            tokio::select! {
                answer = &mut call => return answer,
                Some(event) = events.next() => {
                    let met = match event {
                        Event::Disconnected { reason, .. } => Obstacle::Distance(reason),
                        Event::Waiting(waiting) => Obstacle::Refusal(waiting),
                        Event::Relay { relay, unreachable } => {
                            tell_people(&elsewhere(&relay, &unreachable));
                            continue;
                        }
                        Event::Connected => {
                            obstacle = None;
                            continue;
                        }
                        _ => continue,
                    };
                    if obstacle.is_none() {
                        tell_people(&met.in_words(&session.account.relay, "still trying (ctrl-c stops the waiting)"));
                    }
                    obstacle = Some(met);
                }
            }
        }
    };
    session.keeps(kept);
    let answered = tokio::time::timeout(patience.duration(), watched).await;
    // Should the process end that was asked, it is known what was kept.
    if !matches!(answered, Ok(Err(Error::Stopped))) {
        session.keeps("");
    }
    match answered {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            let mut away = session.client.state().await.map(|state| state.unreachable).unwrap_or_default();
            let elsewhere = away.pop().map(|away| Obstacle::Elsewhere(away.relay, away.reason));
            Err(too_late(&session.account.relay, patience, obstacle.or(elsewhere).as_ref(), kept))
        }
    }
}

/// Told while waiting goes on, for people only: programs get the error at the end.
pub(super) fn tell_people(text: &str) {
    use std::io::IsTerminal as _;
    if std::io::stderr().is_terminal() {
        tell(text);
    }
}

/// That the relay refuses something for now.
pub(super) fn in_words(waiting: &Waiting) -> String {
    format!("the relay makes us wait ({}): {}", waiting.code, plain_line(&waiting.text))
}

/// What became of another relay than one's own.
pub(crate) fn elsewhere(relay: &str, unreachable: &Option<String>) -> String {
    match unreachable {
        Some(reason) => format!("{}: what is there, or is to go there, waits", away(relay, reason)),
        None => format!("{} can be reached again", relay_name(relay)),
    }
}

/// That another relay cannot be reached.
pub(crate) fn away(relay: &str, reason: &str) -> String {
    format!("{} cannot be reached ({})", relay_name(relay), plain_line(reason))
}

/// What is said when patience ends.
pub(crate) fn too_late(relay: &str, patience: Patience, obstacle: Option<&Obstacle>, kept: &str) -> Problem {
    let why = match obstacle {
        Some(Obstacle::Distance(reason)) => {
            return Problem::unreachable(relay, reason, kept);
        }
        Some(refusal) => refusal.in_words(relay, kept),
        None => kept.to_owned(),
    };
    Problem::new("NOT_YET", format!("not done within {} s: {why}", patience.seconds()))
}
