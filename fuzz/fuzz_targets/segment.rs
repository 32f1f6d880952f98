//! Arbitrary bytes as a segment of the journal: see `posthorn_server::store::fuzzing`. The corpus is replayed
//! by the server's unit tests.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    posthorn_server::store::fuzzing::segment(input);
});
