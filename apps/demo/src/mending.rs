//! The act in which disks die: yesterday's copies of a relay and of a profile are put back, everything is
//! killed in the middle of what mends itself then, and nothing is missing in the end.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::report::{Report, act, tell};
use crate::script::{GROUP, agreement, read_by, settle, text_of};
use crate::stage::{ANNA, Address, BORIS, ELENA, EVERYBODY, FELIX, Failure, Person, Running, Stage, Which};

/// A group at the other relay.
const CHOIR: &str = "Chor 🎶";
const SINGERS: [Person; 3] = [FELIX, ANNA, BORIS];
/// What is said there: before the copy, after it, and when the copy has been put back.
pub(super) const CHOIR_TEXTS: [(Person, &str); 9] = [
    (FELIX, "Probe am Dienstag? 🎼"),
    (ANNA, "Gern, um acht!"),
    (BORIS, "Я тоже приду 🎻"),
    (ANNA, "Welches Lied zuerst?"),
    (BORIS, "«Калинка»!"),
    (FELIX, "Dann «Die Forelle» 🐟"),
    (BORIS, "Слышно меня? 👂"),
    (FELIX, "Laut und deutlich 📣"),
    (ANNA, "Alle wieder da 🥳"),
];
/// What is said in the group of five: after Elena's backup, and by her when it has been put back.
pub(super) const GROUP_TEXTS: [(Person, &str); 2] =
    [(ANNA, "Elena, hast du dein Seil? 🧗"), (ELENA, "Ναι, ήταν στη λίμνη 🪢")];
/// Everything is killed so long after the trouble: before anybody does more than wait.
const MIDDLE: Duration = Duration::from_secs(30);
/// Who cannot go on looks again for two minutes, and waits up to one more, so that not all do the same.
const MENDED_WITHIN: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(1);

/// This act.
pub(super) async fn play(
    stage: &Stage,
    report: &mut Report,
    first: &Address,
    other: &Address,
) -> Result<(), Failure> {
    act(7, "Two disks die, and yesterday's copies are put back");
    begin_choir(stage, first).await?;
    disks_die(stage, other).await?;
    mends_itself(stage, report, other).await?;
    say(stage, CHOIR, &CHOIR_TEXTS[6..], &SINGERS).await?;
    let (complete, detail) = choir_read_everything(stage).await?;
    report.check("what the relay forgot was nowhere lost, and came nowhere twice", complete, detail);
    let (agreed, seen) = agreement(stage).await?;
    report.check("a profile of yesterday is among the others again, in one epoch", agreed, seen);
    say(stage, GROUP, &GROUP_TEXTS[1..], &EVERYBODY).await?;
    let mut heard = Vec::new();
    for person in EVERYBODY {
        let read = read_by(stage, person, GROUP).await?;
        heard.push(read.iter().filter(|entry| entry.text == GROUP_TEXTS[1].1).count());
    }
    report.check("and everybody hears what it says, once", heard == [1; 5], format!("{heard:?}"));
    Ok(())
}

/// Felix begins a group at his relay with two of the first one.
async fn begin_choir(stage: &Stage, first: &Address) -> Result<(), Failure> {
    let [anna, boris] = [ANNA, BORIS].map(|person| format!("{}@127.0.0.1:{}", person.0, first.port));
    tell(&format!("Felix begins \"{CHOIR}\" at his relay, with Anna and Boris of the first one."));
    stage.run(FELIX, &["start", &anna, &boris, "--name", CHOIR]).await?;
    settle(stage, &[ANNA, BORIS]).await?;
    stage.run(BORIS, &["accept", FELIX.0, "--foreign-relay"]).await?;
    say(stage, CHOIR, &CHOIR_TEXTS[..3], &SINGERS).await
}

/// Copies are made, all go on, and the copies are all that is left.
async fn disks_die(stage: &Stage, other: &Address) -> Result<(), Failure> {
    stage.kill_relay(Which::Other).await?;
    stage.copy_relay(Which::Other)?;
    stage.start_relay(Which::Other, other.port).await?;
    let backup = stage.home(ELENA).with_extension("backup").display().to_string();
    stage.run(ELENA, &["backup", &backup]).await?;
    tell("Felix's relay is copied, Elena writes a backup of her profile, and all go on:");
    say(stage, CHOIR, &CHOIR_TEXTS[3..6], &SINGERS).await?;
    say(stage, GROUP, &GROUP_TEXTS[..1], &EVERYBODY).await?;
    tell("The relay's disk dies, and Elena's notebook falls into a lake. Both copies are put back.");
    stage.kill_relay(Which::Other).await?;
    stage.put_back_relay(Which::Other)?;
    stage.lose_profile(ELENA)?;
    stage.run(ELENA, &["restore", &backup]).await?;
    stage.start_relay(Which::Other, other.port).await.map(drop)
}

