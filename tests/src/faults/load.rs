//! The load: many connections, each with a window of unanswered requests of every kind that changes
//! something.
//!
//! Owns the connections, and writes what it asks and how it is answered into the [`Book`]. It never decides
//! whether a relay did well, except about what it sees while it runs: deliveries that are out of order or
//! changed, and refusals that nobody expects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::frame::{Delivery, Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::{ErrorCode, MailboxId, PostId, Token};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::book::{Account, Book, Fate, Sent, Shelf, envelope};
use crate::mailbox::{BareDevice, BareMailbox, post_id};
use crate::wire::{Heard, Wire};

/// How much to ask for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many connections.
    pub workers: usize,
    /// How many requests of each connection may be unanswered.
    pub window: usize,
    /// How long envelopes may be, in bytes.
    pub lengths: std::ops::Range<usize>,
    /// How far acknowledgements may be behind, in envelopes.
    pub lag: u64,
    /// How many mailboxes a worker has at the same time.
    pub mailboxes: usize,
    /// The refusals that are expected. What they refuse counts as not done.
    pub tolerated: &'static [ErrorCode],
}

impl Default for Plan {
    fn default() -> Self {
        Self { workers: 8, window: 24, lengths: 64..4096, lag: 40, mailboxes: 4, tolerated: &[] }
    }
}

/// Tokens that a registrar draws at once.
const TOKENS: usize = 16;
/// The shelf to which all workers post; the first of them reads it.
const COMMON: usize = 0;
/// How many envelopes may be on their way to a reader: more than any load posts.
const CREDIT: u32 = 1 << 20;

/// Makes an account, draws tokens and creates the mailbox that all workers share. Everything must be
/// answered.
pub async fn prepare(url: &str, book: &Book, seed: u64) -> anyhow::Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    register(url, book, &mut rng).await?;
    let token = book.pages().tokens.pop().context("tokens were drawn")?;
    let mailbox = BareMailbox::new(&mut rng);
    book.pages().shelves.push(Shelf::new(mailbox.clone()));
    let mut wire = Wire::connect(url).await?;
    mailbox.create(&mut wire, token).await?;
    let answered = book.answered();
    book.pages().shelves[COMMON].created = answered;
    Ok(())
}

/// Registers an account and draws tokens.
async fn register(url: &str, book: &Book, rng: &mut ChaCha20Rng) -> anyhow::Result<()> {
    let mut wire = Wire::connect(url).await?;
    let device = BareDevice::new(rng);
    let (index, handle) = {
        let mut pages = book.pages();
        let index = pages.accounts.len();
        let handle = format!("account{index}");
        pages.accounts.push(Account {
            device: device.clone(),
            handle: handle.clone(),
            registered: Fate::Open,
        });
        (index, handle)
    };
    device.register(&mut wire, &handle, "").await?;
    let answered = book.answered();
    book.pages().accounts[index].registered = answered;
    let tokens = device.draw(&mut wire, TOKENS, rng).await?;
    book.pages().tokens.extend(tokens);
    wire.close().await;
    Ok(())
}

/// Starts the load, which ends by itself when the relay goes. A task that ends with an error has seen
/// something wrong.
pub fn start(url: &str, book: &Arc<Book>, plan: &Plan, seed: u64) -> JoinSet<anyhow::Result<()>> {
    let mut tasks = JoinSet::new();
    let wanted = Arc::new(Notify::new());
    let (known, url) = (book.pages().shelves.len(), url.to_owned());
    for index in 0..plan.workers {
        let own = (1..known).filter(|shelf| shelf % plan.workers == index).collect();
        let (book, plan, url, wanted) = (book.clone(), plan.clone(), url.clone(), wanted.clone());
        let rng = ChaCha20Rng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(index as u64));
        tasks.spawn(async move {
            let Ok(wire) = Wire::connect(&url).await else { return Ok(()) };
            let worker = Worker {
                wire,
                rng,
                book,
                plan,
                wanted,
                reads_common: index == 0,
                own,
                flight: HashMap::new(),
                delivered: HashMap::new(),
                given: HashMap::new(),
                busy: HashSet::new(),
                creating: 0,
            };
            worker.run().await.with_context(|| format!("worker {index}"))
        });
    }
    let book = book.clone();
    let mut rng = ChaCha20Rng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(999));
    tasks.spawn(async move {
        loop {
            wanted.notified().await;
            // The load ends when the relay goes away; a later check finds what it answered wrongly.
            if register(&url, &book, &mut rng).await.is_err() {
                return Ok(());
            }
        }
    });
    tasks
}

