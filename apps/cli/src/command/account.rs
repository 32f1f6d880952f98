//! The account: `register`, `passphrase`, `card`, `delete-account`, `status`.

use std::io::IsTerminal as _;
use std::path::Path;

use posthorn_client::client::Client;
use posthorn_client::conversation::ConversationState;
use posthorn_client::engine::{Account, ConversationSummary, Error, Event};
use posthorn_client::identity::RelayUrl;
use posthorn_client::store::KdfCost;
use posthorn_proto::{Handle, PATH};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use super::conversation::make_sure;
use super::relay::route;
use super::wait;
use crate::args::{DeleteAccount, Global, NewPassphrase, Patience, Register};
use crate::output::merge;
use crate::plain::plain_line;
use crate::print::{line, object};
use crate::problem::Problem;
use crate::profile::{self, Session};
use crate::{advice, keyring, name, passphrase, problem, qr, signal};

/// What people write for a relay, in the one form that is used.
pub(super) fn relay_url(text: &str) -> Result<RelayUrl, Problem> {
    let text = text.trim();
    let text = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => format!("wss://{rest}"),
        (_, Some(rest)) => format!("ws://{rest}"),
        _ if text.contains("://") => text.to_owned(),
        // Without TLS only where nobody can listen.
        _ if is_this_machine(text) => format!("ws://{text}"),
        _ => format!("wss://{text}"),
    };
    // People copy the path along with the address.
    let text = text.trim_end_matches('/').trim_end_matches(PATH);
    RelayUrl::parse(text)
        .map_err(|error| Problem::new("BAD_RELAY", format!("\"{}\" is no relay: {error}", plain_line(text))))
}

/// Where to register, and the code with which: an invite may be a link, which says both.
fn door(relay: Option<&str>, invite: &str) -> Result<(RelayUrl, String), Problem> {
    let invite = invite.trim();
    let link =
        [("posthorn://", "wss://"), ("posthorn+ws://", "ws://")].into_iter().find_map(|(link, relay)| {
            let (authority, code) = invite.strip_prefix(link)?.split_once("/?invite=")?;
            Some((format!("{relay}{authority}"), code))
        });
    match (relay, link) {
        // Whoever says where means it.
        (Some(relay), link) => Ok((relay_url(relay)?, link.map_or(invite, |(_, code)| code).to_owned())),
        (None, Some((relay, code))) => Ok((relay_url(&relay)?, code.to_owned())),
        (None, None) => {
            let message = "a code does not say at which relay: add --relay URL, or give the invite as a link";
            Err(Problem::new("BAD_RELAY", message))
        }
    }
}