/// All whom it concerns stay online, and are killed in the middle with the relay.
async fn mends_itself(stage: &Stage, report: &mut Report, other: &Address) -> Result<(), Failure> {
    let since = Instant::now();
    let concerned = SINGERS.map(|person| (person, CHOIR));
    let is_suspended = |known: &Value| known["state"]["suspended"].is_object();
    let people = [&SINGERS[..], &[ELENA]].concat();
    let online = Online::begin(stage, &people)?;
    wait_until_all(stage, since, &concerned, is_suspended).await?;
    tell(
        "They wait: who cannot go on looks again for two minutes before it does more, so that a relay that was started on a wrong folder moves nobody.",
    );
    tokio::time::sleep(MIDDLE).await;
    let waits = wait_until_all(stage, since, &concerned, is_suspended).await?;
    tell(
        "In the middle of that, kill -9 of Felix's relay and of all their clients, which are started again.",
    );
    stage.kill_relay(Which::Other).await?;
    online.kill().await?;
    report.check("everything was killed before the conversation was mended", waits, "");
    stage.start_relay(Which::Other, other.port).await?;
    let online = Online::begin(stage, &people)?;
    let concerned = [&concerned[..], &[(ELENA, GROUP)]].concat();
    let mended = wait_until_all(stage, since, &concerned, |known| known["state"] == "active").await?;
    online.kill().await?;
    let took = since.elapsed().as_secs();
    tell(&format!("Everybody goes on after {took} s, the choir in a fresh mailbox."));
    report.check("in the end everybody goes on, by itself", mended, format!("after {took} s"));
    Ok(())
}

/// One after the other says something, and all read it.
async fn say(stage: &Stage, group: &str, texts: &[(Person, &str)], all: &[Person]) -> Result<(), Failure> {
    for (person, text) in texts {
        tell(&format!("{:>6}: {text}", person.0));
        stage.run(*person, &["send", group, text]).await?;
        settle(stage, all).await?;
    }
    Ok(())
}

/// Whether each singer has read what all said, in this order; or who has not.
async fn choir_read_everything(stage: &Stage) -> Result<(bool, String), Failure> {
    let all = CHOIR_TEXTS.map(|(_, text)| text);
    for person in SINGERS {
        let read = read_by(stage, person, CHOIR).await?;
        let read: Vec<_> = read.iter().map(|entry| &*entry.text).collect();
        if read != all {
            return Ok((false, format!("{} read {}", person.0, read.join(" / "))));
        }
    }
    Ok((true, format!("{} texts for each of three", all.len())))
}

/// Clients that stay online, and say what they are told.
struct Online {
    clients: Vec<Running>,
    /// They end with the clients.
    telling: JoinSet<()>,
}

impl Online {
    fn begin(stage: &Stage, people: &[Person]) -> Result<Self, Failure> {
        let mut online = Self { clients: Vec::new(), telling: JoinSet::new() };
        for person in people.iter().copied() {
            let mut client = stage.begin(person, &["listen"])?;
            let mut output = client.take_output()?;
            online.clients.push(client);
            online.telling.spawn(async move {
                while let Ok(Some(line)) = output.next_line().await {
                    tell_news(person, &serde_json::from_str(&line).unwrap_or_default());
                }
            });
        }
        Ok(online)
    }

    async fn kill(self) -> Result<(), Failure> {
        for client in self.clients {
            client.kill().await?;
        }
        self.telling.join_all().await;
        Ok(())
    }
}

/// What somebody is told of what goes wrong, and that it is mended.
fn tell_news(person: Person, event: &Value) {
    if event["event"] == "alarm" {
        let (cause, text) = (text_of(Some(event), "cause"), text_of(Some(event), "text"));
        tell(&format!("  {} is told: {text} ({cause})", person.0));
    }
    if let Some(by) = event["notice"]["repaired"].get("by") {
        tell(&format!("  {} is told: {} repaired the conversation", person.0, text_of(Some(by), "handle")));
    }
}

/// Waits until conversations of these names are so for these people; false if they never are. Asked are the
/// clients that listen, which hold the profiles.
async fn wait_until_all(
    stage: &Stage,
    since: Instant,
    concerned: &[(Person, &str)],
    is_so: impl Fn(&Value) -> bool,
) -> Result<bool, Failure> {
    let people: Vec<_> = concerned.iter().map(|(person, _)| *person).collect();
    while since.elapsed() < MENDED_WITHIN {
        let lists = stage.run_all(&people, &["conversations"]).await?;
        let all = lists.iter().zip(concerned);
        if all
            .map(|(list, (_, name))| list.iter().find(|known| known["name"] == *name))
            .all(|known| known.is_some_and(&is_so))
        {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}
