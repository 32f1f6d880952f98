//! People talk through a real relay process: two, five, joining, leaving, away, restarted.

mod common;

use common::relay_program;
use posthorn_client::conversation::{Body, ConversationId, ConversationState, MessageState, Notice};
use posthorn_client::sync::Contact;
use posthorn_proto::Handle;
use posthorn_tests::person::{EVERYTHING, Line, Person};
use posthorn_tests::relay::RelayProcess;

type Outcome = anyhow::Result<()>;

async fn relay() -> anyhow::Result<RelayProcess> {
    RelayProcess::start(&relay_program(), &[]).await
}

async fn people(relay: &RelayProcess, names: &[&str]) -> anyhow::Result<Vec<Person>> {
    let mut people = Vec::new();
    for name in names {
        people.push(Person::register(relay, name).await?);
    }
    Ok(people)
}

/// The first starts a conversation with the others, and all see each other in it.
async fn together(people: &mut [Person]) -> anyhow::Result<ConversationId> {
    let contacts = people[1..].iter().map(Person::contact).collect::<Result<_, _>>()?;
    let conversation = people[0].client().start("all of us".to_owned(), contacts).await?;
    let names: Vec<String> = people.iter().map(|person| person.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for person in people.iter_mut() {
        person.sees_members(conversation, &names).await?;
    }
    Ok(conversation)
}

fn said(lines: &[Line]) -> Vec<(&str, &str)> {
    lines.iter().map(|line| (line.sender.as_str(), line.text.as_str())).collect()
}

#[tokio::test]
async fn two_people_talk_and_find_everything_after_all_restarted() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob"]).await?;
    let conversation = together(&mut people).await?;
    let [alice, bob] = &mut people[..] else { unreachable!("two were made") };
    let long = "Grüße aus Zürich, 東京 and 🐎📯! ".repeat(500);
    alice.say(conversation, "hello bob").await?;
    bob.reads(conversation, "hello bob").await?;
    bob.say(conversation, "hello alice\nsecond line").await?;
    alice.reads(conversation, "hello alice\nsecond line").await?;
    alice.say(conversation, &long).await?;
    bob.reads(conversation, &long).await?;
    let before = alice.texts(conversation).await?;
    assert_eq!(
        said(&before),
        [("alice", "hello bob"), ("bob", "hello alice\nsecond line"), ("alice", long.as_str())]
    );
    assert_eq!(bob.texts(conversation).await?, before);

    alice.sleep().await?;
    bob.sleep().await?;
    relay.stop().await?;
    relay.restart().await?;
    alice.wake()?;
    bob.wake()?;
    assert_eq!(alice.texts(conversation).await?, before);
    assert_eq!(bob.texts(conversation).await?, before);
    bob.say(conversation, "still here").await?;
    alice.reads(conversation, "still here").await?;
    alice.settle().await?;
    assert_eq!(bob.texts(conversation).await?, alice.texts(conversation).await?);
    Ok(())
}

#[tokio::test]
async fn marks_go_from_queued_to_sent_to_delivered_to_read() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob"]).await?;
    let conversation = together(&mut people).await?;
    let [alice, bob] = &mut people[..] else { unreachable!("two were made") };
    let state = async |alice: &Person| {
        let history = alice.client().history(conversation, None, EVERYTHING).await?;
        Ok::<_, anyhow::Error>(history.last().map(|message| message.state))
    };
    bob.settle().await?;
    bob.client().mark_read(conversation).await?;
    bob.sleep().await?;
    relay.kill().await?;
    alice.say(conversation, "are you there?").await?;
    assert_eq!(state(alice).await?, Some(MessageState::Queued), "no relay: it waits in the outbox");
    relay.restart().await?;
    alice.until("it is sent", async |alice| Ok(state(alice).await? == Some(MessageState::Sent))).await?;
    bob.wake()?;
    bob.reads(conversation, "are you there?").await?;
    alice
        .until("it is delivered", async |alice| Ok(state(alice).await? == Some(MessageState::Delivered)))
        .await?;
    assert_eq!(bob.summary(conversation).await?.map(|summary| summary.unread), Some(1));
    bob.client().mark_read(conversation).await?;
    alice.until("it is read", async |alice| Ok(state(alice).await? == Some(MessageState::Read))).await?;
    assert_eq!(bob.summary(conversation).await?.map(|summary| summary.unread), Some(0));
    Ok(())
}

