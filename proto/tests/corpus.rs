//! The fuzz corpora of the frame decoders, replayed: what was found once is not lost again.

use std::path::Path;

use bytes::Bytes;
use posthorn_proto::frame::{ClientFrame, ServerFrame};

fn inputs(target: &str) -> Vec<Bytes> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is checked in");
    let inputs: Vec<Bytes> =
        entries.map(|entry| std::fs::read(entry.expect("entry").path()).expect("readable").into()).collect();
    assert!(inputs.len() >= 15, "{} has only {} inputs", folder.display(), inputs.len());
    inputs
}

#[test]
fn client_frames() {
    let understood = inputs("client_frame").into_iter().filter_map(|input| ClientFrame::decode(input).ok());
    let count = understood.map(|frame| assert_eq!(ClientFrame::decode(frame.encode()), Ok(frame))).count();
    assert!(count >= 10, "the corpus has frames that decode");
}

#[test]
fn server_frames() {
    let understood = inputs("server_frame").into_iter().filter_map(|input| ServerFrame::decode(input).ok());
    let count = understood.map(|frame| assert_eq!(ServerFrame::decode(frame.encode()), Ok(frame))).count();
    assert!(count >= 10, "the corpus has frames that decode");
}
