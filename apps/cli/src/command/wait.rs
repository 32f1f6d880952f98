//! Waiting for the relay: how long, and what is said when it does not answer.

use std::future::Future;
use std::time::Duration;

use posthorn_client::client::Client;
use posthorn_client::engine::{Error, Event, Waiting};

use crate::args::Patience;
use crate::plain::plain_line;
use crate::print::tell;
use crate::problem::Problem;
use crate::profile::Session;

/// Reading commands wait this long for what is new.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Small things that follow from a command (a receipt, a farewell) get this long.
const AFTERWARDS: Duration = Duration::from_secs(3);

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
        tell(&problem);
    }
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
    let mut reason = None;
    let mut events = session.client.events();
    let watched = async {
        tokio::pin!(call);
        loop {
            tokio::select! {
                answer = &mut call => return answer,
                Some(event) = events.next() => match event {
                    Event::Disconnected { reason: why, .. } => {
                        if reason.is_none() {
                            let what = "still trying (ctrl-c stops the waiting)";
                            let relay = &session.account.relay;
                            tell_people(Problem::unreachable(relay, &why, what).message());
                        }
                        reason = Some(why);
                    }
                    Event::Connected => reason = None,
                    _ => {}
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
        Err(_) => Err(too_late(session, patience, reason.as_deref(), kept)),
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

/// What is said when patience ends.
pub(crate) fn too_late(session: &Session, patience: Patience, reason: Option<&str>, kept: &str) -> Problem {
    match reason {
        Some(reason) => Problem::unreachable(&session.account.relay, reason, kept),
        None => Problem::new("NOT_YET", format!("not done within {} s: {kept}", patience.seconds())),
    }
}
