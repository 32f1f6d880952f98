//! WebSocket frames (RFC 6455, section 5) as a relay meets them, without a socket: bytes in, whole messages
//! out.
//!
//! Owns the bytes of a message until it is whole, and how frames are written. Knows neither sockets nor
//! sessions.
//!
//! Why not the crate that clients use: a connection here holds nothing while it is idle, a payload is copied
//! once (while it is unmasked), and memory grows with the bytes that came, never with those that were
//! promised.

use bytes::Bytes;

use super::recycled;

/// Longest header of a client's frame: two bytes, eight of length, four of mask.
const HEADER_BYTES: usize = 14;
/// Longest payload of a control frame (RFC 6455, section 5.5): none has a longer form of length.
const CONTROL_BYTES: u8 = 125;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A whole binary message.
    Binary(Bytes),
    /// A whole text message, whose encoding nobody has looked at. Only where text is taken.
    Text(Bytes),
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// Asks for nothing.
    Pong,
    /// The client closes; to be answered with the same code.
    Close(Option<u16>),
}

/// Why what came cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not WebSocket, or not a client's.
    Protocol,
    /// A text message: this protocol has none.
    Text,
    /// A message above the limit. Told by its header, before its bytes are there.
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Binary,
    Text,
    Continuation,
    Close,
    Ping,
    Pong,
}

impl Kind {
    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame whose header has come.
#[derive(Debug)]
struct Frame {
    kind: Kind,
    last: bool,
    /// Rotated so that its first byte is for the next byte of payload.
    mask: [u8; 4],
    /// Bytes of payload that are still to come.
    left: usize,
}

/// Makes messages of bytes.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Largest message, bytes.
    most: usize,
    /// The beginning of a header that has not come whole.
    header: [u8; HEADER_BYTES],
    header_bytes: u8,
    frame: Option<Frame>,
    /// The message so far; the first frame was not its last.
    fragmented: bool,
    /// Whether text is a message. The relay's protocol has none; conformance suites have.
    takes_text: bool,
    /// The message that is coming is text.
    is_text: bool,
    message: Vec<u8>,
    /// The payload of a control frame, which may come between a message's fragments. Empty most of the time.
    control: Vec<u8>,
}

impl Decoder {
    /// For messages of at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            frame: None,
            fragmented: false,
            takes_text: false,
            is_text: false,
            message: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Takes text, too.
    pub(crate) fn with_text(self) -> Self {
        Self { takes_text: true, ..self }
    }

    /// Takes bytes from the front of `input` until something is whole. `None`: all of it was taken, and more
    /// has to come. After a fault there is nothing more to be had.
    pub(crate) fn take(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Fault> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.take_header(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let buffer = if frame.kind.is_control() { &mut self.control } else { &mut self.message };
            if buffer.capacity() == 0 && frame.left <= input.len() {
                *buffer = recycled::buffer(frame.left);
            }
            frame.take(input, buffer);
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            match frame.kind {
                Kind::Binary | Kind::Text | Kind::Continuation => {
                    self.is_text |= frame.kind == Kind::Text;
                    self.fragmented = !frame.last;
                    if frame.last {
                        let message = recycled::message(std::mem::take(&mut self.message));
                        let is_text = std::mem::take(&mut self.is_text);
                        return Ok(Some(if is_text { Event::Text(message) } else { Event::Binary(message) }));
                    }
                }
                Kind::Ping => return Ok(Some(Event::Ping(std::mem::take(&mut self.control).into()))),
                Kind::Pong => {
                    self.control = Vec::new();
                    return Ok(Some(Event::Pong));
                }
                Kind::Close => {
                    return Ok(Some(Event::Close(closing_code(&std::mem::take(&mut self.control))?)));
                }
            }
        }
    }

