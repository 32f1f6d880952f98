//! Corrupt: files of the data folder are damaged while the relay is stopped. Bits are flipped, sectors
//! zeroed; files are cut, emptied, deleted, exchanged, or put back from an older copy. Then the relay is
//! started and examined.
//!
//! What must hold: it starts, or says in one line why not and what to do; nothing that it serves differs from
//! what was posted; what is lost is counted in its numbers; if anything but envelopes may be lost, it begins
//! a new incarnation; and the rest is served.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use posthorn_proto::frame::{Opened, Refusal, ServerBody};
use posthorn_proto::{ErrorCode, Incarnation, PostId};
use posthorn_server::admin::{self, Answer, Ask};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::book::{Book, Fate, Shelf, envelope};
use super::kill::SMALL;
use super::load::{self, Plan};
use super::power::copy;
use super::{Run, Tally, now, verify};
use crate::mailbox::numbered;
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::Wire;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    let cases = if run.long { 300 } else { 18 };
    for closed in [true, false] {
        let name = format!(
            "corrupt: {cases} damages after a {}, seed {}",
            if closed { "clean stop" } else { "kill" },
            run.seed
        );
        tally.count(&name, all(run, closed, cases).await);
    }
}

/// An intact store, which is damaged in copies.
struct Base {
    data: PathBuf,
    _folder: tempfile::TempDir,
    book: Arc<Book>,
    incarnation: Incarnation,
    identity: [u8; 32],
    /// An old copy of a segment that has been removed since.
    removed: Option<(String, Vec<u8>)>,
}

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Flip,
    Flips,
    Zeros,
    Cut,
    Empty,
    Delete,
    Swap,
    Back,
}

const HARMS: [Harm; 8] =
    [Harm::Flip, Harm::Flips, Harm::Zeros, Harm::Cut, Harm::Empty, Harm::Delete, Harm::Swap, Harm::Back];

/// One damage: of which kind, to which file, and where.
struct Case {
    harm: Harm,
    file: String,
    at: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} at {}", self.harm, self.file, self.at)
    }
}

/// What a damage has cost.
#[derive(Debug, Default)]
struct Loss {
    envelopes: usize,
    /// What is lost beside envelopes: mailboxes, keys, cursors, accounts.
    state: Vec<String>,
    served: usize,
}

fn options(data: &Path) -> Vec<String> {
    let own = ["--set".to_owned(), format!("data={}", data.display())];
    SMALL.iter().map(|word| (*word).to_owned()).chain(own).collect()
}

async fn start(run: &Run, data: &Path) -> anyhow::Result<RelayProcess> {
    let options = options(data);
    RelayProcess::start(
        &RelayProgram::new(&run.relay),
        &options.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await
}

async fn base(run: &Run, closed: bool) -> anyhow::Result<Base> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut relay = start(run, &data).await?;
    let book = Arc::new(Book::default());
    load::prepare(&relay.url(), &book, run.seed).await?;
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let mut copies = BTreeMap::new();
    for round in 0..3 {
        let plan = Plan { lengths: 64..16_000, lag: 60, ..Plan::default() };
        let load = load::start(&relay.url(), &book, &plan, run.seed + round);
        let until = now() + Duration::from_millis(900);
        while now() < until {
            for name in segments(&data)? {
                let bytes = std::fs::read(data.join(&name));
                copies.extend(bytes.ok().map(|bytes| (name, bytes)));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match (round, closed) {
            (2, true) => relay.stop().await?,
            _ => relay.kill().await?,
        }
        load::finish(load).await?;
        relay.restart().await?;
        verify::on_wire(&relay.url(), &book, &mut rng).await?;
    }
    let hello = relay.connect().await?.hello().clone();
    if closed {
        relay.stop().await?
    } else {
        relay.kill().await?
    }
    let present: BTreeSet<String> = segments(&data)?.into_iter().collect();
    let removed = copies.into_iter().find(|(name, bytes)| !present.contains(name) && bytes.len() > 10_000);
    let identity = hello.challenge.relay_identity.0;
    Ok(Base { data, _folder: folder, book, incarnation: hello.incarnation, identity, removed })
}

/// Names of the journal's segments in order, relative to the data folder.
fn segments(data: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data.join("journal"))? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.ends_with(".seg")));
    }
    names.sort();
    Ok(names.into_iter().map(|name| format!("journal/{name}")).collect())
}

