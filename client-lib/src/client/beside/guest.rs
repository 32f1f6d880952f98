//! A client that asks whoever has the profile, in place of the driver of an engine.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{broadcast, mpsc};

use super::message::{self, Heard};
use super::request::{Request, Then};
use crate::client::driver::Ask;
use crate::engine::{Error, Event};

/// What is asked and not answered yet.
#[derive(Default)]
struct Open {
    last: u64,
    answers: HashMap<u64, Then>,
}

impl Open {
    fn ask(&mut self, request: &Request, then: Then) -> Vec<u8> {
        self.last += 1;
        self.answers.insert(self.last, then);
        message::request(self.last, request)
    }
}

/// Takes what a [`crate::client::Client`] asks to a host.
pub(in crate::client) struct Guest<R, W> {
    input: BufReader<R>,
    output: W,
    asks: mpsc::Receiver<Ask>,
    events: broadcast::Sender<Event>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Guest<R, W> {
    pub(in crate::client) fn new(
        input: R,
        output: W,
        asks: mpsc::Receiver<Ask>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        Self { input: BufReader::new(input), output, asks, events }
    }

    /// From now on this hears of everything that happens. An error: nobody is there.
    pub(in crate::client) async fn greet(&mut self) -> io::Result<()> {
        let mut open = Open::default();
        let hello = open.ask(&Request::Subscribe {}, Box::new(|_: Result<Value, Error>| {}));
        self.output.write_all(&hello).await?;
        self.output.flush().await?;
        loop {
            let mut line = Vec::new();
            if self.input.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match message::heard(&line) {
                Heard::Answer(..) => return Ok(()),
                // Nobody can listen yet.
                Heard::Event(_) | Heard::Other => {}
            }
        }
    }

    /// Runs until the client is closed or dropped, or the host is gone.
    pub(in crate::client) async fn run(self) {
        let Self { input, output, mut asks, events } = self;
        // After the greeting.
        let open = RefCell::new(Open { last: 1, answers: HashMap::new() });
        let closed = tokio::select! {
            closed = ask(&mut asks, output, &open) => closed,
            () = hear(input, &events, &open) => None,
        };
        // Whoever asks from now on, or has asked, is told that this has stopped.
        asks.close();
        for (_, then) in open.into_inner().answers {
            then(Err(Error::Stopped));
        }
        drop(asks);
        if let Some(done) = closed {
            // Whoever closed may not wait for it.
            let _ = done.send(());
        }
    }
}

/// Writes what is asked, until that ends; who waits for the end, if somebody does.
async fn ask(
    asks: &mut mpsc::Receiver<Ask>,
    mut output: impl AsyncWrite + Unpin,
    open: &RefCell<Open>,
) -> Option<tokio::sync::oneshot::Sender<()>> {
    while let Some(ask) = asks.recv().await {
        let asked = match ask {
            Ask::Command(command) => Request::of(*command),
            Ask::Settled { timeout, done, .. } => {
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                let then: Then = Box::new(move |answer: Result<Value, Error>| {
                    // Without an answer of that kind, whoever waits goes on until their own time is over.
                    if answer.is_ok() {
                        let _ = done.send(());
                    }
                });
                Some((Request::Settled { timeout_ms }, then))
            }
            Ask::Backup(file, reply) => Some(Request::backup(file, reply)),
            Ask::Close(done) => return Some(done),
        };
        if let Some((request, then)) = asked {
            let line = open.borrow_mut().ask(&request, then);
            if output.write_all(&line).await.is_err() || output.flush().await.is_err() {
                return None;
            }
        }
    }
    None
}

/// Hears answers and events, in order, until the host is gone.
async fn hear(
    mut input: impl tokio::io::AsyncBufRead + Unpin,
    events: &broadcast::Sender<Event>,
    open: &RefCell<Open>,
) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match message::heard(&line) {
            Heard::Answer(id, answer) => {
                let then = open.borrow_mut().answers.remove(&id);
                if let Some(then) = then {
                    then(answer);
                }
            }
            // Nobody has to listen.
            Heard::Event(event) => drop(events.send(*event)),
            Heard::Other => {}
        }
    }
}