/// Whether `host`, `host:port` or `[address]:port` is this machine.
fn is_this_machine(authority: &str) -> bool {
    let authority = authority.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `register`.
pub(super) async fn register(global: &Global, arguments: &Register) -> Result<(), Problem> {
    let (relay, invite) = door(arguments.relay.as_deref(), &arguments.invite)?;
    let handle = Handle::parse(&arguments.handle).map_err(|error| {
        let typed = &arguments.handle;
        Problem::new("BAD_HANDLE", format!("\"{}\": {error}{}", plain_line(typed), name::perhaps(typed)))
    })?;
    let route = arguments.proxy.as_deref().map(route).transpose()?;
    let home = profile::home(global)?;
    let (database, found) = match profile::is_there(&home, profile::TURN)? {
        true => profile::open_database(global, &home, profile::TURN)?,
        false => profile::create_database(global, &home)?,
    };
    let client = Client::with_database(database)?;
    if route.is_some() {
        client.route(relay.clone(), route).await?;
    }
    let registered = tokio::select! {
        registered = register_online(&client, &relay, handle, &invite, arguments.patience) => registered,
        signal = signal::received() => Err(Failure::passing(Problem::interrupted(signal, GOES_ON))),
    };
    let is_empty = client.account().await.is_ok_and(|account| account.is_none());
    profile::close(client).await;
    let account = match registered {
        Ok(account) => account,
        Err(failure) => {
            // The relay said no, so there is nothing worth keeping: the next try begins from nothing.
            if is_empty && failure.refused {
                let _ = profile::remove_database(&home);
            }
            return Err(invite_needed(failure.problem, &invite));
        }
    };
    let kept = if arguments.keyring { Some(keyring::set(&home, &found.text)) } else { None };
    if global.json {
        let mut value = json!(account);
        if let Some(kept) = &kept {
            merge(&mut value, json!({"keyring": kept.is_ok()}));
        }
        object(&value);
    } else {
        line(&format!("Registered {} at {}.", account.handle, account.relay));
        line(&format!("Your contact link, for others: {}", account.link));
        if let Some(Err(error)) = kept {
            line(&format!("The keyring did not take the passphrase ({error}): you will be asked for it."));
        }
        line("Next:");
        line(&format!("  {} opens the full screen", advice::command("chat")));
        line(&format!("  {} begins a conversation", advice::command("start HANDLE_OR_LINK")));
    }
    Ok(())
}

/// A relay that wants an invite refuses an empty one like any other that it does not know.
fn invite_needed(problem: Problem, invite: &str) -> Problem {
    if problem.code() != "INVITE_INVALID" || !invite.trim().is_empty() {
        return problem;
    }
    let message =
        "this relay makes accounts by invite only: ask whoever runs it for a code, and add --invite CODE";
    Problem::new("INVITE_NEEDED", message)
}

/// What becomes of a registration that did not end.
const GOES_ON: &str = "the same command goes on where this one was";

/// Why there is no account.
struct Failure {
    problem: Problem,
    refused: bool,
}

impl Failure {
    fn passing(problem: Problem) -> Self {
        Self { problem, refused: false }
    }
}

async fn register_online(
    client: &Client,
    relay: &RelayUrl,
    handle: Handle,
    invite: &str,
    patience: Patience,
) -> Result<Account, Failure> {
    let mut events = client.events();
    let mut why = String::new();
    let unreachable = async {
        loop {
            let Some(event) = events.next().await else { std::future::pending().await };
            match why_it_waits(event, !why.is_empty()) {
                Ok(Some(now)) if now != why => {
                    wait::tell_people(&format!("{now}; still trying (ctrl-c stops the waiting)"));
                    why = now;
                }
                Ok(_) => {}
                Err(reason) => return reason,
            }
        }
    };
    let registration = client.register(relay.clone(), handle, invite);
    tokio::select! {
        biased;
        account = registration => account.map_err(|error| Failure {
            refused: matches!(error, Error::Refused { .. }),
            problem: error.into(),
        }),
        reason = unreachable => {
            let what = "check the address and try the same command again";
            Err(Failure::passing(Problem::unreachable(relay.as_str(), &reason, what)))
        }
        () = tokio::time::sleep(patience.duration()) => {
            let why = if why.is_empty() { "the relay does not answer" } else { &why };
            let text = format!("not registered within {} s: {why}; {GOES_ON}", patience.seconds());
            Err(Failure::passing(Problem::new("NOT_YET", text)))
        }
    }
}

/// Why a registration waits, if this event says so; or why it ends. A relay that has made us wait is where it
/// should be, and may be starting again, with more room.
fn why_it_waits(event: Event, was_there: bool) -> Result<Option<String>, String> {
    match event {
        Event::Disconnected { reason, .. } if was_there => {
            Ok(Some(format!("the relay is gone ({})", plain_line(&reason))))
        }
        Event::Disconnected { reason, .. } => Err(reason),
        Event::Waiting(waiting) => Ok(Some(wait::in_words(&waiting))),
        _ => Ok(None),
    }
}

/// `passphrase`.
pub(super) fn passphrase(global: &Global, arguments: &NewPassphrase) -> Result<(), Problem> {
    let home = profile::home(global)?;
    if arguments.forget {
        return forget_passphrase(global, &home);
    }
    if !profile::is_there(&home, profile::TURN)? {
        return Err(Problem::no_profile(&home));
    }
    let (mut database, found) = profile::open_database(global, &home, profile::TURN)?;
    if arguments.remember {
        return remember_passphrase(global, &home, &found.text);
    }
    let new = passphrase::other(arguments.new_passphrase_file.as_deref())?;
    database
        .change_passphrase(&new.passphrase(), KdfCost::DEFAULT, &mut StdRng::from_os_rng())
        .map_err(|error| problem::of_store(&error, &home))?;
    // A keyring that has the old one would open nothing any more.
    let wanted = arguments.keyring || keyring::get(&home).is_some();
    let kept = wanted.then(|| keyring::set(&home, &new.text));
    if global.json {
        object(&json!({"changed": true, "keyring": kept.is_some_and(|kept| kept.is_ok())}));
        return Ok(());
    }
    line("The passphrase is changed. A copy of the profile from before still opens with the old one.");
    if let Some(Err(error)) = kept {
        line(&format!("The keyring did not take the passphrase ({error}): you will be asked for it."));
    }
    Ok(())
}

/// `passphrase --remember`.
fn remember_passphrase(global: &Global, home: &Path, text: &str) -> Result<(), Problem> {
    keyring::set(home, text).map_err(|error| no_keyring(&error))?;
    told_of_keyring(global, true, "The keyring has the passphrase now: it is not asked for any more.");
    Ok(())
}

/// `passphrase --forget`: nobody need know it for that.
fn forget_passphrase(global: &Global, home: &Path) -> Result<(), Problem> {
    let text = match keyring::remove(home).map_err(|error| no_keyring(&error))? {
        true => "The keyring does not have the passphrase any more: it is asked for.",
        false => "The keyring did not have the passphrase of this profile.",
    };
    told_of_keyring(global, false, text);
    Ok(())
}

fn told_of_keyring(global: &Global, keyring: bool, text: &str) {
    if global.json {
        object(&json!({"changed": false, "keyring": keyring}));
    } else {
        line(text);
    }
}

fn no_keyring(error: &str) -> Problem {
    let message = format!("this login's keyring does not work ({error}): the passphrase is asked for");
    Problem::new("NO_KEYRING", message)
}

/// `card`.
pub(super) fn card(session: &Session, json: bool) -> Result<(), Problem> {
    let account = &session.account;
    if json {
        object(&json!(account));
        return Ok(());
    }
    line(&account.link);
    let code = qr::lines(&account.link).unwrap_or_default();
    let across = code.first().map_or(0, |row| row.width());
    // Folded it is nothing; whatever is no terminal takes lines of any length.
    match crossterm::terminal::size() {
        Ok((columns, _)) if std::io::stdout().is_terminal() && usize::from(columns) < across => {
            line(&format!("The QR code needs a window of {across} columns: make it larger."));
        }
        _ => code.iter().for_each(|row| line(row)),
    }
    line("Whoever has this link can write to you, and knows that it is you who answers.");
    Ok(())
}

/// `delete-account`.
pub(super) async fn delete(
    session: &Session,
    json: bool,
    arguments: &DeleteAccount,
    home: &Path,
) -> Result<(), Problem> {
    let (client, account) = (&session.client, &session.account);
    let who = format!("{} at {}", account.handle, account.relay);
    if session.is_guest {
        let message = "another process has this profile, and this needs it alone: close that one first";
        return Err(Problem::new("PROFILE_IN_USE", message));
    }
    if !arguments.yes {
        let question = format!(
            "Remove the account {who}? You leave all conversations, and anybody may take the name. Type yes:"
        );
        make_sure(json, format!("{who} is as before"), &question).await?;
    }
    let kept = "the account is still there: the same command again goes on where this one was";
    for conversation in client.conversations().await? {
        let there = client.conversation(conversation.id);
        if name::is_invitation(&conversation) {
            there.forget().await?;
        } else if !conversation.state.has_ended() {
            there.leave().await?;
        }
    }
    let patience = arguments.patience;
    // What a suspended conversation keeps cannot go out, and is not waited for.
    wait::answer(session, patience, kept, client.settled(patience.duration())).await?;
    wait::answer(session, patience, kept, client.remove_account()).await?;
    if json {
        object(&json!({"removed": true, "handle": account.handle, "relay": account.relay, "home": home}));
        return Ok(());
    }
    line(&format!("The account {who} is removed. The name is free."));
    line(&format!("What was said is still in {}: delete that folder if you do not want it.", home.display()));
    Ok(())
}

/// `status`.
pub(super) async fn status(session: &Session, json: bool, home: &Path) -> Result<(), Problem> {
    wait::catch_up(session, true).await;
    let state = session.client.state().await?;
    let conversations = session.client.conversations().await?;
    let unread: u64 = conversations.iter().map(|conversation| conversation.unread).sum();
    let is_suspended = |known: &ConversationSummary| matches!(known.state, ConversationState::Suspended(_));
    let suspended = conversations.iter().filter(|known| is_suspended(known)).count();
    let waits = |known: &&ConversationSummary| {
        is_suspended(known) || state.unreachable.iter().any(|away| away.relay == known.relay)
    };
    let kept: u64 = conversations.iter().filter(waits).map(|known| known.queued).sum();
    if json {
        let mut value = json!(session.account);
        merge(&mut value, json!(state));
        merge(
            &mut value,
            json!({"home": home, "conversations": conversations.len(), "unread": unread,
                "suspended": suspended, "kept": kept}),
        );
        object(&value);
        return Ok(());
    }
    let account = &session.account;
    let connection = match (state.connected, state.caught_up) {
        (true, true) => "online, everything is read from the relay",
        (true, false) => "online, still reading from the relay",
        (false, _) if state.unknown => "refused by the relay",
        (false, _) => "offline: the relay cannot be reached",
    };
    line(&format!("{:13} {}", "account", account.handle));
    line(&format!("{:13} {}", "relay", account.relay));
    line(&format!("{:13} {connection}", "connection"));
    if let Some(waiting) = &state.waiting {
        line(&format!("{:13} the relay makes us wait ({}): {}", "", waiting.code, plain_line(&waiting.text)));
    }
    if state.unknown {
        line(&format!("{:13} {}", "", wait::unknown_there(account)));
    }
    for away in &state.unreachable {
        line(&format!("{:13} {}", "", wait::elsewhere(&away.relay, &Some(away.reason.clone()))));
    }
    line(&format!("{:13} {}", "profile", home.display()));
    line(&format!("{:13} {} ({unread} unread)", "conversations", conversations.len()));
    if suspended > 0 {
        let list = advice::command("conversations");
        line(&format!("{:13} {suspended} of them cannot go on for now: {list} says why", ""));
    }
    let kept = match kept {
        0 => None,
        kept => Some(format!("{kept} kept where it cannot go on for now")),
    };
    let waiting = match (state.outbox, state.intents) {
        (0, 0) => None,
        (outbox, intents) => {
            Some(format!("{outbox} to be sent, {intents} changes of members or keys to be made"))
        }
    };
    let waiting = waiting.into_iter().chain(kept).collect::<Vec<_>>().join(", ");
    let waiting = if waiting.is_empty() { "nothing: everything is sent" } else { &waiting };
    line(&format!("{:13} {waiting}", "waiting"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_taken_as_people_write_them() {
        let url = |text: &str| {
            relay_url(text).map(|url| url.to_string()).map_err(|problem| problem.code().to_owned())
        };
        assert_eq!(url("ws://127.0.0.1:4100/v1/ws").as_deref(), Ok("ws://127.0.0.1:4100"));
        assert_eq!(url("wss://relay.example/").as_deref(), Ok("wss://relay.example"));
        assert_eq!(url("https://relay.example:8443").as_deref(), Ok("wss://relay.example:8443"));
        assert_eq!(url("http://[::1]:4100").as_deref(), Ok("ws://[::1]:4100"));
        assert_eq!(url("relay.example").as_deref(), Ok("wss://relay.example"));
        assert_eq!(url("192.168.0.1:4100").as_deref(), Ok("wss://192.168.0.1:4100"));
        for here in ["127.0.0.1:4100", "localhost:4100", "[::1]:4100"] {
            assert_eq!(url(here), Ok(format!("ws://{here}")));
        }
        assert_eq!(url("ftp://relay.example"), Err("BAD_RELAY".to_owned()));
        assert_eq!(url(""), Err("BAD_RELAY".to_owned()));
        assert_eq!(url("wss://"), Err("BAD_RELAY".to_owned()));
    }

    #[test]
    fn an_invite_may_say_where_the_relay_is() {
        let door = |relay: Option<&str>, invite: &str| {
            let found = door(relay, invite).map_err(|problem| problem.code().to_owned());
            found.map(|(relay, code)| (relay.to_string(), code))
        };
        let here = |code: &str| Ok(("ws://127.0.0.1:4100".to_owned(), code.to_owned()));
        assert_eq!(door(None, " posthorn+ws://127.0.0.1:4100/?invite=ab-cd"), here("ab-cd"));
        assert_eq!(door(Some("127.0.0.1:4100"), "ab-cd"), here("ab-cd"));
        assert_eq!(door(Some("127.0.0.1:4100"), "posthorn://other.example/?invite=ab-cd"), here("ab-cd"));
        let there = Ok(("wss://relay.example:8443".to_owned(), "ab-cd".to_owned()));
        assert_eq!(door(None, "posthorn://relay.example:8443/?invite=ab-cd"), there);
        assert_eq!(door(None, "ab-cd"), Err("BAD_RELAY".to_owned()));
        assert_eq!(door(None, "posthorn://ann@relay.example/?k=abc"), Err("BAD_RELAY".to_owned()));
    }

    #[test]
    fn a_relay_that_made_us_wait_is_waited_for_when_it_goes() {
        let gone = || Event::Disconnected { reason: "GOING_AWAY".to_owned(), retry_in_ms: 1000 };
        assert_eq!(why_it_waits(gone(), false), Err("GOING_AWAY".to_owned()), "the address may be wrong");
        let waits = why_it_waits(gone(), true).expect("it waits").expect("for a reason");
        assert!(waits.contains("is gone") && waits.contains("GOING_AWAY"), "{waits}");
        assert_eq!(why_it_waits(Event::Connected, true), Ok(None));
    }

    #[test]
    fn without_an_invite_it_is_said_that_one_is_needed() {
        let refused = || Problem::new("INVITE_INVALID", "not taken");
        let needed = invite_needed(refused(), " ");
        assert_eq!(needed.code(), "INVITE_NEEDED");
        assert!(needed.message().contains("--invite CODE"));
        assert_eq!(invite_needed(refused(), "abcd"), refused());
        let taken = Problem::new("HANDLE_TAKEN", "taken");
        assert_eq!(invite_needed(taken.clone(), ""), taken);
    }
}
