//! A poster and, unless nobody reads, a reader, kept busy by a window of unanswered posts.
//!
//! Owns both connections. Both sides are one task, because the load shares two cores with what it is
//! measuring.

use std::time::Instant;

use tokio::task::JoinSet;

use crate::clock;
use crate::host::Host;
use crate::wire::line::Line;
use crate::wire::speaker::{blank, number};

/// Size of a busy connection's read buffer, in bytes.
pub(crate) const ROOM: usize = 32 * 1024;

/// One poster with its reader.
struct Pair {
    poster: Line,
    reader: Option<Line>,
    index: usize,
    sent: u64,
    payload: Vec<u8>,
}

/// How much to post.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// How many posts each pair makes.
    pub(crate) each: u64,
    /// How many posts of each pair may be unanswered.
    pub(crate) window: u64,
    /// When to stop posting.
    pub(crate) until: Instant,
}

impl Pair {
    async fn run(&mut self, load: Load) -> anyhow::Result<()> {
        let mut target = self.sent + load.each;
        loop {
            let posts = target.min(self.poster.heard.answered + load.window).saturating_sub(self.sent);
            if posts > 0 && clock::now() >= load.until {
                target = self.sent;
            } else if posts > 0 {
                let time = clock::nanos();
                for _ in 0..posts {
                    number(&mut self.payload, self.sent, time);
                    self.poster.post(&self.payload);
                    self.sent += 1;
                }
                self.poster.socket.flush().await?;
            }
            let awaited = self.poster.heard.answered < target;
            match &mut self.reader {
                None if !awaited => return Ok(()),
                None => self.poster.listen().await?,
                Some(reader) => {
                    let reading = reader.heard.delivered < target;
                    if !awaited && !reading {
                        return reader.acknowledge().await;
                    }
                    tokio::select! {
                        filled = self.poster.socket.fill(), if awaited => { filled?; self.poster.digest().await?; }
                        filled = reader.socket.fill(), if reading => { filled?; reader.digest().await?; }
                    }
                }
            }
        }
    }
}

/// All pairs at one server.
pub(crate) struct Pairs {
    pairs: Vec<Pair>,
}

impl Pairs {
    /// Connects `count` pairs, or only their posters without `reading`. `before` messages are there already.
    pub(crate) async fn connect(
        host: &Host,
        count: usize,
        reading: bool,
        before: u64,
    ) -> anyhow::Result<Self> {
        let speakers = (0..count).filter(|_| reading).map(|index| host.reader(index, 0, false)).collect();
        let mut readers = Line::open_all(&host.door(), speakers, ROOM).await?.into_iter();
        let speakers = (0..count).map(|index| host.poster(index, before)).collect();
        let posters = Line::open_all(&host.door(), speakers, ROOM).await?.into_iter().enumerate();
        let pairs = posters
            .map(|(index, poster)| Pair { poster, reader: readers.next(), index, sent: 0, payload: blank() })
            .collect();
        Ok(Self { pairs })
    }

    /// Posts, and waits until everything is answered and delivered. Returns how many posts there were.
    pub(crate) async fn run(&mut self, load: Load) -> anyhow::Result<u64> {
        let before = self.sent();
        let mut tasks = JoinSet::new();
        for mut pair in self.pairs.drain(..) {
            tasks.spawn(async move {
                pair.run(load).await?;
                anyhow::Ok(pair)
            });
        }
        while let Some(pair) = tasks.join_next().await {
            self.pairs.push(pair??);
        }
        Ok(self.sent() - before)
    }

    fn sent(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.sent).sum()
    }

    /// How many posts each topic has got, in the order of the topics.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.pairs.len()];
        for pair in &self.pairs {
            counts[pair.index] = pair.sent;
        }
        counts
    }
}
