//! What happens in the tour, in acts. Each person's deeds are processes; what is compared is what those
//! printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;
use tokio::sync::oneshot;

use crate::report::{Read, Report, act, side_by_side, tell};
use crate::stage::{
    ANNA, Address, BORIS, CLARA, DAVID, ELENA, EVERYBODY, FELIX, Failure, Person, Running, Stage, Which,
};
use crate::stored::Mailboxes;
use crate::{elsewhere, mending, stored};

/// The group that everybody is in at the end.
pub(super) const GROUP: &str = "Bergtour 🏔 Ålesund";
/// What people say beyond ASCII.
const GREETING: &str = "Grüße aus Zürich! 👩‍👩‍👧 日本語も、ελληνικά και русский тоже, مرحبا";
const ANSWER: &str = "Wie schön 😀 – naïve façade, ¿qué tal?";
/// Signs that are put beside a message, one after the other.
const SIGNS: [&str; 2] = ["👍", "🎉"];
/// One text of each in the group.
const HELLOS: [(Person, &str); 5] = [
    (ANNA, "Treffen wir uns am Bahnhof? 🚉"),
    (BORIS, "Да, в восемь утра ☕"),
    (CLARA, "D'accord, j'apporte le fromage 🧀"),
    (DAVID, "山の天気は大丈夫？"),
    (ELENA, "Ναι, έχει ήλιο ☀️"),
];
/// Texts that Anna and Boris each send around the relay's crash.
const STORM: usize = 60;
/// After so many of Anna's were answered the relay is killed.
const KILL_AFTER: usize = 20;
/// Between two lines of a sender.
const PACE: std::time::Duration = std::time::Duration::from_millis(12);
/// The relay stays away for this long.
const OUTAGE: std::time::Duration = std::time::Duration::from_millis(1500);
/// Looks at whether everybody agrees, before that counts as failed.
const LOOKS: usize = 10;

/// All acts.
pub(super) async fn play(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let (address, links) = registration(stage, report).await?;
    conversation_of_two(stage, report, &links).await?;
    let other = elsewhere::play(stage, report, &address).await?;
    group(stage, report).await?;
    let stored = crash(stage, report, &address).await?;
    mending::play(stage, report, &address, &other).await?;
    inspection(stage, report, stored).await
}

/// A text of several paragraphs, longer than the largest simple envelope.
fn long_text() -> String {
    let line = |n: usize| {
        format!("{n:03}. Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch.\n")
    };
    (1..=60).map(line).collect::<String>().trim_end().to_owned()
}

async fn registration(
    stage: &Stage,
    report: &mut Report,
) -> Result<(Address, BTreeMap<&'static str, String>), Failure> {
    act(1, "A relay, and five people who register there");
    let address = stage.start_relay(Which::First, 0).await?;
    tell(&format!("The relay runs as a process of its own at {}, with an empty data folder.", address.url));
    EVERYBODY.into_iter().try_for_each(|person| stage.prepare(person))?;
    let registering = EVERYBODY.map(|person| {
        let (url, invite) = (address.url.clone(), address.invite.clone());
        async move {
            let arguments = ["register", "--relay", &url, "--handle", person.0, "--invite", &invite];
            stage.run(person, &arguments).await.map(|printed| (person.0, text_of(printed.first(), "link")))
        }
    });
    let links: BTreeMap<_, _> = futures_util::future::try_join_all(registering).await?.into_iter().collect();
    tell(
        "anna, boris, clara, david and elena made their accounts, each with a profile and processes of their own.",
    );
    tell(&format!("Anna's contact link: {}", links[ANNA.0]));
    report.check("five people registered with one invite", links.len() == 5, "");
    Ok((address, links))
}

