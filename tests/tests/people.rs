//! People talk through a real relay process: two, five, joining, leaving, away, restarted.

mod common;

use common::relay_program;
use posthorn_client::content::{Said, Text};
use posthorn_client::conversation::{
    Body, ConversationId, ConversationState, EntryState, GroupId, MessageId, Notice,
};
use posthorn_client::engine::{Error, Event, Who};
use posthorn_client::identity::PersonId;
use posthorn_proto::Handle;
use posthorn_tests::person::{Line, Person};
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
async fn together(people: &mut [Person]) -> anyhow::Result<GroupId> {
    let contacts = people[1..].iter().map(Person::contact).collect::<Result<_, _>>()?;
    let group = people[0].client().start("all of us", contacts).await?.summary().await?.group;
    let names: Vec<String> = people.iter().map(|person| person.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for person in people.iter_mut() {
        person.sees_members(group, &names).await?;
    }
    Ok(group)
}

fn said(lines: &[Line]) -> Vec<(&str, &str)> {
    lines.iter().map(|line| (line.sender.as_str(), line.text.as_str())).collect()
}

#[tokio::test]
async fn two_people_talk_and_find_everything_after_all_restarted() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob] = &mut people[..] else { unreachable!("two were made") };
    let long = "Grüße aus Zürich, 東京 and 🐎📯! ".repeat(500);
    alice.say(group, "hello bob").await?;
    bob.reads(group, "hello bob").await?;
    bob.say(group, "hello alice\nsecond line").await?;
    alice.reads(group, "hello alice\nsecond line").await?;
    alice.say(group, &long).await?;
    bob.reads(group, &long).await?;
    let before = alice.texts(group).await?;
    assert_eq!(
        said(&before),
        [("alice", "hello bob"), ("bob", "hello alice\nsecond line"), ("alice", long.as_str())]
    );
    assert_eq!(bob.texts(group).await?, before);

    alice.sleep().await?;
    bob.sleep().await?;
    relay.stop().await?;
    relay.restart().await?;
    alice.wake().await?;
    bob.wake().await?;
    assert_eq!(alice.texts(group).await?, before);
    assert_eq!(bob.texts(group).await?, before);
    bob.say(group, "still here").await?;
    alice.reads(group, "still here").await?;
    alice.settle().await?;
    assert_eq!(bob.texts(group).await?, alice.texts(group).await?);
    Ok(())
}

#[tokio::test]
async fn marks_go_from_queued_to_sent_to_delivered_to_read() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob] = &mut people[..] else { unreachable!("two were made") };
    let state = async |alice: &Person| {
        Ok::<_, anyhow::Error>(alice.history(group).await?.last().map(|entry| entry.state))
    };
    bob.settle().await?;
    bob.conversation(group).await?.mark_read(None).await?;
    bob.sleep().await?;
    relay.kill().await?;
    alice.say(group, "are you there?").await?;
    assert_eq!(state(alice).await?, Some(EntryState::Queued), "no relay: it waits in the outbox");
    relay.restart().await?;
    alice.until("it is sent", async |alice| Ok(state(alice).await? == Some(EntryState::Sent))).await?;
    bob.wake().await?;
    bob.reads(group, "are you there?").await?;
    alice
        .until("it is delivered", async |alice| Ok(state(alice).await? == Some(EntryState::Delivered)))
        .await?;
    assert_eq!(bob.summary(group).await?.map(|summary| summary.unread), Some(1));
    bob.conversation(group).await?.mark_read(None).await?;
    alice.until("it is read", async |alice| Ok(state(alice).await? == Some(EntryState::Read))).await?;
    assert_eq!(bob.summary(group).await?.map(|summary| summary.unread), Some(0));
    Ok(())
}

#[tokio::test]
async fn five_people_read_the_same() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["ann", "ben", "cleo", "dan", "eva"]).await?;
    let group = together(&mut people).await?;
    for person in &people {
        for number in 1..=5 {
            person.say(group, &format!("{} {number}", person.name)).await?;
        }
    }
    let names: Vec<String> = people.iter().map(|person| person.name.clone()).collect();
    for person in &mut people {
        for name in &names {
            person.reads(group, &format!("{name} 5")).await?;
        }
        person.settle().await?;
    }
    let expected = people[0].texts(group).await?;
    assert_eq!(expected.len(), 25);
    for name in &names {
        let own: Vec<&str> =
            expected.iter().filter(|line| line.sender == *name).map(|line| line.text.as_str()).collect();
        let in_order: Vec<String> = (1..=5).map(|number| format!("{name} {number}")).collect();
        assert_eq!(own, in_order, "one sender's messages keep their order");
    }
    for person in &people[1..] {
        assert_eq!(person.texts(group).await?, expected, "{}", person.name);
    }
    Ok(())
}

