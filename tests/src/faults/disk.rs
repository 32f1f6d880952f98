//! Disk: it runs full, fails, or can only be read. Posts are refused with a code and reads go on; or the
//! relay stops, when nothing that the disk says can be believed any more. Afterwards what was answered is
//! there, without anybody's help.
//!
//! The full disk is a small file system of its own (`tmpfs`), and the read-only one a file system (`ext4` on
//! a loop device) that is told of an error. Both need the right to mount, and are skipped without it. Errors
//! of single operations come from the [`shim`](super::shim).

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{Refusal, ServerBody};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rustix::process::Signal;

use super::book::{Book, Fate};
use super::image::{Model, Record};
use super::kill::SMALL;
use super::load::{self, Plan};
use super::shim::{EIO, ENOSPC, EROFS, Shim};
use super::{Run, Tally, now, power, verify};
use crate::mailbox::post_id;
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::{PATIENCE, Wire};

/// What a relay says before it stops because of its disk.
const LAST_WORD: &str = "the disk failed";

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    match Mount::tmpfs(96) {
        Ok(mount) => tally.count("disk full: refused, read, restarted, recovered", full(run, mount).await),
        Err(error) => Tally::skip("disk full", &format!("{error:#}")),
    }
    let rounds = if run.long { 150 } else { 5 };
    tally.count(&format!("disk: {rounds} failing syncs, seed {}", run.seed), syncs(run, rounds).await);
    for (name, errno) in [("EIO", EIO), ("ENOSPC", ENOSPC), ("EROFS", EROFS)] {
        tally.count(&format!("disk: every write fails with {name}"), writes(run, errno).await);
    }
    match Mount::ext4() {
        Ok(mount) => {
            tally.count("disk read-only after an error of its file system", read_only(run, mount).await)
        }
        Err(error) => Tally::skip("disk read-only", &format!("{error:#}")),
    }
}

