//! What is typed, read on a thread of its own.
//!
//! crossterm's own stream reads now on its thread, now on the caller's, and its reading never returns once
//! the terminal is gone. Here that can only hold up a thread that nobody waits for.

use std::io;
use std::time::Duration;

use crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// Keys that wait for the chat; those after them wait in the terminal.
const QUEUE: usize = 256;
/// How often the thread looks whether it is still needed when nothing is typed.
const LOOK: Duration = Duration::from_millis(500);

/// The keyboard, and what else a terminal says. Dropping it ends the thread, at its next look.
pub(super) struct Keyboard {
    typed: mpsc::Receiver<io::Result<Event>>,
}

impl Keyboard {
    pub(super) fn new() -> io::Result<Self> {
        let (to_typed, typed) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || read(&to_typed))?;
        Ok(Self { typed })
    }

    /// The next event; `None` if there will be no more, after an error.
    pub(super) async fn next(&mut self) -> Option<io::Result<Event>> {
        self.typed.recv().await
    }
}

fn read(to_typed: &mpsc::Sender<io::Result<Event>>) {
    while !to_typed.is_closed() {
        let typed = match event::poll(LOOK) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let failed = typed.is_err();
        if to_typed.blocking_send(typed).is_err() || failed {
            return;
        }
    }
}
