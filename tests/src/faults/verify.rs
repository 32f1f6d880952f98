//! Looks at what is there: over the wire of a running relay, or in a store that is opened on an image of its
//! folder.
//!
//! Owns how a mailbox is looked at; [`Shelf::check`](super::book::Shelf::check) judges what was seen.

use std::collections::HashMap;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use futures_util::FutureExt as _;
use posthorn_proto::frame::{Delivery, Refusal, Request, ServerBody};
use posthorn_proto::{DeviceId, ErrorCode, PostId};
use posthorn_server::store::embedded::EmbeddedStore;
use posthorn_server::store::{Directory as _, Mailboxes as _, OpenReader, ReadRange, StoreError};
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;

use super::book::{ALWAYS, Book, Fate, Found};
use crate::mailbox::BareMailbox;
use crate::wire::{Heard, Wire};

/// Posts of each mailbox that are asked for again.
const AGAIN: usize = 6;
/// Accounts that must prove themselves again: this many of the newest, and as many others.
const ACCOUNTS: usize = 4;

/// How much was looked at.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Mailboxes that are there.
    pub mailboxes: usize,
    /// Envelopes that were compared.
    pub envelopes: usize,
    /// Posts that were asked for again.
    pub again: usize,
}

/// Acknowledges everything that is stored in any mailbox.
pub async fn acknowledge_all(url: &str, book: &Book) -> anyhow::Result<()> {
    let mut wire = Wire::connect(url).await?;
    let shelves = book.pages().shelves.len();
    for shelf in 0..shelves {
        let keys = {
            let pages = book.pages();
            if !pages.shelves[shelf].is_open() {
                continue;
            }
            pages.shelves[shelf].keys[0].clone()
        };
        let Some(head) = read_through(&mut wire, &keys).await? else { continue };
        let index = {
            let mut pages = book.pages();
            pages.shelves[shelf].acks.push((head, Fate::Open));
            pages.shelves[shelf].acks.len() - 1
        };
        match wire.ask(keys.acknowledgement(head, 0)).await? {
            ServerBody::Done => {
                let answered = book.answered();
                book.pages().shelves[shelf].acks[index].1 = answered;
            }
            other => bail!("acknowledging mailbox {shelf}: {other:?}"),
        }
        wire.ask(Request::Close(keys.id)).await?;
    }
    wire.close().await;
    Ok(())
}

/// Opens a mailbox and takes everything up to its head. Returns the head if something was stored. The mailbox
/// stays open.
async fn read_through(wire: &mut Wire, keys: &BareMailbox) -> anyhow::Result<Option<u64>> {
    let state = keys.open(wire, u32::MAX).await?;
    let mut next = (state.cursor + 1).max(state.oldest);
    if next > state.head {
        wire.ask(Request::Close(keys.id)).await?;
        return Ok(None);
    }
    while next <= state.head {
        match wire.pushed().await? {
            ServerBody::Delivery(delivery) => next = delivery.seq + 1,
            other => bail!("reading: {other:?}"),
        }
    }
    Ok(Some(state.head))
}

/// Compares everything with a running relay, asks again for what was not answered and for some of what was,
/// and takes over what it says.
pub async fn on_wire(url: &str, book: &Book, rng: &mut ChaCha20Rng) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut wire = Wire::connect(url).await?;
    let shelves = book.pages().shelves.len();
    for shelf in 0..shelves {
        let keys = {
            let pages = book.pages();
            let page = &pages.shelves[shelf];
            // What is gone for good was looked at when it went, and is looked at again only now and then.
            if page.created == Fate::Refused || (page.gone && rng.random_range(0..40) > 0) {
                continue;
            }
            page.keys[0].clone()
        };
        let found = look(&mut wire, &keys).await.with_context(|| format!("mailbox {shelf}"))?;
        {
            let answered = book.answered();
            let mut pages = book.pages();
            let page = &mut pages.shelves[shelf];
            page.check(found.as_ref(), ALWAYS).map_err(|text| anyhow!("mailbox {shelf}: {text}"))?;
            match &found {
                Some(found) => {
                    page.settle(found, answered);
                    page.destroyed = None;
                    seen.mailboxes += 1;
                    seen.envelopes += found.envelopes.len();
                }
                None if page.destroyed.is_some() => {
                    (page.destroyed, page.gone) = (Some(answered), true);
                    (page.posts, page.order) = Default::default();
                }
                None => page.created = Fate::Refused,
            }
        }
        if found.is_some() {
            seen.again +=
                ask_again(&mut wire, book, shelf, rng).await.with_context(|| format!("mailbox {shelf}"))?;
        }
    }
    accounts(url, book, rng).await?;
    wire.close().await;
    Ok(seen)
}

