//! The bytes of every frame, checked in: what is on the wire never changes by accident.
//!
//! golden.txt has one line per frame: direction, name, hex. After a deliberate change (which old peers must
//! survive) write it anew with `POSTHORN_GOLDEN=write cargo test -p posthorn-proto --test golden` and read
//! the difference.

mod common;

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use posthorn_proto::frame::{ClientFrame, FrameError, ServerFrame};

const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn frames_have_their_golden_bytes() {
    let mut now = String::new();
    for (name, frame) in common::client_frames() {
        writeln!(now, "client {name} {}", HEXLOWER.encode(&frame.encode())).expect("written");
    }
    for (name, frame) in common::server_frames() {
        writeln!(now, "server {name} {}", HEXLOWER.encode(&frame.encode())).expect("written");
    }
    if std::env::var_os("POSTHORN_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt"), &now).expect("written");
        return;
    }
    for (expected, got) in GOLDEN.lines().zip(now.lines()) {
        assert_eq!(expected, got);
    }
    assert_eq!(GOLDEN.lines().count(), now.lines().count(), "a frame has no golden bytes");
}

#[test]
fn golden_bytes_are_read_as_what_they_are() {
    let bytes = |direction: &str, name: &str| -> bytes::Bytes {
        let start = format!("{direction} {name} ");
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(start.as_str()));
        HEXLOWER.decode(line.expect(name).as_bytes()).expect("hex").into()
    };
    for (name, frame) in common::client_frames() {
        assert_eq!(ClientFrame::decode(bytes("client", name)), Ok(frame), "{name}");
    }
    for (name, frame) in common::server_frames() {
        assert_eq!(ServerFrame::decode(bytes("server", name)), Ok(frame), "{name}");
    }
}

#[test]
fn every_kind_of_body_has_golden_bytes() {
    // Field numbers of the two oneofs, from the schema: a new body without golden bytes fails here.
    let schema = include_str!("../schema/posthorn.proto");
    for (message, frames) in [
        (
            "message ClientFrame",
            common::client_frames().into_iter().map(|(_, f)| f.encode()).collect::<Vec<_>>(),
        ),
        ("message ServerFrame", common::server_frames().into_iter().map(|(_, f)| f.encode()).collect()),
    ] {
        let oneof = schema
            .split_once(message)
            .and_then(|(_, rest)| rest.split_once("oneof body {"))
            .expect(message)
            .1;
        let oneof = oneof.split_once('}').expect("the oneof ends").0;
        let fields = oneof.lines().filter_map(|line| line.split("//").next()?.trim().strip_suffix(';'));
        let numbers: Vec<u32> =
            fields.map(|f| f.rsplit_once("= ").expect("field").1.parse().expect("number")).collect();
        assert!(numbers.len() > 10);
        for number in numbers {
            let seen = frames.iter().any(|bytes| body_number(bytes) == number);
            assert!(seen, "{message}: no golden frame has body {number}");
        }
    }
}

/// The field number of the last length-delimited top-level field: the body follows the request number.
fn body_number(frame: &[u8]) -> u32 {
    let (tag, rest) = varint(frame);
    if tag & 7 == 0 { varint(varint(rest).1).0 as u32 >> 3 } else { tag as u32 >> 3 }
}

fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a varint ends");
    let value = bytes[..=end].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, &bytes[end + 1..])
}

#[test]
fn what_is_wrong_is_told_apart() {
    let decode = |hex: &str| ClientFrame::decode(HEXLOWER.decode(hex.as_bytes()).expect("hex").into());
    // A frame that stops in the middle of a field.
    assert!(matches!(decode("0807520a0a"), Err(FrameError::Malformed(_))));
    // Request 7 without a body, and with a body from the future (field 99).
    assert_eq!(decode("0807"), Err(FrameError::UnknownBody { request: 7 }));
    assert_eq!(decode("08079a0600"), Err(FrameError::UnknownBody { request: 7 }));
    // A ping without a number.
    assert_eq!(decode("8a0100"), Err(FrameError::NumberMissing));
    // Close of a mailbox with a 3-byte name.
    assert!(matches!(decode("08077a050a03010203"), Err(FrameError::BadField { request: 7, .. })));
    // A ping with an unknown field is still a ping.
    assert!(decode("08078a0104f83f0102").is_ok() || decode("08078a0103f83f01").is_ok());
}