#[tokio::test]
async fn five_people_read_the_same() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["ann", "ben", "cleo", "dan", "eva"]).await?;
    let conversation = together(&mut people).await?;
    for person in &people {
        for number in 1..=5 {
            person.say(conversation, &format!("{} {number}", person.name)).await?;
        }
    }
    let names: Vec<String> = people.iter().map(|person| person.name.clone()).collect();
    for person in &mut people {
        for name in &names {
            person.reads(conversation, &format!("{name} 5")).await?;
        }
        person.settle().await?;
    }
    let expected = people[0].texts(conversation).await?;
    assert_eq!(expected.len(), 25);
    for name in &names {
        let own: Vec<&str> =
            expected.iter().filter(|line| line.sender == *name).map(|line| line.text.as_str()).collect();
        let in_order: Vec<String> = (1..=5).map(|number| format!("{name} {number}")).collect();
        assert_eq!(own, in_order, "one sender's messages keep their order");
    }
    for person in &people[1..] {
        assert_eq!(person.texts(conversation).await?, expected, "{}", person.name);
    }
    Ok(())
}

#[tokio::test]
async fn members_come_and_go() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol", "dave"]).await?;
    let mut dave = people.pop().expect("four were made");
    let conversation = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three are left") };
    alice.say(conversation, "before dave").await?;
    bob.client().add(conversation, vec![dave.contact()?]).await?;
    for person in [&mut *alice, &mut *bob, &mut *carol, &mut dave] {
        person.sees_members(conversation, &["alice", "bob", "carol", "dave"]).await?;
    }
    dave.say(conversation, "thanks").await?;
    carol.reads(conversation, "thanks").await?;
    assert!(
        !said(&dave.texts(conversation).await?).contains(&("alice", "before dave")),
        "not for those who came later"
    );

    alice.client().remove(conversation, "carol".to_owned()).await?;
    for person in [&mut *alice, &mut *bob, &mut dave] {
        person.sees_members(conversation, &["alice", "bob", "dave"]).await?;
    }
    carol
        .until("carol sees that she was removed", async |carol| {
            let summary = carol.summary(conversation).await?;
            Ok(summary.is_some_and(|summary| matches!(summary.state, ConversationState::Removed)))
        })
        .await?;
    assert!(carol.say(conversation, "let me in").await.is_err());
    alice.say(conversation, "without carol").await?;
    bob.reads(conversation, "without carol").await?;
    carol.settle().await?;
    assert!(!said(&carol.texts(conversation).await?).contains(&("alice", "without carol")));

    bob.client().leave(conversation).await?;
    for person in [&mut *alice, &mut dave] {
        person.sees_members(conversation, &["alice", "dave"]).await?;
    }
    dave.say(conversation, "two of us").await?;
    alice.reads(conversation, "two of us").await?;
    assert!(matches!(
        bob.summary(conversation).await?.map(|summary| summary.state),
        Some(ConversationState::Left)
    ));

    // Whoever was removed can come back.
    alice.client().add(conversation, vec![carol.contact()?]).await?;
    for person in [&mut *alice, &mut dave, &mut *carol] {
        person.sees_members(conversation, &["alice", "dave", "carol"]).await?;
    }
    carol.say(conversation, "back again").await?;
    dave.reads(conversation, "back again").await?;
    Ok(())
}

#[tokio::test]
async fn whoever_was_away_catches_up() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol"]).await?;
    let conversation = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three were made") };
    bob.settle().await?;
    bob.sleep().await?;
    for number in 1..=100 {
        alice.say(conversation, &format!("{number}")).await?;
    }
    carol.reads(conversation, "100").await?;
    // While bob is away the members change, and with them the keys, twice.
    alice.client().remove(conversation, "carol".to_owned()).await?;
    alice.client().add(conversation, vec![carol.contact()?]).await?;
    carol.sees_members(conversation, &["alice", "bob", "carol"]).await?;
    carol.say(conversation, "and me").await?;
    alice.reads(conversation, "and me").await?;
    relay.kill().await?;
    relay.restart().await?;
    bob.wake()?;
    bob.say(conversation, "what did I miss?").await?;
    bob.reads(conversation, "and me").await?;
    bob.settle().await?;
    alice.reads(conversation, "what did I miss?").await?;
    assert_eq!(bob.texts(conversation).await?, alice.texts(conversation).await?);
    assert_eq!(bob.texts(conversation).await?.len(), 102);
    Ok(())
}

