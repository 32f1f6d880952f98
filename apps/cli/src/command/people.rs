//! People: `people`, `verify`, `block`, `unblock`.

use posthorn_client::engine::Person;
use serde_json::json;

use super::wait;
use crate::args::{Verify, Whom};
use crate::output::{merge, person_line, safety_rows};
use crate::plain::plain_line;
use crate::print::{line, object};
use crate::problem::Problem;
use crate::profile::Session;
use crate::{advice, name};

/// Whom a word means, among everybody who was met.
async fn find(session: &Session, text: &str) -> Result<Person, Problem> {
    let people = session.client.people().await?;
    let known = name::person(&people, text);
    known.cloned().map_err(|problem| match problem.code() {
        "UNKNOWN_PERSON" => {
            let list = advice::command("people");
            Problem::new("UNKNOWN_PERSON", format!("{}: {list} lists who is", problem.message()))
        }
        _ => problem,
    })
}

/// `people`.
pub(super) async fn list(session: &Session, json: bool) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let people = session.client.people().await?;
    if people.is_empty() && !json {
        line("You have not met anybody yet.");
    }
    for person in &people {
        if json {
            object(&json!(person));
        } else {
            line(&person_line(person, 32));
        }
    }
    Ok(())
}

/// `verify`.
pub(super) async fn verify(session: &Session, json: bool, arguments: &Verify) -> Result<(), Problem> {
    wait::catch_up(session, json).await;
    let person = find(session, &arguments.handle).await?;
    if arguments.mark || arguments.unmark {
        session.client.verify(person.person, arguments.mark).await?;
        let marked = find(session, &person.person.to_string()).await?;
        if json {
            object(&json!(marked));
        } else {
            line(&verified_text(&marked));
        }
        return Ok(());
    }
    let number = session.client.safety_number(person.person).await?;
    if json {
        let mut value = json!(person);
        let groups = number.groups().collect::<Vec<_>>();
        merge(&mut value, json!({"digits": number.digits(), "groups": groups}));
        object(&value);
        return Ok(());
    }
    let handle = plain_line(&person.handle);
    line(&format!("Safety number of {} and {handle}:", session.account.handle));
    line("");
    for row in safety_rows(number.groups()) {
        line(&format!("    {row}"));
    }
    line("");
    line(&format!(
        "Compare it with what {handle} sees for you: read it to each other, or hold the screens side by side."
    ));
    line(
        "Equal: nobody stands between you. Different: do not write anything secret, somebody may be reading along.",
    );
    let named = format!("{}#{}", person.handle.split('#').next().unwrap_or_default(), person.person.short());
    match person.verified {
        true => line("You have compared it before, and marked it."),
        false => line(&format!(
            "If it is equal, {} keeps that.",
            advice::command(&format!("verify {} --mark", plain_line(&named)))
        )),
    }
    Ok(())
}

/// What it means that somebody's number is marked as compared, or is not any more.
pub(crate) fn verified_text(person: &Person) -> String {
    let handle = plain_line(&person.handle);
    match person.verified {
        true => format!(
            "{handle} is verified: you know whose key {} is, and the name means this key from now on.",
            person.person.short()
        ),
        false => format!("{handle} is not verified any more."),
    }
}

/// `block` and `unblock`.
pub(super) async fn block(
    session: &Session,
    json: bool,
    arguments: &Whom,
    blocked: bool,
) -> Result<(), Problem> {
    let person = find(session, &arguments.person).await?;
    session.client.block(person.person, blocked).await?;
    if json {
        object(&json!(find(session, &person.person.to_string()).await?));
        return Ok(());
    }
    line(&blocked_text(&person, blocked));
    Ok(())
}

/// What it means that somebody is blocked, or is not any more.
pub(crate) fn blocked_text(person: &Person, blocked: bool) -> String {
    let handle = plain_line(&person.handle);
    match blocked {
        true => format!(
            "{handle} is blocked: no invitation of theirs is shown any more, and they are not told. You stay \
             in the conversations that you have together."
        ),
        false => format!("{handle} is not blocked any more: their next invitation is shown."),
    }
}
