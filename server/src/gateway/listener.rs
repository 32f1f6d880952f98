//! The listener: accepts connections, and owns their tasks.
//!
//! Every connection is a task in its set: dropping the listener's future ends them all; draining waits for
//! them, for a while.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Connection, Surroundings};
use super::doors::{Doors, Visitor};
use super::handshakes::{Handshake, Handshakes};
use super::http::blob::Desk;
use super::http::{self, Guest, TurnedAway};
use super::origin::{Origin, Trust, Unreadable};
use super::session::Session;
use super::tls::Certificates;
use crate::clock::SystemClock;
use crate::command::Context;
use crate::config::{Config, Connections};
use crate::parts::Parts;

/// A pause after the system refused a connection (too many open files): trying at once would only spin.
const BREATHER: Duration = Duration::from_millis(100);
/// How long a refused connection may take to be told so.
const REFUSAL: Duration = Duration::from_secs(1);
/// What is read of a refused connection, bytes.
const REFUSED_BYTES: u64 = 64 * 1024;
/// Connections that the system keeps until they are accepted, as far as it has so many
/// (`net.core.somaxconn`). Beyond that it drops them, and whoever connects tries again after a second, then
/// after three.
const BACKLOG: u32 = 4096;

/// Begins to listen.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // What is left of the connections of an earlier relay shall not keep this one from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections for one relay.
pub(crate) struct Listener {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    certificates: Option<Arc<Certificates>>,
    context: Arc<Context>,
    surroundings: Arc<Surroundings>,
    settings: Connections,
    drain: watch::Receiver<bool>,
    trust: Trust,
    doors: Arc<Doors>,
    handshakes: Arc<Handshakes>,
    blobs: Desk,
}

impl Listener {
    pub(crate) fn new(
        tcp: TcpListener,
        config: &Config,
        certificates: Option<Arc<Certificates>>,
        context: Arc<Context>,
        clock: SystemClock,
        parts: Arc<dyn Parts>,
        drain: watch::Receiver<bool>,
    ) -> Self {
        let settings = config.connections.clone();
        let surroundings = Arc::new(Surroundings {
            clock,
            budget: context.budget.clone(),
            frame_bytes: context.limits.frame_bytes as usize,
            idle: Duration::from_secs(context.limits.idle_seconds.into()),
            stalled: Duration::from_secs(settings.stalled_seconds.into()),
        });
        let handshakes = Handshakes::new(settings.handshakes as usize);
        let trust = Trust::new(config.trusted_proxies.clone());
        let doors = Doors::new(settings.total, settings.per_address, config.rates.exempt.clone());
        let blobs = Desk::new(config, parts);
        let shared =
            Shared { certificates, context, surroundings, settings, drain, trust, doors, handshakes, blobs };
        Self { tcp, shared: Arc::new(shared) }
    }

    pub(crate) fn doors(&self) -> Arc<Doors> {
        self.shared.doors.clone()
    }

    /// Accepts until the relay stops, then waits until its connections have ended, but no longer than
    /// configured.
    pub(crate) async fn run(self) {
        let Self { tcp, shared } = self;
        let mut drain = shared.drain.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = shared.accept(&tcp) => match accepted {
                    Ok((stream, peer)) => admit(&shared, stream, peer.ip(), &mut connections),
                    Err(error) => {
                        tracing::warn!(kind = ?error.kind(), "cannot accept a connection");
                        tokio::time::sleep(BREATHER).await;
                    }
                },
                Some(ended) = connections.join_next() => report(ended),
                () = stops(&mut drain) => break,
            }
        }
        drop(tcp);
        shared.doors.wake_all();
        let patience = Duration::from_secs(shared.settings.drain_seconds.into());
        let all = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if timeout(patience, all).await.is_err() {
            tracing::info!(connections = shared.doors.open(), "connections were cut off at shutdown");
        }
    }
}