/// Reads a mailbox over the wire, up to its head.
async fn look(wire: &mut Wire, keys: &BareMailbox) -> anyhow::Result<Option<Found>> {
    let state = match wire.ask(keys.opening(u32::MAX)).await? {
        ServerBody::Opened(opened) => match opened.into_iter().next().map(|opened| opened.result) {
            Some(Ok(state)) => state,
            Some(Err(Refusal { code: Some(ErrorCode::MailboxUnknown), .. })) => return Ok(None),
            other => bail!("opening: {other:?}"),
        },
        other => bail!("opening: {other:?}"),
    };
    let mut envelopes = Vec::new();
    let mut next = (state.cursor + 1).max(state.oldest);
    while next <= state.head {
        match wire.pushed().await.with_context(|| format!("waiting for {next}; {state:?}"))? {
            ServerBody::Delivery(Delivery { mailbox, seq, post_id, envelope, .. }) if mailbox == keys.id => {
                next = seq + 1;
                envelopes.push((seq, post_id, envelope));
            }
            other => bail!("reading up to {}: {other:?}", state.head),
        }
    }
    match wire.ask(Request::Close(keys.id)).await.context("closing")? {
        ServerBody::Done => {}
        other => bail!("closing: {other:?}"),
    }
    let (post_key, turn_key) = (state.post_key_hash, state.turn_key_hash);
    Ok(Some(Found {
        head: state.head,
        oldest: state.oldest,
        cursor: state.cursor,
        post_key,
        turn_key,
        envelopes,
    }))
}

