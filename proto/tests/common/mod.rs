//! One frame of every kind, with a name: what the golden bytes and the fuzz corpora are made of.

use bytes::Bytes;
use posthorn_proto::auth::{Challenge, Proof};
use posthorn_proto::frame::{
    Ack, Authenticate, CardAnswer, ClientFrame, Create, Delivery, Hello, KeyPackage, Open, OpenState, Opened,
    Opening, Post, ProveRelay, PublishCard, PublishKeyPackages, Refusal, Register, Request, ServerBody,
    ServerFrame, Signal, TokenPurpose,
};
use posthorn_proto::{
    DeviceId, ErrorCode, Handle, Incarnation, KeyHash, Limits, MailboxId, PostId, PostKey, ReadKey, Reader,
    ReaderId, RelayIdentity, Token, Turn, TurnKey, TurnRequest,
};

const MAILBOX: MailboxId = MailboxId([0xa1; 16]);

fn hash(byte: u8) -> KeyHash {
    KeyHash([byte; 32])
}

fn turn() -> Turn {
    Turn {
        post_key_hash: hash(0xb1),
        turn_key_hash: hash(0xb2),
        admit: vec![Reader { id: ReaderId([0xc1; 16]), key_hash: hash(0xb3) }],
        evict: vec![ReaderId([0xc2; 16])],
    }
}

fn handle() -> Handle {
    Handle::parse("alice").expect("a handle")
}

/// Every request.
pub(crate) fn client_frames() -> Vec<(&'static str, ClientFrame)> {
    let bodies = vec![
        (
            "create",
            Request::Create(Create {
                mailbox: MAILBOX,
                token: Token::from_bytes([0xd1; 32]),
                post_key_hash: hash(0xb1),
                turn_key_hash: hash(0xb2),
                readers: vec![Reader { id: ReaderId([0xc1; 16]), key_hash: hash(0xb3) }],
                expiry: 86_400,
                quota: 1 << 20,
            }),
        ),
        (
            "post",
            Request::Post(Post {
                mailbox: MAILBOX,
                post_id: PostId([0xa2; 16]),
                post_key: PostKey::from_bytes([0xd2; 32]),
                envelope: Bytes::from_static(b"envelope"),
                turn: None,
            }),
        ),
        (
            "post_with_turn",
            Request::Post(Post {
                mailbox: MAILBOX,
                post_id: PostId([0xa2; 16]),
                post_key: PostKey::from_bytes([0xd2; 32]),
                envelope: Bytes::from_static(b"envelope"),
                turn: Some(TurnRequest { key: TurnKey::from_bytes([0xd3; 32]), turn: turn() }),
            }),
        ),
        (
            "signal",
            Request::Signal(Signal {
                mailbox: MAILBOX,
                post_key: PostKey::from_bytes([0xd2; 32]),
                payload: Bytes::from_static(b"typing"),
            }),
        ),
        (
            "open",
            Request::Open(Open {
                openings: vec![
                    Opening {
                        mailbox: MAILBOX,
                        reader: ReaderId([0xc1; 16]),
                        read_key: ReadKey::from_bytes([0xd4; 32]),
                        claim: None,
                        credit: 32,
                    },
                    Opening {
                        mailbox: MailboxId([0xa3; 16]),
                        reader: ReaderId([0xc3; 16]),
                        read_key: ReadKey::from_bytes([0xd4; 32]),
                        claim: Some(ReadKey::from_bytes([0xd5; 32])),
                        credit: 0,
                    },
                ],
            }),
        ),
        ("ack", Request::Ack(Ack { mailbox: MAILBOX, seq: 300, credit: 16 })),
        ("close", Request::Close(MAILBOX)),
        ("destroy", Request::Destroy { mailbox: MAILBOX, turn_key: TurnKey::from_bytes([0xd3; 32]) }),
        ("ping", Request::Ping),
        ("prove_relay", Request::ProveRelay(ProveRelay { ephemeral: [0xe5; 32] })),
        (
            "register",
            Request::Register(Register {
                invite: "abcd-efgh-ijkl-mnop".to_owned(),
                handle: handle(),
                identity_key: [0xe1; 32],
                device: DeviceId([0xa4; 16]),
                device_key: [0xe2; 32],
                proof: Proof([0xe3; 32]),
            }),
        ),
        (
            "authenticate",
            Request::Authenticate(Authenticate { device: DeviceId([0xa4; 16]), proof: Proof([0xe3; 32]) }),
        ),
        ("publish_card", Request::PublishCard(PublishCard { version: 2, card: Bytes::from_static(b"card") })),
        (
            "publish_key_packages",
            Request::PublishKeyPackages(PublishKeyPackages {
                one_time: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
                last_resort: Some(Bytes::from_static(b"last")),
            }),
        ),
        ("look_up", Request::LookUp(handle())),
        ("take_key_packages", Request::TakeKeyPackages(handle())),
        ("draw_tokens", Request::creation_tokens(vec![hash(0xb4), hash(0xb5)])),
        (
            "draw_upload_tokens",
            Request::DrawTokens { purpose: TokenPurpose::UploadBlob, hashes: vec![hash(0xb6)] },
        ),
        ("remove_account", Request::RemoveAccount),
    ];
    let mut frames: Vec<_> =
        bodies.into_iter().map(|(name, body)| (name, ClientFrame { request: 7, body })).collect();
    frames.push((
        "ack_unanswered",
        ClientFrame { request: 0, body: Request::Ack(Ack { mailbox: MAILBOX, seq: 300, credit: 16 }) },
    ));
    frames
}