async fn all(run: &Run, closed: bool, cases: u32) -> anyhow::Result<String> {
    let base = base(run, closed).await.context("making a store to damage")?;
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed.wrapping_add(7));
    let (mut reported, mut refused, mut harmless) = (0, 0, 0);
    let (mut lost, mut served, mut states) = (0, 0, 0);
    for number in 0..cases {
        let case = choose(&base, number, &mut rng)?;
        let work = tempfile::tempdir()?;
        let data = work.path().join("data");
        copy(&base.data, &data)?;
        harm(&base, &data, &case, &mut rng)?;
        let looked = look(run, &base, &data, &case, closed).await;
        match looked.with_context(|| format!("case {number}: {case}"))? {
            None => refused += 1,
            Some(loss) => {
                served += loss.served;
                lost += loss.envelopes;
                states += usize::from(!loss.state.is_empty());
                if loss.envelopes > 0 || !loss.state.is_empty() { reported += 1 } else { harmless += 1 }
            }
        }
    }
    Ok(format!(
        "{harmless} cost nothing, {reported} cost something, which was reported ({lost} envelopes; {states} times more than \
         envelopes), {refused} starts refused with a reason; {served} envelopes served, all right"
    ))
}

fn choose(base: &Base, number: u32, rng: &mut ChaCha20Rng) -> anyhow::Result<Case> {
    let segments = segments(&base.data)?;
    let harm = HARMS[number as usize % HARMS.len()];
    let other = ["index/1/db", "index/1/conf", "incarnation", "relay-identity.key"];
    let file = match (harm, &base.removed) {
        (Harm::Back, Some((name, _))) => name.clone(),
        (Harm::Swap, _) => segments.choose(rng).context("there are segments")?.clone(),
        _ if rng.random_range(0..4) == 0 => (*other.choose(rng).context("there are some")?).to_owned(),
        // The last segments are the ones that a start works on.
        _ if rng.random_range(0..3) == 0 => {
            segments[segments.len() - 1 - rng.random_range(0..2.min(segments.len()))].clone()
        }
        _ => segments.choose(rng).context("there are segments")?.clone(),
    };
    let len = std::fs::metadata(base.data.join(&file)).map_or(1, |metadata| metadata.len()).max(1);
    // Headers are at the beginning of a file.
    let at = if rng.random_range(0..4) == 0 {
        rng.random_range(0..len.min(300))
    } else {
        rng.random_range(0..len)
    };
    Ok(Case { harm, file, at })
}

