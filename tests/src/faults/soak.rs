//! Soak: posts, deliveries, acknowledgements and expiry at a steady rate. Disk and memory must stay flat, and
//! once everything is acknowledged the space must come back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::frame::{Request, ServerBody, ServerFrame};
use posthorn_server::admin::{self, Answer, Ask};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;

use super::{Run, Tally, now};
use crate::mailbox::{BareDevice, BareMailbox, post_id};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::{Heard, Wire};

/// Pairs of a poster and a reader.
const PAIRS: usize = 8;
/// Posts of each pair, per second.
const RATE: u64 = 25;
/// How long a reader that acknowledges nothing is silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Length of an envelope, in bytes.
const ENVELOPE: usize = 1024;
/// Expiry of the mailboxes, in seconds. What nobody acknowledges does expire, in every fourth pair.
const EXPIRY: u32 = 60;
/// How long the relay remembers post ids here, in seconds: the shortest time that can be set.
const REMEMBERED: u64 = 60;
/// Envelopes that are stored at the end, to be acknowledged all at once.
const PILE: u64 = 6000;
const SEGMENT: u64 = 1 << 20;
/// How long the space may take to come back.
const BACK: Duration = Duration::from_secs(100);

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let minutes = run.minutes.unwrap_or(if run.long { 60 } else { 0 });
    let time = if minutes == 0 { Duration::from_secs(35) } else { Duration::from_secs(60 * minutes) };
    let posts = PAIRS as u64 * RATE;
    tally.count(&format!("soak: {} s at {posts} posts a second", time.as_secs()), soak(run, time).await);
}

/// What was measured at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    journal: u64,
    folder: u64,
    memory: u64,
}

async fn soak(run: &Run, time: Duration) -> anyhow::Result<String> {
    let remembered = format!("store.post_id_seconds={REMEMBERED}");
    let segment = format!("store.segment_bytes={SEGMENT}");
    let fresh = format!("store.post_id_fresh_seconds={REMEMBERED}");
    let mut options = vec!["--no-rates", "--open-registration", "--set", "store.checkpoint_bytes=4194304"];
    options.extend(["--set", &remembered, "--set", &fresh, "--set", &segment]);
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), &options).await?;
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let device = BareDevice::new(&mut rng);
    let mut account = relay.connect().await?;
    device.register(&mut account, "soak", "").await?;
    let mut pairs = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for pair in 0..PAIRS {
        let token = device.draw(&mut account, 1, &mut rng).await?.remove(0);
        let mailbox = BareMailbox::new(&mut rng);
        let mut poster = relay.connect().await?;
        let forgetful = pair % 4 == 3;
        let mut creation = mailbox.creation(token, 0);
        // A post is remembered for as long as it might be stored, even where everything is acknowledged.
        if let Request::Create(create) = &mut creation {
            create.expiry = EXPIRY;
        }
        ensure!(matches!(poster.ask(creation).await?, ServerBody::Created), "a mailbox is created");
        let reader = relay.connect().await?;
        pairs.spawn(talk(mailbox, poster, reader, forgetful, stopped.clone(), run.seed + pair as u64));
    }
    let token = device.draw(&mut account, 1, &mut rng).await?.remove(0);
    let pile = BareMailbox::new(&mut rng);
    pile.create(&mut account, token).await?;
    drop(account);
    let samples = watch(&mut relay, time, &mut pairs).await?;
    stop.send_replace(true);
    let mut posts = 0;
    while let Some(pair) = pairs.join_next().await {
        posts += pair??;
    }
    let flat = judge(&samples, time)?;
    let high = pile_up(&relay, pile, rng).await?;
    let (left, took) = space_back(&relay, posts + PILE).await?;
    relay.stop().await?;
    Ok(format!(
        "{posts} posts; {flat}; with {PILE} more stored a journal of {} KiB, {} KiB {:.1} s after all was acknowledged",
        high >> 10,
        left >> 10,
        took.as_secs_f64()
    ))
}

/// One pair: posts at the rate, reads, and acknowledges unless it is a forgetful one, whose envelopes expire.
/// Once it is stopped, it acknowledges everything. Returns how many posts there were.
async fn talk(
    mailbox: BareMailbox,
    mut poster: Wire,
    mut reader: Wire,
    forgetful: bool,
    stopped: tokio::sync::watch::Receiver<bool>,
    seed: u64,
) -> anyhow::Result<u64> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    mailbox.open(&mut reader, u32::MAX).await?;
    // The ticks are the load that is asked for; nothing is waited for.
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / RATE));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut seq, mut said) = (0, now());
    while !*stopped.borrow() {
        ticks.tick().await;
        seq = mailbox.append(&mut poster, post_id(&mut rng), vec![3; ENVELOPE]).await?;
        match reader.pushed().await? {
            ServerBody::Delivery(delivery) => {
                ensure!(delivery.seq == seq, "{} instead of {seq}", delivery.seq)
            }
            other => bail!("{other:?}"),
        }
        if !forgetful && seq % 5 == 0 {
            acknowledge(&mailbox, &mut reader, seq).await?;
        } else if said.elapsed() > SILENCE {
            // A connection that says nothing would be taken for gone.
            said = now();
            ensure!(matches!(reader.ask(Request::Ping).await?, ServerBody::Done), "a ping is answered");
        }
    }
    acknowledge(&mailbox, &mut reader, seq).await?;
    Ok(seq)
}

