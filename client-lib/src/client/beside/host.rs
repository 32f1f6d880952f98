//! Doing what one guest asks, on any stream of lines.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    BufReader,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::message::{self, Failure, Malformed};
use super::request::{Doing, Request, Then};
use super::{AFTERWARDS, IN_FLIGHT, LINE_BYTES};
use crate::client::driver::Ask;
use crate::client::{Client, EventStream};
use crate::engine::Error;

/// What goes to the guest, in this order.
enum Going {
    Answer {
        id: Value,
        answer: Result<Value, Failure>,
        /// Held until it is written: so many can be under way, and the queue has room for all of them.
        _permit: OwnedSemaphorePermit,
    },
    /// From here on, after what was answered before.
    Events(EventStream),
}

/// Serves one guest until it has nothing more to ask and has every answer, or does not read any more.
///
/// Requests begin in the order of their lines and are answered when they are done. Events that happened
/// before an answer are told before it.
pub(in crate::client) async fn serve(
    client: Client,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    ended: watch::Receiver<bool>,
) -> std::io::Result<()> {
    // Each of those in flight, and the one event stream that each may ask for.
    let (going, queue) = mpsc::channel(2 * IN_FLIGHT);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut host = Host { client, going, in_flight, settling: JoinSet::new() };
    let writing = write(queue, output);
    tokio::pin!(writing);
    tokio::select! {
        // It ended because the guest does not read: what it asks matters to nobody.
        written = &mut writing => return written,
        read = host.read(BufReader::new(input), ended) => read?,
    }
    // What was asked is answered, also if nothing more is asked; but whoever went away is not waited for.
    let answering = async {
        let written = async {
            while host.settling.join_next().await.is_some() {}
            drop(host);
        };
        tokio::join!(written, writing).1
    };
    tokio::time::timeout(AFTERWARDS, answering).await.unwrap_or(Ok(()))
}

/// Waits until nobody is to be served any more.
pub(super) async fn over(ended: &mut watch::Receiver<bool>) {
    // Whoever would say so is gone: that says it, too.
    let _ = ended.wait_for(|ended| *ended).await;
}

struct Host {
    client: Client,
    going: mpsc::Sender<Going>,
    in_flight: Arc<Semaphore>,
    /// Who waits until everything is settled.
    settling: JoinSet<()>,
}

impl Host {
    async fn read(
        &mut self,
        mut input: impl AsyncBufRead + Unpin,
        mut ended: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        loop {
            let mut line = Vec::new();
            // One byte more tells that it is too long.
            let mut limited = (&mut input).take(LINE_BYTES as u64 + 1);
            tokio::select! {
                () = over(&mut ended) => return Ok(()),
                read = limited.read_until(b'\n', &mut line) => read?,
            };
            if line.is_empty() {
                return Ok(());
            }
            let permit = Arc::clone(&self.in_flight).acquire_owned().await.map_err(std::io::Error::other)?;
            if line.len() > LINE_BYTES {
                // Where the next one begins is not known.
                let failure = Failure::too_long(LINE_BYTES);
                self.go(Going::Answer { id: Value::Null, answer: Err(failure), _permit: permit }).await;
                return Ok(());
            }
            if !line.trim_ascii().is_empty() {
                self.hear(&line, permit).await;
            }
            while self.settling.try_join_next().is_some() {}
        }
    }

    async fn hear(&mut self, line: &[u8], permit: OwnedSemaphorePermit) {
        match message::read_request(line) {
            Ok((id, request)) => {
                let then = self.then(id, permit);
                self.begin(request, then).await;
            }
            Err(Malformed { id: Some(id), failure }) => {
                self.go(Going::Answer { id, answer: Err(failure), _permit: permit }).await;
            }
            Err(Malformed { id: None, .. }) => {}
        }
    }

    /// Takes the answer to what was asked under this id.
    fn then(&self, id: Option<Value>, permit: OwnedSemaphorePermit) -> Then {
        let (client, going) = (self.client.asks.downgrade(), self.going.clone());
        let mut unanswered = Unanswered { client, going, under: id.map(|id| (id, permit)) };
        Box::new(move |answer: Result<Value, Error>| unanswered.give(answer))
    }

    async fn begin(&mut self, request: Request, then: Then) {
        match request.doing(then) {
            Some(Doing::Command(command)) => {
                // A client that has stopped drops the command, and that is an answer.
                let _ = self.client.tell(Ask::Command(Box::new(command))).await;
            }
            Some(Doing::Backup(file, reply)) => {
                let _ = self.client.tell(Ask::Backup(file, reply)).await;
            }
            Some(Doing::Settle(timeout, then)) => {
                let client = self.client.clone();
                self.settling.spawn(async move {
                    then(client.settled(timeout).await.map(|()| Value::Null));
                });
            }
            Some(Doing::Subscribe(then)) => {
                self.go(Going::Events(self.client.events())).await;
                then(Ok(Value::Null));
            }
            None => {}
        }
    }

    /// Whoever writes is gone only when the guest is.
    async fn go(&self, going: Going) {
        let _ = self.going.send(going).await;
    }
}

/// A request that has no answer yet. The engine drops commands when its database fails, and when it stops.
struct Unanswered {
    client: mpsc::WeakSender<Ask>,
    going: mpsc::Sender<Going>,
    under: Option<(Value, OwnedSemaphorePermit)>,
}

impl Unanswered {
    fn give(&mut self, answer: Result<Value, Error>) {
        if let Some((id, permit)) = self.under.take() {
            // There is room for everything that has a permit; without a guest nobody waits.
            let answer = answer.map_err(Failure::from);
            let _ = self.going.try_send(Going::Answer { id, answer, _permit: permit });
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let is_there = self.client.upgrade().is_some_and(|asks| !asks.is_closed());
        self.give(Err(if is_there { Error::Unavailable } else { Error::Stopped }));
    }
}

async fn write(mut queue: mpsc::Receiver<Going>, mut output: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut events: Option<EventStream> = None;
    loop {
        let next = async {
            match &mut events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            going = queue.recv() => {
                if let Some(events) = &mut events {
                    while let Some(event) = events.try_next() {
                        output.write_all(&message::event(&event)).await?;
                    }
                }
                match going {
                    Some(Going::Answer { id, answer, _permit }) => {
                        output.write_all(&message::answer(&id, answer)).await?;
                    }
                    Some(Going::Events(stream)) => events = Some(stream),
                    None => return output.flush().await,
                }
            }
            event = next => match event {
                Some(event) => output.write_all(&message::event(&event)).await?,
                // The client has stopped: whoever asks more is told so.
                None => events = None,
            }
        }
        output.flush().await?;
    }
}
