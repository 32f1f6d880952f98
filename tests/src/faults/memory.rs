//! Memory: every call in which the kernel may say that memory, descriptors, buffers or threads have run out,
//! once, a few times in a row, and for as long as it is asked. The relay may refuse meanwhile, and must serve
//! again by itself when it has passed, with everything that it answered. Of a file that could not be written
//! or synced nobody knows what it holds: there the relay may end, in words, and starts again.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::ErrorCode;
use posthorn_proto::frame::ServerBody;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::book::Book;
use super::descriptors::{newest, until_newest};
use super::kill::SMALL;
use super::load::{self, Plan};
use super::shim::{Calls, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, Shim};
use super::{Run, Tally, now, verify};
use crate::mailbox::{BareDevice, BareMailbox, post_id};
use crate::relay::RelayProcess;
use crate::wire::PATIENCE;

/// What a relay may answer while it lasts.
const TOLERATED: &[ErrorCode] = &[ErrorCode::StoreUnavailable, ErrorCode::MailboxFull, ErrorCode::Busy];
/// How often a call fails: once, a few times, and until it is over.
const TIMES: &[u32] = &[1, 30, u32::MAX];
/// What is a lot; then it is over.
const MANY: u32 = 60;
/// For how long it lasts if the call does not come so often.
const LASTS: Duration = Duration::from_millis(400);

/// A kind of call.
struct Case {
    name: &'static str,
    calls: Calls,
    errnos: &'static [u32],
    /// Whether the relay may end.
    ends: bool,
}

const fn case(name: &'static str, calls: Calls, errnos: &'static [u32], ends: bool) -> Case {
    Case { name, calls, errnos, ends }
}

const CASES: &[Case] = &[
    case("opening a file", Calls::OPENS, &[ENOMEM, EMFILE, ENFILE], false),
    case("reading a file", Calls::READS, &[ENOMEM], false),
    case("writing a file", Calls::WRITES, &[ENOMEM], true),
    case("syncing a file", Calls::SYNCS, &[ENOMEM], true),
    case("cutting a file", Calls::CUTS, &[ENOMEM], true),
    case("renaming a file", Calls::RENAMES, &[ENOMEM], false),
    case("removing a file", Calls::UNLINKS, &[ENOMEM], false),
    case("making a folder", Calls::MAKES, &[ENOMEM], false),
    case("listing a folder", Calls::LISTS, &[ENOMEM, EMFILE, ENFILE], false),
    case("looking at a file", Calls::LOOKS, &[ENOMEM], false),
    case("accepting", Calls::ACCEPTS, &[EMFILE, ENFILE, ENOMEM, ENOBUFS], false),
    case("watching a socket", Calls::WATCHES, &[ENOMEM], false),
    case("receiving", Calls::RECEIVES, &[ENOMEM, ENOBUFS], false),
    case("sending", Calls::SENDS, &[ENOMEM, ENOBUFS], false),
];

/// Calls of a start alone, beside those: what serves has its threads.
const OF_A_START: &[Case] = &[
    case("doubling a descriptor", Calls::DOUBLES, &[EMFILE, ENOMEM], true),
    case("starting a thread", Calls::THREADS, &[EAGAIN], true),
    case("making a socket", Calls::SOCKETS, &[EMFILE, ENFILE, ENOMEM, ENOBUFS], true),
    case("making an epoll", Calls::EVENTS, &[EMFILE, ENFILE, ENOMEM], true),
];

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    for case in CASES {
        tally.count(&format!("memory: {}", case.name), serving(run, case).await);
    }
    tally.count("memory: starts", starts(run).await);
}

/// A relay under the shim, and what it was asked.
struct Stage {
    shim: Shim,
    data: TempDir,
    relay: RelayProcess,
    book: Arc<Book>,
    rng: ChaCha20Rng,
}

impl Stage {
    async fn set(run: &Run) -> anyhow::Result<Self> {
        let (shim, data) = (Shim::new()?, tempfile::tempdir()?);
        let root = data.path().join("data");
        let folder = format!("data={}", root.display());
        let options = [SMALL, &["--set", &folder]].concat();
        let relay = RelayProcess::start(&shim.program(&run.relay, &root), &options).await?;
        let book = Arc::new(Book::default());
        load::prepare(&relay.url(), &book, run.seed).await?;
        Ok(Self { shim, data, relay, book, rng: ChaCha20Rng::seed_from_u64(run.seed) })
    }