/// Resolves when the relay begins to stop, or is dropped.
async fn stops(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|draining| *draining).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!("a connection failed: this is a defect of the relay");
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, peer: IpAddr, connections: &mut JoinSet<()>) {
    // Where a proxy's connection comes from is not known yet.
    let admitted = |visitor: &Visitor| shared.trust.is_proxy(peer) || shared.admits(visitor, peer);
    match shared.doors.enter().filter(admitted) {
        Some(visitor) => shared.handshakes.begin(shared.surroundings.clock.millis(), |handshake| {
            connections.spawn(serve(shared.clone(), stream, peer, visitor, handshake))
        }),
        // Refusals are bounded too: beyond that the connection is just dropped.
        None if (connections.len() as u64) < u64::from(shared.settings.total) + 64 => {
            let shared = shared.clone();
            connections.spawn(async move { turn_away(&shared, stream, TurnedAway::Full).await });
        }
        None => {}
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: IpAddr, visitor: Visitor, handshake: Handshake) {
    // Boxed, and dropped before the connection begins: what the handshake needs shall not stay with the
    // connection for the rest of its life.
    let welcomed = Box::pin(welcome(shared, stream, peer, &visitor, handshake)).await;
    if let Some(connection) = welcomed {
        connection.await;
    }
    drop(visitor);
}

async fn turn_away(shared: &Shared, mut stream: TcpStream, why: TurnedAway) {
    tracing::debug!(?why, "a connection was refused");
    if shared.certificates.is_none() {
        // What becomes of it is the client's concern.
        let _ = timeout(REFUSAL, async {
            stream.write_all(why.answer().as_bytes()).await?;
            stream.shutdown().await?;
            // Closed with bytes that nobody took it would be reset, perhaps before the answer was read.
            tokio::io::copy(&mut stream.take(REFUSED_BYTES), &mut tokio::io::sink()).await
        })
        .await;
    }
}

/// A connection, whatever its socket.
type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn welcome(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    peer: IpAddr,
    visitor: &Visitor,
    handshake: Handshake,
) -> Option<Served> {
    // Over when this returns, however it does, or with the first request for a blob.
    let handshake = Mutex::new(Some(handshake));
    // Frames are gathered by us; the kernel shall not wait for more.
    let _ = stream.set_nodelay(true);
    let origin = match timeout(shared.handshake(), shared.trust.origin(&mut stream, peer)).await.ok()? {
        // Anybody but a proxy was counted at the door.
        Ok(Origin::Known(address)) if shared.trust.is_proxy(peer) && !shared.admits(visitor, address) => {
            return refuse(&shared, stream, TurnedAway::Full).await;
        }
        Ok(origin) => origin,
        Err(Unreadable) => return refuse(&shared, stream, TurnedAway::Unreadable).await,
    };
    match &shared.certificates {
        None => upgrade(&shared, stream, origin, visitor, &handshake).await,
        Some(certificates) => {
            let accepted = certificates.acceptor().accept(stream);
            let stream = timeout(shared.handshake(), accepted).await.ok()?.ok()?;
            upgrade(&shared, stream, origin, visitor, &handshake).await
        }
    }
}

async fn refuse(shared: &Shared, stream: TcpStream, why: TurnedAway) -> Option<Served> {
    turn_away(shared, stream, why).await;
    None
}

async fn upgrade<S>(
    shared: &Shared,
    stream: S,
    origin: Origin,
    visitor: &Visitor,
    handshake: &Mutex<Option<Handshake>>,
) -> Option<Served>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let surroundings = shared.surroundings.clone();
    let clock = &surroundings.clock;
    let (context, trust, blobs, patience) =
        (&*shared.context, &shared.trust, &shared.blobs, shared.handshake());
    let guest = Guest { context, trust, origin, visitor, clock, blobs, patience, handshake };
    let upgraded = http::serve(stream, guest, shared.drain.clone()).await?;
    let address = visitor.limited(upgraded.address);
    let session = Session::new(shared.context.clone(), address, clock.millis());
    visitor.enroll(session.shared_outbox());
    Some(Box::pin(Connection::new(upgraded.io, upgraded.read, session, surroundings)))
}

impl Shared {
    /// Whether a connection from there may come in, by how often that address does and how many it has.
    fn admits(&self, visitor: &Visitor, address: IpAddr) -> bool {
        let rate = &self.context.rates.connects;
        visitor.may_connect(address, rate, self.surroundings.clock.millis()) && visitor.count(address)
    }

    /// The next connection, when there is room for its handshake.
    async fn accept(&self, tcp: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
        self.handshakes.room(|| self.surroundings.clock.millis()).await;
        tcp.accept().await
    }

    fn handshake(&self) -> Duration {
        Duration::from_secs(self.settings.handshake_seconds.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (The system's own default is 1,024 at most: of 3,000 that connected at once, 712 were dropped.)
    #[tokio::test]
    async fn whoever_comes_in_a_burst_waits_in_the_queue() {
        crate::descriptors::raise();
        let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux says");
        let many = limit.trim().parse::<usize>().expect("a number").min(1500);
        let queue = listen("127.0.0.1:0".parse().expect("an address")).expect("it listens");
        let address = queue.local_addr().expect("an address");
        let mut waiting = Vec::new();
        for count in 1..=many {
            let connected = timeout(Duration::from_secs(20), TcpStream::connect(address)).await;
            let connected = connected.unwrap_or_else(|_| panic!("the queue has no room for {count}"));
            waiting.push(connected.expect("it connects"));
        }
    }
}