    /// Bytes held of a message that is not whole.
    pub(crate) fn held(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    /// Whether a message or frame has begun and not ended.
    pub(crate) fn is_within_message(&self) -> bool {
        self.header_bytes > 0 || self.frame.is_some() || self.fragmented
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Fault> {
        if self.header_bytes == 0
            && let Some((frame, rest)) = self.parse(input)?
        {
            *input = rest;
            return Ok(Some(frame));
        }
        // It comes in pieces: gather it byte by byte.
        while let Some((first, rest)) = input.split_first() {
            self.header[usize::from(self.header_bytes)] = *first;
            self.header_bytes += 1;
            *input = rest;
            if let Some((frame, _)) = self.parse(&self.header[..usize::from(self.header_bytes)])? {
                self.header_bytes = 0;
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// A header and what follows it, if it is there whole. Refused as soon as it can be seen that it must be.
    fn parse<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Frame, &'a [u8])>, Fault> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let last = first & 0x80 != 0;
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(Fault::Protocol);
        }
        let kind = match first & 0x0f {
            0 if self.fragmented => Kind::Continuation,
            1 if !self.fragmented && self.takes_text => Kind::Text,
            1 if !self.fragmented => return Err(Fault::Text),
            2 if !self.fragmented => Kind::Binary,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => return Err(Fault::Protocol),
        };
        let short = second & 0x7f;
        if kind.is_control() && (short > CONTROL_BYTES || !last) {
            return Err(Fault::Protocol);
        }
        // A length stands in the shortest form that it fits (section 5.2).
        let (length, least, rest) = match short {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), 126, rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), 0x1_0000, rest),
                None => return Ok(None),
            },
            short => (u64::from(short), 0, rest),
        };
        if length < least || length >> 63 != 0 {
            return Err(Fault::Protocol);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !kind.is_control() && length > self.most - self.message.len() {
            return Err(Fault::TooLarge);
        }
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Frame { kind, last, mask: *mask, left: length }, rest)))
    }
}

impl Frame {
    /// Moves what is there of the payload into the buffer, which grows with what comes.
    fn take(&mut self, input: &mut &[u8], buffer: &mut Vec<u8>) {
        let (masked, rest) = input.split_at(self.left.min(input.len()));
        *input = rest;
        if buffer.capacity() - buffer.len() < masked.len() {
            // Twice what there is, but never more than the frame needs: a message that comes at once has a
            // buffer of its own length.
            buffer.reserve_exact(self.left.min(masked.len().max(buffer.len())));
        }
        unmask(buffer, masked, self.mask);
        self.left -= masked.len();
        self.mask.rotate_left(masked.len() % 4);
    }
}

fn unmask(buffer: &mut Vec<u8>, masked: &[u8], mask: [u8; 4]) {
    let start = buffer.len();
    buffer.extend_from_slice(masked);
    let (words, rest) = buffer[start..].as_chunks_mut::<4>();
    let key = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// The code of a close frame (RFC 6455, sections 5.5.1 and 7.4).
fn closing_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Fault::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    let is_allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if is_allowed && std::str::from_utf8(reason).is_ok() { Ok(Some(code)) } else { Err(Fault::Protocol) }
}

/// Begins a binary message of this length; its bytes follow.
pub(crate) fn begin_binary(length: usize, out: &mut Vec<u8>) {
    begin(2, length, out);
}

/// Begins a text message of this length; its bytes follow.
pub(crate) fn begin_text(length: usize, out: &mut Vec<u8>) {
    begin(1, length, out);
}