    fn data(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// Calls fail under load, and not any more. Returns whether the relay ended because of it.
    async fn round(&mut self, case: &Case, errno: u32, times: u32) -> anyhow::Result<bool> {
        let plan = Plan { lengths: 8_000..60_000, lag: 10, tolerated: TOLERATED, ..Plan::default() };
        let load = load::start(&self.relay.url(), &self.book, &plan, self.rng.random());
        let data = self.data();
        let begun = newest(&data)?;
        until_newest(&mut self.relay, &data, begun + 2).await?;
        self.deny(case, errno, times).await?;
        let served = self.serves().await;
        let ended = self.relay.alive().is_err();
        if ended && case.ends {
            let (status, said) = self.relay.ended().await?;
            ensure!(is_in_words(status, &said), "{status}:\n{said}");
        } else {
            served?;
            let said = self.relay.said();
            ensure!(!self.data().join("damage").exists(), "damage was seen:\n{said}");
            ensure!(!said.contains("panicked"), "{said}");
            self.relay.kill().await?;
        }
        load::finish(load).await?;
        self.relay.restart().await?;
        verify::on_wire(&self.relay.url(), &self.book, &mut self.rng).await?;
        Ok(ended)
    }

    /// Some calls fail for a while.
    async fn deny(&mut self, case: &Case, errno: u32, times: u32) -> anyhow::Result<()> {
        let before = self.shim.failed()?;
        self.shim.deny(case.calls, errno, times)?;
        // Nothing is asked of the network while the load is busy with what it has.
        let mut knocks = Vec::new();
        let until = now() + LASTS;
        while now() < until && self.shim.failed()? - before < times.min(MANY) && self.relay.alive().is_ok() {
            knocks.extend(TcpStream::connect(self.relay.address()).await);
            // No event tells what another process is told by the kernel.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.shim.deny(Calls::NONE, 0, 0)
    }

    /// Somebody new is served through some segments, if not at once.
    async fn serves(&mut self) -> anyhow::Result<()> {
        let until = now() + PATIENCE;
        loop {
            match self.is_served().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.relay.alive()?;
                    ensure!(now() < until, "it does not serve again: {error:#}\n{}", self.relay.said());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn is_served(&mut self) -> anyhow::Result<()> {
        let mut wire = self.relay.connect().await?;
        let device = BareDevice::new(&mut self.rng);
        let handle = format!("h{:x}", self.rng.random::<u64>());
        device.register(&mut wire, &handle, "").await?;
        let tokens = device.draw(&mut wire, 1, &mut self.rng).await?;
        let mailbox = BareMailbox::new(&mut self.rng);
        let mut wire = self.relay.connect().await?;
        mailbox.create(&mut wire, tokens[0].clone()).await?;
        mailbox.open(&mut wire, 100).await?;
        for seq in 1..=40 {
            let envelope = vec![0; 60_000];
            let posted = mailbox.append(&mut wire, post_id(&mut self.rng), envelope).await?;
            ensure!(posted == seq, "{posted} instead of {seq}");
            match wire.pushed().await? {
                ServerBody::Delivery(delivery) if delivery.seq == seq => {}
                other => bail!("not delivered but {other:?}"),
            }
        }
        Ok(())
    }
}

/// Whether a relay ended by itself, and said why.
fn is_in_words(status: ExitStatus, said: &str) -> bool {
    status.code() == Some(1) && said.lines().any(|line| line.starts_with("posthorn-server: "))
}

/// A kind of call fails while the relay serves.
async fn serving(run: &Run, case: &Case) -> anyhow::Result<String> {
    let mut stage = Stage::set(run).await?;
    let mut ended = 0;
    let (errnos, times) = if run.long { (case.errnos, TIMES) } else { (&case.errnos[..1], &TIMES[1..]) };
    for (errno, times) in errnos.iter().flat_map(|errno| times.iter().map(|times| (*errno, *times))) {
        let context = || format!("errno {errno}, {times} times");
        ended += u32::from(stage.round(case, errno, times).await.with_context(context)?);
    }
    let failed = stage.shim.failed()?;
    ensure!(failed > 0, "there is no such call");
    stage.relay.kill().await?;
    Ok(format!("{failed} calls failed, {ended} times the relay ended in words"))
}

/// A kind of call fails while the relay starts: it starts, or says in one line why not.
async fn starts(run: &Run) -> anyhow::Result<String> {
    let mut stage = Stage::set(run).await?;
    stage.serves().await?;
    stage.relay.kill().await?;
    let (mut started, mut refused) = (0, 0);
    for case in CASES.iter().chain(OF_A_START) {
        let errnos = case.errnos.iter().flat_map(|errno| TIMES.iter().map(|times| (*errno, *times)));
        for (errno, times) in errnos {
            let context = || format!("{}, errno {errno}, {times} times", case.name);
            stage.shim.deny(case.calls, errno, times)?;
            match stage.relay.restart().await {
                Ok(()) => {
                    started += 1;
                    stage.shim.deny(Calls::NONE, 0, 0)?;
                    // It may have been too late for the start.
                    let _ = stage.relay.kill().await;
                }
                Err(_) => {
                    refused += 1;
                    stage.shim.deny(Calls::NONE, 0, 0)?;
                    let (status, said) = stage.relay.ended().await.with_context(context)?;
                    ensure!(is_in_words(status, &said), "{}: {status}:\n{said}", context());
                }
            }
            ensure!(!stage.data().join("damage").exists(), "{}: damage was seen", context());
        }
    }
    stage.relay.restart().await?;
    verify::on_wire(&stage.relay.url(), &stage.book, &mut stage.rng).await?;
    stage.relay.kill().await?;
    Ok(format!("{started} starts went well, {refused} were refused in words"))
}
