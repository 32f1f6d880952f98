//! What a relay does with peers that mean harm or are broken: each gets a code or a closed connection with a
//! reason, and everybody else goes on being served (R7, R9).

mod common;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use common::{Fixture, fixture, fixture_with};
use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{
    Authenticate, ClientFrame, Open, Opening, PublishCard, PublishKeyPackages, Request, ServerBody, Signal,
};
use posthorn_proto::{Handle, MailboxId, PostKey, ReadKey, ReaderId, Token, TurnKey};
use posthorn_server::admin;
use posthorn_tests::mailbox::{BareMailbox, numbered, post_id};
use posthorn_tests::wire::{Heard, PATIENCE, Wire, handshake};
use rand::{Rng as _, RngCore as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};

/// More than this is growth: a relay at rest needs a fraction.
const MEMORY: u64 = 256 * 1024 * 1024;

type Outcome = anyhow::Result<()>;

/// Waits until the relay has closed; returns its reason. Frames before it are allowed.
async fn closing(wire: &mut Wire) -> anyhow::Result<String> {
    loop {
        if let Heard::Closed(reason) = wire.hear().await? {
            return Ok(reason);
        }
    }
}

#[tokio::test]
async fn what_is_no_frame_closes_the_connection_with_a_reason() -> Outcome {
    let mut fixture = fixture().await?;
    let junk: [&[u8]; 4] = [b"", b"\xff", b"GET / HTTP/1.1\r\n\r\n", &[0x0a; 4096]];
    for bytes in junk {
        let mut wire = fixture.relay.connect().await?;
        wire.send_raw(Message::Binary(Bytes::from_static(bytes))).await.context("sending")?;
        let reason = closing(&mut wire).await?;
        assert!(reason.contains("BAD_FRAME") || reason.contains("BAD_REQUEST"), "{bytes:?}: {reason}");
    }
    fixture.still_serves().await
}

#[tokio::test]
async fn text_closes_the_connection_with_a_reason() -> Outcome {
    let mut fixture = fixture().await?;
    let mut wire = fixture.relay.connect().await?;
    wire.send_raw(Message::Text("hello".into())).await?;
    let reason = closing(&mut wire).await?;
    assert!(!reason.is_empty() && !reason.starts_with("without"), "{reason}");
    fixture.still_serves().await
}

/// Valid frames with random bytes changed, cut, or repeated: answered or closed, one by one.
#[tokio::test]
async fn mangled_frames_are_answered_or_close_the_connection() -> Outcome {
    let mut fixture = fixture().await?;
    let seed = 20_260_101;
    let mut rng = common::seeded(seed);
    let mailbox = fixture.mailbox().await?;
    let other = mailbox.with_new_keys(&mut rng);
    let templates: Vec<Bytes> = [
        mailbox.posting(numbered(1), vec![9; 300]),
        mailbox.turning(&other, numbered(2), vec![9; 300]),
        mailbox.opening(10),
        mailbox.acknowledgement(1, 1),
        mailbox.creation(Token::random(&mut rng), 0),
        Request::Ping,
        Request::LookUp(Handle::parse("somebody")?),
        Request::creation_tokens(vec![mailbox.post_key.hash()]),
    ]
    .into_iter()
    .map(|body| ClientFrame { request: 1 << 40, body }.encode())
    .collect();
    let mut wire = fixture.relay.connect().await?;
    for round in 0..400 {
        let mut bytes = templates[rng.random_range(0..templates.len())].to_vec();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => bytes[at] ^= 1 << rng.random_range(0..8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.extend_from_within(at..),
            }
        }
        if wire.send_raw(Message::Binary(bytes.into())).await.is_err() {
            wire = fixture.relay.connect().await?;
            continue;
        }
        // A ping behind it proves that the connection is served, unless it was closed.
        let alive = match wire.send(Request::Ping).await {
            Ok(number) => wire.answer(number).await.is_ok(),
            Err(_) => false,
        };
        if !alive {
            wire = fixture.relay.connect().await.with_context(|| format!("seed {seed}, round {round}"))?;
        }
    }
    fixture.still_serves().await
}

