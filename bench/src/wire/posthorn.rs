//! Posthorn's own protocol, as described in `docs/protocol.md`.
//!
//! Owns the encoding of the frames that are sent often; everything else is left to `posthorn-proto`. All
//! mailboxes of a measurement have the same keys, which the relay cannot know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use posthorn_proto::frame::{Ack, ClientFrame, Open, Opening, Request, ServerBody, ServerFrame};
use posthorn_proto::{MailboxId, PostId, ReadKey, ReaderId};

use super::socket::{Socket, begin_message, message};
use super::speaker::{Heard, Speaker};
use crate::clock::{now, unix_seconds};

/// The post key of every mailbox.
pub(crate) const POST_KEY: [u8; 32] = [1; 32];
/// The read key of every reader.
pub(crate) const READ_KEY: [u8; 32] = [2; 32];
/// Envelopes for each acknowledgement of a reader, as docs/protocol.md advises.
pub(crate) const ACK_EACH: u32 = 100;
/// Envelopes that may be on their way to a reader, as docs/protocol.md advises.
pub(crate) const CREDIT: u32 = 1000;

/// The name of the reader with this index, in any mailbox.
pub(crate) fn reader(index: usize) -> ReaderId {
    let mut id = [3; 16];
    id[..8].copy_from_slice(&(index as u64).to_le_bytes());
    ReaderId(id)
}

/// Posts to mailboxes in turns.
pub(crate) struct Poster {
    mailboxes: Vec<MailboxId>,
    /// How many posts each mailbox had before this connection.
    before: u64,
    /// Makes this connection's post ids differ from those of others; below 2^48.
    name: u64,
    /// The relay's clock when it greeted, unix seconds, and when that was.
    greeted: (u64, Instant),
    sent: u64,
    /// All requests up to this number were answered.
    answered: u64,
    /// Requests beyond that number that were answered, too.
    ahead: BTreeSet<u64>,
}

impl Poster {
    /// A poster to mailboxes that have `before` envelopes each.
    pub(crate) fn new(mailboxes: Vec<MailboxId>, before: u64, name: u64) -> Self {
        // Until it is greeted, if it ever is: a pacer only writes.
        let (greeted, ahead) = ((unix_seconds(), now()), BTreeSet::new());
        Self { mailboxes, before, name, greeted, sent: 0, answered: 0, ahead }
    }

    /// The id of the post that is made now.
    fn post_id(&self) -> PostId {
        let (time, since) = self.greeted;
        let (mut numbers, [name, sent]) = ([0; 12], [self.name, self.sent].map(u64::to_le_bytes));
        numbers[..6].copy_from_slice(&name[..6]);
        numbers[6..].copy_from_slice(&sent[..6]);
        PostId::at(time + since.elapsed().as_secs(), numbers)
    }

    /// Notes an answer. Every request must be answered once, in whatever order.
    fn answered(&mut self, request: u64) -> anyhow::Result<()> {
        let once = request > self.answered && self.ahead.insert(request);
        ensure!(once, "request {request} was answered twice");
        while self.ahead.remove(&(self.answered + 1)) {
            self.answered += 1;
        }
        Ok(())
    }
}

impl Speaker for Poster {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn post(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let mailbox = &self.mailboxes[(self.sent % self.mailboxes.len() as u64) as usize];
        self.sent += 1;
        // Post: three fixed fields and the envelope.
        let body = 18 + 18 + 34 + 1 + varint_length(payload.len() as u64) + payload.len();
        let length = 1 + varint_length(self.sent) + 1 + varint_length(body as u64) + body;
        begin_message(out, length);
        out.push(1 << 3);
        varint(out, self.sent);
        out.push(11 << 3 | 2);
        varint(out, body as u64);
        out.extend_from_slice(&[1 << 3 | 2, 16]);
        out.extend_from_slice(&mailbox.0);
        out.extend_from_slice(&[2 << 3 | 2, 16]);
        out.extend_from_slice(&self.post_id().0);
        out.extend_from_slice(&[3 << 3 | 2, 32]);
        out.extend_from_slice(&POST_KEY);
        out.push(4 << 3 | 2);
        varint(out, payload.len() as u64);
        out.extend_from_slice(payload);
    }

