//! The NATS client protocol and JetStream's requests, as far as the comparison needs them, over WebSocket.
//!
//! Owns the words. All topics are subjects of one stream on disk. A poster waits for the stream's answer to
//! every post; a reader is a durable push consumer that acknowledges each hundredth message, and with it all
//! before it; a listener is a plain subscription.

use anyhow::{Context as _, bail, ensure};

use super::socket::message;
use super::speaker::{Heard, Speaker};

/// Messages for each acknowledgement.
const ACK_EACH: u32 = 100;

/// What a client does.
enum Part {
    Poster { topic: usize },
    Reader { topic: usize, name: String },
    Listener { topics: Vec<usize> },
}

/// A NATS client.
pub(crate) struct Client {
    part: Part,
    rest: Vec<u8>,
    /// The subject to which the newest delivery is to be acknowledged.
    reply: Vec<u8>,
    unacknowledged: u32,
}

impl Client {
    fn new(part: Part) -> Self {
        Self { part, rest: Vec::new(), reply: Vec::new(), unacknowledged: 0 }
    }

    /// Posts to a topic.
    pub(crate) fn poster(topic: usize) -> Self {
        Self::new(Part::Poster { topic })
    }

    /// Reads a topic as a durable consumer, which gets everything from the beginning on.
    pub(crate) fn reader(topic: usize, reader: usize) -> Self {
        Self::new(Part::Reader { topic, name: format!("d{topic}-{reader}") })
    }

    /// Gets what is posted while it is there.
    pub(crate) fn listener(topics: Vec<usize>) -> Self {
        Self::new(Part::Listener { topics })
    }

    /// The name of the inbox in which answers come; two readers of a topic must not share one.
    fn inbox(&self) -> String {
        match &self.part {
            Part::Poster { topic } => format!("A.p{topic}"),
            Part::Reader { name, .. } => format!("A.{name}"),
            Part::Listener { .. } => "A.listener".to_owned(),
        }
    }

    fn publish(&self, subject: &str, body: &str, out: &mut Vec<u8>) {
        let text = format!("PUB {subject} {} {}\r\n{body}\r\n", self.inbox(), body.len());
        message(out, text.as_bytes());
    }

    /// A line with its payload, if it has one.
    fn take(
        &mut self,
        line: &str,
        payload: &[u8],
        out: &mut Vec<u8>,
        heard: &mut Heard,
    ) -> anyhow::Result<()> {
        let mut words = line.split(' ');
        match words.next().unwrap_or_default() {
            "PING" => message(out, b"PONG\r\n"),
            "PONG" => heard.ready |= matches!(self.part, Part::Listener { .. }),
            "INFO" | "+OK" => {}
            "MSG" => {
                let (Some(subject), Some(_), Some(reply)) = (words.next(), words.next(), words.next()) else {
                    bail!("a message without a subject: {line}");
                };
                if subject == self.inbox() {
                    return self.answered(payload, out, heard);
                }
                heard.payload(payload)?;
                if let Part::Reader { .. } = self.part {
                    self.reply.clear();
                    self.reply.extend_from_slice(reply.as_bytes());
                    self.unacknowledged += 1;
                    if self.unacknowledged == ACK_EACH {
                        self.acknowledge(out);
                    }
                }
            }
            _ => bail!("the server says {line}"),
        }
        Ok(())
    }

    fn answered(&mut self, payload: &[u8], out: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        let answer = String::from_utf8_lossy(payload);
        ensure!(!answer.contains("\"error\""), "JetStream answers {answer}");
        if answer.contains("io.nats.jetstream.api.v1.stream_create_response") {
            let Part::Reader { topic, name } = &self.part else {
                heard.ready = true;
                return Ok(());
            };
            let consumer = format!(
                "{{\"stream_name\":\"bench\",\"config\":{{\"durable_name\":\"{name}\",\"deliver_subject\":\"D.{name}\",\
                 \"ack_policy\":\"all\",\"deliver_policy\":\"all\",\"filter_subject\":\"m.{topic}\",\"max_ack_pending\":2000}}}}"
            );
            self.publish(&format!("$JS.API.CONSUMER.DURABLE.CREATE.bench.{name}"), &consumer, out);
        } else if answer.contains("consumer_create_response") {
            heard.ready = true;
        } else {
            heard.answered += 1;
        }
        Ok(())
    }
}

impl Speaker for Client {
    fn begin(&mut self, out: &mut Vec<u8>) {
        message(
            out,
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"1\"}\r\n",
        );
        match &self.part {
            Part::Listener { topics } => {
                for (index, topic) in topics.iter().enumerate() {
                    message(out, format!("SUB m.{topic} {}\r\n", index + 2).as_bytes());
                }
                message(out, b"PING\r\n");
                return;
            }
            Part::Reader { name, .. } => message(out, format!("SUB D.{name} 2\r\n").as_bytes()),
            Part::Poster { .. } => {}
        }
        message(out, format!("SUB {} 1\r\n", self.inbox()).as_bytes());
        let stream =
            "{\"name\":\"bench\",\"subjects\":[\"m.>\"],\"storage\":\"file\",\"retention\":\"limits\"}";
        self.publish("$JS.API.STREAM.CREATE.bench", stream, out);
    }

    fn post(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let Part::Poster { topic } = self.part else { return };
        let mut text = format!("PUB m.{topic} A.p{topic} {}\r\n", payload.len()).into_bytes();
        text.extend_from_slice(payload);
        text.extend_from_slice(b"\r\n");
        message(out, &text);
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(at) = rest[used..].windows(2).position(|two| two == b"\r\n") {
            let line = std::str::from_utf8(&rest[used..used + at]).context("a line that is not text")?;
            let start = used + at + 2;
            let length = match line.strip_prefix("MSG ") {
                Some(words) => words.rsplit(' ').next().unwrap_or_default().parse::<usize>()? + 2,
                None => 0,
            };
            if rest.len() < start + length {
                break;
            }
            self.take(line, &rest[start..start + length.saturating_sub(2)], out, heard)?;
            used = start + length;
        }
        rest.drain(..used);
        self.rest = rest;
        Ok(())
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if self.unacknowledged == 0 {
            return;
        }
        let mut text = b"PUB ".to_vec();
        text.extend_from_slice(&self.reply);
        text.extend_from_slice(b" 4\r\n+ACK\r\n");
        message(out, &text);
        self.unacknowledged = 0;
    }
}