/// Waits for the tasks of a load whose relay is gone. Returns the first error that a worker saw.
pub async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    // The registrar waits until it is wanted, not for the relay.
    let patience = tokio::time::Instant::now() + crate::wire::PATIENCE;
    let mut left = tasks.len();
    while left > 1 {
        let Ok(Some(done)) = tokio::time::timeout_at(patience, tasks.join_next()).await else {
            bail!("the load does not notice that its relay is gone")
        };
        left -= 1;
        done.context("a worker panicked")??;
    }
    tasks.shutdown().await;
    Ok(())
}

/// What an answer will be about.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Post(usize, PostId),
    Ack(usize, usize),
    Create(usize),
    Destroy(usize),
    Open(usize),
}

struct Worker {
    wire: Wire,
    rng: ChaCha20Rng,
    book: Arc<Book>,
    plan: Plan,
    /// Wakes the registrar when tokens are wanted.
    wanted: Arc<Notify>,
    reads_common: bool,
    /// Shelves that only this worker turns, reads and destroys.
    own: Vec<usize>,
    flight: HashMap<u64, Asked>,
    /// The newest seq delivered to each opening.
    delivered: HashMap<usize, u64>,
    /// The seq up to which each opening was given its credit back.
    given: HashMap<usize, u64>,
    /// Shelves with a turn under way, of which it is not known whether the old or the new keys hold.
    busy: HashSet<usize>,
    creating: usize,
}

