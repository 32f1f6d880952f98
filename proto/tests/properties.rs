//! Whatever bytes come, decoding says yes or no; whatever frame goes out, the same comes in.

mod common;

use bytes::Bytes;
use posthorn_proto::auth::Proof;
use posthorn_proto::frame::{
    Ack, Authenticate, CardAnswer, ClientFrame, Create, Delivery, KeyPackage, Open, OpenState, Opened,
    Opening, Post, ProveRelay, PublishCard, PublishKeyPackages, Refusal, Register, Request, ServerBody,
    ServerFrame, Signal, TokenPurpose,
};
use posthorn_proto::limits::MOST_SEQ;
use posthorn_proto::{
    DeviceId, ErrorCode, Handle, Incarnation, KeyHash, MailboxId, PostId, PostKey, ReadKey, Reader, ReaderId,
    Token, Turn, TurnKey, TurnRequest,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..most).prop_map(Bytes::from)
}

fn number() -> impl Strategy<Value = u64> {
    0..=MOST_SEQ
}

fn seq() -> impl Strategy<Value = u64> {
    1..=MOST_SEQ
}

fn hash() -> impl Strategy<Value = KeyHash> {
    any::<[u8; 32]>().prop_map(KeyHash)
}

fn mailbox() -> impl Strategy<Value = MailboxId> {
    any::<[u8; 16]>().prop_map(MailboxId)
}

fn handle() -> impl Strategy<Value = Handle> {
    "[a-z][a-z0-9_.-]{1,31}".prop_map(|text| Handle::parse(&text).expect("of the right form"))
}

fn readers() -> impl Strategy<Value = Vec<Reader>> {
    vec((any::<[u8; 16]>(), hash()).prop_map(|(id, key_hash)| Reader { id: ReaderId(id), key_hash }), 0..4)
}

fn turn() -> impl Strategy<Value = Turn> {
    let evict = vec(any::<[u8; 16]>().prop_map(ReaderId), 0..4);
    (hash(), hash(), readers(), evict).prop_map(|(post_key_hash, turn_key_hash, admit, evict)| Turn {
        post_key_hash,
        turn_key_hash,
        admit,
        evict,
    })
}

fn opening() -> impl Strategy<Value = Opening> {
    (mailbox(), any::<[u8; 16]>(), any::<[u8; 32]>(), any::<Option<[u8; 32]>>(), any::<u32>()).prop_map(
        |(mailbox, reader, key, claim, credit)| Opening {
            mailbox,
            reader: ReaderId(reader),
            read_key: ReadKey::from_bytes(key),
            claim: claim.map(ReadKey::from_bytes),
            credit,
        },
    )
}

fn mailbox_request() -> impl Strategy<Value = Request> {
    let create = (mailbox(), any::<[u8; 32]>(), hash(), hash(), readers(), 1..u32::MAX, number()).prop_map(
        |(mailbox, token, post_key_hash, turn_key_hash, readers, expiry, quota)| {
            let token = Token::from_bytes(token);
            Request::Create(Create { mailbox, token, post_key_hash, turn_key_hash, readers, expiry, quota })
        },
    );
    let with_turn = proptest::option::of((any::<[u8; 32]>(), turn()));
    let post = (mailbox(), any::<[u8; 16]>(), any::<[u8; 32]>(), bytes(300), with_turn).prop_map(
        |(mailbox, post_id, key, envelope, turn)| {
            Request::Post(Post {
                mailbox,
                post_id: PostId(post_id),
                post_key: PostKey::from_bytes(key),
                envelope,
                turn: turn.map(|(key, turn)| TurnRequest { key: TurnKey::from_bytes(key), turn }),
            })
        },
    );
    prop_oneof![
        create,
        post,
        (mailbox(), any::<[u8; 32]>(), bytes(60)).prop_map(|(mailbox, key, payload)| Request::Signal(
            Signal { mailbox, post_key: PostKey::from_bytes(key), payload }
        )),
        vec(opening(), 0..4).prop_map(|openings| Request::Open(Open { openings })),
        (mailbox(), number(), any::<u32>()).prop_map(|(mailbox, seq, credit)| Request::Ack(Ack {
            mailbox,
            seq,
            credit
        })),
        mailbox().prop_map(Request::Close),
        (mailbox(), any::<[u8; 32]>())
            .prop_map(|(mailbox, key)| Request::Destroy { mailbox, turn_key: TurnKey::from_bytes(key) }),
        Just(Request::Ping),
        any::<[u8; 32]>().prop_map(|ephemeral| Request::ProveRelay(ProveRelay { ephemeral })),
    ]
}

