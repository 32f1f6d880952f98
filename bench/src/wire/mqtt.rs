//! MQTT 3.1.1 as far as the comparison needs it: CONNECT, SUBSCRIBE, PUBLISH and PUBACK at QoS 1, over
//! WebSocket.
//!
//! Owns the packets. MQTT over WebSocket is a stream (section 6 of the specification), so packets may be cut
//! anywhere.

use anyhow::{bail, ensure};

use super::socket::message;
use super::speaker::{Heard, Speaker};

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;

/// What a client does.
enum Part {
    Poster,
    Reader {
        topics: Vec<u32>,
        /// Whether the session lives on once the client is gone.
        lasting: bool,
    },
}

/// An MQTT client.
pub(crate) struct Client {
    name: String,
    topic: u32,
    part: Part,
    sent: u64,
    /// The beginning of a packet whose end has not come yet.
    rest: Vec<u8>,
    scratch: Vec<u8>,
}

impl Client {
    /// Posts to a topic.
    pub(crate) fn poster(name: String, topic: u32) -> Self {
        Self { name, topic, part: Part::Poster, sent: 0, rest: Vec::new(), scratch: Vec::new() }
    }

    /// Reads topics and, if `lasting`, also what came while it was away.
    pub(crate) fn reader(name: String, topics: Vec<u32>, lasting: bool) -> Self {
        let part = Part::Reader { topics, lasting };
        Self { name, topic: 0, part, sent: 0, rest: Vec::new(), scratch: Vec::new() }
    }

    fn subscribe(&self, out: &mut Vec<u8>) {
        let Part::Reader { topics, .. } = &self.part else { return };
        let mut body = vec![0, 1];
        for topic in topics {
            text(&mut body, &name_of(*topic));
            body.push(1);
        }
        message(out, &packet(0x82, &body));
    }

    fn take(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        match kind & 0xf0 {
            CONNACK => {
                ensure!(body.get(1) == Some(&0), "the connection is refused: {body:?}");
                let known = body[0] & 1 == 1;
                match self.part {
                    Part::Reader { .. } if !known => self.subscribe(out),
                    _ => heard.ready = true,
                }
            }
            SUBACK => {
                ensure!(body[2..].iter().all(|granted| *granted == 1), "a subscription is refused: {body:?}");
                heard.ready = true;
            }
            PUBACK => heard.answered += 1,
            PUBLISH => {
                ensure!(kind & 0x06 == 0x02, "a delivery that is not of QoS 1");
                let topic = u16::from_be_bytes([body[0], body[1]]) as usize;
                let (id, payload) = body[2 + topic..].split_at(2);
                heard.payload(payload)?;
                message(out, &[PUBACK, 2, id[0], id[1]]);
            }
            _ => bail!("an unexpected packet: {kind:#x}"),
        }
        Ok(())
    }
}

impl Speaker for Client {
    fn begin(&mut self, out: &mut Vec<u8>) {
        let lasting = matches!(self.part, Part::Reader { lasting: true, .. });
        // Protocol name and level, flags (clean session or not), keep-alive of 10 minutes.
        let mut body = b"\x00\x04MQTT\x04".to_vec();
        body.push(if lasting { 0 } else { 2 });
        body.extend_from_slice(&600u16.to_be_bytes());
        text(&mut body, &self.name);
        message(out, &packet(0x10, &body));
    }

    fn post(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        text(&mut body, &name_of(self.topic));
        body.extend_from_slice(&((self.sent % 65_535) as u16 + 1).to_be_bytes());
        body.extend_from_slice(payload);
        message(out, &packet(PUBLISH | 0x02, &body));
        self.scratch = body;
        self.sent += 1;
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut used = 0;
        while let Some((header, length)) = header(&rest[used..]) {
            let (start, end) = (used + header, used + header + length);
            if rest.len() < end {
                break;
            }
            self.take(rest[used], &rest[start..end], out, heard)?;
            used = end;
        }
        rest.drain(..used);
        self.rest = rest;
        Ok(())
    }
}

fn name_of(topic: u32) -> String {
    format!("t/{topic}")
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 5);
    packet.push(kind);
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    packet
}

/// Lengths of the header and of the body.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= ((byte & 0x7f) as usize) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Some((at + 1, length));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cut_anywhere() {
        for length in [0, 1, 127, 128, 1050, 20_000] {
            let packet = packet(PUBLISH, &vec![1; length]);
            for cut in [0, 1, 2, 3] {
                match header(&packet[..cut.min(packet.len())]) {
                    Some((header, found)) => assert_eq!((header + length, found), (packet.len(), length)),
                    None => assert!(cut <= 3),
                }
            }
            assert_eq!(header(&packet), Some((packet.len() - length, length)));
        }
    }
}