    fn hear(&mut self, message: &[u8], _: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        match fast(message) {
            Some(Fast::Posted { request, seq }) => {
                self.answered(request)?;
                let expected = self.before + (request - 1) / self.mailboxes.len() as u64 + 1;
                ensure!(seq == expected, "request {request} was answered seq {seq} instead of {expected}");
                heard.answered += 1;
            }
            _ => match decode(message)?.body {
                ServerBody::Hello(hello) => {
                    self.greeted = (hello.time, now());
                    heard.ready = true;
                }
                other => bail!("a post was answered {other:?}"),
            },
        }
        Ok(())
    }
}

/// Reads a mailbox.
pub(crate) struct Reader {
    mailbox: MailboxId,
    reader: ReaderId,
    credit: u32,
    /// Whether to acknowledge while reading.
    acknowledges: bool,
    next: u64,
    unacknowledged: u32,
}

impl Reader {
    /// The reader with this index, which reads from the first envelope on, with the usual window.
    pub(crate) fn new(mailbox: MailboxId, index: usize) -> Self {
        let reader = reader(index);
        Self { mailbox, reader, credit: CREDIT, acknowledges: true, next: 1, unacknowledged: 0 }
    }

    /// Makes the reader take this many envelopes without acknowledging any.
    pub(crate) fn only_reads(mut self, credit: u32) -> Self {
        (self.credit, self.acknowledges) = (credit, false);
        self
    }

    fn take(
        &mut self,
        seq: u64,
        envelope: &[u8],
        out: &mut Vec<u8>,
        heard: &mut Heard,
    ) -> anyhow::Result<()> {
        ensure!(seq == self.next, "seq {seq} came instead of {}", self.next);
        heard.payload(envelope)?;
        self.next += 1;
        self.unacknowledged += 1;
        if self.acknowledges && self.unacknowledged == ACK_EACH {
            self.acknowledge(out);
        }
        Ok(())
    }
}

impl Speaker for Reader {
    fn begin(&mut self, out: &mut Vec<u8>) {
        message(out, &open(1, std::iter::once((self.mailbox, self.reader)), self.credit));
    }

    fn post(&mut self, _: &[u8], _: &mut Vec<u8>) {}

    fn hear(&mut self, message: &[u8], out: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        if let Some(Fast::Delivery { seq, envelope, .. }) = fast(message) {
            return self.take(seq, envelope, out, heard);
        }
        match decode(message)?.body {
            ServerBody::Hello(_) => {}
            ServerBody::Opened(opened) => {
                check_opened(&opened)?;
                heard.ready = true;
            }
            other => bail!("a reader was told {other:?}"),
        }
        Ok(())
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if self.unacknowledged == 0 {
            return;
        }
        ack(self.mailbox, self.next - 1, self.unacknowledged, out);
        self.unacknowledged = 0;
    }
}

/// Reads the mailboxes of several groups, and acknowledges in each what came.
pub(crate) struct Member {
    readers: BTreeMap<MailboxId, (ReaderId, u64)>,
    /// How much came of each mailbox since it was last acknowledged.
    unacknowledged: BTreeMap<MailboxId, u32>,
}

impl Member {
    /// In each mailbox it is the reader with this index, and reads from the first envelope on.
    pub(crate) fn new(mailboxes: impl Iterator<Item = (MailboxId, usize)>) -> Self {
        let readers = mailboxes.map(|(mailbox, index)| (mailbox, (reader(index), 1))).collect();
        Self { readers, unacknowledged: BTreeMap::new() }
    }
}

impl Speaker for Member {
    fn begin(&mut self, out: &mut Vec<u8>) {
        let readers = self.readers.iter().map(|(mailbox, (reader, _))| (*mailbox, *reader));
        message(out, &open(1, readers, CREDIT));
    }

    fn post(&mut self, _: &[u8], _: &mut Vec<u8>) {}