/// A mounted file system of our own, which is unmounted when this is dropped.
struct Mount {
    path: tempfile::TempDir,
    /// The file behind a loop device.
    image: Option<PathBuf>,
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Mount {
    fn tmpfs(mebibytes: u32) -> anyhow::Result<Self> {
        let path = tempfile::tempdir()?;
        must(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"])
                .arg(path.path()),
        )?;
        Ok(Self { path, image: None })
    }

    fn ext4() -> anyhow::Result<Self> {
        let path = tempfile::tempdir()?;
        let image = path.path().with_extension("img");
        File::create(&image)?.set_len(96 << 20)?;
        must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mount = Self { path, image: Some(image) };
        mount.mount()?;
        Ok(mount)
    }

    fn mount(&self) -> anyhow::Result<()> {
        let image = self.image.as_ref().context("it is on a loop device")?;
        must(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(image).arg(self.path.path()))
    }

    fn unmount(&self) -> anyhow::Result<()> {
        must(Command::new("umount").arg(self.path.path()))
    }

    fn data(&self) -> PathBuf {
        self.path.path().join("data")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, because a relay that is being killed may still run.
        let _ = Command::new("umount").arg("-l").arg(self.path.path()).output();
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

fn options(data: &Path, headroom: u64) -> Vec<String> {
    let own = [format!("data={}", data.display()), format!("store.headroom_bytes={headroom}")];
    let own = own.into_iter().flat_map(|set| ["--set".to_owned(), set]);
    SMALL.iter().map(|word| (*word).to_owned()).chain(own).collect()
}

async fn start(program: &RelayProgram, data: &Path, headroom: u64) -> anyhow::Result<RelayProcess> {
    let options = options(data, headroom);
    RelayProcess::start(program, &options.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Fills the disk with posts, then with a file of somebody else; then makes room again.
async fn full(run: &Run, mount: Mount) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut relay = start(&RelayProgram::new(&run.relay), &mount.data(), 6 << 20).await?;
    let book = Arc::new(Book::default());
    load::prepare(&relay.url(), &book, run.seed).await?;
    // Nobody acknowledges, so mailboxes may run full, too.
    let tolerated = &[ErrorCode::StoreUnavailable, ErrorCode::MailboxFull];
    let plan = Plan { lengths: 8_000..60_000, lag: u64::MAX / 2, tolerated, ..Plan::default() };
    let mut load = load::start(&relay.url(), &book, &plan, run.seed);
    let refused = || {
        let pages = book.pages();
        pages
            .shelves
            .iter()
            .flat_map(|shelf| shelf.posts.values())
            .filter(|sent| sent.fate == Fate::Refused)
            .count()
    };
    let until = now() + 4 * PATIENCE;
    while refused() < 200 {
        ensure!(now() < until, "the disk does not run full");
        relay.alive()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Some(ended) = load.try_join_next() {
        ended??;
    }
    load.shutdown().await;
    refused_clearly(&relay, &book, &mut rng).await?;
    let seen =
        verify::on_wire(&relay.url(), &book, &mut rng).await.context("reading while the disk is full")?;

    // Takes the headroom as well, so that nothing at all can be written.
    let filler = mount.path.path().join("filler");
    fill(&filler)?;
    refused_clearly(&relay, &book, &mut rng).await.context("without any space")?;
    verify::on_wire(&relay.url(), &book, &mut rng).await.context("reading without any space")?;
    relay.alive()?;

    relay.kill().await?;
    let started = match relay.restart().await {
        Ok(()) => {
            verify::on_wire(&relay.url(), &book, &mut rng)
                .await
                .context("after a start without any space")?;
            std::fs::remove_file(&filler)?;
            "started without any space"
        }
        Err(error) => {
            ensure!(
                format!("{error:#}").contains("the disk is full"),
                "a start without any space: {error:#}"
            );
            let _ = relay.kill().await;
            std::fs::remove_file(&filler)?;
            relay.restart().await.context("when there is space again")?;
            "a start without any space says so"
        }
    };
    // Only by acknowledging, while the relay runs.
    verify::acknowledge_all(&relay.url(), &book).await.context("acknowledging on a full disk")?;
    let took = until_posted(&relay, &book, &mut rng).await?;
    let plan = Plan { lengths: 64..4000, tolerated, ..Plan::default() };
    let load = load::start(&relay.url(), &book, &plan, run.seed + 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    relay.kill().await?;
    load::finish(load).await?;
    relay.restart().await?;
    verify::on_wire(&relay.url(), &book, &mut rng).await.context("after all")?;
    relay.kill().await?;
    Ok(format!(
        "{} posts refused as STORE_UNAVAILABLE or MAILBOX_FULL, {} envelopes read meanwhile; {started}; posts taken again {} ms after \
         everything was acknowledged",
        refused(),
        seen.envelopes,
        took.as_millis()
    ))
}

fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    for block in [1 << 20, 4096] {
        while file.write_all(&vec![7; block]).is_ok() {}
    }
    Ok(())
}

/// Posts to the common mailbox, and returns the answer.
async fn post(relay: &RelayProcess, book: &Book, rng: &mut ChaCha20Rng) -> anyhow::Result<ServerBody> {
    let mut wire = Wire::connect(&relay.url()).await?;
    let id = post_id(rng);
    let keys = book.pages().shelves[0].keys[0].clone();
    let sent = super::book::Sent { generation: 0, turned_to: None, len: 5000, fate: Fate::Open, seq: None };
    {
        let mut pages = book.pages();
        pages.shelves[0].posts.insert(id, sent);
        pages.shelves[0].order.push(id);
    }
    let body = wire.ask(keys.posting(id, super::book::envelope(&id, sent.len))).await?;
    let answered = book.answered();
    let mut pages = book.pages();
    let sent = pages.shelves[0].posts.get_mut(&id).context("it was just put there")?;
    match &body {
        ServerBody::Posted { seq } => (sent.seq, sent.fate) = (Some(*seq), answered),
        _ => sent.fate = Fate::Refused,
    }
    Ok(body)
}

/// Posts until a post is refused, and checks how. A few may be accepted before: a relay on a full disk goes
/// on making room.
async fn refused_clearly(relay: &RelayProcess, book: &Book, rng: &mut ChaCha20Rng) -> anyhow::Result<()> {
    let begun = now();
    loop {
        match post(relay, book, rng).await? {
            ServerBody::Error(Refusal {
                code: Some(ErrorCode::StoreUnavailable),
                message,
                retry_after_ms,
                ..
            }) => {
                ensure!(
                    !message.is_empty() && retry_after_ms > 0,
                    "what to do: {message:?}, {retry_after_ms} ms"
                );
                return Ok(());
            }
            ServerBody::Posted { .. } if begun.elapsed() < PATIENCE => {}
            other => bail!("a post to a full disk: {other:?}"),
        }
    }
}

/// Posts until a post is accepted. Returns how long that took.
async fn until_posted(relay: &RelayProcess, book: &Book, rng: &mut ChaCha20Rng) -> anyhow::Result<Duration> {
    let begun = now();
    loop {
        match post(relay, book, rng).await? {
            ServerBody::Posted { .. } => return Ok(begun.elapsed()),
            other => ensure!(begun.elapsed() < PATIENCE, "still refused: {other:?}"),
        }
    }
}

/// Rounds of failing syncs on one folder: the record of what is written grows by 150 MB with each.
const RECORDED: u32 = 10;

/// A relay that runs under the shim.
struct Shimmed {
    shim: Shim,
    relay: RelayProcess,
    root: PathBuf,
    book: Arc<Book>,
    rng: ChaCha20Rng,
    _data: tempfile::TempDir,
}

impl Shimmed {
    async fn start(run: &Run) -> anyhow::Result<Self> {
        let (shim, data) = (Shim::new()?, tempfile::tempdir()?);
        let root = data.path().join("data");
        let relay = start(&shim.program(&run.relay, &root), &root, 0).await?;
        let book = Arc::new(Book::new(shim.mark()));
        load::prepare(&relay.url(), &book, run.seed).await?;
        Ok(Self { shim, relay, root, book, rng: ChaCha20Rng::seed_from_u64(run.seed), _data: data })
    }

    /// Runs a load. When something fails, the relay must end by itself and say why. If it goes on after that,
    /// the fault is asked for again, because it may have hit the index, which is then thrown away and begun
    /// anew.
    async fn load_until_it_ends(
        &mut self,
        seed: u64,
        fail: impl Fn(&Shim) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let load = load::start(&self.relay.url(), &self.book, &Plan { lag: 10, ..Plan::default() }, seed);
        let before = self.shim.syncs()?;
        let until = now() + PATIENCE;
        while self.shim.syncs()? < before + 5 {
            ensure!(now() < until, "the relay does not sync");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let until = now() + PATIENCE;
        while self.relay.alive().is_ok() {
            let failed = self.shim.failed()?;
            fail(&self.shim)?;
            let (mut came, mut again) = (false, until);
            while now() < again && self.relay.alive().is_ok() {
                if !came && self.shim.failed()? > failed {
                    (came, again) = (true, now() + Duration::from_secs(2));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ensure!(now() < until || self.relay.alive().is_err(), "the relay does not end");
        }
        let (status, said) = self.relay.ended().await?;
        load::finish(load).await?;
        ensure!(
            !status.success() && said.contains(LAST_WORD),
            "the relay ended with {status}, saying:\n{said}"
        );
        ensure!(!said.contains("panicked"), "{said}");
        Ok(())
    }
}

/// Rule 19: a failed sync is fatal for what it covered. No power cut may take away what the next start
/// serves, although the page cache shows it what the failed sync never wrote.
async fn syncs(run: &Run, rounds: u32) -> anyhow::Result<String> {
    let mut all = Shimmed::start(run).await?;
    let (mut failed, mut images, mut failed_starts) = (0, 0, 0);
    for round in 0..rounds {
        let context = || format!("round {round}");
        if round > 0 && round.is_multiple_of(RECORDED) {
            failed += all.shim.failed()?;
            all.relay.kill().await?;
            all = Shimmed { rng: all.rng, ..Shimmed::start(run).await? };
        }
        let n = all.rng.random_range(1..60);
        let seed = run.seed + u64::from(round);
        all.load_until_it_ends(seed, |shim| shim.fail_sync_in(n)).await.with_context(context)?;
        all.shim.fail_sync_in(0)?;
        // Syncs fail during the start, too.
        while all.rng.random_range(0..2) == 0 {
            all.shim.fail_sync_in(all.rng.random_range(1..6))?;
            match all.relay.restart().await {
                // By itself: SIGKILL may come between an operation and its record, or tear the record.
                Ok(()) => {
                    all.relay.signal(Signal::TERM)?;
                    all.relay.ended().await?;
                }
                Err(_) => {
                    failed_starts += 1;
                    let (status, said) = all.relay.ended().await?;
                    ensure!(
                        !status.success() && !said.contains("panicked"),
                        "{}: {status}: {said}",
                        context()
                    );
                }
            }
            all.shim.fail_sync_in(0)?;
        }
        all.relay.restart().await.with_context(context)?;
        verify::on_wire(&all.relay.url(), &all.book, &mut all.rng).await.with_context(context)?;
        let told = std::fs::read_to_string(all.root.join("damage")).unwrap_or_default();
        ensure!(told.is_empty(), "{}: a start found damage: {told}", context());
        let mark = (all.shim.mark())();
        let record = Record::read(&all.shim.record(), &all.root)?;
        let ops = record.ops.iter().take_while(|op| op.end <= mark).count();
        let mut model = Model::default();
        model.play(&record, ops);
        for _ in 0..4 {
            let target = tempfile::tempdir()?;
            model.image(target.path(), &mut all.rng)?;
            let (book, path) = (all.book.clone(), target.path().to_owned());
            let opened = tokio::task::spawn_blocking(move || power::open(&path, &book, mark)).await?;
            opened
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("round {round}: the power went after the restart"))?;
            images += 1;
        }
    }
    failed += all.shim.failed()?;
    all.relay.kill().await?;
    Ok(format!(
        "{failed} syncs failed, {failed_starts} of them ended a start; {images} images of power cuts afterwards"
    ))
}

/// From some moment on, everything that changes a file fails.
async fn writes(run: &Run, errno: u32) -> anyhow::Result<String> {
    let mut all = Shimmed::start(run).await?;
    all.load_until_it_ends(run.seed, |shim| shim.fail_writes(errno)).await?;
    let refused = match all.relay.restart().await {
        Ok(()) => bail!("it starts on a disk that takes nothing"),
        Err(_) => all.relay.ended().await?.1,
    };
    let line = refused.lines().last().unwrap_or_default().to_owned();
    ensure!(
        line.starts_with("posthorn-server: "),
        "why it does not start is not told in one line:\n{refused}"
    );
    all.shim.fail_writes(0)?;
    all.relay.restart().await.context("when the disk works again")?;
    let seen = verify::on_wire(&all.relay.url(), &all.book, &mut all.rng).await?;
    all.relay.kill().await?;
    Ok(format!("it stopped, did not start, saying `{line}`, and has {} envelopes again", seen.envelopes))
}

/// The file system finds an error in itself, and can only be read from then on. What was answered before that
/// is there. Of a sync that is under way meanwhile, ext4 says that it went well, although it has thrown away
/// the transaction that the sync needed (docs/reliability.md): what was answered later may be lost.
async fn read_only(run: &Run, mount: Mount) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut relay = start(&RelayProgram::new(&run.relay), &mount.data(), 0).await?;
    let told = Arc::new(AtomicU64::new(0));
    let mark = Arc::clone(&told);
    let book = Arc::new(Book::new(move || mark.load(Ordering::SeqCst)));
    load::prepare(&relay.url(), &book, run.seed).await?;
    let load = load::start(&relay.url(), &book, &Plan::default(), run.seed);
    let trigger = trigger_of(mount.path.path())?;
    tokio::time::sleep(Duration::from_millis(rng.random_range(100..500))).await;
    told.store(1, Ordering::SeqCst);
    std::fs::write(&trigger, "1").context("telling ext4 of an error")?;
    let (status, said) = relay.ended().await?;
    load::finish(load).await?;
    book.cut(0);
    ensure!(!status.success() && said.contains(LAST_WORD), "the relay ended with {status}, saying:\n{said}");
    match relay.restart().await {
        Ok(()) => bail!("it starts on a read-only disk"),
        Err(_) => {
            ensure!(
                relay.ended().await?.1.contains("Read-only file system"),
                "why it does not start is not told"
            )
        }
    }
    mount.unmount()?;
    // Mounting replays the file system's own journal, as after every error.
    mount.mount()?;
    relay.restart().await.context("when the disk can be written again")?;
    let seen = verify::on_wire(&relay.url(), &book, &mut rng).await?;
    relay.kill().await?;
    Ok(format!("it stopped, did not start, and has {} envelopes when it can write again", seen.envelopes))
}

/// The file by which ext4 is told of an error, for the device that is mounted here.
fn trigger_of(path: &Path) -> anyhow::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let here = path.to_str().context("a path of text")?;
    let device = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let device = words.next()?;
        (words.next()? == here).then(|| device.trim_start_matches("/dev/").to_owned())
    });
    Ok(PathBuf::from(format!("/sys/fs/ext4/{}/trigger_fs_error", device.context("it is not mounted")?)))
}
