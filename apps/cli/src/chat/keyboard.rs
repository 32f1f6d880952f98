//! What is typed, read on a thread of its own.
//!
//! crossterm's own stream reads now on its thread, now on the caller's, and its reading never returns once
//! the terminal is gone. Here that can only hold up a thread that nobody waits for longer than [`LAST`].

use std::io;
use std::sync::mpsc as standard;
use std::time::Duration;

use crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// Keys that wait for the chat; those after them wait in the terminal.
const QUEUE: usize = 256;
/// How long its end waits for the thread: keys that it took after that would be lost for the shell.
const LAST: Duration = Duration::from_millis(200);

/// The keyboard, and what else a terminal says. Dropping it ends the thread.
pub(super) struct Keyboard {
    /// Closed by the drop: that tells the thread.
    typed: mpsc::Receiver<io::Result<Event>>,
    /// Closed by the thread's end.
    ended: standard::Receiver<()>,
}

impl Keyboard {
    pub(super) fn new() -> io::Result<Self> {
        let (to_typed, typed) = mpsc::channel(QUEUE);
        let (at_end, ended) = standard::sync_channel(0);
        std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || {
            read(&to_typed);
            drop::<standard::SyncSender<()>>(at_end);
        })?;
        Ok(Self { typed, ended })
    }

    /// The next event; `None` if there will be no more, after an error.
    pub(super) async fn next(&mut self) -> Option<io::Result<Event>> {
        self.typed.recv().await
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.typed.close();
        wake();
        // Either it has ended, or it never will, because the terminal has.
        let _ = self.ended.recv_timeout(LAST);
    }
}

fn read(to_typed: &mpsc::Sender<io::Result<Event>>) {
    loop {
        let typed = event::read();
        let failed = typed.is_err();
        if to_typed.is_closed() || to_typed.blocking_send(typed).is_err() || failed {
            return;
        }
    }
}

/// Makes the reading return: a window that changes its size is an event like a key.
#[cfg(unix)]
fn wake() {
    use rustix::process::{Signal, getpid, kill_process};
    // What cannot be woken is not waited for long.
    let _ = kill_process(getpid(), Signal::WINCH);
}

/// Here the thread ends with the next event.
#[cfg(not(unix))]
fn wake() {}