    fn hear(&mut self, message: &[u8], _: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        if let Some(Fast::Delivery { mailbox, seq, envelope }) = fast(message) {
            let (_, next) = self.readers.get_mut(&mailbox).context("an envelope of another mailbox")?;
            ensure!(seq == *next, "seq {seq} came instead of {next}");
            heard.payload_of(seq - 1, envelope)?;
            *next += 1;
            *self.unacknowledged.entry(mailbox).or_default() += 1;
            return Ok(());
        }
        match decode(message)?.body {
            ServerBody::Hello(_) => {}
            ServerBody::Opened(opened) => {
                check_opened(&opened)?;
                heard.ready = true;
            }
            other => bail!("a member was told {other:?}"),
        }
        Ok(())
    }

    fn after_burst(&mut self, out: &mut Vec<u8>) {
        while let Some((mailbox, count)) = self.unacknowledged.pop_first() {
            if let Some((_, next)) = self.readers.get(&mailbox) {
                ack(mailbox, next - 1, count, out);
            }
        }
    }
}

/// An acknowledgement that is not answered, and gives credit.
fn ack(mailbox: MailboxId, seq: u64, credit: u32, out: &mut Vec<u8>) {
    let body = 18 + 1 + varint_length(seq) + 1 + varint_length(credit.into());
    begin_message(out, 2 + body);
    out.extend_from_slice(&[14 << 3 | 2, body as u8, 1 << 3 | 2, 16]);
    out.extend_from_slice(&mailbox.0);
    out.push(2 << 3);
    varint(out, seq);
    out.push(3 << 3);
    varint(out, credit.into());
}

/// Has mailboxes open, and only waits.
pub(crate) struct Idle {
    pub(crate) mailboxes: Vec<MailboxId>,
}

impl Speaker for Idle {
    fn begin(&mut self, out: &mut Vec<u8>) {
        message(out, &open(1, self.mailboxes.iter().map(|mailbox| (*mailbox, reader(0))), CREDIT));
    }

    fn post(&mut self, _: &[u8], _: &mut Vec<u8>) {}

    fn hear(&mut self, message: &[u8], _: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()> {
        match decode(message)?.body {
            ServerBody::Hello(_) => {}
            ServerBody::Opened(opened) => {
                check_opened(&opened)?;
                heard.ready = true;
            }
            other => bail!("an idle connection was told {other:?}"),
        }
        Ok(())
    }
}

/// An `Open` of many mailboxes, of each as one of its readers.
pub(crate) fn open(
    request: u64,
    mailboxes: impl Iterator<Item = (MailboxId, ReaderId)>,
    credit: u32,
) -> Bytes {
    let read_key = ReadKey::from_bytes(READ_KEY);
    let opening =
        |(mailbox, reader)| Opening { mailbox, reader, read_key: read_key.clone(), claim: None, credit };
    ClientFrame { request, body: Request::Open(Open { openings: mailboxes.map(opening).collect() }) }.encode()
}

/// An acknowledgement that is answered once it is durable.
pub(crate) fn lasting_ack(request: u64, mailbox: MailboxId, seq: u64) -> Bytes {
    ClientFrame { request, body: Request::Ack(Ack { mailbox, seq, credit: 0 }) }.encode()
}

/// Fails if any of them was not opened.
pub(crate) fn check_opened(opened: &[posthorn_proto::frame::Opened]) -> anyhow::Result<()> {
    match opened.iter().find_map(|opened| opened.result.as_ref().err()) {
        None => Ok(()),
        Some(refusal) => bail!("opening: {refusal:?}"),
    }
}

/// The next frame of the relay, whichever it is.
pub(crate) async fn hear(socket: &mut Socket) -> anyhow::Result<ServerBody> {
    loop {
        if let Some(message) = socket.next()? {
            return Ok(decode(socket.bytes(message).0)?.body);
        }
        socket.fill().await?;
    }
}

/// Decodes any frame of the relay.
pub(crate) fn decode(message: &[u8]) -> anyhow::Result<ServerFrame> {
    ServerFrame::decode(Bytes::copy_from_slice(message)).context("not a frame")
}

/// The two frames that come by the hundred thousand, decoded in place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fast<'a> {
    Posted { request: u64, seq: u64 },
    Delivery { mailbox: MailboxId, seq: u64, envelope: &'a [u8] },
}

/// Decodes these; `None` for every other frame, and for what is not understood here.
pub(crate) fn fast(message: &[u8]) -> Option<Fast<'_>> {
    let (mut rest, mut request) = (message, 0);
    loop {
        match read_varint(&mut rest)? {
            0x08 => request = read_varint(&mut rest)?,
            // Posted is message 11, with the seq as its only field.
            0x5a => {
                let mut body = field(&mut rest)?;
                let seq = (read_varint(&mut body)? == 0x08).then(|| read_varint(&mut body)).flatten()?;
                return rest.is_empty().then_some(Fast::Posted { request, seq });
            }
            // Delivery is message 50.
            0x192 => return delivery(field(&mut rest)?),
            _ => return None,
        }
    }
}

