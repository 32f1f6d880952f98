//! What a client says to the limit relays; see [`mod@crate::limit`].

use anyhow::bail;

use super::socket::begin_message;
use super::speaker::{Heard, Speaker};
use crate::limit::{ANSWER, POST, SUBSCRIBE};

/// Posts to a topic.
pub(crate) struct Poster {
    pub(crate) topic: u32,
    sent: u64,
}

impl Poster {
    pub(crate) fn new(topic: u32) -> Self {
        Self { topic, sent: 0 }
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
        out.extend_from_slice(&self.topic.to_le_bytes());
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
