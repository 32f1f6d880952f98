//! What is asked about blobs, what is answered, and by which rules a relay or a disk is judged afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::frame::{Request, ServerBody, TokenPurpose};
use posthorn_proto::{BlobId, Token};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::http::{Answer, BareBlob, Http, hex};
use crate::mailbox::BareDevice;
use crate::relay::RelayProcess;
use crate::wire::Wire;

/// Tokens of each device, of which each worker has one.
const TOKENS: u8 = 100;

/// When something was answered: how long the record of what the relay did to its disk was by then, if there
/// is one.
type Mark = u64;

/// What is known of each blob.
pub(super) type Pages = BTreeMap<BlobId, Page>;

/// What was answered, and what was asked for.
pub(super) struct Book {
    pages: Mutex<Pages>,
    mark: Box<dyn Fn() -> Mark + Send + Sync>,
}

#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) blob: BareBlob,
    created: Mark,
    /// Which parts were answered.
    pub(super) parts: BTreeMap<u32, Mark>,
    /// Whether it may be gone: it was asked to be deleted, or nobody was told that it is there.
    may_be_gone: bool,
    /// Whether it is.
    gone: Option<Mark>,
}

impl Page {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new(Pages::new(), || 0)
    }
}

impl Book {
    /// One that goes on from these pages, and notes with what is answered how far this is.
    pub(super) fn new(pages: Pages, mark: impl Fn() -> Mark + Send + Sync + 'static) -> Self {
        Self { pages: Mutex::new(pages), mark: Box::new(mark) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> T {
        change(&mut self.pages.lock().expect("nobody panics with it"))
    }

    fn note(&self, blob: BlobId, change: impl FnOnce(&mut Page, Mark)) {
        let mark = (self.mark)();
        self.with(|pages| pages.get_mut(&blob).map(|page| change(page, mark)));
    }

    pub(super) fn pages(&self) -> Vec<Page> {
        self.with(|pages| pages.values().cloned().collect())
    }

    /// How many parts were answered.
    pub(super) fn answered(&self) -> usize {
        self.with(|pages| pages.values().map(|page| page.parts.len()).sum())
    }

    /// What was answered by then, for another run that goes on from there. What was answered later may have
    /// happened or not.
    pub(super) fn cut(&self, mark: Mark) -> Pages {
        let mut pages = self.with(|pages| pages.clone());
        for page in pages.values_mut() {
            page.may_be_gone |= page.created > mark;
            page.parts.retain(|_, answered| *answered <= mark);
            page.gone = page.gone.filter(|answered| *answered <= mark);
            page.created = 0;
            page.parts.values_mut().chain(&mut page.gone).for_each(|answered| *answered = 0);
        }
        pages
    }
}

/// A device's upload tokens.
pub(super) async fn draw(
    relay: &RelayProcess,
    name: &str,
    rng: &mut ChaCha20Rng,
) -> anyhow::Result<Vec<Token>> {
    let mut wire = Wire::connect(&relay.url()).await?;
    let device = BareDevice::new(rng);
    device.register(&mut wire, name, "").await?;
    let tokens: Vec<Token> = (0..TOKENS).map(|_| Token::random(rng)).collect();
    let hashes = tokens.iter().map(Token::hash).collect();
    match wire.ask(Request::DrawTokens { purpose: TokenPurpose::UploadBlob, hashes }).await? {
        ServerBody::TokensDrawn(accepted) if accepted == u32::from(TOKENS) => Ok(tokens),
        other => bail!("drawing: {other:?}"),
    }
}

/// What may go wrong for a worker without anything being wrong with the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The relay ends.
    End,
    /// And before, it may say that it cannot store parts.
    Away,
}

impl Expected {
    /// Whether a worker can go on: what it asked is done. Not so is no error if it was to be expected.
    fn done(self, answer: anyhow::Result<Answer>, status: u16, what: &str) -> anyhow::Result<Option<Answer>> {
        let Ok(answer) = answer else { return Ok(None) };
        if self == Self::Away && answer.status == 503 && answer.words().contains("STORE_UNAVAILABLE") {
            return Ok(None);
        }
        ensure!(answer.status == status, "{what}: {}", answer.words());
        Ok(Some(answer))
    }
}

/// Creates blobs, puts their parts in any order and deletes some, until that cannot go on.
pub(super) async fn work(
    address: SocketAddr,
    book: Arc<Book>,
    tokens: Vec<Token>,
    seed: u64,
    most: u64,
    expected: Expected,
) -> anyhow::Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let Ok(mut http) = Http::connect(address).await else { return Ok(()) };
    for token in tokens {
        let blob = BareBlob::new(rng.random_range(1..most), &mut rng);
        let created = blob.create(&mut http, &token).await;
        let Some(_) = expected.done(created, 201, "creating")? else { return Ok(()) };
        let (parts, created) = (BTreeMap::new(), (book.mark)());
        let page = Page { blob: blob.clone(), created, parts, may_be_gone: false, gone: None };
        book.with(|pages| pages.insert(blob.id, page));
        let mut parts: Vec<u32> = (0..blob.parts()).collect();
        while !parts.is_empty() {
            let part = parts.swap_remove(rng.random_range(0..parts.len()));
            let put = blob.put(&mut http, part).await;
            let Some(_) = expected.done(put, 201, "putting")? else { return Ok(()) };
            book.note(blob.id, |page, mark| {
                page.parts.insert(part, mark);
            });
        }
        if rng.random_range(0..3) == 0 {
            book.note(blob.id, |page, _| page.may_be_gone = true);
            let deleted = blob.delete(&mut http).await;
            let Some(_) = expected.done(deleted, 204, "deleting")? else { return Ok(()) };
            book.note(blob.id, |page, mark| page.gone = Some(mark));
        }
    }
    Ok(())
}

