//! What happens, as a stream that says what it missed.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::engine::Event;

/// Events of a client, in order. Whoever takes them too slowly is told how many were missed
/// ([`Event::Missed`]), and should look at the conversations again.
#[derive(Debug)]
pub struct EventStream(broadcast::Receiver<Event>);

impl EventStream {
    /// Without a receiver, of a client that has stopped.
    pub(super) fn new(receiver: Option<broadcast::Receiver<Event>>) -> Self {
        Self(receiver.unwrap_or_else(|| broadcast::channel(1).1))
    }

    /// The next event; `None` once the client has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(events)) => Some(Event::Missed { events }),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event that has happened already; `None` if there is none now.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(events)) => Some(Event::Missed { events }),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