#[tokio::test]
async fn members_come_and_go() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol", "dave"]).await?;
    let mut dave = people.pop().expect("four were made");
    let group = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three are left") };
    alice.say(group, "before dave").await?;
    bob.conversation(group).await?.add(vec![dave.contact()?]).await?;
    for person in [&mut *alice, &mut *bob, &mut *carol, &mut dave] {
        person.sees_members(group, &["alice", "bob", "carol", "dave"]).await?;
    }
    dave.say(group, "thanks").await?;
    carol.reads(group, "thanks").await?;
    assert!(
        !said(&dave.texts(group).await?).contains(&("alice", "before dave")),
        "not for those who came later"
    );

    alice.conversation(group).await?.remove(carol.id().await?).await?;
    for person in [&mut *alice, &mut *bob, &mut dave] {
        person.sees_members(group, &["alice", "bob", "dave"]).await?;
    }
    carol
        .until("carol sees that she was removed", async |carol| {
            let summary = carol.summary(group).await?;
            Ok(summary.is_some_and(|summary| matches!(summary.state, ConversationState::Removed)))
        })
        .await?;
    assert!(carol.say(group, "let me in").await.is_err());
    alice.say(group, "without carol").await?;
    bob.reads(group, "without carol").await?;
    carol.settle().await?;
    assert!(!said(&carol.texts(group).await?).contains(&("alice", "without carol")));

    bob.conversation(group).await?.leave().await?;
    for person in [&mut *alice, &mut dave] {
        person.sees_members(group, &["alice", "dave"]).await?;
    }
    dave.say(group, "two of us").await?;
    alice.reads(group, "two of us").await?;
    assert!(matches!(bob.summary(group).await?.map(|summary| summary.state), Some(ConversationState::Left)));

    // Whoever was removed can come back.
    alice.conversation(group).await?.add(vec![carol.contact()?]).await?;
    for person in [&mut *alice, &mut dave, &mut *carol] {
        person.sees_members(group, &["alice", "dave", "carol"]).await?;
    }
    carol.say(group, "back again").await?;
    dave.reads(group, "back again").await?;
    Ok(())
}

#[tokio::test]
async fn whoever_was_away_catches_up() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three were made") };
    bob.settle().await?;
    bob.sleep().await?;
    for number in 1..=100 {
        alice.say(group, &format!("{number}")).await?;
    }
    carol.reads(group, "100").await?;
    // While bob is away the members change, and with them the keys, twice.
    alice.conversation(group).await?.remove(carol.id().await?).await?;
    alice.conversation(group).await?.add(vec![carol.contact()?]).await?;
    carol.sees_members(group, &["alice", "bob", "carol"]).await?;
    carol.say(group, "and me").await?;
    alice.reads(group, "and me").await?;
    relay.kill().await?;
    relay.restart().await?;
    bob.wake().await?;
    bob.say(group, "what did I miss?").await?;
    bob.reads(group, "and me").await?;
    bob.settle().await?;
    alice.reads(group, "what did I miss?").await?;
    assert_eq!(bob.texts(group).await?, alice.texts(group).await?);
    assert_eq!(bob.texts(group).await?.len(), 102);
    Ok(())
}

/// The conversation moves twice while bob is away; he follows from mailbox to mailbox.
#[tokio::test]
async fn whoever_was_away_follows_a_conversation_that_moved() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three were made") };
    bob.settle().await?;
    bob.sleep().await?;
    for (number, mover) in [&mut *alice, &mut *carol].into_iter().enumerate() {
        mover.conversation(group).await?.move_to(None).await?;
        mover.say(group, &format!("moved {number}")).await?;
    }
    alice.reads(group, "moved 1").await?;
    bob.wake().await?;
    bob.reads(group, "moved 1").await?;
    bob.say(group, "here I am").await?;
    for person in [&mut *alice, &mut *carol] {
        person.reads(group, "here I am").await?;
    }
    bob.settle().await?;
    assert_eq!(bob.texts(group).await?, alice.texts(group).await?);
    Ok(())
}

