//! The commands: one file per family. Each opens the profile, makes a few calls of the client library,
//! prints, and closes.

mod account;
mod backup;
mod conversation;
mod daemon;
mod lines;
mod listen;
mod message;
mod people;
mod relay;
pub(crate) mod wait;

use std::process::ExitCode;

use posthorn_client::{Event, EventStream};

use crate::args::{Add, Global, Start, What};
use crate::plain::plain_line;
use crate::problem::Problem;
use crate::profile::{self, Session};
use crate::{chat, name, print, signal};
pub(crate) use people::{blocked_text, verified_text};

/// Runs a command to its end, or until the system asks it to end: the profile is closed in any case.
pub(crate) async fn run(global: &Global, mut what: What) -> Result<ExitCode, Problem> {
    if let What::Register(register) = &what {
        return account::register(global, register).await.map(|()| ExitCode::SUCCESS);
    }
    if let What::Chat(arguments) = &what {
        return chat::run(global, arguments).await;
    }
    if let What::Passphrase(arguments) = &what {
        return account::passphrase(global, arguments).map(|()| ExitCode::SUCCESS);
    }
    match &what {
        What::Backup(arguments) => {
            return backup::backup(global, arguments).await.map(|()| ExitCode::SUCCESS);
        }
        What::Restore(arguments) => return backup::restore(global, arguments).map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    prepare(&mut what)?;
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match once(global, &what).await {
            // Another process had the profile and has ended. What is asked goes to whoever has it next, or is
            // done here.
            Err(problem)
                if problem.code() == HOLDER_GONE
                    && tries > 0
                    && may_be_repeated(&what)
                    && !print::has_printed() =>
            {
                if let What::Send(send) = &mut what {
                    send.may_be_there = true;
                }
            }
            done => return done,
        }
    }
}

/// The code of [`Problem::holder_gone`].
const HOLDER_GONE: &str = "HOLDER_GONE";
/// How many processes may end while a command asks them, one after the other.
const TRIES: usize = 8;

/// Whether a command that was perhaps done can be done again, and nothing is twice.
fn may_be_repeated(what: &What) -> bool {
    match what {
        // The message has an id of its own.
        What::Send(send) => !send.lines,
        What::Card
        | What::Status
        | What::Relay(_)
        | What::Verify(_)
        | What::People
        | What::Conversations(_)
        | What::Archive(_)
        | What::Unarchive(_)
        | What::Members(_)
        | What::History(_) => true,
        _ => false,
    }
}

/// Opens the profile, runs a command, and closes it.
async fn once(global: &Global, what: &What) -> Result<ExitCode, Problem> {
    let mut session = profile::open(global, what.wait().unwrap_or(profile::TURN)).await?;
    if what.has_no_end() {
        session.share(global)?;
    }
    let mut events = session.client.events();
    let done = match what {
        What::Listen(arguments) => listen::listen(&session, global.json, arguments).await,
        What::Daemon(arguments) => daemon::daemon(&session, arguments).await,
        _ => tokio::select! {
            done = one(global, &session, what) => done.map(|()| ExitCode::SUCCESS),
            signal = signal::received() => session.interrupted(signal),
        },
    };
    if !global.json && !matches!(what, What::Listen(_) | What::Daemon(_)) {
        tell_alarms(&mut events);
    }
    let done = done.map_err(|problem| session.explained(problem, known(what)));
    session.close().await;
    done
}

/// What becomes of what was asked when the process ends that was asked; `None`: the command tells.
fn known(what: &What) -> Option<&'static str> {
    match what {
        What::Listen(_) | What::Daemon(_) => Some("start this again"),
        // One call: before it is answered, nobody knows.
        What::Start(_) | What::Add(_) | What::Remove(_) => Some(""),
        _ => None,
    }
}

/// What went wrong beside the command, such as a wrong clock: nothing else would tell it afterwards.
fn tell_alarms(events: &mut EventStream) {
    while let Some(event) = events.try_next() {
        if let Event::Alarm { cause, text, .. } = event {
            print::tell(&format!("!! {cause}: {}", plain_line(&text)));
        }
    }
}

/// A command that ends by itself.
async fn one(global: &Global, session: &Session, what: &What) -> Result<(), Problem> {
    let json = global.json;
    match what {
        What::Card => account::card(session, json),
        What::Relay(what) => relay::relay(session, json, what).await,
        What::DeleteAccount(arguments) => {
            account::delete(session, json, arguments, &profile::home(global)?).await
        }
        What::Status => account::status(session, json, &profile::home(global)?).await,
        What::Verify(verify) => people::verify(session, json, verify).await,
        What::People => people::list(session, json).await,
        What::Block(whom) => people::block(session, json, whom, true).await,
        What::Unblock(whom) => people::block(session, json, whom, false).await,
        What::Start(start) => conversation::start(session, json, start).await,
        What::Conversations(which) => conversation::list(session, json, which).await,
        What::Archive(what) => conversation::archive(session, json, what, true).await,
        What::Unarchive(what) => conversation::archive(session, json, what, false).await,
        What::Accept(accept) => conversation::accept(session, json, accept).await,
        What::Forget(what) => conversation::forget(session, json, what).await,
        What::Members(of) => conversation::members(session, json, of).await,
        What::Add(add) => conversation::add(session, json, add).await,
        What::Remove(remove) => conversation::remove(session, json, remove).await,
        What::Move(what) => conversation::move_to(session, json, what).await,
        What::Leave(what) => conversation::leave(session, json, what).await,
        What::Send(send) => message::send(session, json, send).await,
        What::React(react) => message::react(session, json, react).await,
        What::History(history) => message::history(session, json, history).await,
        // They need no session, or more than one command does.
        What::Register(_)
        | What::Passphrase(_)
        | What::Backup(_)
        | What::Restore(_)
        | What::Chat(_)
        | What::Listen(_)
        | What::Daemon(_)
        | What::Demo
        | What::Completions(_)
        | What::Man(_) => Ok(()),
    }
}

/// Mistakes that can be told without a passphrase. What is read is read once, and what is sent has an id, so
/// that it can be said again.
fn prepare(what: &mut What) -> Result<(), Problem> {
    match what {
        What::Start(Start { members, .. }) | What::Add(Add { members, .. }) => {
            name::contacts(members).map(drop)
        }
        What::Send(send) => message::prepare(send),
        _ => Ok(()),
    }
}