fn harm(base: &Base, data: &Path, case: &Case, rng: &mut ChaCha20Rng) -> anyhow::Result<()> {
    let path = data.join(&case.file);
    let mut bytes = std::fs::read(&path).unwrap_or_default();
    let at = case.at as usize;
    match case.harm {
        Harm::Flip => bytes[at] ^= 1 << rng.random_range(0..8),
        Harm::Flips => (0..16).for_each(|_| {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }),
        Harm::Zeros => {
            let from = at / 512 * 512;
            let to = (from + 512).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Harm::Cut => bytes.truncate(at),
        Harm::Empty => bytes.clear(),
        Harm::Delete => return Ok(std::fs::remove_file(path)?),
        Harm::Swap => {
            let other = segments(data)?
                .into_iter()
                .find(|name| *name != case.file)
                .context("there are two segments")?;
            let parked = data.join("parked");
            std::fs::rename(&path, &parked)?;
            std::fs::rename(data.join(&other), &path)?;
            return Ok(std::fs::rename(parked, data.join(other))?);
        }
        Harm::Back => match &base.removed {
            Some((_, old)) => bytes.clone_from(old),
            None => return Ok(()),
        },
    }
    Ok(std::fs::write(path, bytes)?)
}

/// Starts a relay on a damaged folder. Returns what is lost, or `None` if the relay says why it does not
/// start.
async fn look(
    run: &Run,
    base: &Base,
    data: &Path,
    case: &Case,
    closed: bool,
) -> anyhow::Result<Option<Loss>> {
    let mut relay = match start(run, data).await {
        Ok(relay) => relay,
        Err(error) => {
            let said = format!("{error:#}");
            let reason = said.lines().rfind(|line| line.starts_with("posthorn-server: ")).unwrap_or_default();
            // Only damage that would make it another relay may stop it; for everything else there is a better
            // way.
            ensure!(
                case.file == "relay-identity.key" && reason.contains("restore it"),
                "it does not start: {said}"
            );
            return Ok(None);
        }
    };
    let loss = compare(&relay, base).await.map_err(|error| anyhow!("{error:#}\n{}", relay.said()))?;
    let hello = relay.connect().await?.hello().clone();
    let damaged = numbers(data).await?.damaged;
    let said = relay.said();
    ensure!(!said.contains("panicked"), "{said}");
    let lost = loss.envelopes > 0 || !loss.state.is_empty();
    let torn = !closed && said.contains("was cut off");
    ensure!(!lost || damaged > 0 || torn, "lost without a word: {loss:?}\n{said}");
    ensure!(!lost || torn || said.contains("what to do"), "nobody is told what to do:\n{said}");
    let renewed = hello.incarnation != base.incarnation;
    ensure!(loss.state.is_empty() || renewed || torn, "clients are not told: {loss:?}\n{said}");
    let identity = hello.challenge.relay_identity.0 != base.identity;
    ensure!(!identity || said.contains("identity"), "another identity without a word:\n{said}");
    if case.harm == Harm::Flip {
        ensure!(
            loss.served > loss.envelopes,
            "one bit cost {} envelopes, {} are left",
            loss.envelopes,
            loss.served
        );
    }
    // The next start knows what has been acted upon.
    relay.kill().await?;
    relay.restart().await.context("the second start")?;
    let again = relay.connect().await?.hello().incarnation;
    ensure!(again == hello.incarnation, "the second start begins a new incarnation again:\n{}", relay.said());
    ensure!(numbers(data).await?.damaged >= damaged, "the second start has forgotten");
    relay.kill().await?;
    Ok(Some(loss))
}

async fn numbers(data: &Path) -> anyhow::Result<admin::Numbers> {
    let data = data.to_owned();
    match tokio::task::spawn_blocking(move || admin::ask(&data, &Ask::Stats)).await?? {
        Answer::Stats(numbers) => Ok(numbers),
        other => bail!("numbers: {other:?}"),
    }
}

/// Compares everything that was answered with what the relay says now.
async fn compare(relay: &RelayProcess, base: &Base) -> anyhow::Result<Loss> {
    let mut loss = Loss::default();
    let mut wire = relay.connect().await?;
    let pages = base.book.pages().shelves.len();
    for shelf in 0..pages {
        compare_one(&mut wire, &base.book, shelf, &mut loss)
            .await
            .with_context(|| format!("mailbox {shelf}"))?;
    }
    let accounts = base.book.pages().accounts.clone();
    let accounts =
        accounts.into_iter().filter(|account| matches!(account.registered, Fate::Answered(_))).take(6);
    for account in accounts {
        let mut wire = relay.connect().await?;
        if !matches!(wire.ask(account.device.authentication(&wire)?).await?, ServerBody::Authenticated(_)) {
            loss.state.push(format!("{} is not known", account.handle));
        }
    }
    Ok(loss)
}

/// What a mailbox should hold: the newest cursor, and everything behind it.
fn expected(page: &Shelf) -> (u64, BTreeMap<u64, PostId>) {
    let answered = page.acks.iter().filter(|(_, fate)| matches!(fate, Fate::Answered(_)));
    let cursor = answered.map(|(seq, _)| *seq).max().unwrap_or(0);
    let posts = page.posts.iter().filter_map(|(id, sent)| Some((sent.seq.filter(|seq| *seq > cursor)?, *id)));
    (cursor, posts.collect())
}

async fn compare_one(wire: &mut Wire, book: &Book, shelf: usize, loss: &mut Loss) -> anyhow::Result<()> {
    let (request, is_open, (cursor, expected)) = {
        let pages = book.pages();
        let page = &pages.shelves[shelf];
        (page.keys[0].opening(u32::MAX), page.is_open(), expected(page))
    };
    let result = match wire.ask(request).await? {
        ServerBody::Opened(mut opened) => opened.pop().context("one result")?,
        other => bail!("opening: {other:?}"),
    };
    let state = match result {
        Opened { result: Ok(_), .. } if !is_open => {
            loss.state.push(format!("mailbox {shelf} is back"));
            return Ok(());
        }
        Opened { result: Err(_), .. } if !is_open => return Ok(()),
        Opened { result: Ok(state), .. } => state,
        Opened { result: Err(Refusal { code: Some(ErrorCode::MailboxUnknown), .. }), .. } => {
            loss.envelopes += expected.len();
            loss.state.push(format!("mailbox {shelf} is gone"));
            return Ok(());
        }
        Opened { result: Err(refusal), .. } => bail!("{refusal:?}"),
    };
    let head = expected.keys().next_back().copied().unwrap_or(cursor);
    let keys = {
        let pages = book.pages();
        let page = &pages.shelves[shelf];
        let current = &page.keys[page.generation];
        let has = page.keys.iter().find(|keys| keys.post_key.hash() == state.post_key_hash);
        if (state.post_key_hash, state.turn_key_hash) != (current.post_key.hash(), current.turn_key.hash()) {
            loss.state.push(format!("mailbox {shelf} has older keys"));
        }
        has.context("the keys are none that were ever asked for")?.clone()
    };
    if state.head < head || state.cursor < cursor {
        loss.state.push(format!(
            "mailbox {shelf} is at {} of {head}, its reader at {} of {cursor}",
            state.head, state.cursor
        ));
    }
    // Posted behind everything else, so that its delivery says that nothing more comes.
    let sentinel = numbered(0xee);
    keys.append(wire, sentinel, "the end").await?;
    let (mut last, mut delivered, mut told) = (0, BTreeSet::new(), BTreeSet::new());
    loop {
        let delivery = match wire.pushed().await? {
            ServerBody::Delivery(delivery) => delivery,
            ServerBody::Lost { seq, .. } => {
                told.insert(seq);
                continue;
            }
            other => bail!("not a delivery: {other:?}"),
        };
        ensure!(delivery.seq > last, "{} after {last}", delivery.seq);
        last = delivery.seq;
        if delivery.post_id == sentinel {
            break;
        }
        let pages = book.pages();
        let sent =
            pages.shelves[shelf].posts.get(&delivery.post_id).context("nobody posted what is delivered")?;
        ensure!(sent.seq == Some(delivery.seq), "{:?} is delivered as {}", sent.seq, delivery.seq);
        ensure!(
            delivery.envelope == envelope(&delivery.post_id, sent.len),
            "seq {} is not what was posted",
            delivery.seq
        );
        delivered.insert(delivery.post_id);
        loss.served += 1;
    }
    let lost: Vec<u64> =
        expected.iter().filter(|(_, id)| !delivered.contains(*id)).map(|(seq, _)| *seq).collect();
    // An acknowledgement whose answer nobody heard may have trimmed what lies below `oldest`; the reader
    // learns that from the answer.
    let owed = |seq: u64| (state.oldest.max(state.cursor + 1)..=state.head).contains(&seq);
    let untold = lost.iter().find(|seq| owed(**seq) && !told.contains(*seq));
    ensure!(untold.is_none(), "the reader is not told that {untold:?} is lost: {state:?}");
    ensure!(told.iter().all(|seq| lost.contains(seq) || *seq <= cursor), "lost is what is there: {told:?}");
    loss.envelopes += lost.len();
    wire.ask(posthorn_proto::frame::Request::Close(keys.id)).await?;
    Ok(())
}
