//! The corpora of the fuzz targets `session` and `websocket`, replayed. The inputs below are where the fuzzer
//! starts from; write them anew with `POSTHORN_CORPUS=write cargo test -p posthorn-server --lib corpus`.

use std::path::Path;
use std::sync::Arc;

use posthorn_proto::frame::{Ack, ClientFrame, Request, Signal};
use posthorn_proto::{Limits, PostKey, Reader, Token, TurnKey};

use super::super::fuzzing::{session, websocket};
use super::support::*;
use crate::command::{Context, ContextParts};
use crate::config::Rates;
use crate::live::Hub;
use crate::secret::RelaySecret;
use crate::store::StorePolicy;
use crate::store::memory::MemoryStore;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");

#[test]
fn the_corpus_is_survived() {
    replay("session", seeds().into_iter().map(|(name, input)| (name.to_string(), input)), 41, session);
}

#[test]
fn the_corpus_of_frames_is_survived() {
    replay("websocket", frames().into_iter().map(|(name, input)| (name.to_owned(), input)), 1, websocket);
}

fn replay(target: &str, seeds: impl Iterator<Item = (String, Vec<u8>)>, step: usize, play: fn(&[u8])) {
    let corpus = Path::new(CORPORA).join(target);
    if std::env::var_os("POSTHORN_CORPUS").is_some() {
        std::fs::create_dir_all(&corpus).expect("made");
        seeds.for_each(|(name, input)| std::fs::write(corpus.join(name), input).expect("written"));
    }
    let entries = std::fs::read_dir(corpus).expect("the corpus is checked in");
    let inputs: Vec<Vec<u8>> =
        entries.map(|entry| std::fs::read(entry.expect("entry").path()).expect("readable")).collect();
    assert!(inputs.len() >= 4, "only {} inputs", inputs.len());
    for input in &inputs {
        play(input);
        // Cut anywhere, and with a damaged byte anywhere, it is survived as well.
        for at in (0..input.len()).step_by(step) {
            play(&input[..at]);
            let mut damaged = input.clone();
            damaged[at] ^= 0x15;
            play(&damaged);
        }
    }
}

/// Masked with zeros; the first byte is the size of the pieces.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let masked = |first: u8, payload: &[u8]| {
        let length = match u8::try_from(payload.len()) {
            Ok(short @ 0..=125) => vec![0x80 | short],
            _ => [&[0x80 | 126][..], &(payload.len() as u16).to_be_bytes()].concat(),
        };
        [&[first][..], &length, &[0; 4], payload].concat()
    };
    let fragments =
        [masked(0x02, &[7; 100]), masked(0x89, b"ping"), masked(0x00, &[8; 60]), masked(0x80, &[9; 130])];
    vec![
        ("whole", [&[200][..], &masked(0x82, &[5; 20]), &masked(0x82, &[6; 280])].concat()),
        ("fragments", [&[3][..], &fragments.concat()].concat()),
        (
            "closing",
            [&[2][..], &masked(0x8a, b""), &masked(0x88, b"\x03\xe8bye"), &masked(0x82, b"late")].concat(),
        ),
        ("too_large", [&[9][..], &masked(0x02, &[1; 299]), &masked(0x80, &[2; 2])].concat()),
    ]
}

/// Lets the first client take its frames and speak.
const FIRST: u8 = 0b10;
/// The second client speaks without taking its frames.
const SECOND: u8 = 0b01;

fn play(steps: &[(u8, Request)]) -> Vec<u8> {
    let mut input = Vec::new();
    for (number, (step, request)) in steps.iter().enumerate() {
        let number = if matches!(request, Request::Ack(_)) { 0 } else { number as u64 + 1 };
        let frame = ClientFrame { request: number, body: request.clone() }.encode();
        input.push(*step);
        input.extend((frame.len() as u16).to_be_bytes());
        input.extend(frame);
    }
    input
}

/// The target's relay is the same in every run, so a registration can be prepared for it.
fn prepared() -> Vec<(u8, Request)> {
    let hub = Hub::new();
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::from_seed([1; 32]);
    let store =
        MemoryStore::new(StorePolicy::default(), Arc::new(TestClock::default()), hub.clone(), &mut rng);
    let store = Arc::new(store);
    let context = Context::new(ContextParts {
        mailboxes: store.clone(),
        directory: store.clone(),
        blobs: store.clone(),
        store,
        hub,
        limits: Limits::default(),
        rates: Rates::off(),
        outbox_bytes: 1024,
        memory_bytes: 64 << 20,
        open_registration: true,
        open_directory: true,
        identity: RelaySecret::from_bytes([2; 32]),
        seed: [3; 32],
        software: String::new(),
    });
    let relay = TestRelay { context, clock: Arc::default() };
    let token = Token::from_bytes([9; 32]);
    vec![
        (FIRST, registration(&relay.connect().hello(), 1, "alice", "")),
        (FIRST, Request::creation_tokens(vec![token.hash()])),
        (FIRST, creation(token)),
    ]
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let with = |more: &[(u8, Request)]| play(&[prepared(), more.to_vec()].concat());
    let ack = |seq, credit| Request::Ack(Ack { mailbox: MAILBOX, seq, credit });
    let key = || PostKey::from_bytes(POST_KEY);
    let signal = Request::Signal(Signal { mailbox: MAILBOX, post_key: key(), payload: vec![1; 64].into() });
    let destroy = Request::Destroy { mailbox: MAILBOX, turn_key: TurnKey::from_bytes(TURN_KEY) };
    let admit = vec![Reader { id: READER, key_hash: key_hash(READ_KEY) }];
    let opened = (SECOND, open(READER, READ_KEY, 3));
    let first_open = (FIRST, open(READER, READ_KEY, 3));
    let posts: Vec<_> = (1..=6).map(|id| (FIRST, post(id, &[id; 9000]))).collect();
    vec![
        ("nothing", vec![]),
        ("ping", play(&[(FIRST, Request::Ping), (SECOND, Request::Ping)])),
        (
            "behind",
            with(
                &[vec![opened.clone()], posts.clone(), vec![(SECOND, ack(2, 9)), (FIRST, ack(0, 0))]]
                    .concat(),
            ),
        ),
        (
            "live",
            with(
                &[posts, vec![(0b11, open(READER, READ_KEY, 9)), (0b11, ack(3, 1)), (0b11, ack(99, 1))]]
                    .concat(),
            ),
        ),
        ("elsewhere", with(&[opened.clone(), first_open, (SECOND, ack(0, 5)), (FIRST, post(1, b"x"))])),
        (
            "evicted",
            with(&[
                opened.clone(),
                (FIRST, turning(1, vec![], vec![READER])),
                (SECOND, ack(1, 1)),
                (FIRST, turning(2, admit, vec![])),
            ]),
        ),
        ("destroyed", with(&[opened, (FIRST, signal), (FIRST, destroy), (SECOND, Request::Close(MAILBOX))])),
    ]
}