fn hello(limits: Limits) -> ServerBody {
    let challenge =
        Challenge { relay_identity: RelayIdentity([0xf1; 32]), ephemeral: [0xf2; 32], nonce: [0xf3; 16] };
    ServerBody::Hello(Hello {
        version: 1,
        challenge,
        incarnation: Incarnation([0xa5; 16]),
        limits,
        time: 1_800_000_000,
        software: "posthorn-server 0.1.0".to_owned(),
    })
}

/// Every answer and every push.
pub(crate) fn server_frames() -> Vec<(&'static str, ServerFrame)> {
    let answer = |name, body| (name, ServerFrame { request: 7, body });
    let push = |name, body| (name, ServerFrame::push(body));
    let state = OpenState {
        head: 9,
        oldest: 4,
        cursor: 5,
        post_key_hash: hash(0xb1),
        turn_key_hash: hash(0xb2),
        incarnation: Incarnation([0xa5; 16]),
    };
    let delivery = |turn| Delivery {
        mailbox: MAILBOX,
        seq: 300,
        post_id: PostId([0xa2; 16]),
        envelope: Bytes::from_static(b"envelope"),
        turn,
    };
    vec![
        // As relays say it that keep no blobs, and those that are older than blobs.
        push(
            "hello",
            hello(Limits {
                blob_bytes: 0,
                blob_seconds: 0,
                upload_tokens_per_device: 0,
                ..Limits::default()
            }),
        ),
        push("hello_with_blobs", hello(Limits::default())),
        answer(
            "error",
            ServerBody::Error(Refusal {
                code: Some(ErrorCode::RateLimited),
                message: "slow down".to_owned(),
                retry_after_ms: 1500,
                time: 0,
            }),
        ),
        answer(
            "error_post_id_time",
            ServerBody::Error(Refusal {
                code: Some(ErrorCode::PostIdTime),
                message: "the post id is too old".to_owned(),
                retry_after_ms: 0,
                time: 1_800_000_000,
            }),
        ),
        answer("created", ServerBody::Created),
        answer("posted", ServerBody::Posted { seq: 300 }),
        answer("done", ServerBody::Done),
        answer(
            "opened",
            ServerBody::Opened(vec![
                Opened { mailbox: MAILBOX, result: Ok(state) },
                Opened {
                    mailbox: MailboxId([0xa3; 16]),
                    result: Err(Refusal::new(ErrorCode::MailboxUnknown, "no such mailbox")),
                },
            ]),
        ),
        answer("relay_proven", ServerBody::RelayProven(Proof([0xe6; 32]))),
        answer("registered", ServerBody::Registered(Proof([0xe4; 32]))),
        answer("authenticated", ServerBody::Authenticated(Proof([0xe4; 32]))),
        answer(
            "card",
            ServerBody::Card(CardAnswer {
                identity_key: [0xe1; 32],
                version: 2,
                card: Bytes::from_static(b"card"),
            }),
        ),
        answer(
            "key_packages",
            ServerBody::KeyPackages(vec![KeyPackage {
                device: DeviceId([0xa4; 16]),
                key_package: Bytes::from_static(b"one"),
                last_resort: true,
            }]),
        ),
        answer(
            "key_package_stock",
            ServerBody::KeyPackageStock { one_time: 20, last_resort_since: 1_800_000_000 },
        ),
        answer("tokens_drawn", ServerBody::TokensDrawn(2)),
        push("delivery", ServerBody::Delivery(delivery(None))),
        push("delivery_with_turn", ServerBody::Delivery(delivery(Some(turn())))),
        push("signalled", ServerBody::Signalled { mailbox: MAILBOX, payload: Bytes::from_static(b"typing") }),
        push(
            "closed",
            ServerBody::Closed {
                mailbox: MAILBOX,
                reason: Refusal::new(ErrorCode::OpenedElsewhere, "a later opening took over"),
            },
        ),
        push("going_away", ServerBody::GoingAway { reconnect_after_ms: 500 }),
        push(
            "lost",
            ServerBody::Lost {
                mailbox: MAILBOX,
                seq: 42,
                reason: Refusal::new(ErrorCode::Damaged, "the envelope is damaged"),
            },
        ),
    ]
}