/// Sends posts again, byte for byte. The same seq must come; what had not happened happens now, or is refused
/// for good.
async fn ask_again(
    wire: &mut Wire,
    book: &Book,
    shelf: usize,
    rng: &mut ChaCha20Rng,
) -> anyhow::Result<usize> {
    let mut ids = book.sample(shelf, AGAIN, rng);
    {
        let pages = book.pages();
        let page = &pages.shelves[shelf];
        ids.extend(
            page.order.iter().filter(|id| page.posts.get(*id).is_some_and(|sent| sent.fate == Fate::Open)),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    let mut numbers = Vec::new();
    for id in &ids {
        let request = book.pages().shelves[shelf].request(id).context("it was sent")?;
        numbers.push((wire.feed(request).await?, *id));
        // Not more than the relay takes while its answers are not read.
        if numbers.len() == 32 {
            repeated(wire, book, shelf, &mut numbers).await?;
        }
    }
    repeated(wire, book, shelf, &mut numbers).await?;
    Ok(ids.len())
}

async fn repeated(
    wire: &mut Wire,
    book: &Book,
    shelf: usize,
    numbers: &mut Vec<(u64, PostId)>,
) -> anyhow::Result<()> {
    wire.flush().await?;
    let mut asked: HashMap<u64, PostId> = numbers.drain(..).collect();
    let mut refused = Vec::new();
    while !asked.is_empty() {
        // The answers may come in any order.
        let (id, body) = match wire.hear().await.context("asking again")? {
            Heard::Closed(reason) => bail!("closed while posts were asked again: {reason}"),
            Heard::Frame(frame) => match asked.remove(&frame.request) {
                Some(id) => (id, frame.body),
                None => continue,
            },
        };
        let answered = book.answered();
        let mut pages = book.pages();
        let page = &mut pages.shelves[shelf];
        let sent = page.posts.get_mut(&id).context("it was sent")?;
        match body {
            ServerBody::Posted { seq } => {
                ensure!(sent.fate != Fate::Refused, "what was refused is answered {seq}");
                ensure!(
                    sent.seq.is_none_or(|known| known == seq),
                    "a repeat is answered {seq}, it was {:?}",
                    sent.seq
                );
                (sent.seq, sent.fate) = (Some(seq), answered);
                page.generation = page.generation.max(sent.turned_to.unwrap_or(0));
            }
            // In a long run on a busy machine its id may be too old by now.
            ServerBody::Error(Refusal {
                code: Some(ErrorCode::KeyTurned | ErrorCode::PostIdTime), ..
            }) => {
                ensure!(
                    sent.seq.is_none(),
                    "what was answered {:?} is refused when it is asked again",
                    sent.seq
                );
                sent.fate = Fate::Refused;
                refused.push(id);
            }
            // The disk or the mailbox is full: what was stored is answered, and what was not cannot be.
            ServerBody::Error(Refusal {
                code: Some(ErrorCode::StoreUnavailable | ErrorCode::MailboxFull),
                ..
            }) => {
                ensure!(
                    sent.seq.is_none(),
                    "what was answered {:?} is refused when it is asked again",
                    sent.seq
                );
            }
            other => bail!("asked again: {other:?}"),
        }
    }
    // A refusal may be heard before the answer to the turn that is the reason for it.
    let pages = book.pages();
    let page = &pages.shelves[shelf];
    for id in refused {
        let sent = page.posts.get(&id).context("it was sent")?;
        ensure!(
            sent.generation < page.generation || sent.turned_to.is_some(),
            "refused under the current key"
        );
    }
    Ok(())
}

/// Checks that accounts whose registration was answered can prove themselves.
async fn accounts(url: &str, book: &Book, rng: &mut ChaCha20Rng) -> anyhow::Result<()> {
    let some: Vec<_> = {
        let pages = book.pages();
        let all: Vec<_> =
            pages.accounts.iter().filter(|account| matches!(account.registered, Fate::Answered(_))).collect();
        let old = (0..ACCOUNTS.min(all.len())).map(|_| rng.random_range(0..all.len())).collect::<Vec<_>>();
        let newest = all.len().saturating_sub(ACCOUNTS)..all.len();
        newest.chain(old).map(|index| all[index].clone()).collect()
    };
    for account in some {
        let mut wire = Wire::connect(url).await?;
        match wire.ask(account.device.authentication(&wire)?).await? {
            ServerBody::Authenticated(_) => wire.close().await,
            other => bail!("{} cannot prove itself: {other:?}", account.handle),
        }
    }
    Ok(())
}

const ALL: ReadRange = ReadRange { from: 0, to: u64::MAX, bytes: usize::MAX };

/// Compares a store that was opened on an image with what had been answered by `mark`.
pub fn in_store(store: &EmbeddedStore, book: &Book, mark: u64) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let pages = book.pages();
    for (index, page) in pages.shelves.iter().enumerate() {
        let found = find(store, &page.keys[0]).map_err(|error| format!("mailbox {index}: {error}"))?;
        page.check(found.as_ref(), mark).map_err(|text| format!("mailbox {index}: {text}"))?;
        seen.mailboxes += usize::from(found.is_some());
        seen.envelopes += found.map_or(0, |found| found.envelopes.len());
    }
    for account in pages.accounts.iter().filter(|account| account.registered.answered_by(mark)) {
        device(store, account.device.id).map_err(|error| format!("{}: {error}", account.handle))?;
    }
    Ok(seen)
}

/// A mailbox as it is in a store.
pub fn find(store: &EmbeddedStore, keys: &BareMailbox) -> Result<Option<Found>, StoreError> {
    let open = OpenReader { mailbox: keys.id, reader: keys.reader, key: keys.read_key.hash(), claim: None };
    let view = match wait(store.open(open)) {
        Err(StoreError::MailboxUnknown) => return Ok(None),
        other => other?,
    };
    let stored = wait(store.read(keys.id, ALL))?;
    let envelopes: Vec<(u64, PostId, Bytes)> =
        stored.into_iter().map(|stored| (stored.seq, stored.post_id, stored.envelope)).collect();
    let (post_key, turn_key) = (view.post_key, view.turn_key);
    Ok(Some(Found {
        head: view.head,
        oldest: view.oldest,
        cursor: view.cursor,
        post_key,
        turn_key,
        envelopes,
    }))
}

fn device(store: &EmbeddedStore, device: DeviceId) -> Result<(), StoreError> {
    wait(store.device(device)).map(drop)
}

/// Runs a future of the store on a runtime of its own.
fn wait<T>(future: impl Future<Output = T>) -> T {
    // Many answers are there at once, and need no runtime.
    let mut future = Box::pin(future);
    if let Some(done) = (&mut future).now_or_never() {
        return done;
    }
    let runtime = tokio::runtime::Handle::try_current();
    match runtime {
        Ok(handle) => tokio::task::block_in_place(|| handle.block_on(future)),
        Err(_) => tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers needs nothing of the system")
            .block_on(future),
    }
}
