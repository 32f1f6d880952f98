//! What the fuzz target and the replay of its corpus do with an input: feed it to a session as a client would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use posthorn_proto::Limits;
use posthorn_proto::frame::{ClientFrame, ServerFrame};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::outbox::ANSWER_BYTES;
use super::session::{Now, Session};
use crate::command::{Context, ContextParts};
use crate::config::Rates;
use crate::live::Hub;
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

/// Plays an input: two clients of one relay. Each step is a byte that says who, whether it takes its frames first, and how
/// much time passes, then a u16 length (big endian) and a frame. Panics if a promise of the session breaks.
#[doc(hidden)]
pub fn session(input: &[u8]) {
    let (hub, clock) = (Hub::new(), Arc::new(Ticks::default()));
    let store = MemoryStore::new(StorePolicy::default(), clock.clone(), hub.clone(), &mut StdRng::from_seed([1; 32]));
    let context = Context::new(ContextParts {
        store: Arc::new(store),
        hub: hub.clone(),
        limits: Limits { requests_in_flight: 8, openings_per_connection: 4, ..Limits::default() },
        rates: Rates::default(),
        outbox_bytes: OUTBOX_BYTES,
        memory_bytes: 64 << 20,
        open_registration: true,
        identity: RelaySecret::from_bytes([2; 32]),
        seed: [3; 32],
        software: String::new(),
    });
    let now = Now { unix_seconds: 1_800_000_000, millis: 0 };
    let mut sessions = [0, 1].map(|_| Session::new(context.clone(), None, now));
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