fn delivery(mut body: &[u8]) -> Option<Fast<'_>> {
    let (mut mailbox, mut seq) = (MailboxId([0; 16]), 0);
    loop {
        match read_varint(&mut body)? {
            0x0a => mailbox = field(&mut body)?.try_into().ok()?,
            0x10 => seq = read_varint(&mut body)?,
            0x22 => return Some(Fast::Delivery { mailbox, seq, envelope: field(&mut body)? }),
            // The post id, which is not needed.
            0x1a => drop(field(&mut body)?),
            _ => return None,
        }
    }
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_varint(bytes)? as usize;
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(field)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use posthorn_proto::frame::Delivery;

    use super::*;

    /// The frame behind the WebSocket header, for the relay's own decoder.
    fn sent(out: &[u8]) -> ClientFrame {
        let start = if out[1] & 0x7f < 126 { 6 } else { 8 };
        ClientFrame::decode(Bytes::copy_from_slice(&out[start..])).expect("a frame of the protocol")
    }

    #[test]
    fn posts_are_what_the_protocol_says() {
        let mut poster = Poster::new(vec![MailboxId([9; 16]), MailboxId([8; 16])], 0, 5);
        poster.greeted.0 = 1_800_000_000;
        let mut ids = BTreeSet::new();
        for count in 1..300 {
            let mut out = Vec::new();
            poster.post(&[4; 1024], &mut out);
            let frame = sent(&out);
            assert_eq!(frame.request, count);
            let Request::Post(post) = frame.body else { panic!("a post") };
            assert_eq!(
                (post.post_key.expose(), &post.envelope[..], post.turn),
                (&POST_KEY, &[4; 1024][..], None)
            );
            assert!(ids.insert(post.post_id) && post.post_id.seconds() >= 1_800_000_000);
            assert_eq!(post.mailbox.0[0], if count % 2 == 1 { 9 } else { 8 });
        }
    }

    #[test]
    fn acks_are_what_the_protocol_says() {
        let mut reader = Reader::new(MailboxId([9; 16]), 0);
        (reader.next, reader.unacknowledged) = (301, 100);
        let mut out = Vec::new();
        reader.acknowledge(&mut out);
        let frame = sent(&out);
        assert_eq!(frame.request, 0);
        let Request::Ack(ack) = frame.body else { panic!("an ack") };
        assert_eq!((ack.mailbox, ack.seq, ack.credit), (MailboxId([9; 16]), 300, 100));
    }

    #[test]
    fn the_fast_way_reads_what_the_relay_says() {
        for seq in [1, 127, 128, 70_000] {
            let posted = ServerFrame { request: seq + 1, body: ServerBody::Posted { seq } }.encode();
            assert_eq!(fast(&posted), Some(Fast::Posted { request: seq + 1, seq }));
            let delivery = Delivery {
                mailbox: MailboxId([1; 16]),
                seq,
                post_id: PostId([2; 16]),
                envelope: Bytes::from_static(b"envelope"),
                turn: None,
            };
            let delivery = ServerFrame { request: 0, body: ServerBody::Delivery(delivery) }.encode();
            assert_eq!(
                fast(&delivery),
                Some(Fast::Delivery { mailbox: MailboxId([1; 16]), seq, envelope: b"envelope" })
            );
        }
        assert_eq!(fast(&ServerFrame { request: 1, body: ServerBody::Done }.encode()), None);
    }
}
