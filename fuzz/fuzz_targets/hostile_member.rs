//! A member and inviter who says anything at all, inside of the encryption: see
//! `client-lib/src/engine/tests/hostile.rs`. The corpus is replayed by the client library's unit tests.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| posthorn_client::engine::hostile_member(input));