/// Compares what the relay has with what it answered; returns how many parts it compared. What is missing of
/// a blob is put.
pub(super) async fn compare(address: SocketAddr, book: &Book) -> anyhow::Result<u64> {
    let mut http = Http::connect(address).await?;
    let mut compared = 0;
    for page in book.pages() {
        let Page { blob, parts, may_be_gone, .. } = &page;
        let gone = http.ask("HEAD", &blob.path(), &[], b"").await?.head.contains("BLOB_UNKNOWN");
        ensure!(gone || !page.is_gone(), "{} was deleted", hex(&blob.id.0));
        ensure!(!gone || *may_be_gone, "{} was created, and is not there", hex(&blob.id.0));
        if gone {
            book.note(blob.id, |page, mark| page.gone = Some(mark));
            continue;
        }
        for part in 0..blob.parts() {
            let got = blob.get(&mut http, part).await?;
            if parts.contains_key(&part) || got.status == 200 {
                ensure!(got.status == 200, "part {part} was answered: {}", got.words());
                ensure!(got.body == blob.bytes(part), "part {part} of {} is another", hex(&blob.id.0));
                compared += 1;
            }
            if !parts.contains_key(&part) {
                let put = blob.put(&mut http, part).await?;
                ensure!(put.status == 201, "putting part {part} again: {}", put.words());
                book.note(blob.id, |page, mark| {
                    page.parts.insert(part, mark);
                });
            }
        }
    }
    Ok(compared)
}

/// Deletes all but so many; returns how many.
pub(super) async fn thin_out(address: SocketAddr, book: &Book, kept: usize) -> anyhow::Result<usize> {
    let mut http = Http::connect(address).await?;
    let surplus: Vec<Page> = book.pages().into_iter().skip(kept).collect();
    for page in &surplus {
        if !page.is_gone() {
            let deleted = page.blob.delete(&mut http).await?;
            ensure!(deleted.status == 204, "deleting: {}", deleted.words());
        }
        book.with(|pages| pages.remove(&page.blob.id));
    }
    Ok(surplus.len())
}

/// The names of the folders of blobs on the disk, and how many files are arriving.
pub(super) fn on_disk(data: &Path) -> anyhow::Result<(BTreeSet<String>, usize)> {
    let (mut blobs, mut arriving) = (BTreeSet::new(), 0);
    for shelf in std::fs::read_dir(data.join("blobs"))? {
        let shelf = shelf?;
        for entry in std::fs::read_dir(shelf.path())? {
            match shelf.file_name() == "incoming" {
                true => arriving += 1,
                false => {
                    blobs.insert(entry?.file_name().to_string_lossy().into_owned());
                }
            }
        }
    }
    Ok((blobs, arriving))
}

/// Those of these folders that belong to nobody.
pub(super) fn strays(blobs: BTreeSet<String>, book: &Book) -> Vec<String> {
    let pages = book.pages();
    let there: BTreeSet<String> =
        pages.iter().filter(|page| !page.is_gone()).map(|page| hex(&page.blob.id.0)).collect();
    let is_stray = |name: &String| !name.split_once('-').is_some_and(|(id, _)| there.contains(id));
    blobs.into_iter().filter(is_stray).collect()
}

/// Judges the parts in a data folder that the power has gone from: what was answered is there, and whatever
/// has a name is whole. Returns how many parts there are.
pub(super) fn judge(data: &Path, pages: &Pages) -> anyhow::Result<usize> {
    let mut seen = BTreeSet::new();
    let named = if data.join("blobs").exists() { on_disk(data)?.0 } else { BTreeSet::new() };
    for name in named {
        let folder = data.join("blobs").join(&name[..2]).join(&name);
        let page = pages.values().find(|page| name.starts_with(&hex(&page.blob.id.0)));
        for entry in std::fs::read_dir(&folder)? {
            let part: u32 =
                entry?.file_name().to_str().and_then(|name| name.parse().ok()).context("a number")?;
            let page = page.with_context(|| format!("{name} is no blob that was asked for"))?;
            let there = std::fs::read(folder.join(part.to_string()))?;
            ensure!(
                there == page.blob.bytes(part),
                "part {part} of {name} is not whole: {} bytes",
                there.len()
            );
            seen.insert((page.blob.id, part));
        }
    }
    for page in pages.values().filter(|page| !page.may_be_gone) {
        for part in page.parts.keys() {
            let id = page.blob.id;
            ensure!(seen.contains(&(id, *part)), "part {part} of {} was answered", hex(&id.0));
        }
    }
    Ok(seen.len())
}
