//! The listener: accepts connections, caps their number, and owns their tasks.
//!
//! Every connection is a task in its set: dropping the listener's future ends them all; draining waits for
//! them, for a while.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Surroundings};
use super::handshakes::{Handshake, Handshakes};
use super::session::{Now, Session};
use super::tls::TlsError;
use super::{http, tls};
use crate::clock::SystemClock;
use crate::command::rate::Buckets;
use crate::command::{Context, neighbourhood};
use crate::config::{Config, Connections};
use crate::outbox::Outbox;
use crate::store::Clock as _;

/// A pause after the system refused a connection (too many open files): trying at once would only spin.
const BREATHER: Duration = Duration::from_millis(100);
/// How long a refused connection may take to be told so.
const REFUSAL: Duration = Duration::from_secs(1);

/// Accepts connections for one relay.
pub(crate) struct Listener {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<TlsAcceptor>,
    context: Arc<Context>,
    surroundings: Arc<Surroundings>,
    settings: Connections,
    drain: watch::Receiver<bool>,
    doors: Arc<Doors>,
    handshakes: Arc<Handshakes>,
}

/// How many connections there are, in all and by address.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    open: AtomicU64,
    /// Only addresses with a limit stand here, and only while they have a connection.
    by_address: Mutex<HashMap<IpAddr, u32>>,
    /// Whom to wake when the relay stops.
    roll: Mutex<HashMap<u64, Weak<Outbox>>>,
    /// Names the next visitor.
    next: AtomicU64,
}

/// One admitted connection; leaves on drop.
struct Visitor {
    doors: Arc<Doors>,
    number: u64,
    counted: Option<IpAddr>,
}

impl Visitor {
    /// It is a session now, which must hear when the relay stops.
    fn enroll(&self, outbox: &Arc<Outbox>) {
        self.doors.roll.lock().insert(self.number, Arc::downgrade(outbox));
    }
}

impl Doors {
    /// Connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        settings: &Connections,
        rate: &Buckets,
        now: u64,
    ) -> Option<Visitor> {
        if self.open() >= u64::from(settings.total) {
            return None;
        }
        let address = neighbourhood(address);
        if !address.is_loopback() && rate.take(address, now).is_err() {
            return None;
        }
        let most = if address.is_loopback() { settings.per_loopback_address } else { settings.per_address };
        if most > 0 {
            let mut by_address = self.by_address.lock();
            let count = by_address.entry(address).or_insert(0);
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some(Visitor { doors: self.clone(), number, counted: (most > 0).then_some(address) })
    }

    /// Every session looks whether the relay is stopping.
    fn wake_all(&self) {
        let roll: Vec<_> = self.roll.lock().values().filter_map(Weak::upgrade).collect();
        roll.iter().for_each(|outbox| outbox.wake());
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.doors.open.fetch_sub(1, Ordering::Relaxed);
        self.doors.roll.lock().remove(&self.number);
        let Some(address) = self.counted else { return };
        let mut by_address = self.doors.by_address.lock();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

impl Listener {
    pub(crate) fn new(
        tcp: TcpListener,
        config: &Config,
        context: Arc<Context>,
        clock: SystemClock,
        drain: watch::Receiver<bool>,
    ) -> Result<Self, TlsError> {
        let tls = match (&config.tls.certificate, &config.tls.key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            _ => None,
        };
        let settings = config.connections.clone();
        let surroundings = Arc::new(Surroundings {
            clock,
            budget: context.budget.clone(),
            frame_bytes: context.limits.frame_bytes as usize,
            idle: Duration::from_secs(context.limits.idle_seconds.into()),
            stalled: Duration::from_secs(settings.stalled_seconds.into()),
        });
        let handshakes = Handshakes::new(settings.handshakes as usize);
        let doors = Arc::default();
        Ok(Self {
            tcp,
            shared: Arc::new(Shared { tls, context, surroundings, settings, drain, doors, handshakes }),
        })
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
                    Ok((stream, address)) => admit(&shared, stream, address, &mut connections),
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

fn admit(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr, connections: &mut JoinSet<()>) {
    let now = shared.surroundings.clock.millis();
    match shared.doors.admit(address.ip(), &shared.settings, &shared.context.rates.connects, now) {
        Some(visitor) => shared.handshakes.begin(now, |handshake| {
            connections.spawn(serve(shared.clone(), stream, address.ip(), visitor, handshake))
        }),
        // Refusals are bounded too: beyond that the connection is just dropped.
        None if (connections.len() as u64) < u64::from(shared.settings.total) + 64 => {
            let shared = shared.clone();
            connections.spawn(async move { turn_away(&shared, stream).await });
        }
        None => {}
    }
}

async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: IpAddr,
    visitor: Visitor,
    handshake: Handshake,
) {
    // Boxed, and dropped before the connection begins: what the handshake needs shall not stay with the
    // connection for the rest of its life.
    let welcomed = Box::pin(welcome(shared, stream, address, &visitor, handshake)).await;
    if let Some(connection) = welcomed {
        connection.await;
    }
    drop(visitor);
}

async fn turn_away(shared: &Shared, mut stream: TcpStream) {
    tracing::debug!("a connection over the cap was refused");
    if shared.tls.is_none() {
        // What becomes of it is the client's concern.
        let _ = timeout(REFUSAL, async {
            stream.write_all(http::FULL).await?;
            stream.shutdown().await
        })
        .await;
    }
}

/// A connection, whatever its socket.
type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn welcome(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: IpAddr,
    visitor: &Visitor,
    handshake: Handshake,
) -> Option<Served> {
    // Over when this returns, however it does.
    let _handshake = handshake;
    // Frames are gathered by us; the kernel shall not wait for more.
    let _ = stream.set_nodelay(true);
    match &shared.tls {
        None => upgrade(&shared, stream, address, visitor).await,
        Some(acceptor) => {
            let stream = timeout(shared.handshake(), acceptor.accept(stream)).await.ok()?.ok()?;
            upgrade(&shared, stream, address, visitor).await
        }
    }
}

async fn upgrade<S>(shared: &Shared, stream: S, address: IpAddr, visitor: &Visitor) -> Option<Served>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgraded = timeout(shared.handshake(), http::serve(stream, shared.context.clone())).await.ok()??;
    let surroundings = shared.surroundings.clone();
    let clock = &surroundings.clock;
    let now = Now { unix_seconds: clock.unix_seconds(), millis: clock.millis() };
    let session = Session::new(shared.context.clone(), Some(address), now);
    visitor.enroll(session.shared_outbox());
    Some(Box::pin(Connection::new(upgraded.io, upgraded.read, session, surroundings)))
}

impl Shared {
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
    use crate::command::rate::Rate;

    #[test]
    fn doors_count_and_forget() {
        let doors = Arc::new(Doors::default());
        let settings = Connections { total: 3, per_address: 1, ..Config::default().connections };
        let far: IpAddr = "192.0.2.1".parse().expect("address");
        let near: IpAddr = "127.0.0.1".parse().expect("address");
        let rate = Buckets::new(Rate::new(2, 60, 2), 10);
        let admit = |address| doors.admit(address, &settings, &rate, 0);
        let first = admit(far).expect("room");
        assert!(admit(far).is_none(), "one per address");
        let others = [admit(near).expect("room"), admit(near).expect("room")];
        assert!(admit(near).is_none(), "three in all");
        drop(others);
        drop(first);
        assert_eq!(doors.open(), 0);
        assert!(admit(far).is_none(), "two attempts a minute");
        assert!(admit(near).is_some(), "loopback is not counted");
        assert!(doors.by_address.lock().is_empty());
    }
}