impl Worker {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut open: Vec<usize> = self.own.clone();
        open.extend(self.reads_common.then_some(COMMON));
        for shelf in open {
            if self.book.pages().shelves[shelf].is_open() && !self.ask_open(shelf).await {
                return Ok(());
            }
        }
        loop {
            while self.flight.len() < self.plan.window {
                if !self.ask().await {
                    return Ok(());
                }
            }
            if self.wire.flush().await.is_err() {
                return Ok(());
            }
            match self.wire.hear().await? {
                Heard::Closed(_) => return Ok(()),
                Heard::Frame(frame) => {
                    if let Some(shelf) = self.take(frame)?
                        && !self.ask_open(shelf).await
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Queues a request. Returns `false` if the relay is gone.
    async fn send(&mut self, request: Request, asked: Asked) -> bool {
        match self.wire.feed(request).await {
            Ok(number) => {
                self.flight.insert(number, asked);
                true
            }
            Err(_) => false,
        }
    }

    async fn ask_open(&mut self, shelf: usize) -> bool {
        let request = {
            let pages = self.book.pages();
            pages.shelves[shelf].keys[0].opening(CREDIT)
        };
        self.send(request, Asked::Open(shelf)).await
    }

    /// Makes one more request, of a random kind.
    async fn ask(&mut self) -> bool {
        let dice = self.rng.random_range(0..1000);
        let mine: Vec<usize> = {
            let pages = self.book.pages();
            self.own
                .iter()
                .copied()
                .filter(|s| pages.shelves[*s].is_open() && !self.busy.contains(s))
                .collect()
        };
        if mine.len() + self.creating < self.plan.mailboxes && dice < 300 {
            return self.create().await;
        }
        if mine.is_empty() {
            return self.post(COMMON, false).await;
        }
        let shelf = mine[self.rng.random_range(0..mine.len())];
        match dice {
            300..306 if mine.len() + 1 >= self.plan.mailboxes => self.destroy(shelf).await,
            310..330 => self.post(shelf, true).await,
            330..400 => self.acknowledge(shelf).await,
            400..420 if self.reads_common => self.acknowledge(COMMON).await,
            500..600 => self.post(COMMON, false).await,
            _ => self.post(shelf, false).await,
        }
    }

    /// A token; if there is none, asks the registrar for some.
    fn token(&self) -> Option<Token> {
        let token = self.book.pages().tokens.pop();
        if token.is_none() {
            self.wanted.notify_one();
        }
        token
    }

    async fn create(&mut self) -> bool {
        let mailbox = BareMailbox::new(&mut self.rng);
        let Some(token) = self.token() else { return self.post(COMMON, false).await };
        let shelf = {
            let mut pages = self.book.pages();
            pages.shelves.push(Shelf::new(mailbox.clone()));
            pages.shelves.len() - 1
        };
        let request = mailbox.creation(token, 0);
        self.creating += 1;
        self.send(request, Asked::Create(shelf)).await
    }

    async fn destroy(&mut self, shelf: usize) -> bool {
        let request = {
            let mut pages = self.book.pages();
            let page = &mut pages.shelves[shelf];
            page.destroyed = Some(Fate::Open);
            let keys = &page.keys[page.generation];
            Request::Destroy { mailbox: keys.id, turn_key: keys.turn_key.clone() }
        };
        self.send(request, Asked::Destroy(shelf)).await
    }

    async fn post(&mut self, shelf: usize, turn: bool) -> bool {
        let id = post_id(&mut self.rng);
        let len = self.rng.random_range(self.plan.lengths.clone());
        let request = {
            let mut pages = self.book.pages();
            let page = &mut pages.shelves[shelf];
            let turned_to = turn.then(|| {
                let next = page.keys[page.generation].with_new_keys(&mut self.rng);
                page.keys.push(next);
                page.keys.len() - 1
            });
            page.posts.insert(
                id,
                Sent { generation: page.generation, turned_to, len, fate: Fate::Open, seq: None },
            );
            page.order.push(id);
            page.request(&id)
        };
        if turn {
            self.busy.insert(shelf);
        }
        match request {
            Some(request) => self.send(request, Asked::Post(shelf, id)).await,
            None => true,
        }
    }

    async fn acknowledge(&mut self, shelf: usize) -> bool {
        let Some(delivered) = self.delivered.get(&shelf).copied() else {
            return self.post(COMMON, false).await;
        };
        let seq = delivered.saturating_sub(self.rng.random_range(0..=self.plan.lag));
        let given = self.given.entry(shelf).or_default();
        if seq <= *given {
            return self.post(shelf, false).await;
        }
        let credit = u32::try_from(seq - *given).unwrap_or(CREDIT);
        *given = seq;
        let (request, index) = {
            let mut pages = self.book.pages();
            let page = &mut pages.shelves[shelf];
            page.acks.push((seq, Fate::Open));
            (page.keys[0].acknowledgement(seq, credit), page.acks.len() - 1)
        };
        self.send(request, Asked::Ack(shelf, index)).await
    }

    /// Takes a frame. Returns a shelf if one can be opened now.
    fn take(&mut self, frame: ServerFrame) -> anyhow::Result<Option<usize>> {
        match frame.body {
            ServerBody::Delivery(delivery) => self.delivered(&delivery).map(|()| None),
            ServerBody::Closed { mailbox, reason } => {
                let destroyed = self
                    .shelf_of(&mailbox)
                    .is_none_or(|shelf| self.book.pages().shelves[shelf].destroyed.is_some());
                let stopping = reason.code == Some(ErrorCode::ShuttingDown);
                ensure!(destroyed || stopping || self.is_tolerated(&reason), "an opening ended: {reason:?}");
                Ok(None)
            }
            ServerBody::GoingAway { .. } => Ok(None),
            body => {
                let asked = self.flight.remove(&frame.request);
                let asked = asked.with_context(|| format!("an answer to nothing: {body:?}"))?;
                self.answered(asked, body)
            }
        }
    }

    fn is_tolerated(&self, reason: &Refusal) -> bool {
        reason.code.is_some_and(|code| self.plan.tolerated.contains(&code))
    }

    fn shelf_of(&self, mailbox: &MailboxId) -> Option<usize> {
        let pages = self.book.pages();
        let is_it = |shelf: &&usize| pages.shelves[**shelf].keys[0].id == *mailbox;
        self.own
            .iter()
            .find(is_it)
            .copied()
            .or((pages.shelves[COMMON].keys[0].id == *mailbox).then_some(COMMON))
    }

    /// What is known of a post, for a message of failure.
    fn about(&self, asked: Asked) -> String {
        let Asked::Post(shelf, id) = asked else { return String::new() };
        let pages = self.book.pages();
        let page = &pages.shelves[shelf];
        let place = page.order.iter().position(|other| *other == id).unwrap_or(0);
        let near = page.order[place.saturating_sub(20)..].iter().map(|id| (*id, page.posts.get(id)));
        format!("keys of generation {}; around it: {:#?}", page.generation, near.collect::<Vec<_>>())
    }

    fn delivered(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        let shelf = self.shelf_of(&delivery.mailbox).context("a delivery from a mailbox that is not open")?;
        let last = self.delivered.get_mut(&shelf).context("a delivery before the mailbox was opened")?;
        ensure!(delivery.seq == *last + 1, "delivered {} after {last}", delivery.seq);
        *last = delivery.seq;
        let pages = self.book.pages();
        let sent =
            pages.shelves[shelf].posts.get(&delivery.post_id).context("a delivery of what nobody posted")?;
        ensure!(
            delivery.envelope == envelope(&delivery.post_id, sent.len),
            "seq {} was changed",
            delivery.seq
        );
        ensure!(
            sent.seq.is_none_or(|seq| seq == delivery.seq),
            "{:?} was delivered as {}",
            sent.seq,
            delivery.seq
        );
        Ok(())
    }

    fn answered(&mut self, asked: Asked, body: ServerBody) -> anyhow::Result<Option<usize>> {
        let answered = self.book.answered();
        let refused = match &body {
            ServerBody::Error(refusal) => Some(refusal.clone()),
            ServerBody::Opened(all) => all.first().and_then(|opened| opened.result.clone().err()),
            _ => None,
        };
        let fate = match &refused {
            None => answered,
            Some(refusal) if refusal.code == Some(ErrorCode::ShuttingDown) => Fate::Open,
            // It was sent behind a destruction on the same connection.
            Some(refusal) if refusal.code == Some(ErrorCode::MailboxUnknown) => Fate::Refused,
            Some(refusal) if matches!(asked, Asked::Ack(..)) && refusal.code == Some(ErrorCode::NotOpen) => {
                Fate::Refused
            }
            Some(refusal) if self.is_tolerated(refusal) => Fate::Refused,
            Some(refusal) => bail!("{asked:?} was refused: {refusal:?}; {}", self.about(asked)),
        };
        let mut pages = self.book.pages();
        match (asked, body) {
            (Asked::Post(shelf, id), body) => {
                let page = &mut pages.shelves[shelf];
                let sent = page.posts.get_mut(&id).context("it was sent")?;
                sent.fate = fate;
                if let ServerBody::Posted { seq } = body {
                    ensure!(
                        sent.seq.is_none_or(|known| known == seq),
                        "answered {seq}, known as {:?}",
                        sent.seq
                    );
                    sent.seq = Some(seq);
                    page.generation = sent.turned_to.unwrap_or(page.generation);
                }
                if sent.turned_to.is_some() && fate != Fate::Open {
                    self.busy.remove(&shelf);
                }
            }
            (Asked::Ack(shelf, index), _) => pages.shelves[shelf].acks[index].1 = fate,
            (Asked::Create(shelf), _) => {
                pages.shelves[shelf].created = fate;
                self.creating -= 1;
                if fate == answered {
                    self.own.push(shelf);
                    return Ok(Some(shelf));
                }
            }
            (Asked::Destroy(shelf), _) => {
                // If it was refused because the disk is full, it may be tried again.
                pages.shelves[shelf].destroyed = Some(fate).filter(|fate| *fate != Fate::Refused);
            }
            (Asked::Open(shelf), ServerBody::Opened(all)) => {
                if let Some(Ok(state)) = all.first().map(|opened| &opened.result) {
                    self.delivered.insert(shelf, state.cursor.max(state.oldest - 1));
                    self.given.insert(shelf, state.cursor);
                }
            }
            (Asked::Open(_), _) => {}
        }
        Ok(None)
    }
}
