//! Who sends or takes too slowly is cut off, whatever it does meanwhile (R7).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthorn_proto::frame::{ClientFrame, Request};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex, join};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::support::*;
use crate::clock::SystemClock;
use crate::gateway::connection::{Connection, Surroundings};
use crate::gateway::session::Session;

const PATIENCE: Duration = Duration::from_secs(20);
const STALLED: Duration = Duration::from_millis(400);
/// How often a client here does a little.
const BEAT: Duration = Duration::from_millis(40);

/// A relay's connection on this stream, as a task.
fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> JoinSet<()> {
    let context = TestRelay::new(Setup::default()).context;
    let clock = SystemClock::start();
    let session = Session::new(context.clone(), None, clock.millis());
    let surroundings = Arc::new(Surroundings {
        clock,
        budget: context.budget.clone(),
        frame_bytes: 1 << 20,
        idle: Duration::from_secs(600),
        stalled: STALLED,
    });
    JoinSet::from_iter([Connection::new(io, Bytes::new(), session, surroundings)])
}

/// A masked frame; its mask is 0.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

/// nginx ends a connection at once when its relay has, and what the page still sends then costs it the close
/// frame: so the relay's direction stays until nothing more comes.
#[tokio::test]
async fn who_still_sends_is_not_cut_off_from_the_close_frame() {
    let (mut client, relay) = duplex(1 << 16);
    let _connection = serve(relay);
    // The head of a message of 4 GiB.
    client.write_all(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).await.expect("taken");
    let (mut seen, mut beat) = (Vec::new(), interval(BEAT));
    let closed = async {
        while !seen.windows(9).any(|word| word == b"TOO_LARGE") {
            assert!(client.read_buf(&mut seen).await.expect("readable") > 0, "it says why");
        }
        // Longer than it waits for who sends nothing.
        for _ in 0..20 {
            tokio::select! {
                _ = beat.tick() => client.write_all(&[0; 1024]).await.expect("taken, and thrown away"),
                read = client.read_buf(&mut seen) => panic!("{read:?} after the close frame"),
            }
        }
        assert_eq!(client.read_buf(&mut seen).await.expect("readable"), 0, "the end, once all is quiet");
    };
    timeout(PATIENCE, closed).await.expect("ended");
}

/// Finding M1: each ping gave the message all its time again.
#[tokio::test]
async fn pings_within_a_message_give_it_no_more_time() {
    let (mut client, relay) = duplex(1 << 16);
    let _connection = serve(relay);
    // A binary message's first fragment, of which no more comes.
    client.write_all(&frame(0x02, b"begun")).await.expect("taken");
    let (mut seen, mut beat) = (Vec::new(), interval(BEAT));
    let closed = async {
        while !seen.windows(7).any(|word| word == b"STALLED") {
            tokio::select! {
                _ = beat.tick() => drop(client.write_all(&frame(0x89, b"")).await),
                read = client.read_buf(&mut seen) => assert!(read.expect("readable") > 0, "it says why"),
            }
        }
    };
    timeout(PATIENCE, closed).await.expect("cut off");
}

/// A message after pings has all its time, however long the pings took.
#[tokio::test]
async fn pings_between_messages_are_no_message() {
    let (mut client, relay) = duplex(1 << 16);
    let mut connection = serve(relay);
    client.write_all(&[0x89, 0x85]).await.expect("taken");
    let mut beat = interval(BEAT);
    for _ in 0..STALLED.as_millis() * 2 / BEAT.as_millis() {
        beat.tick().await;
        // Each ends in the middle of the next.
        client.write_all(&[&frame(0x89, b"12345")[2..], &[0x89, 0x85]].concat()).await.expect("taken");
        client.flush().await.expect("sent");
    }
    assert!(connection.try_join_next().is_none(), "still served");
}

/// Likewise, a byte taken now and then held the queue for ever.
#[tokio::test]
async fn who_takes_a_little_now_and_then_is_cut_off() {
    let (mut client, relay_reads): (DuplexStream, _) = duplex(1 << 20);
    let (relay_writes, mut slow) = duplex(16);
    let mut connection = serve(join(relay_reads, relay_writes));
    for request in 1..=3000 {
        let ping = ClientFrame { request, body: Request::Ping }.encode();
        client.write_all(&frame(0x82, &ping)).await.expect("taken");
    }
    let mut beat = interval(BEAT);
    let over = async {
        let mut some = [0; 16];
        while connection.try_join_next().is_none() {
            beat.tick().await;
            let _ = slow.read(&mut some).await;
        }
    };
    timeout(PATIENCE, over).await.expect("cut off");
}
