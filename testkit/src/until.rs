//! Awaiting what a client tells.

use std::collections::VecDeque;
use std::time::Duration;

use posthorn_client::{ConversationId, Entry, Event, EventStream};
use tokio::time::timeout;

/// How long a wait may take. Everything here takes milliseconds, unless the network is bad.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How many of the events that nobody waited for a failure tells.
const TOLD: usize = 20;

/// The first thing that `pick` takes of what a client tells. Take the events before what makes them is asked
/// for. Panics after [`PATIENCE`], when the client stops, and when events were missed.
pub async fn until<T>(events: &mut EventStream, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    let mut passed = VecDeque::new();
    let searching = async {
        loop {
            let event = match events.next().await {
                None => return Err("the client stopped"),
                Some(Event::Missed { .. }) => return Err("events were missed: take them sooner"),
                Some(event) => event,
            };
            passed.truncate(TOLD - 1);
            passed.push_front(format!("{event:?}"));
            if let Some(found) = pick(event) {
                return Ok(found);
            }
        }
    };
    let outcome = timeout(PATIENCE, searching).await.unwrap_or(Err("it did not come in time"));
    match outcome {
        Ok(found) => found,
        Err(why) => {
            let passed: Vec<String> = passed.into_iter().rev().collect();
            panic!("{why}; what came last:\n{}", passed.join("\n"))
        }
    }
}

/// The next text of somebody else, in any conversation.
pub async fn next_text(events: &mut EventStream) -> Entry {
    until(events, |event| match event {
        Event::Entry(entry) if !entry.mine && entry.text().is_some() => Some(*entry),
        _ => None,
    })
    .await
}

/// The conversation that the next invitation would become.
pub async fn next_invitation(events: &mut EventStream) -> ConversationId {
    until(events, |event| match event {
        Event::Invited { conversation, .. } => Some(conversation),
        _ => None,
    })
    .await
}
