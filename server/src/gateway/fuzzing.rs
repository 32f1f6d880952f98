//! What the fuzz targets `session` and `websocket`, and the replays of their corpora, do with an input.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use posthorn_proto::Limits;
use posthorn_proto::frame::{ClientFrame, ServerFrame};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use tokio_tungstenite::tungstenite;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::session::Session;
use super::websocket::{Decoder, Event, Fault};
use crate::command::{Context, ContextParts};
use crate::config::Rates;
use crate::live::Hub;
use crate::outbox::ANSWER_BYTES;
use crate::secret::RelaySecret;
use crate::store::memory::MemoryStore;
use crate::store::{Clock, StorePolicy};

const OUTBOX_BYTES: usize = 32 * 1024;

#[derive(Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn unix_seconds(&self) -> u64 {
        1_800_000_000 + self.monotonic_seconds()
    }

    fn monotonic_seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1000
    }
}

/// Plays an input: two clients of one relay. Each step is a byte that says who, whether it takes its frames
/// first, and how much time passes, then a u16 length (big endian) and a frame. Panics if a promise of the
/// session breaks.
#[doc(hidden)]
pub fn session(input: &[u8]) {
    let (hub, clock) = (Hub::new(), Arc::new(Ticks::default()));
    let store =
        MemoryStore::new(StorePolicy::default(), clock.clone(), hub.clone(), &mut StdRng::from_seed([1; 32]));
    let store = Arc::new(store);
    let context = Context::new(ContextParts {
        mailboxes: store.clone(),
        directory: store.clone(),
        blobs: store.clone(),
        store,
        hub: hub.clone(),
        limits: Limits { requests_in_flight: 8, openings_per_connection: 4, ..Limits::default() },
        rates: Rates::default(),
        outbox_bytes: OUTBOX_BYTES,
        memory_bytes: 64 << 20,
        open_registration: true,
        open_directory: true,
        identity: RelaySecret::from_bytes([2; 32]),
        seed: [3; 32],
        software: String::new(),
    });
    let mut sessions = [0, 1].map(|_| Session::new(context.clone(), None, 0));
    let mut rest = input;
    while let [step, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        clock.0.fetch_add(u64::from(step >> 2) * 50, Ordering::Relaxed);
        let session = &mut sessions[usize::from(step & 1)];
        if step & 2 != 0 {
            take(session);
        }
        if session.accepts_frames() {
            let frame = ClientFrame::decode(Bytes::copy_from_slice(frame));
            let work = session.on_frame(frame, clock.0.load(Ordering::Relaxed));
            work.into_iter().for_each(|work| work.now_or_never().expect("the memory engine answers at once"));
        }
        sessions.iter_mut().for_each(|session| {
            catch_up(session);
            assert!(session.outbox().answer_bytes() <= 2 * ANSWER_BYTES, "answers are bounded");
        });
    }
    sessions.iter_mut().for_each(take);
    drop(sessions);
    assert_eq!(hub.openings(), 0, "openings end with their sessions");
}

fn catch_up(session: &mut Session) {
    while let Some(work) = session.catch_up() {
        work.now_or_never().expect("the memory engine answers at once");
    }
}

fn take(session: &mut Session) {
    while let Some(bytes) = session.outbox().pop() {
        ServerFrame::decode(bytes).expect("the relay speaks well");
        catch_up(session);
    }
}

/// Largest message of the target `websocket`, bytes: small, so that inputs come to the limit.
const MESSAGE_BYTES: usize = 300;

/// Takes the first byte for the size of the pieces in which the others come from a client. Panics if pieces
/// make a difference, if more is held than came, or if another implementation would read something else.
#[doc(hidden)]
pub fn websocket(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let (events, fault) = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, usize::from(*piece).max(1)), (events.clone(), fault), "in pieces of {piece}");
    let ours: Vec<_> = events.iter().take_while(|event| !matches!(event, Event::Close(_))).collect();
    let mut theirs = WebSocket::from_raw_socket(OneWay(bytes), Role::Server, Some(their_config()));
    for event in &ours {
        let message = theirs.read().expect("what is taken here is taken there");
        let is_same = match (event, &message) {
            (Event::Binary(one), Message::Binary(other)) | (Event::Ping(one), Message::Ping(other)) => {
                one == other
            }
            (Event::Pong, Message::Pong(_)) => true,
            _ => false,
        };
        assert!(is_same, "{event:?} and {message:?}");
    }
    if fault.is_none() && ours.len() == events.len() {
        let more = theirs.read();
        assert!(more.is_err(), "they go on with {more:?}");
    }
}

fn their_config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES)).max_frame_size(Some(MESSAGE_BYTES))
}

/// What comes of these bytes, up to a close or a fault.
fn decode(bytes: &[u8], piece: usize) -> (Vec<Event>, Option<Fault>) {
    let (mut decoder, mut events, mut came) = (Decoder::new(MESSAGE_BYTES), Vec::new(), 0);
    for mut input in bytes.chunks(piece) {
        came += input.len();
        loop {
            let event = match decoder.take(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(fault) => return (events, Some(fault)),
            };
            let is_end = matches!(event, Event::Close(_));
            events.push(event);
            if is_end {
                return (events, None);
            }
        }
        assert!(decoder.held() <= 2 * came + 16, "{} held of {came}", decoder.held());
    }
    (events, None)
}

/// A socket that was sent these bytes and to which nobody listens.
struct OneWay<'a>(&'a [u8]);

impl io::Read for OneWay<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl io::Write for OneWay<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