async fn acknowledge(mailbox: &BareMailbox, reader: &mut Wire, seq: u64) -> anyhow::Result<()> {
    match reader.ask(mailbox.acknowledgement(seq, 0)).await? {
        ServerBody::Done => Ok(()),
        other => bail!("acknowledging: {other:?}"),
    }
}

async fn watch(
    relay: &mut RelayProcess,
    time: Duration,
    pairs: &mut JoinSet<anyhow::Result<u64>>,
) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let begun = now();
    let step = (time / 30).clamp(Duration::from_secs(1), Duration::from_secs(30));
    let mut ticks = tokio::time::interval(step);
    while begun.elapsed() < time {
        tokio::select! {
            _ = ticks.tick() => {}
            ended = pairs.join_next() => bail!("a pair ended: {ended:?}"),
        }
        relay.alive()?;
        let sample =
            Sample { journal: journal(relay).await?, folder: size(relay.data())?, memory: relay.memory()? };
        if time > Duration::from_secs(300) {
            println!("     {:6} s  {sample:?}", begun.elapsed().as_secs());
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// Whether everything stayed flat: within bounds that follow from what is alive, and in a long run no higher
/// in the second half than in the first.
fn judge(samples: &[Sample], time: Duration) -> anyhow::Result<String> {
    let most = |of: &dyn Fn(&Sample) -> u64, part: &[Sample]| part.iter().map(of).max().unwrap_or(0);
    let (journal, folder, memory): (_, _, &dyn Fn(&Sample) -> u64) =
        (|s: &Sample| s.journal, |s: &Sample| s.folder, &|s: &Sample| s.memory);
    // What is alive are two minutes of what expires after one, and twice as many remembered posts; half of
    // each segment may be dead.
    let forgotten = (PAIRS / 4) as u64 * RATE * 2 * u64::from(EXPIRY) * (ENVELOPE as u64 + 100);
    let remembered = PAIRS as u64 * RATE * 3 * REMEMBERED * 80;
    let bound = 2 * (forgotten + remembered) + 12 * SEGMENT;
    ensure!(
        most(&journal, samples) <= bound,
        "a journal of {} bytes, at most {bound} are needed",
        most(&journal, samples)
    );
    let text = format!(
        "journal at most {} MiB of {}, folder {} MiB, memory {} MiB",
        most(&journal, samples) >> 20,
        bound >> 20,
        most(&folder, samples) >> 20,
        most(memory, samples) >> 20
    );
    if time < Duration::from_secs(600) {
        return Ok(text);
    }
    // The first quarter is the way up to the level.
    let rest = &samples[samples.len() / 4..];
    let (first, second) = rest.split_at(rest.len() / 2);
    for (name, of, slack) in [
        ("journal", &journal as &dyn Fn(&Sample) -> u64, 4 * SEGMENT),
        ("folder", &folder, 24 << 20),
        ("memory", memory, 16 << 20),
    ] {
        let (before, after) = (most(of, first), most(of, second));
        ensure!(after <= before + before / 10 + slack, "{name} grew from {before} to {after} bytes");
    }
    Ok(format!("{text}, flat"))
}

/// Waits until what was acknowledged has given its space back, so that only remembered posts are left.
async fn space_back(relay: &RelayProcess, posts: u64) -> anyhow::Result<(u64, Duration)> {
    let bound = 2 * posts.min(PAIRS as u64 * RATE * 3 * REMEMBERED) * 80 + 4 * SEGMENT;
    let begun = now();
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let left = journal(relay).await?;
        if left <= bound {
            return Ok((left, begun.elapsed()));
        }
        ensure!(begun.elapsed() < BACK, "{left} bytes of journal are left, {bound} are needed at most");
    }
}

/// Stores many envelopes, and acknowledges them all at once. Returns how long the journal was before that, in
/// bytes.
async fn pile_up(relay: &RelayProcess, mailbox: BareMailbox, mut rng: ChaCha20Rng) -> anyhow::Result<u64> {
    let mut wire = relay.connect().await?;
    for _ in 0..PILE / 50 {
        for _ in 0..50 {
            wire.feed(mailbox.posting(post_id(&mut rng), vec![5; 4 * ENVELOPE])).await?;
        }
        wire.flush().await?;
        for _ in 0..50 {
            match wire.hear().await? {
                Heard::Frame(ServerFrame { body: ServerBody::Posted { .. }, .. }) => {}
                other => bail!("piling up: {other:?}"),
            }
        }
    }
    let high = journal(relay).await?;
    ensure!(high > PILE * 4 * ENVELOPE as u64, "{high} bytes for {PILE} envelopes");
    mailbox.open(&mut wire, u32::MAX).await?;
    for _ in 0..PILE {
        ensure!(matches!(wire.pushed().await?, ServerBody::Delivery(_)), "everything is delivered");
    }
    acknowledge(&mailbox, &mut wire, PILE).await?;
    Ok(high)
}

/// Length of the journal in bytes, according to the relay.
async fn journal(relay: &RelayProcess) -> anyhow::Result<u64> {
    let data = relay.data().to_owned();
    match tokio::task::spawn_blocking(move || admin::ask(&data, &Ask::Stats)).await?? {
        Answer::Stats(numbers) => Ok(numbers.disk_bytes),
        other => bail!("numbers: {other:?}"),
    }
}

/// Bytes of all files below a folder, without those that go in the meantime.
fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).context("the data folder")? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { size(&entry.path()).unwrap_or(0) } else { metadata.len() };
    }
    Ok(bytes)
}
