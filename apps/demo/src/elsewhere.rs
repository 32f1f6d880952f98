//! The acts with another relay: somebody there is found and talked with, and the conversation moves there and
//! back again, the second time with everything cut off in the middle.

use serde_json::Value;

use crate::report::{Report, act, tell};
use crate::script::{read_by, settle, text_of};
use crate::stage::{ANNA, Address, FELIX, Failure, Person, Running, Stage, Which};

/// What is said between two relays, in this order.
pub(super) const TEXTS: [&str; 5] = [
    "Hallo da drüben! 🌍",
    "Gruß zurück vom anderen Server 🛰",
    "Ab jetzt bei mir 🏡",
    "Dein Server ist ja gar nicht da? 👀",
    "Wieder zu Hause 🚪",
];
/// Looks at whether the move has begun, before that counts as failed.
const LOOKS: usize = 20;

/// These acts.
pub(super) async fn play(stage: &Stage, report: &mut Report, first: &Address) -> Result<Address, Failure> {
    let other = somebody_elsewhere(stage, report, first).await?;
    a_move(stage, report, &other).await?;
    a_move_that_is_cut_off(stage, report, first).await?;
    Ok(other)
}

/// Somebody is found in the directory of a relay where nobody of the five has an account, and asked.
async fn somebody_elsewhere(stage: &Stage, report: &mut Report, first: &Address) -> Result<Address, Failure> {
    act(3, "Somebody at another relay, and a conversation that moves there");
    let other = stage.start_relay(Which::Other, 0).await?;
    stage.prepare(FELIX)?;
    let register = ["register", "--relay", &other.url, "--handle", FELIX.0, "--invite", &other.invite];
    stage.run(FELIX, &register).await?;
    let name = format!("{}@127.0.0.1:{}", FELIX.0, other.port);
    tell(&format!(
        "Felix has his account at a relay of its own, {}. None of the five has one there.",
        other.url
    ));
    tell(&format!(
        "Anna begins a conversation with {name}: her client asks that relay's directory who he is."
    ));
    stage.run(ANNA, &["start", &name]).await?;
    let people = stage.run(ANNA, &["people"]).await?;
    let handles: Vec<_> = people.iter().map(|person| text_of(Some(person), "handle")).collect();
    report.check(
        "somebody of another relay is found without an account there",
        handles.contains(&name),
        name,
    );
    settle(stage, &[FELIX]).await?;
    let invitation = with(stage, FELIX, ANNA).await?;
    report.check(
        "the invitation says that it leads to a relay that Felix does not use yet",
        invitation["foreign_relay"] == true && invitation["relay"] == first.url,
        text_of(Some(&invitation), "relay"),
    );
    tell("Felix sees where the invitation leads, agrees to that relay, and they write to each other.");
    stage.run(FELIX, &["accept", ANNA.0, "--foreign-relay"]).await?;
    stage.run(ANNA, &["send", FELIX.0, TEXTS[0]]).await?;
    settle(stage, &[FELIX]).await?;
    stage.run(FELIX, &["send", ANNA.0, TEXTS[1]]).await?;
    settle(stage, &[ANNA]).await?;
    let is_read = all_read(stage, &TEXTS[..2]).await?;
    report.check("people of two relays talk", is_read.is_none(), is_read.unwrap_or(TEXTS[..2].join(" / ")));
    Ok(other)
}

/// Felix takes the conversation to his relay, and Anna follows.
async fn a_move(stage: &Stage, report: &mut Report, other: &Address) -> Result<(), Failure> {
    tell("Felix moves the conversation to his own relay. Anna's client reads of it, and follows.");
    stage.run(FELIX, &["move", ANNA.0]).await?;
    settle(stage, &[ANNA]).await?;
    stage.run(FELIX, &["send", ANNA.0, TEXTS[2]]).await?;
    settle(stage, &[ANNA]).await?;
    is_at(stage, report, "the conversation moved, and both are where it is", other).await
}

