//! Two clients of one relay, saying anything: see `posthorn_server::gateway::fuzzing`. The corpus is replayed
//! by the server's unit tests.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| posthorn_server::gateway::fuzzing::session(input));
