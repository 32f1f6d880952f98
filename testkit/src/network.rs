//! What lies between clients and relay: a TCP proxy on loopback that can be made bad on purpose.
//!
//! What happens to a connection is drawn from the seed and the connection's number alone, not from when
//! anything happens, so that a seed that failed once means the same connections the next time. How the bytes
//! fall into the connections depends on the machine, as everything on real sockets does; the simulation in
//! this project's `tests/` is what replays exactly.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are passed on at once, at most.
const CHUNK: usize = 16 * 1024;

/// How bad the network is. Take [`Faults::seeded`] and change what the test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// What everything is drawn from. Print it when a test fails.
    pub seed: u64,
    /// How many of a hundred connections are refused.
    pub refused: u32,
    /// How many of a hundred connections are cut.
    pub cut: u32,
    /// A connection is cut before it has carried so many bytes, both ways together: anywhere, also within a
    /// frame, and between a request and its answer.
    pub cut_within: u64,
    /// Each piece waits up to this long.
    pub delay: Duration,
}

impl Faults {
    /// A network as on a train: of ten connections two are refused, four are cut within 32 KiB, all are slow.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, refused: 20, cut: 40, cut_within: 32 * 1024, delay: Duration::from_millis(20) }
    }

    fn plan(&self, connection: u64) -> Plan {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
        rng.set_stream(connection);
        let fate = rng.random_range(0..100);
        let cut_after = rng.random_range(0..self.cut_within.max(1));
        let delay = self.delay.mul_f64(rng.random_range(0.0..=1.0));
        let is_cut = fate >= self.refused && fate < self.refused.saturating_add(self.cut);
        Plan { refused: fate < self.refused, cut_after: is_cut.then_some(cut_after), delay }
    }
}

/// What is to happen to one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Plan {
    refused: bool,
    cut_after: Option<u64>,
    delay: Duration,
}

/// What the tasks are told.
#[derive(Debug, Clone, Copy)]
struct Orders {
    /// The relay; none while it is stopped.
    relay: Option<SocketAddr>,
    refuse: bool,
    /// Raised when all connections are to end.
    cuts: u64,
    faults: Option<Faults>,
}

/// The way from the clients to the relay. All connections end when it is dropped.
#[derive(Debug)]
pub struct Network {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    begun: watch::Receiver<u64>,
    _gate: JoinSet<()>,
}

impl Network {
    pub(crate) async fn start(relay: SocketAddr) -> Self {
        let listening = async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let address = listener.local_addr()?;
            Ok::<_, std::io::Error>((listener, address))
        };
        let (listener, address) = listening.await.unwrap_or_else(|error| panic!("no free port: {error}"));
        let orders = Orders { relay: Some(relay), refuse: false, cuts: 0, faults: None };
        let (orders, told) = watch::channel(orders);
        let (count, begun) = watch::channel(0);
        let mut gate = JoinSet::new();
        gate.spawn(accept(listener, told, count));
        Self { address, orders, begun, _gate: gate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, relay: Option<SocketAddr>) {
        self.orders.send_modify(|orders| orders.relay = relay);
    }

    /// Cuts every connection now. Clients connect again by themselves.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Cuts every connection and takes no others, until [`Network::heal`].
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| (orders.refuse, orders.cuts) = (true, orders.cuts + 1));
    }

    /// Connections that begin from now on fare like this; those that are there are cut.
    pub fn faults(&self, faults: Faults) {
        self.orders.send_modify(|orders| (orders.faults, orders.cuts) = (Some(faults), orders.cuts + 1));
    }

    /// Everything is well from now on, for connections that are there and were to be cut later, too: they
    /// begin anew.
    pub fn heal(&self) {
        self.orders.send_modify(|orders| {
            orders.cuts += u64::from(orders.faults.is_some());
            (orders.refuse, orders.faults) = (false, None);
        });
    }

    /// How many connections clients have begun, those that were refused included.
    pub fn begun(&self) -> u64 {
        *self.begun.borrow()
    }
}

async fn accept(listener: TcpListener, told: watch::Receiver<Orders>, count: watch::Sender<u64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Whoever is not let in tries again.
                let Ok((client, _)) = accepted else { continue };
                let number = *count.borrow();
                count.send_replace(number + 1);
                connections.spawn(connection(client, number, told.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until it ends, or its end is ordered.
async fn connection(client: TcpStream, number: u64, mut told: watch::Receiver<Orders>) {
    let orders = *told.borrow();
    let plan = orders.faults.map_or(Plan::default(), |faults| faults.plan(number));
    let Some(relay) = orders.relay.filter(|_| !orders.refuse && !plan.refused) else { return };
    let cut = told.wait_for(|now| now.cuts != orders.cuts);
    let carried = async {
        let relay = TcpStream::connect(relay).await?;
        // Pieces go on as they come: the delays are to be the plan's.
        client.set_nodelay(true)?;
        relay.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_relay, to_relay) = relay.into_split();
        let left = AtomicU64::new(plan.cut_after.unwrap_or(u64::MAX));
        tokio::try_join!(
            pass_on(from_client, to_relay, &left, plan.delay),
            pass_on(from_relay, to_client, &left, plan.delay),
        )
    };
    // However it ends, both sockets are closed with this function.
    tokio::select! {
        _ = carried => {}
        _ = cut => {}
    }
}

/// One direction. An error ends both.
async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    left: &AtomicU64,
    delay: Duration,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let got = from.read(&mut chunk).await?;
        if got == 0 {
            return to.shutdown().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // Both directions take from it, but in one task: nothing comes between load and store.
        let may = left.load(Ordering::Relaxed);
        let passed = usize::try_from(may).unwrap_or(usize::MAX).min(got);
        left.store(may - passed as u64, Ordering::Relaxed);
        to.write_all(&chunk[..passed]).await?;
        if passed < got {
            return Err(std::io::Error::other("cut"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connections_fate_is_drawn_from_the_seed_and_its_number() {
        let faults = Faults::seeded(7);
        let plans = |faults: Faults| (0..200).map(|number| faults.plan(number)).collect::<Vec<_>>();
        assert_eq!(plans(faults), plans(faults));
        assert_ne!(plans(faults), plans(Faults::seeded(8)));
        let refused = plans(faults).iter().filter(|plan| plan.refused).count();
        let cut = plans(faults).iter().filter(|plan| plan.cut_after.is_some()).count();
        assert!((20..60).contains(&refused) && (55..105).contains(&cut), "{refused} refused, {cut} cut");
        let is_within = |plan: &Plan| plan.cut_after.is_none_or(|at| at < 32 * 1024);
        assert!(plans(faults).iter().all(is_within));
        let none = Faults { refused: 0, cut: 0, delay: Duration::ZERO, ..faults };
        assert!(plans(none).iter().all(|plan| *plan == Plan::default()));
        let all = Faults { refused: 0, cut: 100, cut_within: 0, ..faults };
        assert!(plans(all).iter().all(|plan| plan.cut_after == Some(0)));
    }
}
