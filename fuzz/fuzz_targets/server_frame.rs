//! Arbitrary bytes as a server's frame: no panic, and what is understood can be said again. The same property
//! runs on the corpus in proto/tests/corpus.rs.
#![no_main]

use bytes::Bytes;
use posthorn_proto::frame::ServerFrame;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(frame) = ServerFrame::decode(Bytes::copy_from_slice(input)) {
        assert_eq!(ServerFrame::decode(frame.encode()), Ok(frame));
    }
});
