//! kill -9 of the relay and of each client, again and again while both talk: nothing is lost, nothing
//! repeated, and both sides end with the same history (R1, R3, R4, C1, C2).
//!
//! `cargo test` kills [`SHORT`] times; `cargo xtask kill --kills 200` as often as asked.

mod common;

use std::time::Duration;

use anyhow::Context as _;
use common::{relay_program, seeded};
use posthorn_client::conversation::Entry;
use posthorn_tests::person::{Line, texts};
use posthorn_tests::puppet::{Order, Puppet};
use posthorn_tests::relay::RelayProcess;
use rand::Rng as _;

/// Kills when the environment does not say otherwise.
const SHORT: u32 = 20;

#[tokio::test]
async fn kills_at_any_moment_lose_and_repeat_nothing() -> anyhow::Result<()> {
    let kills: u32 = std::env::var("POSTHORN_KILLS").map_or(Ok(SHORT), |text| text.parse())?;
    let seed: u64 = std::env::var("POSTHORN_SEED").map_or(Ok(7), |text| text.parse())?;
    println!("{kills} kills, POSTHORN_SEED={seed}");
    let mut rng = seeded(seed);
    let mut relay = RelayProcess::start(&relay_program(), &[]).await?;
    let mut people = Vec::new();
    for name in ["alice", "bob"] {
        let mut person = Puppet::start(env!("CARGO_BIN_EXE_test-person"), name).await?;
        let (handle, invite) = (name.to_owned(), relay.invite().to_owned());
        person.order(&Order::Register { relay: relay.client_url(), handle, invite }).await?;
        people.push(person);
    }
    let group = people[0].order(&Order::Start { members: vec!["bob".to_owned()] }).await?;
    let group = group.as_str().context("an id")?.to_owned();
    assert_eq!(people[1].order(&Order::Conversation).await?, group.as_str());
    for person in &mut people {
        person.order(&Order::Talk { group: group.clone() }).await?;
    }

    for kill in 1..=kills {
        // Progress first, so that no kill hits an idle system; then a moment more, to hit any instruction.
        // The length of the moment is the fault that is injected, not something that is waited for.
        let talker = rng.random_range(0..2);
        people[talker]
            .says_more(rng.random_range(1..8))
            .await
            .with_context(|| format!("before kill {kill}; the relay said: {}", relay.said()))?;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
        match rng.random_range(0..3) {
            2 => {
                relay.kill().await?;
                relay.restart().await.with_context(|| format!("the relay, after kill {kill}"))?;
            }
            victim => {
                let person = &mut people[victim];
                person.kill().await?;
                person.wake().await.with_context(|| format!("{}, after kill {kill}", person.name))?;
                person.order(&Order::Talk { group: group.clone() }).await?;
            }
        }
    }

    for person in &mut people {
        person.order(&Order::Hush).await?;
    }
    for person in &mut people {
        person.order(&Order::Settle).await?;
    }
    // What each sent is on the relay now, and may still be on its way to the other.
    let mut all = 0;
    for person in &mut people {
        let history = person.order(&Order::History { group: group.clone() }).await?;
        let history: Vec<Entry> = serde_json::from_value(history)?;
        all += history.iter().filter(|entry| entry.mine && entry.text().is_some()).count();
    }
    let mut histories = Vec::new();
    for person in &mut people {
        person.order(&Order::Read { group: group.clone(), texts: all }).await?;
        let history = person.order(&Order::History { group: group.clone() }).await?;
        let history: Vec<Entry> = serde_json::from_value(history)?;
        histories.push(texts(&history));
        assert_eq!(person.alarms, Vec::<String>::new(), "alarms of {}", person.name);
    }
    compare(&people, &histories);
    relay.alive()
}

fn compare(people: &[Puppet], histories: &[Vec<Line>]) {
    for person in people {
        let said =
            histories[0].iter().filter(|line| line.sender == person.name).map(|line| line.text.as_str());
        let said: Vec<u64> = said.map(|text| text.parse().expect("talkers say numbers")).collect();
        let expected: Vec<u64> = (1..=said.len() as u64).collect();
        assert_eq!(said, expected, "{} counted, without a hole and without a repeat", person.name);
        assert!(
            said.len() as u64 >= person.said,
            "{} said {} durably, {} arrived",
            person.name,
            person.said,
            said.len()
        );
    }
    let first_difference = histories[0].iter().zip(&histories[1]).find(|(one, other)| one != other);
    assert_eq!(first_difference, None);
    assert_eq!(histories[0].len(), histories[1].len());
    assert!(histories[0].iter().all(|line| line.at.is_some()));
    println!("{} messages, the same on both sides", histories[0].len());
}