#[tokio::test]
async fn the_subprotocol_must_be_named() -> Outcome {
    let mut fixture = fixture().await?;
    for name in [None, Some("posthorn.v999"), Some("mqtt")] {
        match timeout(PATIENCE, handshake(&fixture.relay.url(), name)).await? {
            Err(tungstenite::Error::Http(response)) => {
                assert!(response.status().is_client_error(), "{name:?}: {response:?}")
            }
            other => panic!("{name:?}: {other:?}"),
        }
    }
    let elsewhere = fixture.relay.url().replace(posthorn_proto::PATH, "/v1/elsewhere");
    match timeout(PATIENCE, handshake(&elsewhere, Some(posthorn_proto::SUBPROTOCOL))).await? {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 404),
        other => panic!("{other:?}"),
    }
    fixture.still_serves().await
}

/// Sends bytes on a plain connection, and reads until the relay closes it.
async fn raw(fixture: &Fixture, chunks: impl Iterator<Item = Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let stream = TcpStream::connect(fixture.relay.address()).await?;
    let (mut read, mut write) = stream.into_split();
    let writing = async {
        for chunk in chunks {
            // The relay may close before it has all of it: that is what is tested.
            if write.write_all(&chunk).await.is_err() {
                break;
            }
        }
        write
    };
    let reading = async {
        let mut answer = Vec::new();
        // Closed with a reset is closed as well.
        let _ = read.read_to_end(&mut answer).await;
        answer
    };
    let (_write, answer) = timeout(PATIENCE, async { tokio::join!(writing, reading) })
        .await
        .context("the relay keeps the connection")?;
    Ok(answer)
}

