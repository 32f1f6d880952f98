//! The kit does what it says, with real clients.

use std::time::Duration;

use posthorn_client::{Cause, Consent, Error, Event, EventStream, Page};
use posthorn_testkit::{Faults, PATIENCE, TestRelay, next_invitation, next_text, until};

const EVERYTHING: Page = Page { before: None, after: None, limit: 1000 };

#[tokio::test]
async fn two_people_talk() -> Result<(), Error> {
    let relay = TestRelay::start().await;
    let (alice, bob) = (relay.client("alice").await, relay.client("bob").await);
    let (mut to_alice, mut to_bob) = (alice.events(), bob.events());

    let talk = alice.start("", vec![relay.who("bob")]).await?;
    talk.send_text("Are you there?").await?;
    let at_bob = bob.conversation(next_invitation(&mut to_bob).await);
    at_bob.accept(false).await?;
    assert_eq!(next_text(&mut to_bob).await.text(), Some("Are you there?"));
    at_bob.send_text("Since noon.").await?;
    assert_eq!(next_text(&mut to_alice).await.text(), Some("Since noon."));
    Ok(())
}

#[tokio::test]
async fn what_is_said_while_the_relay_is_stopped_goes_when_it_is_back() -> Result<(), Error> {
    let mut relay = TestRelay::start().await;
    let (alice, bob) = (relay.client("alice").await, relay.client("bob").await);
    bob.consent(Consent::Everybody).await?;
    let mut to_bob = bob.events();
    let talk = alice.start("", vec![relay.who("bob")]).await?;
    talk.send_text("before").await?;
    assert_eq!(next_text(&mut to_bob).await.text(), Some("before"));

    relay.stop().await;
    relay.stop().await;
    talk.send_text("meanwhile").await?;
    let settled = alice.settled(Duration::from_millis(200)).await;
    assert!(matches!(settled, Err(Error::NotSettled(_))), "{settled:?}");
    // A closed profile is opened again, by its name.
    alice.close().await?;
    relay.restart().await;
    let alice = relay.client("alice").await;
    assert_eq!(next_text(&mut to_bob).await.text(), Some("meanwhile"));
    assert_eq!(alice.conversations().await?.len(), 1);
    alice.settled(PATIENCE).await
}

#[tokio::test]
async fn events_end_with_their_client() -> Result<(), Error> {
    let relay = TestRelay::start().await;
    let alice = relay.client("alice").await;
    let (kept, mut before) = (alice.clone(), alice.events());
    alice.close().await?;
    while before.next().await.is_some() {}
    assert!(kept.events().next().await.is_none());
    assert_eq!(kept.state().await.expect_err("it was closed").code(), "STOPPED");
    Ok(())
}

#[tokio::test]
async fn connections_are_cut_and_refused_and_begin_again() -> Result<(), Error> {
    let relay = TestRelay::start().await;
    let alice = relay.client("alice").await;
    alice.settled(PATIENCE).await?;
    let mut events = alice.events();

    let begun = relay.network().begun();
    relay.network().cut();
    until_connected(&mut events, false).await;
    until_connected(&mut events, true).await;
    assert!(relay.network().begun() > begun);

    relay.network().refuse();
    until_connected(&mut events, false).await;
    let settled = alice.settled(Duration::from_millis(200)).await;
    assert!(matches!(settled, Err(Error::NotSettled(_))), "{settled:?}");
    relay.network().heal();
    alice.settled(PATIENCE).await
}

#[tokio::test]
async fn everything_comes_once_and_in_order_through_a_bad_network() -> Result<(), Error> {
    let relay = TestRelay::start().await;
    let (alice, bob) = (relay.client("alice").await, relay.client("bob").await);
    bob.consent(Consent::Everybody).await?;
    let mut to_bob = bob.events();
    let begun = relay.network().begun();
    relay.network().faults(Faults { cut: 60, cut_within: 16 * 1024, ..Faults::seeded(3) });

    let talk = alice.start("", vec![relay.who("bob")]).await?;
    let said: Vec<String> = (0..12).map(|number| number.to_string()).collect();
    for text in &said {
        talk.send_text(text).await?;
    }
    let mut heard = Vec::new();
    let mut conversation = None;
    while heard.len() < said.len() {
        let entry = next_text(&mut to_bob).await;
        conversation = Some(entry.conversation);
        heard.push(entry.text().unwrap_or_default().to_owned());
    }
    assert_eq!(heard, said);
    assert!(relay.network().begun() > begun + 6, "the network was not bad: {}", relay.network().begun());

    relay.network().heal();
    alice.settled(PATIENCE).await?;
    bob.settled(PATIENCE).await?;
    let history = bob.conversation(conversation.expect("twelve texts came")).history(EVERYTHING).await?;
    let texts: Vec<&str> = history.iter().filter_map(|entry| entry.text()).collect();
    assert_eq!(texts, said, "and nothing comes twice");
    Ok(())
}

async fn until_connected(events: &mut EventStream, connected: bool) {
    use posthorn_client::Event::{Connected, Disconnected};
    until(events, |event| match event {
        Connected => connected.then_some(()),
        Disconnected { .. } => (!connected).then_some(()),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_hundred_days_pass_within_a_test() -> Result<(), Error> {
    let relay = TestRelay::start().await;
    let (alice, bob) = (relay.client("alice").await, relay.client("bob").await);
    bob.consent(Consent::Everybody).await?;
    let mut to_bob = bob.events();
    let talk = alice.start("", vec![relay.who("bob")]).await?;
    talk.send_text("before").await?;
    let before = next_text(&mut to_bob).await;
    bob.settled(PATIENCE).await?;
    bob.close().await?;

    talk.send_text("for nobody").await?;
    alice.settled(PATIENCE).await?;
    let days = Duration::from_secs(100 * 24 * 3600);
    relay.pass(days).await;
    talk.send_text("after").await?;
    alice.settled(PATIENCE).await?;
    let said = talk.history(EVERYTHING).await?;
    let after = said.iter().find(|entry| entry.text() == Some("after")).expect("was said");
    assert!(after.sent_at - before.sent_at >= days.as_millis() as u64);

    // What bob was away for has expired. He is told with the second look, some minutes later.
    let bob = relay.client("bob").await;
    let mut to_bob = bob.events();
    let told = until(&mut to_bob, |event| match event {
        Event::Alarm { cause: Cause::Lapsed, conversation, .. } => conversation,
        _ => None,
    });
    let minutes = async {
        loop {
            relay.pass(Duration::from_secs(120)).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        conversation = told => assert_eq!(conversation, before.conversation),
        () = minutes => {}
    }
    Ok(())
}