async fn conversation_of_two(
    stage: &Stage,
    report: &mut Report,
    links: &BTreeMap<&'static str, String>,
) -> Result<(), Failure> {
    act(2, "Anna and Boris talk");
    let long = long_text();
    stage.run(ANNA, &["start", &links[BORIS.0]]).await?;
    tell(&format!("Anna begins a conversation by Boris's contact link and writes: {GREETING}"));
    stage.run(ANNA, &["send", BORIS.0, GREETING]).await?;
    stage.run_with_input(ANNA, &["send", BORIS.0, "-"], &long).await?;
    tell(&format!("She pipes a poem of {} bytes after it. Boris was offline all the time.", long.len()));
    consent(stage, report).await?;
    let read = read_by(stage, BORIS, ANNA.0).await?;
    let has = |text: &str| read.iter().any(|entry| entry.text == text);
    report.check("text beyond ASCII arrives as it was written", has(GREETING), GREETING);
    report.check("a text over 4 KiB arrives as it was written", has(&long), format!("{} bytes", long.len()));
    stage.run(BORIS, &["send", ANNA.0, ANSWER]).await?;
    let answers = read_by(stage, ANNA, BORIS.0).await?;
    report.check("the answer comes back", answers.iter().any(|entry| entry.text == ANSWER), ANSWER);
    let state = text_of(Some(&entry(stage, ANNA, BORIS.0, GREETING).await?), "state");
    report.check(
        "Anna sees that Boris has read her message",
        state == "read",
        format!("its state is \"{state}\""),
    );
    reactions(stage, report).await?;
    let numbers =
        tokio::try_join!(stage.run(ANNA, &["verify", BORIS.0]), stage.run(BORIS, &["verify", ANNA.0]))?;
    let (one, other) = (text_of(numbers.0.first(), "digits"), text_of(numbers.1.first(), "digits"));
    tell(&format!("Their safety number: {}", groups(&one)));
    report.check("both see the same safety number", one == other && one.len() == 60, groups(&one));
    Ok(())
}

/// Boris does not know Anna: what she wants of him waits until he says so.
async fn consent(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let waits = stage.run(BORIS, &["conversations"]).await?;
    let invited = waits.iter().filter(|known| known["state"] == "invited").count();
    let by = waits.first().map_or("", |known| known["inviter"]["handle"].as_str().unwrap_or_default());
    let members = stage.run(ANNA, &["members", BORIS.0]).await?;
    let is_unseen = |member: &&Value| member["me"] == false && member["joined"] == false;
    let unseen = members.iter().filter(is_unseen).count();
    report.check(
        "a stranger's invitation waits, and the stranger does not learn that it arrived",
        (invited, waits.len(), unseen) == (1, 1, 1) && by == ANNA.0,
        format!("of {by}; {invited} of {} conversations waits", waits.len()),
    );
    tell("Boris comes online. Anna is a stranger to him: her invitation waits, and he accepts it and reads.");
    let accepted = stage.run(BORIS, &["accept", ANNA.0]).await?;
    let state = text_of(accepted.first(), "state");
    report.check("it is accepted", state == "active", format!("the conversation is \"{state}\""));
    Ok(())
}

/// A sign beside a message, another in its place, and none again.
async fn reactions(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let [first, second] = SIGNS;
    tell(&format!(
        "Anna puts {first} beside Boris's answer, then {second} in its place, and takes that back."
    ));
    let mut seen = Vec::new();
    for sign in [&[first][..], &[second], &["--remove"]] {
        stage.run(ANNA, &[&["react", BORIS.0, "last"][..], sign].concat()).await?;
        settle(stage, &[BORIS]).await?;
        let answer = entry(stage, BORIS, ANNA.0, ANSWER).await?;
        let changes = answer["changes"].as_array().cloned().unwrap_or_default();
        let signs = changes.iter().map(|change| {
            format!("{} of {}", text_of(change.get("said"), "emoji"), text_of(Some(change), "handle"))
        });
        seen.push(signs.collect::<Vec<_>>().join(" and "));
    }
    let of_anna = SIGNS.map(|sign| format!("{sign} of {}", ANNA.0));
    let arrived = seen[..2] == of_anna;
    report.check("a reaction arrives, and another in its place", arrived, seen[..2].join(", then "));
    report.check("a reaction is taken back", seen[2].is_empty(), seen[2].clone());
    Ok(())
}