#[tokio::test]
async fn a_giant_handshake_is_cut_off() -> Outcome {
    let mut fixture = fixture().await?;
    let header = std::iter::once(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n".to_vec());
    let endless = (0..4096).map(|n| format!("X-{n}: {}\r\n", "y".repeat(4000)).into_bytes());
    let answer = raw(&fixture, header.chain(endless)).await?;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let one_line = (0..256).map(|_| vec![b'a'; 65_536]);
    let answer = raw(&fixture, one_line).await?;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    fixture.still_serves().await
}

#[tokio::test]
async fn oversized_messages_close_the_connection_before_they_are_there() -> Outcome {
    let mut fixture = fixture().await?;
    let limit = fixture.relay.connect().await?.hello().limits.frame_bytes as usize;
    let mut wire = fixture.relay.connect().await?;
    // The relay may close while this is still being sent.
    let _ = wire.send_raw(Message::Binary(vec![0; limit + 1].into())).await;
    let reason = closing(&mut wire).await?;
    assert!(
        reason.contains("TOO_LARGE") || reason.contains("1009") || reason.starts_with("without"),
        "{reason}"
    );

    // A header alone that promises a terabyte: nothing may be reserved for it.
    let before = fixture.relay.memory()?;
    let mut promise =
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: posthorn.v1\r\n\r\n"
            .to_vec();
    promise.extend([0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    raw(&fixture, std::iter::once(promise)).await?;
    assert!(fixture.relay.memory()? < before + 32 * 1024 * 1024);
    fixture.still_serves().await
}

#[tokio::test]
async fn fields_over_their_limit_are_too_large() -> Outcome {
    let mut fixture = fixture().await?;
    let mailbox = fixture.mailbox().await?;
    let mut wire = fixture.relay.connect().await?;
    let limits = wire.hello().limits;
    let oversized = mailbox.posting(numbered(1), vec![1; limits.envelope_bytes as usize + 1]);
    assert_eq!(wire.refused(oversized).await?, ErrorCode::TooLarge);
    let payload = vec![1; limits.signal_bytes as usize + 1].into();
    let signal = Signal { mailbox: mailbox.id, post_key: mailbox.post_key.clone(), payload };
    assert_eq!(wire.refused(Request::Signal(signal)).await?, ErrorCode::TooLarge);
    let opening = Opening {
        mailbox: mailbox.id,
        reader: mailbox.reader,
        read_key: mailbox.read_key.clone(),
        claim: None,
        credit: 1,
    };
    let openings = vec![opening; limits.openings_per_request as usize + 1];
    assert_eq!(wire.refused(Request::Open(Open { openings })).await?, ErrorCode::TooLarge);
    fixture.still_serves().await
}

#[tokio::test]
async fn account_requests_need_a_device_that_proved_itself() -> Outcome {
    let mut fixture = fixture().await?;
    let mut stranger = fixture.relay.connect().await?;
    let somebody = Handle::parse("somebody")?;
    let requests = [
        Request::PublishCard(PublishCard { version: 9, card: Bytes::from_static(b"card") }),
        Request::PublishKeyPackages(PublishKeyPackages {
            one_time: vec![Bytes::from_static(b"kp")],
            last_resort: None,
        }),
        Request::creation_tokens(vec![PostKey::from_bytes([1; 32]).hash()]),
    ];
    for request in requests {
        assert_eq!(stranger.refused(request).await?, ErrorCode::Unauthenticated);
    }
    // The directory answers anybody, people of other relays among them.
    for request in [Request::LookUp(somebody.clone()), Request::TakeKeyPackages(somebody)] {
        assert_eq!(stranger.refused(request).await?, ErrorCode::HandleUnknown);
    }

    // A proof is good for one connection: recorded and replayed on another, it is worth nothing.
    let mut first = fixture.relay.connect().await?;
    let recorded = fixture.device.authentication(&first)?;
    assert!(matches!(first.ask(recorded.clone()).await?, ServerBody::Authenticated(_)));
    assert_eq!(stranger.refused(recorded).await?, ErrorCode::AuthenticationFailed);
    let Request::Authenticate(good) = fixture.device.authentication(&stranger)? else {
        unreachable!("it was just made")
    };
    let mut proof = good.proof;
    proof.0[0] ^= 1;
    assert_eq!(
        stranger.refused(Request::Authenticate(Authenticate { proof, ..good })).await?,
        ErrorCode::AuthenticationFailed
    );
    fixture.still_serves().await
}

#[tokio::test]
async fn keys_open_what_they_open_and_nothing_else() -> Outcome {
    let mut fixture = fixture().await?;
    let mailbox = fixture.mailbox().await?;
    let mut rng = common::seeded(3);
    let mut wire = fixture.relay.connect().await?;
    let stranger = BareMailbox { post_key: PostKey::random(&mut rng), ..mailbox.clone() };
    assert_eq!(wire.refused(stranger.posting(numbered(1), "x")).await?, ErrorCode::KeyTurned);
    let usurper = BareMailbox { turn_key: TurnKey::random(&mut rng), ..mailbox.clone() };
    assert_eq!(wire.refused(usurper.turning(&mailbox, numbered(2), "x")).await?, ErrorCode::KeyTurned);
    let destroy = Request::Destroy { mailbox: mailbox.id, turn_key: usurper.turn_key.clone() };
    assert_eq!(wire.refused(destroy).await?, ErrorCode::KeyTurned);
    // The post key must not do as a turn key, nor the other way round.
    let crossed = BareMailbox {
        post_key: PostKey::from_bytes(*mailbox.turn_key.expose()),
        turn_key: TurnKey::from_bytes(*mailbox.post_key.expose()),
        ..mailbox.clone()
    };
    assert_eq!(wire.refused(crossed.posting(numbered(3), "x")).await?, ErrorCode::KeyTurned);

    let opened = |body: ServerBody| match body {
        ServerBody::Opened(results) => results[0].result.clone().map_err(|refusal| refusal.code),
        other => panic!("{other:?}"),
    };
    let peeper = BareMailbox { read_key: ReadKey::random(&mut rng), ..mailbox.clone() };
    assert_eq!(opened(wire.ask(peeper.opening(1)).await?), Err(Some(ErrorCode::ReadKeyWrong)));
    let nobody = BareMailbox { reader: ReaderId::random(&mut rng), ..mailbox.clone() };
    assert_eq!(opened(wire.ask(nobody.opening(1)).await?), Err(Some(ErrorCode::ReaderUnknown)));
    let nowhere = BareMailbox { id: MailboxId::random(&mut rng), ..mailbox.clone() };
    assert_eq!(opened(wire.ask(nowhere.opening(1)).await?), Err(Some(ErrorCode::MailboxUnknown)));
    assert_eq!(wire.refused(nowhere.posting(numbered(4), "x")).await?, ErrorCode::MailboxUnknown);
    assert_eq!(wire.refused(mailbox.acknowledgement(1, 1)).await?, ErrorCode::NotOpen);
    assert_eq!(wire.refused(Request::Close(mailbox.id)).await?, ErrorCode::NotOpen);
    let unpaid = BareMailbox::new(&mut rng).creation(Token::random(&mut rng), 0);
    assert_eq!(wire.refused(unpaid).await?, ErrorCode::TokenUnknown);

    let state = mailbox.open(&mut wire, 1).await?;
    assert_eq!(state.head, 0, "nothing of all this was stored");
    fixture.still_serves().await
}

#[tokio::test]
async fn replays_change_nothing() -> Outcome {
    let mut fixture = fixture().await?;
    let mut rng = common::seeded(4);
    let token = fixture.token().await?;
    let mailbox = BareMailbox::new(&mut rng);
    let mut wire = fixture.relay.connect().await?;
    mailbox.create(&mut wire, token.clone()).await?;
    mailbox.create(&mut wire, token.clone()).await.context("repeating the identical creation")?;
    let second = BareMailbox::new(&mut rng);
    assert_eq!(wire.refused(second.creation(token, 0)).await?, ErrorCode::TokenUnknown);
    let token = fixture.token().await?;
    let thief = BareMailbox { id: mailbox.id, ..second };
    assert_eq!(wire.refused(thief.creation(token, 0)).await?, ErrorCode::MailboxExists);

    let first = numbered(1);
    assert_eq!(mailbox.append(&mut wire, first, "one").await?, 1);
    assert_eq!(mailbox.append(&mut wire, first, "one").await?, 1);
    assert_eq!(wire.refused(mailbox.posting(first, "two")).await?, ErrorCode::PostIdReused);
    let turned = mailbox.with_new_keys(&mut rng);
    let turn = mailbox.turning(&turned, numbered(2), "commit");
    assert!(matches!(wire.ask(turn.clone()).await?, ServerBody::Posted { seq: 2 }));
    assert!(
        matches!(wire.ask(turn).await?, ServerBody::Posted { seq: 2 }),
        "a repeated turn is answered its seq"
    );
    assert_eq!(
        mailbox.append(&mut wire, first, "one").await?,
        1,
        "a repeat is answered even though the lock has turned"
    );
    assert_eq!(wire.refused(mailbox.posting(numbered(3), "late")).await?, ErrorCode::KeyTurned);
    assert_eq!(turned.append(&mut wire, numbered(4), "three").await?, 3);
    fixture.still_serves().await
}

#[tokio::test]
async fn acks_out_of_order_move_nothing_back_and_nothing_ahead() -> Outcome {
    let mut fixture = fixture().await?;
    let mailbox = fixture.mailbox().await?;
    let mut wire = fixture.relay.connect().await?;
    for n in 1..=4u8 {
        mailbox.append(&mut wire, numbered(n), vec![n; 10]).await?;
    }
    mailbox.open(&mut wire, 2).await?;
    for seq in 1..=2 {
        assert!(matches!(wire.pushed().await?, ServerBody::Delivery(delivery) if delivery.seq == seq));
    }
    assert_eq!(wire.refused(mailbox.acknowledgement(5, 0)).await?, ErrorCode::BadRequest, "there is none");
    assert!(matches!(wire.ask(mailbox.acknowledgement(2, 0)).await?, ServerBody::Done));
    assert!(
        matches!(wire.ask(mailbox.acknowledgement(1, 0)).await?, ServerBody::Done),
        "an old ack is harmless"
    );
    let mut again = fixture.relay.connect().await?;
    assert_eq!(mailbox.open(&mut again, 1).await?.cursor, 2);
    assert!(matches!(again.pushed().await?, ServerBody::Delivery(delivery) if delivery.seq == 3));
    // The first connection lost the opening, and its acks do not count any more.
    assert!(
        matches!(wire.pushed().await?, ServerBody::Closed { reason, .. } if reason.code == Some(ErrorCode::OpenedElsewhere))
    );
    assert_eq!(wire.refused(mailbox.acknowledgement(2, 1)).await?, ErrorCode::OpenedElsewhere);
    fixture.still_serves().await
}

/// A reader that grants endless credit and then never reads from its socket.
#[tokio::test]
async fn a_reader_that_does_not_read_costs_a_window_and_hurts_nobody() -> Outcome {
    let mut fixture = fixture().await?;
    let mailbox = fixture.mailbox().await?;
    let mut deaf = fixture.relay.connect().await?;
    mailbox.open(&mut deaf, u32::MAX).await?;
    let quiet = fixture.mailbox().await?;
    let mut reader = fixture.relay.connect().await?;
    quiet.open(&mut reader, 1000).await?;

    let before = fixture.relay.memory()?;
    let mut poster = fixture.relay.connect().await?;
    let mut rng = common::seeded(5);
    let posts = 240u64;
    for seq in 1..=posts {
        let mut envelope = vec![0; 200_000];
        rng.fill_bytes(&mut envelope);
        assert_eq!(mailbox.append(&mut poster, post_id(&mut rng), envelope).await?, seq);
        quiet.append(&mut poster, post_id(&mut rng), "x").await?;
        assert!(matches!(reader.pushed().await?, ServerBody::Delivery(delivery) if delivery.seq == seq));
    }
    let grown = fixture.relay.memory()?.saturating_sub(before);
    assert!(grown < 40_000_000, "{posts} posts of 200 kB to a deaf reader cost {grown} bytes of memory");

    // Nothing is lost to it: once it reads, it gets all of them in order.
    for seq in 1..=posts {
        match deaf.pushed().await? {
            ServerBody::Delivery(delivery) => {
                assert_eq!((delivery.seq, delivery.envelope.len()), (seq, 200_000))
            }
            other => panic!("{other:?}"),
        }
    }
    fixture.still_serves().await
}

/// Requests without end from somebody who reads no answers: the relay stops reading, and remembers only a
/// few.
#[tokio::test]
async fn a_flood_of_requests_is_held_back() -> Outcome {
    let mut fixture = fixture().await?;
    let before = fixture.relay.memory()?;
    let mut flood = fixture.relay.connect().await?;
    let mut other = fixture.relay.connect().await?;
    let flooding = async {
        for _ in 0..2_000_000 {
            // Either the relay stops taking, or it closes; both end the flood.
            if !matches!(timeout(Duration::from_secs(2), flood.feed(Request::Ping)).await, Ok(Ok(_))) {
                return;
            }
        }
        panic!("two million unread answers were taken");
    };
    let working = async {
        for _ in 0..50 {
            assert!(matches!(other.ask(Request::Ping).await?, ServerBody::Done));
        }
        anyhow::Ok(())
    };
    let ((), worked) = tokio::join!(flooding, working);
    worked.context("others are served while one floods")?;
    let grown = fixture.relay.memory()?.saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes for one flood");
    fixture.still_serves().await
}

/// Three times as many half-open connections as the relay keeps: the oldest gives way.
#[tokio::test]
async fn thousands_of_half_open_handshakes_hurt_nobody() -> Outcome {
    let mut fixture = fixture_with(&["--set", "connections.handshakes=300"]).await?;
    let mut halves = Vec::new();
    for _ in 0..900 {
        let mut stream = TcpStream::connect(fixture.relay.address()).await?;
        stream.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgr").await?;
        halves.push(stream);
    }
    fixture.still_serves().await?;
    // Whether with an end or with a reset: the first is gone.
    let mut byte = [0];
    let read = timeout(PATIENCE, halves[0].read(&mut byte)).await.context("the oldest does not give way")?;
    assert!(!matches!(read, Ok(1..)));
    Ok(())
}

/// A request line that comes byte by byte, for as long as the relay listens.
#[tokio::test]
async fn a_slow_handshake_is_cut_off() -> Outcome {
    let mut fixture = fixture_with(&["--set", "connections.handshake_seconds=1"]).await?;
    let (mut read, mut write) = TcpStream::connect(fixture.relay.address()).await?.into_split();
    let mut waste = Vec::new();
    let trickling = async {
        loop {
            if write.write_all(b"G").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = trickling => {}
        // An end or a reset.
        _ = read.read_to_end(&mut waste) => {}
        () = tokio::time::sleep(PATIENCE) => panic!("the relay keeps listening"),
    }
    fixture.still_serves().await
}

/// Messages that begin, hold what they may, and never end: memory stays within the budget, and they are
/// closed for it.
#[tokio::test]
async fn unfinished_messages_stay_within_the_budget() -> Outcome {
    let options = ["--set", "connections.memory_bytes=16777216", "--set", "connections.stalled_seconds=5"];
    let mut fixture = fixture_with(&options).await?;
    let before = fixture.relay.memory()?;
    let mut unfinished = Vec::new();
    for _ in 0..150 {
        let mut socket = handshake(&fixture.relay.url(), Some(posthorn_proto::SUBPROTOCOL)).await?;
        let mut frame = vec![0x82, 0xff];
        frame.extend(500_000u64.to_be_bytes());
        frame.extend(std::iter::repeat_n(1, 400_000));
        // The relay stops reading when it holds its share.
        let _ = timeout(Duration::from_millis(50), socket.get_mut().write_all(&frame)).await;
        unfinished.push(socket);
    }
    let grown = fixture.relay.memory()?.saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes for 60 MB that never became messages");
    fixture.still_serves().await?;
    for socket in &mut unfinished {
        let mut waste = Vec::new();
        let closed = timeout(PATIENCE, socket.get_mut().read_to_end(&mut waste)).await;
        closed.context("an unfinished message is waited for without end")?.ok();
    }
    fixture.still_serves().await
}

/// A reader that takes nothing is closed after a while; what it did not take is still there for it.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_closed_in_time() -> Outcome {
    let mut fixture = fixture_with(&["--set", "connections.stalled_seconds=5"]).await?;
    let mailbox = fixture.mailbox().await?;
    let mut deaf = fixture.relay.connect().await?;
    mailbox.open(&mut deaf, u32::MAX).await?;
    let mut poster = fixture.relay.connect().await?;
    // More than the system takes off the relay's hands.
    let posts = 100;
    for n in 1..=posts {
        assert_eq!(mailbox.append(&mut poster, numbered(n), vec![n; 200_000]).await?, u64::from(n));
    }
    let data = fixture.relay.data().to_owned();
    let connections = || match admin::ask(&data, &admin::Ask::Stats) {
        Ok(admin::Answer::Stats(numbers)) => numbers.connections,
        other => panic!("{other:?}"),
    };
    let all = connections();
    // It answers pings all the while: silence is not what it is closed for.
    timeout(PATIENCE, async {
        while connections() == all {
            deaf.feed(Request::Ping).await.ok();
            deaf.flush().await.ok();
            poster.ask(Request::Ping).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    })
    .await
    .context("it is kept for ever")??;
    let mut again = fixture.relay.connect().await?;
    mailbox.open(&mut again, u32::MAX).await?;
    for n in 1..=posts {
        assert!(
            matches!(again.pushed().await?, ServerBody::Delivery(delivery) if delivery.seq == u64::from(n))
        );
    }
    fixture.still_serves().await
}

/// Guesses without end, on many connections at once.
#[tokio::test]
async fn wrong_keys_at_full_speed_hurt_nobody() -> Outcome {
    let rates = ["--set", "rates.requests_per_second=20", "--set", "rates.requests_burst=200"];
    let mut fixture = fixture_with(&rates).await?;
    let mailbox = fixture.mailbox().await?;
    let mut guessers = tokio::task::JoinSet::new();
    for n in 0..6 {
        let mut wire = fixture.relay.connect().await?;
        let mut rng = common::seeded(100 + n);
        let mailbox = mailbox.clone();
        guessers.spawn(async move {
            let mut told_to_wait = 0;
            for _ in 0..40 {
                for _ in 0..50 {
                    let guess = BareMailbox {
                        post_key: PostKey::random(&mut rng),
                        read_key: ReadKey::random(&mut rng),
                        ..mailbox.clone()
                    };
                    let request =
                        if rng.random() { guess.opening(1) } else { guess.posting(post_id(&mut rng), "x") };
                    wire.feed(request).await?;
                }
                wire.flush().await?;
                for _ in 0..50 {
                    let Heard::Frame(frame) = wire.hear().await? else { anyhow::bail!("closed") };
                    match frame.body {
                        ServerBody::Error(refusal) => match refusal.code {
                            Some(ErrorCode::KeyTurned) => {}
                            Some(ErrorCode::RateLimited) if refusal.retry_after_ms > 0 => told_to_wait += 1,
                            other => anyhow::bail!("{other:?}"),
                        },
                        ServerBody::Opened(results) => anyhow::ensure!(results[0].result.is_err()),
                        other => anyhow::bail!("{other:?}"),
                    }
                }
            }
            anyhow::Ok(told_to_wait)
        });
    }
    // Somebody else is served meanwhile.
    let mut other = fixture.relay.connect().await?;
    for n in 0..20u8 {
        mailbox.append(&mut other, numbered(n), "right").await?;
    }
    while let Some(told_to_wait) = guessers.join_next().await {
        assert!(told_to_wait?? > 0, "2,000 guesses on one connection, and none was told to wait");
    }
    fixture.still_serves().await
}

#[tokio::test]
async fn every_code_that_a_stranger_can_provoke_is_stable() -> Outcome {
    let mut fixture = fixture().await?;
    let mut rng = common::seeded(6);
    let mut wire = fixture.relay.connect().await?;
    let stranger = posthorn_tests::mailbox::BareDevice::new(&mut rng);
    let refused = stranger.register(&mut wire, "mallory", "no-such-invite-code").await;
    assert!(refused.is_err_and(|error| error.to_string().contains("InviteInvalid")));
    let invite = fixture.relay.invite().to_owned();
    let refused = stranger.register(&mut wire, common::HANDLE, &invite).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("HandleTaken")));
    let names: HashSet<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), ErrorCode::ALL.len());
    fixture.still_serves().await
}

impl Fixture {
    /// A newcomer gets everything: connection, mailbox, post, delivery; and memory has not grown beyond
    /// reason.
    async fn still_serves(&mut self) -> Outcome {
        self.relay.alive()?;
        let mailbox = self.mailbox().await?;
        let (mut poster, mut reader) = (self.relay.connect().await?, self.relay.connect().await?);
        mailbox.open(&mut reader, 1).await?;
        assert_eq!(mailbox.append(&mut poster, numbered(1), "still here").await?, 1);
        match reader.pushed().await? {
            ServerBody::Delivery(delivery) => assert_eq!(delivery.envelope, "still here"),
            other => panic!("{other:?}"),
        }
        assert!(self.relay.memory()? < MEMORY);
        let said = self.relay.said();
        assert!(!said.contains("panicked"), "{said}");
        Ok(())
    }
}