fn account_request() -> impl Strategy<Value = Request> {
    let keys = (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<[u8; 32]>(), any::<[u8; 32]>());
    prop_oneof![
        ("[ -~]{0,20}", handle(), keys).prop_map(
            |(invite, handle, (identity_key, device, device_key, proof))| {
                let (device, proof) = (DeviceId(device), Proof(proof));
                Request::Register(Register { invite, handle, identity_key, device, device_key, proof })
            }
        ),
        (any::<[u8; 16]>(), any::<[u8; 32]>()).prop_map(|(device, proof)| Request::Authenticate(
            Authenticate { device: DeviceId(device), proof: Proof(proof) }
        )),
        (number(), bytes(60)).prop_map(|(version, card)| Request::PublishCard(PublishCard { version, card })),
        (vec(bytes(60), 0..3), proptest::option::of(bytes(60))).prop_map(|(one_time, last_resort)| {
            Request::PublishKeyPackages(PublishKeyPackages { one_time, last_resort })
        }),
        handle().prop_map(Request::LookUp),
        handle().prop_map(Request::TakeKeyPackages),
        Just(Request::RemoveAccount),
        (any::<bool>(), vec(hash(), 0..4)).prop_map(|(upload, hashes)| Request::DrawTokens {
            purpose: if upload { TokenPurpose::UploadBlob } else { TokenPurpose::CreateMailbox },
            hashes,
        }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let code = (0..ErrorCode::ALL.len()).prop_map(|at| ErrorCode::ALL[at]);
    (code, ".{0,20}", any::<u32>(), number()).prop_map(|(code, message, retry_after_ms, time)| Refusal {
        code: Some(code),
        message,
        retry_after_ms,
        time,
    })
}

fn opened() -> impl Strategy<Value = Opened> {
    let state = ([number(), number(), number()], hash(), hash(), any::<[u8; 16]>()).prop_map(
        |([head, oldest, cursor], post_key_hash, turn_key_hash, incarnation)| {
            let incarnation = Incarnation(incarnation);
            OpenState { head, oldest, cursor, post_key_hash, turn_key_hash, incarnation }
        },
    );
    let result = prop_oneof![state.prop_map(Ok), refusal().prop_map(Err)];
    (mailbox(), result).prop_map(|(mailbox, result)| Opened { mailbox, result })
}

fn server_body() -> impl Strategy<Value = ServerBody> {
    let delivery = (mailbox(), seq(), any::<[u8; 16]>(), bytes(300), proptest::option::of(turn())).prop_map(
        |(mailbox, seq, post_id, envelope, turn)| {
            ServerBody::Delivery(Delivery { mailbox, seq, post_id: PostId(post_id), envelope, turn })
        },
    );
    let package =
        (any::<[u8; 16]>(), bytes(60), any::<bool>()).prop_map(|(device, key_package, last_resort)| {
            KeyPackage { device: DeviceId(device), key_package, last_resort }
        });
    prop_oneof![
        refusal().prop_map(ServerBody::Error),
        Just(ServerBody::Created),
        Just(ServerBody::Done),
        seq().prop_map(|seq| ServerBody::Posted { seq }),
        vec(opened(), 0..4).prop_map(ServerBody::Opened),
        any::<[u8; 32]>().prop_map(|proof| ServerBody::RelayProven(Proof(proof))),
        any::<[u8; 32]>().prop_map(|proof| ServerBody::Registered(Proof(proof))),
        any::<[u8; 32]>().prop_map(|proof| ServerBody::Authenticated(Proof(proof))),
        (any::<[u8; 32]>(), number(), bytes(60)).prop_map(|(identity_key, version, card)| {
            ServerBody::Card(CardAnswer { identity_key, version, card })
        }),
        vec(package, 0..3).prop_map(ServerBody::KeyPackages),
        (any::<u32>(), number()).prop_map(|(one_time, last_resort_since)| ServerBody::KeyPackageStock {
            one_time,
            last_resort_since
        }),
        any::<u32>().prop_map(ServerBody::TokensDrawn),
        delivery,
        (mailbox(), bytes(60)).prop_map(|(mailbox, payload)| ServerBody::Signalled { mailbox, payload }),
        (mailbox(), refusal()).prop_map(|(mailbox, reason)| ServerBody::Closed { mailbox, reason }),
        any::<u32>().prop_map(|reconnect_after_ms| ServerBody::GoingAway { reconnect_after_ms }),
        (mailbox(), seq(), refusal()).prop_map(|(mailbox, seq, reason)| ServerBody::Lost {
            mailbox,
            seq,
            reason
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn client_frames_come_back(
        request in 1..=u64::MAX,
        body in prop_oneof![mailbox_request(), account_request()],
    ) {
        let frame = ClientFrame { request, body };
        prop_assert_eq!(ClientFrame::decode(frame.encode()), Ok(frame));
    }

    #[test]
    fn server_frames_come_back(request in any::<u64>(), body in server_body()) {
        let frame = ServerFrame { request, body };
        prop_assert_eq!(ServerFrame::decode(frame.encode()), Ok(frame));
    }

    /// What is sent in two pieces is what would be sent in one.
    #[test]
    fn a_head_and_its_envelope_are_the_frame(mailbox in mailbox(), seq in seq(), post_id in any::<[u8; 16]>(), envelope in bytes(300)) {
        let delivery = Delivery { mailbox, seq, post_id: PostId(post_id), envelope, turn: None };
        let head = delivery.head().expect("there is no turn");
        let in_pieces = [&head[..], &delivery.envelope].concat();
        prop_assert_eq!(ServerFrame::push(ServerBody::Delivery(delivery)).encode(), in_pieces);
    }

    #[test]
    fn arbitrary_bytes_never_panic(noise in vec(any::<u8>(), 0..200)) {
        let noise = Bytes::from(noise);
        let _ = ClientFrame::decode(noise.clone());
        let _ = ServerFrame::decode(noise);
    }

    #[test]
    fn damaged_frames_never_panic(pick in any::<usize>(), at in any::<usize>(), byte in any::<u8>(), cut in any::<bool>()) {
        let (client, server) = (common::client_frames(), common::server_frames());
        let damage = |bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if cut { bytes.truncate(at); }
            Bytes::from(bytes)
        };
        if let Ok(frame) = ClientFrame::decode(damage(client[pick % client.len()].1.encode())) {
            prop_assert_eq!(ClientFrame::decode(frame.encode()), Ok(frame), "what was understood can be said");
        }
        let _ = ServerFrame::decode(damage(server[pick % server.len()].1.encode()));
    }
}
