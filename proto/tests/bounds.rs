//! No number that a peer sends is above 2^53: whoever holds a decoded frame may count with what it says.

mod common;

use bytes::Bytes;
use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{ClientFrame, FrameError, Request, ServerBody, ServerFrame};
use posthorn_proto::limits::MOST_SEQ;

/// Puts a number into one field of a frame.
type Put<F> = fn(&mut F, u64);

/// Each 64-bit field that a client sends: message and field of the schema, the golden frame that has it.
fn asked() -> Vec<(&'static str, &'static str, Put<ClientFrame>)> {
    vec![
        ("Create.quota", "create", |frame, number| {
            let Request::Create(create) = &mut frame.body else { panic!("not a create") };
            create.quota = number;
        }),
        ("Ack.seq", "ack", |frame, number| {
            let Request::Ack(ack) = &mut frame.body else { panic!("not an ack") };
            ack.seq = number;
        }),
        ("PublishCard.version", "publish_card", |frame, number| {
            let Request::PublishCard(publish) = &mut frame.body else { panic!("not a card") };
            publish.version = number;
        }),
    ]
}

/// Each 64-bit field that a relay sends.
fn told() -> Vec<(&'static str, &'static str, Put<ServerFrame>)> {
    fn state(frame: &mut ServerFrame) -> &mut posthorn_proto::frame::OpenState {
        let ServerBody::Opened(results) = &mut frame.body else { panic!("not opened") };
        results[0].result.as_mut().expect("the first result is a state")
    }
    vec![
        ("Hello.time", "hello", |frame, number| {
            let ServerBody::Hello(hello) = &mut frame.body else { panic!("not a hello") };
            hello.time = number;
        }),
        ("Limits.mailbox_bytes", "hello", |frame, number| {
            let ServerBody::Hello(hello) = &mut frame.body else { panic!("not a hello") };
            hello.limits.mailbox_bytes = number;
        }),
        ("Error.time", "error", |frame, number| {
            let ServerBody::Error(refusal) = &mut frame.body else { panic!("not an error") };
            refusal.time = number;
        }),
        ("Limits.blob_bytes", "hello", |frame, number| {
            let ServerBody::Hello(hello) = &mut frame.body else { panic!("not a hello") };
            hello.limits.blob_bytes = number;
        }),
        ("Posted.seq", "posted", |frame, number| {
            let ServerBody::Posted { seq } = &mut frame.body else { panic!("not posted") };
            *seq = number;
        }),
        ("OpenResult.head", "opened", |frame, number| state(frame).head = number),
        ("OpenResult.oldest", "opened", |frame, number| state(frame).oldest = number),
        ("OpenResult.cursor", "opened", |frame, number| state(frame).cursor = number),
        ("Delivery.seq", "delivery", |frame, number| {
            let ServerBody::Delivery(delivery) = &mut frame.body else { panic!("not a delivery") };
            delivery.seq = number;
        }),
        ("Lost.seq", "lost", |frame, number| {
            let ServerBody::Lost { seq, .. } = &mut frame.body else { panic!("not a loss") };
            *seq = number;
        }),
        ("KeyPackageStock.last_resort_since", "key_package_stock", |frame, number| {
            let ServerBody::KeyPackageStock { last_resort_since, .. } = &mut frame.body else {
                panic!("not a stock")
            };
            *last_resort_since = number;
        }),
        ("Card.version", "card", |frame, number| {
            let ServerBody::Card(card) = &mut frame.body else { panic!("not a card") };
            card.version = number;
        }),
    ]
}

/// Checks each field: the bound itself is taken, what is above it is not.
fn check<F: Clone + PartialEq + std::fmt::Debug>(
    fields: Vec<(&'static str, &'static str, Put<F>)>,
    frames: Vec<(&'static str, F)>,
    encode: fn(&F) -> Bytes,
    decode: fn(Bytes) -> Result<F, FrameError>,
) {
    for (field, name, put) in fields {
        let mut frame = frames.iter().find(|(known, _)| *known == name).expect(name).1.clone();
        put(&mut frame, MOST_SEQ);
        assert_eq!(decode(encode(&frame)), Ok(frame.clone()), "{field} = 2^53");
        for number in [MOST_SEQ + 1, i64::MAX as u64 + 1, u64::MAX] {
            put(&mut frame, number);
            let error = decode(encode(&frame)).expect_err(field);
            let name = field.split_once('.').expect("message and field").1;
            assert_eq!(error.to_string(), format!("{name} is out of range"), "{field} = {number}");
            assert_eq!(error.code(), ErrorCode::BadRequest, "{field} = {number}");
        }
    }
}

#[test]
fn numbers_above_the_bound_are_refused() {
    check(asked(), common::client_frames(), ClientFrame::encode, ClientFrame::decode);
    check(told(), common::server_frames(), ServerFrame::encode, ServerFrame::decode);
}

#[test]
fn an_envelope_has_no_seq_zero() {
    let fields = ["Posted.seq", "Delivery.seq", "Lost.seq"];
    for (_, name, put) in told().into_iter().filter(|(field, ..)| fields.contains(field)) {
        let mut frame = common::server_frames().into_iter().find(|(known, _)| *known == name).expect(name).1;
        put(&mut frame, 0);
        assert!(matches!(ServerFrame::decode(frame.encode()), Err(FrameError::BadField { .. })), "{name}");
    }
}

/// A number that is added to the schema has to be checked, and to stand in the tables above.
#[test]
fn no_number_of_the_schema_is_missing_here() {
    let known: Vec<_> = asked().iter().map(|(field, ..)| *field).chain(told().iter().map(|f| f.0)).collect();
    let mut message = "";
    let mut found = 0;
    for line in include_str!("../schema/posthorn.proto").lines() {
        if let Some(name) = line.strip_prefix("message ") {
            message = name.split([' ', '{']).next().expect("a name");
        }
        let words: Vec<_> = line.split_whitespace().take_while(|word| !word.starts_with("//")).collect();
        let Some(at) = words.iter().position(|word| ["uint64", "int64", "fixed64", "sint64"].contains(word))
        else {
            continue;
        };
        let field = format!("{message}.{}", words[at + 1]);
        if !["ClientFrame.request", "ServerFrame.request"].contains(&field.as_str()) {
            assert!(known.contains(&field.as_str()), "{field} is not checked");
            found += 1;
        }
    }
    assert_eq!(found, known.len(), "a field in the tables is not in the schema");
}