/// Three commit at the same moment, ten times: each gets what it wanted, and all end in one epoch.
#[tokio::test]
async fn concurrent_commits_all_happen() -> Outcome {
    let relay = relay().await?;
    let names = ["alice", "bob", "carol"];
    let mut people = people(&relay, &names).await?;
    let group = together(&mut people).await?;
    let mut guests = Vec::new();
    for number in 0..3 {
        guests.push(Person::register(&relay, &format!("guest{number}")).await?);
    }
    for _ in 0..3 {
        let adds = people.iter().zip(&guests).map(async |(host, guest)| {
            Ok::<_, anyhow::Error>(host.conversation(group).await?.add(vec![guest.contact()?]).await?)
        });
        futures_util::future::try_join_all(adds).await?;
        for person in people.iter_mut().chain(&mut guests) {
            person.sees_members(group, &["alice", "bob", "carol", "guest0", "guest1", "guest2"]).await?;
        }
        let removes = people.iter().zip(&guests).map(async |(host, guest)| {
            Ok::<_, anyhow::Error>(host.conversation(group).await?.remove(guest.id().await?).await?)
        });
        futures_util::future::try_join_all(removes).await?;
        for person in &mut people {
            person.sees_members(group, &names).await?;
        }
    }
    let mut epochs = Vec::new();
    for person in &people {
        person.settle().await?;
        epochs.push(person.summary(group).await?.map(|summary| summary.epoch));
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
        alice.wake().await?;
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
    let of_bob = people[0].client().safety_number(people[1].id().await?).await?;
    let of_alice = people[1].client().safety_number(people[0].id().await?).await?;
    assert_eq!(of_bob.to_string(), of_alice.to_string());
    assert!(people[0].client().safety_number(PersonId([1; 32])).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_behind() -> Outcome {
    let relay = relay().await?;
    let people = people(&relay, &["alice"]).await?;
    let alice = people[0].client();
    let nobody = Who::Handle(Handle::parse("nobody")?);
    let refused = alice.start("", vec![nobody]).await;
    assert!(refused.is_err(), "nobody has this handle: {refused:?}");
    assert_eq!(alice.conversations().await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn who_leaves_is_not_said_to_be_removed() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["ann", "ben", "cleo"]).await?;
    let group = together(&mut people).await?;
    let [ann, ben, cleo] = &mut people[..] else { unreachable!("three were made") };
    cleo.conversation(group).await?.leave().await?;
    for person in [&mut *ann, &mut *ben] {
        person.sees_members(group, &["ann", "ben"]).await?;
    }
    cleo.settle().await?;
    for person in [ann, ben, cleo] {
        let gone: Vec<_> = person
            .history(group)
            .await?
            .into_iter()
            .filter_map(|entry| match entry.body {
                Body::Notice(Notice::Left { who }) => Some(who.handle),
                Body::Notice(Notice::Removed { who, .. }) => Some(format!("removed: {who:?}")),
                _ => None,
            })
            .collect();
        assert_eq!(gone, ["cleo"], "what {} sees", person.name);
    }
    Ok(())
}

/// A stranger's invitation waits, and nothing of it goes on the wire until it is accepted (rule 25).
#[tokio::test]
async fn a_stranger_waits_to_be_accepted() -> Outcome {
    let relay = relay().await?;
    let alice = &mut Person::register(&relay, "alice").await?;
    let bob = &mut Person::register_shy(&relay, "bob").await?;
    let group = alice.client().start("", vec![bob.contact()?]).await?.summary().await?.group;
    alice.say(group, "hello, I am Alice").await?;
    let invited = bob.is_invited().await?;
    bob.settle().await?;
    let summary = bob.client().conversation(invited).summary().await?;
    assert_eq!(summary.inviter.map(|inviter| inviter.person), Some(alice.id().await?));
    assert_eq!(bob.texts(group).await?, [], "nothing was read");
    assert!(matches!(bob.say(group, "who are you?").await, Err(error) if is_code(&error, "NOT_ACTIVE")));
    let joined = async |alice: &Person| {
        let members = alice.conversation(group).await?.members().await?;
        Ok::<_, anyhow::Error>(members.iter().any(|member| !member.me && member.joined))
    };
    assert!(!joined(alice).await?, "the inviter does not learn that it arrived");
    // It goes on waiting over a restart.
    bob.sleep().await?;
    bob.wake().await?;
    assert_eq!(bob.is_invited().await?, invited);
    bob.client().conversation(invited).accept(false).await?;
    bob.reads(group, "hello, I am Alice").await?;
    bob.say(group, "hello Alice").await?;
    // Both have it back from the relay, with its place.
    alice.reads(group, "hello Alice").await?;
    bob.reads(group, "hello Alice").await?;
    assert_eq!(alice.texts(group).await?, bob.texts(group).await?);
    // Whoever was accepted need not ask again.
    let second = alice.client().start("second", vec![bob.contact()?]).await?.summary().await?.group;
    bob.sees_members(second, &["alice", "bob"]).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_is_blocked_leaves_no_trace() -> Outcome {
    let relay = relay().await?;
    let alice = &mut Person::register(&relay, "alice").await?;
    let bob = &mut Person::register_shy(&relay, "bob").await?;
    let carol = &mut Person::register(&relay, "carol").await?;
    alice.client().start("one", vec![bob.contact()?]).await?;
    bob.is_invited().await?;
    bob.client().block(alice.id().await?, true).await?;
    assert_eq!(bob.client().conversations().await?.len(), 0, "what waited goes with her");
    alice.client().start("two", vec![bob.contact()?]).await?;
    alice.settle().await?;
    // What comes later arrives: it is not that nothing did.
    carol.client().start("of carol", vec![bob.contact()?]).await?;
    bob.is_invited().await?;
    bob.settle().await?;
    let all = bob.client().conversations().await?;
    let by: Vec<_> = all.iter().filter_map(|summary| summary.inviter.as_ref()).collect();
    assert_eq!(by.iter().map(|person| person.handle.as_str()).collect::<Vec<_>>(), ["carol"]);
    assert_eq!(all.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_reaction_arrives_is_replaced_and_is_taken_back() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three were made") };
    alice.say(group, "cake?").await?;
    for person in [&mut *bob, &mut *carol] {
        person.reads(group, "cake?").await?;
    }
    bob.conversation(group).await?.mark_read(None).await?;
    bob.react(group, "cake?", "👍").await?;
    for person in [&mut *alice, &mut *bob, &mut *carol] {
        person.sees_reactions(group, "cake?", &[("bob", "👍")]).await?;
    }
    bob.react(group, "cake?", "🎂").await?;
    for person in [&mut *alice, &mut *bob, &mut *carol] {
        person.sees_reactions(group, "cake?", &[("bob", "🎂")]).await?;
    }
    carol.react(group, "cake?", "👍").await?;
    alice.sees_reactions(group, "cake?", &[("bob", "🎂"), ("carol", "👍")]).await?;
    // One's own words take a reaction like those of others.
    alice.react(group, "cake?", "🐎").await?;
    bob.sees_reactions(group, "cake?", &[("bob", "🎂"), ("carol", "👍"), ("alice", "🐎")]).await?;
    bob.react(group, "cake?", "").await?;
    for person in [&mut *alice, &mut *bob, &mut *carol] {
        person.sees_reactions(group, "cake?", &[("carol", "👍"), ("alice", "🐎")]).await?;
    }
    assert_eq!(bob.summary(group).await?.map(|summary| summary.unread), Some(0));
    bob.sleep().await?;
    bob.wake().await?;
    assert_eq!(bob.reactions(group, "cake?").await?.len(), 2, "it is kept");
    let history = alice.history(group).await?;
    assert_eq!(history.iter().filter(|entry| entry.said().is_some()).count(), 1, "no entries of their own");
    Ok(())
}

/// A caller that chose the ids can repeat every call, also when it was restarted in between.
#[tokio::test]
async fn what_is_repeated_under_the_same_id_happens_once() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three were made") };
    let (place, word) = (ConversationId([7; 16]), MessageId([8; 16]));
    let start = async |alice: &Person, whom: &Person| {
        let begun = alice.client().start_as(Some(place), "once", vec![whom.contact()?], false).await?;
        Ok::<_, anyhow::Error>(begun.summary().await?)
    };
    let first = start(alice, bob).await?;
    assert_eq!(first.id, place);
    assert_eq!(start(alice, bob).await?.group, first.group);
    let group = first.group;
    let once = Said::new(Text::new("just once"))?;
    let send = async |alice: &Person, said: &Said| {
        alice.client().conversation(place).send_as(Some(word), said.clone()).await
    };
    assert_eq!(send(alice, &once).await?, word);
    assert_eq!(send(alice, &once).await?, word);
    alice.settle().await?;
    assert_eq!(send(alice, &once).await?, word, "also when it was sent long ago");
    alice.sleep().await?;
    alice.wake().await?;
    assert_eq!(start(alice, bob).await?.group, group);
    assert_eq!(send(alice, &once).await?, word);
    let other = Said::new(Text::new("something else"))?;
    assert!(matches!(send(alice, &other).await, Err(Error::IdTaken)));
    alice.say(group, "the end").await?;
    bob.reads(group, "the end").await?;
    for person in [&*alice, &*bob] {
        let texts = person.texts(group).await?;
        assert_eq!(said(&texts), [("alice", "just once"), ("alice", "the end")], "{}", person.name);
        assert_eq!(person.client().conversations().await?.len(), 1);
    }
    // Without a name and with one person it is the conversation that is there; with a word, another.
    let pair = alice.client().start("", vec![carol.contact()?]).await?;
    assert_eq!(alice.client().start("", vec![carol.contact()?]).await?.id(), pair.id());
    let again = alice.client().start_as(None, "", vec![carol.contact()?], true).await?;
    assert_ne!(again.id(), pair.id());
    Ok(())
}

/// Removed and added, again and again: each time with fresh keys, and nothing of the time in between.
#[tokio::test]
async fn whoever_was_removed_can_be_added_again() -> Outcome {
    let relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob", "carol"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob, carol] = &mut people[..] else { unreachable!("three were made") };
    for round in 1..=3 {
        alice.conversation(group).await?.remove(carol.id().await?).await?;
        carol
            .until("carol sees that she was removed", async |carol| {
                let summary = carol.summary(group).await?;
                Ok(summary.is_some_and(|summary| summary.state == ConversationState::Removed))
            })
            .await?;
        bob.sees_members(group, &["alice", "bob"]).await?;
        bob.say(group, &format!("secret {round}")).await?;
        alice.reads(group, &format!("secret {round}")).await?;
        bob.conversation(group).await?.add(vec![carol.contact()?]).await?;
        for person in [&mut *alice, &mut *bob, &mut *carol] {
            person.sees_members(group, &["alice", "bob", "carol"]).await?;
        }
        carol.say(group, &format!("back {round}")).await?;
        alice.reads(group, &format!("back {round}")).await?;
        let read = carol.texts(group).await?;
        assert!(!read.iter().any(|line| line.text.starts_with("secret")), "{read:?}");
    }
    for person in [&mut *alice, &mut *bob, &mut *carol] {
        person.settle().await?;
    }
    assert_eq!(alice.texts(group).await?, bob.texts(group).await?);
    Ok(())
}

/// Another relay under the address of the one that this device knows: nothing is said to it.
#[tokio::test]
async fn a_relay_of_another_identity_is_refused() -> Outcome {
    let mut relay = relay().await?;
    let mut people = people(&relay, &["alice", "bob"]).await?;
    let group = together(&mut people).await?;
    let [alice, bob] = &mut people[..] else { unreachable!("two were made") };
    alice.settle().await?;
    alice.sleep().await?;
    relay.stop().await?;
    let mut other = RelayProcess::start_at(&relay_program(), relay.address()).await?;
    alice.wake().await?;
    alice.say(group, "for the relay that I know").await?;
    let alarm =
        alice.hears("an alarm", |event| matches!(event, Event::Alarm { .. } | Event::Connected)).await?;
    assert!(matches!(&alarm, Event::Alarm { cause, .. } if cause.name() == "RELAY_CHANGED"), "{alarm:?}");
    let state = alice.client().state().await?;
    assert!(!state.connected && state.outbox > 0, "{state:?}");
    other.kill().await?;
    relay.restart().await?;
    bob.reads(group, "for the relay that I know").await?;
    Ok(())
}

fn is_code(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.code() == code)
}
