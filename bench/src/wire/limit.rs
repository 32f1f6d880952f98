//! What a client says to the limit relays; see [`mod@crate::limit`].

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};

use super::socket::begin_message;
use super::speaker::{Heard, Speaker};
use crate::limit::{ACK, ANSWER, POST, SUBSCRIBE};

/// Posts to topics in turns.
pub(crate) struct Poster {
    topics: Vec<u32>,
    sent: u64,
}

impl Poster {
    pub(crate) fn new(topics: Vec<u32>) -> Self {
        Self { topics, sent: 0 }
    }
}

impl Speaker for Poster {
    fn begin(&mut self, out: &mut Vec<u8>) {
        // An empty post is answered and nothing else, which shows that the connection works.
        begin_message(out, 13);
        out.push(POST);
        out.extend_from_slice(&u32::MAX.to_le_bytes());
        out.extend_from_slice(&u64::MAX.to_le_bytes());
    }

    fn post(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        begin_message(out, 13 + payload.len());
        out.push(POST);
        let topic = self.topics[(self.sent % self.topics.len() as u64) as usize];
        out.extend_from_slice(&topic.to_le_bytes());
        out.extend_from_slice(&self.sent.to_le_bytes());
        out.extend_from_slice(payload);
        self.sent += 1;
    }

    fn hear(&mut self, message: &[u8], _: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        let [ANSWER, number @ ..] = message else { bail!("not an answer") };
        let Some(number) = number.first_chunk().map(|number| u64::from_le_bytes(*number)) else {
            bail!("too short")
        };
        if number == u64::MAX {
            heard.ready = true;
            return Ok(());
        }
        anyhow::ensure!(number == heard.answered, "post {number} was answered, not {}", heard.answered);
        heard.answered += 1;
        Ok(())
    }
}

/// Subscribes to topics, and checks what comes.
pub(crate) struct Reader {
    pub(crate) topics: Vec<u32>,
}

impl Speaker for Reader {
    fn begin(&mut self, out: &mut Vec<u8>) {
        for topic in &self.topics {
            begin_message(out, 5);
            out.push(SUBSCRIBE);
            out.extend_from_slice(&topic.to_le_bytes());
        }
    }

    fn post(&mut self, _: &[u8], _: &mut Vec<u8>) {}

    fn hear(&mut self, message: &[u8], _: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        match message {
            [SUBSCRIBE, ..] => heard.ready = true,
            [POST, rest @ ..] if rest.len() > 12 => heard.payload(&rest[12..])?,
            _ => bail!("neither a post nor an answer"),
        }
        Ok(())
    }
}

/// Subscribes to the topics of several groups, and acknowledges in each what came.
pub(crate) struct Member {
    /// How many payloads of each topic have come, and whether some are not acknowledged yet.
    topics: BTreeMap<u32, (u64, bool)>,
    /// The topics of which some are not.
    unacknowledged: Vec<u32>,
    subscribed: usize,
}

impl Member {
    pub(crate) fn new(topics: Vec<u32>) -> Self {
        let topics = topics.into_iter().map(|topic| (topic, (0, false))).collect();
        Self { topics, unacknowledged: Vec::new(), subscribed: 0 }
    }
}

impl Speaker for Member {
    fn begin(&mut self, out: &mut Vec<u8>) {
        Reader { topics: self.topics.keys().copied().collect() }.begin(out);
    }

    fn post(&mut self, _: &[u8], _: &mut Vec<u8>) {}

    fn hear(&mut self, message: &[u8], _: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        match message {
            [SUBSCRIBE, ..] => {
                self.subscribed += 1;
                heard.ready = self.subscribed == self.topics.len();
            }
            [POST, a, b, c, d, rest @ ..] if rest.len() > 8 => {
                let topic = u32::from_le_bytes([*a, *b, *c, *d]);
                let (count, waits) = self.topics.get_mut(&topic).context("a post of another topic")?;
                heard.payload_of(*count, &rest[8..])?;
                *count += 1;
                if !std::mem::replace(waits, true) {
                    self.unacknowledged.push(topic);
                }
            }
            _ => bail!("neither a post nor an answer"),
        }
        Ok(())
    }

    fn after_burst(&mut self, out: &mut Vec<u8>) {
        for topic in self.unacknowledged.drain(..) {
            let Some((count, waits)) = self.topics.get_mut(&topic) else { continue };
            *waits = false;
            begin_message(out, 13);
            out.push(ACK);
            out.extend_from_slice(&topic.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
    }
}