/// Answers a ping.
pub(crate) fn pong(payload: &[u8], out: &mut Vec<u8>) {
    begin(10, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Closes, with a code and a word of at most 123 bytes.
pub(crate) fn close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let code = code.map(u16::to_be_bytes);
    let code = code.as_ref().map_or(&[][..], |code| &code[..]);
    begin(8, code.len() + reason.len(), out);
    out.extend_from_slice(code);
    out.extend_from_slice(reason.as_bytes());
}

/// A relay's frame is not masked and never fragmented.
fn begin(opcode: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's frame, masked.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(0x80 | short as u8),
            middle @ 126..=0xffff => {
                bytes.push(0x80 | 126);
                bytes.extend((middle as u16).to_be_bytes());
            }
            long => {
                bytes.push(0x80 | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Everything that comes of these bytes if they come in pieces of this size, up to a fault.
    fn decode(bytes: &[u8], piece: usize) -> (Vec<Event>, Option<Fault>) {
        let (mut decoder, mut events) = (Decoder::new(100_000), Vec::new());
        for mut input in bytes.chunks(piece.max(1)) {
            loop {
                match decoder.take(&mut input) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(fault) => return (events, Some(fault)),
                }
            }
        }
        (events, None)
    }

    fn binary(len: usize) -> Event {
        Event::Binary((0..len).map(|n| n as u8).collect::<Vec<_>>().into())
    }

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|n| n as u8).collect()
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let mut bytes = Vec::new();
        for len in [1, 125, 126, 1024, 65_535, 65_536] {
            bytes.extend(frame(0x82, &payload(len)));
        }
        // Three fragments with a ping between them.
        let whole = payload(300);
        bytes.extend(frame(0x02, &whole[..100]));
        bytes.extend(frame(0x89, b"are you there"));
        bytes.extend(frame(0x00, &whole[100..101]));
        bytes.extend(frame(0x80, &whole[101..]));
        bytes.extend(frame(0x8a, b""));
        bytes.extend(frame(0x88, b"\x03\xe8bye"));
        let mut expected: Vec<_> = [1, 125, 126, 1024, 65_535, 65_536].map(binary).into();
        expected.extend([Event::Ping(Bytes::from_static(b"are you there")), binary(300), Event::Pong]);
        expected.push(Event::Close(Some(1000)));
        for piece in [1, 2, 3, 7, 1000, bytes.len()] {
            assert_eq!(decode(&bytes, piece), (expected.clone(), None), "pieces of {piece}");
        }
    }

    #[test]
    fn what_breaks_the_rules_is_a_fault_at_once() {
        let unmasked = [0x82, 1, 0];
        let cases: &[(&[u8], Fault)] = &[
            (&unmasked, Fault::Protocol),
            (&frame(0xc2, b"x")[..2], Fault::Protocol),
            (&frame(0x83, b"x")[..2], Fault::Protocol),
            (&frame(0x80, b"x")[..2], Fault::Protocol),
            (&frame(0x81, b"x")[..2], Fault::Text),
            (&frame(0x09, b"x")[..2], Fault::Protocol),
            (&frame(0x89, &[0; 126])[..4], Fault::Protocol),
            (&frame(0x88, b"x"), Fault::Protocol),
            (&frame(0x88, b"\x03\xed"), Fault::Protocol),
            (&frame(0x88, b"\x03\xe8\xff"), Fault::Protocol),
            (&[&frame(0x02, b"x")[..], &frame(0x82, b"x")[..2]].concat(), Fault::Protocol),
            (&[0x82, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0], Fault::TooLarge),
            // The highest bit of a length, and lengths that fit a shorter form.
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], Fault::Protocol),
            (&[0x82, 0xfe, 0, 125], Fault::Protocol),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Fault::Protocol),
            (&[0x89, 0xfe, 0, 5], Fault::Protocol),
            (&[0x88, 0xff, 0, 0, 0, 0, 0, 0, 0, 2], Fault::Protocol),
            (&[&frame(0x02, &[0; 60_000])[..], &frame(0x80, &[0; 60_000])[..4]].concat(), Fault::TooLarge),
        ];
        for (bytes, fault) in cases {
            assert_eq!(decode(bytes, 1).1, Some(*fault), "{bytes:x?}");
            assert_eq!(decode(bytes, bytes.len()).1, Some(*fault), "{bytes:x?}");
        }
    }

    #[test]
    fn text_is_a_message_only_where_it_is_taken() {
        let bytes = [frame(0x01, b"to"), frame(0x89, b""), frame(0x80, b"day"), frame(0x82, b"!")].concat();
        let (mut decoder, mut input) = (Decoder::new(100).with_text(), &bytes[..]);
        let events: Vec<_> = std::iter::from_fn(|| decoder.take(&mut input).expect("no fault")).collect();
        let expected =
            [Event::Ping(Bytes::new()), Event::Text("today".into()), Event::Binary(Bytes::from_static(b"!"))];
        assert_eq!(events, expected);
        assert_eq!(decode(&bytes, 1), (Vec::new(), Some(Fault::Text)));
    }

    #[test]
    fn memory_grows_with_what_came_and_not_with_what_was_promised() {
        let mut decoder = Decoder::new(1 << 40);
        let mut input = &[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6][..];
        assert_eq!(decoder.take(&mut input), Ok(None));
        assert!(decoder.held() <= 16 && decoder.is_within_message());
    }

    #[test]
    fn what_is_sent_is_what_clients_read() {
        use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
        let mut out = Vec::new();
        for len in [1, 125, 126, 65_535, 65_536] {
            begin_binary(len, &mut out);
            out.extend(payload(len));
        }
        pong(b"yes", &mut out);
        close(Some(posthorn_proto::CLOSE_STALLED), "STALLED", &mut out);
        let mut client = WebSocket::from_raw_socket(std::io::Cursor::new(out), Role::Client, None);
        for len in [1, 125, 126, 65_535, 65_536] {
            assert_eq!(client.read().expect("a message").into_data(), payload(len));
        }
        assert_eq!(client.read().expect("a pong").into_data(), "yes");
        let closed = client.read().expect("an end");
        assert!(closed.to_string().contains("STALLED"), "{closed:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_input_panics_and_pieces_make_no_difference(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x82), Just(0x80), Just(0x02)], 0..200),
            piece in 1usize..20,
        ) {
            prop_assert_eq!(decode(&bytes, piece), decode(&bytes, bytes.len()));
        }
    }
}