/// Three commit at the same moment, ten times: each gets what it wanted, and all end in one epoch.
#[tokio::test]
async fn concurrent_commits_all_happen() -> Outcome {
    let relay = relay().await?;
    let names = ["alice", "bob", "carol"];
    let mut people = people(&relay, &names).await?;
    let conversation = together(&mut people).await?;
    let mut guests = Vec::new();
    for number in 0..3 {
        guests.push(Person::register(&relay, &format!("guest{number}")).await?);
    }
    for _ in 0..3 {
        let adds = people.iter().zip(&guests).map(async |(host, guest)| {
            Ok::<_, anyhow::Error>(host.client().add(conversation, vec![guest.contact()?]).await?)
        });
        futures_util::future::try_join_all(adds).await?;
        for person in people.iter_mut().chain(&mut guests) {
            person
                .sees_members(conversation, &["alice", "bob", "carol", "guest0", "guest1", "guest2"])
                .await?;
        }
        let removes = people.iter().zip(&guests).map(async |(host, guest)| {
            Ok::<_, anyhow::Error>(host.client().remove(conversation, guest.name.clone()).await?)
        });
        futures_util::future::try_join_all(removes).await?;
        for person in &mut people {
            person.sees_members(conversation, &names).await?;
        }
    }
    let mut epochs = Vec::new();
    for person in &people {
        person.settle().await?;
        epochs.push(person.summary(conversation).await?.map(|summary| summary.epoch));
    }
    assert!(epochs[0].is_some() && epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    Ok(())
}

/// Nothing has to be asked again and again: an event comes when both connections can be used.
#[tokio::test]
async fn coming_online_is_told() -> Outcome {
    let mut relay = relay().await?;
    let mut alice = Person::register(&relay, "alice").await?;
    for _ in 0..3 {
        alice.sleep().await?;
        alice.wake()?;
        alice.until("she is online", async |alice| Ok(alice.client().state().await?.connected)).await?;
    }
    relay.kill().await?;
    alice.until("she is offline", async |alice| Ok(!alice.client().state().await?.connected)).await?;
    relay.restart().await?;
    alice.until("she is online again", async |alice| Ok(alice.client().state().await?.connected)).await?;
    Ok(())
}

#[tokio::test]
async fn both_sides_compute_one_safety_number() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob"]).await?;
    together(&mut people).await?;
    let of_bob = people[0].client().safety_number("bob".to_owned()).await?;
    let of_alice = people[1].client().safety_number("alice".to_owned()).await?;
    assert_eq!(of_bob.to_string(), of_alice.to_string());
    assert!(people[0].client().safety_number("nobody".to_owned()).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_behind() -> Outcome {
    let relay = relay().await?;
    let people = people(&relay, &["alice"]).await?;
    let alice = people[0].client();
    let nobody = Contact::Handle(Handle::parse("nobody")?);
    let refused = alice.start(String::new(), vec![nobody]).await;
    assert!(refused.is_err(), "nobody has this handle: {refused:?}");
    assert_eq!(alice.conversations().await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn who_leaves_is_not_said_to_be_removed() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["ann", "ben", "cleo"]).await?;
    let conversation = together(&mut people).await?;
    let [ann, ben, cleo] = &mut people[..] else { unreachable!("three were made") };
    cleo.client().leave(conversation).await?;
    for person in [ann, ben] {
        person.sees_members(conversation, &["ann", "ben"]).await?;
        let history = person.client().history(conversation, None, EVERYTHING).await?;
        let gone: Vec<_> = history
            .into_iter()
            .filter_map(|message| match message.body {
                Body::Notice(notice @ (Notice::Left { .. } | Notice::Removed { .. })) => Some(notice),
                _ => None,
            })
            .collect();
        assert_eq!(gone, [Notice::Left { who: "cleo".to_owned() }], "what {} sees", person.name);
    }
    Ok(())
}