/// The entry with this text in somebody's history.
async fn entry(stage: &Stage, person: Person, conversation: &str, text: &str) -> Result<Value, Failure> {
    let history = stage.run(person, &["history", conversation]).await?;
    let found = history.into_iter().find(|entry| entry["said"]["text"] == text);
    found.ok_or_else(|| format!("{} has nothing that says \"{text}\"", person.0))
}

fn groups(digits: &str) -> String {
    digits.as_bytes().chunks(5).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

async fn group(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    act(5, "A group of five, changed by two people at the same moment");
    stage.run(ANNA, &["start", BORIS.0, CLARA.0, "--name", GROUP]).await?;
    settle(stage, &[BORIS]).await?;
    stage.run(CLARA, &["accept", ANNA.0]).await?;
    tell(&format!(
        "Anna starts \"{GROUP}\" with Boris and Clara. Then, at the same moment, Anna adds David and Boris adds Elena:"
    ));
    tell(
        "two commits that both want to be the next one. The relay lets exactly one turn the lock; the other begins anew by itself.",
    );
    let added =
        tokio::join!(stage.run(ANNA, &["add", GROUP, DAVID.0]), stage.run(BORIS, &["add", GROUP, ELENA.0]));
    let outcome = [added.0, added.1].into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; ");
    report.check("two concurrent changes of the group both happened", outcome.is_empty(), outcome);
    tokio::try_join!(stage.run(DAVID, &["accept", ANNA.0]), stage.run(ELENA, &["accept", BORIS.0]))?;
    let (agreed, seen) = agreement(stage).await?;
    report.check("all five have the same members in the same epoch", agreed, seen);
    let mut sending = Vec::new();
    for (person, text) in HELLOS {
        tell(&format!("{:>6}: {text}", person.0));
        sending.push(async move { stage.run(person, &["send", GROUP, text]).await });
    }
    futures_util::future::try_join_all(sending).await?;
    let mut complete = Vec::new();
    for person in EVERYBODY {
        let read = read_by(stage, person, GROUP).await?;
        let all =
            HELLOS.iter().all(|(sender, text)| read.iter().any(|e| e.sender == sender.0 && e.text == *text));
        complete.push((person.0, all));
    }
    let missing: Vec<_> = complete.iter().filter(|(_, all)| !all).map(|(name, _)| *name).collect();
    report.check("everybody in the group read what everybody said", missing.is_empty(), missing.join(", "));
    Ok(())
}

/// Whether all see five members and one epoch; looks again while changes are still under way.
pub(super) async fn agreement(stage: &Stage) -> Result<(bool, String), Failure> {
    let mut seen = String::new();
    for _ in 0..LOOKS {
        settle(stage, &EVERYBODY).await?;
        let lists = stage.run_all(&EVERYBODY, &["conversations"]).await?;
        let views: BTreeSet<String> = lists
            .iter()
            .map(|list| {
                let group = list.iter().find(|conversation| conversation["name"] == GROUP);
                let members =
                    group.and_then(|group| group["members"].as_array()).cloned().unwrap_or_default();
                let mut members: Vec<_> =
                    members.iter().filter_map(|member| member["handle"].as_str()).collect();
                members.sort_unstable();
                let epoch = group.map_or(0, |group| group["epoch"].as_u64().unwrap_or_default());
                format!("epoch {epoch}: {}", members.join(", "))
            })
            .collect();
        seen = views.iter().cloned().collect::<Vec<_>>().join(" | ");
        if views.len() == 1 && EVERYBODY.iter().all(|person| seen.contains(person.0)) {
            return Ok((true, seen));
        }
    }
    Ok((false, seen))
}

/// Returns what the relay had stored when it was killed: once it runs again it gives up what all have read.
async fn crash(stage: &Stage, report: &mut Report, address: &Address) -> Result<Mailboxes, Failure> {
    act(6, "The relay is killed while two people write, and one of the readers too");
    tell(
        "Clara goes offline. David and Elena listen. Anna and Boris write sixty messages each, as fast as they come.",
    );
    let wait = ["--lines", "--wait", "50"];
    let send = [&["send", GROUP][..], &wait].concat();
    let (mut anna, mut boris) = (stage.begin(ANNA, &send)?, stage.begin(BORIS, &send)?);
    let (david, elena) = (stage.begin(DAVID, &["listen"])?, stage.begin(ELENA, &["listen"])?);
    let writing = (write_storm(anna.take_input()?, ANNA), write_storm(boris.take_input()?, BORIS));
    let answered = AtomicUsize::new(0);
    let (reached, enough) = oneshot::channel();
    // The writers go on while the relay is away: the lines wait in their outboxes.
    let storm = async {
        let reading = (all_sent(anna, &answered, Some(reached)), all_sent(boris, &answered, None));
        tokio::try_join!(writing.0, writing.1, reading.0, reading.1).map(|((), (), anna, boris)| anna + boris)
    };
    let catastrophe = async {
        // If the sender is gone before, the count of the messages tells.
        let _ = enough.await;
        let before = answered.load(Ordering::Relaxed);
        stage.kill_relay(Which::First).await?;
        let stored = stored_now(stage)?;
        tell(&format!(
            "kill -9 of the relay after {before} of {} messages. The writers go on: their outboxes keep what they write.",
            2 * STORM
        ));
        david.kill().await?;
        tell("kill -9 of David's client, for good measure.");
        tokio::time::sleep(OUTAGE).await;
        let again = stage.start_relay(Which::First, address.port).await?;
        tell(&format!("The relay is started again on the same port and the same data: {}", again.url));
        Ok::<_, Failure>((before, stored, again.port == address.port))
    };
    let (sent, (before, stored, same_port)) = tokio::try_join!(storm, catastrophe)?;
    let in_the_middle = (KILL_AFTER..2 * STORM).contains(&before);
    report.check(
        "the relay was killed while messages were under way",
        in_the_middle,
        format!("{before} were answered"),
    );
    report.check("it came back at the same address with the same data", same_port, "");
    report.check("every message was sent in the end", sent == 2 * STORM, format!("{sent} of {}", 2 * STORM));
    elena.kill().await?;
    tell("Clara comes back from offline, David and Elena from the dead, and everybody reads.");
    settle(stage, &EVERYBODY).await?;
    compare_histories(stage, report).await?;
    Ok(stored)
}

/// What the first relay, which does not run, has stored.
fn stored_now(stage: &Stage) -> Result<Mailboxes, Failure> {
    stored::envelopes(&stage.data_of(Which::First)).map_err(|error| format!("the relay's data: {error}"))
}

async fn write_storm(mut input: ChildStdin, person: Person) -> Result<(), Failure> {
    for number in 1..=STORM {
        let line = format!("{}\n", storm_text(person, number));
        input
            .write_all(line.as_bytes())
            .await
            .map_err(|error| format!("{} takes no more lines: {error}", person.0))?;
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

fn storm_text(person: Person, number: usize) -> String {
    format!("{} schreibt im Sturm ⛈ Nr. {number:02}", person.0)
}

/// How many messages a sender was told are sent; says when the first [`KILL_AFTER`] are.
async fn all_sent(
    mut running: Running,
    answered: &AtomicUsize,
    mut reached: Option<oneshot::Sender<()>>,
) -> Result<usize, Failure> {
    let mut sent = BTreeSet::new();
    while let Some(printed) = running.next().await? {
        if ["sent", "delivered", "read"].contains(&text_of(Some(&printed), "state").as_str())
            && sent.insert(text_of(Some(&printed), "id"))
        {
            answered.fetch_add(1, Ordering::Relaxed);
        }
        if sent.len() >= KILL_AFTER
            && let Some(reached) = reached.take()
        {
            // Whoever waits for it is in the same future.
            let _ = reached.send(());
        }
    }
    running.finish().await?;
    Ok(sent.len())
}

async fn compare_histories(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let mut expected: Vec<String> =
        HELLOS.iter().map(|(person, text)| format!("{}: {text}", person.0)).collect();
    for person in [ANNA, BORIS] {
        expected.extend((1..=STORM).map(|number| format!("{}: {}", person.0, storm_text(person, number))));
    }
    expected.sort_unstable();
    let mut orders = BTreeSet::new();
    let mut wrong = Vec::new();
    for person in EVERYBODY {
        let mut read = read_by(stage, person, GROUP).await?;
        // Who came later has not seen what was said before; everybody was there for all of this.
        let mut said: Vec<String> =
            read.iter().map(|entry| format!("{}: {}", entry.sender, entry.text)).collect();
        said.sort_unstable();
        if said != expected {
            wrong.push(format!("{} has {} texts of {}", person.0, said.len(), expected.len()));
        }
        read.sort_by_key(|entry| entry.seq);
        orders.insert(read.iter().map(|entry| (entry.seq, entry.text.clone())).collect::<Vec<_>>());
    }
    let detail = if wrong.is_empty() {
        format!("{} texts for each of five", expected.len())
    } else {
        wrong.join("; ")
    };
    report.check("nothing was lost and nothing came twice", wrong.is_empty(), detail);
    report.check(
        "everybody has the same order",
        orders.len() == 1,
        if orders.len() == 1 { String::new() } else { format!("{} different ones", orders.len()) },
    );
    let in_order = orders.iter().all(|order| {
        [ANNA, BORIS].iter().all(|person| {
            let own: Vec<_> = order
                .iter()
                .filter(|(_, text)| text.starts_with(&format!("{} schreibt", person.0)))
                .collect();
            own.is_sorted_by_key(|(_, text)| text)
        })
    });
    report.check("each sender's messages are in the order of writing", in_order, "");
    Ok(())
}

async fn inspection(stage: &Stage, report: &mut Report, mut mailboxes: Mailboxes) -> Result<(), Failure> {
    act(8, "What each person read, and what the relay has of it");
    let mut reads = Vec::new();
    for person in EVERYBODY {
        reads.push((person, read_by(stage, person, GROUP).await?));
    }
    stage.kill_relay(Which::First).await?;
    for (mailbox, envelopes) in stored_now(stage)? {
        mailboxes.entry(mailbox).or_default().extend(envelopes);
    }
    let nothing = BTreeMap::new();
    let group = mailboxes.values().max_by_key(|envelopes| envelopes.len()).unwrap_or(&nothing);
    for (person, read) in &reads {
        let storm = read.iter().filter(|entry| entry.text.contains("Nr. 21"));
        let shown: Vec<&Read> = read.iter().take(HELLOS.len()).chain(storm).collect();
        side_by_side(person.0, &shown, |seq| group.get(&seq).cloned());
    }
    let all: Vec<_> = mailboxes.values().flat_map(BTreeMap::values).collect();
    let turns = all.iter().filter(|envelope| envelope.turned).count();
    let bytes: usize = all.iter().map(|envelope| envelope.bytes.len()).sum();
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    group.values().for_each(|envelope| *sizes.entry(envelope.bytes.len()).or_default() += 1);
    tell("");
    tell(&format!(
        "In all the relay stored {} envelopes ({bytes} bytes) in {} mailboxes; {turns} of them turned a lock. Sizes in the group's mailbox: {}.",
        all.len(),
        mailboxes.len(),
        sizes.iter().map(|(size, count)| format!("{count} of {size}")).collect::<Vec<_>>().join(", ")
    ));
    let stored_all = reads.iter().all(|(_, read)| read.iter().all(|entry| group.contains_key(&entry.seq)));
    report.check("what was read is what the relay stored, by number", stored_all && !group.is_empty(), "");
    let odd: Vec<_> = sizes.keys().filter(|size| !stored::is_standard_length(**size)).collect();
    report.check(
        "the group's envelopes have standard lengths",
        odd.is_empty(),
        format!("{odd:?} are odd").replace("[] are odd", ""),
    );
    let unevenness = stored::unevenness(all.iter().map(|envelope| &envelope.bytes[..]));
    report.check(
        "the stored bytes are evenly spread",
        unevenness < 400.0,
        format!("chi-squared {unevenness:.0}, random is 255 ± 23"),
    );
    search_for_words(stage, report)
}

/// Everything that was said, and what things are called.
fn secrets() -> Vec<String> {
    let mut words: Vec<String> = HELLOS.iter().map(|(_, text)| (*text).to_owned()).collect();
    words.extend([GREETING, ANSWER, GROUP, "Bergtour", "schreibt im Sturm", "Gipfeln"].map(str::to_owned));
    words.extend((1..=STORM).flat_map(|number| [ANNA, BORIS].map(|person| storm_text(person, number))));
    words.extend(long_text().lines().map(str::to_owned));
    words.extend(elsewhere::TEXTS.map(str::to_owned));
    words
        .extend(mending::CHOIR_TEXTS.iter().chain(&mending::GROUP_TEXTS).map(|(_, text)| (*text).to_owned()));
    words
}

fn search_for_words(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let words = secrets();
    let failed = |error: std::io::Error| format!("the search: {error}");
    let search_all = |folders: &[PathBuf]| {
        let mut all = stored::Search::default();
        for folder in folders {
            all.add(stored::search(folder, words.iter().map(String::as_str)).map_err(failed)?);
        }
        Ok::<_, Failure>(all)
    };
    let detail = |search: &stored::Search| match &search.found[..] {
        [] => format!("{} words, {} files, {} bytes", words.len(), search.files, search.bytes),
        found => {
            let places = found.iter().map(|(word, path)| format!("\"{word}\" in {}", path.display()));
            places.collect::<Vec<_>>().join("; ")
        }
    };
    let relays = search_all(&[Which::First, Which::Other].map(|which| stage.data_of(which)))?;
    report.check("none of what was said is in the relays' data", relays.found.is_empty(), detail(&relays));
    let profiles: Vec<_> = EVERYBODY.into_iter().chain([FELIX]).map(|person| stage.home(person)).collect();
    let profiles = search_all(&profiles)?;
    report.check(
        "nor in the profiles, which are encrypted on disk",
        profiles.found.is_empty(),
        detail(&profiles),
    );
    let names = EVERYBODY.into_iter().chain([FELIX]).map(|person| person.0);
    let known = stored::search(&stage.data_of(Which::First), names).map_err(failed)?;
    let known: BTreeSet<_> = known.found.into_iter().map(|(word, _)| word).collect();
    let (felix, five): (Vec<_>, Vec<_>) = known.into_iter().partition(|name| name == FELIX.0);
    report.check("the same search finds what the relay must know: handles", five.len() == 5, five.join(", "));
    report.check("but not who of another relay is talked with", felix.is_empty(), felix.join(""));
    Ok(())
}

/// Lets people send and read everything.
pub(super) async fn settle(stage: &Stage, people: &[Person]) -> Result<(), Failure> {
    stage.run_all(people, &["listen", "--until-settled"]).await.map(drop)
}

/// What a person reads in a conversation, in the person's own order.
pub(super) async fn read_by(stage: &Stage, person: Person, conversation: &str) -> Result<Vec<Read>, Failure> {
    let history = stage.run(person, &["history", conversation, "--limit", "1000"]).await?;
    let texts = history.iter().filter(|entry| entry["said"]["kind"] == "text");
    Ok(texts
        .map(|entry| Read {
            seq: entry["seq"].as_u64().unwrap_or_default(),
            sender: text_of(Some(entry), "handle"),
            text: text_of(entry.get("said"), "text"),
        })
        .collect())
}

pub(super) fn text_of(value: Option<&Value>, key: &str) -> String {
    value.and_then(|value| value[key].as_str()).unwrap_or_default().to_owned()
}