/// Anna takes it back; while her relay is dead, her client is killed in the middle of that.
async fn a_move_that_is_cut_off(stage: &Stage, report: &mut Report, first: &Address) -> Result<(), Failure> {
    act(4, "The move back, and everything killed in the middle of it");
    stage.kill_relay(Which::First).await?;
    tell("kill -9 of the first relay. The conversation is not there any more, and goes on:");
    let mut listening = stage.begin(ANNA, &["listen"])?;
    stage.run(FELIX, &["send", ANNA.0, TEXTS[3]]).await?;
    let came = comes(&mut listening, TEXTS[3]).await?;
    report.check("a conversation that moved does not need the relay that it left", came, TEXTS[3]);
    let moving = stage.begin(ANNA, &["move", FELIX.0, "--wait", "50"])?;
    let begun = has_begun(stage).await?;
    listening.kill().await?;
    let told = moving.finish().await.err().unwrap_or_default();
    tell("Anna wants it back at her relay, which is dead: the move waits. kill -9 of her client.");
    let was_told = told.contains("HOLDER_GONE");
    report.check(
        "her client was killed in the middle of the move",
        begun && was_told,
        if was_told { "the command that waited for it was told HOLDER_GONE" } else { &*told },
    );
    let again = stage.start_relay(Which::First, first.port).await?;
    tell(&format!(
        "The relay is started again at {}. Anna only reads what is new: what she had begun is done.",
        again.url
    ));
    settle(stage, &[ANNA]).await?;
    stage.run(ANNA, &["send", FELIX.0, TEXTS[4]]).await?;
    settle(stage, &[FELIX]).await?;
    is_at(stage, report, "the move that was cut off was made all the same", first).await?;
    let wrong = all_read(stage, &TEXTS).await?;
    let (passed, detail) = (wrong.is_none(), wrong.unwrap_or(format!("{} texts for both", TEXTS.len())));
    report.check("over both moves nothing was lost and nothing came twice", passed, detail);
    Ok(())
}

/// The conversation of two, as one of them has it. Behind the name of somebody elsewhere stands a relay or a
/// key.
async fn with(stage: &Stage, person: Person, other: Person) -> Result<Value, Failure> {
    let known = stage.run(person, &["conversations"]).await?;
    let is_it = |known: &&Value| {
        let is_other =
            |member: &Value| text_of(Some(member), "handle").split(['@', '#']).next() == Some(other.0);
        let members = known["members"].as_array();
        known["name"] == "" && members.is_some_and(|members| members.iter().any(is_other))
    };
    known.iter().find(is_it).cloned().ok_or(format!("{} has no conversation with {}", person.0, other.0))
}

/// Checks that it is at this relay for both, and that they are of one epoch.
async fn is_at(stage: &Stage, report: &mut Report, what: &str, relay: &Address) -> Result<(), Failure> {
    let both = [with(stage, ANNA, FELIX).await?, with(stage, FELIX, ANNA).await?];
    let is_there = both.iter().all(|seen| seen["relay"] == relay.url && seen["state"] == "active");
    let [annas, felixs] =
        both.map(|seen| format!("{}, epoch {}", text_of(Some(&seen), "relay"), seen["epoch"]));
    let detail = if annas == felixs { annas.clone() } else { format!("Anna: {annas}; Felix: {felixs}") };
    report.check(what, is_there && annas == felixs, detail);
    Ok(())
}

/// Whether both read exactly these texts, in this order; if not, what they read.
async fn all_read(stage: &Stage, texts: &[&str]) -> Result<Option<String>, Failure> {
    for (person, other) in [(ANNA, FELIX), (FELIX, ANNA)] {
        let read = read_by(stage, person, other.0).await?;
        let read: Vec<_> = read.iter().map(|entry| &*entry.text).collect();
        if read != texts {
            return Ok(Some(format!("{} read {}", person.0, read.join(" / "))));
        }
    }
    Ok(None)
}

/// Waits until a text is printed.
async fn comes(listening: &mut Running, text: &str) -> Result<bool, Failure> {
    while let Some(event) = listening.next().await? {
        if event["event"] == "entry" && event["said"]["text"] == text {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether Anna's client has a change to make, and its commit.
async fn has_begun(stage: &Stage) -> Result<bool, Failure> {
    for _ in 0..LOOKS {
        let status = stage.run(ANNA, &["status"]).await?;
        let status = status.first().cloned().unwrap_or_default();
        if [&status["intents"], &status["outbox"]].iter().all(|count| count.as_u64() > Some(0)) {
            return Ok(true);
        }
    }
    Ok(false)
}
